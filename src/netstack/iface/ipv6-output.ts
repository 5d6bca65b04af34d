/**
 * IPv6 output: route → IP and Ethernet headers into the caller's headroom → checksum, or left to the link → a fragment header
 * only when the datagram is larger than the path MTU and its protocol leaves that to IP → neighbour known? → packet send
 * program. Routers never fragment IPv6; the flow label and the traffic class are zero.
 */
import type { Random } from '../../common/index.ts';
import type { LinkDevice } from '../link/index.ts';
import type { PacketSendProgram } from '../send/index.ts';
import type { DropReason, Ipv6Address, MacAddress } from '../wire/index.ts';
import {
  clearVnet,
  ETHERNET,
  ETHERTYPE,
  emitEthernet,
  emitIpv6,
  emitVnet,
  foldSum,
  IPV6,
  IPV6_EXTENSION,
  IPV6_FRAGMENT,
  ipv6MulticastMac,
  isMulticast,
  PROTOCOL,
  pseudoHeaderSum,
  VNET,
  VNET_GSO,
  writeMac,
  writeU16,
  writeU32,
} from '../wire/index.ts';
import type { AddressTable } from './address-table.ts';
import type { NeighbourCache, NeighbourEntry } from './neighbour-cache.ts';
import type { PathMtuCache } from './path-mtu.ts';
import { completeChecksum } from './transport-checksum.ts';
import type { OutputResult } from './transport-interface.ts';
import { CHECKSUM_COMPLETE, DEFAULT_HOPS, OUTPUT } from './transport-interface.ts';

const FRAME_HEADERS = ETHERNET.HEADER + IPV6.HEADER;
const PACKET_HEADERS = VNET.LENGTH + FRAME_HEADERS;

export interface Ipv6OutputContext {
  readonly mac: MacAddress;
  readonly random: Random;
  readonly link: LinkDevice;
  readonly send: PacketSendProgram;
  readonly addresses: AddressTable;
  readonly neighbours: NeighbourCache;
  readonly pathMtus: PathMtuCache;
  /** Whether another interface of this host has `address`. */
  isOfHost(address: Ipv6Address): boolean;
  /** A packet to ourselves. */
  loop(buffer: Uint8Array, ip: number, length: number): OutputResult;
  discard(reason: DropReason): void;
}

export class Ipv6Output {
  readonly #context: Ipv6OutputContext;
  readonly #addresses: AddressTable;
  readonly #link: LinkDevice;
  /** Source and destination of the last output. */
  #source: Ipv6Address | undefined;
  #destination: Ipv6Address | undefined;
  /** The source it left with, and what follows from that and the destination alone. */
  #from: Ipv6Address | undefined;
  #addressSum = 0;
  /** Ethernet and IPv6 header between them; the Ethernet destination is `#headMac`. */
  readonly #head = new Uint8Array(FRAME_HEADERS);
  #headMac = -1;
  /** The neighbour they led to; void when the addresses change. */
  #neighbour: NeighbourEntry | undefined;
  #version = -1;
  #fragmentScratch: Uint8Array | undefined;

