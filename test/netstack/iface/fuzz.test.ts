/** Every frame in is accepted or one named drop, whatever its bytes; nothing throws, nothing grows without bound. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { SeededRandom } from '../../../src/common/index.ts';
import { DROP_REASONS } from '../../../src/netstack/index.ts';
import { seeded, within } from '../../support/index.ts';
import { arp, hex, icmp, ipv4, packet, tcp, udp } from '../packets.ts';
import { HOST, HOST_MAC, PEER, PEER_MAC, RawPeer } from './raw-peer.ts';

const fuzz = suite('netstack/iface/fuzz');

function counted(peer: RawPeer): void {
  const { ip } = peer.stack;
  const sum = Object.values(ip.drops.snapshot()).reduce((total, count) => total + count, 0);
  assert.is(ip.accepted + sum, ip.received);
  for (const reason of Object.keys(ip.drops.snapshot()))
    assert.ok((DROP_REASONS as readonly string[]).includes(reason));
}

const options = hex('94040000 01010100');
const both = { source: PEER, destination: HOST };
const ports = { ...both, sourcePort: 5, destinationPort: 7, payload: Buffer.from('payload') };

/** One good packet of every kind; each is accepted as it stands. */
const GOOD: [string, Buffer][] = [
  ['ARP request', packet(arp(1, PEER_MAC, PEER, '000000000000', HOST), { type: 0x0806, to: 'ffffffffffff' })],
  ['UDP', packet(ipv4({ ...both, protocol: 17, payload: udp(ports) }))],
  [
    'UDP without checksum',
    packet(ipv4({ ...both, protocol: 17, payload: udp({ ...ports, noChecksum: true }) })),
  ],
  ['UDP behind options', packet(ipv4({ ...both, protocol: 17, payload: udp(ports), options }))],
  [
    'UDP with a priority tag',
    packet(ipv4({ ...both, protocol: 17, payload: udp(ports) }), { tags: [0xe000] }),
  ],
  ['ICMP echo', packet(ipv4({ ...both, protocol: 1, payload: icmp(8, 0, 1, Buffer.from('abc')) }))],
  ['fragment', packet(ipv4({ ...both, protocol: 17, payload: udp(ports).subarray(0, 8), fragment: 0x2000 }))],
];

function listening(): RawPeer {
  const peer = new RawPeer();
  peer.stack.udp.open({ port: 7 }).onDatagram = () => {};
  peer.introduce();
  return peer;
}

for (const [name, bytes] of GOOD) {
  fuzz(`${name}: accepted whole and padded, dropped by name when truncated at any byte`, () => {
    const peer = listening();
    const before = peer.stack.ip.accepted;
    peer.exchange(bytes, Buffer.concat([bytes, Buffer.alloc(30, 0xaa)]));
    const expected = name === 'fragment' ? 1 : 2;
    assert.is(peer.stack.ip.accepted - before, expected, JSON.stringify(peer.stack.ip.drops.snapshot()));
    const drops = peer.stack.ip.drops.total;
    for (let length = 0; length < bytes.length; length++) peer.exchange(bytes.subarray(0, length));
    assert.is(peer.stack.ip.drops.total - drops, bytes.length);
    counted(peer);
  });
}

fuzz('fields that must be as they must, each with its reason', () => {
  const peer = listening();
  const good = packet(ipv4({ ...both, protocol: 17, payload: udp(ports) }));
  const changed = (at: number, value: number) => {
    const bytes = Buffer.from(good);
    bytes[at] = value;
    return bytes;
  };
  const cases: [string, Buffer][] = [
    ['link-bad-offload-header', Buffer.concat([hex('01000000000022ff1000'), good.subarray(10)])],
    ['ethernet-not-for-us', packet(good.subarray(24), { to: '020000000009' })],
    ['ethernet-not-for-us', packet(good.subarray(24), { to: '01005e000001' })],
    ['ethernet-bad-source', packet(good.subarray(24), { from: '030000000009' })],
    ['ethernet-vlan', packet(good.subarray(24), { tags: [5] })],
    ['ethernet-unknown-type', packet(good.subarray(24), { type: 0x88cc })],
    ['ipv6-too-short', packet(good.subarray(24), { type: 0x86dd })],
    ['ipv4-bad-version', changed(24, 0x65)],
    ['ipv4-bad-header-length', changed(24, 0x44)],
    ['ipv4-bad-length', changed(26, 0xff)],
    ['ipv4-bad-checksum', changed(32, 63)],
    [
      'ipv4-source-route',
      packet(ipv4({ ...both, protocol: 17, payload: udp(ports), options: hex('8307040a4d000200') })),
    ],
    [
      'ipv4-not-for-us',
      packet(ipv4({ ...both, destination: '10.77.0.77', protocol: 17, payload: udp(ports) })),
    ],
    ['ipv4-unknown-protocol', packet(ipv4({ ...both, protocol: 132, payload: udp(ports) }))],
    ['icmp-bad-checksum', packet(ipv4({ ...both, protocol: 1, payload: hex('0800000000000000') }))],
    ['icmp-too-short', packet(ipv4({ ...both, protocol: 1, payload: hex('08000000000000') }))],
    [
      'icmp-unexpected-reply',
      packet(ipv4({ ...both, protocol: 1, payload: icmp(0, 0, 1, Buffer.alloc(0)) })),
    ],
    ['icmp-unknown-type', packet(ipv4({ ...both, protocol: 1, payload: icmp(13, 0, 1, Buffer.alloc(12)) }))],
    ['udp-too-short', packet(ipv4({ ...both, protocol: 17, payload: Buffer.alloc(7) }))],
    ['udp-bad-length', changed(24 + 20 + 5, 200)],
    ['udp-bad-length', changed(24 + 20 + 5, 7)],
    ['udp-bad-checksum', changed(24 + 20 + 8, 0)],
    ['udp-port-closed', changed(24 + 20 + 3, 9)],
    [
      'tcp-broadcast',
      packet(
        ipv4({
          ...both,
          destination: '10.77.0.255',
          protocol: 6,
          payload: tcp({ ...ports, destination: '10.77.0.255' }),
        }),
      ),
    ],
  ];
  for (const [reason, bytes] of cases) {
    if (reason === 'udp-port-closed') bytes.writeUInt16BE(0, 24 + 20 + 6);
    const before = peer.stack.ip.drops.snapshot();
    peer.exchange(bytes);
    const after = peer.stack.ip.drops.snapshot();
    const now = Object.keys(after).filter((key) => after[key] !== before[key]);
    assert.equal(now, [reason]);
  }
  counted(peer);
});

