/**
 * The flows of the service addresses.
 *
 * A flow is (local address, remote address, protocol, local port, remote port); local is the service's side, addresses are
 * keys of either family (address-keys.ts), and a flow keeps the key of its remote address alive. Entries live in
 * typed arrays and are named by their index; nothing is allocated per packet. Three structures run through them: the hash
 * chains, one list per class in order of the last packet (ageing and eviction look at heads only), and the free list.
 *
 *   class        holds                                                       idle limit (default)
 *   embryonic    TCP before both sides have acknowledged anything; picked    30 s
 *                up in the middle and heard from one side only
 *   closed       TCP after both FINs were acknowledged, or after RST         60 s
 *   datagram     UDP and ICMP echo                                           30 s one way, 180 s answered; echo 10 s
 *   closing      TCP after one FIN                                           300 s
 *   established  the rest of TCP                                             2 h 4 min (RFC 5382, REQ-5)
 *
 * A full table gives up the oldest entry of the first class in this order that has one, so that a flood of SYNs evicts
 * itself; established flows are never evicted (`insert` then answers -1, the packet is passed on unrecorded).
 *
 * A flow in a drain group (group > 0) is *steered*: it belongs to the group's port until it ends. The table counts the live
 * members of each group and tells when the last one is gone. A flow that has ended keeps its group until it is forgotten, so
 * that a repeated FIN still reaches who can answer it.
 */
import { PROTOCOL, TCP_FLAG } from '../../netstack/index.ts';
import { type AddressKeys, isIpv6Key } from './address-keys.ts';

export const CLASS = { EMBRYONIC: 0, CLOSED: 1, DATAGRAM: 2, CLOSING: 3, ESTABLISHED: 4 } as const;
const CLASSES = 5;
const CLASS_NAMES = ['embryonic', 'closed', 'datagram', 'closing', 'established'] as const;

/** What has been seen of a flow. LOCAL is the service's side. */
const SEEN = {
  LOCAL: 0x001,
  REMOTE: 0x002,
  LOCAL_ACK: 0x004,
  REMOTE_ACK: 0x008,
  LOCAL_FIN: 0x010,
  REMOTE_FIN: 0x020,
  LOCAL_FIN_ACKED: 0x040,
  REMOTE_FIN_ACKED: 0x080,
  LOCAL_RST: 0x100,
  REMOTE_RST: 0x200,
  /** The service's side sent the first packet. */
  LOCAL_FIRST: 0x400,
  /** Passes although its address is on hold. */
  EXCEPT: 0x800,
  /** Waits although flows that are known pass. */
  HELD: 0x1000,
  /** The service's side sent the last datagram. */
  LOCAL_LAST: 0x2000,
} as const;

const RST = SEEN.LOCAL_RST | SEEN.REMOTE_RST;
const BOTH_FINS_ACKED = SEEN.LOCAL_FIN_ACKED | SEEN.REMOTE_FIN_ACKED;

/** The only flows of ICMP and ICMPv6 are those of echo messages. */
export function isEcho(protocol: number): boolean {
  return protocol === PROTOCOL.ICMP || protocol === PROTOCOL.ICMPV6;
}

export interface FlowTimeouts {
  readonly embryonicMs: number;
  readonly closedMs: number;
  readonly closingMs: number;
  readonly establishedMs: number;
  readonly datagramMs: number;
  readonly datagramAnsweredMs: number;
  readonly echoMs: number;
}

export const FLOW_TIMEOUTS: FlowTimeouts = {
  embryonicMs: 30_000,
  closedMs: 60_000,
  closingMs: 300_000,
  establishedMs: 7_440_000,
  datagramMs: 30_000,
  datagramAnsweredMs: 180_000,
  echoMs: 10_000,
};

export interface FlowTableOptions {
  /** Entries, default 65 536. */
  readonly capacity?: number;
  readonly timeouts?: Partial<FlowTimeouts>;
  /** Where IPv6 addresses have their keys from. */
  readonly addresses?: AddressKeys;
  /** The last live flow of a group has ended. */
  readonly onDrained?: (group: number) => void;
}

export const MAX_GROUPS = 4096;

export class FlowTable {
  readonly capacity: number;
  readonly local: Int32Array;
  readonly remote: Int32Array;
  /** Local port in the high half. */
  readonly ports: Int32Array;
  readonly protocol: Uint8Array;
  readonly lastMs: Float64Array;
  /** Counters for reports. */
  evicted = 0;
  aged = 0;
  refused = 0;

