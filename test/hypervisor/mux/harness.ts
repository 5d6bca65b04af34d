/** A mux in memory on a virtual clock, and packets to put into it. */
import { SeededRandom, VirtualClock } from '../../../src/common/index.ts';
import type { MuxEvents, MuxOptions } from '../../../src/hypervisor/mux/index.ts';
import { Mux } from '../../../src/hypervisor/mux/index.ts';
import type { Ipv4Address, LinkDevice, LinkOffload, LinkReceiver } from '../../../src/netstack/index.ts';
import {
  ARP,
  ARP_OPERATION,
  addBytes,
  arpIsValid,
  checksumOf,
  ETHERNET,
  ETHERTYPE,
  emitArp,
  emitEthernet,
  emitIpv4,
  emitTcp,
  emitUdp,
  finishSum,
  formatIpv4,
  formatMac,
  ipv4Address,
  ipv4ChecksumValid,
  ipv4PseudoHeaderSum,
  MAC_BROADCAST,
  MAC_NONE,
  macAddress,
  PROTOCOL,
  readIpv4,
  readMac,
  readU16,
  readU32,
  TCP,
  TCP_FLAG,
  transportChecksumValid,
  VNET_HDR_LEN,
  writeU16,
} from '../../../src/netstack/index.ts';

export const FLAG = TCP_FLAG;
const L2 = VNET_HDR_LEN;
const L3 = L2 + ETHERNET.HEADER;
const L4 = L3 + 20;

/** A link end that keeps what is transmitted to it. */
export class TestDevice implements LinkDevice {
  readonly mtu = 1500;
  readonly offload: LinkOffload;
  readonly name: string;
  sent: Uint8Array[] = [];
  /** Packets it takes before it refuses. */
  room = Number.POSITIVE_INFINITY;
  flushes = 0;
  closed = false;
  receiver: LinkReceiver | undefined;

  constructor(name: string, offload = true) {
    this.name = name;
    this.offload = {
      checksum: offload,
      tcp4Segmentation: offload,
      tcp6Segmentation: offload,
      maxPacket: 65_563,
    };
  }

  attach(receiver: LinkReceiver): void {
    this.receiver = receiver;
  }

  transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    if (this.room <= 0) return false;
    this.room--;
    this.sent.push(buffer.slice(offset, offset + length));
    return true;
  }

  flush(): void {
    this.flushes++;
  }

  close(): void {
    this.closed = true;
  }

  /** Packets as one batch from the other end. */
  deliver(...packets: Uint8Array[]): void {
    for (const packet of packets) {
      const copy = new Uint8Array(packet.length + 3);
      copy.set(packet, 3);
      this.receiver?.receive(copy, 3, packet.length);
    }
    this.receiver?.endOfBatch();
  }

  /** What was transmitted since the last call. */
  take(): Uint8Array[] {
    const taken = this.sent;
    this.sent = [];
    return taken;
  }

  texts(): string[] {
    return this.take().map(textOf);
  }
}

export const MAC = {
  a: '02:00:00:00:00:0a',
  b: '02:00:00:00:00:0b',
  probe: '02:00:00:00:00:0f',
  client: '02:00:00:00:01:01',
  other: '02:00:00:00:01:02',
} as const;
export const SERVICE = '10.77.0.11';
export const SECOND = '10.77.0.12';
export const CLIENT = '10.77.0.50';

export interface Bench {
  readonly clock: VirtualClock;
  readonly mux: Mux;
  readonly up: TestDevice;
  readonly a: TestDevice;
  readonly b: TestDevice;
  readonly probe: TestDevice;
  readonly events: { name: string; data: unknown }[];
}

/** One uplink, partitions a (attached, has the path) and b (isolated), a probe. */
export function bench(options: MuxOptions & { readonly offload?: boolean } = {}): Bench {
  const clock = new VirtualClock();
  const events: { name: string; data: unknown }[] = [];
  const { offload = true, ...muxOptions } = options;
  const mux = new Mux({
    clock,
    random: new SeededRandom(1),
    onEvent: <N extends keyof MuxEvents & string>(name: N, data: MuxEvents[N]) =>
      void events.push({ name, data }),
    ...muxOptions,
  });
  const up = new TestDevice('up', offload);
  const a = new TestDevice('a', offload);
  const b = new TestDevice('b', offload);
  const probe = new TestDevice('probe', offload);
  mux.addPort({ name: 'up', kind: 'tap', role: 'uplink', device: up });
  const partition = (name: 'a' | 'b', device: TestDevice, addresses: string[]) =>
    mux.addPort({
      name,
      kind: 'stream',
      role: 'partition',
      device,
      mac: macAddress(MAC[name]),
      addresses: addresses.map(ipv4Address),
    });
  partition('a', a, [SERVICE, SECOND]);
  partition('b', b, ['10.77.0.13', SERVICE]);
  mux.addPort({ name: 'probe', kind: 'stream', role: 'probe', device: probe, mac: macAddress(MAC.probe) });
  mux.portState('a', 'attached');
  mux.pathSet({ address: SERVICE, port: 'a' });
  events.length = 0;
  return { clock, mux, up, a, b, probe, events };
}

