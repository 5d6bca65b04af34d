/** What the forwarding path reads and the commands write: ports, service addresses, drain groups, notices, holds. */
import type { Timer } from '../../common/index.ts';
import type {
  ChangeNotice,
  IpAddress,
  LinkDevice,
  MacAddress,
  ShortcutCounters,
} from '../../netstack/index.ts';
import {
  ETHERNET,
  formatIpAddress,
  formatMac,
  hasShortcuts,
  linkLocalAddress,
  VNET_HDR_LEN,
} from '../../netstack/index.ts';
import { type AddressKeys, NOBODY } from './address-keys.ts';
import type { MuxCommands, PortStatus, SwitchCounters } from './commands.ts';
import { dropsByName, MUX_DROPS } from './drops.ts';
import { FairShares, isQueueing, type QueueingDevice } from './fair-queue.ts';
import { HoldQueue } from './hold-queue.ts';
import { type PortLimits, type Rate, RateLimit, wirePackets } from './rate-limit.ts';
import type { RequestRecorder } from './recording/index.ts';

/** To drop a packet costs less than to make one: who forges without end would never wait for the mux, and take the processors from all others. */
const FORGERIES_BORNE: Rate = { packetsPerSecond: 20_000, burstPackets: 10_000 };

export type PortKind = 'tap' | 'nic' | 'stream';
export type PortRole = 'uplink' | 'partition' | 'probe';

export interface PortOptions {
  readonly name: string;
  readonly kind: PortKind;
  readonly role: PortRole;
  readonly device: LinkDevice;
  /** Needed unless the role is `uplink`. */
  readonly mac?: MacAddress;
  /** Sources the partition may use. Empty: none (role `probe`: any). */
  readonly addresses?: readonly IpAddress[];
  /** Default true. A stream port begins without a partition at its other end. */
  readonly connected?: boolean;
  /** Default: uplinks attached, others isolated. */
  readonly state?: 'attached' | 'isolated';
  /** The uplink that the port is behind; default: the first one. Not for uplinks. */
  readonly uplink?: string;
  /** Of an uplink: frames pass between it and this other one. Default: between it and no other. */
  readonly joins?: string;
}

const TAG = 4;

export class MuxPort {
  readonly index: number;
  readonly name: string;
  readonly kind: PortKind;
  readonly role: PortRole;
  readonly device: LinkDevice;
  readonly mac: MacAddress | undefined;
  readonly macHigh: number;
  readonly macLow: number;
  readonly isUplink: boolean;
  /** See segments.ts. */
  readonly segment: number;
  /** The segment as it stands above the first half of a MAC in the MAC table; of a probe none, it is everywhere. */
  readonly segmentBits: number;
  /** As it was asked for. */
  readonly uplink: string | undefined;
  /** Longest frame that is not to be segmented, one tag included. */
  readonly maxFrame: number;
  readonly checksum: boolean;
  readonly tcp4: boolean;
  readonly tcp6: boolean;
  readonly drops = new Float64Array(MUX_DROPS.length);
  addresses: readonly IpAddress[] = [];
  /** The same as keys. */
  allowed = new Int32Array(0);
  /** Key of the link-local address that follows from the MAC. */
  readonly linkLocal: number;
  readonly #keys: AddressKeys;
  attached: boolean;
  connected: boolean;
  received = 0;
  transmitted = 0;
  /** Bytes of frames. */
  receivedBytes = 0;
  transmittedBytes = 0;
  limits: PortLimits | undefined;
  sendLimit: RateLimit | undefined;
  receiveLimit: RateLimit | undefined;
  /** Only of a partition that has forged packets. */
  #forgeries: RateLimit | undefined;
  /** Its sender is stopped instead of losing packets. */
  readonly holdsBack: boolean;
  /** Times that its sender was stopped. */
  heldBack = 0;
  /** Its device has packets that wait for a flush. */
  dirty = false;
  /** Its device refused a packet and has not called `writable` since. */
  blocked = false;
  /** Notices set for packets from this port. */
  notices: Notice[] = [];
  /** Other end of a private path. */
  peer: MuxPort | undefined;
  /** Of a device that queues: who filled it. */
  readonly shares: FairShares | undefined;
  /** A barrier frame that did not fit yet. */
  barrier: number | undefined;

