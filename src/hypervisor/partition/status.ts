import type { GuestStatus } from '../../channel/index.ts';
import type { PartitionState } from './lifecycle.ts';

export interface PartitionStatus {
  readonly id: string;
  readonly state: PartitionState;
  /** While it runs. */
  readonly pid?: number;
  /** CIDR; what the guest said last. */
  readonly addresses: readonly string[];
  /** The port passes nothing but private paths. */
  readonly isolated: boolean;
  /** The application disk is among the NBD exports of the partition. */
  readonly applicationDisk: boolean;
  /** Answer of the guest, when it runs and answered. */
  readonly guest?: GuestStatus;
  /** Why, when `state` is `failed`. */
  readonly reason?: string;
  /** Last lines the partition printed. */
  readonly lastOutput: readonly string[];
  /** What could not be enforced, in words: cgroup limits for instance. */
  readonly notes: readonly string[];
}

export interface StartOptions {
  /** CIDR, first one is the primary. */
  readonly addresses: readonly string[];
  /** The port is attached to nothing but private paths until `port-state` says otherwise. */
  readonly isolated: boolean;
  /** Export the application disk to the guest. */
  readonly applicationDisk: boolean;
  /** Start the application (mounts the application disk) before the call returns. */
  readonly startApplication: boolean;
  /** Default 10 000. */
  readonly timeoutMs?: number;
}
