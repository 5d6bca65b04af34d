/**
 * Time as an argument. Pure layers take a `Clock`; two stacks on a `VirtualClock` live a simulated hour in a second.
 */
export interface Timer {
  /** Idempotent; after it the callback will not run. */
  cancel(): void;
}

export interface Clock {
  /** Monotonic time in milliseconds, fractional, from an arbitrary origin. */
  nowMs(): number;
  /** Wall clock, nanoseconds since 1970-01-01T00:00:00Z. It may step. */
  wallNs(): bigint;
  /** Runs `callback` once, not earlier than `delayMs` from now. Timers never keep the process alive. */
  after(delayMs: number, callback: () => void): Timer;
}

class SystemTimer implements Timer {
  readonly #handle: NodeJS.Timeout;
  constructor(delayMs: number, callback: () => void) {
    this.#handle = setTimeout(callback, Math.max(0, delayMs));
    this.#handle.unref();
  }
  cancel(): void {
    clearTimeout(this.#handle);
  }
}

/** `performance.timeOrigin` is a float of milliseconds: good to a microsecond; the sum stays monotonic in a process. */
const wallOriginNs = BigInt(Math.round(performance.timeOrigin * 1000)) * 1000n;

export const systemClock: Clock = {
  nowMs: () => performance.now(),
  wallNs: () => wallOriginNs + BigInt(Math.round(performance.now() * 1e6)),
  after: (delayMs, callback) => new SystemTimer(delayMs, callback),
};

interface VirtualTimer {
  readonly dueMs: number;
  readonly order: number;
  readonly callback: () => void;
  live: boolean;
}

/** A clock that moves only when told. Timers due at the same instant run in the order in which they were set. */
export class VirtualClock implements Clock {
  #nowMs = 0;
  #order = 0;
  readonly #startNs: bigint;
  /** Binary heap by (dueMs, order). */
  readonly #heap: VirtualTimer[] = [];

  constructor(startNs = 1_600_000_000_000_000_000n) {
    this.#startNs = startNs;
  }

  nowMs(): number {
    return this.#nowMs;
  }

  wallNs(): bigint {
    return this.#startNs + BigInt(Math.round(this.#nowMs * 1e6));
  }

  after(delayMs: number, callback: () => void): Timer {
    const timer: VirtualTimer = {
      dueMs: this.#nowMs + Math.max(0, delayMs),
      order: this.#order++,
      callback,
      live: true,
    };
    this.#push(timer);
    return {
      cancel: () => {
        timer.live = false;
      },
    };
  }

  /** When the next live timer is due, or undefined when there is none. */
  nextDueMs(): number | undefined {
    while (this.#heap.length > 0 && !this.#heap[0]!.live) this.#pop();
    return this.#heap[0]?.dueMs;
  }

  /** Runs the next live timer and moves to its time; false when there is none. */
  step(): boolean {
    if (this.nextDueMs() === undefined) return false;
    const timer = this.#pop()!;
    this.#nowMs = Math.max(this.#nowMs, timer.dueMs);
    timer.live = false;
    timer.callback();
    return true;
  }

  /** Moves forward by `deltaMs`, running every timer that falls due on the way. */
  advance(deltaMs: number): void {
    const untilMs = this.#nowMs + deltaMs;
    for (let due = this.nextDueMs(); due !== undefined && due <= untilMs; due = this.nextDueMs()) this.step();
    this.#nowMs = untilMs;
  }

  /** Steps until `done` holds, no timer is left, or `limitMs` of virtual time have passed; tells whether `done` holds. */
  runUntil(done: () => boolean, limitMs: number): boolean {
    const untilMs = this.#nowMs + limitMs;
    while (!done()) {
      const due = this.nextDueMs();
      if (due === undefined || due > untilMs) return false;
      this.step();
    }
    return true;
  }

  #before(a: VirtualTimer, b: VirtualTimer): boolean {
    return a.dueMs < b.dueMs || (a.dueMs === b.dueMs && a.order < b.order);
  }

  #push(timer: VirtualTimer): void {
    const heap = this.#heap;
    let at = heap.push(timer) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#before(heap[at]!, heap[parent]!)) return;
      [heap[at], heap[parent]] = [heap[parent]!, heap[at]!];
      at = parent;
    }
  }

  #pop(): VirtualTimer | undefined {
    const heap = this.#heap;
    const top = heap[0];
    const last = heap.pop();
    if (top === undefined || last === undefined || heap.length === 0) return top;
    heap[0] = last;
    let at = 0;
    for (;;) {
      const left = 2 * at + 1;
      const right = left + 1;
      let least = at;
      if (left < heap.length && this.#before(heap[left]!, heap[least]!)) least = left;
      if (right < heap.length && this.#before(heap[right]!, heap[least]!)) least = right;
      if (least === at) return top;
      [heap[at], heap[least]] = [heap[least]!, heap[at]!];
      at = least;
    }
  }
}
