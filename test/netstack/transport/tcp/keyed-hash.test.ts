import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Random } from '../../../../src/common/index.ts';
import { KeyedHash } from '../../../../src/netstack/transport/tcp/keyed-hash.ts';
import { ipAddress } from '../../../../src/netstack/wire/index.ts';

const test = suite('netstack/transport/tcp/keyed-hash');

/** The key of the reference vectors: bytes 0 to 15. */
const counting = { fill: (bytes: Uint8Array) => bytes.map((_, i) => i) } as unknown as Random;

/** Bytes 0, 1, 2 … as little-endian words. */
function counted(words: number): KeyedHash {
  const hash = new KeyedHash(counting);
  for (let i = 0; i < words; i++)
    hash.word((4 * i + 3) * 0x100_0000 + (4 * i + 2) * 0x1_0000 + (4 * i + 1) * 256 + 4 * i);
  return hash;
}

test('the reference vectors of SipHash-2-4 whose length is a multiple of four', () => {
  // Low halves of 726fdb47dd0e0e31, cf2794e0277187b7, 93f5f5799a932462 (vectors.h of the reference implementation).
  const expected = [0xdd0e_0e31, 0x2771_87b7, 0x9a93_2462];
  assert.equal(
    [0, 1, 2].map((words) => counted(words).finish()),
    expected,
  );
});

test('a hash can be used again, and words above 31 bits are as good as negative ones', () => {
  const hash = counted(2);
  hash.finish();
  assert.is(hash.finish(), 0xdd0e_0e31);
  assert.is(hash.word(0xffff_fffe).finish(), hash.word(-2).finish());
});

test('every bit of addresses, ports and numbers is in it', () => {
  const hash = new KeyedHash(counting);
  const of = (address: string, port: number) => hash.address(ipAddress(address)).word(port).finish();
  const names = ['10.0.0.1', '10.0.0.2', '138.0.0.1', 'fd00::1', 'fd00::2', 'fd01::1', 'fd00:0:0:1::1'];
  const all = names.flatMap((name) => Array.from({ length: 16 }, (_, bit) => of(name, 1 << bit)));
  assert.is(new Set(all).size, all.length);
});

test.run();