  readonly #group: Uint16Array;
  readonly #seen: Uint16Array;
  /** 0 is a free entry, else class + 1. */
  readonly #class: Uint8Array;
  /** Sequence number after each side's FIN. */
  readonly #localEnd: Int32Array;
  readonly #remoteEnd: Int32Array;
  readonly #bucketMask: number;
  readonly #bucket: Int32Array;
  readonly #chain: Int32Array;
  /** Lists: places 0 … capacity−1 are entries, capacity + class the head of a class. */
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  readonly #groupLive = new Int32Array(MAX_GROUPS);
  readonly #timeouts: FlowTimeouts;
  readonly #addresses: AddressKeys | undefined;
  readonly #onDrained: (group: number) => void;
  readonly #salt: number;
  #free = 0;
  #size = 0;

  /** `salt` makes the hash unpredictable for senders. */
  constructor(options: FlowTableOptions = {}, salt = 0) {
    const capacity = options.capacity ?? 65_536;
    this.capacity = capacity;
    this.#timeouts = { ...FLOW_TIMEOUTS, ...options.timeouts };
    this.#onDrained = options.onDrained ?? (() => {});
    this.#addresses = options.addresses;
    this.#salt = salt | 0;
    this.local = new Int32Array(capacity);
    this.remote = new Int32Array(capacity);
    this.ports = new Int32Array(capacity);
    this.protocol = new Uint8Array(capacity);
    this.lastMs = new Float64Array(capacity);
    this.#group = new Uint16Array(capacity);
    this.#seen = new Uint16Array(capacity);
    this.#class = new Uint8Array(capacity);
    this.#localEnd = new Int32Array(capacity);
    this.#remoteEnd = new Int32Array(capacity);
    let buckets = 16;
    while (buckets < capacity) buckets *= 2;
    this.#bucketMask = buckets - 1;
    this.#bucket = new Int32Array(buckets).fill(-1);
    this.#chain = new Int32Array(capacity);
    for (let i = 0; i < capacity; i++) this.#chain[i] = i + 1 < capacity ? i + 1 : -1;
    this.#next = new Int32Array(capacity + CLASSES);
    this.#previous = new Int32Array(capacity + CLASSES);
    for (let head = capacity; head < capacity + CLASSES; head++) {
      this.#next[head] = head;
      this.#previous[head] = head;
    }
  }

  get size(): number {
    return this.#size;
  }

  group(flow: number): number {
    return this.#group[flow]!;
  }

  classOf(flow: number): number {
    return this.#class[flow]! - 1;
  }

  /** Live flows of a drain group. */
  live(group: number): number {
    return this.#groupLive[group]!;
  }

  find(local: number, remote: number, ports: number, protocol: number): number {
    let flow = this.#bucket[this.#hash(local, remote, ports, protocol)]!;
    while (flow >= 0) {
      if (
        this.ports[flow] === ports &&
        this.remote[flow] === remote &&
        this.local[flow] === local &&
        this.protocol[flow] === protocol
      ) {
        return flow;
      }
      flow = this.#chain[flow]!;
    }
    return -1;
  }

  /** A new flow, or -1 when the table is full of established ones. `fromLocal`: the service's side sent its first packet. */
  insert(
    local: number,
    remote: number,
    ports: number,
    protocol: number,
    fromLocal: boolean,
    nowMs: number,
  ): number {
    const addresses = isIpv6Key(local) ? this.#addresses : undefined;
    // First of all: the flow that makes room may be the last other one of this address.
    addresses?.retain(remote);
    if (this.#free < 0 && !this.#evict()) {
      addresses?.release(remote);
      this.refused++;
      return -1;
    }
    const flow = this.#free;
    this.#free = this.#chain[flow]!;
    this.#size++;
    this.local[flow] = local;
    this.remote[flow] = remote;
    this.ports[flow] = ports;
    this.protocol[flow] = protocol;
    this.lastMs[flow] = nowMs;
    this.#group[flow] = 0;
    this.#seen[flow] = fromLocal ? SEEN.LOCAL_FIRST : 0;
    const bucket = this.#hash(local, remote, ports, protocol);
    this.#chain[flow] = this.#bucket[bucket]!;
    this.#bucket[bucket] = flow;
    this.#enlist(flow, protocol === PROTOCOL.TCP ? CLASS.EMBRYONIC : CLASS.DATAGRAM);
    return flow;
  }

