/**
 * The blocks of a pcapng file (draft-ietf-opsawg-pcapng), little-endian, written in place into a chunk.
 *
 *   block     type u32 · total length u32 · body · total length u32; everything padded to 4 bytes
 *   option    code u16 · length u16 · value padded to 4 bytes; code 0, length 0 ends the list
 */
const textEncoder = new TextEncoder();

export const BLOCK = { SHB: 0x0a0d0d0a, IDB: 1, ISB: 5, EPB: 6 } as const;

export const LINKTYPE_ETHERNET = 1;

const OPTION = {
  END: 0,
  COMMENT: 1,
  SHB_OS: 3,
  SHB_USERAPPL: 4,
  IF_NAME: 2,
  IF_DESCRIPTION: 3,
  IF_TSRESOL: 9,
  IF_HARDWARE: 15,
  EPB_FLAGS: 2,
  ISB_STARTTIME: 2,
  ISB_ENDTIME: 3,
  ISB_IFRECV: 4,
  ISB_IFDROP: 5,
} as const;

/** epb_flags, bits 0-1. */
const DIRECTION_BITS = { inbound: 1, outbound: 2 } as const;
export type CaptureDirection = keyof typeof DIRECTION_BITS;

/** Longest option value in UTF-8 bytes, a multiple of 4 below 2^16. */
const MAX_OPTION_BYTES = 65_532;
/** EPB without packet and comment: 28 bytes of head, flags option 8, end of options 4, closing length 4. */
const EPB_FIXED_BYTES = 44;

const pad4 = (length: number) => (length + 3) & ~3;

/** Room that a text option may need. */
function textRoom(text: string | undefined): number {
  return text === undefined || text === '' ? 0 : 4 + Math.min(pad4(text.length * 3), MAX_OPTION_BYTES);
}

/** Room that an EPB may need. */
export function packetBlockRoom(capturedLength: number, comment: string | undefined): number {
  return EPB_FIXED_BYTES + pad4(capturedLength) + textRoom(comment);
}

/** Nanoseconds as pcapng has them: high half first, whatever the byte order. */
function putTimestamp(view: DataView, at: number, ns: bigint): void {
  view.setUint32(at, Number((ns >> 32n) & 0xffffffffn), true);
  view.setUint32(at + 4, Number(ns & 0xffffffffn), true);
}

/** Bytes with a write position. Callers reserve room first; every method advances `used`. */
export class Chunk {
  readonly bytes: Uint8Array;
  readonly #view: DataView;
  used = 0;

  constructor(size: number) {
    this.bytes = new Uint8Array(size);
    this.#view = new DataView(this.bytes.buffer);
  }

  get room(): number {
    return this.bytes.length - this.used;
  }

  /** Starts an EPB and returns where the packet's bytes go: the caller writes `capturedLength` of them, then `endPacket`. */
  beginPacket(
    interfaceId: number,
    timestampNs: bigint,
    capturedLength: number,
    originalLength: number,
  ): number {
    const view = this.#view;
    const at = this.used;
    view.setUint32(at, BLOCK.EPB, true);
    view.setUint32(at + 8, interfaceId, true);
    putTimestamp(view, at + 12, timestampNs);
    view.setUint32(at + 20, capturedLength, true);
    view.setUint32(at + 24, originalLength, true);
    this.used = at + 28 + pad4(capturedLength);
    this.bytes.fill(0, at + 28 + capturedLength, this.used);
    return at + 28;
  }

  /** `dataAt` is what beginPacket returned. */
  endPacket(dataAt: number, direction: CaptureDirection | undefined, comment: string | undefined): void {
    if (direction !== undefined) {
      this.#option(OPTION.EPB_FLAGS, 4);
      this.#view.setUint32(this.used, DIRECTION_BITS[direction], true);
      this.used += 4;
    }
    this.#text(OPTION.COMMENT, comment);
    this.#option(OPTION.END, 0);
    this.#close(dataAt - 28);
  }

