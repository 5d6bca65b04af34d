/**
 * Where a MAC lives. "high" is its first 16 bits with the number of a segment above them: the same MAC in two segments is two
 * entries; fixed entries without a segment (probes) are found in every one. Addresses of partitions are fixed entries; those behind uplinks are learned from source addresses in a
 * cache of 8-way sets: bounded whatever arrives, the entry unheard of for longest gives way. A MAC that changes uplinks more
 * often than MOVES_PER_SECOND is a loop outside (or somebody lying): it stays where it is until it calms down.
 */
const WAYS = 8;
const MOVES_PER_SECOND = 5;
const SEGMENT_SHIFT = 16;
const MAC_HIGH = 0xffff;

/** `port` was recorded; the MAC belongs to a partition; it moves too often. */
export const LEARNED = { OK: 0, FIXED: 1, FLAPPING: 2 } as const;

function hash(high: number, low: number): number {
  let h = Math.imul(low ^ Math.imul(high, 0x9e3779b1), 0x85ebca6b);
  h ^= h >>> 15;
  return Math.imul(h, 0xc2b2ae35) >>> 8;
}

export interface MacTableOptions {
  /** Learned addresses, a power of two, default 4096. */
  readonly capacity?: number;
  /** Default 300 s. */
  readonly ageMs?: number;
}

export class MacTable {
  /** Learned addresses that changed their port, since the beginning. */
  moved = 0;

  readonly #sets: number;
  readonly #ageMs: number;
  readonly #high: Int32Array;
  readonly #low: Int32Array;
  /** Port index + 1; 0 is an empty place. */
  readonly #port: Uint16Array;
  readonly #seenMs: Float64Array;
  readonly #movedMs: Float64Array;
  readonly #moves: Uint8Array;

  #fixedMask = 7;
  #fixedHigh = new Int32Array(8);
  #fixedLow = new Int32Array(8);
  #fixedPort = new Uint16Array(8);
  readonly #fixed = new Map<number, { high: number; low: number }>();

  constructor(options: MacTableOptions = {}) {
    const capacity = options.capacity ?? 4096;
    this.#sets = Math.max(1, capacity / WAYS);
    this.#ageMs = options.ageMs ?? 300_000;
    const places = this.#sets * WAYS;
    this.#high = new Int32Array(places);
    this.#low = new Int32Array(places);
    this.#port = new Uint16Array(places);
    this.#seenMs = new Float64Array(places);
    this.#movedMs = new Float64Array(places);
    this.#moves = new Uint8Array(places);
  }

  /** The partition at `port` has this MAC. */
  setFixed(port: number, high: number, low: number): void {
    this.#fixed.set(port, { high, low: low | 0 });
    this.#rebuild();
    const everywhere = high >>> SEGMENT_SHIFT === 0;
    for (let i = 0; i < this.#port.length; i++) {
      const found = everywhere ? this.#high[i]! & MAC_HIGH : this.#high[i]!;
      if (found === high && this.#low[i] === (low | 0)) this.#port[i] = 0;
    }
  }

  /** Forgets everything about a port. */
  remove(port: number): void {
    if (this.#fixed.delete(port)) this.#rebuild();
    for (let i = 0; i < this.#port.length; i++) if (this.#port[i] === port + 1) this.#port[i] = 0;
  }

  /** Port of the partition that has this MAC, or -1. */
  fixed(high: number, low: number): number {
    let i = hash(high, low) & this.#fixedMask;
    for (;;) {
      const port = this.#fixedPort[i]!;
      if (port === 0) return -1;
      if (this.#fixedLow[i] === low && this.#fixedHigh[i] === high) return port - 1;
      i = (i + 1) & this.#fixedMask;
    }
  }

  /** Port behind which the MAC is, or -1. */
  find(high: number, low: number, nowMs: number): number {
    const fixed = this.fixed(high, low);
    if (fixed >= 0) return fixed;
    const base = (hash(high, low) % this.#sets) * WAYS;
    for (let i = base; i < base + WAYS; i++) {
      if (this.#low[i] === low && this.#high[i] === high && this.#port[i] !== 0) {
        return nowMs - this.#seenMs[i]! <= this.#ageMs ? this.#port[i]! - 1 : -1;
      }
    }
    return this.fixed(high & MAC_HIGH, low);
  }

  /** A frame with this source came from uplink `port`. */
  learn(port: number, high: number, low: number, nowMs: number): number {
    const base = (hash(high, low) % this.#sets) * WAYS;
    for (let i = base; i < base + WAYS; i++) {
      if (this.#low[i] === low && this.#high[i] === high && this.#port[i] !== 0) {
        if (this.#port[i] !== port + 1) {
          if (nowMs - this.#movedMs[i]! > 1000) {
            this.#movedMs[i] = nowMs;
            this.#moves[i] = 0;
          }
          if (this.#moves[i]! >= MOVES_PER_SECOND) return LEARNED.FLAPPING;
          this.#moves[i]!++;
          this.moved++;
          this.#port[i] = port + 1;
        }
        this.#seenMs[i] = nowMs;
        return LEARNED.OK;
      }
    }
    if (this.fixed(high, low) >= 0 || this.fixed(high & MAC_HIGH, low) >= 0) return LEARNED.FIXED;
    let at = base;
    for (let i = base; i < base + WAYS; i++) {
      if (this.#port[i] === 0) {
        at = i;
        break;
      }
      if (this.#seenMs[i]! < this.#seenMs[at]!) at = i;
    }
    this.#high[at] = high;
    this.#low[at] = low;
    this.#port[at] = port + 1;
    this.#seenMs[at] = nowMs;
    this.#movedMs[at] = nowMs;
    this.#moves[at] = 0;
    return LEARNED.OK;
  }

  /** Learned addresses, aged ones included. */
  get size(): number {
    let count = 0;
    for (let i = 0; i < this.#port.length; i++) if (this.#port[i] !== 0) count++;
    return count;
  }

  #rebuild(): void {
    let size = 8;
    while (size < this.#fixed.size * 4) size *= 2;
    this.#fixedMask = size - 1;
    this.#fixedHigh = new Int32Array(size);
    this.#fixedLow = new Int32Array(size);
    this.#fixedPort = new Uint16Array(size);
    for (const [port, { high, low }] of this.#fixed) {
      let i = hash(high, low) & this.#fixedMask;
      while (this.#fixedPort[i] !== 0) i = (i + 1) & this.#fixedMask;
      this.#fixedHigh[i] = high;
      this.#fixedLow[i] = low;
      this.#fixedPort[i] = port + 1;
    }
  }
}
