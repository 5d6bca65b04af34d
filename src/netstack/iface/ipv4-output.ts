/**
 * IPv4 output: route → IP and Ethernet headers into the caller's headroom → checksum, or left to the link → fragments where
 * allowed → neighbour known? → packet send program.
 */
import type { LinkDevice } from '../link/index.ts';
import type { PacketSendProgram } from '../send/index.ts';
import type { DropReason, Ipv4Address, MacAddress } from '../wire/index.ts';
import {
  clearVnet,
  ETHERNET,
  ETHERTYPE,
  emitEthernet,
  emitIpv4,
  emitVnet,
  foldSum,
  IPV4,
  IPV4_BROADCAST,
  isMulticast,
  MAC_BROADCAST,
  MAC_NONE,
  PROTOCOL,
  pseudoHeaderSum,
  VNET,
  VNET_GSO,
  writeMac,
  writeU16,
} from '../wire/index.ts';
import type { AddressTable } from './address-table.ts';
import type { ArpCache, ArpEntry } from './arp-cache.ts';
import { forEachFragment } from './fragmentation.ts';
import type { PathMtuCache } from './path-mtu.ts';
import { completeChecksum } from './transport-checksum.ts';
import type { OutputResult } from './transport-interface.ts';
import { CHECKSUM_COMPLETE, DEFAULT_HOPS, OUTPUT } from './transport-interface.ts';

/** IPv4 packets in front of transport headers. */
const FRAME_HEADERS = ETHERNET.HEADER + IPV4.MIN_HEADER;
const PACKET_HEADERS = VNET.LENGTH + FRAME_HEADERS;

export interface Ipv4OutputContext {
  readonly mac: MacAddress;
  readonly link: LinkDevice;
  readonly send: PacketSendProgram;
  readonly addresses: AddressTable;
  readonly arp: ArpCache;
  readonly pathMtus: PathMtuCache;
  /** The first identification. */
  readonly identification: number;
  /** Whether another interface of this host has `address`. */
  isOfHost(address: Ipv4Address): boolean;
  /** A packet to ourselves. */
  loop(buffer: Uint8Array, ip: number, length: number): OutputResult;
  discard(reason: DropReason): void;
}

export class Ipv4Output {
  readonly #context: Ipv4OutputContext;
  readonly #addresses: AddressTable;
  readonly #link: LinkDevice;
  #identification: number;
  /** The last output's route, for trains of packets between two addresses; void when the addresses change. */
  #routeSource: Ipv4Address | undefined;
  #routeDestination: Ipv4Address | undefined;
  #routeNeighbour: ArpEntry | undefined;
  #routeVersion = -1;
  /** Ethernet header to the MAC address last sent to. */
  readonly #head = new Uint8Array(ETHERNET.HEADER);
  #headMac: MacAddress = MAC_NONE;
  #fragmentScratch: Uint8Array | undefined;

  constructor(context: Ipv4OutputContext) {
    this.#context = context;
    this.#addresses = context.addresses;
    this.#link = context.link;
    this.#identification = context.identification;
  }

  /** As `IpOutput.output`. */
  output(
    buffer: Uint8Array,
    offset: number,
    length: number,
    protocol: number,
    source: Ipv4Address,
    destination: Ipv4Address,
    checksumOffset: number,
    gsoSize: number,
    dontFragment: boolean,
    ttl: number,
  ): OutputResult {
    const total = IPV4.MIN_HEADER + length;
    if (total > IPV4.MAX_LENGTH) return OUTPUT.TOO_BIG;
    const addresses = this.#addresses;
    const neighbour = this.#routeNeighbour;
    const routed =
      neighbour?.fresh === true &&
      destination === this.#routeDestination &&
      source === this.#routeSource &&
      addresses.version === this.#routeVersion;
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
        if (!this.#link.offload.tcp4Segmentation) return OUTPUT.TOO_BIG;
      } else if (total > this.#context.pathMtus.of(destination)) {
        if (dontFragment) return OUTPUT.TOO_BIG;
        whole = false;
      }
    }
    const { send } = this.#context;
    const packet = offset - PACKET_HEADERS;
    const ip = offset - IPV4.MIN_HEADER;
    const atOnce = routed && whole && checksumOffset !== CHECKSUM_COMPLETE;
    const changes = atOnce && (protocol === PROTOCOL.TCP || protocol === PROTOCOL.UDP);
    const from = changes ? send.sourceOf(source) : source;
    if (checksumOffset === CHECKSUM_COMPLETE) {
      clearVnet(buffer, packet);
    } else if ((this.#link.offload.checksum || toSelf) && whole) {
      writeU16(
        buffer,
        offset + checksumOffset,
        foldSum(pseudoHeaderSum(from, destination, protocol, length)),
      );
      const headers = gsoSize > 0 ? FRAME_HEADERS + (buffer[offset + 12]! >>> 4) * 4 : 0;
      const gsoType = gsoSize > 0 ? VNET_GSO.TCPV4 : VNET_GSO.NONE;
      emitVnet(buffer, packet, gsoType, headers, gsoSize, FRAME_HEADERS, checksumOffset);
    } else {
      const pseudo = pseudoHeaderSum(from, destination, protocol, length);
      completeChecksum(buffer, offset, length, protocol, pseudo, checksumOffset);
      clearVnet(buffer, packet);
    }
    this.#identification = (this.#identification + 1) & 0xffff;
    emitIpv4(
      buffer,
      ip,
      total,
      this.#identification,
      dontFragment ? IPV4.DONT_FRAGMENT : 0,
      ttl === 0 ? DEFAULT_HOPS : ttl,
      protocol,
      from,
      destination,
    );
    if (changes) {
      this.#address(neighbour!.mac, buffer, packet);
      return send.transmit(buffer, packet, PACKET_HEADERS + length) ? OUTPUT.SENT : OUTPUT.LINK_FULL;
    }
    if (toSelf) return this.#context.loop(buffer, ip, total);
    if (routed && whole) return this.#transmitTo(neighbour.mac, buffer, packet, PACKET_HEADERS + length);
    if (whole) return this.#transmit(buffer, packet, PACKET_HEADERS + length, source, destination);
    return this.#transmitFragments(buffer, ip, source, destination);
  }

