/**
 * Bytes received ahead of rcvNxt (RFC 9293 3.10.7.4: held for later processing). They lie in a ring at
 * `sequence number & mask`, so that overlapping and repeated segments need no care: the same byte lands on the same
 * place. Which places are filled is a sorted list of ranges, bounded by MAX_RANGES. The ring is as large as the
 * farthest byte asks for, at most one receive window, and is given back when the last gap closes. All rings of a stack
 * share one budget: beyond it early bytes are dropped, which TCP permits, since they were never acknowledged.
 */
import type { Seq } from './seq.ts';
import { seqAdd, seqDiff, seqGe, seqGt, seqLe, seqLt } from './seq.ts';

const MAX_RANGES = 512;
const INITIAL_BYTES = 16 * 1024;

/** Bytes all rings of a stack may take together. */
export class ReassemblyBudget {
  left: number;
  constructor(bytes: number) {
    this.left = bytes;
  }
}

export interface SeqRange {
  start: Seq;
  end: Seq;
}

export class Reassembly {
  readonly #budget: ReassemblyBudget;
  #ring: Uint8Array | undefined;
  readonly #ranges: SeqRange[] = [];
  /** Range touched last: RFC 2018 section 4 wants it first in the SACK option. */
  #latest: SeqRange | undefined;

  constructor(budget: ReassemblyBudget) {
    this.#budget = budget;
  }

  get empty(): boolean {
    return this.#ranges.length === 0;
  }

  /** Ranges held, ascending. */
  get ranges(): readonly SeqRange[] {
    return this.#ranges;
  }

  get latest(): SeqRange | undefined {
    return this.#latest;
  }

  get bytes(): number {
    let sum = 0;
    for (const range of this.#ranges) sum += seqDiff(range.end, range.start);
    return sum;
  }

  /**
   * Keeps `length` bytes that begin at `seq` (> rcvNxt); false when there is no room for them. Where bytes differ from those
   * held, the piece that begins earlier is right, as in Linux: who inspects a stream on its way sees what the program sees.
   */
  insert(rcvNxt: Seq, seq: Seq, source: Uint8Array, offset: number, length: number): boolean {
    const end = seqAdd(seq, length);
    if (!this.#reserve(rcvNxt, seqDiff(end, rcvNxt))) return false;
    const ranges = this.#ranges;
    // The first range that touches or follows the new one.
    let at = ranges.length;
    while (at > 0 && seqGe(ranges[at - 1]!.end, seq)) at--;
    let past = at;
    while (past < ranges.length && seqLe(ranges[past]!.start, end)) past++;
    let held = 0;
    if (past === at) {
      if (ranges.length >= MAX_RANGES) return false;
      const range: SeqRange = { start: seq, end };
      ranges.splice(at, 0, range);
      this.#latest = range;
    } else {
      const range = ranges[at]!;
      const last = ranges[past - 1]!;
      if (seqLt(seq, range.start)) range.start = seq;
      else held = Math.min(length, seqDiff(range.end, seq));
      range.end = seqGt(end, last.end) ? end : last.end;
      if (past - at > 1) ranges.splice(at + 1, past - at - 1);
      this.#latest = range;
    }
    this.#write(seqAdd(seq, held), source, offset + held, length - held);
    return true;
  }

  /** Hands over what has become contiguous with `rcvNxt`, in at most two pieces each; returns the new rcvNxt. */
  take(rcvNxt: Seq, sink: (source: Uint8Array, offset: number, length: number) => void): Seq {
    let next = rcvNxt;
    while (this.#ranges.length > 0 && seqLe(this.#ranges[0]!.start, next)) {
      const range = this.#ranges.shift()!;
      if (range === this.#latest) this.#latest = undefined;
      const length = seqDiff(range.end, next);
      if (length <= 0) continue;
      this.#read(next, length, sink);
      next = range.end;
    }
    if (this.#ranges.length === 0) this.clear();
    return next;
  }

  /** Copy of one held range. */
  copy(range: SeqRange): Buffer {
    const parts: Uint8Array[] = [];
    this.#read(range.start, seqDiff(range.end, range.start), (source, offset, length) => {
      parts.push(source.slice(offset, offset + length));
    });
    return Buffer.concat(parts);
  }

  clear(): void {
    this.#ranges.length = 0;
    this.#latest = undefined;
    if (this.#ring !== undefined) this.#budget.left += this.#ring.length;
    this.#ring = undefined;
  }

  #reserve(rcvNxt: Seq, span: number): boolean {
    const held = this.#ring?.length ?? 0;
    if (span <= held) return true;
    let size = Math.max(INITIAL_BYTES, held);
    while (size < span) size *= 2;
    if (size - held > this.#budget.left) return false;
    this.#budget.left -= size - held;
    const old = this.#ring;
    this.#ring = new Uint8Array(new ArrayBuffer(size));
    if (old !== undefined) {
      const mask = held - 1;
      for (const range of this.#ranges) {
        let seq = seqGt(range.start, rcvNxt) ? range.start : rcvNxt;
        while (seqLt(seq, range.end)) {
          const from = seq & mask;
          const length = Math.min(seqDiff(range.end, seq), held - from);
          this.#write(seq, old, from, length);
          seq = seqAdd(seq, length);
        }
      }
    }
    return true;
  }

  #write(seq: Seq, source: Uint8Array, offset: number, length: number): void {
    const ring = this.#ring!;
    const at = seq & (ring.length - 1);
    const first = Math.min(length, ring.length - at);
    ring.set(source.subarray(offset, offset + first), at);
    if (first < length) ring.set(source.subarray(offset + first, offset + length), 0);
  }

  #read(seq: Seq, length: number, sink: (source: Uint8Array, offset: number, length: number) => void): void {
    const ring = this.#ring!;
    const at = seq & (ring.length - 1);
    const first = Math.min(length, ring.length - at);
    sink(ring, at, first);
    if (first < length) sink(ring, 0, length - first);
  }
}
