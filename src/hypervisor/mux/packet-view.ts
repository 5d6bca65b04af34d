/**
 * What the mux needs to know of one packet, read once into one object that is used again for the next packet. Offsets count
 * from the start of the buffer. Addresses are kept as signed 32-bit integers (`formatIpv4(x >>> 0)` for people): those fit
 * a small integer, an unsigned one would be a heap number for half of all addresses.
 */
import {
  ARP,
  ARP_OPERATION,
  arpIsValid,
  ETHERNET,
  ETHERTYPE,
  ICMP,
  ICMP_TYPE,
  IPV4,
  icmpIsError,
  PROTOCOL,
  readU16,
  TCP,
  TCP_FLAG,
  VNET_HDR_LEN,
  vnetIsValid,
} from '../../netstack/index.ts';
import { DROP } from './drops.ts';

export const KIND = { OTHER: 0, ARP: 1, IPV4: 2, IPV6: 3, VLAN: 4 } as const;
export const FRAGMENT = { NONE: 0, FIRST: 1, LATER: 2 } as const;

/** No reason to drop. */
export const FINE = -1;

const UDP_HEADER = 8;

function int32(buffer: Uint8Array, at: number): number {
  return (buffer[at]! << 24) | (buffer[at + 1]! << 16) | (buffer[at + 2]! << 8) | buffer[at + 3]!;
}

export class PacketView {
  /** Start of the Ethernet header. */
  frame = 0;
  frameLength = 0;
  kind: number = KIND.OTHER;
  type = 0;
  /** High 16 and low 32 bits of the MACs. */
  toHigh = 0;
  toLow = 0;
  fromHigh = 0;
  fromLow = 0;

  /** IPv4: header; ARP: packet. */
  l3 = 0;
  source = 0;
  destination = 0;
  protocol = 0;
  fragment: number = FRAGMENT.NONE;
  identification = 0;

  /** Ports are known: a flow can be named. Of an ICMP error it is the flow of the packet it quotes (`quoted`). */
  hasFlow = false;
  quoted = false;
  sourcePort = 0;
  destinationPort = 0;
  /** ICMP echo request or reply. */
  echoRequest = false;
  /** Protocol of the flow. */
  flowProtocol = 0;
  /** Addresses of the flow as the sender of this packet sees them; of an error those of the quoted packet, turned round. */
  flowSource = 0;
  flowDestination = 0;

  tcpFlags = 0;
  tcpSequence = 0;
  tcpAcknowledgment = 0;
  /** TCP payload bytes. */
  tcpPayload = 0;

  arpOperation = 0;
  arpSender = 0;
  arpTarget = 0;

  get isGroup(): boolean {
    return (this.toHigh & 0x100) !== 0;
  }

  /** Link layer. Answers a drop reason or FINE. */
  readLink(buffer: Uint8Array, offset: number, length: number): number {
    const frame = offset + VNET_HDR_LEN;
    const frameLength = length - VNET_HDR_LEN;
    if (frameLength < ETHERNET.HEADER) return DROP['too-short'];
    if ((buffer[offset]! !== 0 || buffer[offset + 1]! !== 0) && !vnetIsValid(buffer, offset, frameLength)) {
      return DROP['bad-vnet-header'];
    }
    this.frame = frame;
    this.frameLength = frameLength;
    this.toHigh = (buffer[frame]! << 8) | buffer[frame + 1]!;
    this.toLow = int32(buffer, frame + 2);
    this.fromHigh = (buffer[frame + 6]! << 8) | buffer[frame + 7]!;
    this.fromLow = int32(buffer, frame + 8);
    const type = (buffer[frame + 12]! << 8) | buffer[frame + 13]!;
    this.type = type;
    this.l3 = frame + ETHERNET.HEADER;
    if (type === ETHERTYPE.IPV4) this.kind = KIND.IPV4;
    else if (type === ETHERTYPE.ARP) this.kind = KIND.ARP;
    else if (type === ETHERTYPE.IPV6) this.kind = KIND.IPV6;
    else if (type === ETHERTYPE.VLAN || type === ETHERTYPE.VLAN_SERVICE) this.kind = KIND.VLAN;
    else this.kind = KIND.OTHER;
    return FINE;
  }

  /** After readLink, for KIND.ARP. */
  readArp(buffer: Uint8Array): number {
    if (!arpIsValid(buffer, this.l3, this.frameLength - ETHERNET.HEADER)) return DROP['malformed-arp'];
    this.arpOperation = readU16(buffer, this.l3 + ARP.OPERATION);
    this.arpSender = int32(buffer, this.l3 + ARP.SENDER_IP);
    this.arpTarget = int32(buffer, this.l3 + ARP.TARGET_IP);
    return FINE;
  }

  /** An ARP request that asks, rather than announces its sender's own address. */
  get arpAsks(): boolean {
    return this.arpOperation === ARP_OPERATION.REQUEST && this.arpSender !== this.arpTarget;
  }

