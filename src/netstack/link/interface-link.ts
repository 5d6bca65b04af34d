/**
 * A kernel interface as a link: its packet unit is the interface's own (vnet header, frame), so nothing is converted.
 *
 * Receiving: one batch of the addon's is one batch of the receiver's, ended by `endOfBatch`. With offload the kernel hands
 * over packets up to 64 KiB whose checksums and segments are still to be made; without, every frame is complete.
 *
 * Transmitting: small packets are copied into a queue that `flush` hands to the kernel in one call; large ones, for which
 * a copy costs more than a call, go directly, behind whatever is queued. What the kernel has no room for stays in the
 * queue; when that is full, `transmit` returns false, and `writable` follows when the queue has been taken.
 */
import { type InterfaceDevice, type ShortcutTerms, TapError } from 'tap-tun';
import { CodedError } from '../../common/index.ts';
import type {
  LinkDevice,
  LinkOffload,
  LinkReceiver,
  ShortcutCounters,
  ShortcutDevice,
} from './link-device.ts';
import { VNET_HDR_LEN } from './link-device.ts';

/** Codes are those of tap-tun: 'EPERM', 'EBUSY', 'ENOENT', 'NOT_BUILT' …; `cause` is its error. */
export class TapLinkError extends CodedError {}

export interface TapLinkCounters {
  received: number;
  transmitted: number;
  /** Too short for a frame or longer than the link takes. */
  droppedSize: number;
  /** Refused by the kernel as malformed. */
  droppedRejected: number;
  /** The interface was down or the kernel out of memory. */
  droppedKernel: number;
  /** Given to transmit after the interface was gone or the link closed. */
  droppedGone: number;
  /** Times `transmit` returned false. */
  refused: number;
}

const ETHERNET_HEADER_BYTES = 14;
const TAG_BYTES = 4;
/** Vnet header, Ethernet header with a tag, 65 535 bytes of IP. */
const MAX_PACKET_BYTES = VNET_HDR_LEN + ETHERNET_HEADER_BYTES + TAG_BYTES + 65_535;
const QUEUE_BYTES = 512 * 1024;
const QUEUE_FRAMES = 1024;
/** From here on a packet is written directly. */
const DIRECT_BYTES = 8 * 1024;

/** An error of tap-tun as one of ours. */
export function linkError(error: unknown): unknown {
  if (!(error instanceof TapError)) return error;
  return new TapLinkError(error.code, error.message, {
    ...(error.remedy === undefined ? {} : { remedy: error.remedy }),
    values: error.values,
    cause: error,
  });
}

export interface InterfaceLinkOptions<D extends InterfaceDevice> {
  readonly device: D;
  readonly mtu: number;
  /** What it takes unfinished: `large`, packets up to 64 KiB in either direction. */
  readonly checksum: boolean;
  readonly tcp4Segmentation: boolean;
  readonly tcp6Segmentation: boolean;
  /** The kernel cuts UDP trains that other devices make of datagrams for this one (`ShortcutTerms.uso`). */
  readonly udpTrains: boolean;
  readonly large: boolean;
  /** Told once when the interface is gone (deleted from outside); transmitted packets are dropped from then on. */
  readonly onGone?: ((error: TapLinkError) => void) | undefined;
}

export class InterfaceLink<D extends InterfaceDevice = InterfaceDevice> implements ShortcutDevice {
  /** The interface itself: index, MAC, MTU, queue length, up and down. */
  readonly device: D;
  readonly name: string;
  readonly mtu: number;
  readonly offload: LinkOffload;

  /** What others may pass to this link without looking at it. */
  readonly #terms: ShortcutTerms;
  readonly #onGone: ((error: TapLinkError) => void) | undefined;
  readonly #queue = new Uint8Array(QUEUE_BYTES);
  /** Offset and length of each queued packet. */
  readonly #index = new Uint32Array(2 * QUEUE_FRAMES);
  /** Packets [#first, #count) of the index are queued; their bytes end at #used. */
  #first = 0;
  #count = 0;
  #used = 0;
  /** The kernel had no room; it will say when it has. */
  #waiting = false;
  /** A transmit was refused, so the receiver is owed a `writable`. */
  #owed = false;
  #gone = false;
  #receiver: LinkReceiver | undefined;
  #droppedSize = 0;
  #droppedGone = 0;
  #refused = 0;

  /** Takes the device over. */
  constructor(options: InterfaceLinkOptions<D>) {
    const { device, mtu, checksum, tcp4Segmentation, tcp6Segmentation, udpTrains, large } = options;
    this.device = device;
    this.name = device.name;
    this.mtu = mtu;
    this.#onGone = options.onGone;
    const maxPacket = large ? MAX_PACKET_BYTES : VNET_HDR_LEN + ETHERNET_HEADER_BYTES + TAG_BYTES + mtu;
    this.offload = { checksum, tcp4Segmentation, tcp6Segmentation, maxPacket };
    const longest = mtu + ETHERNET_HEADER_BYTES + TAG_BYTES;
    this.#terms = { longest, checksum, tso4: tcp4Segmentation, tso6: tcp6Segmentation, uso: udpTrains };
    this.device.onWritable = () => this.#room();
    this.device.onError = (error) => this.#lost(error);
  }

