import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { again } from '../../src/common/index.ts';

/** Fails so often, each time with its number. */
function failing(times: number) {
  let calls = 0;
  return async () => {
    calls++;
    if (calls <= times) throw new Error(`failure ${calls}`);
    return calls;
  };
}

test('work that fails is done again, once for each wait', async () => {
  const told: string[] = [];
  const tell = (error: unknown) => void told.push(String(error));
  assert.is(await again([1, 1], failing(2), tell), 3);
  assert.equal(told, ['Error: failure 1', 'Error: failure 2']);
  assert.is(await again([1, 1], failing(0), () => assert.unreachable('nothing failed')), 1);
});

test('the last failure is thrown, and told nobody else', async () => {
  const told: string[] = [];
  await again([1, 1], failing(3), (error) => void told.push(String(error))).then(
    () => assert.unreachable('it failed'),
    (error) => assert.is(String(error), 'Error: failure 3'),
  );
  assert.is(told.length, 2);
});

test.run();
