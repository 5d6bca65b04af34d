/**
 * Packets between two processes through shared memory: one end of two rings, one for each direction (src/native/ring/ring.h has
 * the layout). The ends find each other by a connected unix socket, over which the partition's end asks and the other one, which
 * makes the memory, answers. From then on the socket carries nothing but bells, and its end says that the other process is gone.
 *
 * Sending: `put` writes into the ring, `flush` makes it visible and wakes the other end if that sleeps. Receiving: `onBell` says
 * that something has come; `read` takes it out, as copies that the other side cannot change any more, or `look` shows it where
 * it is, until `giveBack`. A result of 0 is the promise of a bell; who stops before has to come back by himself.
 *
 * Nothing of this waits, allocates, or trusts an index or a length that the other side wrote: what is impossible is a fault, after
 * which the end is to be closed. Only `look` leaves the packets' bytes where the other side may still change them.
 */
import { fileURLToPath } from 'node:url';
import { TapError, translating } from './errors.ts';

/** Bytes that `ask` sends and `offer` answers with. A stream of frames never begins with them otherwise. */
export const RING_HELLO: Uint8Array = Uint8Array.from([
  ...[0, 0, 0, 40, 0, 0, 0, 10],
  ...new Array<number>(22).fill(0),
  ...[0x88, 0xb6],
  ...Buffer.from('changeover ring\0'),
]);

/** enum ring_fault of src/native/ring/ring.h, from -1 on. */
export const RING_FAULTS = ['ring-index', 'frame-too-short', 'frame-too-long', 'frame-cut-off'] as const;
export type RingFault = (typeof RING_FAULTS)[number];

export interface RingOptions {
  /** Of each direction, a power of two from 256 KiB to 64 MiB. Default 2 MiB. */
  readonly bytes?: number;
  /** Longest packet; what is longer is stepped over. */
  readonly longest: number;
}

/** `joined`: here is the ring. `stream`: the other side sends frames; nothing of them was read. `ended`: it is gone. */
export type RingAnswer = 'joined' | 'stream' | 'ended';

type NativeEnd = { readonly __native: 'end of a ring' };

interface Native {
  offer(socket: number, bytes: number, callback: (told: number) => void): NativeEnd;
  ask(socket: number, callback: (told: number) => void): NativeEnd;
  start(end: NativeEnd): void;
  close(end: NativeEnd): void;
  memory(end: NativeEnd, sent: boolean): ArrayBuffer;
  read(end: NativeEnd, buffer: Uint8Array, index: Uint32Array, longest: number, state: Uint32Array): number;
  look(end: NativeEnd, index: Uint32Array, bytes: number, longest: number, state: Uint32Array): number;
  waiting(end: NativeEnd): number;
  giveBack(end: NativeEnd): void;
  publish(end: NativeEnd, head: number): number;
  wantRoom(end: NativeEnd): number;
}

/** enum told of src/native/ring/addon.c. */
const TOLD = { rung: 1, ended: 2, joined: 4, stream: 8 } as const;
const DEFAULT_BYTES = 2 * 1024 * 1024;
const RECORD_HEADER = 8;
/** Up to here a loop copies faster than a call. */
const SHORT_COPY = 96;
/** What was put is made visible at the latest when it is so much, so that the other process works meanwhile. */
const PUBLISH_BYTES = 128 * 1024;

let loaded: Native | undefined;

/** Whether the addon is there; loads it. A process that will not let addons in afterwards calls it before. */
export function ringsUsable(): boolean {
  try {
    native();
    return true;
  } catch {
    return false;
  }
}

/** Past the module cache, where everybody would find the addon. */
function native(): Native {
  if (loaded !== undefined) return loaded;
  const path = fileURLToPath(new URL('../build/ring.node', import.meta.url));
  const module = { exports: {} };
  try {
    process.dlopen(module, path);
  } catch (cause) {
    throw new TapError('NOT_LOADABLE', `the addon ${path} cannot be loaded`, {
      remedy: "build it with tap-tun/build.sh ('make build' does); it needs a C compiler",
      values: { path },
      cause,
    });
  }
  loaded = module.exports as Native;
  return loaded;
}

export class Ring implements Disposable {
  /** Bytes of a direction. */
  readonly bytes: number;
  /** There may be something to read, or room again. */
  onBell: (() => void) | undefined;
  /** The other end is gone; what it sent before can still be read. */
  onEnd: (() => void) | undefined;
  /** Packets that were stepped over because they are too long. */
  oversize = 0;

  readonly #native: Native;
  readonly #end: NativeEnd;
  readonly #longest: number;
  readonly #state = new Uint32Array(1);
  readonly #sent: Uint8Array;
  readonly #lengths: Uint32Array;
  #received: Uint8Array | undefined;
  /** Where the next packet goes; what is before #published may be read by the other end, what is before #tail was. */
  #head = 0;
  #published = 0;
  #tail = 0;
  #fault = false;
  #closed = false;

