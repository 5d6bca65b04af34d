import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { SeededRandom, VirtualClock } from '../../../src/common/index.ts';
import type { LinkDevice } from '../../../src/netstack/index.ts';
import {
  CorruptLink,
  DelayLink,
  DuplicateLink,
  describePacket,
  impair,
  LossLink,
  MemoryLink,
  RateLink,
  ReorderLink,
  TracerLink,
} from '../../../src/netstack/index.ts';
import { seeded } from '../../support/index.ts';
import { arp, ipv4, packet, tcp, u32, udp } from '../packets.ts';
import { ipv6, packet6, udp6 } from '../packets6.ts';

const link = suite('netstack/link/memory-link');

interface Sink {
  readonly packets: Buffer[];
  /** Packets per batch. */
  readonly batches: number[];
  writable: number;
}

function sink(device: LinkDevice): Sink {
  const into: Sink = { packets: [], batches: [], writable: 0 };
  let open = 0;
  device.attach({
    receive: (buffer, offset, length) => {
      into.packets.push(Buffer.from(buffer.subarray(offset, offset + length)));
      open++;
    },
    endOfBatch: () => {
      into.batches.push(open);
      open = 0;
    },
    writable: () => {
      into.writable++;
    },
  });
  return into;
}

function numbered(n: number, size = 100): Buffer {
  const payload = Buffer.concat([u32(n), Buffer.alloc(size)]);
  return packet(ipv4({ source: '10.0.0.1', destination: '10.0.0.2', protocol: 99, payload }));
}

const numbersOf = (into: Sink) => into.packets.map((bytes) => bytes.readUInt32BE(44));

function send(device: LinkDevice, count: number, size?: number): void {
  for (let n = 0; n < count; n++) {
    const bytes = numbered(n, size);
    device.transmit(bytes, 0, bytes.length);
  }
  device.flush();
}

link('what is transmitted and flushed arrives as one batch, copied; without flush it waits', () => {
  const clock = new VirtualClock();
  const [a, b] = MemoryLink.pair(clock);
  const into = sink(b);
  const bytes = Buffer.concat([Buffer.alloc(3), numbered(1), numbered(2)]);
  const one = (bytes.length - 3) / 2;
  assert.ok(a.transmit(bytes, 3, one) && a.transmit(bytes, 3 + one, one));
  bytes.fill(0);
  clock.advance(1);
  assert.is(into.packets.length, 0);
  a.flush();
  clock.advance(0);
  assert.equal(numbersOf(into), [1, 2]);
  assert.equal(into.batches, [2]);
});

link('a full queue refuses, and says once when there is room', () => {
  const clock = new VirtualClock();
  const [a, b] = MemoryLink.pair(clock, { queuePackets: 2 });
  const into = sink(b);
  const own = sink(a);
  const results = [0, 1, 2, 3].map((n) => a.transmit(numbered(n), 0, numbered(n).length));
  assert.equal(results, [true, true, false, false]);
  a.flush();
  clock.advance(1);
  assert.equal(numbersOf(into), [0, 1]);
  assert.is(own.writable, 1);
  assert.ok(a.transmit(numbered(9), 0, 60));
});

link('nothing arrives after close, in either direction', () => {
  const clock = new VirtualClock();
  const [a, b] = MemoryLink.pair(clock);
  const [intoA, intoB] = [sink(a), sink(b)];
  send(a, 2);
  send(b, 2);
  a.close();
  clock.advance(10);
  assert.equal([intoA.packets.length, intoB.packets.length], [0, 0]);
});

function through(
  wrap: (inner: LinkDevice, clock: VirtualClock, random: SeededRandom) => LinkDevice,
  seed = 1,
) {
  const clock = new VirtualClock();
  const [a, b] = MemoryLink.pair(clock, { queuePackets: 100_000 });
  const wrapped = wrap(a, clock, new SeededRandom(seed));
  return { clock, wrapped, into: sink(b) };
}

link('loss, duplication and damage happen as often as asked, and only they', () =>
  seeded((_, seed) => {
    let lossy: LossLink | undefined;
    const lost = through((inner, _clock, random) => (lossy = new LossLink(inner, random, 0.1)), seed);
    send(lost.wrapped, 10_000);
    lost.clock.advance(1);
    assert.ok(lossy!.lost > 700 && lossy!.lost < 1_300, `${lossy!.lost} lost`);
    assert.is(lost.into.packets.length, 10_000 - lossy!.lost);

    const twice = through((inner, _clock, random) => new DuplicateLink(inner, random, 0.5), seed);
    send(twice.wrapped, 1_000);
    twice.clock.advance(1);
    assert.ok(twice.into.packets.length > 1_350 && twice.into.packets.length < 1_650);
    assert.is(new Set(numbersOf(twice.into)).size, 1_000);

    let corrupting: CorruptLink | undefined;
    const damaged = through(
      (inner, _clock, random) => (corrupting = new CorruptLink(inner, random, 0.2)),
      seed,
    );
    send(damaged.wrapped, 1_000);
    damaged.clock.advance(1);
    let flipped = 0;
    for (const [n, bytes] of damaged.into.packets.entries()) {
      const expected = numbered(n);
      const bits = bytes.reduce(
        (sum, byte, i) => sum + (byte ^ expected[i]!).toString(2).replace(/0/g, '').length,
        0,
      );
      assert.ok(bits <= 1);
      flipped += bits;
      assert.equal(bytes.subarray(0, 24), expected.subarray(0, 24), 'Ethernet is spared');
    }
    assert.is(flipped, corrupting!.corrupted);
    assert.ok(flipped > 100 && flipped < 300);
  }),
);

