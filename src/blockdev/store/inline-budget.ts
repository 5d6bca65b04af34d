/**
 * When a small file operation may run on the event loop instead of the thread pool. A cached write costs 3 µs there and
 * 20 µs by way of the pool; but the kernel may put a writer to sleep (dirty page limits, a journal commit). One operation
 * that took longer than `limitMs` sends all others to the pool for `pauseMs`.
 */
export class InlineBudget {
  readonly #limitMs: number;
  readonly #pauseMs: number;
  #closedUntilMs = 0;
  /** How often an inline operation took too long. */
  overruns = 0;

  constructor(limitMs = 3, pauseMs = 500) {
    this.#limitMs = limitMs;
    this.#pauseMs = pauseMs;
  }

  allows(nowMs: number): boolean {
    return nowMs >= this.#closedUntilMs;
  }

  took(startedMs: number, nowMs: number): void {
    if (nowMs - startedMs <= this.#limitMs) return;
    this.overruns++;
    this.#closedUntilMs = nowMs + this.#pauseMs;
  }
}
