import type { Clock, Log } from '../../common/index.ts';
import type { DisksClient, HypervisorSurface, MuxClient } from '../../hypervisor/index.ts';
import type { Journal } from '../journal.ts';
import type { PatchTableStore } from '../patch-table.ts';
import type { HealthCheck, PatchingPolicy, ServiceSpec } from '../policy.ts';
import type { HttpAnswer } from '../rehearsal/index.ts';
import type { PauseCalibration } from './calibration.ts';

/** Answer of one health check. */
export interface ProbeAnswer {
  readonly ok: boolean;
  readonly durationMs: number;
  /** Status line, or why there was no answer. */
  readonly detail: string;
  /** Source port that the probe used: the flow can be looked up at the mux. */
  readonly localPort: number;
}

/** One HTTP request of the probe, on a connection of its own. */
export interface ProbeRequest {
  readonly method: string;
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  /** What the Host header names. */
  readonly host: string;
  readonly port: number;
  readonly timeoutMs: number;
}

export interface ProbeExchange {
  /** Absent when there was none that is whole; `detail` says why. */
  readonly answer?: HttpAnswer;
  readonly detail: string;
  readonly localPort: number;
}

/**
 * The product's own client: a small stack at a port of the mux of its own. It asks as a client on the uplink's segment
 * would, or over the private path a partition that is still isolated.
 */
export interface ServiceProbe {
  check(address: string, health: HealthCheck): Promise<ProbeAnswer>;
  /** A check whose answer only draws a curve: undefined while the probe's port leads to a partition that is still isolated. */
  pulse(address: string, health: HealthCheck): Promise<ProbeAnswer | undefined>;
  /** Does `work` with the probe's port to itself; pulses under way are abandoned. */
  privately<T>(work: () => Promise<T>): Promise<T>;
  /** Never throws. */
  exchange(address: string, request: ProbeRequest): Promise<ProbeExchange>;
  /** The probe's addresses, text form. */
  readonly addresses: readonly string[];
  /** Name of its port at the mux. */
  readonly port: string;
}

/** Which partition serves; kept by the daemon, durable when a call returns. */
export interface RoleStore {
  active(service: string): string;
  setActive(service: string, partition: string): void;
}

/** After so many failures of the same kind in a row a run is left to people. */
export interface RunLimits {
  /** Rollbacks that the watch of the probation begins. */
  readonly rollbacks: number;
  /** Times that a starting control process takes up a run. */
  readonly resumes: number;
}

/** Everything a run acts on. */
export interface RunEnvironment {
  readonly hypervisor: HypervisorSurface;
  readonly mux: MuxClient;
  readonly disks: DisksClient;
  readonly probe: ServiceProbe;
  readonly journal: Journal;
  readonly patches: PatchTableStore;
  readonly roles: RoleStore;
  readonly policy: PatchingPolicy;
  readonly services: readonly ServiceSpec[];
  readonly clock: Clock;
  readonly log: Log;
  /** Folder below which write logs and evidence are kept. */
  readonly stateDirectory: string;
  readonly calibration: PauseCalibration;
  readonly limits: RunLimits;
  /** Of this process. */
  readonly collectGarbage: (which: 'young' | 'all') => void;
  /** Tells people what nothing goes on by itself with. */
  readonly alarm: (sentence: string) => void;
  /** Text of the patch execution script (706). */
  readonly patchScript: string;
}
