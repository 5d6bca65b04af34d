import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { FairShares, NEWCOMERS } from '../../../src/hypervisor/mux/fair-queue.ts';

const [LOUD, CALM] = [NEWCOMERS + 1, NEWCOMERS + 2];

/** `count` packets of `sender` in `ms` milliseconds from `fromMs` on. */
function send(shares: FairShares, sender: number, count: number, fromMs: number, ms: number): void {
  for (let n = 0; n < count; n++) shares.add(sender, 1500, fromMs + (n * ms) / count);
}

test('below half full everybody may enter, however much he sent', () => {
  const shares = new FairShares();
  send(shares, LOUD, 1000, 0, 10);
  send(shares, CALM, 1, 10, 1);
  assert.ok(shares.allows(LOUD, 0.49));
  assert.not.ok(shares.allows(LOUD, 0.5));
  assert.ok(shares.allows(CALM, 0.99));
});

test('a sender without a rival leaves the last eighth for whoever was silent', () => {
  const shares = new FairShares();
  send(shares, LOUD, 1000, 0, 10);
  assert.ok(shares.allows(LOUD, 0.87));
  assert.not.ok(shares.allows(LOUD, 0.875));
  assert.ok(shares.allows(CALM, 0.99));
  send(shares, CALM, 1, 10, 1);
  assert.not.ok(shares.allows(LOUD, 0.5), 'now it has one');
});

test.run();
