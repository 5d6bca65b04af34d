/**
 * Trials that are counted: so many in `make test`, more with `make soak` (SOAK=1) and `make fuzz` (FUZZ=1), there for at most SECONDS each (600; 0: until the
 * count is reached). Fewer than `make test` asks for are a failure in either.
 */
import * as assert from 'uvu/assert';

export const SOAK = process.env['SOAK'] === '1' || process.env['FUZZ'] === '1';

/** Longest time of one soak, ms. */
export const SOAK_MS =
  Number(process.env['SECONDS'] ?? 600) > 0 ? Number(process.env['SECONDS'] ?? 600) * 1000 : 86_400_000;

/** For `within`: what a test may take in `make test`, and with SOAK the soak and as long again. */
export function limitMs(inTestMs: number): number {
  return SOAK ? SOAK_MS + Math.max(300_000, inTestMs) : inTestMs;
}

export class Trials {
  readonly wanted: number;
  readonly #what: string;
  readonly #least: number;
  readonly #untilMs = performance.now() + SOAK_MS;
  count = 0;

  /** `what` is told with the count: `S1: kills`. */
  constructor(what: string, inTest: number, inSoak: number) {
    this.#what = what;
    this.#least = inTest;
    this.wanted = SOAK ? inSoak : inTest;
  }

  /** Whether another trial is to be made. */
  get more(): boolean {
    if (this.count >= this.wanted) return false;
    return !SOAK || this.count < this.#least || performance.now() < this.#untilMs;
  }

  /** Prints what was reached; fails when it is too little. */
  report(seed: number, details = ''): void {
    const time = this.count < this.wanted ? ', the time is up' : '';
    const more = details === '' ? '' : `, ${details}`;
    console.log(`${this.#what}: ${this.count} of ${this.wanted}${time}${more}; SEED=${seed}`);
    assert.ok(this.count >= this.#least, `${this.#what}: only ${this.count} of ${this.wanted}`);
  }
}
