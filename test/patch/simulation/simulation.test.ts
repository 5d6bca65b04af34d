/**
 * The state machine of a run on a virtual clock: the real patch manager acts on a model of everything that it calls. Control
 * processes die at any command (before it is sent, on its way, done and unanswered), also while they recover; commands fail,
 * with and without having been done; the new partition dies, or the block process. Afterwards there is one owner of address and disk, no acknowledged
 * write is lost, nothing is held, the service answers, and the next run succeeds.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { SeededRandom } from '../../../src/common/index.ts';
import { inScratch, limitMs, seeded, Trials, within } from '../../support/index.ts';
import type { Fault, Story } from './trial.ts';
import { simulate } from './trial.ts';

const simulation = suite('patch/simulation');

/** Commands of a run with its way back, about; later ones belong to the run that nobody disturbs. */
const CALLS = 260;
const FATES: readonly Fault['fate'][] = [
  'control-dies',
  'control-dies-after',
  'fails',
  'done-and-fails',
  'new-guest-dies',
  'block-restarts',
];
const LIMIT_MS = 240_000;

function storyOf(seed: number): Story {
  const random = new SeededRandom(seed);
  const faults = Array.from({ length: 1 + random.below(3) }, () => ({
    call: 1 + random.below(CALLS),
    fate: FATES[random.below(FATES.length)]!,
  }));
  return { seed, faults, ending: random.below(2) === 0 ? 'commit' : 'rollback' };
}

simulation(
  'undisturbed, a run is cut, committed or rolled back, and no request fails',
  within(
    () =>
      inScratch(async (directory) => {
        const committed = await simulate({ seed: 1, faults: [], ending: 'commit' }, directory);
        assert.is(committed.phases, 'ready cutting probation committed ready cutting probation committed');
        const back = await simulate({ seed: 2, faults: [], ending: 'rollback' }, directory);
        assert.is(
          back.phases,
          'ready cutting probation rolling-back rolled-back ready cutting probation committed',
        );
        assert.is(committed.failures + back.failures, 0);
        for (const name of ['disks copy-cut', 'mux switch B', 'guest A export', 'guest B import'])
          assert.ok(committed.commands.includes(name), name);
      }),
    LIMIT_MS,
  ),
);

for (const [flaw, expected] of [
  ['loses-the-last-delta', /was acknowledged and is lost/],
  ['does-not-fence', /both partitions own their disk|serves, too/],
  ['keeps-holding', /requests are held|does not answer|next run/],
  ['forgets-the-reverse-log', /was acknowledged and is lost/],
] as const) {
  simulation(
    `a world that ${flaw.replaceAll('-', ' ')} is noticed`,
    within(
      () =>
        inScratch(async (directory) => {
          const found: string[] = [];
          for (let seed = 1; seed <= 10 && found.length === 0; seed++) {
            try {
              await simulate({ seed, faults: [], ending: 'rollback', flaw }, directory);
            } catch (error) {
              found.push(String(error));
            }
          }
          assert.match(found.join(), expected);
        }),
      LIMIT_MS,
    ),
  );
}

simulation(
  'disturbed at any command, every story ends well',
  within(
    () =>
      seeded((first, seed) =>
        inScratch(async (directory) => {
          const trials = new Trials('F1: simulated runs', 120, 1_000_000);
          const orders = new Set<string>();
          let deaths = 0;
          for (; trials.more; trials.count++) {
            const story = storyOf(first.below(0x7fff_ffff));
            const { phases } = await simulate(story, directory);
            orders.add(phases);
            deaths += phases.split('|').length - 1;
          }
          trials.report(seed, `${deaths} deaths of the control process, ${orders.size} orders of phases`);
          assert.ok(deaths > trials.count / 4);
        }),
      ),
    limitMs(LIMIT_MS),
  ),
);

simulation.run();
