/** Scratch images of the bench. */
import { randomFillSync } from 'node:crypto';
import { closeSync, fsyncSync, mkdirSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import type { Bench } from './framework/index.ts';

const MIB = 1024 * 1024;

/** A folder below the bench's scratch folder, which must be new. */
export function folderOf(bench: Bench, name: string): string {
  const folder = join(bench.scratch, name);
  mkdirSync(folder);
  return folder;
}

/** Makes an image without holes, of whole MiB; its pages are in the cache and clean, so that no write-back disturbs the first samples. */
export function filledImage(path: string, sizeBytes: number): string {
  const fd = openSync(path, 'w');
  const block = randomFillSync(Buffer.allocUnsafe(MIB));
  for (let at = 0; at < sizeBytes; at += MIB) writeSync(fd, block);
  fsyncSync(fd);
  closeSync(fd);
  return path;
}