  get counters(): TapLinkCounters {
    const { rxFrames, txFrames, txRejected, txDropped } = this.device.counters();
    return {
      received: rxFrames,
      transmitted: txFrames,
      droppedSize: this.#droppedSize,
      droppedRejected: txRejected,
      droppedKernel: txDropped,
      droppedGone: this.#droppedGone,
      refused: this.#refused,
    };
  }

  /** Frames that arrived earlier wait in the kernel's queue until a receiver is attached. */
  attach(receiver: LinkReceiver): void {
    this.#receiver = receiver;
    if (this.#gone) return;
    this.device.start((buffer, index, count) => {
      for (let i = 0; i < count; i++) {
        const length = index[2 * i + 1]!;
        // The receiver may close the link in the midst of a batch; the rest is nobody's then.
        if (this.#gone) return;
        if (length >= VNET_HDR_LEN + ETHERNET_HEADER_BYTES) receiver.receive(buffer, index[2 * i]!, length);
      }
      if (!this.#gone) receiver.endOfBatch();
    });
  }

  transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    if (this.#gone) {
      this.#droppedGone++;
      return true;
    }
    if (length < VNET_HDR_LEN + ETHERNET_HEADER_BYTES || length > this.offload.maxPacket) {
      this.#droppedSize++;
      return true;
    }
    if (length >= DIRECT_BYTES && !this.#waiting) {
      if (this.#count > this.#first) this.#drain();
      if (!this.#waiting && this.#writeOne(buffer, offset, length)) return true;
    }
    if (this.#count === QUEUE_FRAMES || QUEUE_BYTES - this.#used < length) {
      if (!this.#waiting) this.#drain();
      if (this.#gone) return true;
      if (this.#count === QUEUE_FRAMES || QUEUE_BYTES - this.#used < length) {
        this.#refused++;
        this.#owed = true;
        return false;
      }
    }
    const queue = this.#queue;
    const used = this.#used;
    if (length <= 128) for (let i = 0; i < length; i++) queue[used + i] = buffer[offset + i]!;
    else queue.set(buffer.subarray(offset, offset + length), used);
    this.#index[2 * this.#count] = used;
    this.#index[2 * this.#count + 1] = length;
    this.#count++;
    // Multiples of 8, as the addon reads them.
    this.#used = (used + length + 7) & ~7;
    return true;
  }

  /** False also for links of other kinds. */
  addShortcut(to: LinkDevice, buffer: Uint8Array, offset: number, length: number): boolean {
    if (!(to instanceof InterfaceLink) || this.#gone || to.#gone) return false;
    return this.device.addShortcut(to.device, buffer, offset, length, to.#terms);
  }

  forgetShortcuts(): void {
    this.device.forgetShortcuts();
  }

  get shortcutCounters(): ShortcutCounters {
    const { rxShortcut, rxShortcutBytes, txShortcut, txShortcutBytes } = this.device.counters();
    return {
      received: rxShortcut,
      receivedBytes: rxShortcutBytes - VNET_HDR_LEN * rxShortcut,
      transmitted: txShortcut,
      transmittedBytes: txShortcutBytes - VNET_HDR_LEN * txShortcut,
    };
  }

  flush(): void {
    if (this.#count > this.#first && !this.#waiting && !this.#gone) this.#drain();
  }

  /** Idempotent. Queued packets are handed to the kernel first, as far as it takes them. */
  close(): void {
    if (this.device.closed) return;
    this.flush();
    this.#gone = true;
    this.device.close();
  }

  #drain(): void {
    const count = this.#count - this.#first;
    try {
      const taken = this.device.write(this.#queue, this.#index, this.#first, count);
      this.#first += taken;
      // Short of count: no room, or a broken device, which the next call reports.
      this.#waiting = taken < count;
    } catch (error) {
      this.#lost(error as TapError);
      return;
    }
    if (this.#first === this.#count) this.#first = this.#count = this.#used = 0;
  }

  #writeOne(buffer: Uint8Array, offset: number, length: number): boolean {
    try {
      if (this.device.writeOne(buffer, offset, length)) return true;
      this.#waiting = true;
      return false;
    } catch (error) {
      this.#lost(error as TapError);
      return true;
    }
  }

  #room(): void {
    this.#waiting = false;
    this.flush();
    if (this.#waiting || !this.#owed || this.#gone) return;
    this.#owed = false;
    this.#receiver?.writable();
  }

  #lost(error: TapError): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#droppedGone += this.#count - this.#first;
    this.#first = this.#count = this.#used = 0;
    this.device.close();
    this.#onGone?.(linkError(error) as TapLinkError);
  }
}