  constructor(context: Ipv6OutputContext) {
    this.#context = context;
    this.#addresses = context.addresses;
    this.#link = context.link;
    emitEthernet(this.#head, 0, context.mac, context.mac, ETHERTYPE.IPV6);
  }

  /** As `IpOutput.output`. */
  output(
    buffer: Uint8Array,
    offset: number,
    length: number,
    protocol: number,
    source: Ipv6Address,
    destination: Ipv6Address,
    checksumOffset: number,
    gsoSize: number,
    dontFragment: boolean,
    hopLimit: number,
  ): OutputResult {
    if (length > IPV6.MAX_PAYLOAD) return OUTPUT.TOO_BIG;
    const addresses = this.#addresses;
    if (source !== this.#source || destination !== this.#destination) this.#between(source, destination);
    const neighbour = this.#neighbour;
    const routed = neighbour?.fresh === true && addresses.version === this.#version;
    const toSelf = !routed && addresses.canonicalOf(destination) !== undefined;
    if (
      !routed &&
      addresses.canonicalOf(source) === undefined &&
      !(toSelf && this.#context.isOfHost(source))
    ) {
      return OUTPUT.NO_ROUTE;
    }
    let whole = true;
    if (!toSelf) {
      if (gsoSize > 0) {
        if (!this.#link.offload.tcp6Segmentation) return OUTPUT.TOO_BIG;
      } else if (IPV6.HEADER + length > this.#context.pathMtus.of(destination)) {
        if (dontFragment) return OUTPUT.TOO_BIG;
        whole = false;
      }
    }
    const { send } = this.#context;
    const packet = offset - PACKET_HEADERS;
    const ip = offset - IPV6.HEADER;
    const atOnce = routed && whole && checksumOffset !== CHECKSUM_COMPLETE;
    const changes = atOnce && (protocol === PROTOCOL.TCP || protocol === PROTOCOL.UDP);
    const from = changes ? send.sourceOf(source) : source;
    if (from !== this.#from) this.#leavesFrom(from, destination);
    if (checksumOffset === CHECKSUM_COMPLETE) {
      clearVnet(buffer, packet);
    } else if ((this.#link.offload.checksum || toSelf) && whole) {
      writeU16(buffer, offset + checksumOffset, foldSum(this.#addressSum + protocol + length));
      const headers = gsoSize > 0 ? FRAME_HEADERS + (buffer[offset + 12]! >>> 4) * 4 : 0;
      const gsoType = gsoSize > 0 ? VNET_GSO.TCPV6 : VNET_GSO.NONE;
      emitVnet(buffer, packet, gsoType, headers, gsoSize, FRAME_HEADERS, checksumOffset);
    } else {
      const pseudo = this.#addressSum + protocol + length;
      completeChecksum(buffer, offset, length, protocol, pseudo, checksumOffset);
      clearVnet(buffer, packet);
    }
    const frame = packet + VNET.LENGTH;
    const head = this.#head;
    for (let i = 0; i < FRAME_HEADERS; i++) buffer[frame + i] = head[i]!;
    writeU16(buffer, ip + IPV6.PAYLOAD_LENGTH, length);
    buffer[ip + IPV6.NEXT_HEADER] = protocol;
    buffer[ip + IPV6.HOP_LIMIT] = hopLimit === 0 ? DEFAULT_HOPS : hopLimit;
    if (changes) {
      this.#address(neighbour!.mac, buffer, packet);
      return send.transmit(buffer, packet, PACKET_HEADERS + length) ? OUTPUT.SENT : OUTPUT.LINK_FULL;
    }
    if (toSelf) return this.#context.loop(buffer, ip, IPV6.HEADER + length);
    if (!whole) return this.#transmitFragments(buffer, ip, destination);
    if (routed) return this.#transmitTo(neighbour.mac, buffer, packet, PACKET_HEADERS + length);
    return this.#transmit(buffer, packet, PACKET_HEADERS + length, destination);
  }

  maxGsoLength(): number {
    const { tcp6Segmentation, checksum, maxPacket } = this.#link.offload;
    if (!tcp6Segmentation || !checksum) return 0;
    return Math.min(IPV6.MAX_PAYLOAD, maxPacket - PACKET_HEADERS);
  }

  /** A packet that waited: its neighbour has answered. */
  release(packet: Uint8Array, mac: MacAddress): void {
    writeMac(packet, VNET.LENGTH + ETHERNET.DESTINATION, mac);
    if (!this.#context.send.send(packet, 0, packet.length)) this.#context.discard('send-queue-full');
  }

  #between(source: Ipv6Address, destination: Ipv6Address): void {
    this.#source = source;
    this.#destination = destination;
    this.#neighbour = undefined;
    this.#leavesFrom(source, destination);
  }

  #leavesFrom(from: Ipv6Address, destination: Ipv6Address): void {
    this.#from = from;
    this.#addressSum = pseudoHeaderSum(from, destination, 0, 0);
    emitIpv6(this.#head, ETHERNET.HEADER, 0, 0, 0, from, destination);
  }

  /** A packet that lacks nothing but its Ethernet destination. */
  #transmit(buffer: Uint8Array, packet: number, length: number, destination: Ipv6Address): OutputResult {
    const { neighbours } = this.#context;
    const hop = this.#addresses.nextHop(destination);
    if (typeof hop !== 'string') return OUTPUT.NO_ROUTE;
    if (isMulticast(hop)) return this.#transmitTo(ipv6MulticastMac(hop), buffer, packet, length);
    const neighbour = neighbours.lookup(hop);
    if (neighbour === undefined) {
      return neighbours.enqueue(hop, buffer, packet, length) ? OUTPUT.PENDING : OUTPUT.PENDING_FULL;
    }
    this.#neighbour = neighbour;
    this.#version = this.#addresses.version;
    return this.#transmitTo(neighbour.mac, buffer, packet, length);
  }

  #transmitTo(mac: MacAddress, buffer: Uint8Array, packet: number, length: number): OutputResult {
    this.#address(mac, buffer, packet);
    return this.#context.send.send(buffer, packet, length) ? OUTPUT.SENT : OUTPUT.LINK_FULL;
  }

  /** Writes the Ethernet destination. */
  #address(mac: MacAddress, buffer: Uint8Array, packet: number): void {
    if (mac !== this.#headMac) {
      writeMac(this.#head, ETHERNET.DESTINATION, mac);
      this.#headMac = mac;
    }
    const frame = packet + VNET.LENGTH;
    for (let i = 0; i < 6; i++) buffer[frame + i] = this.#head[i]!;
  }

  /** RFC 8200 section 4.5. Our own packets carry no extension headers, so the fragment header stands behind the IPv6 header. */
  #transmitFragments(buffer: Uint8Array, ip: number, destination: Ipv6Address): OutputResult {
    this.#fragmentScratch ??= new Uint8Array(PACKET_HEADERS + this.#link.mtu);
    const scratch = this.#fragmentScratch;
    const payloadAt = PACKET_HEADERS + IPV6_FRAGMENT.HEADER;
    const mtu = this.#context.pathMtus.of(destination);
    const perFragment = (mtu - IPV6.HEADER - IPV6_FRAGMENT.HEADER) & ~7;
    const payload = ip + IPV6.HEADER;
    const total = (buffer[ip + IPV6.PAYLOAD_LENGTH]! << 8) | buffer[ip + IPV6.PAYLOAD_LENGTH + 1]!;
    // RFC 7739: nobody shall foresee it.
    const identification = this.#context.random.u32();
    let result: OutputResult = OUTPUT.SENT;
    for (let start = 0; start < total; start += perFragment) {
      const length = Math.min(perFragment, total - start);
      const fragment = PACKET_HEADERS;
      clearVnet(scratch, 0);
      scratch.set(buffer.subarray(ip - ETHERNET.HEADER, payload), VNET.LENGTH);
      scratch[fragment - IPV6.HEADER + IPV6.NEXT_HEADER] = IPV6_EXTENSION.FRAGMENT;
      writeU16(scratch, fragment - IPV6.HEADER + IPV6.PAYLOAD_LENGTH, IPV6_FRAGMENT.HEADER + length);
      scratch[fragment] = buffer[ip + IPV6.NEXT_HEADER]!;
      scratch[fragment + 1] = 0;
      const more = start + length < total ? IPV6_FRAGMENT.MORE : 0;
      writeU16(scratch, fragment + IPV6_FRAGMENT.OFFSET, start | more);
      writeU32(scratch, fragment + IPV6_FRAGMENT.IDENTIFICATION, identification);
      scratch.set(buffer.subarray(payload + start, payload + start + length), payloadAt);
      result = this.#transmit(scratch, 0, payloadAt + length, destination);
      if (result !== OUTPUT.SENT && result !== OUTPUT.PENDING) break;
    }
    return result;
  }
}
