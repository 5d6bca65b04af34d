/**
 * Reassembly (RFC 791 section 3.2 and RFC 8200 section 4.5, RFC 815's idea with a sorted list instead of hole descriptors),
 * for either family: what differs stands in the fragment's description.
 *
 * Fragments of one datagram (one key) are copied and kept in order of offset. They must not overlap: an overlap is never an
 * accident (RFC 5722, RFC 8200 section 4.5) and gives up the whole datagram; only an exact duplicate is just ignored.
 * Bounds: bytes over all, fragments per datagram, `timeoutMs` from the first fragment. When memory is short the oldest
 * datagram goes.
 */
import type { Clock, Timer } from '../../common/index.ts';
import type { DropReason } from '../wire/index.ts';
import { copyBytes } from '../wire/index.ts';

export interface ReassemblyLimits {
  readonly timeoutMs: number;
  readonly bytes: number;
  readonly fragmentsPerDatagram: number;
}

export const REASSEMBLY_LIMITS: ReassemblyLimits = {
  timeoutMs: 30_000,
  bytes: 1024 * 1024,
  fragmentsPerDatagram: 256,
};

export interface ReassemblyEvents {
  /** A datagram was given up; `first` is its first fragment as it came, from the IP header on, if it had come. */
  giveUp(reason: DropReason, first: Uint8Array | undefined): void;
}

/** What a family calls its drops. */
export interface ReassemblyReasons {
  readonly malformed: DropReason;
  readonly overlap: DropReason;
  readonly tooBig: DropReason;
  readonly limit: DropReason;
  readonly timeout: DropReason;
}

export interface FragmentDescription {
  /** The same for all fragments of one datagram, and for no others. */
  readonly key: string;
  /** Bytes in front of the payload; the whole datagram begins with those of the first fragment. */
  readonly headerLength: number;
  readonly payloadLength: number;
  /** Of the payload in the datagram's. */
  readonly start: number;
  readonly more: boolean;
  /** The most that `start + payloadLength` may be. */
  readonly limit: number;
  /** The link vouches for the transport checksum. */
  readonly checksumKnownGood: boolean;
}

export interface Datagram {
  /** Header of the first fragment as it came, and the whole payload; what says fragment and length is still to be set. */
  readonly bytes: Uint8Array;
  readonly headerLength: number;
  /** Every fragment came with a checksum the link vouched for. */
  readonly checksumKnownGood: boolean;
}

interface Fragment {
  readonly start: number;
  readonly end: number;
  readonly payload: Uint8Array;
}

/** What a kept fragment costs besides its payload. */
const OVERHEAD = 128;

interface Partial {
  readonly key: string;
  readonly fragments: Fragment[];
  /** Whole first fragment, header included. */
  first: Uint8Array | undefined;
  headerLength: number;
  /** Payload length once the last fragment is known. */
  length: number | undefined;
  received: number;
  cost: number;
  checksumKnownGood: boolean;
  timer: Timer;
}

export class Reassembler {
  readonly #clock: Clock;
  readonly #events: ReassemblyEvents;
  readonly #reasons: ReassemblyReasons;
  readonly #limits: ReassemblyLimits;
  /** Oldest first. */
  readonly #partials = new Map<string, Partial>();
  #bytes = 0;

  constructor(
    clock: Clock,
    events: ReassemblyEvents,
    reasons: ReassemblyReasons,
    limits: { [K in keyof ReassemblyLimits]?: number } = {},
  ) {
    this.#clock = clock;
    this.#events = events;
    this.#reasons = reasons;
    this.#limits = { ...REASSEMBLY_LIMITS, ...limits };
  }

  get bytes(): number {
    return this.#bytes;
  }

  get size(): number {
    return this.#partials.size;
  }

