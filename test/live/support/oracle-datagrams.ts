/** Packets other than TCP whose treatment by the kernel and by our stack is compared; several frames go in one after the other. */
import { hex, icmp, ipv4, packet, udp } from '../../netstack/packets.ts';
import { fragmentHeader, icmp6, ipv6, optionsHeader, packet6, udp6 } from '../../netstack/packets6.ts';
import { HOST, HOST6, PEER, PEER6, PORT } from './oracle-sides.ts';

const both = { source: PEER, destination: HOST };
const both6 = { source: PEER6, destination: HOST6 };
const echoPorts = { sourcePort: 4000, destinationPort: PORT.UDP_ECHO };
const datagram = (bytes: number) => udp({ ...both, ...echoPorts, payload: Buffer.alloc(bytes, 0x61) });
const datagram6 = (bytes: number) => udp6({ ...both6, ...echoPorts, payload: Buffer.alloc(bytes, 0x61) });
const ip = (fields: Partial<Parameters<typeof ipv4>[0]> & { payload: Uint8Array }) =>
  packet(ipv4({ ...both, protocol: 17, ...fields }));
const ip6 = (fields: Partial<Parameters<typeof ipv6>[0]> & { payload: Uint8Array }) =>
  packet6(ipv6({ ...both6, protocol: 17, ...fields }));
const echo = (bytes: number) => icmp(8, 0, 0x0101_0001, Buffer.alloc(bytes, 0x62));
const echo6 = (bytes: number) => icmp6(both6, 128, 0, 0x0101_0001, Buffer.alloc(bytes, 0x62));

let identification = 0x100;

/** Pieces [from, to) of one datagram, in the order given. */
function fragments(whole: Buffer, pieces: readonly [from: number, to: number][], protocol = 17): Buffer[] {
  const id = identification++;
  return pieces.map(([from, to]) =>
    ip({
      protocol,
      payload: whole.subarray(from, to),
      identification: id,
      fragment: (to < whole.length ? 0x2000 : 0) | (from / 8),
    }),
  );
}

function fragments6(whole: Buffer, pieces: readonly [from: number, to: number][], protocol = 17): Buffer[] {
  const id = identification++;
  return pieces.map(([from, to]) =>
    ip6({
      protocol,
      payload: whole.subarray(from, to),
      extensions: [[44, fragmentHeader(from, to < whole.length, id)]],
    }),
  );
}

function changed(bytes: Buffer, at: number, value: number): Buffer {
  const copy = Buffer.from(bytes);
  copy[at] = value;
  return copy;
}

/** `frames` may be made anew, as identifications must not come twice. */
export interface DatagramCase {
  readonly name: string;
  readonly frames: () => readonly Buffer[];
  readonly differs?: { readonly ours: string; readonly kernel: string; readonly why: string };
}

const damaged = (frame: Buffer, at: number) => changed(frame, at, frame[at]! ^ 1);

