/** Proof from outside the product: e2fsprogs reads the disk images, and compares them with what clients were promised. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);
const MAX_OUTPUT = 256 * 1024 * 1024;

/** Entry number → text, as `ledger.jsonl` on an application disk has them, read by debugfs while the disk is in use. */
export async function entriesOnDisk(image: string): Promise<Map<number, string>> {
  const { stdout } = await run('debugfs', ['-c', '-R', 'cat /ledger.jsonl', image], {
    maxBuffer: MAX_OUTPUT,
  });
  const entries = new Map<number, string>();
  for (const line of stdout.split('\n')) {
    if (line === '') continue;
    try {
      const { n, text } = JSON.parse(line) as { n: number; text: string };
      entries.set(n, text);
    } catch {
      // A line that was being appended at this moment.
    }
  }
  return entries;
}

/** How many acknowledged entries are absent or different. */
export function countMissing(
  acknowledged: readonly [number, string][],
  found: ReadonlyMap<number, string>,
): number {
  return acknowledged.filter(([n, text]) => found.get(n) !== text).length;
}

/** `e2fsck -fn`: undefined when clean, else what it said. */
export async function fileSystemFault(image: string): Promise<string | undefined> {
  try {
    await run('e2fsck', ['-fn', image]);
    return undefined;
  } catch (error) {
    const { stdout, message } = error as { stdout?: string; message: string };
    return stdout ?? message;
  }
}
