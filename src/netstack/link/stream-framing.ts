/**
 * Frames on a byte stream, as QEMU's `-netdev stream` and its vnet_hdr_support filters carry them.
 *
 *   plain          0  4  length of the frame, big-endian        4  …  Ethernet frame
 *   vnet header    0  4  length of header and frame, big-endian
 *                  4  4  length of the header = 10, big-endian  8  10 virtio-net header   18  …  Ethernet frame
 *
 * Both ends turn it into the packet unit of link-device.ts. In the vnet form that unit stands in the stream as it is. In
 * the plain form the ten bytes in front of a frame are overwritten with zeros: they are the frame's own length field and
 * the tail of a frame that has been consumed; only the first frame of a chunk has no such room and is copied.
 */
import { VNET_HDR_LEN } from './link-device.ts';

export const ETHERNET_HEADER_LEN = 14;
/** A 65 535-byte IP packet with Ethernet header, one 802.1Q tag and the virtio-net header. */
export const MAX_PACKET_LEN = VNET_HDR_LEN + ETHERNET_HEADER_LEN + 4 + 65_535;
/** QEMU's own limit. What is longer than it is no frame of anybody's. */
const MAX_STREAM_LENGTH = 69_632;

const LENGTH_LEN = 4;

/** Why a stream cannot be followed any further. */
export const FRAMING_FAULTS = ['frame-too-short', 'frame-too-long', 'vnet-header-length'] as const;
export type FramingFault = (typeof FRAMING_FAULTS)[number];

const SHORT_COPY = 96;

/** Copies without a view object per packet. The ranges must not overlap. */
export function copyPacket(
  from: Uint8Array,
  fromOffset: number,
  to: Uint8Array,
  toOffset: number,
  length: number,
): void {
  if (length <= SHORT_COPY) {
    for (let i = 0; i < length; i++) to[toOffset + i] = from[fromOffset + i]!;
  } else {
    Buffer.prototype.copy.call(from, to, toOffset, fromOffset, fromOffset + length);
  }
}

function u32be(buffer: Uint8Array, at: number): number {
  return ((buffer[at]! << 24) | (buffer[at + 1]! << 16) | (buffer[at + 2]! << 8) | buffer[at + 3]!) >>> 0;
}

function putU32be(buffer: Uint8Array, at: number, value: number): void {
  buffer[at] = value >>> 24;
  buffer[at + 1] = value >>> 16;
  buffer[at + 2] = value >>> 8;
  buffer[at + 3] = value;
}

/**
 * Cuts a byte stream into packets. A frame longer than `maxPacket` but no longer than QEMU's limit is stepped over and
 * counted in `oversize`; an impossible length is a fault, after which the stream has to be closed.
 */
export class FrameParser {
  /** Frames that were stepped over because they exceed `maxPacket`. */
  oversize = 0;
  /** Where the last `push` ended: at its `end`, or behind the last frame that it was to deliver. */
  position = 0;

  readonly #vnetHeader: boolean;
  readonly #maxPacket: number;
  readonly #receive: (buffer: Uint8Array, offset: number, length: number) => void;
  /** Bytes before the packet unit: both length fields, or as far as the plain form needs zeros in front of them. */
  readonly #head: number;
  /** An incomplete frame, from its length field on; `#base` leaves room for the zeros of the plain form. */
  readonly #partial: Uint8Array;
  readonly #base: number;
  #have = 0;
  #skip = 0;

  constructor(
    vnetHeader: boolean,
    maxPacket: number,
    receive: (buffer: Uint8Array, offset: number, length: number) => void,
  ) {
    this.#vnetHeader = vnetHeader;
    this.#maxPacket = maxPacket;
    this.#receive = receive;
    this.#head = vnetHeader ? 2 * LENGTH_LEN : LENGTH_LEN;
    this.#base = vnetHeader ? 0 : VNET_HDR_LEN - LENGTH_LEN;
    this.#partial = new Uint8Array(this.#base + this.#head + maxPacket);
  }

  /** Bytes of an incomplete frame that wait for the rest. */
  get pending(): number {
    return this.#have;
  }

  /** Forgets an incomplete frame: the next byte begins a new stream. */
  reset(): void {
    this.#have = 0;
    this.#skip = 0;
  }