  /** After readLink, for KIND.IPV4. */
  readIpv4(buffer: Uint8Array): number {
    const ip = this.l3;
    const room = this.frameLength - ETHERNET.HEADER;
    if (room < IPV4.MIN_HEADER || buffer[ip]! >>> 4 !== 4) return DROP['malformed-ipv4'];
    const header = (buffer[ip]! & 15) * 4;
    const total = readU16(buffer, ip + IPV4.TOTAL_LENGTH);
    if (header < IPV4.MIN_HEADER || total < header || total > room) return DROP['malformed-ipv4'];
    this.source = int32(buffer, ip + IPV4.SOURCE);
    this.destination = int32(buffer, ip + IPV4.DESTINATION);
    this.protocol = buffer[ip + IPV4.PROTOCOL]!;
    this.identification = readU16(buffer, ip + IPV4.IDENTIFICATION);
    this.hasFlow = false;
    this.quoted = false;
    this.tcpFlags = 0;
    this.flowSource = this.source;
    this.flowDestination = this.destination;
    this.flowProtocol = this.protocol;
    const fragment = readU16(buffer, ip + IPV4.FRAGMENT);
    if ((fragment & 0x1fff) !== 0) {
      this.fragment = FRAGMENT.LATER;
      return FINE;
    }
    this.fragment = (fragment & IPV4.MORE_FRAGMENTS) !== 0 ? FRAGMENT.FIRST : FRAGMENT.NONE;
    this.#readTransport(buffer, ip + header, total - header);
    return FINE;
  }

  #readTransport(buffer: Uint8Array, at: number, length: number): void {
    if (this.protocol === PROTOCOL.TCP) {
      if (length < TCP.MIN_HEADER) return;
      this.sourcePort = readU16(buffer, at);
      this.destinationPort = readU16(buffer, at + 2);
      this.tcpSequence = int32(buffer, at + TCP.SEQUENCE);
      this.tcpAcknowledgment = int32(buffer, at + TCP.ACKNOWLEDGMENT);
      this.tcpFlags = buffer[at + TCP.FLAGS]!;
      this.tcpPayload = Math.max(0, length - (buffer[at + TCP.DATA_OFFSET]! >>> 4) * 4);
      this.hasFlow = true;
    } else if (this.protocol === PROTOCOL.UDP) {
      if (length < UDP_HEADER) return;
      this.sourcePort = readU16(buffer, at);
      this.destinationPort = readU16(buffer, at + 2);
      this.hasFlow = true;
    } else if (this.protocol === PROTOCOL.ICMP && length >= ICMP.HEADER) {
      const type = buffer[at]!;
      if (type === ICMP_TYPE.ECHO_REQUEST || type === ICMP_TYPE.ECHO_REPLY) {
        this.#echo(readU16(buffer, at + ICMP.IDENTIFIER), type === ICMP_TYPE.ECHO_REQUEST);
      } else if (icmpIsError(type)) {
        this.#readQuote(buffer, at + ICMP.HEADER, length - ICMP.HEADER);
      }
    }
  }

  /** The side that asks owns the identifier; the other side's "port" is 0. */
  #echo(identifier: number, request: boolean): void {
    this.echoRequest = request;
    this.sourcePort = request ? identifier : 0;
    this.destinationPort = request ? 0 : identifier;
    this.hasFlow = true;
  }

  /** The quoted packet went the other way: what is its source is this flow's destination. */
  #readQuote(buffer: Uint8Array, ip: number, length: number): void {
    if (length < IPV4.MIN_HEADER + 8 || buffer[ip]! >>> 4 !== 4) return;
    const header = (buffer[ip]! & 15) * 4;
    if (header < IPV4.MIN_HEADER || length < header + 8) return;
    if ((readU16(buffer, ip + IPV4.FRAGMENT) & 0x1fff) !== 0) return;
    const at = ip + header;
    const protocol = buffer[ip + IPV4.PROTOCOL]!;
    if (protocol === PROTOCOL.TCP || protocol === PROTOCOL.UDP) {
      this.destinationPort = readU16(buffer, at);
      this.sourcePort = readU16(buffer, at + 2);
    } else if (protocol === PROTOCOL.ICMP) {
      const type = buffer[at]!;
      if (type !== ICMP_TYPE.ECHO_REQUEST && type !== ICMP_TYPE.ECHO_REPLY) return;
      const identifier = readU16(buffer, at + ICMP.IDENTIFIER);
      this.sourcePort = type === ICMP_TYPE.ECHO_REQUEST ? 0 : identifier;
      this.destinationPort = type === ICMP_TYPE.ECHO_REQUEST ? identifier : 0;
    } else return;
    this.flowProtocol = protocol;
    this.flowDestination = int32(buffer, ip + IPV4.SOURCE);
    this.flowSource = int32(buffer, ip + IPV4.DESTINATION);
    this.hasFlow = true;
    this.quoted = true;
  }

  get isRst(): boolean {
    return this.protocol === PROTOCOL.TCP && (this.tcpFlags & TCP_FLAG.RST) !== 0;
  }

  /** A segment that opens a connection. */
  get isSyn(): boolean {
    return (
      this.protocol === PROTOCOL.TCP &&
      (this.tcpFlags & (TCP_FLAG.SYN | TCP_FLAG.ACK | TCP_FLAG.RST)) === TCP_FLAG.SYN
    );
  }
}
