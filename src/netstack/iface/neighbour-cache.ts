/**
 * The IPv6 neighbours of an interface (RFC 4861 sections 5.1 and 7.3): hardware addresses, how sure we are of them, and the
 * packets that wait.
 *
 *   INCOMPLETE  asked in the group of the address, `maxSolicitations` times; then its packets are given up
 *   REACHABLE   it has answered us within the reachable time (30 s, times 0.5 … 1.5 at random)
 *   STALE       known, but not lately confirmed; used as it is, and the first packet makes it
 *   DELAY       for 5 s: an answer to that packet is no proof here, since transports do not report, so
 *   PROBE       it is asked by unicast, `maxSolicitations` times, in use all the while; then it is forgotten
 *
 * Bounds are those of ARP's cache: entries, packets and bytes that wait, per entry and together.
 */
import type { Clock, Random, Timer } from '../../common/index.ts';
import type { Ipv6Address, MacAddress } from '../wire/index.ts';
import { MAC_NONE } from '../wire/index.ts';
import type { PendingLimits } from './pending-packets.ts';
import { PendingBudget, PendingQueue } from './pending-packets.ts';

export type NeighbourState = 'INCOMPLETE' | 'REACHABLE' | 'STALE' | 'DELAY' | 'PROBE';

export interface NeighbourLimits extends PendingLimits {
  readonly entries: number;
  /** BaseReachableTime of RFC 4861. */
  readonly reachableMs: number;
  readonly delayMs: number;
  readonly retransmitMs: number;
  readonly maxSolicitations: number;
}

export const NEIGHBOUR_LIMITS: NeighbourLimits = {
  entries: 1024,
  reachableMs: 30_000,
  delayMs: 5_000,
  retransmitMs: 1_000,
  maxSolicitations: 3,
  pendingPacketsPerEntry: 64,
  pendingBytesPerEntry: 256 * 1024,
  pendingBytes: 1024 * 1024,
};

export interface NeighbourEvents {
  /** Send a solicitation for `address`, to `mac` or to its group. */
  solicit(address: Ipv6Address, mac: MacAddress | undefined): void;
  /** The packet (offload header first) may go now; its Ethernet destination is still to be written. */
  release(packet: Uint8Array, mac: MacAddress): void;
  /** Nobody answered for `address`. */
  fail(packet: Uint8Array): void;
}

export interface NeighbourEntry {
  readonly address: Ipv6Address;
  /** MAC_NONE while INCOMPLETE. */
  readonly mac: MacAddress;
  /** Packets may go to `mac` without another `lookup`. */
  readonly fresh: boolean;
}

class Neighbour implements NeighbourEntry {
  readonly address: Ipv6Address;
  mac: MacAddress = MAC_NONE;
  state: NeighbourState = 'INCOMPLETE';
  fresh = false;
  solicitations = 0;
  readonly pending = new PendingQueue();
  timer: Timer | undefined;
  usedMs: number;

  constructor(address: Ipv6Address, nowMs: number) {
    this.address = address;
    this.usedMs = nowMs;
  }
}

export class NeighbourCache {
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #events: NeighbourEvents;
  readonly #limits: NeighbourLimits;
  readonly #entries = new Map<Ipv6Address, Neighbour>();
  readonly #pending: PendingBudget;

  constructor(clock: Clock, random: Random, events: NeighbourEvents, limits: Partial<NeighbourLimits> = {}) {
    this.#clock = clock;
    this.#random = random;
    this.#events = events;
    this.#limits = { ...NEIGHBOUR_LIMITS, ...limits };
    this.#pending = new PendingBudget(this.#limits);
  }

  get size(): number {
    return this.#entries.size;
  }

  get pendingBytes(): number {
    return this.#pending.bytes;
  }

