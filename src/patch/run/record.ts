import type { FlowName, GuestPatchResult } from '../../channel/index.ts';
import type { AddressPair } from '../policy.ts';
import type { RehearsalReport } from '../rehearsal/index.ts';
import type { Procedure, Strategy } from '../strategy.ts';
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
  /** Absent in the journals of earlier versions: H8 for `overlap`, else H6. */
  readonly procedure?: Procedure;
  readonly strategyReason: string;
  /** Service address, CIDR. */
  readonly address: string;
  /** CIDR. */
  readonly second?: string;
  readonly gateway?: string;
  /** The same over IPv6. */
  readonly address6?: string;
  readonly second6?: string;
  /** Further addresses, CIDR; all of them move together. */
  readonly also?: readonly AddressPair[];
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
  /** How the network was told, and whether traffic was seen to follow. */
  announced?: Announced;
  /** Flows that were still open at the drain deadline. */
  abandoned: string[];
  packets: PacketCounts;
  readonly deltaBytes: string;
}

/** Announcements after a cut, and what clients were seen to do. */
export interface Announced {
  /** Announcements of each address. */
  readonly sent: number;
  /** Packets for the service that came with the hardware address of its new holder, and with another one. */
  readonly arrived: number;
  readonly readdressed: number;
  /** The last interval with traffic had none for the old hardware address. */
  readonly moved: boolean;
}

/** What a partition wrote to its system disk after that was cut: it is not on the copy. */
export interface SystemChanges {
  readonly partition: string;
  /** From when on, ms since 1970. */
  readonly sinceMs: number;
  readonly files: readonly { readonly path: string; readonly size: number }[];
  /** There are more than are listed. */
  readonly more: boolean;
  /** Those that were put onto the other partition's disk before its application started. */
  readonly carried: readonly string[];
  /** Why nothing could be listed. */
  readonly reason?: string;
}

/** A step that a run would take, for a dry run. */
export interface PlannedStep {
  readonly name: string;
  readonly figure: string;
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
  readonly rehearsal?: RehearsalReport;
  readonly systemChanges?: SystemChanges;
  /** Of a dry run: the steps of the cut that was not made. */
  readonly planned?: readonly PlannedStep[];
  readonly notices: readonly string[];
  /** Why it was undone or is not complete. */
  readonly reason?: string;
}

/** As reports name a flow. */
export function flowText(flow: FlowName): string {
  return `${flow.protocol} ${flow.remoteAddress}:${flow.remotePort} → ${flow.localAddress}:${flow.localPort}`;
}
