/**
 * Sequence numbers: 32-bit, compared modulo 2^32 (RFC 9293 3.4). The brand keeps them apart from lengths and offsets.
 */
export type Seq = number & { readonly __brand: 'Seq' };

export function toSeq(value: number): Seq {
  return (value >>> 0) as Seq;
}

/** `seq + delta` modulo 2^32; `delta` may be negative. */
export function seqAdd(seq: Seq, delta: number): Seq {
  return ((seq + delta) >>> 0) as Seq;
}

/** Signed distance `a − b`, −2^31 … 2^31 − 1. */
export function seqDiff(a: Seq, b: Seq): number {
  return (a - b) | 0;
}

export function seqLt(a: Seq, b: Seq): boolean {
  return ((a - b) | 0) < 0;
}

export function seqLe(a: Seq, b: Seq): boolean {
  return ((a - b) | 0) <= 0;
}

export function seqGt(a: Seq, b: Seq): boolean {
  return ((a - b) | 0) > 0;
}

export function seqGe(a: Seq, b: Seq): boolean {
  return ((a - b) | 0) >= 0;
}

export function seqMax(a: Seq, b: Seq): Seq {
  return seqGe(a, b) ? a : b;
}