export interface Ends {
  /** MAC addresses and IPv4 addresses. */
  readonly fromMac?: string;
  readonly toMac?: string;
  readonly from: string;
  readonly to: string;
}

function ethernet(packet: Uint8Array, ends: Ends): void {
  emitEthernet(
    packet,
    L2,
    macAddress(ends.toMac ?? MAC.a),
    macAddress(ends.fromMac ?? MAC.client),
    ETHERTYPE.IPV4,
  );
}

export interface Segment extends Ends {
  readonly sport: number;
  readonly dport: number;
  readonly flags: number;
  readonly seq?: number;
  readonly ack?: number;
  readonly payload?: string;
}

export function tcp(s: Segment): Uint8Array {
  const payload = new TextEncoder().encode(s.payload ?? '');
  const packet = new Uint8Array(Math.max(L4 + 20 + payload.length, L2 + 60));
  ethernet(packet, s);
  const from = ipv4Address(s.from);
  const to = ipv4Address(s.to);
  emitIpv4(packet, L3, 40 + payload.length, 1, 0x4000, 64, PROTOCOL.TCP, from, to);
  emitTcp(packet, L4, s.sport, s.dport, s.seq ?? 1, s.ack ?? 1, 20, s.flags, 1000);
  packet.set(payload, L4 + 20);
  const sum = ipv4PseudoHeaderSum(packet, L3, 20 + payload.length);
  writeU16(packet, L4 + TCP.CHECKSUM, finishSum(addBytes(sum, packet, L4, 20 + payload.length)));
  return packet;
}

export interface Datagram extends Ends {
  readonly sport: number;
  readonly dport: number;
  readonly payload?: string;
  /** Fragment field: MF 0x2000, offset / 8. */
  readonly fragment?: number;
  readonly id?: number;
}

export function udp(d: Datagram): Uint8Array {
  const payload = new TextEncoder().encode(d.payload ?? 'x');
  const later = ((d.fragment ?? 0) & 0x1fff) !== 0;
  const header = later ? 0 : 8;
  const packet = new Uint8Array(Math.max(L4 + header + payload.length, L2 + 60));
  ethernet(packet, d);
  const length = header + payload.length;
  const from = ipv4Address(d.from);
  const to = ipv4Address(d.to);
  emitIpv4(packet, L3, 20 + length, d.id ?? 7, d.fragment ?? 0, 64, PROTOCOL.UDP, from, to);
  packet.set(payload, L4 + header);
  if (later) return packet;
  emitUdp(packet, L4, d.sport, d.dport, length);
  const sum = ipv4PseudoHeaderSum(packet, L3, length);
  writeU16(packet, L4 + 6, finishSum(addBytes(sum, packet, L4, length)));
  return packet;
}

export function echo(e: Ends & { readonly id: number; readonly reply?: boolean }): Uint8Array {
  const packet = new Uint8Array(L2 + 60);
  ethernet(packet, e);
  emitIpv4(packet, L3, 28, 1, 0, 64, PROTOCOL.ICMP, ipv4Address(e.from), ipv4Address(e.to));
  packet[L4] = e.reply === true ? 0 : 8;
  writeU16(packet, L4 + 4, e.id);
  writeU16(packet, L4 + 2, checksumOf(packet, L4, 8));
  return packet;
}

/** "Port unreachable" or (code 4) "fragmentation needed" about a packet. */
export function icmpError(e: Ends & { readonly about: Uint8Array; readonly code?: number }): Uint8Array {
  const quote = e.about.subarray(L3, L3 + 28);
  const packet = new Uint8Array(L4 + 8 + quote.length);
  ethernet(packet, e);
  emitIpv4(packet, L3, 28 + quote.length, 1, 0, 64, PROTOCOL.ICMP, ipv4Address(e.from), ipv4Address(e.to));
  packet[L4] = 3;
  packet[L4 + 1] = e.code ?? 3;
  packet.set(quote, L4 + 8);
  writeU16(packet, L4 + 2, checksumOf(packet, L4, 8 + quote.length));
  return packet;
}

export interface Arp {
  readonly operation?: 'request' | 'reply';
  readonly fromMac: string;
  readonly toMac?: string;
  readonly senderMac?: string;
  readonly sender: string;
  readonly target: string;
}

export function arp(p: Arp): Uint8Array {
  const packet = new Uint8Array(L2 + 60);
  const to = p.toMac === undefined ? MAC_BROADCAST : macAddress(p.toMac);
  emitEthernet(packet, L2, to, macAddress(p.fromMac), ETHERTYPE.ARP);
  emitArp(
    packet,
    L3,
    p.operation === 'reply' ? ARP_OPERATION.REPLY : ARP_OPERATION.REQUEST,
    macAddress(p.senderMac ?? p.fromMac),
    ipv4Address(p.sender),
    p.toMac === undefined ? MAC_NONE : to,
    ipv4Address(p.target),
  );
  return packet;
}

