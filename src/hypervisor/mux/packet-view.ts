/**
 * What the mux needs to know of one packet, read once into one object that is used again for the next packet. Offsets count
 * from the start of the buffer. Addresses are keys (address-keys.ts): signed 32-bit integers of either family, which fit a
 * small integer; an unsigned one would be a heap number for half of all addresses.
 */
import {
  ARP,
  ARP_OPERATION,
  arpIsValid,
  ETHERNET,
  ETHERTYPE,
  ICMP,
  ICMP_TYPE,
  ICMPV6_TYPE,
  IPV4,
  IPV6,
  IPV6_EXTENSION,
  IPV6_FRAGMENT,
  icmpIsError,
  icmpv6IsError,
  NDP,
  PROTOCOL,
  readU16,
  TCP,
  TCP_FLAG,
  VNET_HDR_LEN,
  vnetIsValid,
} from '../../netstack/index.ts';
import { type AddressKeys, ipv4Key } from './address-keys.ts';
import { DROP } from './drops.ts';

export const KIND = { OTHER: 0, ARP: 1, IPV4: 2, IPV6: 3, VLAN: 4 } as const;
export const FRAGMENT = { NONE: 0, FIRST: 1, LATER: 2 } as const;

/** No reason to drop. */
export const FINE = -1;

