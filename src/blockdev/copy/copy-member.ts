import type { LogPosition, WriteLog } from '../log/index.ts';
import type { CopyPair } from './copy-types.ts';

/** One disk of a copy, and how far its log is reflected. */
export interface Member {
  readonly pair: CopyPair;
  readonly log: WriteLog;
  position: LogPosition | undefined;
  /** `log.logged` as of the last round. */
  reflected: number;
  touched: boolean;
}

export function memberOf(pair: CopyPair, log: WriteLog): Member {
  return { pair, log, position: undefined, reflected: 0, touched: false };
}

/** Bytes written to the source that are not reflected yet. */
export function deltaOf({ log, reflected }: Member): number {
  return log.logged - reflected + log.dirtyBytes;
}
