/** Runs that are over are kept for a while, the latest of them: report, journal and evidence. */
import { rmSync } from 'node:fs';
import type { Journal } from '../journal.ts';
import type { RunRecord } from './record.ts';

/** `patching.keepRuns` where the policy names none. */
export const DEFAULT_KEPT_RUNS = 100;

/** Those that are over, beyond the latest `keep` of them. */
export function outlived<T extends { readonly over: boolean; readonly record: RunRecord }>(
  runs: Iterable<T>,
  keep: number,
): T[] {
  return [...runs]
    .filter(({ over }) => over)
    .sort((a, b) => b.record.startedAtMs - a.record.startedAtMs)
    .slice(keep);
}

/** The folder first: whoever dies in between finds the run in the journal again, and forgets it again. */
export function forget(record: RunRecord, journal: Journal): void {
  rmSync(record.evidence, { recursive: true, force: true });
  journal.remove(record.id);
}
