/**
 * Vocabulary of the mux process (channel `changeover-mux`). Every command takes effect between two packets, and is
 * idempotent for the same arguments. Addresses of either family in text form without prefix length; MACs as `02:00:00:00:00:01`.
 */
import type { CommandMap, EventMap, FlowName } from '../../channel/index.ts';
import type { PortLimits } from './rate-limit.ts';

/** Name of the ring that a daemon keeps (configuration: network.historyMiB). */
export const HISTORY = 'history';

export interface PortStatus {
  readonly name: string;
  readonly kind: 'tap' | 'nic' | 'stream';
  readonly role: 'uplink' | 'partition' | 'probe';
  readonly mac?: string;
  /** The uplink it was put behind; of an uplink: the one it joins. Absent: the first uplink; of an uplink: it joins none. */
  readonly uplink?: string;
  /** `isolated`: connected, but nothing passes except over a private path. */
  readonly state: 'attached' | 'isolated' | 'disconnected';
  /** Of a partition's or probe's port that is connected: by what its packets come and go. */
  readonly carrier?: 'stream' | 'ring';
  /** Packets, as units of up to 64 KiB. */
  readonly received: number;
  readonly transmitted: number;
  /** Bytes of frames. */
  readonly receivedBytes: number;
  readonly transmittedBytes: number;
  readonly limits?: PortLimits;
  /** Times that the other end was left unread because of its limit. */
  readonly heldBack?: number;
  /** Drops by named reason. */
  readonly drops: Readonly<Record<string, number>>;
}

/**
 * Counts since the last `switch` or `hold-start` of the address, and over all. What belongs to an operation goes on counting: a
 * switch during a hold, a hold of named flows.
 */
export interface SwitchCounters {
  readonly rewritten: number;
  readonly steered: number;
  readonly held: number;
  readonly heldDropped: number;
  readonly rstSuppressed: number;
  /** Packets from uplinks along the path, by destination MAC: the port's own, and another one. */
  readonly arrived?: number;
  readonly readdressed?: number;
  /** Longest time a held packet waited, ms. */
  readonly longestHoldMs: number;
}

export interface HoldLimits {
  readonly packets?: number;
  readonly bytes?: number;
  /** After it the hold is released to the port the address points to, and an event says so. */
  readonly timeoutMs?: number;
}

/** A request of a client as it came last; see recording/. */
export interface RecordedRequest {
  readonly method: string;
  /** Target, with its query. */
  readonly path: string;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
  /** How often it came on connections that were followed. */
  readonly count: number;
  /** Since it came last. */
  readonly ageMs: number;
}