  /** Takes chunk[at, end), whose bytes it may overwrite, or as much of it as has `most` frames; `position` tells. */
  push(
    chunk: Uint8Array,
    at: number,
    end: number,
    most = Number.POSITIVE_INFINITY,
  ): FramingFault | undefined {
    const start = at;
    this.position = end;
    let left = most;
    while (at < end) {
      if (left === 0) {
        this.position = at;
        return undefined;
      }
      if (this.#skip > 0) {
        const step = Math.min(this.#skip, end - at);
        this.#skip -= step;
        at += step;
        continue;
      }
      if (this.#have > 0 || end - at < this.#head) {
        const wanted =
          this.#have < this.#head ? this.#head : this.#head + this.#length(this.#partial, this.#base);
        const step = Math.min(wanted - this.#have, end - at);
        copyPacket(chunk, at, this.#partial, this.#base + this.#have, step);
        this.#have += step;
        at += step;
        if (this.#have < wanted) return undefined;
        if (wanted === this.#head) {
          const fault = this.#check(this.#partial, this.#base);
          if (fault !== undefined) return fault;
          if (this.#skip > 0) this.#have = 0;
          continue;
        }
        this.#have = 0;
        left--;
        this.#deliver(this.#partial, this.#base + this.#head, wanted - this.#head);
        continue;
      }
      const fault = this.#check(chunk, at);
      if (fault !== undefined) return fault;
      if (this.#skip > 0) {
        at += this.#head;
        continue;
      }
      const length = this.#length(chunk, at);
      const body = at + this.#head;
      if (end - body < length || (!this.#vnetHeader && body - VNET_HDR_LEN < start)) {
        // Into the partial buffer, and from there onwards.
        const step = Math.min(this.#head + length, end - at);
        copyPacket(chunk, at, this.#partial, this.#base, step);
        this.#have = step;
        at += step;
        if (step < this.#head + length) return undefined;
        this.#have = 0;
        left--;
        this.#deliver(this.#partial, this.#base + this.#head, length);
        continue;
      }
      at = body + length;
      left--;
      this.#deliver(chunk, body, length);
    }
    return undefined;
  }

  #length(buffer: Uint8Array, at: number): number {
    return u32be(buffer, at);
  }

  /** Judges a complete head; sets `#skip` for a frame that is too long for us but possible. */
  #check(buffer: Uint8Array, at: number): FramingFault | undefined {
    const length = u32be(buffer, at);
    const overhead = this.#vnetHeader ? VNET_HDR_LEN : 0;
    if (length < overhead + ETHERNET_HEADER_LEN) return 'frame-too-short';
    if (length > MAX_STREAM_LENGTH) return 'frame-too-long';
    if (this.#vnetHeader && u32be(buffer, at + LENGTH_LEN) !== VNET_HDR_LEN) return 'vnet-header-length';
    if (length + VNET_HDR_LEN - overhead > this.#maxPacket) {
      this.oversize++;
      this.#skip = length;
    }
    return undefined;
  }

  #deliver(buffer: Uint8Array, body: number, length: number): void {
    if (this.#vnetHeader) {
      this.#receive(buffer, body, length);
      return;
    }
    const offset = body - VNET_HDR_LEN;
    for (let i = offset; i < body; i++) buffer[i] = 0;
    this.#receive(buffer, offset, VNET_HDR_LEN + length);
  }
}

export interface FrameWriterOptions {
  readonly vnetHeader: boolean;
  /** Bytes of one write, default 128 KiB. */
  readonly batchBytes?: number;
  /** Writes that may be under way, default 16; with all of them full `put` says false. */
  readonly batches?: number;
}

/**
 * Collects packets into large writes. Buffers are made on demand and used again when their write has completed, so the
 * steady state allocates nothing here. `put` refuses when all are full or under way.
 */
export class FrameWriter {
  readonly #vnetHeader: boolean;
  readonly #batchBytes: number;
  readonly #batches: number;
  readonly #write: (chunk: Uint8Array, done: () => void) => void;
  readonly #free: Uint8Array[] = [];
  #made = 0;
  #current: Uint8Array | undefined;
  #fill = 0;
  #underWay = 0;
  #refused = false;
  #generation = 0;
  readonly #onRoom: () => void;

  /** `write` calls `done` when it needs the chunk no more; `onRoom` follows a refused `put`. */
  constructor(
    options: FrameWriterOptions,
    write: (chunk: Uint8Array, done: () => void) => void,
    onRoom: () => void,
  ) {
    this.#vnetHeader = options.vnetHeader;
    this.#batchBytes = Math.max(options.batchBytes ?? 128 * 1024, MAX_PACKET_LEN + 2 * LENGTH_LEN);
    this.#batches = options.batches ?? 16;
    this.#write = write;
    this.#onRoom = onRoom;
  }

  /** The part of the room that is in use, 0 to 1. */
  get used(): number {
    return (this.#made - this.#free.length) / this.#batches;
  }

  /** Bytes collected or under way. */
  get queuedBytes(): number {
    return this.#underWay + this.#fill;
  }

  /** Takes a copy of one packet (virtio-net header and frame); false when there is no room. */
  put(buffer: Uint8Array, offset: number, length: number): boolean {
    const body = this.#vnetHeader ? length : length - VNET_HDR_LEN;
    const head = this.#vnetHeader ? 2 * LENGTH_LEN : LENGTH_LEN;
    let target = this.#current;
    if (target !== undefined && this.#fill + head + body > this.#batchBytes) {
      this.flush();
      target = undefined;
    }
    if (target === undefined) {
      target = this.#take();
      if (target === undefined) {
        this.#refused = true;
        return false;
      }
      this.#current = target;
    }
    let at = this.#fill;
    putU32be(target, at, body);
    at += LENGTH_LEN;
    if (this.#vnetHeader) {
      putU32be(target, at, VNET_HDR_LEN);
      at += LENGTH_LEN;
    }
    copyPacket(buffer, offset + (length - body), target, at, body);
    this.#fill = at + body;
    return true;
  }

  /** Hands what was collected to the stream. */
  flush(): void {
    const full = this.#current;
    if (full === undefined || this.#fill === 0) return;
    const fill = this.#fill;
    const generation = this.#generation;
    this.#current = undefined;
    this.#fill = 0;
    this.#underWay += fill;
    this.#write(full.subarray(0, fill), () => {
      if (generation !== this.#generation) return;
      this.#underWay -= fill;
      this.#free.push(full);
      if (this.#refused) {
        this.#refused = false;
        this.#onRoom();
      }
    });
  }

  /** Drops everything collected or under way: the stream it was for is gone. */
  reset(): void {
    this.#generation++;
    this.#free.length = 0;
    this.#made = 0;
    this.#current = undefined;
    this.#fill = 0;
    this.#underWay = 0;
    this.#refused = false;
  }

  #take(): Uint8Array | undefined {
    const free = this.#free.pop();
    if (free !== undefined) return free;
    if (this.#made >= this.#batches) return undefined;
    this.#made++;
    return Buffer.allocUnsafeSlow(this.#batchBytes);
  }
}
