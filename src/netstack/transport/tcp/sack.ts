/**
 * The sender's scoreboard and loss recovery by selective acknowledgement (RFC 2018, RFC 6675): sorted ranges above sndUna
 * that the peer holds. Everything between two ranges is a hole; a hole is lost as a whole, since "SACKed above it" is the
 * same for each of its octets.
 */
import type { SeqRange } from './reassembly.ts';
import type { Seq } from './seq.ts';
import { seqDiff, seqGe, seqGt, seqLe, seqLt } from './seq.ts';

export const DUP_THRESH = 3;
const MAX_RANGES = 1024;

export class SackScoreboard {
  readonly #ranges: SeqRange[] = [];
  #bytes = 0;
  /** Everything missing below is lost whatever the count of ranges says. */
  #lostBelow: Seq | undefined;

  get empty(): boolean {
    return this.#ranges.length === 0;
  }

  /** Octets that were selectively acknowledged. */
  get bytes(): number {
    return this.#bytes;
  }

  get ranges(): readonly SeqRange[] {
    return this.#ranges;
  }

  /** Highest SACKed sequence number + 1, or `sndUna`. */
  highest(sndUna: Seq): Seq {
    return this.#ranges.at(-1)?.end ?? sndUna;
  }

  /** Records one SACK block within (sndUna, sndMax]; true when it told anything new. */
  add(start: Seq, end: Seq, sndUna: Seq, sndMax: Seq): boolean {
    if (!seqLt(start, end) || seqGt(end, sndMax) || seqLe(end, sndUna)) return false;
    let from = seqLt(start, sndUna) ? sndUna : start;
    let to = end;
    const ranges = this.#ranges;
    let at = ranges.length;
    while (at > 0 && seqGe(ranges[at - 1]!.end, from)) at--;
    let past = at;
    let covered = 0;
    while (past < ranges.length && seqLe(ranges[past]!.start, to)) {
      covered += seqDiff(ranges[past]!.end, ranges[past]!.start);
      past++;
    }
    if (past === at) {
      if (ranges.length >= MAX_RANGES) return false;
      ranges.splice(at, 0, { start: from, end: to });
      this.#bytes += seqDiff(to, from);
      return true;
    }
    const range = ranges[at]!;
    const last = ranges[past - 1]!;
    if (seqLt(range.start, from)) from = range.start;
    if (seqGt(last.end, to)) to = last.end;
    range.start = from;
    range.end = to;
    ranges.splice(at + 1, past - at - 1);
    const gained = seqDiff(to, from) - covered;
    this.#bytes += gained;
    return gained > 0;
  }

  /** All holes that there are now count as lost. */
  markLost(): void {
    this.#lostBelow = this.#ranges.at(-1)?.start;
  }

  /** Drops what `sndUna` has passed. */
  advance(sndUna: Seq): void {
    if (this.#lostBelow !== undefined && seqLe(this.#lostBelow, sndUna)) this.#lostBelow = undefined;
    const ranges = this.#ranges;
    while (ranges.length > 0 && seqLe(ranges[0]!.end, sndUna)) {
      const gone = ranges.shift()!;
      this.#bytes -= seqDiff(gone.end, gone.start);
    }
    const first = ranges[0];
    if (first !== undefined && seqLt(first.start, sndUna)) {
      this.#bytes -= seqDiff(sndUna, first.start);
      first.start = sndUna;
    }
  }

  clear(): void {
    this.#ranges.length = 0;
    this.#bytes = 0;
    this.#lostBelow = undefined;
  }

  /** End of the leading part in which every hole counts as lost: IsLost (S) ⇔ S < lostBelow (RFC 6675 section 4). */
  lostBelow(sndUna: Seq, smss: number): Seq {
    const counted = this.#lostByCount(sndUna, smss);
    const marked = this.#lostBelow;
    return marked !== undefined && seqGt(marked, counted) ? marked : counted;
  }

  #lostByCount(sndUna: Seq, smss: number): Seq {
    const ranges = this.#ranges;
    let bytes = 0;
    for (let i = ranges.length - 1; i >= 0; i--) {
      const range = ranges[i]!;
      bytes += seqDiff(range.end, range.start);
      if (ranges.length - i >= DUP_THRESH || bytes > (DUP_THRESH - 1) * smss) return range.start;
    }
    return sndUna;
  }

  /** RFC 6675 SetPipe: octets thought to be in the network. */
  pipe(sndUna: Seq, sndMax: Seq, highRxt: Seq, smss: number): number {
    const lost = this.lostBelow(sndUna, smss);
    let pipe = 0;
    let at = sndUna;
    for (const range of this.#ranges) {
      pipe += this.#pipeOfHole(at, range.start, lost, highRxt);
      at = range.end;
    }
    return pipe + this.#pipeOfHole(at, sndMax, lost, highRxt);
  }

  #pipeOfHole(start: Seq, end: Seq, lost: Seq, highRxt: Seq): number {
    const length = seqDiff(end, start);
    if (length <= 0) return 0;
    let pipe = 0;
    if (!seqLt(start, lost)) pipe += length;
    const retransmitted = seqDiff(highRxt, start);
    if (retransmitted > 0) pipe += Math.min(length, retransmitted);
    return pipe;
  }

  /** First octet ≥ `from` that is not SACKed, and up to where; undefined when every octet below `limit` is. */
  nextHole(from: Seq, limit: Seq): SeqRange | undefined {
    let at = from;
    for (const range of this.#ranges) {
      if (seqLe(range.end, at)) continue;
      if (seqGt(range.start, at)) {
        if (seqGe(at, limit)) return undefined;
        return { start: at, end: seqGt(range.start, limit) ? limit : range.start };
      }
      at = range.end;
    }
    return seqLt(at, limit) ? { start: at, end: limit } : undefined;
  }
}