export interface MuxCommands extends CommandMap {
  /**
   * Owns a TAP of this network namespace, created when absent. Its kernel side is the host's. Or shares (`kind: nic`) an
   * interface that the host has, with the host, who must not have the addresses of services: `host-address`. `mtu` of a NIC:
   * no longer packets leave; it cannot exceed the interface's. Frames of one uplink never leave by another, unless it
   * `joins` it, directly or over a third one.
   */
  'uplink-add': {
    arguments: {
      name: string;
      kind?: 'tap' | 'nic';
      mtu?: number;
      offload?: boolean;
      joins?: string;
      limits?: PortLimits;
    };
    result: PortStatus;
  };
  /**
   * Listens on `socket` for one partition. Frames as QEMU's `-netdev stream` (32-bit big-endian length, frame); with
   * `vnetHeader` as QEMU's vnet_hdr_support filters: length, 32-bit big-endian header length (10), header, frame.
   * `addresses` are what the partition may use as source; empty = any (role probe only). Isolated at first.
   * `uplink`: the one it is behind, default the first that was added. A probe is reached from behind every uplink.
   */
  'port-add': {
    arguments: {
      name: string;
      socket: string;
      mac: string;
      addresses: string[];
      role?: 'partition' | 'probe';
      vnetHeader?: boolean;
      uplink?: string;
      limits?: PortLimits;
    };
    result: PortStatus;
  };
  /** Replaces the limits of a port or uplink; null: none. Buckets begin full. */
  'port-limits': { arguments: { name: string; limits: PortLimits | null }; result: PortStatus };
  'port-remove': { arguments: { name: string }; result: object };
  'port-state': { arguments: { name: string; state: 'attached' | 'isolated' }; result: PortStatus };
  /** Replaces the addresses a port may use. */
  'port-addresses': { arguments: { name: string; addresses: string[] }; result: PortStatus };
  ports: { arguments: object; result: PortStatus[] };
  /**
   * 1303: the path of `address`. Packets to it that come in behind the same uplink as `port` go there, whatever their
   * destination MAC says. `uplink`, in this and other commands: refused unless the port is behind it.
   */
  'path-set': { arguments: { address: string; port: string; uplink?: string }; result: object };
  /** Frames pass between a probe port and a partition port although the latter is isolated; null ends it. */
  'private-path': { arguments: { probe: string; port: string | null }; result: object };
  /**
   * Packets to `address` wait: those of flows unknown so far, or (`scope: all`) every one, except flows in `except`, or
   * (`scope: flows`) only those of `flows`, which are known and about to be handed over.
   * With `barrier` the mux then sends the barrier frame (ethertype 0x88B5, payload: 32-bit big-endian token) to the port
   * that had the path: nothing that is being held can still reach it after that frame. Repeating with a wider scope extends it.
   * Of a hold by name the barrier goes to the ports that the flows went to.
   * Flows steered to another port than the path's are held by name only. With `scope: all` ARP requests and neighbour solicitations for the address wait, too.
   * Defaults of the limits: 4096 packets, 8 MiB, 5000 ms (counted anew by each hold-start).
   */
  'hold-start': {
    arguments: {
      address: string;
      scope: 'new-flows' | 'all' | 'flows';
      except?: FlowName[];
      flows?: FlowName[];
      barrier?: number;
      limits?: HoldLimits;
    };
    result: { held: number };
  };
  /** Lets held packets go, in order, to where path and flow table now point. */
  'hold-release': { arguments: { address: string }; result: { released: number; longestHoldMs: number } };
  /**
   * The cut, one operation between two packets: the path of `address` becomes `to`; every flow of the address known so
   * far, except those in `moved`, is steered to `from` until it ends; flows in `moved` follow the path. Port addresses are
   * altered as given, and `to` is attached. With `notice` the change notice is set: packets from `from` with source
   * `notice.second` leave as `address`, packets of steered flows reach `from` with destination `notice.second` once it has
   * been seen sending from it or `notice.immediately` is true. A RST from any other port for a steered flow is suppressed. Flows that an earlier
   * switch steered to a third port stay there. An echo request follows the path: it needs no state.
   * `also`: further addresses of the service, of either family, that move in the same operation: from `from` to `to`, or between
   * ports of their own, where the partitions have several network devices.
   * `from` and `to` may be behind different uplinks (H7); `uplink` is the one of `to`. Until the next switch or path-set
   * packets that still come in by the old one, addressed to a partition's MAC there, are directed, too.
   */
  switch: {
    arguments: {
      address: string;
      from: string;
      to: string;
      uplink?: string;
      moved?: FlowName[] | 'all';
      notice?: { second: string; immediately?: boolean };
      addresses?: Record<string, string[]>;
      also?: {
        address: string;
        from?: string;
        to?: string;
        uplink?: string;
        moved?: FlowName[] | 'all';
        notice?: { second: string; immediately?: boolean };
      }[];
    };
    /** `also` in the order of the arguments. */
    result: {
      notice?: number;
      steered: number;
      also?: { address: string; notice?: number; steered: number }[];
    };
  };
  /**
   * 2204's end: the notice is cancelled (the one named, else every one of the address); `force` even while flows are
   * steered, which are then named and forgotten. Without `force` they are the error `still-steered`. Flows steered to the
   * port that has the path again are not cut off: they follow the path.
   */
  'notice-cancel': {
    arguments: { address: string; force?: boolean; notice?: number };
    result: { abandoned: FlowName[] };
  };
  /** A partition has these open: they are flows that existed before what comes next. */
  'flows-known': { arguments: { address: string; flows: FlowName[] }; result: { known: number } };
  /**
   * Commands in order, as one operation between two packets: what a mux that was killed had been told. Allowed are
   * `path-set`, `private-path`, `port-state`, `port-addresses`, `hold-start`, `switch`, `flows-known`. One that fails is named and the
   * others are carried out.
   */
  restore: {
    arguments: { commands: { name: string; args: object }[] };
    result: { failed: { name: string; reason: string }[] };
  };
  /**
   * Flows in `flows` are no longer steered but follow the path (hand-over after the cut). With `answered` only those of UDP on
   * which the service's side spoke last: no request is on its way.
   */
  'flows-moved': {
    arguments: { address: string; flows: FlowName[]; answered?: boolean };
    result: { moved: number };
  };
  /**
   * Gratuitous ARP (IPv6: unsolicited neighbour advertisement, override flag) for `address` with the MAC of `port` on the
   * uplink that the port is behind and those that join it, `count` times, `intervalMs` apart.
   */
  announce: {
    arguments: { address: string; port: string; uplink?: string; count?: number; intervalMs?: number };
    result: object;
  };
  /** Flows of an address: port they go to, whether steered, last packet. */
  flows: {
    arguments: { address: string; steered?: boolean };
    /** `answered`, of UDP: the service's side spoke last. */
    result: {
      flow: FlowName;
      port: string;
      steered: boolean;
      state: string;
      idleMs: number;
      answered?: boolean;
    }[];
  };
  counters: {
    arguments: { address?: string };
    result: {
      total: SwitchCounters;
      sinceSwitch: SwitchCounters;
      drops: Record<string, number>;
      flows: number;
    };
  };
  /**
   * pcapng of every port and uplink, or of those named, into `file`; or to `socket`, a unix socket that somebody listens at: until its
   * other end closes, who reads too slowly misses packets. With `ringBytes` (1 MiB at least) the latest packets are kept in memory instead, under
   * the name `file`. `comment` is put into the section header.
   */
  'capture-start': {
    arguments: {
      file?: string;
      socket?: string;
      ringBytes?: number;
      ports?: string[];
      snapLength?: number;
      comment?: string;
    };
    result: object;
  };
  /** What the ring `name` holds, into `file`: of `ports` only, of the last `lastMs` only. It goes on. */
  'capture-dump': {
    arguments: { name: string; file: string; ports?: string[]; lastMs?: number };
    result: { file: string; packets: number; bytes: number };
  };
  'capture-stop': {
    arguments: { file?: string };
    result: { file: string; packets: number; bytes: number; dropped: number };
  };
  /** Writes a comment into the running captures: steps of a run, the cut. */
  'capture-mark': { arguments: { comment: string }; result: object };
  /**
   * From now on requests of clients to TCP `port` of `address` are recorded in memory, out of new connections, `connectionsPerSecond` of them
   * at most; null ends it and forgets them. `methods`: empty = GET and HEAD. `paths`: beginnings of targets; empty = any. `headers`: names in lower
   * case that are kept beside those that say how an answer is to look. The same rules again change nothing.
   */
  'requests-record': {
    arguments: {
      address: string;
      record: {
        port: number;
        methods: string[];
        paths: string[];
        headers: string[];
        requests: number;
        maxAgeMs: number;
        connectionsPerSecond: number;
      } | null;
    };
    result: object;
  };
  /** What was recorded, most often first. `refused`: requests that the rules leave out. */
  'requests-recorded': {
    arguments: { address: string };
    result: {
      requests: RecordedRequest[];
      connections: { followed: number; passedOver: number; givenUp: number };
      refused: number;
    };
  };
  shutdown: { arguments: object; result: object };
}

export interface MuxEvents extends EventMap {
  PORT: { name: string; state: PortStatus['state'] };
  /** No flow that a switch steered is left; at once when there was none. `notice` is the one that the switch set. */
  DRAINED: { address: string; notice?: number };
  HOLD_TIMEOUT: { address: string; released: number };
}
