/** The JSON shapes that the API answers with. Stable: fields are added, not changed. Times `…Ms` are ms since 1970. */
import type { GuestPhase } from '../../channel/index.ts';
import type { PartitionStatus } from '../../hypervisor/index.ts';
import type { RunReport } from '../../patch/index.ts';
import type { DiskConfiguration, NetworkDeviceConfiguration } from '../configuration/index.ts';
import type { KeptProcessStatus } from '../processes/kept-process.ts';

/** `active`: serves. `previous`: served before the cut of a run on probation. `standby`: being prepared by a run. */
export type PartitionRole = 'active' | 'previous' | 'standby' | 'free';

export interface PartitionView {
  readonly id: string;
  readonly kind: string;
  readonly role: PartitionRole;
  /** Service of which it has the role. */
  readonly service?: string;
  readonly state: PartitionStatus['state'];
  readonly phase?: GuestPhase;
  readonly pid?: number;
  readonly addresses: readonly string[];
  readonly isolated: boolean;
  readonly applicationDisk: boolean;
  readonly bootMs?: number;
  readonly connections?: number;
  readonly requestsInFlight?: number;
  readonly processor: { readonly cpu: number; readonly sharePercent: number };
  readonly memoryMiB: number;
  readonly disks: readonly DiskConfiguration[];
  readonly network: readonly NetworkDeviceConfiguration[];
  readonly reason?: string;
  readonly notes: readonly string[];
  readonly lastOutput: readonly string[];
}

export interface HealthView {
  readonly ok: boolean;
  readonly durationMs: number;
  readonly detail: string;
}

export interface ServiceView {
  readonly name: string;
  readonly address: string;
  readonly second?: string;
  /** The same over IPv6. */
  readonly address6?: string;
  readonly second6?: string;
  readonly active: string;
  /** Who served before; absent when the service was never moved. */
  readonly previous?: string;
  /** When it was moved last. */
  readonly sinceMs?: number;
  /** Answer of the probe through the service address; absent when the active does not run. */
  readonly health?: HealthView;
  /** Requests of clients that were recorded for its rehearsal; absent where none are. */
  readonly recorded?: number;
}

/** A run as reported, whether something is being done for it right now, and what the last thing done failed of. */
export interface RunView extends RunReport {
  readonly working: boolean;
  readonly error?: { readonly code: string; readonly message: string; readonly remedy?: string };
}

export interface StatusView {
  readonly version: string;
  readonly pid: number;
  readonly startedAtMs: number;
  readonly configuration: string;
  readonly runDirectory: string;
  readonly stateDirectory: string;
  readonly processes: { readonly mux: KeptProcessStatus; readonly block: KeptProcessStatus };
  readonly uplinks: readonly { readonly name: string; readonly mtu: number; readonly hostAddress?: string }[];
  readonly services: readonly ServiceView[];
  readonly partitions: readonly PartitionView[];
  /** The run that is not over yet. */
  readonly run?: RunView;
  readonly captures: readonly string[];
  /** What is not as it should be, one sentence each. */
  readonly complaints: readonly string[];
}

export interface PatchScanView {
  readonly registered: readonly unknown[];
  readonly refused: readonly string[];
}
