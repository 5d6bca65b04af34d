import { openSync, readSync } from 'node:fs';

/**
 * When a small file operation may run on the event loop instead of the thread pool. A cached write costs 3 µs there and
 * 20 µs by way of the pool; but the kernel may put a writer to sleep (dirty page limits, a journal commit). Two operations
 * that took longer than `limitMs` within a second send all others to the pool for `pauseMs`. Time in which the thread could
 * have run and another one had the processor is no reason: after a first long operation that time is looked up around each
 * one for a second, and taken off. (The thread's processor time cannot tell the two apart: it stands still in both.)
 */
export class InlineBudget {
  readonly #limitMs: number;
  readonly #pauseMs: number;
  readonly #queuedMs: () => number | undefined;
  #closedUntilMs = 0;
  #watchedUntilMs = Number.NEGATIVE_INFINITY;
  #queuedBeforeMs: number | undefined;
  /** How often an inline operation took too long, and how often only because the processor was busy. */
  overruns = 0;
  preempted = 0;

  /** `queuedMs`: how long this thread has waited for a processor so far; undefined when nobody knows. */
  constructor(limitMs = 8, pauseMs = 200, queuedMs: () => number | undefined = threadQueuedMs) {
    this.#limitMs = limitMs;
    this.#pauseMs = pauseMs;
    this.#queuedMs = queuedMs;
  }

  /** Asked right before the operation. */
  allows(nowMs: number): boolean {
    if (nowMs < this.#closedUntilMs) return false;
    this.#queuedBeforeMs = nowMs < this.#watchedUntilMs ? this.#queuedMs() : undefined;
    return true;
  }

  took(startedMs: number, nowMs: number): void {
    const tookMs = nowMs - startedMs;
    if (tookMs <= this.#limitMs) return;
    const watched = nowMs - tookMs < this.#watchedUntilMs;
    this.#watchedUntilMs = nowMs + 1000;
    if (this.#queuedBeforeMs !== undefined) {
      const queuedMs = (this.#queuedMs() ?? this.#queuedBeforeMs) - this.#queuedBeforeMs;
      if (tookMs - queuedMs <= this.#limitMs) {
        this.preempted++;
        return;
      }
    }
    this.overruns++;
    if (watched) this.#closedUntilMs = nowMs + this.#pauseMs;
  }
}

let statistics: number | undefined;
const text = Buffer.alloc(96);

/** Second field of /proc/thread-self/schedstat: ns spent ready to run, without a processor. */
export function threadQueuedMs(): number | undefined {
  try {
    statistics ??= openSync('/proc/thread-self/schedstat', 'r');
    const length = readSync(statistics, text, 0, text.length, 0);
    const ns = Number(text.toString('latin1', 0, length).split(' ')[1]);
    return Number.isFinite(ns) ? ns / 1e6 : undefined;
  } catch {
    return undefined;
  }
}
