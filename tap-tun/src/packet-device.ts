/**
 * Anything with packet boundaries behind a descriptor: a TAP or TUN queue, a packet socket on a NIC, a socket pair.
 *
 * Receiving: the event loop's poll wakes the addon, which reads frame after frame into one batch buffer until the queue
 * is empty or the batch is full, and calls back once. What is left over waits for the next turn of the loop, so timers
 * and other sockets are served in between; nothing is lost as long as the kernel's queue (`txQueueLength`) holds it.
 *
 * Sending: `write` hands over many frames in one call and says how many were taken. Fewer than given means that the
 * kernel has no room: `onWritable` is called as soon as it has, and the rest is to be offered again.
 */
import { errnoError, TapError, translating } from './errors.ts';
import type { Native, NativeCallback, NativeDevice } from './native.ts';
import { native, SLOT_BYTES, Takes } from './native.ts';

/**
 * `count` frames: frame i is buffer[index[2i], index[2i] + index[2i + 1]). Buffer and index belong to the device and are
 * overwritten by the next batch; whoever keeps a frame copies it.
 */
export type BatchHandler = (buffer: Uint8Array, index: Uint32Array, count: number) => void;

export interface BatchOptions {
  /** Size of the batch buffer; at least 65 664, the largest frame. Default 192 KiB. */
  readonly bufferBytes?: number;
  /** Most frames per batch, 1 … 65 536. Default 256. */
  readonly frames?: number;
}

/** Since opening. */
export interface PacketCounters {
  readonly rxFrames: number;
  readonly rxBytes: number;
  /** Calls of the batch handler. */
  readonly rxBatches: number;
  /** Reads that failed for a passing reason, such as the interface going down. */
  readonly rxErrors: number;
  readonly txFrames: number;
  readonly txBytes: number;
  /** Frames that the kernel refused as malformed (too short, bad vnet header). */
  readonly txRejected: number;
  /** Frames that the kernel dropped: interface down, no memory, queue of a NIC full. */
  readonly txDropped: number;
  /** Times that a write had to wait for room. */
  readonly txWaits: number;
  /** Packet socket: frames that the kernel dropped because this process did not take them in time. */
  readonly rxDropped: number;
  /** Of the received frames: those that a shortcut passed on. */
  readonly rxShortcut: number;
  readonly rxShortcutBytes: number;
  /** Of the sent frames: those that came by a shortcut. */
  readonly txShortcut: number;
  readonly txShortcutBytes: number;
}

/** What the receiving device of a shortcut takes as it is; other frames go to the batch handler. */
export interface ShortcutTerms {
  /** Bytes of a frame that is not to be segmented, without the virtio-net header. */
  readonly longest: number;
  /** Unfinished checksums; packets to be segmented, for TCP over IPv4 and IPv6. */
  readonly checksum: boolean;
  readonly tso4: boolean;
  readonly tso6: boolean;
  /**
   * UDP datagrams of one flow that were read one after the other may leave as one packet to be segmented (gso_type 5); the
   * receiver must make the same datagrams of it. A kernel without that refuses the first, and then gets none.
   */
  readonly uso: boolean;
}

/** Small enough for what was read to be in the processor's cache still when it is written. */
const DEFAULT_BATCH_BYTES = 192 * 1024;

const scratch = new Float64Array(14);

export class PacketDevice implements Disposable {
  /** Room again after a partial write. */
  onWritable: (() => void) | undefined;
  /** The device is gone (deleted, peer closed): nothing more will be received. Without a handler the error is thrown. */
  onError: ((error: TapError) => void) | undefined;

  readonly #native: Native;
  readonly #device: NativeDevice;
  readonly #subject: string;
  /** Held here because the addon references it weakly while the device is idle. */
  readonly #callback: NativeCallback;
  #onBatch: BatchHandler | undefined;
  #buffer: Uint8Array | undefined;
  #index: Uint32Array | undefined;
  #closed = false;

  protected constructor(subject: string, open: (native: Native, callback: NativeCallback) => NativeDevice) {
    this.#subject = subject;
    this.#native = native();
    this.#callback = (count, writable, errno) => this.#wake(count, writable, errno);
    this.#device = translating(subject, () => open(this.#native, this.#callback));
  }

  /** Takes over an open descriptor that keeps packet boundaries (passed in by a parent process, for instance). */
  static fromDescriptor(fd: number): PacketDevice {
    return new PacketDevice(`descriptor ${fd}`, (n, callback) => n.wrapDescriptor(fd, callback));
  }

