import { randomFillSync } from 'node:crypto';

/** Randomness as an argument: the system's in production, seeded in tests. */
export interface Random {
  /** Fills and returns `target`. */
  fill(target: Uint8Array): Uint8Array;
  /** Uniform in 0 … 2^32 − 1. */
  u32(): number;
}

const word = new Uint32Array(1);

export const systemRandom: Random = {
  fill: (target) => randomFillSync(target),
  u32: () => randomFillSync(word)[0]!,
};

/** Deterministic generator (splitmix32) for tests and simulations. Not for secrets. */
export class SeededRandom implements Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  u32(): number {
    this.#state = (this.#state + 0x9e3779b9) >>> 0;
    let z = this.#state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return (z ^ (z >>> 15)) >>> 0;
  }

  /** Uniform in [0, 1). */
  unit(): number {
    return this.u32() / 0x1_0000_0000;
  }

  /** Uniform integer in [0, limit). */
  below(limit: number): number {
    return Math.floor(this.unit() * limit);
  }

  fill(target: Uint8Array): Uint8Array {
    for (let i = 0; i < target.length; i++) target[i] = this.u32() & 0xff;
    return target;
  }
}
