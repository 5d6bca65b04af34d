import type { PortLimits } from '../../hypervisor/index.ts';

/** The configuration as the rest of the product sees it: defaults filled in, paths absolute, everything cross-checked. */
export interface Configuration {
  /** The file it was read from, absolute. */
  readonly file: string;
  /** Sockets, lock and scratch; emptied when the daemon ends. */
  readonly runDirectory: string;
  /** State store, write logs, evidence folders; survives restarts. */
  readonly stateDirectory: string;
  readonly network: NetworkConfiguration;
  readonly services: readonly ServiceConfiguration[];
  readonly partitions: readonly PartitionConfiguration[];
  readonly patching: PatchingConfiguration;
  readonly supervision: SupervisionConfiguration;
}

export interface NetworkConfiguration {
  readonly uplinks: readonly UplinkConfiguration[];
  readonly probe: ProbeConfiguration;
  /** Of the latest packets kept in the mux process; 0: none. */
  readonly historyMiB: number;
}

export interface UplinkConfiguration {
  /** Interface name in the host, at most 15 bytes. */
  readonly name: string;
  readonly kind: 'tap' | 'nic';
  /** 576 … 9000. */
  readonly mtu: number;
  /** Address in CIDR form that the host's own kernel gets on this interface; absent: left to the administrator. */
  readonly hostAddress?: string;
  /** The same over IPv6. */
  readonly hostAddress6?: string;
  /** Name of another uplink; frames pass between both. */
  readonly joins?: string;
}

/** The product's own client for health checks: a port of the mux. */
export interface ProbeConfiguration {
  /** CIDR. */
  readonly address: string;
  /** CIDR; present when a service has `address6`. */
  readonly address6?: string;
  /** CIDR; in further networks. */
  readonly also: readonly string[];
  readonly mac: string;
}

export interface ServiceConfiguration {
  readonly name: string;
  /** The address clients use, CIDR. */
  readonly address: string;
  /** The old partition's address while its connections drain (H8), CIDR; needed by strategy `overlap`. */
  readonly second?: string;
  readonly gateway?: string;
  /** The same three over IPv6; both addresses of a service move together. */
  readonly address6?: string;
  readonly second6?: string;
  readonly gateway6?: string;
  /** Further addresses, CIDR, that move together with it. */
  readonly also: readonly FurtherAddress[];
  readonly rehearsal?: RehearsalConfiguration;
  /** Partition that serves at the first start; afterwards the stored roles decide. */
  readonly active: string;
  readonly health: HealthConfiguration;
}

export interface FurtherAddress {
  readonly address: string;
  readonly second?: string;
  /** Name of the partitions' network device that carries it; absent: the first one. */
  readonly device?: string;
  /** Next hop out of its network. */
  readonly gateway?: string;
}

/** What the patched standby has to answer before any client is moved. */
export interface RehearsalConfiguration {
  readonly port: number;
  readonly timeoutMs: number;
  /** Compared, lower case. */
  readonly headers: readonly string[];
  readonly onDifference: 'refuse' | 'warn';
  readonly requests: readonly {
    readonly method: string;
    readonly path: string;
    readonly headers: readonly { readonly name: string; readonly value: string }[];
    readonly body?: string;
    readonly expectStatus?: number;
    readonly ignore: readonly string[];
    readonly ignoreText: readonly string[];
  }[];
  readonly recording?: RecordingConfiguration;
}

/** Which requests of clients are recorded for the rehearsal. */
export interface RecordingConfiguration {
  /** Empty: GET and HEAD. */
  readonly methods: readonly string[];
  /** Beginnings of targets; empty: any. */
  readonly paths: readonly string[];
  /** Kept beside those that say how an answer is to look; lower case. */
  readonly headers: readonly string[];
  readonly requests: number;
  readonly maxAgeMs: number;
  readonly connectionsPerSecond: number;
  readonly ignore: readonly string[];
  readonly ignoreText: readonly string[];
}

export type HealthConfiguration = { readonly http: HttpHealth } | { readonly tcp: TcpHealth };

export interface HttpHealth {
  readonly port: number;
  readonly path: string;
  readonly expectStatus: number;
  readonly timeoutMs: number;
}

export interface TcpHealth {
  readonly port: number;
  readonly timeoutMs: number;
}

export interface PartitionConfiguration {
  readonly id: string;
  readonly kind: 'process';
  readonly processor: { readonly cpu: number; readonly sharePercent: number; readonly capped: boolean };
  readonly memoryMiB: number;
  readonly disks: readonly DiskConfiguration[];
  readonly network: readonly NetworkDeviceConfiguration[];
}

export interface DiskConfiguration {
  readonly role: 'system' | 'application';
  /** Image file, absolute. */
  readonly path: string;
  /** The image is created, empty, with this size when it does not exist. */
  readonly sizeMiB?: number;
}

export interface NetworkDeviceConfiguration {
  readonly name: string;
  /** Lower case, unicast, locally administered. */
  readonly mac: string;
  /** Name of the uplink it is behind; absent: the first one. */
  readonly uplink?: string;
  readonly limits?: PortLimits;
}

export type ConfiguredStrategy = 'auto' | 'overlap' | 'hold' | 'drain';
export type ConfiguredProcedure = 'auto' | 'H6' | 'H7' | 'H8';

/** When something that ended, or does not answer, is started again, and when no more. */
export interface SupervisionConfiguration {
  /** A process or partition that does not answer for so long counts as dead: it is killed. */
  readonly answerMs: number;
  /** It is started again so many times within `withinMs`; then people are told. */
  readonly restarts: number;
  readonly withinMs: number;
  /** Rollbacks in a row that may fail before no further one is begun by itself. */
  readonly rollbacks: number;
  /** Starts of the control process that may fail to take up the same run. */
  readonly resumes: number;
}

export interface PatchingConfiguration {
  readonly sources: readonly PatchSourceConfiguration[];
  readonly allowUnsigned: boolean;
  readonly malwareScanner: 'none' | { readonly clamd: string };
  /** A run goes on, loudly marked, when nothing was scanned. */
  readonly allowUnscanned: boolean;
  readonly strategy: ConfiguredStrategy;
  readonly procedure: ConfiguredProcedure;
  /** Paths of the system disk whose changes after its cut are carried along. */
  readonly carry: readonly string[];
  /** Runs that are over and whose report, journal and evidence are kept. */
  readonly keepRuns: number;
  /** How disks get to the standby. */
  readonly copy: 'copy' | 'mirror';
  readonly budget: {
    /** Longest pause of the service at the cut. */
    readonly pauseMs: number;
    readonly copyMs: number;
    /** How long a request that may write gets to complete before the cut. */
    readonly quiesceMs: number;
    /** How long every accepted request gets to complete under `drain`. */
    readonly drainMs: number;
    /** How long the old partition gets to finish its flows after the cut. */
    readonly oldFlowsMs: number;
  };
  /** What becomes of writes of the old partition after the cut. */
  readonly lateWrites: 'refuse' | 'set-aside';
  readonly probation: {
    readonly startWaitMs: number;
    /** The service must be healthy for so long after the cut. */
    readonly stabilityMs: number;
    /** Failed checks in a row that count as a failure. */
    readonly tries: number;
    readonly rollbackOnFailure: boolean;
  };
}

export interface PatchSourceConfiguration {
  readonly name: string;
  readonly kind: 'directory';
  readonly path: string;
  /** PEM file, absolute. */
  readonly publicKey?: string;
}