  /** Two ends joined in memory; what one writes the other receives. Needs neither root nor /dev/net/tun. */
  static pair(): [PacketDevice, PacketDevice] {
    const [left, right] = translating('a packet pair', () => native().packetPair());
    return [PacketDevice.fromDescriptor(left), PacketDevice.fromDescriptor(right)];
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Starts (or, after `stop`, resumes) receiving. While receiving, the device keeps the process alive unless `unref` was called. */
  start(onBatch: BatchHandler, options: BatchOptions = {}): void {
    const bytes = options.bufferBytes ?? DEFAULT_BATCH_BYTES;
    const frames = options.frames ?? 256;
    if (!Number.isInteger(bytes) || bytes < SLOT_BYTES || bytes > 1 << 30) {
      throw new TapError('BAD_OPTION', `a batch buffer of ${bytes} bytes is not possible`, {
        remedy: `use ${SLOT_BYTES} bytes to 1 GiB`,
      });
    }
    if (!Number.isInteger(frames) || frames < 1 || frames > 65_536) {
      throw new TapError('BAD_OPTION', `a batch of ${frames} frames is not possible`, {
        remedy: 'use 1 to 65536',
      });
    }
    if (this.#buffer?.length !== bytes) this.#buffer = new Uint8Array(bytes);
    if (this.#index?.length !== 2 * frames) this.#index = new Uint32Array(2 * frames);
    const [buffer, index] = [this.#buffer, this.#index];
    this.#onBatch = onBatch;
    this.native((n, device) => n.start(device, buffer, index));
  }

  /** Pauses receiving: frames stay in the kernel's queue. */
  stop(): void {
    this.native((n, device) => n.stop(device));
  }

  /**
   * Sends frames [first, first + count) of the index (offset and length pairs, as in a batch) and returns how many were
   * taken; frames that the kernel refuses are taken and counted. Fewer than `count`: wait for `onWritable`.
   */
  write(buffer: Uint8Array, index: Uint32Array, first: number, count: number): number {
    try {
      return this.#native.write(this.#device, buffer, index, first, count);
    } catch (thrown) {
      throw this.#translated(thrown);
    }
  }

  /** Sends one frame; false: not taken, wait for `onWritable`. */
  writeOne(buffer: Uint8Array, offset = 0, length = buffer.length - offset): boolean {
    try {
      return this.#native.writeOne(this.#device, buffer, offset, length);
    } catch (thrown) {
      throw this.#translated(thrown);
    }
  }

  /**
   * From now on frames like this one pass from this device to `to` without the batch handler, until `forgetShortcuts` or
   * until either is closed. Alike are frames with the same Ethernet header and the same IP destination. False: there are no
   * shortcuts for such frames (a group's, IPv4 with options, not IP …). Both devices precede frames with the virtio-net header.
   */
  addShortcut(
    to: PacketDevice,
    buffer: Uint8Array,
    offset: number,
    length: number,
    terms: ShortcutTerms,
  ): boolean {
    const takes =
      (terms.checksum ? Takes.checksum : 0) |
      (terms.tso4 ? Takes.tso4 : 0) |
      (terms.tso6 ? Takes.tso6 : 0) |
      (terms.uso ? Takes.uso : 0);
    try {
      const { longest } = terms;
      return this.#native.addShortcut(this.#device, to.#device, buffer, offset, length, longest, takes);
    } catch (thrown) {
      throw this.#translated(thrown);
    }
  }

  /** Every frame goes to the batch handler again. */
  forgetShortcuts(): void {
    this.#native.forgetShortcuts(this.#device);
  }

  counters(): PacketCounters {
    this.#native.counters(this.#device, scratch);
    const at = (i: number) => scratch[i] ?? 0;
    return {
      rxFrames: at(0),
      rxBytes: at(1),
      rxBatches: at(2),
      rxErrors: at(3),
      txFrames: at(4),
      txBytes: at(5),
      txRejected: at(6),
      txDropped: at(7),
      txWaits: at(8),
      rxDropped: at(9),
      rxShortcut: at(10),
      rxShortcutBytes: at(11),
      txShortcut: at(12),
      txShortcutBytes: at(13),
    };
  }

  /** The descriptor's number, for select tools; it stays owned by this device. */
  get descriptor(): number {
    return this.native((n, device) => n.descriptor(device));
  }

  ref(): this {
    this.native((n, device) => n.reference(device, true));
    return this;
  }

  /** Lets the process end although this device is receiving. */
  unref(): this {
    this.native((n, device) => n.reference(device, false));
    return this;
  }

  /** Idempotent. A TAP or TUN that is not persistent disappears with its last queue. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#native.close(this.#device);
    this.#onBatch = undefined;
    this.#buffer = undefined;
    this.#index = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Runs a native call on the device with errors translated. */
  protected native<T>(call: (native: Native, device: NativeDevice) => T): T {
    return translating(this.#subject, () => call(this.#native, this.#device));
  }

  #wake(count: number, writable: boolean, errno: number): void {
    if (count > 0) this.#onBatch?.(this.#buffer!, this.#index!, count);
    if (writable && !this.#closed) this.onWritable?.();
    if (errno !== 0 && !this.#closed) {
      const error = errnoError(this.#subject, 'read', errno);
      if (this.onError === undefined) throw error;
      this.onError(error);
    }
  }

  #translated(thrown: unknown): unknown {
    try {
      return translating(this.#subject, () => {
        throw thrown;
      });
    } catch (error) {
      return error;
    }
  }
}
