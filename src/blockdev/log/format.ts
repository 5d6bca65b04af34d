/**
 * The write log on disk: a directory of segments `00000001.wlog`, `00000002.wlog`, …; each a header, then records without
 * gaps. All integers little-endian. Records as named offsets: they are written and read once per write of a guest.
 */
import { crc32 } from 'block-io';
import { CodedError } from '../../common/index.ts';

/**
 * `no-log` the directory holds none · `foreign` it belongs to another disk or generation · `stale` a segment is left from an
 * older log · `partial` its first records were removed · `damaged` bytes are not what was written · `version` made by a newer program · `log-exists`, `in-use`.
 */
export class LogError extends CodedError {}

export const LOG_VERSION = 1;

/** Why a log is kept. */
export const LogPurpose = { copy: 1, reverse: 2, setAside: 3 } as const;
export type LogPurposeName = keyof typeof LogPurpose;

/** Segment header: named offsets, bytes. */
export const SEGMENT = {
  /** ASCII `CHGOWLOG`. */
  magic: 0,
  version: 8,
  headerLength: 10,
  purpose: 12,
  /** 16 random bytes, one draw per log (per group of logs). */
  generation: 16,
  /** UTF-8, padded with zero bytes. */
  diskId: 32,
  diskIdLength: 48,
  diskSize: 80,
  /** Sequence of the first record of this segment. */
  firstSequence: 88,
  /** Number of this segment, from 1, as in its name. */
  number: 96,
  /** ns since 1970, wall clock. */
  created: 104,
  /** First 8 bytes of the host's boot id: tells a restart of the program from one of the host. */
  boot: 112,
  reserved: 120,
  /** CRC-32 of bytes 0 … 123. */
  checksum: 124,
  size: 128,
} as const;

export const SEGMENT_MAGIC = Buffer.from('CHGOWLOG', 'latin1');

/** Record: named offsets, bytes. */
export const RECORD = {
  /** ASCII `WLR1`. */
  magic: 0,
  kind: 4,
  flags: 5,
  reserved: 6,
  /** 1, 2, 3 … over the whole log: the order of writes, whatever the clock does. */
  sequence: 8,
  /** [1004] ns since 1970, wall clock. */
  time: 16,
  /** [1005] Byte offset on the disk. */
  address: 24,
  /** [1006] Bytes on the disk. */
  length: 32,
  /** Bytes of data that follow the header: `length` for data, else 0. */
  payload: 40,
  /** First 4 bytes of the generation: a record of another log is never taken for one of this. */
  tag: 44,
  /** CRC-32 of bytes 0 … 47. */
  headerChecksum: 48,
  /**
   * CRC-32 of bytes 0 … 47 and the data. The header's checksum is left out on purpose: a CRC over a message and its own CRC
   * is a constant, and data under the header of another record would pass.
   */
  checksum: 52,
  /** [1007] The data. */
  data: 56,
  size: 56,
} as const;

export const RECORD_MAGIC = 0x31524c57;

export const RecordKind = { data: 1, zeroes: 2, trim: 3, flush: 4 } as const;
export type RecordKindName = keyof typeof RecordKind;
export const RECORD_KIND_NAMES: readonly (RecordKindName | undefined)[] = [
  undefined,
  'data',
  'zeroes',
  'trim',
  'flush',
];

export const RecordFlag = { fua: 1, noHole: 2 } as const;

/** Longest data of one record. */
export const MAX_PAYLOAD = 256 * 1024 * 1024;

export interface SegmentHeader {
  readonly purpose: LogPurposeName;
  readonly generation: Buffer;
  readonly diskId: string;
  readonly diskSize: bigint;
  readonly firstSequence: bigint;
  readonly number: number;
  readonly createdNs: bigint;
  readonly boot: bigint;
}

export function emitSegmentHeader(header: SegmentHeader): Buffer {
  const out = Buffer.alloc(SEGMENT.size);
  SEGMENT_MAGIC.copy(out, SEGMENT.magic);
  out.writeUInt16LE(LOG_VERSION, SEGMENT.version);
  out.writeUInt16LE(SEGMENT.size, SEGMENT.headerLength);
  out.writeUInt32LE(LogPurpose[header.purpose], SEGMENT.purpose);
  header.generation.copy(out, SEGMENT.generation, 0, 16);
  const id = Buffer.from(header.diskId);
  if (id.length > SEGMENT.diskIdLength)
    throw new LogError(
      'id-too-long',
      `disk id ${header.diskId} is longer than ${SEGMENT.diskIdLength} bytes`,
    );
  id.copy(out, SEGMENT.diskId);
  out.writeBigUInt64LE(header.diskSize, SEGMENT.diskSize);
  out.writeBigUInt64LE(header.firstSequence, SEGMENT.firstSequence);
  out.writeBigUInt64LE(BigInt(header.number), SEGMENT.number);
  out.writeBigUInt64LE(header.createdNs, SEGMENT.created);
  out.writeBigUInt64LE(header.boot, SEGMENT.boot);
  out.writeUInt32LE(crc32(out.subarray(0, SEGMENT.checksum)), SEGMENT.checksum);
  return out;
}

