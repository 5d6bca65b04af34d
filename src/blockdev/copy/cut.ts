/** The two halves of every cut: sources that stand still, and who may use which disk afterwards. */
import type { Clock } from '../../common/index.ts';
import { messageOf } from '../../common/index.ts';
import { withLimit } from './copy-limits.ts';
import type { CopyPair, CutOptions } from './copy-types.ts';
import { CopyError } from './copy-types.ts';
import type { DiskStack } from './disk-stack.ts';

const PAUSE_LIMIT_MS = 10_000;

/** Runs `action` while no write to the sources is under way or begins; returns how long they stood still, ms. */
export async function standingStill(
  pairs: readonly CopyPair[],
  clock: Clock,
  action: () => Promise<void>,
): Promise<number> {
  const startedMs = clock.nowMs();
  try {
    const still = Promise.all(pairs.map(({ from }) => from.gate.pause()));
    await withLimit(still, PAUSE_LIMIT_MS, clock, () => {
      const ids = pairs.map(({ from }) => from.id).join(', ');
      return new CopyError('busy', `a write to ${ids} did not end within ${PAUSE_LIMIT_MS} ms`);
    });
    await action();
  } finally {
    for (const { from } of pairs) from.gate.resume();
  }
  return clock.nowMs() - startedMs;
}

/** Fences, then valid targets; all or none. `before` runs when the fences are up and the targets are still invalid. */
export async function handOver(
  name: string,
  pairs: readonly CopyPair[],
  options: CutOptions,
  before: () => void,
): Promise<void> {
  const fenced: DiskStack[] = [];
  try {
    for (const { from } of pairs) {
      if (options.fence === undefined) break;
      fenced.push(from);
      await options.fence.raise(from);
    }
    before();
    for (const { mark } of pairs) mark.clear();
  } catch (error) {
    for (const { mark } of pairs) mark.set(`the cut of ${name} failed: ${messageOf(error)}`);
    for (const from of fenced) await options.fence?.lower(from);
    throw error;
  }
}
