import { codeOf } from '../common/index.ts';

/** Exit codes of every command; documented in docs/cli.md. */
export const EXIT = {
  done: 0,
  /** Failed; what had been begun was rolled back. */
  failed: 1,
  usage: 2,
  /** Refused by budget or policy, nothing was begun. */
  refused: 3,
  /** Partly done; it goes on in the daemon or can be taken up again. */
  resumable: 4,
} as const;
export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

const REFUSED: ReadonlySet<string> = new Set([
  'no-standby',
  'nothing-flagged',
  'not-scanned',
  'over-budget',
  'unsigned',
  'not-quiet',
  'bad-combination',
  'rehearsal-differs',
]);

const USAGE: ReadonlySet<string> = new Set(['usage', 'bad-request', 'configuration-invalid']);

export function exitCodeOf(thrown: unknown): ExitCode {
  const code = codeOf(thrown) ?? '';
  if (REFUSED.has(code)) return EXIT.refused;
  return USAGE.has(code) ? EXIT.usage : EXIT.failed;
}
