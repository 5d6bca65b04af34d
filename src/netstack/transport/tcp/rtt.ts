/**
 * Round-trip time and retransmission timeout (RFC 6298). A sample comes from one segment timed per round trip that was not
 * retransmitted (Karn), on the fractional clock; while data is being retransmitted the timestamp echo is taken instead.
 */
const ALPHA = 1 / 8;
const BETA = 1 / 4;
/** Clock granularity G in ms. */
const GRANULARITY_MS = 1;

export class RttEstimator {
  srtt = 0;
  rttvar = 0;
  /** Current timeout, backed off. */
  rto: number;
  /** Smallest sample seen, ms; Infinity before the first. */
  minRtt = Number.POSITIVE_INFINITY;
  readonly #minMs: number;
  readonly #maxMs: number;

  constructor(initialMs: number, minMs: number, maxMs: number) {
    this.rto = initialMs;
    this.#minMs = minMs;
    this.#maxMs = maxMs;
  }

  get measured(): boolean {
    return this.srtt > 0;
  }

  sample(rttMs: number): void {
    const r = Math.max(rttMs, 0.001);
    if (r < this.minRtt) this.minRtt = r;
    if (this.srtt === 0) {
      // (2.2)
      this.srtt = r;
      this.rttvar = r / 2;
    } else {
      // (2.3)
      this.rttvar += BETA * (Math.abs(this.srtt - r) - this.rttvar);
      this.srtt += ALPHA * (r - this.srtt);
    }
    this.restore();
  }

  /** (2.2) … (2.5) from srtt and rttvar: also ends a back-off. */
  restore(): void {
    if (this.srtt === 0) return;
    const rto = this.srtt + Math.max(GRANULARITY_MS, 4 * this.rttvar);
    this.rto = Math.min(Math.max(rto, this.#minMs), this.#maxMs);
  }

  /** (5.5) */
  backOff(): void {
    this.rto = Math.min(this.rto * 2, this.#maxMs);
  }
}
