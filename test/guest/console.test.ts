import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { GuestConsole } from '../../src/guest/console.ts';
import { eventually, within } from '../support/index.ts';

const guestConsole = suite('guest/console');

/** A console that has taken over this process's output, which goes to `printed`; `end` gives it back. */
function captured(limits: ConstructorParameters<typeof GuestConsole>[0]) {
  const originals = [process.stdout.write, process.stderr.write] as const;
  const printed: string[] = [];
  const put = ((chunk: string, ...rest: unknown[]) => {
    printed.push(chunk);
    for (const done of rest) if (typeof done === 'function') done();
    return true;
  }) as typeof process.stdout.write;
  process.stdout.write = put;
  process.stderr.write = put;
  const taken = new GuestConsole(limits);
  taken.capture();
  const end = () => {
    process.stdout.write = originals[0];
    process.stderr.write = originals[1];
  };
  return { taken, printed, end };
}

guestConsole(
  'what is printed beyond the budget is dropped and counted; the last lines are kept, the guest OS always speaks',
  within(async () => {
    const { taken, printed, end } = captured({ bytesPerSecond: 1, burstBytes: 1000 });
    const told: string[] = [];
    let called = 0;
    try {
      taken.on((stream, line) => told.push(`${stream} ${line}`));
      for (let n = 0; n < 100; n++) process.stdout.write(`${String(n).padStart(99)}\n`, () => called++);
      process.stderr.write('an error\n', 'utf8', () => called++);
      await eventually('every callback', () => called === 101);
      taken.kernel('still here');
      assert.is(printed.length, 11);
      assert.is(told.length, 11);
      assert.is(told.at(-1), 'kernel still here');
      assert.equal(taken.lastLines(3), ['99'.padStart(99), 'an error', 'still here']);
      await eventually('what was dropped', () => printed.length === 12, 3_000);
      assert.is(printed[11], 'changeover: 9009 bytes of output were dropped: more than 0 KiB/s\n');
    } finally {
      end();
    }
  }),
);

guestConsole(
  'who prints within the budget loses nothing, also a text larger than the bucket',
  within(async () => {
    const { printed, end } = captured({ bytesPerSecond: 1_000_000, burstBytes: 1000 });
    try {
      process.stdout.write('x'.repeat(5000));
      await new Promise((resolve) => setTimeout(resolve, 20));
      for (let n = 0; n < 10; n++) process.stdout.write('a line\n');
      assert.is(printed.length, 11);
    } finally {
      end();
    }
  }),
);

guestConsole.run();
