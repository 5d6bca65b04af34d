/** The forecast of the pause, and what is learned from how long the cuts took. */

/** What is not seen by measuring the parts one by one, before a cut has shown it: measured here, 1.4 to 2.2. */
const FIRST_RATIO = 1.6;
/** A single odd cut must not spoil the next forecasts. */
const LEAST_RATIO = 0.5;
const LARGEST_RATIO = 4;
const WEIGHT_OF_LAST = 0.5;

/** Learns from every cut by `hold` how much longer it takes than the sum of its parts. */
export class PauseCalibration {
  #ratio = FIRST_RATIO;

  get ratio(): number {
    return this.#ratio;
  }

  learn(forecast: PauseForecast, pauseMs: number): void {
    const sum = Object.values(forecast.parts).reduce((total, ms) => total + ms, 0);
    if (sum <= 0) return;
    const seen = Math.min(LARGEST_RATIO, Math.max(LEAST_RATIO, pauseMs / sum));
    this.#ratio += WEIGHT_OF_LAST * (seen - this.#ratio);
  }
}

export interface PauseForecast {
  readonly pauseMs: number;
  /** ms each. */
  readonly parts: {
    readonly delta: number;
    readonly applicationStart: number;
    readonly check: number;
    readonly connections: number;
    readonly commands: number;
  };
}
