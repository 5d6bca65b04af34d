import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { StreamAssembler } from '../../../../src/hypervisor/mux/recording/stream-assembler.ts';
import { seeded, within } from '../../../support/index.ts';

const test = suite('hypervisor/mux/recording/stream-assembler');

function assembler(next = 1000, limits = { bytes: 100, segments: 8 }) {
  let got = '';
  const stream = new StreamAssembler(next, limits, (bytes) => {
    got += Buffer.from(bytes).toString();
    return true;
  });
  return {
    push: (sequence: number, text: string) => stream.push(sequence, Buffer.from(text)),
    got: () => got,
    stream,
  };
}

test('out of order, repeated and overlapping segments give the bytes once, in order; what was delivered stands', () => {
  const a = assembler();
  assert.ok(a.push(1005, 'fgh'));
  assert.ok(a.push(1003, 'defg'));
  assert.ok(a.push(1005, 'fgh'));
  assert.is(a.got(), '');
  assert.ok(a.push(1000, 'abcX'));
  assert.is(a.got(), 'abcXefgh', 'the byte that came in order first');
  assert.ok(a.push(1000, 'ZZZZZZZZij'));
  assert.is(a.got(), 'abcXefghij');
  assert.is(a.stream.waitingBytes, 0);
});

test('sequence numbers wrap', () => {
  const a = assembler(0xffff_fffe);
  a.push(0, 'cd');
  a.push(0xffff_fffe, 'ab');
  assert.is(a.got(), 'abcd');
});

test('beyond the window, or with too much behind a gap, it is given up', () => {
  assert.not.ok(assembler().push(1101, 'x'), 'too far ahead');
  const many = assembler();
  for (let i = 0; i < 8; i++) assert.ok(many.push(1002 + 2 * i, 'x'));
  assert.not.ok(many.push(1030, 'x'), 'too many');
  const large = assembler(1000, { bytes: 100, segments: 100 });
  assert.ok(large.push(1001, 'x'.repeat(60)));
  assert.not.ok(large.push(1030, 'x'.repeat(60)), 'too large');
});

test('who takes the bytes may end it', () => {
  const stream = new StreamAssembler(0, { bytes: 10, segments: 2 }, () => false);
  assert.not.ok(stream.push(0, Buffer.from('x')));
});

test(
  'a stream cut, shuffled and repeated at random comes out whole',
  within(() =>
    seeded((random) => {
      for (let round = 0; round < 500; round++) {
        const text = Array.from({ length: 200 }, () => String.fromCharCode(97 + random.below(26))).join('');
        const start = random.u32();
        const a = assembler(start, { bytes: 1000, segments: 1000 });
        const segments: [number, string][] = [];
        for (let at = 0; at < text.length; ) {
          const length = 1 + random.below(20);
          segments.push([at, text.slice(at, at + length)]);
          at += 1 + random.below(length);
        }
        for (let i = segments.length - 1; i > 0; i--) {
          const j = random.below(i + 1);
          [segments[i], segments[j]] = [segments[j]!, segments[i]!];
        }
        for (const [at, part] of segments) assert.ok(a.push((start + at) >>> 0, part));
        assert.is(a.got(), text);
        assert.is(a.stream.waitingBytes, 0);
      }
    }),
  ),
);

test.run();
