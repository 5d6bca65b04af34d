/**
 * The words of the control program [305]: what the hypervisor says to a partition and the partition answers, over a byte
 * channel that is no network device. `guest-*` are the QEMU guest agent's own (a `vm` with the standard agent answers
 * them); `changeover-*` are ours, answered by guests of kind `process`, and by other kinds through their helper.
 */
import type { CommandMap, EventMap } from './protocol.ts';

/** A transport flow as the guest names it; addresses in text form, ports 0 … 65535. */
export interface FlowName {
  readonly protocol: 'tcp' | 'udp';
  readonly localAddress: string;
  readonly localPort: number;
  readonly remoteAddress: string;
  readonly remotePort: number;
}

/** Outcome of one start-up script (Fig 11). */
export interface StartUpResult {
  readonly script: string;
  readonly ok: boolean;
  readonly durationMs: number;
  /** Last lines of what it printed, or its error. */
  readonly output: string;
}

/** Row of the patch table as it stands on the guest's system disk after the patch script ran (Fig 6, 1205). */
export interface GuestPatchResult {
  readonly file: string;
  readonly ok: boolean;
  readonly at: string;
  readonly output: string;
}

export const GUEST_PHASES = [
  'booting',
  'ready',
  'starting',
  'serving',
  'frozen',
  'stopping',
  'failed',
] as const;
export type GuestPhase = (typeof GUEST_PHASES)[number];

/** How far an application has come without its disk. */
export type LoadState = 'waits-for-disk' | 'listening' | 'evaluated' | 'loading';

export interface GuestStatus {
  /** `ready`: start-up scripts done, application not started. `serving`: application listens. `frozen`: quiesced. */
  readonly phase: GuestPhase;
  readonly bootMs: number;
  readonly startUp: readonly StartUpResult[];
  /** Addresses of the partition's network device, CIDR. */
  readonly addresses: readonly string[];
  /** TCP ports the application listens on. */
  readonly listening: readonly number[];
  readonly connections: number;
  readonly requestsInFlight: number;
  /** From the attaching of its disk until the loaded application listened; absent before that. */
  readonly applicationStartMs?: number;
  /** Why, when `phase` is `failed`. */
  readonly reason?: string;
}

/** State of one TCP connection between two requests, as JSON. The fields belong to the stack that wrote it. */
export type ConnectionState = { readonly flow: FlowName } & Readonly<Record<string, unknown>>;

/** What the partition's stack tells about itself, as JSON. The fields belong to the stack (`StackFigures` of netstack). */
export type NetworkFigures = Readonly<Record<string, unknown>>;

/** A neighbour on the segment, as its partition knew it: the other one need not ask (ARP, neighbour discovery) before it can send. */
export interface Neighbor {
  /** IPv4 or IPv6, text form. */
  readonly address: string;
  readonly mac: string;
  /** Number of the network device that it is behind, from 0; absent: 0. */
  readonly device?: number;
}

/** Token of the barrier frame that is waited for; several: one on each network device that the addresses in question are on. */
export type Barrier = number | readonly number[];

export interface GuestCommands extends CommandMap {
  'guest-ping': { arguments: object; result: object };
  'guest-sync': { arguments: { id: number }; result: number };
  'guest-info': {
    arguments: object;
    result: { version: string; supported_commands: { name: string; enabled: boolean }[] };
  };
  'guest-exec': {
    arguments: {
      path: string;
      arg?: string[];
      env?: string[];
      'input-data'?: string;
      'capture-output'?: boolean;
    };
    result: { pid: number };
  };
  'guest-exec-status': {
    arguments: { pid: number };
    result: { exited: boolean; exitcode?: number; signal?: number; 'out-data'?: string; 'err-data'?: string };
  };
  /** Flushes every mounted file system to its disk and keeps further writes waiting; number of file systems. */
  'guest-fsfreeze-freeze': { arguments: object; result: number };
  'guest-fsfreeze-thaw': { arguments: object; result: number };
  'guest-fsfreeze-status': { arguments: object; result: 'thawed' | 'frozen' };
  'guest-file-open': { arguments: { path: string; mode?: string }; result: number };
  'guest-file-read': {
    arguments: { handle: number; count?: number };
    result: { count: number; 'buf-b64': string; eof: boolean };
  };
  'guest-file-write': {
    arguments: { handle: number; 'buf-b64': string };
    result: { count: number; eof: boolean };
  };
  'guest-file-close': { arguments: { handle: number }; result: object };
  'guest-network-get-interfaces': {
    arguments: object;
    result: {
      name: string;
      'hardware-address': string;
      'ip-addresses': { 'ip-address': string; 'ip-address-type': 'ipv4' | 'ipv6'; prefix: number }[];
    }[];
  };
  'guest-shutdown': { arguments: { mode?: 'halt' | 'powerdown' | 'reboot' }; result: object };