  private constructor(native: Native, end: NativeEnd, longest: number) {
    this.#native = native;
    this.#end = end;
    this.#longest = longest;
    const memory = native.memory(end, true);
    this.#sent = new Uint8Array(memory);
    this.#lengths = new Uint32Array(memory);
    this.bytes = memory.byteLength / 2;
  }

  /**
   * Makes the rings and offers them to who asked on this socket (a descriptor; a duplicate of it is used, so the caller closes
   * his own). Throws TapError with the errno's name.
   */
  static offer(socket: number, options: RingOptions): Ring {
    const { bytes = DEFAULT_BYTES, longest } = options;
    let ring: Ring | undefined;
    return translating('a ring', () => {
      const from = native();
      const end = from.offer(socket, bytes, (told) => {
        if (ring !== undefined) ring.#told(told);
      });
      ring = new Ring(from, end, longest);
      from.start(end);
      return ring;
    });
  }

  /**
   * Asks the other side of this socket for rings; nothing else may have been sent on it. `onAnswer` is called once, unless the
   * question is taken back before. Throws TapError with the errno's name.
   */
  static ask(
    socket: number,
    longest: number,
    onAnswer: (answer: RingAnswer, ring?: Ring) => void,
  ): { cancel(): void } {
    let ring: Ring | undefined;
    return translating('a ring', () => {
      const from = native();
      const end = from.ask(socket, (told) => {
        if (ring !== undefined) {
          ring.#told(told);
          return;
        }
        if (told === TOLD.joined) {
          ring = new Ring(from, end, longest);
          onAnswer('joined', ring);
          return;
        }
        from.close(end);
        onAnswer(told === TOLD.stream ? 'stream' : 'ended');
      });
      from.start(end);
      return { cancel: () => from.close(end) };
    });
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Bytes that wait for the other end, as far as it was last looked. */
  get queuedBytes(): number {
    return (this.#head - this.#tail) >>> 0;
  }

  /** The other end has written what cannot be. */
  get broken(): boolean {
    return this.#fault;
  }

  /** Writes one packet; false: there is no room, a bell will come when half of the ring is free. */
  put(buffer: Uint8Array, offset: number, length: number): boolean {
    const bytes = (RECORD_HEADER + length + 7) & ~7;
    if (this.queuedBytes + bytes > this.bytes && !this.#makeRoom(bytes)) return false;
    const at = this.#head & (this.bytes - 1);
    this.#lengths[at >>> 2] = length;
    const body = at + RECORD_HEADER;
    if (length <= SHORT_COPY) for (let i = 0; i < length; i++) this.#sent[body + i] = buffer[offset + i]!;
    else Buffer.prototype.copy.call(buffer, this.#sent, body, offset, offset + length);
    this.#head = (this.#head + bytes) >>> 0;
    if ((this.#head - this.#published) >>> 0 >= PUBLISH_BYTES) this.flush();
    return true;
  }

  /** Makes what was put visible. */
  flush(): void {
    if (this.#closed || this.#head === this.#published) return;
    this.#published = this.#head;
    this.#seen(this.#native.publish(this.#end, this.#head));
  }

  /** Looks how much of it the other end has taken. */
  refresh(): void {
    if (!this.#closed) this.#seen(this.#native.publish(this.#end, this.#published));
  }

  /** Copies packets, their offsets and lengths as pairs; how many, or a fault. */
  read(buffer: Uint8Array, index: Uint32Array): number | RingFault {
    if (this.#closed) return 0;
    return this.#taken(this.#native.read(this.#end, buffer, index, this.#longest, this.#state));
  }

  /** Shows packets in `received`, at most so many bytes and one packet. */
  look(index: Uint32Array, bytes: number): number | RingFault {
    if (this.#closed) return 0;
    return this.#taken(this.#native.look(this.#end, index, bytes, this.#longest, this.#state));
  }

  /** Whether there is something to read, be it a fault; if not, a bell will come. */
  get waiting(): boolean {
    return !this.#closed && this.#native.waiting(this.#end) !== 0;
  }

  /** Where `look` shows packets. */
  get received(): Uint8Array {
    this.#received ??= new Uint8Array(this.#native.memory(this.#end, false));
    return this.#received;
  }

  /** What was looked at may be overwritten. */
  giveBack(): void {
    if (!this.#closed) this.#native.giveBack(this.#end);
  }

  /** Idempotent. What was flushed the other end can still read. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#native.close(this.#end);
    this.#received = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #makeRoom(bytes: number): boolean {
    if (this.#closed) return false;
    this.flush();
    if (this.queuedBytes + bytes <= this.bytes) return true;
    this.#seen(this.#native.wantRoom(this.#end));
    return this.queuedBytes + bytes <= this.bytes && !this.#fault;
  }

  #seen(tail: number): void {
    if (tail < 0) this.#fault = true;
    else this.#tail = tail;
  }

  #taken(count: number): number | RingFault {
    this.oversize += this.#state[0]!;
    return count >= 0 ? count : RING_FAULTS[-count - 1]!;
  }

  #told(told: number): void {
    if (this.#closed) return;
    if (told === TOLD.ended) this.onEnd?.();
    else this.onBell?.();
  }
}
