import type { Socket } from 'node:net';
import { connect } from 'node:net';
import type { Clock, Timer } from '../../common/index.ts';
import { CodedError, systemClock } from '../../common/index.ts';
import type { LinkDevice, LinkOffload, LinkReceiver } from './link-device.ts';
import { VNET_HDR_LEN } from './link-device.ts';
import { PortRing, ringsUsable } from './port-ring.ts';
import { ETHERNET_HEADER_LEN, FrameParser, FrameWriter, MAX_PACKET_LEN } from './stream-framing.ts';

/** Codes: `timeout` (no connection in time), `closed`. */
export class StreamLinkError extends CodedError {}

export interface StreamLinkOptions {
  /** Unix socket of the port. */
  readonly path: string;
  readonly name?: string;
  /** Largest IP packet, default 1500. */
  readonly mtu?: number;
  /** Both sides carry the virtio-net header, default true. Without it there is no offload. */
  readonly vnetHeader?: boolean;
  /** Asks the other side for rings in shared memory, which carry packets faster. Default false. Needs `vnetHeader`. */
  readonly rings?: boolean;
  /** Pause before the first further try and the longest one, defaults 5 and 500 ms; it doubles in between. */
  readonly retryMs?: number;
  readonly retryMaxMs?: number;
  readonly clock?: Clock;
  /** Told about every connection and loss of it; `reason` says why it was lost. */
  readonly onState?: (connected: boolean, reason?: string) => void;
}

export interface StreamLinkCounters {
  received: number;
  transmitted: number;
  connections: number;
  /** Packets given to `transmit` while there was no connection. */
  droppedDisconnected: number;
  /** Packets longer than the link carries, in either direction. */
  droppedOversize: number;
  /** Connections given up because the other side sent something that is no frame. */
  faults: number;
}

const RECEIVE_BUFFER_BYTES = 256 * 1024;
/** Who has not answered by then has no rings. */
const ANSWER_MS = 1_000;
/** Questions without an answer, after which the next connection begins with frames. */
const REFUSALS = 2;
/** Of rings: bytes and packets that are one batch, and batches before others of the event loop get their turn. */
const BATCH_BYTES = 256 * 1024;
const BATCH_PACKETS = 256;
const BATCHES = 4;

/**
 * The partition's end of a port: frames on a unix socket (stream-framing.ts), or, where both sides want them, rings in shared
 * memory (tap-tun/src/ring.ts). It connects by itself, and again with growing pauses when the other side goes away; packets
 * sent meanwhile are dropped and counted, as on an unplugged cable.
 *
 * With `rings` every connection begins with the question, and is not connected until it is answered, by the memory or by the
 * first frame. In rings packets are received where they are: the mux is trusted, and does not write there again before it is told.
 */
export class StreamLink implements LinkDevice {
  readonly name: string;
  readonly mtu: number;
  readonly offload: LinkOffload;
  readonly counters: StreamLinkCounters = {
    received: 0,
    transmitted: 0,
    connections: 0,
    droppedDisconnected: 0,
    droppedOversize: 0,
    faults: 0,
  };

  readonly #options: StreamLinkOptions;
  readonly #clock: Clock;
  readonly #retryMs: number;
  readonly #retryMaxMs: number;
  readonly #parser: FrameParser;
  readonly #writer: FrameWriter;
  readonly #rings: boolean;
  readonly #waiting = new Set<(error?: Error) => void>();
  #receiver: LinkReceiver | undefined;
  #socket: Socket | undefined;
  #connected = false;
  #closed = false;
  #pauseMs: number;
  #retry: Timer | undefined;
  #lastReason = 'not tried yet';
  #question: { cancel(): void } | undefined;
  #refusals = 0;
  #ring: PortRing | undefined;
  /** A packet did not fit into the ring. */
  #refused = false;
  #index: Uint32Array | undefined;
  /** What is left in the ring is received in the loop's next turn. */
  #later = false;