  constructor(index: number, options: PortOptions, segment: number, keys: AddressKeys) {
    this.#keys = keys;
    this.segment = segment;
    this.segmentBits = options.role === 'probe' ? 0 : segment << 16;
    this.uplink = options.uplink ?? options.joins;
    this.linkLocal = options.mac === undefined ? NOBODY : keys.keep(linkLocalAddress(options.mac));
    this.index = index;
    this.name = options.name;
    this.kind = options.kind;
    this.role = options.role;
    this.isUplink = options.role === 'uplink';
    this.device = options.device;
    this.mac = options.mac;
    this.macHigh = options.mac === undefined ? 0 : Math.floor(options.mac / 0x1_0000_0000);
    this.macLow = options.mac === undefined ? 0 : options.mac | 0;
    this.shares = isQueueing(options.device) ? new FairShares() : undefined;
    this.holdsBack = options.kind === 'stream';
    this.maxFrame = options.device.mtu + ETHERNET.HEADER + TAG;
    this.checksum = options.device.offload.checksum;
    this.tcp4 = options.device.offload.tcp4Segmentation;
    this.tcp6 = options.device.offload.tcp6Segmentation;
    this.attached = (options.state ?? (this.isUplink ? 'attached' : 'isolated')) === 'attached';
    this.connected = options.connected ?? true;
    this.setAddresses(options.addresses ?? []);
  }

  /** Takes part in forwarding. */
  get live(): boolean {
    return this.attached && this.connected;
  }

  get state(): PortStatus['state'] {
    if (!this.connected) return 'disconnected';
    return this.attached ? 'attached' : 'isolated';
  }

  status(): PortStatus {
    const carrier = isQueueing(this.device) ? this.device.carrier : undefined;
    return {
      name: this.name,
      kind: this.kind,
      role: this.role,
      ...(this.mac === undefined ? {} : { mac: formatMac(this.mac) }),
      ...(this.uplink === undefined ? {} : { uplink: this.uplink }),
      state: this.state,
      ...(carrier === undefined ? {} : { carrier }),
      ...this.#traffic(),
      ...(this.limits === undefined ? {} : { limits: this.limits }),
      ...(this.heldBack === 0 ? {} : { heldBack: this.heldBack }),
      drops: dropsByName(this.drops),
    };
  }

