/**
 * The neighbours of an interface (RFC 826; RFC 1122 section 2.3.2): hardware addresses by IPv4 address, and the packets
 * that wait for them.
 *
 * An entry is made when something is to be sent (incomplete: a request per second, `maxRequests` times, then its packets
 * are given up), or when a neighbour speaks to us. A known entry is `fresh` for `freshMs`; used after that, it is asked
 * again, by unicast first, while its old address stays in use; if nobody answers it is forgotten. Everything is bounded:
 * entries, packets and bytes that wait, per entry and together.
 */
import type { Clock, Timer } from '../../common/index.ts';
import type { Ipv4Address, MacAddress } from '../wire/index.ts';
import { MAC_NONE } from '../wire/index.ts';
import type { PendingLimits } from './pending-packets.ts';
import { PendingBudget, PendingQueue } from './pending-packets.ts';

export interface ArpLimits extends PendingLimits {
  readonly entries: number;
  readonly freshMs: number;
  readonly requestIntervalMs: number;
  readonly maxRequests: number;
}

export const ARP_LIMITS: ArpLimits = {
  entries: 1024,
  freshMs: 60_000,
  requestIntervalMs: 1_000,
  maxRequests: 3,
  pendingPacketsPerEntry: 64,
  pendingBytesPerEntry: 256 * 1024,
  pendingBytes: 1024 * 1024,
};

export interface ArpEvents {
  /** Send a request for `address`, to `mac` or broadcast. */
  request(address: Ipv4Address, mac: MacAddress | undefined): void;
  /** The packet (offload header first) may go now; its Ethernet destination is still to be written. */
  release(packet: Uint8Array, mac: MacAddress): void;
  /** Nobody answered for `address`. */
  fail(packet: Uint8Array): void;
}

export interface ArpEntry {
  readonly address: Ipv4Address;
  /** MAC_NONE while incomplete. */
  mac: MacAddress;
  fresh: boolean;
}

class Neighbour implements ArpEntry {
  readonly address: Ipv4Address;
  mac: MacAddress = MAC_NONE;
  fresh = false;
  requests = 0;
  readonly pending = new PendingQueue();
  /** Ageing while fresh, the next request while asking. */
  timer: Timer | undefined;
  usedMs: number;

  constructor(address: Ipv4Address, nowMs: number) {
    this.address = address;
    this.usedMs = nowMs;
  }

  get asking(): boolean {
    return this.requests > 0;
  }
}

export class ArpCache {
  readonly #clock: Clock;
  readonly #events: ArpEvents;
  readonly #limits: ArpLimits;
  readonly #entries = new Map<Ipv4Address, Neighbour>();
  readonly #pending: PendingBudget;

  constructor(clock: Clock, events: ArpEvents, limits: Partial<ArpLimits> = {}) {
    this.#clock = clock;
    this.#events = events;
    this.#limits = { ...ARP_LIMITS, ...limits };
    this.#pending = new PendingBudget(this.#limits);
  }

  get size(): number {
    return this.#entries.size;
  }

  get pendingBytes(): number {
    return this.#pending.bytes;
  }

  /** A snapshot for people and tests. */
  entries(): { address: Ipv4Address; mac: MacAddress; state: 'incomplete' | 'fresh' | 'stale' }[] {
    return [...this.#entries.values()].map(({ address, mac, fresh }) => ({
      address,
      mac,
      state: mac === MAC_NONE ? 'incomplete' : fresh ? 'fresh' : 'stale',
    }));
  }

  /**
   * The entry to send by, or undefined when its hardware address is not known: a request is then under way. The entry may be
   * kept by the caller for as long as `fresh` is true.
   */
  lookup(address: Ipv4Address): ArpEntry | undefined {
    const entry = this.#entries.get(address) ?? this.#add(address);
    if (entry.fresh) return entry;
    entry.usedMs = this.#clock.nowMs();
    if (!entry.asking) this.#ask(entry);
    return entry.mac === MAC_NONE ? undefined : entry;
  }

  /** Copies a packet into the queue of an incomplete entry (after `lookup`); false when it is full. */
  enqueue(address: Ipv4Address, buffer: Uint8Array, offset: number, length: number): boolean {
    const entry = this.#entries.get(address);
    return entry !== undefined && this.#pending.add(entry.pending, buffer, offset, length);
  }

  /**
   * A neighbour has told its address (RFC 826's merge). Known entries are updated always, unknown ones made only if
   * `create`: it spoke to us. False when nothing was of use.
   */
  learn(address: Ipv4Address, mac: MacAddress, create: boolean): boolean {
    const entry = this.#entries.get(address) ?? (create ? this.#add(address) : undefined);
    if (entry === undefined) return false;
    entry.timer?.cancel();
    entry.mac = mac;
    entry.requests = 0;
    entry.fresh = true;
    entry.timer = this.#clock.after(this.#limits.freshMs, () => {
      entry.fresh = false;
      entry.timer = undefined;
    });
    const waiting = this.#pending.take(entry.pending);
    for (const packet of waiting) this.#events.release(packet, mac);
    return true;
  }

  /** Forgets everything, silently. */
  clear(): void {
    for (const entry of [...this.#entries.values()]) this.#forget(entry);
  }

  /** Forgets those whose hardware address is known; who is being asked for stays so, with the packets that wait. */
  forgetKnown(): void {
    for (const entry of [...this.#entries.values()]) if (entry.mac !== MAC_NONE) this.#forget(entry);
  }

  #add(address: Ipv4Address): Neighbour {
    if (this.#entries.size >= this.#limits.entries) this.#evict();
    const entry = new Neighbour(address, this.#clock.nowMs());
    this.#entries.set(address, entry);
    return entry;
  }

  /** Makes room: the entry that was asked about or learned longest ago; one with packets waiting only if all have. */
  #evict(): void {
    let victim: Neighbour | undefined;
    for (const entry of this.#entries.values()) {
      if (
        victim === undefined ||
        entry.pending.packets.length < victim.pending.packets.length ||
        (entry.pending.packets.length === victim.pending.packets.length && entry.usedMs < victim.usedMs)
      ) {
        victim = entry;
      }
    }
    if (victim !== undefined) for (const packet of this.#forget(victim)) this.#events.fail(packet);
  }

  #ask(entry: Neighbour): void {
    entry.timer?.cancel();
    entry.requests++;
    entry.timer = this.#clock.after(this.#limits.requestIntervalMs, () => this.#unanswered(entry));
    const known =
      entry.mac === MAC_NONE || entry.requests === this.#limits.maxRequests ? undefined : entry.mac;
    this.#events.request(entry.address, known);
  }

  #unanswered(entry: Neighbour): void {
    if (entry.requests < this.#limits.maxRequests) {
      this.#ask(entry);
      return;
    }
    for (const packet of this.#forget(entry)) this.#events.fail(packet);
  }

  #forget(entry: Neighbour): Uint8Array[] {
    entry.timer?.cancel();
    entry.timer = undefined;
    entry.fresh = false;
    if (this.#entries.get(entry.address) === entry) this.#entries.delete(entry.address);
    return this.#pending.take(entry.pending);
  }
}