/** An Ethernet frame of any type. */
export function frame(fromMac: string, toMac: string, type: number, payload = 46): Uint8Array {
  const packet = new Uint8Array(L2 + 14 + payload);
  emitEthernet(packet, L2, macAddress(toMac), macAddress(fromMac), type);
  return packet;
}

const FLAG_LETTERS = ['F', 'S', 'R', 'P', 'A'];

/** `tcp 10.77.0.50:4000 > 10.77.0.11:80 SA`, `udp …`, `echo …`, `arp …`, `88b5 …`. */
export function textOf(packet: Uint8Array): string {
  const type = readU16(packet, L2 + ETHERNET.TYPE);
  if (type === ETHERTYPE.ARP) {
    if (!arpIsValid(packet, L3, packet.length - L3)) return 'arp malformed';
    const operation = readU16(packet, L3 + ARP.OPERATION) === 1 ? 'request' : 'reply';
    const at = (offset: number) => formatIpv4(readIpv4(packet, L3 + offset));
    return `arp ${operation} ${at(ARP.SENDER_IP)} at ${formatMac(readMac(packet, L3 + ARP.SENDER_MAC))} > ${at(ARP.TARGET_IP)}`;
  }
  if (type !== ETHERTYPE.IPV4) return `${type.toString(16)} ${readU32(packet, L3)}`;
  const from = formatIpv4(readU32(packet, L3 + 12) as Ipv4Address);
  const to = formatIpv4(readU32(packet, L3 + 16) as Ipv4Address);
  const protocol = packet[L3 + 9]!;
  if ((readU16(packet, L3 + 6) & 0x1fff) !== 0) return `fragment ${from} > ${to}`;
  if (protocol === PROTOCOL.ICMP) {
    const name = packet[L4] === 8 ? 'echo' : packet[L4] === 0 ? 'echo-reply' : 'icmp-error';
    return `${name} ${from} > ${to}`;
  }
  const ports = `${from}:${readU16(packet, L4)} > ${to}:${readU16(packet, L4 + 2)}`;
  if (protocol === PROTOCOL.UDP) return `udp ${ports}`;
  const flags = FLAG_LETTERS.filter((_, bit) => ((packet[L4 + TCP.FLAGS]! >> bit) & 1) === 1).join('');
  return `tcp ${ports} ${flags}`;
}

export function destinationMac(packet: Uint8Array): string {
  return formatMac(readMac(packet, L2));
}

export function payloadOf(packet: Uint8Array): string {
  const end = L3 + readU16(packet, L3 + 2);
  const start = packet[L3 + 9] === PROTOCOL.TCP ? L4 + 20 : L4 + 8;
  return new TextDecoder().decode(packet.subarray(start, end));
}

/** Header and transport checksum both. */
export function checksumsValid(packet: Uint8Array): boolean {
  if (!ipv4ChecksumValid(packet, L3, 20)) return false;
  const total = readU16(packet, L3 + 2);
  if (packet[L3 + 9] === PROTOCOL.ICMP) return checksumOf(packet, L4, total - 20) === 0;
  return transportChecksumValid(packet, L3, 20, total);
}

/** Client → service, or back, for client port `port`. */
export function fromClient(port: number, flags: number, more: Partial<Segment> = {}): Uint8Array {
  return tcp({ from: CLIENT, to: SERVICE, sport: port, dport: 80, flags, ...more });
}

export function toClient(
  port: number,
  flags: number,
  partition: 'a' | 'b' = 'a',
  more: Partial<Segment> = {},
): Uint8Array {
  return tcp({
    fromMac: MAC[partition],
    toMac: MAC.client,
    from: SERVICE,
    to: CLIENT,
    sport: 80,
    dport: port,
    flags,
    ...more,
  });
}

/** Three-way handshake between the client and partition a; the devices are emptied. */
export function established(bench: Bench, port: number, partition: 'a' | 'b' = 'a'): void {
  bench.up.deliver(fromClient(port, FLAG.SYN));
  bench[partition].deliver(toClient(port, FLAG.SYN | FLAG.ACK, partition));
  bench.up.deliver(fromClient(port, FLAG.ACK));
  bench.up.take();
  bench.a.take();
  bench.b.take();
}

export function dropsOf(bench: Bench, port: string): Readonly<Record<string, number>> {
  return bench.mux.ports().find((p) => p.name === port)!.drops;
}

export function flowName(port: number) {
  return {
    protocol: 'tcp',
    localAddress: SERVICE,
    localPort: 80,
    remoteAddress: CLIENT,
    remotePort: port,
  } as const;
}
