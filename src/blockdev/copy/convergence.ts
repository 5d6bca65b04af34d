/**
 * Whether the rounds catch up with the writers: forecast from measured rates, a limit for the writers when they outrun the
 * rounds, and in the end the reason why it is given up.
 */
import type { Clock } from '../../common/index.ts';

/** The delta is small when it is at most this. */
export const SMALL_DELTA = 4 * 1024 * 1024;
/** Writers are never asked to be slower than this, bytes per second. */
const LOWEST_LIMIT = 256 * 1024;
/** Rounds that did not make it smaller, before writers are slowed down. */
const ROUNDS_BEFORE_LIMIT = 2;

export interface ConvergenceLimits {
  /** Longest delay of one write; 0: writers are not slowed down. */
  readonly maxDelayMs: number;
  /** The rounds may go on for so long without getting closer. */
  readonly giveUpAfterMs: number;
}

export const CONVERGENCE_DEFAULTS: ConvergenceLimits = { maxDelayMs: 20, giveUpAfterMs: 30_000 };

export interface Round {
  /** Bytes of writes that were reflected, and how long it took. */
  readonly reflected: number;
  readonly tookMs: number;
  /** Bytes behind after it. */
  readonly left: number;
  /** Bytes per second that come in. */
  readonly writeRate: number;
}

export class Convergence {
  readonly limits: ConvergenceLimits;
  readonly #clock: Clock;
  #reflectRate = 0;
  /** Rounds in a row that did not get closer than an earlier one. */
  #stale = 0;
  #lowest = Number.POSITIVE_INFINITY;
  #closerMs = 0;
  #limit = 0;
  #rounds = 0;

  constructor(limits: Partial<ConvergenceLimits>, clock: Clock) {
    this.limits = { ...CONVERGENCE_DEFAULTS, ...limits };
    this.#clock = clock;
  }

  /** Bytes per second of writes that a round reflects; 0 when none was measured. */
  get reflectRate(): number {
    return Math.round(this.#reflectRate);
  }

  /** Bytes per second the writers are to be held to; 0: no limit. */
  get limit(): number {
    return this.#limit;
  }

  /** The last rounds did not make what is left smaller. */
  get outrun(): boolean {
    return this.#stale >= ROUNDS_BEFORE_LIMIT;
  }

  /** When the rest will be small, ms; undefined when it never will at these rates, or nothing was measured. */
  forecastMs(delta: number, writeRate: number): number | undefined {
    if (delta <= SMALL_DELTA) return 0;
    const net = this.#reflectRate - writeRate;
    return net > 0 ? Math.round((delta / net) * 1000) : undefined;
  }

  /** After each round: goes on, is small, or the reason to give up. */
  round({ reflected, tookMs, left, writeRate }: Round): 'replaying' | 'converged' | { reason: string } {
    const nowMs = this.#clock.nowMs();
    this.#rounds++;
    if (reflected > 65_536) {
      const rate = (reflected / Math.max(1, tookMs)) * 1000;
      this.#reflectRate = this.#reflectRate === 0 ? rate : (this.#reflectRate + rate) / 2;
    }
    if (left <= SMALL_DELTA) {
      this.#stale = 0;
      this.#lowest = Number.POSITIVE_INFINITY;
      // Eased, not lifted: the writers would outrun the rounds again at once.
      if (this.#limit > 0) this.#limit *= 1.1;
      if (this.#limit > 4 * this.#reflectRate) this.#limit = 0;
      return 'converged';
    }
    if (left < 0.9 * this.#lowest) {
      this.#lowest = left;
      this.#closerMs = nowMs;
      this.#stale = 0;
    } else this.#stale++;
    if (this.outrun && this.limits.maxDelayMs > 0)
      this.#limit = Math.max(LOWEST_LIMIT, (this.#limit > 0 ? this.#limit : this.#reflectRate) / 2);
    const withoutMs = nowMs - this.#closerMs;
    if (withoutMs <= this.limits.giveUpAfterMs) return 'replaying';
    const slowed =
      this.limits.maxDelayMs > 0
        ? `although each write was delayed by up to ${this.limits.maxDelayMs} ms`
        : 'and writers may not be slowed down';
    return {
      reason:
        `writes outrun the copy: ${left} bytes behind after ${this.#rounds} rounds, not closer for ${Math.round(withoutMs)} ms; ` +
        `written at ${writeRate} bytes/s, reflected at ${this.reflectRate} bytes/s, ${slowed}`,
    };
  }
}
