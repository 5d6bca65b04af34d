import type { CodedErrorOptions } from '../common/index.ts';
import { CodedError } from '../common/index.ts';

export const PATCH_ERRORS = [
  'no-standby',
  'nothing-flagged',
  'not-scanned',
  'over-budget',
  'wrong-phase',
  'no-such-run',
  'no-such-patch',
  'no-such-service',
  'run-in-progress',
  'bad-patch',
  'unsigned',
  'patch-failed',
  'copy-failed',
  'standby-failed',
  'unhealthy',
  'not-quiet',
  'bad-combination',
  'rehearsal-differs',
  'cancelled',
  'journal-newer',
] as const;
export type PatchErrorCode = (typeof PATCH_ERRORS)[number];

/** Codes that mean "refused by budget or policy, nothing was begun": exit code 3 of the command line. */
export const REFUSALS: readonly PatchErrorCode[] = [
  'no-standby',
  'nothing-flagged',
  'not-scanned',
  'over-budget',
  'unsigned',
  'not-quiet',
  'bad-combination',
  'rehearsal-differs',
];

export class PatchError extends CodedError {
  declare readonly code: PatchErrorCode;
  constructor(code: PatchErrorCode, message: string, options: CodedErrorOptions = {}) {
    super(code, message, options);
  }
}
