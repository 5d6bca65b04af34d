import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { SeededRandom } from '../../../src/common/index.ts';
import { seeded } from '../../support/index.ts';
import { icmp, ipv4, packet, udp } from '../packets.ts';
import { HOST, PEER, RawPeer } from './raw-peer.ts';

const reassembly = suite('netstack/iface/reassembly');

interface Piece {
  start: number;
  end: number;
}

/** Fragments [start, end) of a datagram's IP payload; bounds are multiples of 8 except the last end. */
function cut(whole: Buffer, pieces: Piece[], identification = 1): Buffer[] {
  return pieces.map(({ start, end }) =>
    packet(
      ipv4({
        source: PEER,
        destination: HOST,
        protocol: 17,
        payload: whole.subarray(start, end),
        identification,
        fragment: (end < whole.length ? 0x2000 : 0) | (start / 8),
      }),
      { padTo: 60 },
    ),
  );
}

function datagram(length: number, seed = 1): Buffer {
  const payload = new SeededRandom(seed).fill(new Uint8Array(length));
  return udp({ source: PEER, destination: HOST, sourcePort: 1, destinationPort: 7, payload });
}

function pieces(total: number, each: number): Piece[] {
  const result: Piece[] = [];
  for (let start = 0; start < total; start += each)
    result.push({ start, end: Math.min(total, start + each) });
  return result;
}

function listening(options: ConstructorParameters<typeof RawPeer>[0] = {}): {
  peer: RawPeer;
  take(): number[];
} {
  const peer = new RawPeer(options);
  const got: number[] = [];
  peer.stack.udp.open({ port: 7 }).onDatagram = ({ payload }) => got.push(payload.length);
  return { peer, take: () => got.splice(0) };
}

reassembly('fragments in any order, sizes and interleaving, random', () =>
  seeded((random) => {
    const { peer, take } = listening();
    for (let round = 0; round < 200; round++) {
      const frames: Buffer[] = [];
      const sizes: number[] = [];
      for (let id = 0; id < 3; id++) {
        const size = random.below(5_000);
        sizes.push(size);
        const whole = datagram(size, round);
        frames.push(
          ...cut(whole, pieces(whole.length, 8 * (1 + random.below(180))), id * 1000 + round).slice(0, 255),
        );
        if (whole.length > 255 * 8) continue;
      }
      for (let i = frames.length - 1; i > 0; i--) {
        const k = random.below(i + 1);
        [frames[i], frames[k]] = [frames[k]!, frames[i]!];
      }
      peer.exchange(...frames);
      for (const size of take()) assert.ok(sizes.includes(size), `${size} of ${sizes}`);
    }
    assert.is(peer.stack.ip.drops.of('udp-bad-checksum'), 0);
  }),
);

reassembly('the largest datagram, and nothing larger', () => {
  const { peer, take } = listening();
  const whole = datagram(65_507);
  peer.exchange(...cut(whole, pieces(whole.length, 1480)).reverse());
  assert.equal(take(), [65_507]);
  const beyond = ipv4({
    source: PEER,
    destination: HOST,
    protocol: 17,
    payload: Buffer.alloc(100),
    fragment: 0x1fff,
  });
  peer.exchange(packet(beyond));
  assert.is(peer.stack.ip.drops.of('ipv4-fragment-too-big'), 1);
});

reassembly('an overlap gives up the datagram, from either side; a duplicate is ignored', () => {
  const whole = datagram(1_000);
  for (const order of [
    [
      { start: 0, end: 400 },
      { start: 392, end: 800 },
      { start: 800, end: 1008 },
    ],
    [
      { start: 400, end: 800 },
      { start: 0, end: 408 },
      { start: 800, end: 1008 },
    ],
    [
      { start: 0, end: 800 },
      { start: 80, end: 160 },
      { start: 800, end: 1008 },
    ],
  ]) {
    const { peer, take } = listening();
    peer.exchange(...cut(whole, order));
    assert.equal(take(), []);
    assert.is(peer.stack.ip.drops.of('ipv4-fragment-overlap'), 1);
  }
  const { peer, take } = listening();
  const parts = cut(whole, pieces(whole.length, 400));
  peer.exchange(parts[0]!, parts[0]!, parts[2]!, parts[2]!, parts[1]!);
  assert.equal(take(), [1_000]);
  assert.is(peer.stack.ip.drops.of('ipv4-fragment-overlap'), 2);
});

