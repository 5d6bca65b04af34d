/** The thread that reads and hashes leaves of image files, so that guests do not wait for it. Started by `tagger.ts`. */
import { readlinkSync, readSync } from 'node:fs';
import { getPriority, setPriority } from 'node:os';
import { parentPort, workerData } from 'node:worker_threads';
import type { Leaf } from './leaf-tag.ts';
import { LEAF, leafTag, TAG_BYTES } from './leaf-tag.ts';

export interface TagRequest {
  readonly id: number;
  readonly fd: number;
  readonly leaves: readonly Leaf[];
}
export type TagReply =
  | { readonly id: number; readonly tags: Uint8Array }
  | { readonly id: number; readonly error: { readonly code: string | undefined; readonly message: string } };

/** As `nice -n 10`; never less nice than the process. */
const NICENESS = 10;

try {
  const thread = Number(readlinkSync('/proc/thread-self').split('/').at(-1));
  setPriority(thread, Math.max(NICENESS, getPriority(thread)));
} catch {
  // Without /proc it runs as the others do.
}

const { key } = workerData as { readonly key: Uint8Array };
const buffer = Buffer.allocUnsafe(LEAF);

function tagsOf({ fd, leaves }: TagRequest): Uint8Array {
  const tags = new Uint8Array(leaves.length * TAG_BYTES);
  for (const [i, { index, offset, length }] of leaves.entries()) {
    for (let done = 0; done < length; ) {
      const count = readSync(fd, buffer, done, length - done, offset + done);
      if (count === 0) throw new RangeError(`the file ends before byte ${offset + length}`);
      done += count;
    }
    tags.set(leafTag(key, index, buffer.subarray(0, length)), i * TAG_BYTES);
  }
  return tags;
}

parentPort?.on('message', (request: TagRequest) => {
  let reply: TagReply;
  try {
    reply = { id: request.id, tags: tagsOf(request) };
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    reply = { id: request.id, error: { code, message } };
  }
  parentPort?.postMessage(reply);
});
