/** When the commands that processes are told take effect. */
import type { SeededRandom, VirtualClock } from '../../../src/common/index.ts';

/** Commands of which the second is never done before the first: a fence waits for the cut, a thaw is for the freeze before it. */
const IN_ORDER: readonly (readonly [string, string])[] = [
  ['disks copy-cut', 'disks fence'],
  ['freeze', 'thaw'],
  ['quiesce', 'thaw'],
  ['quiesce', 'resume'],
];

export class Arrivals {
  readonly #clock: VirtualClock;
  readonly #random: SeededRandom;
  /** What a process that is stopped has been told since. */
  readonly #stopped = new Map<string, (() => void)[]>();
  /** Process and command → when it will be done. */
  readonly #underWayUntilMs = new Map<string, number>();

  constructor(clock: VirtualClock, random: SeededRandom) {
    this.#clock = clock;
    this.#random = random;
  }

  /** A process that is stopped does nothing of what it is told, and does it in order when it goes on. */
  stop(process: string, ms: number): void {
    if (this.#stopped.has(process)) return;
    const told: (() => void)[] = [];
    this.#stopped.set(process, told);
    this.#clock.after(ms, () => {
      this.#stopped.delete(process);
      for (const begin of told) begin();
    });
  }

  /** `command` of `process` takes about so long; then `effect`. */
  carryOut(process: string, command: string, takesMs: number, effect: () => void): void {
    const begin = () => {
      const nowMs = this.#clock.nowMs();
      const first = IN_ORDER.filter(([, second]) => command.includes(second));
      const untilMs = first.map(([name]) => this.#underWayUntilMs.get(`${process} ${name}`) ?? 0);
      const underWayMs = Math.max(0, Math.max(0, ...untilMs) - nowMs);
      const ms = underWayMs + (takesMs * (50 + this.#random.below(150))) / 100;
      for (const [name] of IN_ORDER)
        if (command.includes(name)) this.#underWayUntilMs.set(`${process} ${name}`, nowMs + ms);
      this.#clock.after(ms, effect);
    };
    const stopped = this.#stopped.get(process);
    if (stopped === undefined) begin();
    else stopped.push(begin);
  }
}