  /**
   * The fragment whose IP header, verified, stands at buffer[ip]. A drop reason, undefined when it was kept, or the completed
   * datagram.
   */
  add(buffer: Uint8Array, ip: number, fragment: FragmentDescription): DropReason | Datagram | undefined {
    const { key, start, more } = fragment;
    const reasons = this.#reasons;
    const length = fragment.payloadLength;
    const end = start + length;
    if (length === 0 || (more && length % 8 !== 0)) return reasons.malformed;
    if (end > fragment.limit) return reasons.tooBig;
    const partial = this.#partials.get(key) ?? this.#start(key);
    if (partial.length !== undefined && (end > partial.length || (!more && end !== partial.length))) {
      this.#drop(partial);
      return reasons.malformed;
    }
    const at = this.#place(partial, start, end);
    if (at === 'duplicate') return reasons.overlap;
    if (at === 'overlap') {
      this.#drop(partial);
      return reasons.overlap;
    }
    if (partial.fragments.length >= this.#limits.fragmentsPerDatagram) {
      this.#drop(partial);
      return reasons.limit;
    }
    if (!more) {
      const last = partial.fragments.at(-1);
      if (last !== undefined && last.end > end) {
        this.#drop(partial);
        return reasons.malformed;
      }
      partial.length = end;
    }
    this.#keep(partial, at, buffer, ip, fragment);
    partial.checksumKnownGood &&= fragment.checksumKnownGood;
    if (partial.first === undefined || partial.received !== partial.length) return undefined;
    return this.#complete(partial);
  }

  clear(): void {
    for (const partial of [...this.#partials.values()]) this.#drop(partial);
  }

  #start(key: string): Partial {
    const partial: Partial = {
      key,
      fragments: [],
      first: undefined,
      headerLength: 0,
      length: undefined,
      received: 0,
      cost: 0,
      checksumKnownGood: true,
      timer: this.#clock.after(this.#limits.timeoutMs, () => {
        this.#drop(partial);
        this.#events.giveUp(this.#reasons.timeout, partial.first);
      }),
    };
    this.#partials.set(key, partial);
    return partial;
  }

  /** Index at which [start, end) belongs. */
  #place(partial: Partial, start: number, end: number): number | 'overlap' | 'duplicate' {
    const { fragments } = partial;
    let at = fragments.length;
    while (at > 0 && fragments[at - 1]!.start > start) at--;
    const before = fragments[at - 1];
    const after = fragments[at];
    if (before !== undefined && before.end > start) {
      return before.start === start && before.end === end ? 'duplicate' : 'overlap';
    }
    return after !== undefined && after.start < end ? 'overlap' : at;
  }

  #keep(partial: Partial, at: number, buffer: Uint8Array, ip: number, fragment: FragmentDescription): void {
    const { start, headerLength, payloadLength: length } = fragment;
    const end = start + length;
    const cost = length + OVERHEAD;
    while (this.#bytes + cost > this.#limits.bytes && this.#partials.size > 1) {
      const oldest = this.#partials.values().next().value!;
      if (oldest === partial) {
        // The newcomer is the oldest: let it be the youngest, so that another one goes.
        this.#partials.delete(partial.key);
        this.#partials.set(partial.key, partial);
        continue;
      }
      this.#drop(oldest);
      this.#events.giveUp(this.#reasons.limit, undefined);
    }
    let payload: Uint8Array;
    if (start === 0) {
      partial.first = copyBytes(buffer, ip, headerLength + length);
      partial.headerLength = headerLength;
      payload = partial.first.subarray(headerLength);
    } else {
      payload = copyBytes(buffer, ip + headerLength, length);
    }
    partial.fragments.splice(at, 0, { start, end, payload });
    partial.received += length;
    partial.cost += cost;
    this.#bytes += cost;
  }

  #complete(partial: Partial): Datagram {
    this.#drop(partial);
    const { headerLength } = partial;
    const bytes = new Uint8Array(headerLength + partial.length!);
    bytes.set(partial.first!.subarray(0, headerLength));
    for (const fragment of partial.fragments) bytes.set(fragment.payload, headerLength + fragment.start);
    return { bytes, headerLength, checksumKnownGood: partial.checksumKnownGood };
  }

  #drop(partial: Partial): void {
    partial.timer.cancel();
    if (this.#partials.delete(partial.key)) this.#bytes -= partial.cost;
  }
}