  constructor(options: StreamLinkOptions) {
    const vnetHeader = options.vnetHeader ?? true;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#retryMs = options.retryMs ?? 5;
    this.#retryMaxMs = options.retryMaxMs ?? 500;
    this.#pauseMs = this.#retryMs;
    this.#rings = options.rings === true && vnetHeader && ringsUsable();
    this.name = options.name ?? options.path;
    this.mtu = options.mtu ?? 1500;
    this.offload = {
      checksum: vnetHeader,
      tcp4Segmentation: vnetHeader,
      tcp6Segmentation: vnetHeader,
      maxPacket: vnetHeader ? MAX_PACKET_LEN : VNET_HDR_LEN + ETHERNET_HEADER_LEN + 4 + this.mtu,
    };
    this.#parser = new FrameParser(vnetHeader, this.offload.maxPacket, (buffer, offset, length) => {
      this.counters.received++;
      this.#receiver?.receive(buffer, offset, length);
    });
    this.#writer = new FrameWriter(
      { vnetHeader },
      (chunk, done) => {
        if (this.#socket === undefined) done();
        else this.#socket.write(chunk, done);
      },
      () => this.#receiver?.writable(),
    );
    this.#connect();
  }

  get connected(): boolean {
    return this.#connected;
  }

  /** Undefined while there is no connection. */
  get carrier(): 'stream' | 'ring' | undefined {
    if (!this.#connected) return undefined;
    return this.#ring === undefined ? 'stream' : 'ring';
  }

  /** Resolves when there is a connection. Throws `timeout`, `closed`. */
  ready(timeoutMs = 5_000): Promise<void> {
    if (this.#connected) return Promise.resolve();
    if (this.#closed) return Promise.reject(new StreamLinkError('closed', `link ${this.name} is closed`));
    return new Promise((resolve, reject) => {
      const settle = (error?: Error) => {
        timer.cancel();
        this.#waiting.delete(settle);
        if (error === undefined) resolve();
        else reject(error);
      };
      const timer = this.#clock.after(timeoutMs, () =>
        settle(
          new StreamLinkError(
            'timeout',
            `no connection to port socket ${this.#options.path} within ${timeoutMs} ms: ${this.#lastReason}`,
            { values: { path: this.#options.path, timeoutMs } },
          ),
        ),
      );
      this.#waiting.add(settle);
    });
  }

  attach(receiver: LinkReceiver): void {
    this.#receiver = receiver;
  }

  transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    if (length > this.offload.maxPacket || length < VNET_HDR_LEN + ETHERNET_HEADER_LEN) {
      this.counters.droppedOversize++;
      return true;
    }
    if (!this.#connected) {
      this.counters.droppedDisconnected++;
      return true;
    }
    if (this.#ring === undefined) {
      if (!this.#writer.put(buffer, offset, length)) return false;
    } else if (!this.#ring.put(buffer, offset, length)) {
      this.#refused = true;
      return false;
    }
    this.counters.transmitted++;
    return true;
  }

  flush(): void {
    if (!this.#connected) return;
    if (this.#ring === undefined) this.#writer.flush();
    else this.#ring.flush();
  }

  close(): void {
    if (this.#closed) return;
    this.flush();
    this.#closed = true;
    this.#retry?.cancel();
    this.#socket?.end();
    this.#lost('closed');
    for (const settle of [...this.#waiting])
      settle(new StreamLinkError('closed', `link ${this.name} is closed`));
  }

  #connect(): void {
    const socket = connect({
      path: this.#options.path,
      onread: {
        buffer: Buffer.allocUnsafeSlow(RECEIVE_BUFFER_BYTES),
        callback: (size: number, buffer: Uint8Array) => {
          this.#receive(socket, buffer, size);
          return true;
        },
      },
    });
    this.#socket = socket;
    const asks = this.#rings && this.#refusals < REFUSALS;
    if (asks) socket.pause();
    socket.on('connect', () => {
      if (this.#socket !== socket) return;
      if (asks) this.#ask(socket);
      else {
        this.#refusals = 0;
        this.#settle();
      }
    });
    socket.on('error', (error) => {
      this.#lastReason = error.message;
    });
    socket.on('end', () => {
      this.#lastReason = 'the other side ended the connection';
    });
    socket.on('close', () => {
      if (this.#socket === socket) this.#lost(this.#lastReason);
    });
  }

  /** Nothing is read from the socket before it is clear what it carries. */
  #ask(socket: Socket): void {
    const stream = () => {
      this.#settle();
      socket.resume();
    };
    // On a connection of its own: the answer may still come on this one, and then means rings.
    const timer = this.#clock.after(ANSWER_MS, () => {
      this.#forgetQuestion();
      this.#refusals = REFUSALS;
      this.#lastReason = 'the question for rings was not answered';
      socket.destroy();
    });
    try {
      const question = PortRing.ask(descriptorOf(socket), this.offload.maxPacket, (answer, ring) => {
        timer.cancel();
        this.#question = undefined;
        if (answer === 'stream') stream();
        else if (ring === undefined) {
          this.#refusals++;
          this.#lastReason = 'the other side ended the connection';
          socket.destroy();
        } else this.#join(socket, ring);
      });
      this.#question = {
        cancel: () => {
          timer.cancel();
          question.cancel();
        },
      };
    } catch (error) {
      this.#lastReason = (error as Error).message;
      timer.cancel();
      socket.destroy();
    }
  }

  #forgetQuestion(): void {
    this.#question?.cancel();
    this.#question = undefined;
  }

  /** The rings have a duplicate of the socket, which says when the other side ends. */
  #join(socket: Socket, ring: PortRing): void {
    this.#ring = ring;
    this.#socket = undefined;
    this.#refused = false;
    this.#refusals = 0;
    socket.destroy();
    ring.onBell = () => void this.#take();
    ring.onEnd = () => {
      while (this.#take());
      if (this.#ring === ring) this.#lost('the other side ended the connection');
    };
    this.#settle();
    this.#take();
  }

  #settle(): void {
    this.#connected = true;
    this.#pauseMs = this.#retryMs;
    this.counters.connections++;
    this.#options.onState?.(true);
    for (const settle of [...this.#waiting]) settle();
    this.#receiver?.writable();
  }

  /** Receives what the ring has, within bounds; tells whether there may be more. */
  #take(): boolean {
    const ring = this.#ring;
    if (ring === undefined) return false;
    if (this.#refused) this.#room(ring);
    this.#index ??= new Uint32Array(2 * BATCH_PACKETS);
    for (let batch = 0; batch < BATCHES; batch++) {
      const count = ring.look(this.#index, BATCH_BYTES);
      this.counters.droppedOversize += ring.oversize;
      ring.oversize = 0;
      if (typeof count !== 'number' || ring.broken) {
        this.counters.faults++;
        this.#lost(typeof count === 'number' ? 'ring-index' : count);
        return false;
      }
      if (count === 0) return false;
      this.counters.received += count;
      const { received } = ring;
      for (let i = 0; i < count && !ring.closed; i++) {
        this.#receiver?.receive(received, this.#index[2 * i]!, this.#index[2 * i + 1]!);
      }
      ring.giveBack();
      this.#receiver?.endOfBatch();
      if (ring.closed) return false;
    }
    if (!this.#later) {
      this.#later = true;
      setImmediate(() => {
        this.#later = false;
        this.#take();
      });
    }
    return true;
  }

  #room(ring: PortRing): void {
    ring.refresh();
    if (2 * ring.queuedBytes > ring.bytes) return;
    this.#refused = false;
    this.#receiver?.writable();
  }

  #receive(socket: Socket, buffer: Uint8Array, size: number): void {
    if (this.#socket !== socket || this.#closed) return;
    const fault = this.#parser.push(buffer, 0, size);
    this.counters.droppedOversize += this.#parser.oversize;
    this.#parser.oversize = 0;
    this.#receiver?.endOfBatch();
    if (fault !== undefined && this.#socket === socket) {
      this.counters.faults++;
      this.#lastReason = fault;
      socket.destroy();
    }
  }

  #lost(reason: string): void {
    const was = this.#connected;
    this.#forgetQuestion();
    this.#ring?.close();
    this.#ring = undefined;
    this.#socket = undefined;
    this.#connected = false;
    this.#parser.reset();
    this.#writer.reset();
    if (was) this.#options.onState?.(false, reason);
    if (this.#closed) return;
    this.#retry = this.#clock.after(this.#pauseMs, () => this.#connect());
    this.#pauseMs = Math.min(this.#pauseMs * 2, this.#retryMaxMs);
  }
}

/** The number of a connected socket's descriptor, by the handle that Node's own modules use, too. */
function descriptorOf(socket: Socket): number {
  return (socket as unknown as { readonly _handle?: { readonly fd?: number } })._handle?.fd ?? -1;
}