  'changeover-status': { arguments: object; result: GuestStatus };
  /** 1207: results of the patch script of this boot; `table` is the file as text. Empty when nothing was flagged. */
  'changeover-patch-results': { arguments: object; result: { results: GuestPatchResult[]; table: string } };
  /**
   * Begins to run the application before its disk is there: whatever it asks of the disk waits. Answers as soon as it can do no
   * more, or after `limitMs`. Not needed before a start.
   */
  'changeover-application-load': {
    arguments: { limitMs: number };
    result: { state: LoadState; durationMs: number };
  };
  /** Attaches the application disk, mounts it and starts the application; answers when it listens. */
  'changeover-application-start': {
    arguments: { timeoutMs: number };
    result: { listening: number[]; durationMs: number };
  };
  /** 1602: takes `address` (CIDR). While the port is isolated nothing is announced. */
  'changeover-address-take': { arguments: { address: string; gateway?: string }; result: object };
  /** First half of 2202: from now on packets to `to` reach the sockets of `from` as well. */
  'changeover-address-prepare': { arguments: { from: string; to: string }; result: object };
  /** Second half of 2202: open connections of `from` are made over to `to`; the address `from` is given up. */
  'changeover-address-alter': { arguments: { from: string; to: string }; result: { connections: number } };
  /** Before clients wait for it: the guest collects its garbage now, so that it need not while they do. */
  'changeover-collect': { arguments: { young: boolean }; result: object };
  /** 1603, 1505, 2203: gratuitous ARP for every address the partition holds. */
  'changeover-announce': { arguments: object; result: object };
  /**
   * 1301, 1302 without refusing anybody: connections between two requests stop being read (their bytes stay in the
   * stack), then requests that may write (HTTP methods other than GET, HEAD, OPTIONS; every request of other protocols)
   * get up to `budgetMs` to complete. `draining`: flows whose request goes on (safe methods). `unfinished`: flows that
   * exceeded the budget while they may write. With `all` every request is waited for, also those that only read; `draining`
   * are then connections without a request in flight that cannot be moved. With `freeze`, when nothing is unfinished, file systems
   * are frozen as by `guest-fsfreeze-freeze`, otherwise in sync.
   */
  'changeover-quiesce': {
    arguments: { budgetMs: number; all?: boolean; freeze?: boolean };
    result: { draining: FlowName[]; unfinished: FlowName[]; idle: FlowName[]; waitedMs: number };
  };
  /** For a hand-over that makes few wait at a time: at most `most` connections between two requests stop being read, no other. */
  'changeover-freeze-idle': { arguments: { most: number }; result: { idle: FlowName[] } };
  /**
   * Undo of quiesce and freeze-idle: connections are read again. With `reclaim` also of the last export: what it took out is put back,
   * whether its answer has reached anybody or not.
   */
  'changeover-resume': { arguments: { reclaim?: boolean }; result: { reclaimed: number } };
  /**
   * Takes the idle (frozen) connections (with `flows`: only those of them) out of the stack; what arrives for them afterwards is dropped without an answer.
   * Waits for the barrier frame `barrier` (see the mux) when given, or for one on each network device, so that nothing is still on its way in.
   */
  'changeover-connections-export': {
    arguments: { barrier?: Barrier; timeoutMs?: number; flows?: FlowName[] };
    result: { connections: ConnectionState[]; neighbors: Neighbor[] };
  };
  /**
   * Ends our side of those of `flows` on which nothing is in flight and that cannot be moved (TLS, protocols that are not known).
   * With `barrier` after that frame of the mux has come, so that no request is on its way in.
   */
  'changeover-wind-down': {
    arguments: { flows: FlowName[]; barrier?: Barrier; timeoutMs?: number };
    result: { ended: FlowName[] };
  };
  /** Puts connections of the same service address into the stack and hands them to the application as accepted. */
  'changeover-connections-import': {
    arguments: { connections: ConnectionState[]; neighbors?: Neighbor[] };
    result: { imported: number; refused: { flow: FlowName; reason: string }[] };
  };
  /**
   * Checks the hand-over of connections inside the guest, over in-memory links: `rounds` times `connections` are opened,
   * used, moved and used again. Error `self-check-failed`.
   */
  'changeover-self-check': {
    arguments: { rounds: number; connections: number };
    result: { requests: number; durationMs: number; lastRoundMs: number };
  };
  /**
   * Files of the system disk (below `under`) that were written, made or replaced at or after `sinceMs` (ms since 1970), by
   * path, at most `limit`. What was deleted cannot be seen.
   */
  'changeover-changed-files': {
    arguments: { sinceMs: number; limit: number; under?: string[] };
    result: { files: { path: string; size: number; changedMs: number }[]; more: boolean };
  };
  /** The stack's own figures: per connection its times and windows, counters, drops by reason. */
  'changeover-network-figures': { arguments: object; result: NetworkFigures };
  'changeover-connections': {
    arguments: object;
    result: { connections: { flow: FlowName; state: string; requests: 'idle' | 'safe' | 'unsafe' }[] };
  };
}

export interface GuestEvents extends EventMap {
  /** A line the guest or its application printed. */
  CONSOLE: { stream: 'stdout' | 'stderr' | 'kernel'; line: string };
  PHASE: { phase: GuestPhase; reason?: string };
}
