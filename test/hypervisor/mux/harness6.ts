/** The mux of harness.ts with a service address of each family, and IPv6 packets to put into it. */
import { formatIpv6, readIpv6 } from '../../../src/netstack/index.ts';
import { fragmentHeader, icmp6, ipv6, packet6, tcp6, udp6 } from '../../netstack/packets6.ts';
import { type Bench, bench, FLAG, MAC, SECOND, SERVICE, type TestDevice, textOf } from './harness.ts';

export const SERVICE6 = 'fd00::11';
export const SECOND6 = 'fd00::12';
export const CLIENT6 = 'fd00::50';
const IP = 24;

/** Hex, as the packet builders want it. */
export function macHex(text: string): string {
  return text.replaceAll(':', '');
}

/** As `bench`; a has the paths of both service addresses, the mux may use all four addresses at either partition. */
export function bench6(options: Parameters<typeof bench>[0] = {}): Bench {
  const b = bench(options);
  b.mux.portAddresses('a', [SERVICE, SECOND, SERVICE6, SECOND6]);
  b.mux.portAddresses('b', [SERVICE, '10.77.0.13', SERVICE6, 'fd00::13']);
  b.mux.pathSet({ address: SERVICE6, port: 'a' });
  return b;
}

export interface Way {
  readonly from: string;
  readonly to: string;
  readonly fromMac?: string;
  readonly toMac?: string;
  readonly sport?: number;
  readonly dport?: number;
}

/** Any payload between these ends. */
export function carry(way: Way, protocol: number, payload: Uint8Array, more: object = {}): Uint8Array {
  return packet6(ipv6({ source: way.from, destination: way.to, protocol, payload, ...more }), {
    to: macHex(way.toMac ?? MAC.a),
    from: macHex(way.fromMac ?? MAC.client),
  });
}

function ends(way: Way) {
  return {
    source: way.from,
    destination: way.to,
    sourcePort: way.sport ?? 0,
    destinationPort: way.dport ?? 0,
  };
}

export function segment6(way: Way, flags: number, payload = ''): Uint8Array {
  return carry(way, 6, tcp6({ ...ends(way), flags, payload: new TextEncoder().encode(payload) }));
}

export function datagram6(way: Way, payload = 'x'): Uint8Array {
  return carry(way, 17, udp6({ ...ends(way), payload: new TextEncoder().encode(payload) }));
}

export function echo6(way: Way, id: number, reply = false): Uint8Array {
  const body = new Uint8Array(8);
  return carry(way, 58, icmp6(ends(way), reply ? 129 : 128, 0, id * 0x1_0000, body));
}

/** "Packet too big" (type 2) or another error about a packet. */
export function error6(way: Way, about: Uint8Array, type = 2): Uint8Array {
  return carry(way, 58, icmp6(ends(way), type, 0, 1400, about.subarray(IP, IP + 60)));
}

/** A datagram of two fragments. */
export function fragments6(way: Way, id: number): [Uint8Array, Uint8Array] {
  const whole = udp6({ ...ends(way), payload: new Uint8Array(64) });
  const part = (offset: number, more: boolean, bytes: Uint8Array) =>
    carry(way, 17, bytes, { extensions: [[44, fragmentHeader(offset, more, id)]] });
  return [part(0, true, whole.subarray(0, 40)), part(40, false, whole.subarray(40))];
}

export function fromClient6(port: number, flags: number, payload = ''): Uint8Array {
  return segment6({ from: CLIENT6, to: SERVICE6, sport: port, dport: 80 }, flags, payload);
}

export function toClient6(
  port: number,
  flags: number,
  partition: 'a' | 'b' = 'a',
  from = SERVICE6,
  payload = '',
): Uint8Array {
  const way = { from, to: CLIENT6, fromMac: MAC[partition], toMac: MAC.client, sport: 80, dport: port };
  return segment6(way, flags, payload);
}

export function established6(b: Bench, port: number): void {
  b.up.deliver(fromClient6(port, FLAG.SYN));
  b.a.deliver(toClient6(port, FLAG.SYN | FLAG.ACK));
  b.up.deliver(fromClient6(port, FLAG.ACK));
  b.up.take();
  b.a.take();
}

export function flowName6(port: number) {
  return {
    protocol: 'tcp',
    localAddress: SERVICE6,
    localPort: 80,
    remoteAddress: CLIENT6,
    remotePort: port,
  } as const;
}

/** `tcp fd00::50.4000 > fd00::11.80`, `icmp135 …`, `fragment …`; IPv4 and ARP as `textOf` has them. */
export function text6(packet: Uint8Array): string {
  if (packet[22] !== 0x86 || packet[23] !== 0xdd) return textOf(packet);
  const from = formatIpv6(readIpv6(packet, IP + 8));
  const to = formatIpv6(readIpv6(packet, IP + 24));
  const next = packet[IP + 6];
  const at = IP + 40;
  const port = (offset: number) => (packet[at + offset]! << 8) | packet[at + offset + 1]!;
  if (next === 44) return `fragment ${from} > ${to}`;
  if (next === 58) return `icmp${packet[at]} ${from} > ${to}`;
  return `${next === 6 ? 'tcp' : 'udp'} ${from}.${port(0)} > ${to}.${port(2)}`;
}

export function texts6(device: TestDevice): string[] {
  return device.take().map(text6);
}