fuzz('UDP of offloading links: a partial checksum is accepted, and so are joined datagrams', () => {
  const peer = new RawPeer();
  const sizes: number[] = [];
  peer.stack.udp.open({ port: 7 }).onDatagram = ({ payload }) => sizes.push(payload.length);
  const partial = packet(
    ipv4({ ...both, protocol: 17, payload: udp({ ...ports, payload: Buffer.alloc(2500) }) }),
  );
  partial.writeUInt16BE(0x1111, 24 + 20 + 6);
  hex('01000000000022000600').copy(partial);
  peer.exchange(partial);
  assert.equal(sizes.splice(0), [2500]);
  hex('01052a00e80322000600').copy(partial);
  peer.exchange(partial);
  assert.equal(sizes, [1000, 1000, 500]);
  counted(peer);
});

function mutate(random: SeededRandom, bytes: Buffer): Buffer {
  let result = Buffer.from(bytes);
  for (let times = random.below(4); times >= 0; times--) {
    switch (random.below(5)) {
      case 0:
        if (result.length > 0) result[random.below(result.length)] = random.below(256);
        break;
      case 1:
        if (result.length > 0) result[random.below(result.length)]! ^= 1 << random.below(8);
        break;
      case 2:
        result = result.subarray(0, random.below(result.length + 1));
        break;
      case 3:
        result = Buffer.concat([result, Buffer.from(random.fill(new Uint8Array(random.below(40))))]);
        break;
      default: {
        const at = random.below(result.length + 1);
        const value = [0, 0xff, 0x7f, 0x80][random.below(4)]!;
        result.fill(value, at, Math.min(result.length, at + 1 + random.below(4)));
      }
    }
  }
  return result;
}

/** Makes the IPv4 header checksum right again, so that mutations get past it. */
function repair(bytes: Buffer): void {
  if (bytes.length < 44 || bytes.readUInt16BE(22) !== 0x0800) return;
  const length = (bytes[24]! & 15) * 4;
  if (length < 20 || bytes.length < 24 + length) return;
  const header = ipv4({ source: '0.0.0.0', destination: '0.0.0.0', protocol: 0, payload: Buffer.alloc(0) });
  bytes.writeUInt16BE(0, 34);
  let sum = 0;
  for (let i = 24; i < 24 + length; i += 2) sum += bytes.readUInt16BE(i);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  bytes.writeUInt16BE(~sum & 0xffff, 34);
  assert.is(header.length, 20);
}

fuzz(
  'two hundred thousand mutated frames: counters add up, the stack still serves',
  within(
    () =>
      seeded((random) => {
        const peer = new RawPeer();
        let served = 0;
        peer.stack.udp.open({ port: 7 }).onDatagram = () => served++;
        const quote = ipv4({
          source: HOST,
          destination: PEER,
          protocol: 17,
          payload: udp({ ...ports, source: HOST, destination: PEER }),
        });
        const kinds = [
          ...GOOD.map(([, bytes]) => bytes),
          packet(ipv4({ ...both, protocol: 6, payload: tcp(ports) })),
          packet(ipv4({ ...both, protocol: 1, payload: icmp(3, 4, 1000, quote) })),
          packet(arp(2, PEER_MAC, PEER, HOST_MAC, HOST), { type: 0x0806 }),
        ];
        for (let i = 0; i < 2_000; i++) {
          const batch: Buffer[] = [];
          for (let k = 0; k < 100; k++) {
            const bytes = mutate(random, kinds[random.below(kinds.length)]!);
            if (random.below(2) === 0) repair(bytes);
            batch.push(bytes);
          }
          peer.exchange(...batch);
          if (i % 50 === 0) peer.clock.advance(10_000);
        }
        counted(peer);
        assert.is(peer.stack.ip.received, 200_000);
        const seen = Object.keys(peer.stack.ip.drops.snapshot()).length;
        assert.ok(seen >= 20, `only ${seen} different reasons were reached`);
        peer.clock.advance(60_000);
        served = 0;
        peer.exchange(GOOD[1]![1]);
        assert.is(served, 1);
      }),
    60_000,
  ),
);

fuzz.run();
