/**
 * What a pause takes beside the parts that a forecast measures: mostly the same every time, whatever the parts are, for it is code
 * that runs for the first time in the new active, and writing the journal.
 */

/** Before a cut has shown it, in proportion to the sum of the parts. */
const FIRST_EXTRA = 0.5;
/** The median of so many counts, cuts and rollbacks: a single odd one does not spoil the next forecasts. */
const REMEMBERED = 7;
/** As long as there are fewer, what has not been shown stands for those that lack. */
const LEAST = 3;

export class PauseCalibration {
  /** Pause less the sum of its parts, ms, the latest last. */
  readonly #extraMs: number[] = [];

  /** Never below half of the sum. */
  forecastMs(parts: PauseParts): number {
    const sum = sumOf(parts);
    const lacking = Math.max(0, LEAST - this.#extraMs.length);
    const unshown = Array.from({ length: lacking }, () => FIRST_EXTRA * sum);
    return Math.max(sum / 2, sum + median([...unshown, ...this.#extraMs]));
  }

  learn(parts: PauseParts, pauseMs: number): void {
    this.#extraMs.push(pauseMs - sumOf(parts));
    if (this.#extraMs.length > REMEMBERED) this.#extraMs.shift();
  }

  /** A cut was refused: nothing is learned from it, so that what some odd ones have taught must not refuse all others, too. */
  refused(): void {
    this.#extraMs.shift();
  }
}

/** ms each. */
export interface PauseParts {
  readonly delta: number;
  readonly applicationStart: number;
  readonly check: number;
  readonly connections: number;
  readonly commands: number;
}

export interface PauseForecast {
  readonly pauseMs: number;
  readonly parts: PauseParts;
}

function sumOf(parts: PauseParts): number {
  return Object.values(parts).reduce((total, ms) => total + ms, 0);
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[at]! : (sorted[at - 1]! + sorted[at]!) / 2;
}
