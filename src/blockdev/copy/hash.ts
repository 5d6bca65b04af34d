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
  const size = Number(a.size);
  if (a.size !== b.size) return Math.min(size, Number(b.size));
  const left = Buffer.allocUnsafe(grain);
  const right = Buffer.allocUnsafe(grain);
  let turns = 0;
  for await (const one of walkExtents(a, 0n, a.size))
    for await (const two of walkExtents(b, one.offset, one.length)) {
      // Holes of both sides are equal whatever their length.
      if (one.zero && two.zero) continue;
      const end = Number(two.offset + two.length);
      for (let at = Number(two.offset); at < end; ) {
        const stop = Math.min(end, at - (at % grain) + grain);
        const l = left.subarray(0, stop - at);
        const r = right.subarray(0, stop - at);
        if (a.readAtSync?.(l, BigInt(at)) !== true) await a.readAt(l, BigInt(at));
        if (b.readAtSync?.(r, BigInt(at)) !== true) await b.readAt(r, BigInt(at));
        if (!l.equals(r) && !skip(at, stop)) {
          for (let i = 0; i < l.length; i++) if (l[i] !== r[i]) return at + i;
        }
        at = stop;
        if (++turns % 256 === 0) await new Promise((resolve) => setImmediate(resolve));
      }
    }
  return undefined;
}
