/**
 * Fair service among those that share one event loop (ports of the mux, NBD servers of the block process). One handles what arrives at
 * once, up to its time per turn of the loop; what is beyond waits with it, and those that have something waiting are served in turn.
 * Who floods thus costs the others one such time of waiting, and is itself stopped at its socket.
 */
export interface Worker {
  /** Handles as much as a turn has time for; tells whether more is waiting. */
  serve(): boolean;
}

export class Turns {
  /** Number of the current turn. */
  turn = 0;
  #scheduled = false;
  #ready: Worker[] = [];
  readonly #schedule: (callback: () => void) => void;

  constructor(schedule: (callback: () => void) => void = (callback) => void setImmediate(callback)) {
    this.#schedule = schedule;
  }

  /** Work is being done in this turn: the next one shall come. */
  open(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#schedule(() => this.#next());
  }

  /** `worker` has something waiting. */
  ready(worker: Worker): void {
    if (!this.#ready.includes(worker)) this.#ready.push(worker);
    this.open();
  }

  /** `worker` is gone. */
  leave(worker: Worker): void {
    this.#ready = this.#ready.filter((other) => other !== worker);
  }

  #next(): void {
    this.#scheduled = false;
    this.turn++;
    const round = this.#ready;
    this.#ready = [];
    for (const worker of round) if (worker.serve()) this.ready(worker);
  }
}

/**
 * What one worker may use of each turn (deficit round robin): work is begun while some of its time is left, and what it takes
 * beyond is owed. So workers get equal time, whatever one piece of their work costs. Time that was not used is not kept.
 */
export class TurnShare {
  readonly #turns: Turns;
  readonly #turnMs: number;
  #turn = -1;
  #leftMs = 0;

  constructor(turns: Turns, turnMs: number) {
    this.#turns = turns;
    this.#turnMs = turnMs;
  }

  /** Time left of this turn, ms; below 0: owed. */
  get leftMs(): number {
    const { turn } = this.#turns;
    if (this.#turn !== turn) {
      this.#turn = turn;
      this.#leftMs = Math.min(this.#leftMs, 0) + this.#turnMs;
    }
    return this.#leftMs;
  }

  spend(ms: number): void {
    this.#leftMs = this.leftMs - ms;
  }
}
