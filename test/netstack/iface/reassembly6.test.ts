/** IPv6 reassembly: RFC 8200 section 4.5, RFC 5722, 6946, 7112. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { SeededRandom } from '../../../src/common/index.ts';
import { seeded } from '../../support/index.ts';
import { fragmentHeader, icmp6, ip6, ipv6, optionsHeader, packet6, udp6 } from '../packets6.ts';
import type { RawPeer } from './raw-peer.ts';
import { HOST6, introduce6, PEER6, rawPeer6 } from './raw-peer6.ts';

const reassembly = suite('netstack/iface/reassembly6');
const ENDS = { source: PEER6, destination: HOST6 };

interface Piece {
  start: number;
  end: number;
}

function pieces(total: number, each: number): Piece[] {
  return Array.from({ length: Math.ceil(total / each) }, (_, i) => ({
    start: i * each,
    end: Math.min(total, (i + 1) * each),
  }));
}

function one(payload: Uint8Array, offset: number, more: boolean, identification = 1, protocol = 17): Buffer {
  const extensions: [number, Uint8Array][] = [[44, fragmentHeader(offset, more, identification)]];
  return packet6(ipv6({ ...ENDS, protocol, payload, extensions }));
}

function cut(whole: Buffer, parts: Piece[], identification = 1, protocol = 17): Buffer[] {
  return parts.map(({ start, end }) =>
    one(whole.subarray(start, end), start, end < whole.length, identification, protocol),
  );
}

function datagram(length: number, seed = 1): Buffer {
  const payload = new SeededRandom(seed).fill(new Uint8Array(length));
  return udp6({ ...ENDS, sourcePort: 1, destinationPort: 7, payload });
}

function listening(options: Parameters<typeof rawPeer6>[0] = {}): { peer: RawPeer; take(): number[] } {
  const peer = rawPeer6(options);
  const got: number[] = [];
  peer.stack.udp.open({ port: 7 }).onDatagram = ({ payload }) => got.push(payload.length);
  return { peer, take: () => got.splice(0) };
}

reassembly('fragments in any order, sizes and interleaving, random', () =>
  seeded((random) => {
    const { peer, take } = listening();
    for (let round = 0; round < 100; round++) {
      const frames: Buffer[] = [];
      const sizes: number[] = [];
      for (let id = 0; id < 3; id++) {
        const size = random.below(4_000);
        sizes.push(size);
        const whole = datagram(size, round);
        frames.push(...cut(whole, pieces(whole.length, 8 * (3 + random.below(180))), id * 1000 + round));
      }
      for (let i = frames.length - 1; i > 0; i--) {
        const k = random.below(i + 1);
        [frames[i], frames[k]] = [frames[k]!, frames[i]!];
      }
      peer.exchange(...frames);
      const byNumber = (a: number, b: number) => a - b;
      assert.equal(take().sort(byNumber), sizes.sort(byNumber));
    }
    assert.is(peer.stack.ip.drops.total, 0, JSON.stringify(peer.stack.ip.drops.snapshot()));
  }),
);

reassembly('the largest datagram, and nothing larger: parameter problem points at the offset', () => {
  const { peer, take } = listening();
  introduce6(peer);
  const whole = datagram(65_527);
  peer.exchange(...cut(whole, pieces(whole.length, 1440)).reverse());
  assert.equal(take(), [65_527]);
  const [problem] = peer.exchange(one(Buffer.alloc(16), 65_528, false));
  assert.is(peer.stack.ip.drops.of('ipv6-fragment-too-big'), 1);
  assert.equal([problem![64], problem![65], problem!.readUInt32BE(68)], [4, 0, 42]);
});

reassembly('RFC 5722: an overlap gives up the datagram, silently; a duplicate is ignored', () => {
  const whole = datagram(1_000);
  const orders: [number, number][][] = [
    [
      [0, 400],
      [392, 800],
      [800, 1008],
    ],
    [
      [400, 800],
      [0, 408],
      [800, 1008],
    ],
    [
      [0, 800],
      [80, 160],
      [800, 1008],
    ],
  ];
  for (const order of orders) {
    const { peer, take } = listening();
    introduce6(peer);
    const parts = order.map(([start, end]) => ({ start, end }));
    assert.equal(peer.exchange(...cut(whole, parts)), []);
    assert.equal(take(), []);
    assert.is(peer.stack.ip.drops.of('ipv6-fragment-overlap'), 1);
  }
  const { peer, take } = listening();
  const parts = cut(whole, pieces(whole.length, 400));
  peer.exchange(parts[0]!, parts[0]!, parts[2]!, parts[2]!, parts[1]!);
  assert.equal(take(), [1_000]);
  assert.is(peer.stack.ip.drops.of('ipv6-fragment-overlap'), 2);
});

reassembly(
  'malformed: a middle that is no multiple of 8 is told to its sender, an empty one, two ends',
  () => {
    const { peer, take } = listening();
    introduce6(peer);
    const [problem] = peer.exchange(one(Buffer.alloc(13), 8, true));
    assert.equal([problem![64], problem![65], problem!.readUInt32BE(68)], [4, 0, 4]);
    peer.exchange(one(Buffer.alloc(0), 8, true));
    peer.exchange(one(Buffer.alloc(16), 80, false, 5), one(Buffer.alloc(8), 32, false, 5));
    assert.is(peer.stack.ip.drops.of('ipv6-fragment-malformed'), 3);
    assert.equal(take(), []);
  },
);

reassembly('RFC 7112: a first fragment without all headers', () => {
  const { peer } = listening();
  introduce6(peer);
  const payload = optionsHeader(1, 12, ...new Array<number>(12).fill(0));
  const header = fragmentHeader(0, true, 3);
  const bytes = packet6(
    ipv6({ ...ENDS, protocol: 60, payload: payload.subarray(0, 8), extensions: [[44, header]] }),
  );
  const [problem] = peer.exchange(bytes);
  assert.equal([problem![64], problem![65]], [4, 3]);
  const cutTcp = one(Buffer.alloc(16), 0, true, 4, 6);
  assert.equal(peer.exchange(cutTcp)[0]!.subarray(64, 66), Buffer.from([4, 3]));
  assert.is(peer.stack.ip.drops.of('ipv6-fragment-malformed'), 2);
});

reassembly('extension headers in front of the fragment header and behind it', () => {
  const { peer, take } = listening();
  const whole = Buffer.concat([optionsHeader(), datagram(2_000)]);
  whole[0] = 17;
  const frames = pieces(whole.length, 1_000).map(({ start, end }) =>
    packet6(
      ipv6({
        ...ENDS,
        protocol: 60,
        payload: whole.subarray(start, end),
        extensions: [
          [0, optionsHeader()],
          [44, fragmentHeader(start, end < whole.length, 8)],
        ],
      }),
    ),
  );
  peer.exchange(...frames.reverse());
  assert.equal(take(), [2_000]);
});

reassembly('RFC 6946: an atomic fragment stands alone, whatever is being collected under its number', () => {
  const { peer, take } = listening();
  const whole = datagram(2_000);
  const [first, last] = cut(whole, pieces(whole.length, 1_000 + 8), 1);
  peer.exchange(first!, one(datagram(50), 0, false, 1), last!);
  assert.equal(take(), [50, 2_000]);
});

reassembly(
  'after 60 seconds it is gone, time exceeded tells the sender if the first fragment had come',
  () => {
    const { peer, take } = listening();
    introduce6(peer);
    const parts = cut(datagram(2_000), pieces(2_008, 1_000));
    peer.exchange(parts[0]!);
    peer.clock.advance(59_990);
    assert.equal(peer.take(), []);
    peer.clock.advance(20);
    const [error] = peer.take();
    assert.equal(error?.subarray(64, 66), Buffer.from([3, 1]));
    assert.equal(error?.subarray(72), parts[0]!.subarray(24), 'as it came');
    assert.is(peer.stack.ip.discards.of('ipv6-fragment-timeout'), 1);
    peer.exchange(parts[1]!, parts[2]!);
    assert.equal(take(), []);
    peer.clock.advance(61_000);
    assert.equal(
      peer.take().filter((bytes) => bytes[64] === 3),
      [],
    );
  },
);

reassembly(
  'memory is bounded: the oldest datagrams go, a fresh one completes; so is the number of fragments',
  () => {
    const { peer, take } = listening({ host: { reassembly: { bytes: 64 * 1024 } } });
    const first = datagram(1_400);
    for (let id = 0; id < 200; id++) peer.exchange(cut(first, [{ start: 0, end: 1_400 }], id)[0]!);
    assert.is.not(peer.stack.ip.discards.of('ipv6-fragment-limit'), 0);
    const whole = datagram(40_000);
    peer.exchange(...cut(whole, pieces(whole.length, 1440), 5_000));
    assert.equal(take(), [40_000]);
    const many = datagram(8 * 400);
    peer.exchange(...cut(many, pieces(many.length, 8), 6_000));
    assert.equal(take(), []);
    assert.is(peer.stack.ip.drops.of('ipv6-fragment-limit'), 1);
  },
);

reassembly('a fragmented echo request is answered by fragments; an unspecified source is not', () => {
  const peer = rawPeer6();
  introduce6(peer);
  const message = icmp6(ENDS, 128, 0, 9, Buffer.alloc(3_000, 5));
  const answers = peer.exchange(...cut(message, pieces(message.length, 1440), 1, 58));
  const back = { source: HOST6, destination: PEER6 };
  const joined = Buffer.concat(answers.map((bytes) => bytes.subarray(72)));
  assert.equal(joined, icmp6(back, 129, 0, 9, Buffer.alloc(3_000, 5)));
  const forged = one(message.subarray(0, 80), 0, true);
  ip6('::').copy(forged, 32);
  peer.exchange(forged);
  assert.is(peer.stack.ip.drops.of('ipv6-bad-source'), 1);
});

reassembly.run();
