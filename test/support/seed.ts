import { SeededRandom } from '../../src/common/index.ts';

/** The run's seed: $SEED or from the clock. Runs `body`; a failure says which seed to set to see it again. */
export async function seeded(
  body: (random: SeededRandom, seed: number) => Promise<void> | void,
): Promise<void> {
  const seed = process.env['SEED'] === undefined ? Date.now() >>> 0 : Number(process.env['SEED']) >>> 0;
  try {
    await body(new SeededRandom(seed), seed);
  } catch (error) {
    console.error(`failed with SEED=${seed}`);
    throw error;
  }
}
