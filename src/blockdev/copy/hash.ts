import { createHash } from 'node:crypto';
import type { Device } from '../device.ts';
import { walkExtents, ZERO_BLOCK } from '../range.ts';

const CHUNK = 1024 * 1024;

/** SHA-256 over the whole device, holes counted as zeroes; hex. */
export async function hashDevice(device: Device): Promise<string> {
  const hash = createHash('sha256');
  const buffer = Buffer.allocUnsafe(CHUNK);
  for await (const extent of walkExtents(device, 0n, device.size)) {
    let at = extent.offset;
    const end = extent.offset + extent.length;
    while (at < end) {
      const length = Math.min(CHUNK, Number(end - at));
      const part = buffer.subarray(0, length);
      if (extent.zero) hash.update(ZERO_BLOCK.subarray(0, length));
      else {
        await device.readAt(part, at);
        hash.update(part);
      }
      at += BigInt(length);
      // Holes are hashed without waiting for anything: let others have their turn.
      if (extent.zero && (at / BigInt(CHUNK)) % 64n === 0n)
        await new Promise((resolve) => setImmediate(resolve));
    }
  }
  return hash.digest('hex');
}

/**
 * First byte at which two devices differ, outside of what `skip` names; undefined when they are equal. `skip` is asked after
 * a stretch was read, so that a write to `a` that is noted before it happens is never taken for a difference.
 */
export async function firstDifference(
  a: Device,
  b: Device,
  skip: (start: number, end: number) => boolean = () => false,
  grain = 64 * 1024,
): Promise<number | undefined> {
  const left = Buffer.allocUnsafe(grain);
  const right = Buffer.allocUnsafe(grain);
  const size = Number(a.size);
  if (a.size !== b.size) return Math.min(size, Number(b.size));
  for (let at = 0; at < size; at += grain) {
    const length = Math.min(grain, size - at);
    const l = left.subarray(0, length);
    const r = right.subarray(0, length);
    if (a.readAtSync?.(l, BigInt(at)) !== true) await a.readAt(l, BigInt(at));
    if (b.readAtSync?.(r, BigInt(at)) !== true) await b.readAt(r, BigInt(at));
    if (!l.equals(r) && !skip(at, at + length)) {
      for (let i = 0; i < length; i++) if (l[i] !== r[i]) return at + i;
    }
    if ((at / grain) % 256 === 255) await new Promise((resolve) => setImmediate(resolve));
  }
  return undefined;
}
