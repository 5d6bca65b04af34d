/**
 * File calls that Node lacks, and a fast checksum. Every file function answers with a count or offset, or with the negative errno; none throws for what
 * the kernel says. Where the addon is not built, or a file system does not know a call, the answer is −EOPNOTSUPP and the
 * caller takes its slower way.
 */
import { createRequire } from 'node:module';
import { constants } from 'node:os';
import { getSystemErrorName } from 'node:util';
import { crc32 as zlibCrc32 } from 'node:zlib';

interface Native {
  seek(fd: number, offset: number, whence: number): number;
  readNow(fd: number, buffer: Uint8Array, start: number, length: number, offset: number): number;
  writeNow(fd: number, buffer: Uint8Array, start: number, length: number, offset: number): number;
  allocate(fd: number, mode: number, offset: number, length: number): Promise<number>;
  copyRange(from: number, fromOffset: number, to: number, toOffset: number, length: number): Promise<number>;
  clone(from: number, to: number): Promise<number>;
  writeBack(fd: number, offset: number, length: number): Promise<number>;
  dropCached(fd: number, offset: number, length: number): Promise<number>;
  crc32(data: Uint8Array, crc: number): number;
}

const { EOPNOTSUPP, EAGAIN, ENOSYS, EINVAL, EXDEV, ENOTTY, ENXIO } = constants.errno;

function load(): Native | undefined {
  if (process.env['BLOCK_IO'] === 'off') return undefined;
  try {
    return createRequire(import.meta.url)('../build/block_io.node') as Native;
  } catch {
    return undefined;
  }
}

const native = load();

/** Whether the addon is built and was loaded ($BLOCK_IO=off keeps it out). */
export const nativeAvailable = native !== undefined;

/** Modes of fallocate(2); both leave the size as it is. */
export const AllocateMode = {
  /** FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE: reads as zero, gives the blocks back. */
  punchHole: 0x01 | 0x02,
  /** FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE: reads as zero, stays allocated. */
  zeroRange: 0x01 | 0x10,
} as const;

/** First byte of data at or after `offset`; −ENXIO when there is none. */
export function seekData(fd: number, offset: number): number {
  return native?.seek(fd, offset, 0) ?? -EOPNOTSUPP;
}

/** First byte of a hole at or after `offset`; the end of the file counts as one. */
export function seekHole(fd: number, offset: number): number {
  return native?.seek(fd, offset, 1) ?? -EOPNOTSUPP;
}

/** preadv2 with RWF_NOWAIT: what is cached, −EAGAIN when nothing is. */
export function readNow(
  fd: number,
  target: Uint8Array,
  start: number,
  length: number,
  offset: number,
): number {
  return native?.readNow(fd, target, start, length, offset) ?? -EOPNOTSUPP;
}

/** pwritev2 with RWF_NOWAIT; many file systems answer −EOPNOTSUPP for cached writes. */
export function writeNow(
  fd: number,
  source: Uint8Array,
  start: number,
  length: number,
  offset: number,
): number {
  return native?.writeNow(fd, source, start, length, offset) ?? -EOPNOTSUPP;
}

/** fallocate(2) on the thread pool. */
export function allocate(fd: number, mode: number, offset: number, length: number): Promise<number> {
  return native?.allocate(fd, mode, offset, length) ?? Promise.resolve(-EOPNOTSUPP);
}

/** copy_file_range(2) on the thread pool; may copy less than asked. */
export function copyRange(
  from: number,
  fromOffset: number,
  to: number,
  toOffset: number,
  length: number,
): Promise<number> {
  return native?.copyRange(from, fromOffset, to, toOffset, length) ?? Promise.resolve(-EOPNOTSUPP);
}

/** ioctl FICLONE on the thread pool: the whole of `from` appears in `to`, sharing its blocks. */
export function cloneFile(from: number, to: number): Promise<number> {
  return native?.clone(from, to) ?? Promise.resolve(-EOPNOTSUPP);
}

/** sync_file_range(2) on the thread pool: the kernel begins to write what is dirty there; nothing is durable by it. */
export function writeBack(fd: number, offset: number, length: number): Promise<number> {
  return native?.writeBack(fd, offset, length) ?? Promise.resolve(-EOPNOTSUPP);
}

/** posix_fadvise(2) DONTNEED on the thread pool: cached pages that are clean are given back. */
export function dropCached(fd: number, offset: number, length: number): Promise<number> {
  return native?.dropCached(fd, offset, length) ?? Promise.resolve(-EOPNOTSUPP);
}

/** CRC-32 as `node:zlib` has it, several times as fast where the processor can multiply without carry. */
export const crc32: (data: Uint8Array, crc?: number) => number =
  native === undefined ? zlibCrc32 : (data, crc = 0) => native.crc32(data, crc);

/** The answer says that this file (or these two) cannot do it, not that it went wrong. */
export function isUnsupported(answer: number): boolean {
  return [EOPNOTSUPP, ENOSYS, EINVAL, EXDEV, ENOTTY].includes(-answer);
}

/** −EAGAIN: it would have had to wait. */
export function wouldWait(answer: number): boolean {
  return answer === -EAGAIN;
}

/** −ENXIO of `seekData`: no data from there on. */
export function isPastData(answer: number): boolean {
  return answer === -ENXIO;
}

/** `ENOSPC` for −28. */
export function errnoName(answer: number): string {
  return getSystemErrorName(answer);
}
