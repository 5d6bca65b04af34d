/** When the commands that processes are told take effect. */
import type { SeededRandom, VirtualClock } from '../../../src/common/index.ts';

/** Commands of which the second is never done before the first: a fence waits for the cut, a thaw is for the freeze before it. */
const IN_ORDER = [
  ['disks copy-cut', 'disks fence'],
  ['freeze', 'thaw'],
] as const;

export class Arrivals {
  readonly #clock: VirtualClock;
  readonly #random: SeededRandom;
  readonly #stoppedUntilMs = new Map<string, number>();
  /** Process and command → when it will be done. */
  readonly #underWayUntilMs = new Map<string, number>();

  constructor(clock: VirtualClock, random: SeededRandom) {
    this.#clock = clock;
    this.#random = random;
  }

  /** A process that is stopped does nothing of what it is told, and does it in order when it goes on. */
  stop(process: string, ms: number): void {
    this.#stoppedUntilMs.set(process, this.#clock.nowMs() + ms);
  }

  /** `command` of `process` takes about so long; then `effect`. */
  carryOut(process: string, command: string, takesMs: number, effect: () => void): void {
    const begin = () => {
      const nowMs = this.#clock.nowMs();
      const first = IN_ORDER.find(([, second]) => command.includes(second))?.[0];
      const underWayMs = Math.max(0, (this.#underWayUntilMs.get(`${process} ${first}`) ?? 0) - nowMs);
      const ms = underWayMs + (takesMs * (50 + this.#random.below(150))) / 100;
      for (const [name] of IN_ORDER)
        if (command.includes(name)) this.#underWayUntilMs.set(`${process} ${name}`, nowMs + ms);
      this.#clock.after(ms, effect);
    };
    const waitMs = (this.#stoppedUntilMs.get(process) ?? 0) - this.#clock.nowMs();
    if (waitMs <= 0) begin();
    else this.#clock.after(waitMs, begin);
  }
}
