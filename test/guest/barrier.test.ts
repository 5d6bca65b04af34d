import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Barriers } from '../../src/guest/network/barrier.ts';
import { within } from '../support/index.ts';

const test = suite('guest/network/barrier');

const frame = (token: number) => {
  const bytes = new Uint8Array(50);
  new DataView(bytes.buffer).setUint32(14, token);
  return [bytes, 14, 36] as const;
};

test(
  'a token is waited for, and known when it came before',
  within(async () => {
    const barriers = new Barriers();
    const waiting = barriers.wait(0xfedc_ba98, 1_000);
    barriers.receive(...frame(1));
    barriers.receive(...frame(0xfedc_ba98));
    await waiting;
    await barriers.wait(1, 1_000);
  }),
);

test(
  'a token that does not come is a typed error; a short frame is none',
  within(async () => {
    const barriers = new Barriers();
    barriers.receive(new Uint8Array([0, 0, 0]), 0, 3);
    let code = '';
    await barriers.wait(0, 10).catch((error) => {
      code = error.code;
    });
    assert.is(code, 'barrier-timeout');
  }),
);

test.run();