  maxGsoLength(): number {
    const { tcp4Segmentation, checksum, maxPacket } = this.#link.offload;
    if (!tcp4Segmentation || !checksum) return 0;
    return Math.min(IPV4.MAX_LENGTH - IPV4.MIN_HEADER, maxPacket - PACKET_HEADERS);
  }

  /** A packet that waited: its neighbour has answered. */
  release(packet: Uint8Array, mac: MacAddress): void {
    const { send, mac: own } = this.#context;
    writeMac(packet, VNET.LENGTH + ETHERNET.DESTINATION, mac);
    writeMac(packet, VNET.LENGTH + ETHERNET.SOURCE, own);
    writeU16(packet, VNET.LENGTH + ETHERNET.TYPE, ETHERTYPE.IPV4);
    if (!send.send(packet, 0, packet.length)) this.#context.discard('send-queue-full');
  }

  /** A complete packet but for the Ethernet header. */
  #transmit(
    buffer: Uint8Array,
    packet: number,
    length: number,
    source: Ipv4Address,
    destination: Ipv4Address,
  ): OutputResult {
    const { arp } = this.#context;
    const addresses = this.#addresses;
    const hop = addresses.nextHop(destination);
    if (typeof hop !== 'number') return OUTPUT.NO_ROUTE;
    if (hop === IPV4_BROADCAST || addresses.isBroadcast(hop) || isMulticast(hop)) {
      return this.#transmitTo(groupMac(hop), buffer, packet, length);
    }
    const neighbour = arp.lookup(hop);
    if (neighbour === undefined) {
      return arp.enqueue(hop, buffer, packet, length) ? OUTPUT.PENDING : OUTPUT.PENDING_FULL;
    }
    this.#routeSource = source;
    this.#routeDestination = destination;
    this.#routeNeighbour = neighbour;
    this.#routeVersion = addresses.version;
    return this.#transmitTo(neighbour.mac, buffer, packet, length);
  }

  #transmitTo(mac: MacAddress, buffer: Uint8Array, packet: number, length: number): OutputResult {
    this.#address(mac, buffer, packet);
    return this.#context.send.send(buffer, packet, length) ? OUTPUT.SENT : OUTPUT.LINK_FULL;
  }

  /** Writes the Ethernet header. */
  #address(mac: MacAddress, buffer: Uint8Array, packet: number): void {
    const head = this.#head;
    if (mac !== this.#headMac) {
      emitEthernet(head, 0, mac, this.#context.mac, ETHERTYPE.IPV4);
      this.#headMac = mac;
    }
    const frame = packet + VNET.LENGTH;
    for (let i = 0; i < ETHERNET.HEADER; i++) buffer[frame + i] = head[i]!;
  }

  #transmitFragments(
    buffer: Uint8Array,
    ip: number,
    source: Ipv4Address,
    destination: Ipv4Address,
  ): OutputResult {
    this.#fragmentScratch ??= new Uint8Array(PACKET_HEADERS + this.#link.mtu);
    const scratch = this.#fragmentScratch;
    const mtu = this.#context.pathMtus.of(destination);
    let result: OutputResult = OUTPUT.SENT;
    forEachFragment(buffer, ip, mtu, scratch, PACKET_HEADERS, (length) => {
      clearVnet(scratch, 0);
      result = this.#transmit(scratch, 0, PACKET_HEADERS + length, source, destination);
      return result === OUTPUT.SENT || result === OUTPUT.PENDING;
    });
    return result;
  }
}

/** Broadcast, or the mapping of RFC 1112 section 6.4. */
function groupMac(address: Ipv4Address): MacAddress {
  if (!isMulticast(address)) return MAC_BROADCAST;
  return (0x0100_5e00_0000 + (address & 0x7fffff)) as MacAddress;
}
