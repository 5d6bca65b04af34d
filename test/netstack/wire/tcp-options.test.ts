import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  emitMss,
  emitSack,
  emitSackPermitted,
  emitTimestamps,
  emitWindowScale,
  parseTcpOptions,
  TcpOptions,
} from '../../../src/netstack/wire/index.ts';
import { seeded } from '../../support/index.ts';
import { hex } from '../packets.ts';

const options = suite('netstack/wire/tcp-options');

function parse(text: string | Uint8Array): { ok: boolean; into: TcpOptions } {
  const bytes = typeof text === 'string' ? hex(text) : text;
  const into = new TcpOptions();
  const ok = parseTcpOptions(Buffer.concat([Buffer.alloc(20), bytes]), 0, 20 + bytes.length, into);
  return { ok, into };
}

options("Linux's SYN: MSS, SACK-permitted, timestamps, window scale", () => {
  const { ok, into } = parse('020405b4 0402 080a0012d68700000000 01 030307');
  assert.ok(ok);
  assert.equal(
    [into.mss, into.sackPermitted, into.hasTimestamps, into.tsVal, into.tsEcr, into.windowScale],
    [1460, true, true, 0x0012d687, 0, 7],
  );
});

options('SACK with timestamps, three blocks', () => {
  const { ok, into } = parse(
    '0101080a0000000100000002 0101051a 00000001 00000002 fffffffe ffffffff 80000000 7fffffff',
  );
  assert.ok(ok);
  assert.is(into.sackCount, 3);
  assert.equal([...into.sackLeft.subarray(0, 3)], [1, 0xfffffffe, 0x80000000]);
  assert.equal([...into.sackRight.subarray(0, 3)], [2, 0xffffffff, 0x7fffffff]);
});

options('RFC 7323 section 2.3: a shift above 14 is taken as 14', () => {
  assert.is(parse('030300ff').into.windowScale, 0);
  assert.is(parse('03030f00').into.windowScale, 14);
});

options(
  'MUST-7: an impossible length ends the walk, what came before counts; unknown kinds are stepped over',
  () => {
    assert.equal(parse('020405b4 fe04aabb 04020000').into.sackPermitted, true);
    for (const wrong of [
      '020405b4 03000000',
      '020405b4 03010000',
      '020405b4 08ff0000',
      '020405b4 01010103',
    ]) {
      const { ok, into } = parse(wrong);
      assert.not.ok(ok, wrong);
      assert.is(into.mss, 1460);
    }
  },
);

options('known kinds with the wrong length are ignored', () => {
  const { ok, into } = parse('020305 04030003 04 030200 05050102 00');
  assert.ok(ok);
  assert.equal([into.mss, into.sackPermitted, into.windowScale, into.sackCount], [-1, false, -1, 0]);
});

options('emitted options parse back', () => {
  const buffer = Buffer.alloc(80);
  let at = emitMss(buffer, 20, 1460);
  at = emitWindowScale(buffer, at, 9);
  at = emitSackPermitted(buffer, at);
  at = emitTimestamps(buffer, at, 0xffffffff, 0x80000001);
  at = emitSack(buffer, at, 1, [5], [9]);
  assert.is(at % 4, 0);
  const into = new TcpOptions();
  assert.ok(parseTcpOptions(buffer, 0, at, into));
  assert.equal(
    [into.mss, into.windowScale, into.sackPermitted, into.tsVal, into.tsEcr],
    [1460, 9, true, 0xffffffff, 0x80000001],
  );
  assert.equal([into.sackCount, into.sackLeft[0], into.sackRight[0]], [1, 5, 9]);
});

options('timestamps alone: the fast way gives what the slow way gives', () => {
  const fast = parse('0101080a1122334455667788').into;
  const slow = parse('080a1122334455667788 0101').into;
  assert.equal({ ...fast }, { ...slow });
});

options('thirty thousand random option fields: no throw, a record within its ranges', () =>
  seeded((random) => {
    for (let i = 0; i < 30_000; i++) {
      const bytes = random.fill(new Uint8Array(4 * random.below(11)));
      for (let k = 0; k < bytes.length; k++) if (random.below(3) === 0) bytes[k] = random.below(11);
      const { into } = parse(bytes);
      assert.ok(into.mss >= -1 && into.mss <= 0xffff && into.windowScale >= -1 && into.windowScale <= 14);
      assert.ok(into.sackCount >= 0 && into.sackCount <= 4);
    }
  }),
);

options.run();
