import { CodedError } from '../common/index.ts';

/** Codes: `usage`, `no-daemon`, `not-there`, and those that the daemon answered with. */
export class CliError extends CodedError {}
