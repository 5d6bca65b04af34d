/**
 * What a pause takes beside the parts that a forecast measures: mostly the same every time, whatever the parts are, for it is code
 * that runs for the first time in the new active, and writing the journal. A rollback goes to a partition that was only just booted
 * and not checked at length: it has figures of its own.
 */

/** Before a cut has shown it, in proportion to the sum of the parts. */
const FIRST_EXTRA = 0.5;
/** The median of so many counts: a single odd cut does not spoil the next forecasts. */
const REMEMBERED = 5;

export type Way = 'there' | 'back';

export class PauseCalibration {
  /** Pause less the sum of its parts, ms, the latest last. */
  readonly #extraMs: Record<Way, number[]> = { there: [], back: [] };

  /** Never below half of the sum. */
  forecastMs(way: Way, parts: PauseParts): number {
    const other = way === 'there' ? 'back' : 'there';
    const sum = sumOf(parts);
    const extraMs = median(this.#extraMs[way]) ?? median(this.#extraMs[other]) ?? FIRST_EXTRA * sum;
    return Math.max(sum / 2, sum + extraMs);
  }

  learn(way: Way, parts: PauseParts, pauseMs: number): void {
    const extra = this.#extraMs[way];
    extra.push(pauseMs - sumOf(parts));
    if (extra.length > REMEMBERED) extra.shift();
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

/** undefined of nothing. */
function median(values: readonly number[]): number | undefined {
  const sorted = [...values].sort((a, b) => a - b);
  const at = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[at] : at === 0 ? undefined : (sorted[at - 1]! + sorted[at]!) / 2;
}