/** The header, or why the bytes are none. */
export function parseSegmentHeader(bytes: Buffer): SegmentHeader | { readonly reason: string } {
  if (bytes.length < SEGMENT.size) return { reason: 'shorter than a segment header' };
  if (!bytes.subarray(0, 8).equals(SEGMENT_MAGIC)) return { reason: 'no segment of a write log' };
  if (crc32(bytes.subarray(0, SEGMENT.checksum)) !== bytes.readUInt32LE(SEGMENT.checksum))
    return { reason: 'segment header damaged' };
  const version = bytes.readUInt16LE(SEGMENT.version);
  if (version !== LOG_VERSION)
    return { reason: `format version ${version}, this program knows ${LOG_VERSION}` };
  const code = bytes.readUInt32LE(SEGMENT.purpose);
  const purpose = (Object.keys(LogPurpose) as LogPurposeName[]).find((name) => LogPurpose[name] === code);
  if (purpose === undefined) return { reason: `unknown purpose ${code}` };
  const id = bytes.subarray(SEGMENT.diskId, SEGMENT.diskId + SEGMENT.diskIdLength);
  const idEnd = id.indexOf(0);
  return {
    purpose,
    generation: Buffer.from(bytes.subarray(SEGMENT.generation, SEGMENT.generation + 16)),
    diskId: id.subarray(0, idEnd === -1 ? id.length : idEnd).toString(),
    diskSize: bytes.readBigUInt64LE(SEGMENT.diskSize),
    firstSequence: bytes.readBigUInt64LE(SEGMENT.firstSequence),
    number: Number(bytes.readBigUInt64LE(SEGMENT.number)),
    createdNs: bytes.readBigUInt64LE(SEGMENT.created),
    boot: bytes.readBigUInt64LE(SEGMENT.boot),
  };
}

/** Writes a record's header at `at`; `data` is what follows it in the file. */
export function emitRecordHeader(
  out: Buffer,
  at: number,
  kind: number,
  flags: number,
  sequence: bigint,
  timeNs: bigint,
  address: number,
  length: number,
  tag: number,
  data: Uint8Array | undefined,
): void {
  out.writeUInt32LE(RECORD_MAGIC, at + RECORD.magic);
  out.writeUInt16LE(kind | (flags << 8), at + RECORD.kind);
  out.writeUInt16LE(0, at + RECORD.reserved);
  out.writeBigUInt64LE(sequence, at + RECORD.sequence);
  out.writeBigUInt64LE(timeNs, at + RECORD.time);
  writeU53(out, at + RECORD.address, address);
  writeU53(out, at + RECORD.length, length);
  out.writeUInt32LE(data === undefined ? 0 : data.length, at + RECORD.payload);
  out.writeUInt32LE(tag, at + RECORD.tag);
  const head = crc32(out.subarray(at, at + RECORD.headerChecksum));
  out.writeUInt32LE(head, at + RECORD.headerChecksum);
  out.writeUInt32LE(data === undefined ? head : crc32(data, head), at + RECORD.checksum);
}

/** The header's own checksum and magic are right. */
export function isRecordHeader(bytes: Buffer, at: number): boolean {
  return (
    bytes.readUInt32LE(at) === RECORD_MAGIC &&
    crc32(bytes.subarray(at, at + RECORD.headerChecksum)) === bytes.readUInt32LE(at + RECORD.headerChecksum)
  );
}

/** The whole record stands in `bytes` from `at` on, its header is one, and its checksum is right. */
export function isRecordIntact(bytes: Buffer, at: number): boolean {
  const payload = bytes.readUInt32LE(at + RECORD.payload);
  const head = bytes.readUInt32LE(at + RECORD.headerChecksum);
  const data = bytes.subarray(at + RECORD.data, at + RECORD.data + payload);
  return (payload === 0 ? head : crc32(data, head)) === bytes.readUInt32LE(at + RECORD.checksum);
}

/** A u64 below 2^53 as number. */
export function readU53(bytes: Buffer, at: number): number {
  return bytes.readUInt32LE(at) + bytes.readUInt32LE(at + 4) * 0x1_0000_0000;
}

function writeU53(out: Buffer, at: number, value: number): void {
  out.writeUInt32LE(value % 0x1_0000_0000, at);
  out.writeUInt32LE(Math.floor(value / 0x1_0000_0000), at + 4);
}

export function segmentName(number: number): string {
  return `${String(number).padStart(8, '0')}.wlog`;
}

/** Segment numbers in a directory, ascending. */
export function segmentNumbers(names: readonly string[]): number[] {
  return names
    .map((name) => /^(\d{8})\.wlog$/.exec(name)?.[1])
    .filter((digits) => digits !== undefined)
    .map(Number)
    .sort((a, b) => a - b);
}
