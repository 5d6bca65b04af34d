import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { PointError } from '../../src/common/index.ts';
import {
  arePointsArmed,
  armPoints,
  disarmPoints,
  pointsForChild,
  reach,
  setPointTargets,
  watchPoints,
} from '../../src/common/index.ts';
import { inScratch, within } from '../support/index.ts';

const points = suite('common/points');
points.after.each(() => {
  disarmPoints();
  watchPoints(undefined);
});

function codeOfReach(name: string): string | undefined {
  try {
    reach(name);
    return undefined;
  } catch (error) {
    return (error as PointError).code;
  }
}

points(
  'nothing is armed unless it is allowed: a variable without the option is refused',
  within(() => {
    armPoints(false, {});
    assert.is(arePointsArmed(), false);
    assert.is(codeOfReach('a'), undefined);
    for (const env of [{ CHANGEOVER_POINT: 'a:kill' }, { CHANGEOVER_POINT_DIRECTORY: '/tmp' }]) {
      assert.throws(
        () => armPoints(false, env),
        (error: PointError) => error.code === 'not-for-testing',
      );
    }
    assert.is(arePointsArmed(), false);
    assert.throws(
      () => armPoints(true, { CHANGEOVER_POINT: 'a:explode' }),
      (error: PointError) => error.code === 'bad-action',
    );
  }),
);

points(
  'exceptions have the code that was armed, and each point fires once',
  within(() => {
    armPoints(true, { CHANGEOVER_POINT: 'a:EIO,b:ENOSPC,c:throw' });
    assert.is(codeOfReach('x'), undefined);
    assert.equal(['a', 'b', 'c'].map(codeOfReach), ['EIO', 'ENOSPC', 'injected']);
    assert.equal(['a', 'b', 'c'].map(codeOfReach), [undefined, undefined, undefined]);
  }),
);

points(
  'a folder arms at any time, once for all processes that share it, and tells that it fired',
  within(() =>
    inScratch((directory) => {
      armPoints(true, { CHANGEOVER_POINT_DIRECTORY: directory });
      assert.equal(pointsForChild(), {
        args: ['--test-points'],
        env: { CHANGEOVER_POINT_DIRECTORY: directory },
        directory,
      });
      assert.is(codeOfReach('late'), undefined);
      writeFileSync(join(directory, 'late'), 'EIO\n');
      assert.is(codeOfReach('late'), 'EIO');
      assert.is(codeOfReach('late'), undefined);
      assert.is(readFileSync(join(directory, 'late.fired'), 'utf8'), 'EIO\n');
      assert.not.ok(existsSync(join(directory, 'late')));
    }),
  ),
);

points(
  'targets are killed by their id, several actions in order',
  within(() => {
    const child = spawnSync(process.execPath, ['-e', 'process.kill(process.pid, "SIGKILL")']);
    assert.is(child.signal, 'SIGKILL');
    const asked: string[] = [];
    setPointTargets((target) => {
      asked.push(target);
      return undefined;
    });
    armPoints(true, { CHANGEOVER_POINT: 'a:kill@mux+stop=10@B+ENOSPC' });
    assert.is(codeOfReach('a'), 'ENOSPC');
    assert.equal(asked, ['mux', 'B']);
  }),
);

points(
  'a test in the same process sees every point',
  within(() => {
    const seen: string[] = [];
    watchPoints((name) => seen.push(name));
    assert.is(arePointsArmed(), true);
    reach('a');
    reach('b');
    assert.equal(seen, ['a', 'b']);
  }),
);

points.run();
