/**
 * Fair service among stream ports. A port handles what arrives at once, up to its time per turn of the event loop; what is
 * beyond waits in the port, and the ports that have something waiting are served in turn. A port that floods
 * thus costs the others one such time of waiting, and is itself stopped at its socket.
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