export const DATAGRAM_CASES: readonly DatagramCase[] = [
  // --- IPv4 --------------------------------------------------------------------------------------------------------------
  { name: 'echo request', frames: () => [ip({ protocol: 1, payload: echo(56) })] },
  { name: 'echo request of nothing', frames: () => [ip({ protocol: 1, payload: echo(0) })] },
  {
    name: 'echo request with a bad checksum',
    frames: () => [damaged(ip({ protocol: 1, payload: echo(8) }), 60)],
  },
  {
    name: 'echo request with a code',
    frames: () => [ip({ protocol: 1, payload: icmp(8, 5, 1, Buffer.alloc(8)) })],
  },
  { name: 'ICMP shorter than its header', frames: () => [ip({ protocol: 1, payload: hex('0800f7ff') })] },
  {
    name: 'an ICMP type nobody knows',
    frames: () => [ip({ protocol: 1, payload: icmp(77, 0, 1, Buffer.alloc(8)) })],
  },
  {
    name: 'an address mask request',
    frames: () => [ip({ protocol: 1, payload: icmp(17, 0, 1, Buffer.alloc(4)) })],
  },
  {
    name: 'an echo reply nobody asked for',
    frames: () => [ip({ protocol: 1, payload: icmp(0, 0, 1, Buffer.alloc(8)) })],
  },
  {
    name: 'a redirect',
    frames: () => [
      ip({
        protocol: 1,
        payload: icmp(
          5,
          1,
          0x0a610005,
          ipv4({ source: HOST, destination: '10.97.0.77', protocol: 17, payload: Buffer.alloc(8) }),
        ),
      }),
    ],
  },
  { name: 'UDP to a socket', frames: () => [ip({ payload: datagram(20) })] },
  { name: 'UDP of nothing', frames: () => [ip({ payload: datagram(0) })] },
  {
    name: 'UDP without a checksum',
    frames: () => [
      ip({ payload: udp({ ...both, ...echoPorts, payload: Buffer.from('abc'), noChecksum: true }) }),
    ],
  },
  { name: 'UDP with a bad checksum', frames: () => [damaged(ip({ payload: datagram(8) }), 55)] },
  {
    name: 'UDP to a closed port',
    frames: () => [ip({ payload: udp({ ...both, sourcePort: 4000, destinationPort: 9 }) })],
  },
  {
    name: 'UDP to a closed port with a bad checksum',
    frames: () => [
      damaged(
        ip({ payload: udp({ ...both, sourcePort: 4000, destinationPort: 9, payload: Buffer.alloc(4) }) }),
        54,
      ),
    ],
  },
  { name: 'UDP shorter than its length', frames: () => [changed(ip({ payload: datagram(8) }), 49, 40)] },
  { name: 'UDP with a length below 8', frames: () => [changed(ip({ payload: datagram(8) }), 49, 7)] },
  {
    name: 'UDP shorter than the IP payload',
    frames: () => [
      ip({
        payload: Buffer.concat([
          udp({ ...both, ...echoPorts, payload: Buffer.from('abcd') }),
          Buffer.alloc(5),
        ]),
      }),
    ],
  },
  {
    name: 'UDP from port 0',
    frames: () => [ip({ payload: udp({ ...both, sourcePort: 0, destinationPort: PORT.UDP_ECHO }) })],
  },
  {
    name: 'UDP to port 0',
    frames: () => [ip({ payload: udp({ ...both, sourcePort: 5, destinationPort: 0 }) })],
  },
  { name: 'a protocol nobody speaks', frames: () => [ip({ protocol: 201, payload: Buffer.alloc(8) })] },
  { name: 'a header checksum that is wrong', frames: () => [damaged(ip({ payload: datagram(8) }), 35)] },
  { name: 'version 5', frames: () => [changed(ip({ payload: datagram(8) }), 24, 0x55)] },
  { name: 'a header of 4 words', frames: () => [changed(ip({ payload: datagram(8) }), 24, 0x44)] },
  { name: 'a total length beyond the frame', frames: () => [changed(ip({ payload: datagram(8) }), 26, 1)] },
  {
    name: 'padding behind the packet',
    frames: () => [Buffer.concat([ip({ payload: datagram(4) }), Buffer.alloc(14, 0xee)])],
  },
  { name: 'TTL 1', frames: () => [ip({ payload: datagram(4), ttl: 1 })] },
  { name: 'TTL 0', frames: () => [ip({ payload: datagram(4), ttl: 0 })] },
  { name: 'the reserved flag', frames: () => [ip({ payload: datagram(4), fragment: 0x8000 })] },
  { name: 'record route', frames: () => [ip({ payload: datagram(4), options: hex('07070400000000 00') })] },
  {
    name: 'a loose source route through us',
    frames: () => [ip({ payload: datagram(4), options: hex('8307040a610005 00') })],
  },
  {
    name: 'a strict source route through us',
    frames: () => [ip({ payload: datagram(4), options: hex('8907040a610005 00') })],
  },
  { name: 'router alert', frames: () => [ip({ payload: datagram(4), options: hex('94040000') })] },
  {
    name: 'no-operations and the end',
    frames: () => [ip({ payload: datagram(4), options: hex('01010100') })],
  },
  { name: 'an unknown option', frames: () => [ip({ payload: datagram(4), options: hex('de041122') })] },
  {
    name: 'an option that ends beyond the header',
    differs: {
      ours: '-',
      kernel: 'icmp 12/0 at 20',
      why: 'dropped in silence (RFC 1122 leaves the answer open)',
    },
    frames: () => [ip({ payload: datagram(4), options: hex('de091122') })],
  },
  {
    name: 'an option of length 0',
    differs: {
      ours: '-',
      kernel: 'icmp 12/0 at 20',
      why: 'dropped in silence (RFC 1122 leaves the answer open)',
    },
    frames: () => [ip({ payload: datagram(4), options: hex('de001122') })],
  },
  {
    name: 'from a broadcast address',
    frames: () => [
      ip({ source: '255.255.255.255', payload: udp({ ...both, source: '255.255.255.255', ...echoPorts }) }),
    ],
  },
  {
    name: 'from a multicast address',
    frames: () => [ip({ source: '224.0.0.5', payload: udp({ ...both, source: '224.0.0.5', ...echoPorts }) })],
  },
  {
    name: 'from loopback',
    frames: () => [ip({ source: '127.0.0.1', payload: udp({ ...both, source: '127.0.0.1', ...echoPorts }) })],
  },
  {
    name: 'from our own address',
    frames: () => [ip({ source: HOST, payload: udp({ ...both, source: HOST, ...echoPorts }) })],
  },
  {
    name: 'to loopback',
    frames: () => [
      ip({ destination: '127.0.0.1', payload: udp({ ...both, destination: '127.0.0.1', ...echoPorts }) }),
    ],
  },
  {
    name: 'to another host',
    frames: () => [
      ip({ destination: '10.97.0.50', payload: udp({ ...both, destination: '10.97.0.50', ...echoPorts }) }),
    ],
  },
  {
    name: 'echo to the broadcast address',
    frames: () => [ip({ destination: '10.97.0.255', protocol: 1, payload: echo(8) })],
  },
  {
    name: 'to another hardware address',
    frames: () => [packet(ipv4({ ...both, protocol: 17, payload: datagram(4) }), { to: '020000000077' })],
  },
  {
    name: 'with a VLAN tag',
    frames: () => [packet(ipv4({ ...both, protocol: 17, payload: datagram(4) }), { tags: [5] })],
  },
  // --- IPv4 fragments ----------------------------------------------------------------------------------------------------
  {
    name: 'fragments in order',
    frames: () =>
      fragments(datagram(40), [
        [0, 16],
        [16, 32],
        [32, 48],
      ]),
  },
  {
    name: 'fragments in reverse',
    frames: () =>
      fragments(datagram(40), [
        [32, 48],
        [16, 32],
        [0, 16],
      ]),
  },
  {
    name: 'an echo request in fragments',
    frames: () =>
      fragments(
        echo(40),
        [
          [0, 24],
          [24, 48],
        ],
        1,
      ),
  },
  {
    name: 'a fragment twice',
    frames: () =>
      fragments(datagram(40), [
        [0, 16],
        [0, 16],
        [16, 48],
      ]),
  },
  {
    name: 'fragments that overlap by eight bytes',
    frames: () =>
      fragments(datagram(40), [
        [0, 24],
        [16, 48],
      ]),
  },
  {
    name: 'a fragment inside another',
    differs: {
      ours: '-',
      kernel: 'udp 40',
      why: 'only an exact duplicate is ignored; other overlaps give up the datagram, as RFC 5722 asks of IPv6',
    },
    frames: () =>
      fragments(datagram(40), [
        [0, 32],
        [8, 16],
        [32, 48],
      ]),
  },
  {
    name: 'a fragment around another',
    frames: () =>
      fragments(datagram(40), [
        [8, 16],
        [0, 32],
        [32, 48],
      ]),
  },
  {
    name: 'the last fragment twice with other lengths',
    frames: () => [
      ...fragments(datagram(40), [[32, 48]]),
      ...fragments(datagram(32), [[32, 40]]),
      ...fragments(datagram(40), [[0, 32]]),
    ],
  },
  {
    name: 'a middle fragment of 12 bytes',
    frames: () =>
      fragments(datagram(40), [
        [0, 12],
        [16, 48],
      ]),
  },
  {
    name: 'a fragment that reaches beyond 65 535',
    frames: () => [ip({ payload: Buffer.alloc(100), identification: 9, fragment: 0x1fff })],
  },
  {
    name: 'an empty last fragment',
    frames: () => [
      ip({ payload: datagram(40), identification: 7, fragment: 0x2000 }),
      ip({ payload: Buffer.alloc(0), identification: 7, fragment: 6 }),
    ],
  },
  {
    name: 'a first fragment without the whole UDP header',
    frames: () =>
      fragments(datagram(40), [
        [0, 8],
        [8, 48],
      ]),
  },
  // --- IPv6 --------------------------------------------------------------------------------------------------------------
  { name: 'v6: echo request', frames: () => [ip6({ protocol: 58, payload: echo6(56) })] },
  {
    name: 'v6: echo request with a bad checksum',
    frames: () => [damaged(ip6({ protocol: 58, payload: echo6(8) }), 75)],
  },
  { name: 'v6: UDP to a socket', frames: () => [ip6({ payload: datagram6(20) })] },
  {
    name: 'v6: UDP without a checksum',
    frames: () => [changed(changed(ip6({ payload: datagram6(20) }), 70, 0), 71, 0)],
  },
  {
    name: 'v6: UDP to a closed port',
    frames: () => [ip6({ payload: udp6({ ...both6, sourcePort: 4000, destinationPort: 9 }) })],
  },
  { name: 'v6: UDP with a bad checksum', frames: () => [damaged(ip6({ payload: datagram6(8) }), 75)] },
  {
    name: 'v6: a payload length beyond the frame',
    frames: () => [ip6({ payload: datagram6(8), payloadLength: 100 })],
  },
  {
    name: 'v6: padding behind the packet',
    frames: () => [Buffer.concat([ip6({ payload: datagram6(4) }), Buffer.alloc(7, 0xee)])],
  },
  { name: 'v6: hop limit 0', frames: () => [ip6({ payload: datagram6(4), hopLimit: 0 })] },
  {
    name: 'v6: hop-by-hop options of padding',
    frames: () => [ip6({ payload: datagram6(4), extensions: [[0, optionsHeader()]] })],
  },
  {
    name: 'v6: an option to be skipped',
    frames: () => [ip6({ payload: datagram6(4), extensions: [[60, optionsHeader(0x1e, 2, 1, 2)]] })],
  },
  {
    name: 'v6: an option that drops',
    frames: () => [ip6({ payload: datagram6(4), extensions: [[60, optionsHeader(0x5e, 2, 1, 2)]] })],
  },
  {
    name: 'v6: an option that answers',
    frames: () => [ip6({ payload: datagram6(4), extensions: [[60, optionsHeader(0x9e, 2, 1, 2)]] })],
  },
  {
    name: 'v6: an option that answers unicast only',
    frames: () => [ip6({ payload: datagram6(4), extensions: [[60, optionsHeader(0xde, 2, 1, 2)]] })],
  },
  {
    name: 'v6: an option that answers, hop by hop',
    frames: () => [ip6({ payload: datagram6(4), extensions: [[0, optionsHeader(0x9e, 2, 1, 2)]] })],
  },
  {
    name: 'v6: hop-by-hop options behind others',
    frames: () => [
      ip6({
        payload: datagram6(4),
        extensions: [
          [60, optionsHeader()],
          [0, optionsHeader()],
        ],
      }),
    ],
  },
  {
    name: 'v6: destination options twice',
    frames: () => [
      ip6({
        payload: datagram6(4),
        extensions: [
          [60, optionsHeader()],
          [60, optionsHeader()],
        ],
      }),
    ],
  },
  {
    name: 'v6: a routing header without segments left',
    frames: () => [ip6({ payload: datagram6(4), extensions: [[43, hex('0000000000000000')]] })],
  },
  {
    name: 'v6: routing type 0 with segments left',
    frames: () => [
      ip6({
        payload: datagram6(4),
        extensions: [[43, Buffer.concat([hex('0002000100000000'), Buffer.alloc(16)])]],
      }),
    ],
  },
  {
    name: 'v6: an unknown routing type with segments left',
    frames: () => [ip6({ payload: datagram6(4), extensions: [[43, hex('0000c80100000000')]] })],
  },
  { name: 'v6: no next header', frames: () => [ip6({ protocol: 59, payload: Buffer.alloc(4) })] },
  { name: 'v6: an unknown next header', frames: () => [ip6({ protocol: 201, payload: Buffer.alloc(8) })] },
  {
    name: 'v6: an unknown next header behind options',
    frames: () => [ip6({ protocol: 201, payload: Buffer.alloc(8), extensions: [[60, optionsHeader()]] })],
  },
  {
    name: 'v6: an extension that ends beyond the packet',
    frames: () => [ip6({ payload: Buffer.alloc(0), extensions: [[60, hex('0009000000000000')]] })],
  },
  {
    name: 'v6: a fragment that is whole',
    frames: () => [ip6({ payload: datagram6(4), extensions: [[44, fragmentHeader(0, false, 5)]] })],
  },
  {
    name: 'v6: fragments in order',
    frames: () =>
      fragments6(datagram6(40), [
        [0, 16],
        [16, 48],
      ]),
  },
  {
    name: 'v6: fragments in reverse',
    frames: () =>
      fragments6(datagram6(40), [
        [16, 48],
        [0, 16],
      ]),
  },
  {
    name: 'v6: a fragment twice',
    frames: () =>
      fragments6(datagram6(40), [
        [0, 16],
        [0, 16],
        [16, 48],
      ]),
  },
  {
    name: 'v6: fragments that overlap',
    frames: () =>
      fragments6(datagram6(40), [
        [0, 24],
        [16, 48],
      ]),
  },
  {
    name: 'v6: a middle fragment of 12 bytes',
    frames: () =>
      fragments6(datagram6(40), [
        [0, 12],
        [16, 48],
      ]),
  },
  {
    name: 'v6: a first fragment without the UDP header',
    frames: () => [
      ip6({
        protocol: 60,
        payload: hex('1100010400000000'),
        extensions: [[44, fragmentHeader(0, true, 77)]],
      }),
    ],
  },
  {
    name: 'v6: a fragment that reaches beyond 65 535',
    frames: () => [
      ip6({ payload: Buffer.alloc(104), extensions: [[44, fragmentHeader(0xfff8, false, 78)]] }),
    ],
  },
  {
    name: 'v6: from a group',
    frames: () => [ip6({ source: 'ff02::5', payload: udp6({ ...both6, source: 'ff02::5', ...echoPorts }) })],
  },
  {
    name: 'v6: from loopback',
    frames: () => [ip6({ source: '::1', payload: udp6({ ...both6, source: '::1', ...echoPorts }) })],
  },
  {
    name: 'v6: to another host',
    frames: () => [
      ip6({ destination: 'fd97::50', payload: udp6({ ...both6, destination: 'fd97::50', ...echoPorts }) }),
    ],
  },
  {
    name: 'v6: an ICMPv6 error nobody knows',
    frames: () => [ip6({ protocol: 58, payload: icmp6(both6, 99, 0, 0, Buffer.alloc(48)) })],
  },
  {
    name: 'v6: an informational message nobody knows',
    frames: () => [ip6({ protocol: 58, payload: icmp6(both6, 200, 0, 0, Buffer.alloc(8)) })],
  },
];
