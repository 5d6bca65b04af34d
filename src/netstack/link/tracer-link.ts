/** One line of text per packet in either direction, for eyes and failing tests. */
import type { Clock } from '../../common/index.ts';
import {
  ARP,
  ETHERTYPE,
  ethernetHeaderLength,
  formatIpv4,
  ICMP,
  IPV4,
  ipv4Destination,
  ipv4FragmentOffset,
  ipv4HeaderLength,
  ipv4IsFragment,
  ipv4Protocol,
  ipv4Source,
  ipv4TotalLength,
  PROTOCOL,
  readIpv4,
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

function describeTransport(buffer: Uint8Array, ip: number, end: number): string {
  const at = ip + ipv4HeaderLength(buffer, ip);
  const protocol = ipv4Protocol(buffer, ip);
  if (ipv4FragmentOffset(buffer, ip) !== 0) return `protocol ${protocol}`;
  if (protocol === PROTOCOL.TCP && at + TCP.MIN_HEADER <= end) {
    const flags = FLAG_LETTERS.filter((_, bit) => ((tcpFlags(buffer, at) >>> bit) & 1) === 1).join('');
    const payload = ip + ipv4TotalLength(buffer, ip) - at - tcpHeaderLength(buffer, at);
    return `TCP ${readU16(buffer, at)} > ${readU16(buffer, at + 2)} [${flags}] seq ${tcpSequence(buffer, at)} ack ${tcpAcknowledgment(buffer, at)} win ${tcpWindow(buffer, at)} len ${payload}`;
  }
  if (protocol === PROTOCOL.UDP && at + UDP.HEADER <= end) {
    return `UDP ${readU16(buffer, at)} > ${readU16(buffer, at + 2)} len ${readU16(buffer, at + UDP.LENGTH) - UDP.HEADER}`;
  }
  if (protocol === PROTOCOL.ICMP && at + ICMP.HEADER <= end)
    return `ICMP type ${buffer[at]} code ${buffer[at + 1]}`;
  return `protocol ${protocol}`;
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
  if (type !== ETHERTYPE.IPV4 || at + IPV4.MIN_HEADER > end) {
    return `ethertype 0x${type.toString(16).padStart(4, '0')} length ${length}`;
  }
  const fragment = ipv4IsFragment(buffer, at) ? ` fragment ${ipv4FragmentOffset(buffer, at)}` : '';
  const gsoSize = vnetGsoSize(buffer, offset);
  const gso = gsoSize === 0 ? '' : ` gso ${gsoSize}`;
  return `${formatIpv4(ipv4Source(buffer, at))} > ${formatIpv4(ipv4Destination(buffer, at))} ${describeTransport(buffer, at, end)}${fragment}${gso}`;
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
