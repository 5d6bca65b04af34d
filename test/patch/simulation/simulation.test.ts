/**
 * The state machine of a run on a virtual clock: the real patch manager acts on a model of everything that it calls. Control
 * processes die at any command (before it is sent, on its way, done and unanswered), also while they recover; commands fail,
 * with and without having been done; the new partition dies, or the block process. Afterwards there is one owner of address and disk, no acknowledged
 * write is lost, nothing is held, the service answers, and the next run succeeds.
 */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { inScratch, limitMs, seeded, Trials, within } from '../../support/index.ts';
import { storyOf, WAY_NAMES } from './stories.ts';
import { simulate } from './trial.ts';

const simulation = suite('patch/simulation');

const LIMIT_MS = 240_000;
const CALM = { way: 'hold', reading: false, faults: [] } as const;

/** Evidence is written many thousand times: to memory where there is such a place. */
async function inMemory(body: (directory: string) => Promise<void>): Promise<void> {
  if (!existsSync('/dev/shm')) return inScratch(body);
  const directory = mkdtempSync('/dev/shm/changeover-simulation-');
  try {
    await body(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

simulation(
  'undisturbed, a run is cut, committed or rolled back, and no request fails',
  within(
    () =>
      inMemory(async (directory) => {
        const committed = await simulate({ ...CALM, seed: 1, ending: 'commit' }, directory);
        assert.is(committed.phases, 'ready cutting probation committed ready cutting probation committed');
        const back = await simulate({ ...CALM, seed: 2, ending: 'rollback' }, directory);
        assert.is(
          back.phases,
          'ready cutting probation rolling-back rolled-back ready cutting probation committed',
        );
        assert.is(committed.failures + back.failures, 0);
        for (const way of WAY_NAMES)
          for (const reading of way === 'overlap' ? [true] : [true, false]) {
            const { failures } = await simulate(
              { ...CALM, seed: 3, way, reading, ending: 'rollback' },
              directory,
            );
            assert.is(failures, 0, `${way}, ${reading ? 'readers' : 'writers'}`);
          }
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
        inMemory(async (directory) => {
          const found: string[] = [];
          for (let seed = 1; seed <= 10 && found.length === 0; seed++) {
            try {
              await simulate({ ...CALM, seed, ending: 'rollback', flaw }, directory);
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
        inMemory(async (directory) => {
          const trials = new Trials('F1: simulated runs', 2_000, 1_000_000);
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
