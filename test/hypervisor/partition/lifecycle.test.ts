import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { PartitionState } from '../../../src/hypervisor/index.ts';
import {
  isLegalTransition,
  Lifecycle,
  LifecycleError,
  PARTITION_STATES,
} from '../../../src/hypervisor/index.ts';

const test = suite('hypervisor/partition/lifecycle');

/** The whole table: row = from, column = to, in the order of PARTITION_STATES. */
const LEGAL = `
  .  s  r  .  .  .
  .  .  r  x  .  f
  .  .  .  x  .  f
  .  .  .  .  d  f
  .  s  r  .  .  .
  .  s  .  .  d  .
`
  .trim()
  .split('\n')
  .map((line) => line.trim().split(/\s+/));

/** A way from `defined` to each state. */
const WAY: Record<PartitionState, PartitionState[]> = {
  defined: [],
  starting: ['starting'],
  running: ['starting', 'running'],
  stopping: ['starting', 'running', 'stopping'],
  stopped: ['starting', 'running', 'stopping', 'stopped'],
  failed: ['starting', 'failed'],
};

test('every transition of the table, legal and illegal', () => {
  let legal = 0;
  PARTITION_STATES.forEach((from, i) => {
    PARTITION_STATES.forEach((to, j) => {
      const allowed = LEGAL[i]![j] !== '.';
      assert.is(isLegalTransition(from, to), allowed, `${from} → ${to}`);
      const lifecycle = new Lifecycle('p');
      for (const state of WAY[from]) lifecycle.to(state);
      if (allowed) {
        lifecycle.to(to);
        assert.is(lifecycle.state, to);
        legal++;
      } else {
        assert.throws(
          () => lifecycle.to(to),
          (error: unknown) => error instanceof LifecycleError && error.code === 'illegal-transition',
        );
        assert.is(lifecycle.state, from);
      }
    });
  });
  assert.is(legal, 13);
});

test('the reason belongs to failed alone, and listeners hear every change', () => {
  const lifecycle = new Lifecycle('p');
  const heard: string[] = [];
  const off = lifecycle.onChange((state, reason) => heard.push(`${state} ${reason ?? '-'}`));
  lifecycle.to('starting');
  lifecycle.to('failed', 'out of luck');
  assert.is(lifecycle.reason, 'out of luck');
  lifecycle.to('starting');
  assert.is(lifecycle.reason, undefined);
  off();
  lifecycle.to('failed');
  assert.is(lifecycle.reason, 'no reason was given');
  assert.equal(heard, ['starting -', 'failed out of luck', 'starting -']);
});

test.run();
