/** One line of text per packet in either direction, for eyes and failing tests. */
import type { Clock } from '../../common/index.ts';
import {
  ARP,
  ETHERTYPE,
  ethernetHeaderLength,
  formatIpv4,
  formatIpv6,
  ICMP,
  IPV4,
  IPV6,
  ipv4Destination,
  ipv4FragmentOffset,
  ipv4HeaderLength,
  ipv4IsFragment,
  ipv4Protocol,
  ipv4Source,
  ipv4TotalLength,
  ipv6PayloadLength,
  ipv6UpperLayer,
  PROTOCOL,
  readIpv4,
  readIpv6,
  readU16,
  TCP,
  tcpAcknowledgment,
  tcpFlags,
  tcpHeaderLength,
  tcpSequence,
  tcpWindow,
  UDP,
  VNET,
  vnetGsoSize,
} from '../wire/index.ts';
import type { LinkDevice, LinkReceiver } from './link-device.ts';
import { LinkWrapper } from './link-wrapper.ts';

const FLAG_LETTERS = ['F', 'S', 'R', 'P', 'A', 'U', 'E', 'C'];

/** The transport header at `at` of a packet whose last byte by its own account is before `packetEnd`. */
function describeTransport(
  buffer: Uint8Array,
  protocol: number,
  at: number,
  packetEnd: number,
  end: number,
): string {
  if (protocol === PROTOCOL.TCP && at + TCP.MIN_HEADER <= end) {
    const flags = FLAG_LETTERS.filter((_, bit) => ((tcpFlags(buffer, at) >>> bit) & 1) === 1).join('');
    const payload = packetEnd - at - tcpHeaderLength(buffer, at);
    return `TCP ${readU16(buffer, at)} > ${readU16(buffer, at + 2)} [${flags}] seq ${tcpSequence(buffer, at)} ack ${tcpAcknowledgment(buffer, at)} win ${tcpWindow(buffer, at)} len ${payload}`;
  }
  if (protocol === PROTOCOL.UDP && at + UDP.HEADER <= end) {
    return `UDP ${readU16(buffer, at)} > ${readU16(buffer, at + 2)} len ${readU16(buffer, at + UDP.LENGTH) - UDP.HEADER}`;
  }
  const icmp = protocol === PROTOCOL.ICMP ? 'ICMP' : protocol === PROTOCOL.ICMPV6 ? 'ICMPv6' : undefined;
  if (icmp !== undefined && at + ICMP.HEADER <= end)
    return `${icmp} type ${buffer[at]} code ${buffer[at + 1]}`;
  return `protocol ${protocol}`;
}

function describeIpv4(buffer: Uint8Array, ip: number, end: number): string {
  const offset = ipv4FragmentOffset(buffer, ip);
  const fragment = ipv4IsFragment(buffer, ip) ? ` fragment ${offset}` : '';
  const protocol = ipv4Protocol(buffer, ip);
  const packetEnd = ip + ipv4TotalLength(buffer, ip);
  const transport =
    offset !== 0
      ? `protocol ${protocol}`
      : describeTransport(buffer, protocol, ip + ipv4HeaderLength(buffer, ip), packetEnd, end);
  return `${formatIpv4(ipv4Source(buffer, ip))} > ${formatIpv4(ipv4Destination(buffer, ip))} ${transport}${fragment}`;
}

function describeIpv6(buffer: Uint8Array, ip: number, end: number): string {
  const source = formatIpv6(readIpv6(buffer, ip + IPV6.SOURCE));
  const destination = formatIpv6(readIpv6(buffer, ip + IPV6.DESTINATION));
  const packetEnd = ip + IPV6.HEADER + ipv6PayloadLength(buffer, ip);
  const upper = ipv6UpperLayer(buffer, ip, Math.min(packetEnd, end));
  const transport =
    upper < 0
      ? `next header ${buffer[ip + IPV6.NEXT_HEADER]} length ${packetEnd - ip}`
      : describeTransport(buffer, upper & 0xff, Math.floor(upper / 256), packetEnd, end);
  return `${source} > ${destination} ${transport}`;
}

/** Never throws, whatever the bytes. */
export function describePacket(buffer: Uint8Array, offset: number, length: number): string {
  const frame = offset + VNET.LENGTH;
  const header = ethernetHeaderLength(buffer, frame, length - VNET.LENGTH);
  if (header === 0) return `short frame of ${length} bytes`;
  const at = frame + header;
  const end = offset + length;
  const type = readU16(buffer, at - 2);
  if (type === ETHERTYPE.ARP && at + ARP.LENGTH <= end) {
    const operation = readU16(buffer, at + ARP.OPERATION) === 1 ? 'who-has' : 'is-at';
    const sender = formatIpv4(readIpv4(buffer, at + ARP.SENDER_IP));
    return `ARP ${operation} ${formatIpv4(readIpv4(buffer, at + ARP.TARGET_IP))} sender ${sender}`;
  }
  const gsoSize = vnetGsoSize(buffer, offset);
  const gso = gsoSize === 0 ? '' : ` gso ${gsoSize}`;
  if (type === ETHERTYPE.IPV4 && at + IPV4.MIN_HEADER <= end) return describeIpv4(buffer, at, end) + gso;
  if (type === ETHERTYPE.IPV6 && at + IPV6.HEADER <= end) return describeIpv6(buffer, at, end) + gso;
  return `ethertype 0x${type.toString(16).padStart(4, '0')} length ${length}`;
}

export class TracerLink extends LinkWrapper {
  readonly #clock: Clock;
  readonly #write: (line: string) => void;

  constructor(inner: LinkDevice, clock: Clock, write: (line: string) => void) {
    super(inner);
    this.#clock = clock;
    this.#write = write;
  }

  override attach(receiver: LinkReceiver): void {
    super.attach({
      receive: (buffer, offset, length) => {
        this.#line('<', buffer, offset, length);
        receiver.receive(buffer, offset, length);
      },
      endOfBatch: () => receiver.endOfBatch(),
      writable: () => receiver.writable(),
    });
  }

  override transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    const taken = super.transmit(buffer, offset, length);
    this.#line(taken ? '>' : 'full', buffer, offset, length);
    return taken;
  }

  #line(direction: string, buffer: Uint8Array, offset: number, length: number): void {
    const atMs = this.#clock.nowMs().toFixed(3);
    this.#write(`${atMs} ${this.name} ${direction} ${describePacket(buffer, offset, length)}`);
  }
}
