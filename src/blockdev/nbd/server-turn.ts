/**
 * The time that one server may take of each turn of the event loop, for all its connections together (common/turns.ts). A block process has
 * a server per partition: none of them makes the others wait for longer than this, with whatever requests.
 */
import type { Turns, Worker } from '../../common/index.ts';
import { TurnShare } from '../../common/index.ts';

/** Time for some sixty requests of 4 KiB. Less would cost a busy server more turns, more would let large reads keep others waiting for longer. */
const TURN_MS = 0.25;
/**
 * What the kernel takes for a byte to or from a socket, or from a cached file, where nobody measures it. By `perf` of large reads: 0.15 ns from
 * the file, 0.1 ns into the socket, and as much around it.
 */
const MS_PER_BYTE = 0.25e-6;

/** A connection, or a large read, that waits for time. */
export interface Waiting {
  goOn(): void;
}

export class ServerTurn implements Worker {
  readonly #turns: Turns;
  readonly #share: TurnShare;
  #waiting: Waiting[] = [];
  #fromMs: number | undefined;

  constructor(turns: Turns) {
    this.#turns = turns;
    this.#share = new TurnShare(turns, TURN_MS);
  }

  /** From here to `end` time is being spent. */
  begin(): void {
    this.#turns.open();
    this.#fromMs = performance.now();
  }

  end(): void {
    if (this.#fromMs !== undefined) this.#share.spend(performance.now() - this.#fromMs);
    this.#fromMs = undefined;
  }

  /** So many bytes are moved by the kernel, now or later in this turn. */
  charge(bytes: number): void {
    this.#share.spend(bytes * MS_PER_BYTE);
  }

  /** Nothing more is begun in this turn. */
  get over(): boolean {
    const spentMs = this.#fromMs === undefined ? 0 : performance.now() - this.#fromMs;
    return this.#share.leftMs <= spentMs;
  }

  /** `one` has something left to do; it is asked to go on when there is time, before all others where it is `first`. */
  wait(one: Waiting, first = false): void {
    if (this.#waiting.includes(one)) return;
    if (first) this.#waiting.unshift(one);
    else this.#waiting.push(one);
    this.#turns.ready(this);
  }

  leave(one: Waiting): void {
    this.#waiting = this.#waiting.filter((other) => other !== one);
  }

  serve(): boolean {
    while (this.#waiting.length > 0 && !this.over) this.#waiting.shift()!.goOn();
    return this.#waiting.length > 0;
  }
}
