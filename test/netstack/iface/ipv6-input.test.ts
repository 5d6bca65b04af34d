/** IPv6 input: header chains, and every frame in is accepted or one named drop, whatever its bytes. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { SeededRandom } from '../../../src/common/index.ts';
import { DROP_REASONS } from '../../../src/netstack/index.ts';
import { seeded, within } from '../../support/index.ts';
import { hex } from '../packets.ts';
import {
  advertisement,
  fragmentHeader,
  icmp6,
  ipv6,
  optionsHeader,
  packet6,
  tcp6,
  udp6,
} from '../packets6.ts';
import { PEER_MAC, type RawPeer } from './raw-peer.ts';
import {
  ALL_NODES,
  ALL_NODES_MAC,
  askFromPeer,
  HOST_GROUP,
  HOST6,
  introduce6,
  PEER6,
  rawPeer6,
} from './raw-peer6.ts';

const input = suite('netstack/iface/ipv6-input');
const ENDS = { source: PEER6, destination: HOST6 };
const PORTS = { ...ENDS, sourcePort: 5, destinationPort: 7, payload: Buffer.from('payload') };
const HBH = 0;
const DEST = 60;
const ROUTING = 43;
const FRAGMENT = 44;

function counted(peer: RawPeer): void {
  const { ip } = peer.stack;
  const sum = Object.values(ip.drops.snapshot()).reduce((total, count) => total + count, 0);
  assert.is(ip.accepted + sum, ip.received);
  for (const reason of Object.keys(ip.drops.snapshot()))
    assert.ok((DROP_REASONS as readonly string[]).includes(reason));
}

type Extensions = [number, Uint8Array][];

function datagram(extensions: Extensions = [], more: object = {}): Buffer {
  return packet6(ipv6({ ...ENDS, protocol: 17, payload: udp6(PORTS), extensions, ...more }));
}

function listening(): { peer: RawPeer; got: string[] } {
  const peer = rawPeer6();
  const got: string[] = [];
  peer.stack.udp.open({ port: 7 }).onDatagram = ({ payload }) => got.push(Buffer.from(payload).toString());
  introduce6(peer);
  return { peer, got };
}

/** The one drop reason of a packet, and the ICMPv6 error it was answered with as type/code/pointer. */
function verdict(peer: RawPeer, bytes: Uint8Array): [string, string] {
  const before = peer.stack.ip.drops.snapshot();
  const [answer] = peer.exchange(bytes);
  const after = peer.stack.ip.drops.snapshot();
  const now = Object.keys(after).filter((key) => after[key] !== before[key]);
  const error = answer === undefined ? '' : `${answer[64]}/${answer[65]}/${answer.readUInt32BE(68)}`;
  return [now.join(), error];
}

const routing = (left: number) => Buffer.from([0, 0, 0, left, 0, 0, 0, 0]);

const GOOD: [string, Buffer][] = [
  ['UDP', datagram()],
  ['UDP behind hop-by-hop options', datagram([[HBH, optionsHeader(5, 2, 0, 0)]])],
  ['UDP behind destination options', datagram([[DEST, optionsHeader(0x1e, 1, 7)]])],
  ['UDP behind a routing header that is done', datagram([[ROUTING, routing(0)]])],
  ['UDP in an atomic fragment', datagram([[FRAGMENT, fragmentHeader(0, false, 9)]])],
  [
    'UDP behind all of them',
    datagram([
      [HBH, optionsHeader()],
      [DEST, optionsHeader(1, 0)],
      [ROUTING, routing(0)],
      [FRAGMENT, fragmentHeader(0, false, 1)],
      [DEST, optionsHeader(0, 0, 0)],
    ]),
  ],
  [
    'ICMPv6 echo',
    packet6(ipv6({ ...ENDS, protocol: 58, payload: icmp6(ENDS, 128, 0, 1, Buffer.from('abc')) })),
  ],
  ['solicitation', askFromPeer()],
  ['fragment', datagram([[FRAGMENT, fragmentHeader(0, true, 2)]]).subarray(0, 10 + 14 + 40 + 8 + 8)],
];
GOOD.at(-1)![1].writeUInt16BE(16, 28);