  /** Accounts one TCP segment. `payload` in bytes. */
  sawSegment(
    flow: number,
    fromLocal: boolean,
    flags: number,
    sequence: number,
    acknowledgment: number,
    payload: number,
    nowMs: number,
  ): void {
    const before = this.#seen[flow]!;
    let seen = before | (fromLocal ? SEEN.LOCAL : SEEN.REMOTE);
    if ((flags & TCP_FLAG.RST) !== 0) {
      seen |= fromLocal ? SEEN.LOCAL_RST : SEEN.REMOTE_RST;
    } else {
      // The remote side goes on after its own RST: that one was forged or refused (RFC 5961).
      if (!fromLocal && (seen & SEEN.REMOTE_RST) !== 0) seen &= ~SEEN.REMOTE_RST;
      if ((flags & TCP_FLAG.ACK) !== 0) {
        seen |= fromLocal ? SEEN.LOCAL_ACK : SEEN.REMOTE_ACK;
        if (fromLocal) {
          if ((seen & SEEN.REMOTE_FIN) !== 0 && ((acknowledgment - this.#remoteEnd[flow]!) | 0) >= 0) {
            seen |= SEEN.REMOTE_FIN_ACKED;
          }
        } else if ((seen & SEEN.LOCAL_FIN) !== 0 && ((acknowledgment - this.#localEnd[flow]!) | 0) >= 0) {
          seen |= SEEN.LOCAL_FIN_ACKED;
        }
      }
      if ((flags & TCP_FLAG.FIN) !== 0) {
        const end = (sequence + payload + 1) | 0;
        if (fromLocal) {
          seen |= SEEN.LOCAL_FIN;
          this.#localEnd[flow] = end;
        } else {
          seen |= SEEN.REMOTE_FIN;
          this.#remoteEnd[flow] = end;
        }
      }
    }
    this.lastMs[flow] = nowMs;
    const was = this.#class[flow]! - 1;
    if (seen === before && this.#next[flow] === this.capacity + was) return;
    this.#seen[flow] = seen;
    let now: number = CLASS.EMBRYONIC;
    if ((seen & RST) !== 0 || (seen & BOTH_FINS_ACKED) === BOTH_FINS_ACKED) now = CLASS.CLOSED;
    else if ((seen & (SEEN.LOCAL_FIN | SEEN.REMOTE_FIN)) !== 0) now = CLASS.CLOSING;
    else if ((seen & SEEN.LOCAL_ACK) !== 0 && (seen & SEEN.REMOTE_ACK) !== 0) now = CLASS.ESTABLISHED;
    this.#unlist(flow);
    this.#enlist(flow, now);
    const group = this.#group[flow]!;
    if (group !== 0 && (was === CLASS.CLOSED) !== (now === CLASS.CLOSED)) {
      if (now === CLASS.CLOSED) this.#leave(group);
      else this.#groupLive[group]!++;
    }
  }

  /** Accounts one UDP datagram or ICMP echo message. */
  sawDatagram(flow: number, fromLocal: boolean, nowMs: number): void {
    this.lastMs[flow] = nowMs;
    if (fromLocal) this.#seen[flow]! |= SEEN.LOCAL | SEEN.LOCAL_LAST;
    else this.#seen[flow] = (this.#seen[flow]! | SEEN.REMOTE) & ~SEEN.LOCAL_LAST;
    if (this.#next[flow] === this.capacity + CLASS.DATAGRAM) return;
    this.#unlist(flow);
    this.#enlist(flow, CLASS.DATAGRAM);
  }

  /** Known from elsewhere (a guest's list) to be an open connection. */
  markEstablished(flow: number): void {
    if (this.protocol[flow] !== PROTOCOL.TCP || this.classOf(flow) !== CLASS.EMBRYONIC) return;
    this.#seen[flow]! |= SEEN.LOCAL_ACK | SEEN.REMOTE_ACK;
    this.#unlist(flow);
    this.#enlist(flow, CLASS.ESTABLISHED);
  }

  /** Steers a flow to a group's port; 0: it follows the path again. */
  setGroup(flow: number, group: number): void {
    const before = this.#group[flow]!;
    if (before === group) return;
    const live = this.#class[flow] !== CLASS.CLOSED + 1;
    this.#group[flow] = group;
    if (!live) return;
    if (group !== 0) this.#groupLive[group]!++;
    if (before !== 0) this.#leave(before);
  }

  isExcept(flow: number): boolean {
    return (this.#seen[flow]! & SEEN.EXCEPT) !== 0;
  }

  setExcept(flow: number, except: boolean): void {
    if (except) this.#seen[flow]! |= SEEN.EXCEPT;
    else this.#seen[flow]! &= ~SEEN.EXCEPT;
  }

  isHeld(flow: number): boolean {
    return (this.#seen[flow]! & SEEN.HELD) !== 0;
  }

  setHeld(flow: number, held: boolean): void {
    if (held) this.#seen[flow]! |= SEEN.HELD;
    else this.#seen[flow]! &= ~SEEN.HELD;
  }

  /** The service's side began it. */
  beganLocally(flow: number): boolean {
    return (this.#seen[flow]! & SEEN.LOCAL_FIRST) !== 0;
  }

  /** Of datagrams: the service's side sent the last one. */
  isAnswered(flow: number): boolean {
    return (this.#seen[flow]! & SEEN.LOCAL_LAST) !== 0;
  }

  hasEnded(flow: number): boolean {
    return this.#class[flow] === CLASS.CLOSED + 1;
  }

  /** Forgets one flow. */
  remove(flow: number): void {
    const bucket = this.#hash(this.local[flow]!, this.remote[flow]!, this.ports[flow]!, this.protocol[flow]!);
    let at = this.#bucket[bucket]!;
    if (at === flow) this.#bucket[bucket] = this.#chain[flow]!;
    else {
      while (this.#chain[at] !== flow) at = this.#chain[at]!;
      this.#chain[at] = this.#chain[flow]!;
    }
    const live = this.#class[flow] !== CLASS.CLOSED + 1;
    this.#unlist(flow);
    this.#class[flow] = 0;
    this.#chain[flow] = this.#free;
    this.#free = flow;
    this.#size--;
    const group = this.#group[flow]!;
    this.#group[flow] = 0;
    if (isIpv6Key(this.local[flow]!)) this.#addresses?.release(this.remote[flow]!);
    if (group !== 0 && live) this.#leave(group);
  }

  /** Forgets what has been idle for too long. */
  age(nowMs: number): void {
    for (let c = 0; c < CLASSES; c++) {
      const head = this.capacity + c;
      let flow = this.#next[head]!;
      while (flow !== head) {
        const after = this.#next[flow]!;
        const idleMs = nowMs - this.lastMs[flow]!;
        if (idleMs > this.#limitMs(flow, c)) {
          this.aged++;
          this.remove(flow);
        } else if (c !== CLASS.DATAGRAM) break;
        flow = after;
      }
    }
  }

  /** Calls `visit` for every flow of a local address, or of all; the visitor may remove or change the flow it is given. */
  forEach(local: number | undefined, visit: (flow: number) => void): void {
    for (let c = 0; c < CLASSES; c++) {
      const head = this.capacity + c;
      let flow = this.#next[head]!;
      while (flow !== head) {
        const after = this.#next[flow]!;
        if (local === undefined || this.local[flow] === local) visit(flow);
        flow = after;
      }
    }
  }

  /** For people: `established`, `closed`, … */
  stateName(flow: number): string {
    return CLASS_NAMES[this.#class[flow]! - 1] ?? 'free';
  }

  #limitMs(flow: number, c: number): number {
    if (c === CLASS.EMBRYONIC) return this.#timeouts.embryonicMs;
    if (c === CLASS.CLOSED) return this.#timeouts.closedMs;
    if (c === CLASS.CLOSING) return this.#timeouts.closingMs;
    if (c === CLASS.ESTABLISHED) return this.#timeouts.establishedMs;
    if (isEcho(this.protocol[flow]!)) return this.#timeouts.echoMs;
    const both = SEEN.LOCAL | SEEN.REMOTE;
    return (this.#seen[flow]! & both) === both
      ? this.#timeouts.datagramAnsweredMs
      : this.#timeouts.datagramMs;
  }

  #evict(): boolean {
    for (let c: number = CLASS.EMBRYONIC; c < CLASS.ESTABLISHED; c++) {
      const head = this.capacity + c;
      const oldest = this.#next[head]!;
      if (oldest === head) continue;
      this.evicted++;
      this.remove(oldest);
      return true;
    }
    return false;
  }

  #leave(group: number): void {
    this.#groupLive[group]!--;
    if (this.#groupLive[group] === 0) this.#onDrained(group);
  }

  #enlist(flow: number, c: number): void {
    const head = this.capacity + c;
    const last = this.#previous[head]!;
    this.#next[last] = flow;
    this.#previous[flow] = last;
    this.#next[flow] = head;
    this.#previous[head] = flow;
    this.#class[flow] = c + 1;
  }

  #unlist(flow: number): void {
    const next = this.#next[flow]!;
    const previous = this.#previous[flow]!;
    this.#next[previous] = next;
    this.#previous[next] = previous;
  }

  #hash(local: number, remote: number, ports: number, protocol: number): number {
    let h = Math.imul(remote ^ this.#salt, 0x85ebca6b) ^ Math.imul(ports, 0xc2b2ae35);
    h = Math.imul(h ^ (h >>> 15) ^ local ^ protocol, 0x27d4eb2f);
    return (h ^ (h >>> 13)) & this.#bucketMask;
  }
}