reassembly('malformed: no payload, a middle that is no multiple of 8, two different ends', () => {
  const { peer, take } = listening();
  const fields = { source: PEER, destination: HOST, protocol: 17 };
  peer.exchange(packet(ipv4({ ...fields, payload: Buffer.alloc(0), fragment: 0x2000 })));
  peer.exchange(packet(ipv4({ ...fields, payload: Buffer.alloc(13), fragment: 0x2000 })));
  peer.exchange(packet(ipv4({ ...fields, payload: Buffer.alloc(16), fragment: 10 })));
  peer.exchange(packet(ipv4({ ...fields, payload: Buffer.alloc(8), fragment: 4 })));
  peer.exchange(
    packet(ipv4({ ...fields, payload: Buffer.alloc(8), fragment: 0x2000 | 10, identification: 5 })),
  );
  peer.exchange(packet(ipv4({ ...fields, payload: Buffer.alloc(8), fragment: 4, identification: 5 })));
  assert.is(peer.stack.ip.drops.of('ipv4-fragment-malformed'), 4);
  assert.equal(take(), []);
});

reassembly('RFC 1122 section 3.3.2: after the timeout it is gone, time exceeded tells the sender', () => {
  const { peer, take } = listening();
  peer.introduce();
  const parts = cut(datagram(2_000), pieces(2_008, 1_000));
  peer.exchange(parts[0]!);
  peer.clock.advance(29_990);
  assert.equal(peer.take(), []);
  peer.clock.advance(20);
  const [error] = peer.take();
  assert.equal(error?.subarray(44, 46), Buffer.from([11, 1]));
  assert.is(peer.stack.ip.discards.of('ipv4-fragment-timeout'), 1);
  peer.exchange(parts[1]!, parts[2]!);
  assert.equal(take(), []);
  peer.clock.advance(31_000);
  assert.equal(peer.take(), [], 'without the first fragment nobody is told');
});

reassembly('memory is bounded: the oldest datagrams go, a fresh one completes', () => {
  const { peer, take } = listening({ host: { reassembly: { bytes: 64 * 1024 } } });
  const first = datagram(1_400);
  for (let id = 0; id < 1_000; id++) peer.exchange(cut(first, [{ start: 0, end: 1_400 }], id)[0]!);
  assert.is.not(peer.stack.ip.discards.of('ipv4-fragment-limit'), 0);
  const whole = datagram(40_000);
  peer.exchange(...cut(whole, pieces(whole.length, 1480), 5_000));
  assert.equal(take(), [40_000]);
  peer.clock.advance(40_000);
});

reassembly('fragments per datagram are bounded', () => {
  const { peer, take } = listening();
  const whole = datagram(8 * 400);
  peer.exchange(...cut(whole, pieces(whole.length, 8)));
  assert.equal(take(), []);
  assert.is(peer.stack.ip.drops.of('ipv4-fragment-limit'), 1);
});

reassembly('a fragmented echo request is answered by fragments', () => {
  const peer = new RawPeer();
  peer.introduce();
  const message = icmp(8, 0, 9, Buffer.alloc(3_000, 5));
  const parts = pieces(message.length, 1480).map(({ start, end }) =>
    packet(
      ipv4({
        source: PEER,
        destination: HOST,
        protocol: 1,
        payload: message.subarray(start, end),
        fragment: (end < message.length ? 0x2000 : 0) | (start / 8),
      }),
    ),
  );
  const answers = peer.exchange(...parts);
  const joined = Buffer.concat(answers.map((bytes) => bytes.subarray(44)));
  assert.equal(joined, icmp(0, 0, 9, Buffer.alloc(3_000, 5)));
});

reassembly('what is kept is copied: one Buffer reused for every frame, as a link does it', () => {
  const peer = new RawPeer();
  const got: Uint8Array[] = [];
  peer.stack.udp.open({ port: 7 }).onDatagram = ({ payload }) => got.push(payload);
  const whole = datagram(3_000);
  const ring = Buffer.alloc(4_096);
  for (const bytes of [
    ...cut(whole, pieces(whole.length, 1480)),
    ...cut(datagram(100), [{ start: 0, end: 108 }], 2),
  ]) {
    bytes.copy(ring);
    peer.stack.ip.receive(ring, 0, bytes.length);
    ring.fill(0xee);
  }
  assert.equal(Buffer.from(got[0]!), whole.subarray(8));
  assert.equal(Buffer.from(got[1]!), datagram(100).subarray(8));
});

reassembly.run();
