import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  addBytes,
  checksumOf,
  finishSum,
  foldSum,
  ipAddress,
  pseudoHeaderSum,
  sumDelta,
  transportChecksumValid,
  updateChecksum,
  updatePartialSum,
} from '../../../src/netstack/index.ts';
import { seeded } from '../../support/index.ts';
import { hex, ipv4, plainChecksum, pseudo4, tcp, u16 } from '../packets.ts';

const checksum = suite('netstack/wire/checksum');

checksum('RFC 1071 section 3: the example', () => {
  const bytes = hex('0001 f203 f4f5 f6f7');
  assert.is(foldSum(addBytes(0, bytes, 0, 8)), 0xddf2);
  assert.is(checksumOf(bytes, 0, 8), 0x220d);
});

checksum('every length, offset and alignment of memory, against the word-by-word sum', () =>
  seeded((random) => {
    const memory = new ArrayBuffer(4096);
    for (let i = 0; i < 20_000; i++) {
      const buffer = new Uint8Array(memory, random.below(9), 3000);
      if (i % 100 === 0) random.fill(buffer);
      const at = random.below(200);
      const length = random.below(i % 10 === 0 ? 2700 : 200);
      assert.is(checksumOf(buffer, at, length), plainChecksum(buffer.subarray(at, at + length)));
    }
  }),
);

checksum('all zeros and all ones, up to the largest packet', () => {
  for (const length of [0, 1, 2, 63, 64, 65, 65_535]) {
    assert.is(checksumOf(new Uint8Array(length), 0, length), 0xffff, `${length} zeros`);
    const ones = new Uint8Array(length).fill(255);
    assert.is(checksumOf(ones, 0, length), plainChecksum(ones), `${length} ones`);
  }
});

checksum('pseudo header of both families', () => {
  const v4 = finishSum(pseudoHeaderSum(ipAddress('10.0.0.1'), ipAddress('255.255.255.254'), 17, 65_535));
  assert.is(v4, plainChecksum(pseudo4('10.0.0.1', '255.255.255.254', 17, 65_535)));
  const [a, b] = [ipAddress('fd00:1234::ffff'), ipAddress('fe80::abcd')];
  const bytes = Buffer.concat([hex(String(a)), hex(String(b)), u16(0), u16(100), hex('0000003a')]);
  assert.is(finishSum(pseudoHeaderSum(a, b, 58, 100)), plainChecksum(bytes));
});

checksum('a transport checksum: right, and wrong after any single bit', () => {
  const segment = tcp({
    source: '10.0.0.1',
    destination: '10.0.0.2',
    sourcePort: 1,
    destinationPort: 2,
    payload: Buffer.from('odd'),
  });
  const packet = ipv4({ source: '10.0.0.1', destination: '10.0.0.2', protocol: 6, payload: segment });
  assert.ok(transportChecksumValid(packet, 0, 20, packet.length));
  for (let bit = 12 * 8; bit < packet.length * 8; bit++) {
    packet[bit >>> 3]! ^= 1 << (bit & 7);
    assert.not.ok(transportChecksumValid(packet, 0, 20, packet.length), `bit ${bit}`);
    packet[bit >>> 3]! ^= 1 << (bit & 7);
  }
});

checksum('RFC 1624 section 4: the example that RFC 1141 gets wrong', () => {
  const field = u16(0xdd2f);
  updateChecksum(field, 0, sumDelta(0x5555, 0x3285));
  assert.is(field.readUInt16BE(0), 0x0000);
});

checksum('RFC 1624 against recomputation: random words, 0000 and ffff included', () =>
  seeded((random) => {
    const edge = [0, 1, 0xfffe, 0xffff];
    const pick = () => (random.below(4) === 0 ? edge[random.below(4)]! : random.below(65_536));
    for (let i = 0; i < 50_000; i++) {
      // A first word that is never zero, as in every real header: the sum is not all zeros.
      const bytes = Buffer.concat([u16(0x4500), u16(pick()), u16(pick()), u16(pick())]);
      const at = 2 + 2 * random.below(3);
      const before = bytes.readUInt16BE(at);
      const after = pick();
      const field = u16(plainChecksum(bytes));
      const partial = u16(~plainChecksum(bytes) & 0xffff);
      updateChecksum(field, 0, sumDelta(before, after));
      updatePartialSum(partial, 0, sumDelta(before, after));
      bytes.writeUInt16BE(after, at);
      const full = plainChecksum(bytes);
      assert.is(field.readUInt16BE(0), full, `${before} → ${after}`);
      assert.is(partial.readUInt16BE(0), ~full & 0xffff);
    }
  }),
);

checksum.run();
