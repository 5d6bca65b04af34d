/**
 * 802/902: the copy itself, the cheapest way the two devices have:
 *
 *   reflink   both are files of one file system that shares blocks: one call, whatever the size
 *   kernel    copy_file_range, a slice at a time on the thread pool; holes stay holes
 *   pipeline  read and write through the devices, several slices on their way; blocks of zeroes become holes as well
 *
 * Writes go on meanwhile. All three are right for one reason: the write log is on before the first byte is read, a record
 * stands in it before its write reaches the source, and the log is replayed from its beginning onto what was copied. A byte
 * that was not written since is the same at every instant, so it does not matter when it was taken; a byte that was written is
 * set by the replay, whatever was taken (old, new or torn). So a clone may be made at any instant after the logs are on,
 * and no round may touch a target before its copy is complete.
 *
 * Guests come first: slices are of 1 MiB, and fewer than the pool has threads.
 */
import type { Device } from '../device.ts';
import { isZero, walkExtents } from '../range.ts';
import { FileStore } from '../store/index.ts';

const CHUNK = 1024 * 1024;
/** Blocks of zeroes of this size are left out on the target. */
const GRAIN = 64 * 1024;
const DEPTH = 4;
/** Each occupies a thread of the pool that guests' reads and flushes need as well. */
const KERNEL_DEPTH = 2;

export type CopyMethod = 'reflink' | 'kernel' | 'pipeline';

export interface BulkCopyOptions {
  /** Called before each chunk; may wait (rate limit) or throw (cancelled). */
  readonly before?: (bytes: number) => Promise<void>;
  readonly onBytes?: (bytes: number) => void;
  /** Everything below this byte is copied now. */
  readonly onReached?: (watermark: number) => void;
  /** Where to begin; what is below was copied before. Default 0. */
  readonly startAt?: number;
}

/** Bytes of a device, or of its first `end` bytes, that are not known to be zero. */
export async function dataBytes(device: Device, end: bigint = device.size): Promise<number> {
  let sum = 0n;
  for await (const extent of walkExtents(device, 0n, end)) if (!extent.zero) sum += extent.length;
  return Number(sum);
}

/** Makes every byte of `target` read as zero, giving space back where the file system can. */
export async function clearDevice(target: Device): Promise<void> {
  for await (const extent of walkExtents(target, 0n, target.size))
    if (!extent.zero) {
      await target.writeZeroes(0n, target.size);
      return;
    }
}

/** Shares the blocks of `source` with `target` when both are files that can; false when nothing was done. */
export async function cloneDevice(source: Device, target: Device): Promise<boolean> {
  return source instanceof FileStore && target instanceof FileStore && (await target.cloneFrom(source));
}

/** Copies what is data on `source` to the same place of `target`, which must read as zero from `startAt` on or hold older data. */
export async function bulkCopy(
  source: Device,
  target: Device,
  options: BulkCopyOptions = {},
): Promise<CopyMethod> {
  const chunks = chunksOf(source, options.startAt ?? 0);
  const under = new Set<number>();
  let issued = options.startAt ?? 0;
  let inKernel = source instanceof FileStore && target instanceof FileStore;
  const worker = async () => {
    let buffer: Buffer | undefined;
    for (;;) {
      const { value: chunk, done } = await chunks.next();
      if (done === true) return;
      under.add(chunk.offset);
      issued = chunk.offset + chunk.length;
      await options.before?.(chunk.length);
      if (inKernel) inKernel = await copyInKernel(source, target, chunk);
      if (!inKernel) {
        buffer ??= Buffer.allocUnsafe(CHUNK);
        const data = buffer.subarray(0, chunk.length);
        await source.readAt(data, BigInt(chunk.offset));
        await writeNonZero(target, data, chunk.offset);
      }
      under.delete(chunk.offset);
      options.onBytes?.(chunk.length);
      options.onReached?.(under.size === 0 ? issued : Math.min(...under));
    }
  };
  const outcomes = await Promise.allSettled(Array.from({ length: inKernel ? KERNEL_DEPTH : DEPTH }, worker));
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
  return inKernel ? 'kernel' : 'pipeline';
}

/** Copies [start, end) whatever it holds; returns its length. */
export async function copyRange(source: Device, target: Device, start: number, end: number): Promise<number> {
  const buffer = Buffer.allocUnsafe(Math.min(CHUNK, end - start));
  for await (const extent of walkExtents(source, BigInt(start), BigInt(end - start))) {
    const stop = Number(extent.offset + extent.length);
    if (extent.zero) await target.writeZeroes(extent.offset, extent.length);
    else
      for (let at = Number(extent.offset); at < stop; at += CHUNK) {
        const part = buffer.subarray(0, Math.min(CHUNK, stop - at));
        await source.readAt(part, BigInt(at));
        await target.writeAt(part, BigInt(at));
      }
  }
  return end - start;
}

interface Chunk {
  readonly offset: number;
  readonly length: number;
}

async function copyInKernel(source: Device, target: Device, { offset, length }: Chunk): Promise<boolean> {
  if (!(source instanceof FileStore && target instanceof FileStore)) return false;
  return target.copyFrom(source, BigInt(offset), BigInt(length));
}

async function* chunksOf(source: Device, startAt: number): AsyncGenerator<Chunk> {
  const start = BigInt(startAt);
  for await (const extent of walkExtents(source, start, source.size - start)) {
    if (extent.zero) continue;
    const end = Number(extent.offset + extent.length);
    for (let offset = Number(extent.offset); offset < end; ) {
      // Chunks begin at multiples of their size, so that grains lie the same way on both sides.
      const length = Math.min(CHUNK - (offset % CHUNK), end - offset);
      yield { offset, length };
      offset += length;
    }
  }
}

async function writeNonZero(target: Device, data: Buffer, offset: number): Promise<void> {
  let from = 0;
  for (let at = 0; at <= data.length; at += GRAIN) {
    if (at < data.length && !isZero(data.subarray(at, at + GRAIN))) continue;
    if (at > from)
      await target.writeAt(data.subarray(from, Math.min(at, data.length)), BigInt(offset + from));
    from = at + GRAIN;
  }
  if (from < data.length) await target.writeAt(data.subarray(from), BigInt(offset + from));
}