  /** Packets of shortcuts (shortcuts.ts) were not seen here; the device counted them. */
  #traffic(): ShortcutCounters {
    const passed = hasShortcuts(this.device) ? this.device.shortcutCounters : undefined;
    return {
      received: this.received + (passed?.received ?? 0),
      transmitted: this.transmitted + (passed?.transmitted ?? 0),
      receivedBytes: this.receivedBytes + (passed?.receivedBytes ?? 0),
      transmittedBytes: this.transmittedBytes + (passed?.transmittedBytes ?? 0),
    };
  }

  setAddresses(addresses: readonly IpAddress[]): void {
    this.addresses = addresses;
    this.allowed = Int32Array.from(addresses, (address) => this.#keys.keep(address));
  }

  /** Expects limits that are possible. */
  setLimits(limits: PortLimits | undefined, nowMs: number): void {
    this.limits = limits;
    const limit = (rate: Rate | undefined) => (rate === undefined ? undefined : new RateLimit(rate, nowMs));
    this.sendLimit = limit(limits?.send);
    this.receiveLimit = limit(limits?.receive);
  }

  get mayOwe(): boolean {
    return this.sendLimit !== undefined || this.#forgeries !== undefined;
  }

  /** How long nothing more is to be taken from its other end. */
  debtMs(nowMs: number): number {
    const ms = Math.max(this.sendLimit?.debtMs(nowMs) ?? 0, this.#forgeries?.debtMs(nowMs) ?? 0);
    if (ms > 0) this.heldBack++;
    return ms;
  }

  /** It has sent a packet that only somebody who forges sends. */
  forged(nowMs: number): void {
    if (!this.holdsBack) return;
    this.#forgeries ??= new RateLimit(FORGERIES_BORNE, nowMs);
    this.#forgeries.charge(0, 1);
  }

  /** Whether the limit of what it may send lets this packet pass. */
  maySend(buffer: Uint8Array, offset: number, length: number, nowMs: number): boolean {
    const limit = this.sendLimit!;
    const packets = wirePackets(buffer, offset, length - VNET_HDR_LEN);
    if (!this.holdsBack) return limit.admits(length - VNET_HDR_LEN, packets, nowMs);
    limit.charge(length - VNET_HDR_LEN, packets);
    return true;
  }

  /** Whether the limit of what it may be sent lets this packet pass. */
  mayReceive(buffer: Uint8Array, offset: number, length: number, nowMs: number): boolean {
    const packets = wirePackets(buffer, offset, length - VNET_HDR_LEN);
    return this.receiveLimit!.admits(length - VNET_HDR_LEN, packets, nowMs);
  }

  /** Whether a packet of so many bytes may enter the queue, of the sender with this number among `shares`. */
  admits(sender: number, bytes: number): boolean {
    const { shares } = this;
    if (shares === undefined) return true;
    const device = this.device as QueueingDevice;
    const most = this.limits?.queueBytes;
    if (most === undefined) return shares.allows(sender, device.fill);
    const queued = device.queuedBytes;
    if (queued + bytes > most) return false;
    return shares.allows(sender, queued / most);
  }

  /** Whether a key is one of its addresses; its link-local one is none of these. */
  has(address: number): boolean {
    for (let i = 0; i < this.allowed.length; i++) if (this.allowed[i] === address) return true;
    return false;
  }

  noticeFor(source: number): Notice | undefined {
    for (let i = 0; i < this.notices.length; i++) {
      if (this.notices[i]!.second === source) return this.notices[i];
    }
    return undefined;
  }
}

/** A change notice that is set (2204), at the port of the old partition. */
export interface Notice {
  readonly id: number;
  readonly change: ChangeNotice;
  readonly port: MuxPort;
  readonly service: ServiceAddress;
  /** Key. */
  readonly second: number;
  /** Packets of steered flows reach the port with the second address as destination. */
  translate: boolean;
}

/** Flows of a service address that one port finishes. */
export interface DrainGroup {
  readonly id: number;
  readonly service: ServiceAddress;
  readonly port: MuxPort;
  /** Undefined when there is none, or when it has been cancelled. */
  notice: Notice | undefined;
  /** DRAINED has been sent. */
  drained: boolean;
  /** No live flow is in it, and none will join. */
  cancelled: boolean;
}

/** From narrow to wide. */
export const HOLD_SCOPES = ['flows', 'new-flows', 'all'] as const;
export type HoldScope = (typeof HOLD_SCOPES)[number];

export interface Hold {
  scope: HoldScope;
  readonly queue: HoldQueue;
  timeoutMs: number;
  timer: Timer | undefined;
  /** Being let go; what comes meanwhile queues up behind. */
  releasing: boolean;
  longestMs: number;
}

export function newHold(scope: Hold['scope'], packets: number, bytes: number, timeoutMs: number): Hold {
  return {
    scope,
    queue: new HoldQueue({ packets, bytes }),
    timeoutMs,
    timer: undefined,
    releasing: false,
    longestMs: 0,
  };
}

export class Counts implements SwitchCounters {
  rewritten = 0;
  steered = 0;
  held = 0;
  heldDropped = 0;
  rstSuppressed = 0;
  arrived = 0;
  readdressed = 0;
  longestHoldMs = 0;

  add(other: SwitchCounters): void {
    this.rewritten += other.rewritten;
    this.steered += other.steered;
    this.held += other.held;
    this.heldDropped += other.heldDropped;
    this.rstSuppressed += other.rstSuppressed;
    this.arrived += other.arrived ?? 0;
    this.readdressed += other.readdressed ?? 0;
    this.longestHoldMs = Math.max(this.longestHoldMs, other.longestHoldMs);
  }

  /** Plain values, for an answer. */
  snapshot(): SwitchCounters {
    return { ...this };
  }
}

/** An address that the mux directs: its path [1303] and everything a changeover does to it. */
export class ServiceAddress {
  readonly ip: IpAddress;
  /** Key. */
  readonly address: number;
  readonly text: string;
  path: MuxPort | undefined;
  /** The segment that a switch took it from, when that is not the path's; else 0. */
  otherSegment = 0;
  hold: Hold | undefined;
  /** Is shown the packets of clients; see recording/. */
  recorder: RequestRecorder | undefined;
  groups: DrainGroup[] = [];
  notices: Notice[] = [];
  /** Before the last switch or hold. */
  readonly earlier = new Counts();
  /** Since the last switch or hold. */
  since = new Counts();
  /** The last switch: its arguments as text, and what was answered. */
  lastSwitch: { readonly key: string; readonly answer: MuxCommands['switch']['result'] } | undefined;

  constructor(ip: IpAddress, address: number) {
    this.ip = ip;
    this.address = address;
    this.text = formatIpAddress(ip);
  }

  restartCounts(): void {
    this.earlier.add(this.since);
    this.since = new Counts();
  }

  total(): Counts {
    const sum = new Counts();
    sum.add(this.earlier);
    sum.add(this.since);
    return sum;
  }
}
