import type { GuestPatchResult } from '../../channel/index.ts';
import type { Strategy } from '../policy.ts';
import type { PauseForecast } from './calibration.ts';
import type { RunPhase } from './phase.ts';
import type { StepReport } from './step.ts';

/** What a run is about: fixed when it begins, kept in the journal's `run-begun` entry. */
export interface RunRecord {
  readonly id: string;
  readonly service: string;
  /** Active partition at the start. */
  readonly from: string;
  /** The standby. */
  readonly to: string;
  readonly strategy: Strategy;
  readonly strategyReason: string;
  /** Service address, CIDR. */
  readonly address: string;
  /** CIDR. */
  readonly second?: string;
  readonly gateway?: string;
  /** The same over IPv6. */
  readonly address6?: string;
  readonly second6?: string;
  readonly hasApplicationDisk: boolean;
  /** Patch files flagged for it. */
  readonly patches: readonly string[];
  readonly startedAtMs: number;
  readonly evidence: string;
}

/** Counted by the mux from the cut on. */
export interface PacketCounts {
  readonly rewritten: number;
  readonly steered: number;
  readonly held: number;
  readonly heldDropped: number;
  readonly rstSuppressed: number;
}

/** One move of the service from one partition to another: the cut, or the way back. */
export interface CutReport {
  readonly from: string;
  readonly to: string;
  readonly strategy: Strategy;
  readonly atMs: number;
  /** How long new requests could have waited: from the first hold to its release; 0 for overlap. */
  readonly pauseMs: number;
  readonly forecastPauseMs: number;
  /** Idle keep-alive connections that moved with their TCP state, during and after the cut. */
  handedOver: number;
  /** Connections that were finished by the old partition. */
  draining: number;
  /** Flows that were still open at the drain deadline. */
  abandoned: string[];
  packets: PacketCounts;
  readonly deltaBytes: string;
}

/** What the outside sees of a run. */
export interface RunReport extends RunRecord {
  readonly phase: RunPhase;
  readonly steps: readonly StepReport[];
  readonly cut?: CutReport;
  readonly rollback?: CutReport;
  readonly forecastPauseMs?: number;
  /** What the last forecast was made of, ms each. */
  readonly forecastParts?: PauseForecast['parts'];
  readonly patchResults: readonly GuestPatchResult[];
  readonly capture?: string;
  readonly hashes: Readonly<Record<string, string>>;
  readonly notices: readonly string[];
  /** Why it was undone or is not complete. */
  readonly reason?: string;
}