  section(options: { os: string; application: string; comment?: string | undefined }): void {
    const at = this.#open(BLOCK.SHB);
    const view = this.#view;
    view.setUint32(this.used, 0x1a2b3c4d, true);
    view.setUint16(this.used + 4, 1, true);
    view.setUint16(this.used + 6, 0, true);
    // Section length "not given": the file grows.
    view.setUint32(this.used + 8, 0xffffffff, true);
    view.setUint32(this.used + 12, 0xffffffff, true);
    this.used += 16;
    this.#text(OPTION.COMMENT, options.comment);
    this.#text(OPTION.SHB_OS, options.os);
    this.#text(OPTION.SHB_USERAPPL, options.application);
    this.#option(OPTION.END, 0);
    this.#close(at);
  }

  interface(options: CaptureInterface, snapLength: number): void {
    const at = this.#open(BLOCK.IDB);
    this.#view.setUint16(this.used, LINKTYPE_ETHERNET, true);
    this.#view.setUint16(this.used + 2, 0, true);
    this.#view.setUint32(this.used + 4, snapLength, true);
    this.used += 8;
    this.#text(OPTION.IF_NAME, options.name);
    this.#text(OPTION.IF_DESCRIPTION, options.description);
    this.#text(OPTION.IF_HARDWARE, options.hardware);
    this.#option(OPTION.IF_TSRESOL, 1);
    this.#view.setUint32(this.used, 9, true);
    this.used += 4;
    this.#option(OPTION.END, 0);
    this.#close(at);
  }

  statistics(
    interfaceId: number,
    timestampNs: bigint,
    startNs: bigint,
    received: number,
    dropped: number,
  ): void {
    const at = this.#open(BLOCK.ISB);
    this.#view.setUint32(this.used, interfaceId, true);
    putTimestamp(this.#view, this.used + 4, timestampNs);
    this.used += 12;
    this.#timestampOption(OPTION.ISB_STARTTIME, startNs);
    this.#timestampOption(OPTION.ISB_ENDTIME, timestampNs);
    this.#countOption(OPTION.ISB_IFRECV, received);
    this.#countOption(OPTION.ISB_IFDROP, dropped);
    this.#option(OPTION.END, 0);
    this.#close(at);
  }

  #open(type: number): number {
    const at = this.used;
    this.#view.setUint32(at, type, true);
    this.used = at + 8;
    return at;
  }

  #close(at: number): void {
    const total = this.used + 4 - at;
    this.#view.setUint32(at + 4, total, true);
    this.#view.setUint32(this.used, total, true);
    this.used += 4;
  }

  #option(code: number, length: number): void {
    this.#view.setUint16(this.used, code, true);
    this.#view.setUint16(this.used + 2, length, true);
    this.used += 4;
  }

  #text(code: number, text: string | undefined): void {
    if (text === undefined || text === '') return;
    const at = this.used;
    const limit = at + 4 + MAX_OPTION_BYTES;
    // encodeInto ends before a character that does not fit as a whole.
    const { written } = textEncoder.encodeInto(text, this.bytes.subarray(at + 4, limit));
    this.#option(code, written);
    const end = at + 4 + pad4(written);
    this.bytes.fill(0, at + 4 + written, end);
    this.used = end;
  }

  #timestampOption(code: number, ns: bigint): void {
    this.#option(code, 8);
    putTimestamp(this.#view, this.used, ns);
    this.used += 8;
  }

  #countOption(code: number, count: number): void {
    this.#option(code, 8);
    this.#view.setBigUint64(this.used, BigInt(count), true);
    this.used += 8;
  }
}

export interface CaptureInterface {
  /** As Wireshark shows it: the port's or uplink's name. */
  readonly name: string;
  readonly description?: string;
  /** What it is made of: `TAP`, `unix stream`, `virtio`. */
  readonly hardware?: string;
  /** Most bytes kept of a frame, default 262 144 (all). tcpdump reads a file only when all its interfaces have the same. */
  readonly snapLength?: number;
}

/** Room that an IDB may need. */
export function interfaceBlockRoom(i: CaptureInterface): number {
  return 64 + textRoom(i.name) + textRoom(i.description) + textRoom(i.hardware);
}
