/**
 * When a small file operation may run on the event loop instead of the thread pool. A cached write costs 3 µs there and
 * 20 µs by way of the pool; but the kernel may put a writer to sleep (dirty page limits, a journal commit). Two operations
 * that took longer than `limitMs` within a second send all others to the pool for `pauseMs`; a single one may only mean that
 * the processor was given to somebody else.
 */
export class InlineBudget {
  readonly #limitMs: number;
  readonly #pauseMs: number;
  #closedUntilMs = 0;
  #lastOverrunMs = Number.NEGATIVE_INFINITY;
  /** How often an inline operation took too long. */
  overruns = 0;

  constructor(limitMs = 8, pauseMs = 200) {
    this.#limitMs = limitMs;
    this.#pauseMs = pauseMs;
  }

  allows(nowMs: number): boolean {
    return nowMs >= this.#closedUntilMs;
  }

  took(startedMs: number, nowMs: number): void {
    if (nowMs - startedMs <= this.#limitMs) return;
    this.overruns++;
    if (nowMs - this.#lastOverrunMs < 1000) this.#closedUntilMs = nowMs + this.#pauseMs;
    this.#lastOverrunMs = nowMs;
  }
}