for (const [name, bytes] of GOOD) {
  input(`${name}: accepted whole and padded, dropped by name when truncated at any byte`, () => {
    const { peer } = listening();
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

input('RFC 8200 section 4.2: what becomes of an option, by the two highest bits of its type', () => {
  const { peer, got } = listening();
  assert.equal(verdict(peer, datagram([[DEST, optionsHeader(0x1e, 2, 1, 2)]])), ['', '']);
  assert.is(got.length, 1);
  assert.equal(verdict(peer, datagram([[DEST, optionsHeader(0x5e, 2, 1, 2)]])), ['ipv6-option-refused', '']);
  assert.equal(verdict(peer, datagram([[DEST, optionsHeader(0x9e, 2, 1, 2)]])), [
    'ipv6-option-refused',
    '4/2/42',
  ]);
  assert.equal(verdict(peer, datagram([[HBH, optionsHeader(1, 1, 0, 0xde, 0)]])), [
    'ipv6-option-refused',
    '4/2/45',
  ]);
  const group = { source: PEER6, destination: ALL_NODES };
  const toGroup = (type: number) =>
    packet6(
      ipv6({
        ...group,
        protocol: 17,
        payload: udp6({ ...PORTS, ...group }),
        extensions: [[DEST, optionsHeader(type, 0)]],
      }),
      { to: ALL_NODES_MAC },
    );
  assert.equal(verdict(peer, toGroup(0x9e)), ['ipv6-option-refused', '4/2/42']);
  assert.equal(verdict(peer, toGroup(0xde)), ['ipv6-option-refused', '']);
});

input('header chains that are refused', () => {
  const { peer, got } = listening();
  const manyOptions = optionsHeader(...Array.from({ length: 40 }, () => 0));
  const nine: Extensions = Array.from({ length: 9 }, () => [DEST, optionsHeader()]);
  const cases: [Extensions, string, string][] = [
    [
      [
        [DEST, optionsHeader()],
        [HBH, optionsHeader()],
      ],
      'ipv6-bad-extension',
      '4/1/40',
    ],
    [
      [
        [HBH, optionsHeader()],
        [HBH, optionsHeader()],
      ],
      'ipv6-bad-extension',
      '4/1/40',
    ],
    [[[ROUTING, routing(1)]], 'ipv6-source-route', '4/0/42'],
    [[[DEST, manyOptions]], 'ipv6-bad-extension', ''],
    [[[DEST, hex('0000 1e05 00000000')]], 'ipv6-bad-extension', ''],
    [[[DEST, hex('0000 010500000000')]], 'ipv6-bad-extension', ''],
    [[[DEST, hex('00ff 010400000000')]], 'ipv6-bad-extension', ''],
    [nine, 'ipv6-bad-extension', ''],
    [
      [
        [FRAGMENT, fragmentHeader(0, false, 1)],
        [FRAGMENT, fragmentHeader(0, false, 2)],
      ],
      'ipv6-bad-extension',
      '',
    ],
    [[[51, Buffer.alloc(16)]], 'ipv6-unknown-protocol', '4/1/6'],
  ];
  for (const [extensions, reason, error] of cases) {
    assert.equal(verdict(peer, datagram(extensions)), [reason, error], JSON.stringify(extensions));
  }
  assert.is(got.length, 0);
  assert.equal(verdict(peer, datagram(nine.slice(1))), ['', '']);
  assert.is(got.length, 1);
});

input('fields that must be as they must, each with its reason', () => {
  const { peer } = listening();
  const good = datagram();
  const changed = (at: number, value: number) => {
    const bytes = Buffer.from(good);
    bytes[at] = value;
    return bytes;
  };
  const inner = good.subarray(24);
  const none = udp6(PORTS);
  none.writeUInt16BE(0, 6);
  const group = { source: PEER6, destination: ALL_NODES };
  const solicitationIn = (extensions: Extensions) => {
    const whole = askFromPeer();
    const payload = whole.subarray(64);
    return packet6(
      ipv6({ source: PEER6, destination: HOST_GROUP, protocol: 58, hopLimit: 255, payload, extensions }),
      { to: '3333ff000001' },
    );
  };
  const cases: [string, Buffer][] = [
    ['ethernet-not-for-us', packet6(inner, { to: '020000000009' })],
    ['ethernet-not-for-us', packet6(inner, { to: '333300000002' })],
    ['ethernet-not-for-us', packet6(inner, { to: '3333ff000009' })],
    ['ipv6-bad-version', changed(24, 0x45)],
    ['ipv6-bad-length', changed(28, 0xff)],
    [
      'ipv6-not-for-us',
      packet6(ipv6({ ...ENDS, destination: 'fd00::9', protocol: 17, payload: udp6(PORTS) })),
    ],
    ['ipv6-not-for-us', packet6(ipv6({ ...ENDS, destination: '::1', protocol: 17, payload: udp6(PORTS) }))],
    [
      'ipv6-not-for-us',
      packet6(ipv6({ ...ENDS, destination: 'ff02::2', protocol: 17, payload: udp6(PORTS) })),
    ],
    ['ipv6-no-next-header', packet6(ipv6({ ...ENDS, protocol: 59, payload: Buffer.alloc(8) }))],
    ['ipv6-unknown-protocol', packet6(ipv6({ ...ENDS, protocol: 132, payload: Buffer.alloc(12) }))],
    ['icmp-bad-checksum', packet6(ipv6({ ...ENDS, protocol: 58, payload: hex('8000000000000000') }))],
    ['icmp-too-short', packet6(ipv6({ ...ENDS, protocol: 58, payload: hex('80000000000000') }))],
    [
      'icmp-unexpected-reply',
      packet6(ipv6({ ...ENDS, protocol: 58, payload: icmp6(ENDS, 129, 0, 1, Buffer.alloc(0)) })),
    ],
    ['udp-too-short', packet6(ipv6({ ...ENDS, protocol: 17, payload: Buffer.alloc(7) }))],
    ['udp-bad-length', changed(24 + 40 + 5, 200)],
    ['udp-bad-checksum', changed(24 + 40 + 8, 0)],
    ['udp-bad-checksum', packet6(ipv6({ ...ENDS, protocol: 17, payload: none }))],
    [
      'udp-port-closed',
      packet6(ipv6({ ...ENDS, protocol: 17, payload: udp6({ ...PORTS, destinationPort: 9 }) })),
    ],
    [
      'tcp-broadcast',
      packet6(ipv6({ ...group, protocol: 6, payload: tcp6({ ...PORTS, ...group }) }), { to: ALL_NODES_MAC }),
    ],
    ['ndp-malformed', solicitationIn([[FRAGMENT, fragmentHeader(0, false, 1)]])],
  ];
  for (const [reason, bytes] of cases) assert.is(verdict(peer, bytes)[0], reason);
  assert.is(verdict(peer, solicitationIn([[DEST, optionsHeader()]]))[0], '', 'behind options it is one');
  counted(peer);
});

input('UDP of offloading links: a partial checksum is accepted, and so are joined datagrams', () => {
  const peer = rawPeer6();
  const sizes: number[] = [];
  peer.stack.udp.open({ port: 7 }).onDatagram = ({ payload }) => sizes.push(payload.length);
  const partial = packet6(
    ipv6({ ...ENDS, protocol: 17, payload: udp6({ ...PORTS, payload: Buffer.alloc(2500) }) }),
  );
  partial.writeUInt16BE(0x1111, 24 + 40 + 6);
  hex('01000000000036000600').copy(partial);
  peer.exchange(partial);
  assert.equal(sizes.splice(0), [2500]);
  hex('01053e00e80336000600').copy(partial);
  peer.exchange(partial);
  assert.equal(sizes, [1000, 1000, 500]);
  counted(peer);
});

function mutate(random: SeededRandom, bytes: Buffer): Buffer {
  let result = Buffer.from(bytes);
  for (let times = random.below(3); times >= 0; times--) {
    const at = 10 + random.below(Math.max(1, result.length - 10));
    switch (random.below(5)) {
      case 0:
        if (at < result.length) result[at] = random.below(256);
        break;
      case 1:
        // Where lengths, next headers and offsets stand.
        if (result.length > 72)
          result[28 + random.below(44)] = [0, 6, 17, 43, 44, 58, 59, 60, 255][random.below(9)]!;
        break;
      case 2:
        result = result.subarray(0, random.below(result.length + 1));
        break;
      case 3:
        result = Buffer.concat([result, Buffer.from(random.fill(new Uint8Array(random.below(40))))]);
        break;
      default:
        result.fill(
          [0, 0xff, 0x7f, 0x80][random.below(4)]!,
          at,
          Math.min(result.length, at + 1 + random.below(4)),
        );
    }
  }
  return result;
}

input(
  'a hundred thousand mutated frames: counters add up, the stack still serves',
  within(
    () =>
      seeded((random) => {
        const { peer, got } = listening();
        const back = { source: HOST6, destination: PEER6 };
        const quote = ipv6({ ...back, protocol: 17, payload: udp6({ ...PORTS, ...back }) });
        const kinds = [
          ...GOOD.map(([, bytes]) => bytes),
          packet6(ipv6({ ...ENDS, protocol: 6, payload: tcp6(PORTS) })),
          packet6(ipv6({ ...ENDS, protocol: 58, payload: icmp6(ENDS, 2, 0, 1300, quote) })),
          packet6(ipv6({ ...ENDS, protocol: 58, payload: icmp6(ENDS, 1, 4, 0, quote) })),
          advertisement({ source: PEER6, destination: HOST6, target: PEER6, mac: PEER_MAC, flags: 0x60 }),
          datagram([[FRAGMENT, fragmentHeader(8, false, 2)]]),
        ];
        for (let i = 0; i < 1_000; i++) {
          const batch = Array.from({ length: 100 }, () => mutate(random, kinds[random.below(kinds.length)]!));
          // The link vouches for some checksums, so that mutations get past them.
          for (const bytes of batch) if (bytes.length > 10) bytes.fill(0, 0, 10);
          for (const bytes of batch) if (bytes.length > 10 && random.below(2) === 0) bytes[0] = 2;
          peer.exchange(...batch);
          if (i % 50 === 0) peer.clock.advance(10_000);
        }
        counted(peer);
        const seen = Object.keys(peer.stack.ip.drops.snapshot()).length;
        assert.ok(seen >= 20, `only ${seen} different reasons were reached`);
        peer.clock.advance(120_000);
        assert.is(peer.stack.ip.neighbours.pendingBytes, 0);
        got.length = 0;
        peer.exchange(GOOD[0]![1]);
        assert.equal(got, ['payload']);
      }),
    60_000,
  ),
);

input.run();
