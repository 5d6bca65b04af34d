/** 802/902: the copy itself. Holes are kept, zero blocks become holes, several chunks are on their way at once. */
import type { Device } from '../device.ts';
import { isZero, walkExtents } from '../range.ts';

const CHUNK = 1024 * 1024;
/** Blocks of zeroes of this size are left out on the target. */
const GRAIN = 64 * 1024;
const DEPTH = 4;

export interface BulkCopyOptions {
  /** Called before each chunk; may wait (rate limit) or throw (cancelled). */
  readonly before?: (bytes: number) => Promise<void>;
  readonly onBytes?: (bytes: number) => void;
}

/** Bytes of a device that are not known to be zero. */
export async function dataBytes(device: Device): Promise<number> {
  let sum = 0n;
  for await (const extent of walkExtents(device, 0n, device.size)) if (!extent.zero) sum += extent.length;
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

/** Copies what is data on `source` to the same place of `target`, which must read as zero everywhere. */
export async function bulkCopy(source: Device, target: Device, options: BulkCopyOptions = {}): Promise<void> {
  const chunks = chunksOf(source);
  const worker = async () => {
    const buffer = Buffer.allocUnsafe(CHUNK);
    for (;;) {
      const { value: chunk, done } = await chunks.next();
      if (done === true) return;
      await options.before?.(chunk.length);
      const data = buffer.subarray(0, chunk.length);
      await source.readAt(data, BigInt(chunk.offset));
      await writeNonZero(target, data, chunk.offset);
      options.onBytes?.(chunk.length);
    }
  };
  const outcomes = await Promise.allSettled(Array.from({ length: DEPTH }, worker));
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
}

async function* chunksOf(source: Device): AsyncGenerator<{ offset: number; length: number }> {
  for await (const extent of walkExtents(source, 0n, source.size)) {
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