const UDP_HEADER = 8;
/** RFC 8504 section 5.3 leaves the bound to us; nobody needs as many. */
const MAX_EXTENSIONS = 8;
const NDP_FIRST: number = ICMPV6_TYPE.ROUTER_SOLICITATION;
const NDP_LAST: number = ICMPV6_TYPE.REDIRECT;

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

  /** IP: header; ARP: packet. */
  l3 = 0;
  /** IPv6: the upper layer's header, its end; -1 when there is none in this packet. */
  l4 = -1;
  end = 0;
  /** Where the source address stands, for who wants to keep it. */
  sourceAt = 0;
  source = 0;
  destination = 0;
  protocol = 0;
  fragment: number = FRAGMENT.NONE;
  identification = 0;
  /** What the fragment table tells datagrams apart by: IPv4's source and protocol; IPv6's source as a hash (RFC 8200: no protocol). */
  fragmentSource = 0;
  fragmentProtocol = 0;
  /** IPv6: the chain of headers was read to its end, or to a fragment header that ends it lawfully. */
  chainComplete = true;
  /** IPv6: type of an ICMPv6 message that is no fragment, else -1. */
  icmpv6Type = -1;
  /** Target of a neighbour solicitation or advertisement. */
  ndpTarget = 0;

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

  readonly #keys: AddressKeys;

  constructor(keys: AddressKeys) {
    this.#keys = keys;
  }

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
    this.arpSender = ipv4Key(buffer, this.l3 + ARP.SENDER_IP);
    this.arpTarget = ipv4Key(buffer, this.l3 + ARP.TARGET_IP);
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
    this.source = ipv4Key(buffer, ip + IPV4.SOURCE);
    this.sourceAt = ip + IPV4.SOURCE;
    this.destination = ipv4Key(buffer, ip + IPV4.DESTINATION);
    this.protocol = buffer[ip + IPV4.PROTOCOL]!;
    this.identification = readU16(buffer, ip + IPV4.IDENTIFICATION);
    this.fragmentSource = this.source;
    this.fragmentProtocol = this.protocol;
    this.icmpv6Type = -1;
    this.chainComplete = true;
    this.#noFlowYet();
    const fragment = readU16(buffer, ip + IPV4.FRAGMENT);
    if ((fragment & 0x1fff) !== 0) {
      this.fragment = FRAGMENT.LATER;
      return FINE;
    }
    this.fragment = (fragment & IPV4.MORE_FRAGMENTS) !== 0 ? FRAGMENT.FIRST : FRAGMENT.NONE;
    this.#readTransport(buffer, ip + header, total - header);
    return FINE;
  }

  #noFlowYet(): void {
    this.hasFlow = false;
    this.quoted = false;
    this.tcpFlags = 0;
    this.flowSource = this.source;
    this.flowDestination = this.destination;
    this.flowProtocol = this.protocol;
  }

  /** After readLink, for KIND.IPV6. A chain that cannot be read to its end is `chainComplete` false, and no fault. */
  readIpv6(buffer: Uint8Array): number {
    const ip = this.l3;
    const room = this.frameLength - ETHERNET.HEADER;
    if (room < IPV6.HEADER || buffer[ip]! >>> 4 !== 6) return DROP['malformed-ipv6'];
    const payload = readU16(buffer, ip + IPV6.PAYLOAD_LENGTH);
    if (IPV6.HEADER + payload > room) return DROP['malformed-ipv6'];
    this.end = ip + IPV6.HEADER + payload;
    this.sourceAt = ip + IPV6.SOURCE;
    this.source = this.#keys.find(buffer, this.sourceAt);
    this.destination = this.#keys.find(buffer, ip + IPV6.DESTINATION);
    this.fragment = FRAGMENT.NONE;
    this.icmpv6Type = -1;
    this.ndpTarget = 0;
    this.#readChain(buffer, ip, this.end);
    this.#noFlowYet();
    if (this.l4 < 0) return FINE;
    if (this.protocol === PROTOCOL.ICMPV6) this.#readIcmpv6(buffer, this.l4, this.end - this.l4);
    else this.#readTransport(buffer, this.l4, this.end - this.l4);
    return FINE;
  }

  /** Extension headers (RFC 8200 section 4): `protocol`, `l4`, and the fragment's place. */
  #readChain(buffer: Uint8Array, ip: number, end: number): void {
    let next = buffer[ip + IPV6.NEXT_HEADER]!;
    let at = ip + IPV6.HEADER;
    this.l4 = -1;
    this.chainComplete = false;
    for (let count = 0; count <= MAX_EXTENSIONS; count++) {
      let length = 8;
      if (next === IPV6_EXTENSION.FRAGMENT) {
        if (at + IPV6_FRAGMENT.HEADER > end || this.fragment !== FRAGMENT.NONE) break;
        const field = readU16(buffer, at + IPV6_FRAGMENT.OFFSET);
        this.identification = int32(buffer, at + IPV6_FRAGMENT.IDENTIFICATION);
        this.fragmentSource = this.#keys.hash(buffer, ip + IPV6.SOURCE);
        this.fragmentProtocol = IPV6_EXTENSION.FRAGMENT;
        if ((field & 0xfff8) !== 0) {
          this.fragment = FRAGMENT.LATER;
          this.protocol = buffer[at]!;
          this.chainComplete = true;
          return;
        }
        // Without further fragments it is a whole packet with a header too many (RFC 6946).
        if ((field & IPV6_FRAGMENT.MORE) !== 0) this.fragment = FRAGMENT.FIRST;
      } else if (
        next === IPV6_EXTENSION.HOP_BY_HOP ||
        next === IPV6_EXTENSION.ROUTING ||
        next === IPV6_EXTENSION.DESTINATION_OPTIONS
      ) {
        if (at + 8 > end) break;
        length = (buffer[at + 1]! + 1) * 8;
      } else if (next === IPV6_EXTENSION.AUTHENTICATION) {
        if (at + 8 > end) break;
        length = (buffer[at + 1]! + 2) * 4;
      } else {
        this.protocol = next;
        this.chainComplete = true;
        if (next !== IPV6_EXTENSION.NONE) this.l4 = at;
        return;
      }
      next = buffer[at]!;
      at += length;
      if (at > end) break;
    }
    this.protocol = IPV6_EXTENSION.NONE;
  }

  #readIcmpv6(buffer: Uint8Array, at: number, length: number): void {
    if (length < ICMP.HEADER) return;
    const type = buffer[at]!;
    this.icmpv6Type = type;
    if (type === ICMPV6_TYPE.ECHO_REQUEST || type === ICMPV6_TYPE.ECHO_REPLY) {
      this.#echo(readU16(buffer, at + ICMP.IDENTIFIER), type === ICMPV6_TYPE.ECHO_REQUEST);
    } else if (icmpv6IsError(type)) {
      this.#readIpv6Quote(buffer, at + ICMP.HEADER, at + length);
    } else if (
      (type === ICMPV6_TYPE.NEIGHBOUR_SOLICITATION || type === ICMPV6_TYPE.NEIGHBOUR_ADVERTISEMENT) &&
      length >= NDP.OPTIONS
    ) {
      this.ndpTarget = this.#keys.find(buffer, at + NDP.TARGET);
    }
  }

  /** As #readQuote. The chain of a quoted packet may hold a fragment header of a first fragment, and no other extensions. */
  #readIpv6Quote(buffer: Uint8Array, ip: number, end: number): void {
    let at = ip + IPV6.HEADER;
    if (at + 8 > end || buffer[ip]! >>> 4 !== 6) return;
    let protocol = buffer[ip + IPV6.NEXT_HEADER]!;
    if (protocol === IPV6_EXTENSION.FRAGMENT) {
      if ((readU16(buffer, at + IPV6_FRAGMENT.OFFSET) & 0xfff8) !== 0) return;
      protocol = buffer[at]!;
      at += IPV6_FRAGMENT.HEADER;
      if (at + 8 > end) return;
    }
    if (protocol === PROTOCOL.TCP || protocol === PROTOCOL.UDP) {
      this.destinationPort = readU16(buffer, at);
      this.sourcePort = readU16(buffer, at + 2);
    } else if (protocol === PROTOCOL.ICMPV6) {
      const type = buffer[at]!;
      if (type !== ICMPV6_TYPE.ECHO_REQUEST && type !== ICMPV6_TYPE.ECHO_REPLY) return;
      const identifier = readU16(buffer, at + ICMP.IDENTIFIER);
      this.sourcePort = type === ICMPV6_TYPE.ECHO_REQUEST ? 0 : identifier;
      this.destinationPort = type === ICMPV6_TYPE.ECHO_REQUEST ? identifier : 0;
    } else return;
    this.flowProtocol = protocol;
    this.flowDestination = this.#keys.find(buffer, ip + IPV6.SOURCE);
    this.flowSource = this.#keys.find(buffer, ip + IPV6.DESTINATION);
    this.hasFlow = true;
    this.quoted = true;
  }

  /** Neighbour discovery (RFC 4861): solicitations, advertisements, redirects. */
  get isNdp(): boolean {
    return this.icmpv6Type >= NDP_FIRST && this.icmpv6Type <= NDP_LAST;
  }

  get isSolicitation(): boolean {
    return this.icmpv6Type === ICMPV6_TYPE.NEIGHBOUR_SOLICITATION;
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
    this.flowDestination = ipv4Key(buffer, ip + IPV4.SOURCE);
    this.flowSource = ipv4Key(buffer, ip + IPV4.DESTINATION);
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