  /** A snapshot for people and tests. */
  entries(): { address: Ipv6Address; mac: MacAddress; state: NeighbourState }[] {
    return [...this.#entries.values()].map(({ address, mac, state }) => ({ address, mac, state }));
  }

  /**
   * The entry to send by, or undefined when its hardware address is not known: a solicitation is then under way. The entry
   * may be kept by the caller for as long as `fresh` is true.
   */
  lookup(address: Ipv6Address): NeighbourEntry | undefined {
    const known = this.#entries.get(address);
    if (known?.fresh === true) return known;
    const entry = known ?? this.#add(address);
    entry.usedMs = this.#clock.nowMs();
    if (entry.state === 'INCOMPLETE') {
      if (entry.solicitations === 0) this.#solicit(entry);
      return undefined;
    }
    this.#enter(entry, 'DELAY');
    return entry;
  }

  /** Copies a packet into the queue of an INCOMPLETE entry (after `lookup`); false when it is full. */
  enqueue(address: Ipv6Address, buffer: Uint8Array, offset: number, length: number): boolean {
    const entry = this.#entries.get(address);
    return entry !== undefined && this.#pending.add(entry.pending, buffer, offset, length);
  }

  /**
   * A neighbour has told its hardware address without being asked: it solicits us (section 7.2.3), or another stack on this
   * segment knew it. Good enough to send by, not confirmed.
   */
  learn(address: Ipv6Address, mac: MacAddress): void {
    const entry = this.#entries.get(address) ?? this.#add(address);
    if (entry.mac === mac) return;
    this.#known(entry, mac, 'STALE');
  }

  /**
   * An advertisement (section 7.2.5, appendix C). False when nothing was of use.
   * @param mac of its option, MAC_NONE without one.
   */
  advertised(address: Ipv6Address, mac: MacAddress, solicited: boolean, override: boolean): boolean {
    const entry = this.#entries.get(address);
    if (entry === undefined) return false;
    if (entry.state === 'INCOMPLETE') {
      if (mac === MAC_NONE) return false;
      this.#known(entry, mac, solicited ? 'REACHABLE' : 'STALE');
      return true;
    }
    const other = mac !== MAC_NONE && mac !== entry.mac;
    if (other && !override) {
      // Somebody contradicts: what we know stays in use, and is asked again.
      if (entry.state === 'REACHABLE') this.#enter(entry, 'STALE');
      return true;
    }
    if (solicited) this.#known(entry, other ? mac : entry.mac, 'REACHABLE');
    else if (other) this.#known(entry, mac, 'STALE');
    return true;
  }

  /** Forgets everything, silently. */
  clear(): void {
    for (const entry of [...this.#entries.values()]) this.#forget(entry);
  }

  /** Forgets those whose hardware address is known; who is being asked for stays so, with the packets that wait. */
  forgetKnown(): void {
    for (const entry of [...this.#entries.values()]) if (entry.state !== 'INCOMPLETE') this.#forget(entry);
  }

  #known(entry: Neighbour, mac: MacAddress, state: 'REACHABLE' | 'STALE'): void {
    entry.mac = mac;
    entry.solicitations = 0;
    this.#enter(entry, state);
    for (const packet of this.#pending.take(entry.pending)) this.#events.release(packet, mac);
  }

  #enter(entry: Neighbour, state: 'REACHABLE' | 'STALE' | 'DELAY'): void {
    entry.timer?.cancel();
    entry.timer = undefined;
    entry.state = state;
    entry.fresh = state !== 'STALE';
    if (state === 'REACHABLE') {
      const reachableMs = this.#limits.reachableMs * (0.5 + this.#random.u32() / 0x1_0000_0000);
      entry.timer = this.#clock.after(reachableMs, () => this.#enter(entry, 'STALE'));
    } else if (state === 'DELAY') {
      entry.timer = this.#clock.after(this.#limits.delayMs, () => {
        entry.state = 'PROBE';
        this.#solicit(entry);
      });
    }
  }

  #solicit(entry: Neighbour): void {
    entry.solicitations++;
    entry.timer = this.#clock.after(this.#limits.retransmitMs, () => {
      if (entry.solicitations < this.#limits.maxSolicitations) this.#solicit(entry);
      else for (const packet of this.#forget(entry)) this.#events.fail(packet);
    });
    this.#events.solicit(entry.address, entry.mac === MAC_NONE ? undefined : entry.mac);
  }

  #add(address: Ipv6Address): Neighbour {
    if (this.#entries.size >= this.#limits.entries) this.#evict();
    const entry = new Neighbour(address, this.#clock.nowMs());
    this.#entries.set(address, entry);
    return entry;
  }

  /**
   * Makes room: first what nobody has confirmed or uses, so that strangers who solicit us displace each other; of these the
   * one used longest ago. One with packets waiting goes only if all have.
   */
  #evict(): void {
    let victim: Neighbour | undefined;
    for (const entry of this.#entries.values()) {
      if (victim === undefined || dispensable(entry, victim)) victim = entry;
    }
    if (victim !== undefined) for (const packet of this.#forget(victim)) this.#events.fail(packet);
  }

  #forget(entry: Neighbour): Uint8Array[] {
    entry.timer?.cancel();
    entry.timer = undefined;
    entry.fresh = false;
    if (this.#entries.get(entry.address) === entry) this.#entries.delete(entry.address);
    return this.#pending.take(entry.pending);
  }
}

/** Whether `a` may go rather than `b`. */
function dispensable(a: Neighbour, b: Neighbour): boolean {
  const waits = a.pending.packets.length - b.pending.packets.length;
  if (waits !== 0) return waits < 0;
  if (a.fresh !== b.fresh) return !a.fresh;
  return a.usedMs < b.usedMs;
}
