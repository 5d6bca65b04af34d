/** What a copy under write log is told and tells. */
import type { Clock } from '../../common/index.ts';
import { CodedError } from '../../common/index.ts';
import type { CopyMethod } from './bulk-copy.ts';
import type { ConvergenceLimits } from './convergence.ts';
import type { LogMark } from './copy-journal.ts';
import type { DiskStack } from './disk-stack.ts';
import type { InvalidMark } from './invalid-mark.ts';

/** `size-mismatch`, `busy`, `cancelled`, `copy-failed`, `unknown-disk`, `not-equal`, `not-resumable`. */
export class CopyError extends CodedError {}

export function stillCopying(name: string): CopyError {
  return new CopyError('busy', `copy ${name} is still copying`, { remedy: 'wait for phase `converged`' });
}

export interface CopyPair {
  readonly from: DiskStack;
  readonly to: DiskStack;
  readonly mark: InvalidMark;
  /** Where it is kept that the log of the source is complete; without, a copy that died begins anew. */
  readonly logMark?: LogMark;
}

export type CopyPhase = 'copying' | 'replaying' | 'converged' | 'cut' | 'failed' | 'cancelled';

export interface CopyProgress {
  readonly phase: CopyPhase;
  /** Bytes of data to copy and copied. */
  readonly total: number;
  readonly copied: number;
  /** Bytes written to the sources and not yet reflected. */
  readonly delta: number;
  readonly rounds: number;
  readonly bytesPerSecond: number;
  readonly writeRate: number;
  readonly etaMs?: number;
  /** Bytes of the targets that were read back and found equal. */
  readonly proven?: number;
  /** Bytes of the targets that are still to be read back. */
  readonly unproven?: number;
  /** How the bulk copy is made; absent before its first byte. */
  readonly method?: CopyMethod;
  /** It goes on with what a killed process had copied. */
  readonly resumed?: boolean;
  /** Bytes per second of writes that the rounds reflect, measured. */
  readonly reflectRate: number;
  /** Of a mirror: halves that were dropped, and why. */
  readonly dropped?: string;
  /** Writers are slowed down to this rate; how many writes, and how long together. */
  readonly throttle?: {
    readonly bytesPerSecond: number;
    readonly maxDelayMs: number;
    readonly delayedWrites: number;
    readonly delayedMs: number;
  };
  readonly reason?: string;
}

/** What carries the contents of disks to others while they are written: a copy under write log, the way back, or a mirror. */
export interface LiveCopy {
  readonly name: string;
  readonly purpose: 'copy' | 'reverse' | 'mirror';
  /** Pairs that were not cut yet. */
  readonly pairs: readonly CopyPair[];
  progress(): CopyProgress;
  round(): Promise<number>;
  cut(options?: CutOptions): Promise<CutOutcome>;
  cancel(reason?: string): Promise<void>;
  suspend(): Promise<void>;
}

export interface CopyGroupOptions {
  readonly name: string;
  readonly pairs: readonly CopyPair[];
  /** Each source's log gets a directory in it, named for the disk. */
  readonly logDirectory: string;
  /** A copy, or the log for the way back of disks that are equal now. */
  readonly purpose: 'copy' | 'reverse';
  /** Go on with logs that a former process left: always for purpose `reverse`; `only`: `not-resumable` when a copy cannot. */
  readonly resume?: boolean | 'only';
  /** With `resume`: the log of this disk is known to be incomplete (it spilled). */
  readonly distrust?: (diskId: string) => boolean;
  /** Bytes per second of the bulk copy; 0 = no limit. */
  readonly rateLimit?: number;
  /** Each log takes at most so many bytes; default half of what is free in `logDirectory`. */
  readonly logCapBytes?: number;
  readonly segmentBytes?: number;
  /** Prove targets in the background while they are copied; default true for purpose `copy`. */
  readonly proof?: boolean;
  /** How far writers may be slowed down that outrun the rounds, and when it is given up. */
  readonly convergence?: Partial<ConvergenceLimits>;
  readonly clock?: Clock;
  /** Something changed: a phase, a round, a share of the copy. */
  readonly onProgress?: () => void;
  /** The log of a source spilled: called before the guest's write goes on. */
  readonly onSpill?: (diskId: string, reason: string) => void;
}

export interface CutOptions {
  /** Ids of sources; default: all that are left. */
  readonly from?: readonly string[];
  /** For each source while all stand still, before its target becomes valid: puts the fence up, durably; takes it down again. */
  readonly fence?: {
    readonly raise: (source: DiskStack) => Promise<void>;
    readonly lower: (source: DiskStack) => Promise<void>;
  };
  /**
   * Prove that each target equals its source as of the cut, before the fence is up. `true`: every byte of the target is read back
   * during this cut. `bounded`: what the background read back since it was written counts, and what it did not get to is told
   * (`unproven`); only what was reflected since is compared, while writes stand still.
   */
  readonly verify?: boolean | 'bounded';
}

/** What was proven of one target, bytes. */
export interface DiskProof {
  /** Read back from the target and compared with the source by keyed hash, in all. */
  readonly readBack: number;
  /** In leaves of 1 MiB that were proven before the pause: read back, or holes on both sides. */
  readonly proven: number;
  /** Compared byte by byte while writes stood still: what was reflected since its leaf was proven. Of a mirror: all, after the pause. */
  readonly compared: number;
  /** Not proven: 0 unless `bounded`. */
  readonly unproven: number;
  /** Age of the oldest read-back that counts, ms. */
  readonly oldestMs?: number;
}

export interface CutDisk {
  readonly from: string;
  readonly to: string;
  readonly sequence: bigint;
  readonly deltaBytes: number;
  /** With `verify`. */
  readonly proof?: DiskProof;
}

export interface CutOutcome {
  readonly disks: readonly CutDisk[];
  /** How long writes stood still. */
  readonly durationMs: number;
}
