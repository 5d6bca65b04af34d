import type { Clock } from '../../common/index.ts';

/** Lets `bytesPerSecond` through on average; 0 = no limit. */
export class RateLimit {
  readonly #bytesPerSecond: number;
  readonly #clock: Clock;
  #freeAtMs = 0;

  constructor(bytesPerSecond: number, clock: Clock) {
    this.#bytesPerSecond = bytesPerSecond;
    this.#clock = clock;
  }

  async take(bytes: number): Promise<void> {
    if (this.#bytesPerSecond <= 0) return;
    const nowMs = this.#clock.nowMs();
    const startMs = Math.max(nowMs, this.#freeAtMs);
    this.#freeAtMs = startMs + (bytes / this.#bytesPerSecond) * 1000;
    if (startMs > nowMs) await new Promise<void>((resolve) => this.#clock.after(startMs - nowMs, resolve));
  }
}

/** Bytes per second over the last few seconds, from a running total. */
export class RateMeter {
  readonly #clock: Clock;
  #samples: { readonly atMs: number; readonly total: number }[] = [];

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Tells the running total as of now; at most ten samples a second are kept, of three seconds. */
  update(total: number): void {
    const atMs = this.#clock.nowMs();
    const last = this.#samples.at(-1);
    if (last !== undefined && atMs - last.atMs < 100) return;
    this.#samples.push({ atMs, total });
    while (this.#samples.length > 2 && atMs - this.#samples[0]!.atMs > 3000) this.#samples.shift();
  }

  bytesPerSecond(total: number): number {
    const first = this.#samples[0];
    if (first === undefined) return 0;
    const spanMs = this.#clock.nowMs() - first.atMs;
    return spanMs <= 0 ? 0 : Math.round(((total - first.total) / spanMs) * 1000);
  }
}
