/** Of runs that are over the latest are kept; a control process that starts, or begins another run, forgets the others. */
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { silentLog, systemClock } from '../../src/common/index.ts';
import type { RunEnvironment } from '../../src/patch/index.ts';
import { MemoryJournal, PatchManager } from '../../src/patch/index.ts';
import { inScratch, within } from '../support/index.ts';

const retention = suite('patch/retention');

/** Runs r0 … r(n-1), one a second, all over but those in `open`; each with evidence and a write log. */
function history(stateDirectory: string, count: number, open: readonly string[] = []) {
  const journal = new MemoryJournal();
  const evidence = (id: string) => join(stateDirectory, 'evidence', id);
  for (let i = 0; i < count; i++) {
    const id = `r${i}`;
    const record = {
      id,
      service: 's',
      from: 'A',
      to: 'B',
      startedAtMs: i * 1000,
      evidence: evidence(id),
      patches: [],
    };
    journal.append({ runId: id, kind: 'run-begun', name: 's', atMs: i, facts: { record } });
    journal.append({
      runId: id,
      kind: 'phase',
      name: open.includes(id) ? 'probation' : 'committed',
      atMs: i,
    });
    for (const folder of [evidence(id), join(stateDirectory, 'write-log', id)]) {
      mkdirSync(folder, { recursive: true });
      writeFileSync(join(folder, 'file'), 'x');
    }
  }
  return { journal, evidence };
}

function manager(stateDirectory: string, journal: MemoryJournal, keepRuns?: number): PatchManager {
  const env = {
    journal,
    stateDirectory,
    policy: keepRuns === undefined ? {} : { keepRuns },
    clock: systemClock,
    log: silentLog,
    services: [],
    limits: { rollbacks: 1, resumes: 0 },
    alarm: () => {},
  } as unknown as Omit<RunEnvironment, 'calibration'>;
  return new PatchManager(env, []);
}

const ids = (of: PatchManager) => of.reports().map(({ id }) => id);

retention(
  'the latest are kept with report, journal and evidence; what is left of the others is removed',
  within(() =>
    inScratch(async (directory) => {
      const { journal, evidence } = history(directory, 7);
      const some = manager(directory, journal, 3);
      await some.recover();
      assert.equal(ids(some), ['r4', 'r5', 'r6']);
      assert.equal(journal.runs(), ['r4', 'r5', 'r6']);
      for (let i = 0; i < 7; i++) {
        assert.is(existsSync(evidence(`r${i}`)), i >= 4, `evidence of r${i}`);
        assert.not.ok(existsSync(join(directory, 'write-log', `r${i}`)), `log of r${i}`);
      }
      // Another control process finds the same.
      const again = manager(directory, journal, 3);
      await again.recover();
      assert.equal(ids(again), ['r4', 'r5', 'r6']);
    }),
  ),
);

retention(
  'a run that is not over stays, however old; one whose folder is gone already is forgotten all the same',
  within(() =>
    inScratch(async (directory) => {
      const { journal, evidence } = history(directory, 5, ['r0']);
      mkdirSync(join(directory, 'write-log', 'r0-reverse'), { recursive: true });
      rmSync(evidence('r1'), { recursive: true });
      const some = manager(directory, journal, 1);
      await some.recover();
      assert.equal(ids(some), ['r0', 'r4']);
      assert.ok(existsSync(evidence('r0')));
      assert.ok(existsSync(join(directory, 'write-log', 'r0-reverse')), 'its way back');
    }),
  ),
);

retention(
  'without a number a hundred are kept',
  within(() =>
    inScratch(async (directory) => {
      const { journal } = history(directory, 103);
      const some = manager(directory, journal);
      await some.recover();
      assert.equal(
        ids(some),
        Array.from({ length: 100 }, (_, i) => `r${i + 3}`),
      );
    }),
  ),
);

retention.run();