link('the same seed gives the same run', () => {
  const once = () => {
    const { clock, wrapped, into } = through((inner, clock, random) =>
      impair(inner, clock, random, { loss: 0.1, reorder: 0.2, duplicate: 0.1, corrupt: 0.1, delayMs: 3 }),
    );
    send(wrapped, 500);
    clock.advance(1_000);
    return Buffer.concat(into.packets).toString('base64');
  };
  assert.is(once(), once());
});

link('delay keeps the order, reordering does not, nothing is lost', () => {
  const late = through((inner, clock) => new DelayLink(inner, clock, 10));
  send(late.wrapped, 100);
  late.clock.advance(9.9);
  assert.is(late.into.packets.length, 0);
  late.clock.advance(0.2);
  assert.equal(numbersOf(late.into), [...Array(100).keys()]);

  const mixed = through((inner, clock, random) => new ReorderLink(inner, clock, random, 0.25));
  send(mixed.wrapped, 1_000);
  mixed.clock.advance(20);
  assert.not.equal(numbersOf(mixed.into), [...Array(1_000).keys()]);
  assert.equal(
    numbersOf(mixed.into).sort((x, y) => x - y),
    [...Array(1_000).keys()],
  );
});

link('rate: as many bytes per second as asked, a bounded queue, then drops', () => {
  let bottleneck: RateLink | undefined;
  const slow = through((inner, clock) => (bottleneck = new RateLink(inner, clock, 100_000, 50_000)));
  send(slow.wrapped, 1_000, 962);
  slow.clock.advance(100);
  assert.is(slow.into.packets.length, 10, '1000-byte frames at 100 000 bytes per second');
  slow.clock.advance(10_000);
  assert.is(slow.into.packets.length, 51);
  assert.is(bottleneck!.dropped, 949);
});

link('the tracer writes one line per packet and changes nothing', () => {
  const clock = new VirtualClock();
  const [a, b] = MemoryLink.pair(clock);
  const lines: string[] = [];
  const traced = new TracerLink(a, clock, (line) => lines.push(line));
  const into = sink(b);
  sink(traced);
  const ends = { source: '10.0.0.1', destination: '10.0.0.2' };
  const segment = tcp({
    ...ends,
    sourcePort: 80,
    destinationPort: 5,
    seq: 9,
    ack: 8,
    flags: 0x12,
    payload: Buffer.alloc(4),
  });
  const bytes = packet(ipv4({ ...ends, protocol: 6, payload: segment }));
  traced.transmit(bytes, 0, bytes.length);
  const question = packet(arp(1, '020000000002', '10.0.0.2', '000000000000', '10.0.0.1'), { type: 0x0806 });
  b.transmit(question, 0, question.length);
  traced.flush();
  b.flush();
  clock.advance(0);
  assert.equal(into.packets, [bytes]);
  assert.equal(lines, [
    '0.000 memory-a > 10.0.0.1 > 10.0.0.2 TCP 80 > 5 [SA] seq 9 ack 8 win 65535 len 4',
    '0.000 memory-a < ARP who-has 10.0.0.1 sender 10.0.0.2',
  ]);
  const ends6 = { source: 'fd00::1', destination: 'fd00::2' };
  const datagram = udp6({ ...ends6, sourcePort: 9, destinationPort: 7, payload: Buffer.alloc(3) });
  const six = packet6(
    ipv6({ ...ends6, protocol: 17, payload: datagram, extensions: [[60, Buffer.alloc(8)]] }),
  );
  assert.is(describePacket(six, 0, six.length), 'fd00::1 > fd00::2 UDP 9 > 7 len 3');
});

link('packets of any bytes and length can be described', () =>
  seeded((random) => {
    const ends = { source: '10.0.0.1', destination: '10.0.0.2' };
    const whole = packet(
      ipv4({ ...ends, protocol: 17, payload: udp({ ...ends, sourcePort: 1, destinationPort: 2 }) }),
    );
    for (let length = 0; length <= whole.length; length++)
      assert.type(describePacket(whole, 0, length), 'string');
    for (let i = 0; i < 5_000; i++) {
      const bytes = random.fill(new Uint8Array(random.below(80)));
      if (bytes.length > 24) bytes.set(i % 2 === 0 ? [8, 0] : [0x86, 0xdd], 22);
      assert.type(describePacket(bytes, 0, bytes.length), 'string');
    }
  }),
);

link.run();
