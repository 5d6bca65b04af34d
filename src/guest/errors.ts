import { CodedError } from '../common/index.ts';

/** What a guest cannot do; the code and the remedy travel to whoever asked through its agent. */
export class GuestError extends CodedError {}
