/** What the administrator allows and asks for; the daemon fills it from the configuration file. */
import type { Procedure, Strategy } from './strategy.ts';

/** A request that the patched standby has to answer as the active does, before any client is moved. */
export interface RehearsalRequest {
  readonly method: string;
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  /** What to do without: `status`, `body`, or a header in lower case. */
  readonly ignore?: readonly string[];
  /** Regular expressions; what they match is left out of both bodies. */
  readonly ignoreText?: readonly string[];
  /** Status that the standby has to answer with, instead of the active's: for what the patch changes, and for requests that write. */
  readonly expectStatus?: number;
  /** A client's: its query is not told to people. */
  readonly recorded?: boolean;
}

/** Which requests of clients are recorded at the mux, and what may differ in their answers. */
export interface RecordingSpec {
  readonly methods: readonly string[];
  readonly paths: readonly string[];
  readonly headers: readonly string[];
  readonly requests: number;
  readonly maxAgeMs: number;
  readonly connectionsPerSecond: number;
  readonly ignore: readonly string[];
  readonly ignoreText: readonly string[];
}

export interface RehearsalSpec {
  readonly requests: readonly RehearsalRequest[];
  /** Absent: only those of the configuration are rehearsed. */
  readonly recording?: RecordingSpec;
  /** Header names that are compared, lower case. */
  readonly headers: readonly string[];
  /** What a difference does. */
  readonly onDifference: 'refuse' | 'warn';
  readonly port: number;
  readonly timeoutMs: number;
}

export type HealthCheck =
  | {
      readonly http: {
        readonly port: number;
        readonly path: string;
        readonly expectStatus: number;
        readonly timeoutMs: number;
      };
    }
  | { readonly tcp: { readonly port: number; readonly timeoutMs: number } };

/** An address of a service with the one that the old partition takes while its connections drain. CIDR. */
export interface AddressPair {
  readonly address: string;
  readonly second?: string;
}

export interface ServiceSpec {
  readonly name: string;
  /** The address clients use, CIDR. */
  readonly address: string;
  /** The old partition's address while its connections drain (H8), CIDR. */
  readonly second?: string;
  readonly gateway?: string;
  /** The same over IPv6; `second6` wherever there are `address6` and `second`. */
  readonly address6?: string;
  readonly second6?: string;
  /** Further addresses of either family. */
  readonly also?: readonly AddressPair[];
  readonly health: HealthCheck;
  readonly rehearsal?: RehearsalSpec;
}

export interface PatchingPolicy {
  readonly allowUnsigned: boolean;
  readonly malwareScanner: 'none' | { readonly clamd: string };
  readonly allowUnscanned: boolean;
  readonly strategy: 'auto' | Strategy;
  /** Default `auto`. */
  readonly procedure?: 'auto' | Procedure;
  /** How the disks get to the standby: by a copy under write log, or as the second half of a mirror. Default `copy`. */
  readonly copy?: 'copy' | 'mirror';
  readonly budget: {
    /** Longest pause of the service at the cut that a forecast may announce, ms. */
    readonly pauseMs: number;
    /** Longest time the copy may take until it has converged, ms. */
    readonly copyMs: number;
    /** How long a request that may write gets to complete before the cut, ms. */
    readonly quiesceMs: number;
    /** How long accepted requests get to complete under `drain` while new ones wait, ms. Default 5000. */
    readonly drainMs?: number;
    /** How long the old partition gets to finish its flows after the cut, ms. Default 60 000. */
    readonly oldFlowsMs?: number;
  };
  readonly lateWrites: 'refuse' | 'set-aside';
  /** Files and folders of the system disk whose changes after its cut are carried to the new active. Default none. */
  readonly carry?: readonly string[];
  /** Runs that are over and whose report, journal and evidence are kept. Default 100. */
  readonly keepRuns?: number;
  readonly probation: {
    readonly startWaitMs: number;
    readonly stabilityMs: number;
    readonly tries: number;
    readonly rollbackOnFailure: boolean;
  };
}

/** The addresses of a service, CIDR, the main one first. They move together. */
export function addressPairs(service: Omit<ServiceSpec, 'name' | 'health' | 'rehearsal'>): AddressPair[] {
  const { address, second, address6, second6, also = [] } = service;
  const pair = (first: string, other: string | undefined) =>
    other === undefined ? { address: first } : { address: first, second: other };
  return [pair(address, second), ...(address6 === undefined ? [] : [pair(address6, second6)]), ...also];
}

/** Address part of a CIDR. */
export function bareAddress(cidr: string): string {
  return cidr.split('/')[0] ?? cidr;
}
