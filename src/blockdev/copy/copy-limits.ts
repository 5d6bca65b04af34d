import { readdirSync, rmSync, statfsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '../../common/index.ts';
import { codeOf } from '../../common/index.ts';
import { LogReader, SEGMENT, segmentName, segmentNumbers } from '../log/index.ts';

/** A log without a cap of its own gets half of what is free where it is kept. */
export function withCap<T extends { readonly capBytes?: number }>(options: T, directory: string): T {
  if (options.capBytes !== undefined) return options;
  try {
    const { bavail, bsize } = statfsSync(directory);
    return { ...options, capBytes: Math.floor((bavail * bsize) / 2) };
  } catch {
    return options;
  }
}

/** The log of a copy that died is of no use: its target is invalid. The log of anything else is never removed. */
export async function dropStaleCopyLog(directory: string): Promise<void> {
  try {
    const reader = await LogReader.open(directory);
    if (reader.header.purpose === 'copy') rmSync(directory, { recursive: true, force: true });
  } catch (error) {
    const code = codeOf(error);
    if (code === 'damaged' && neverBegan(directory)) rmSync(directory, { recursive: true, force: true });
    else if (code !== 'no-log') throw error;
  }
}

/** Its writer was killed before the first header was whole: no record can be in it. */
function neverBegan(directory: string): boolean {
  const numbers = segmentNumbers(readdirSync(directory));
  return numbers.length === 1 && statSync(join(directory, segmentName(numbers[0]!))).size < SEGMENT.size;
}

/** `work`, or the error of `late` when it takes longer than `ms`; the work itself goes on then. */
export async function withLimit<T>(
  work: Promise<T>,
  ms: number,
  clock: Clock,
  late: () => Error,
): Promise<T> {
  let expire: () => void = () => {};
  const expired = new Promise<never>((_resolve, reject) => {
    expire = () => reject(late());
  });
  const timer = clock.after(ms, () => expire());
  try {
    return await Promise.race([work, expired]);
  } finally {
    timer.cancel();
  }
}
