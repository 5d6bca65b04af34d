import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { InlineBudget, threadQueuedMs } from '../../../src/blockdev/index.ts';

const budget = suite('blockdev/store/inline-budget');

budget('two long operations within a second close it for a while, two far apart do not', () => {
  const own = new InlineBudget(8, 200, () => 0);
  assert.ok(own.allows(0));
  own.took(0, 20);
  assert.ok(own.allows(1500));
  own.took(1500, 1520);
  assert.ok(own.allows(1600));
  own.took(1600, 1620);
  assert.not.ok(own.allows(1700));
  assert.ok(own.allows(1821));
  assert.is(own.overruns, 3);
});

budget('time without a processor is taken off', () => {
  let queuedMs = 0;
  const own = new InlineBudget(8, 200, () => queuedMs);
  own.took(0, 20);
  for (let nowMs = 100; nowMs < 3000; nowMs += 100) {
    assert.ok(own.allows(nowMs));
    queuedMs += 45;
    own.took(nowMs, nowMs + 50);
  }
  assert.is(own.overruns, 1);
  assert.is(own.preempted, 29);
  assert.ok(own.allows(3100));
  queuedMs += 10;
  own.took(3100, 3150);
  assert.not.ok(own.allows(3160));
});

budget('where nobody knows, every long operation counts', () => {
  const own = new InlineBudget(8, 200, () => undefined);
  own.took(0, 20);
  own.allows(100);
  own.took(100, 120);
  assert.not.ok(own.allows(130));
});

budget('the kernel says how long this thread waited for a processor', () => {
  const before = threadQueuedMs();
  if (before === undefined) return;
  const untilMs = performance.now() + 50;
  while (performance.now() < untilMs);
  assert.ok(threadQueuedMs()! >= before);
});

budget.run();
