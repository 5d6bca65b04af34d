import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VirtualClock } from '../../src/common/index.ts';
import { within } from '../support/index.ts';

const clock = suite('common/clock');

clock(
  'timers run in order of their due time, equal ones in the order they were set',
  within(() => {
    const c = new VirtualClock();
    const seen: string[] = [];
    c.after(20, () => seen.push('b'));
    c.after(10, () => seen.push('a'));
    c.after(20, () => seen.push('c'));
    c.advance(19);
    assert.equal(seen, ['a']);
    c.advance(1);
    assert.equal(seen, ['a', 'b', 'c']);
    assert.is(c.nowMs(), 20);
  }),
);

clock(
  'a cancelled timer does not run',
  within(() => {
    const c = new VirtualClock();
    let ran = false;
    c.after(5, () => {
      ran = true;
    }).cancel();
    c.advance(10);
    assert.not.ok(ran);
    assert.is(c.nextDueMs(), undefined);
  }),
);

clock(
  'a timer set by a timer runs within the same advance when due',
  within(() => {
    const c = new VirtualClock();
    const at: number[] = [];
    c.after(1, () => c.after(2, () => at.push(c.nowMs())));
    c.advance(10);
    assert.equal(at, [3]);
  }),
);

clock.run();
