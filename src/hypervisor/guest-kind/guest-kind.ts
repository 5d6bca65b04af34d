import { CodedError } from '../../common/index.ts';
import type { PartitionConfig } from '../partition/index.ts';

export class GuestKindError extends CodedError {}

/** What a guest kind gets to start one partition: where its ports, its disks and its agent are. */
export interface GuestSpec {
  readonly config: PartitionConfig;
  /** CIDR. */
  readonly addresses: readonly string[];
  /** Sockets of its ports at the mux, one for each of `config.network`. */
  readonly portSockets: readonly string[];
  /** NBD exports `system` and `application`. */
  readonly blockSocket: string;
  /** The guest listens here for the control program. */
  readonly agentSocket: string;
  readonly bootFile: string;
  readonly scratchDirectory: string;
  readonly logFile: string;
  /** May be shared by partitions, is not by users. */
  readonly cacheDirectory: string;
  readonly lifeline: boolean;
}

export interface GuestExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** A guest that runs, or ran. */
export interface RunningGuest {
  readonly pid: number;
  /** Resolves when it has ended, for whatever reason. */
  readonly exited: Promise<GuestExit>;
  /** What could not be enforced, in words. */
  readonly notes: readonly string[];
  /** Last lines it printed. */
  lastOutput(lines?: number): string[];
  /** SIGKILL. */
  kill(): void;
}

/** How a partition is run. One folder per kind behind this interface. */
export interface GuestKind {
  readonly name: string;
  start(spec: GuestSpec): Promise<RunningGuest>;
  /** Takes over a guest that an earlier control process started; undefined when it does not run any more. */
  adopt(spec: Omit<GuestSpec, 'addresses'>): Promise<RunningGuest | undefined>;
}
