/** Stories to simulate, each from its seed. */
import { SeededRandom } from '../../../src/common/index.ts';
import type { Fault, Story, Way } from './trial.ts';
import { WAYS } from './trial.ts';

/** Commands of a run with its way back, about; later ones belong to the run that nobody disturbs. */
const CALLS = 260;
const FATES: readonly Fault['fate'][] = [
  'control-dies',
  'control-dies-after',
  'fails',
  'done-and-fails',
  'answered-late',
  'done-late',
  'guest-silent',
  'new-guest-dies',
  'old-guest-dies',
  'block-restarts',
  'mux-restarts',
];
/** A second fault often comes while the first is being mended. */
const CLOSE = 8;
export const WAY_NAMES = Object.keys(WAYS) as Way[];

export function storyOf(seed: number): Story {
  const random = new SeededRandom(seed);
  const faults: Fault[] = [];
  for (let i = random.below(3); i >= 0; i--) {
    const last = faults.at(-1)?.call;
    const isClose = last !== undefined && random.below(2) === 0;
    const call = isClose ? last + 1 + random.below(CLOSE) : 1 + random.below(CALLS);
    faults.push({ call, fate: FATES[random.below(FATES.length)]! });
  }
  const ending = random.below(3) === 0 ? 'commit' : 'rollback';
  const way = WAY_NAMES[random.below(WAY_NAMES.length)]!;
  return { seed, faults, ending, way, reading: way === 'overlap' || random.below(3) === 0 };
}
