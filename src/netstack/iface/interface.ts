/**
 * One network interface: everything between a link and the transports.
 *
 * Input   receive → offload header → Ethernet → ARP | IPv4: length, checksum, fields → ours? → reassembly → ICMP | transport
 * Output  output → route → IP and Ethernet headers into the caller's headroom → neighbour known? → packet send program
 *
 * Every frame received is counted once: `accepted`, or one reason in `drops`. What was accepted or made here and given up
 * later (no hardware address, no room, reassembly timeout) is counted in `discards`. Packets from us to ourselves take
 * no link: they come back at the clock's next moment.
 */
import type { Clock, Random } from '../../common/index.ts';
import type { LinkDevice, LinkReceiver } from '../link/index.ts';
import { PacketSendProgram } from '../send/index.ts';
import type { Cidr, DropReason, IpAddress, Ipv4Address, MacAddress } from '../wire/index.ts';
import {
  addBytes,
  clearVnet,
  copyBytes,
  DropCounters,
  ETHERNET,
  ETHERTYPE,
  emitEthernet,
  emitIpv4,
  emitVnet,
  ethernetHeaderLength,
  ethernetVlan,
  finishSum,
  foldSum,
  formatIpAddress,
  IPV4,
  IPV4_BROADCAST,
  isGroupMac,
  isMulticast,
  MAC_BROADCAST,
  MAC_NONE,
  PROTOCOL,
  pseudoHeaderSum,
  readMac,
  readU16,
  VNET,
  VNET_GSO,
  vnetIsValid,
  writeMac,
  writeU16,
} from '../wire/index.ts';
import { AddressTable, InterfaceError } from './address-table.ts';
import type { ArpEntry, ArpLimits } from './arp-cache.ts';
import { ArpCache } from './arp-cache.ts';
import { ArpHandler } from './arp-handler.ts';
import { forEachFragment } from './fragmentation.ts';
import { IcmpHandler } from './icmp-handler.ts';
import { Ipv4Input } from './ipv4-input.ts';
import { PathMtuCache } from './path-mtu.ts';
import type { ReassemblyLimits } from './reassembly.ts';
import type { IpOutput, OutputResult, Transport } from './transport-interface.ts';
import { CHECKSUM_COMPLETE, OUTPUT } from './transport-interface.ts';

export const DEFAULT_TTL = 64;
/** IPv4 packets in front of transport headers. */
const FRAME_HEADERS = ETHERNET.HEADER + IPV4.MIN_HEADER;
const PACKET_HEADERS = VNET.LENGTH + FRAME_HEADERS;
const MAX_LOOPED = 256;

export interface InterfaceOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly link: LinkDevice;
  readonly mac: MacAddress;
  readonly addresses?: readonly Cidr[];
  readonly gateway?: IpAddress;
  readonly arp?: Partial<ArpLimits>;
  readonly reassembly?: Partial<ReassemblyLimits>;
}

/** Handles frames of one Ethernet type; the payload, padding included, is at buffer[at, at + length). */
export type EtherTypeHandler = (buffer: Uint8Array, at: number, length: number) => void;

export class Interface implements IpOutput, LinkReceiver {
  readonly mac: MacAddress;
  readonly addresses = new AddressTable();
  readonly arp: ArpCache;
  readonly icmp: IcmpHandler;
  /** The one path to the link: packet send program [2305]. */
  readonly send: PacketSendProgram;
  readonly pathMtus: PathMtuCache;
  readonly drops = new DropCounters();
  readonly discards = new DropCounters();
  readonly #clock: Clock;
  readonly #link: LinkDevice;
  readonly #arpHandler: ArpHandler;
  readonly #ipv4: Ipv4Input;
  readonly #transports: (Transport | undefined)[] = new Array<Transport | undefined>(256).fill(undefined);
  /** The same without the gaps. */
  #registered: Transport[] = [];
  readonly #etherTypes = new Map<number, EtherTypeHandler>();
  #received = 0;
  #identification: number;
  /** The last output's route, for trains of packets between two addresses; void when the addresses change. */
  #routeSource: IpAddress | undefined;
  #routeDestination: IpAddress | undefined;
  #routeNeighbour: ArpEntry | undefined;
  #routeVersion = -1;
  /** Ethernet header to the MAC address last sent to. */
  readonly #head = new Uint8Array(ETHERNET.HEADER);
  #headMac: MacAddress = MAC_NONE;
  #looped: Uint8Array[] = [];
  #fragmentScratch: Uint8Array | undefined;

  constructor(options: InterfaceOptions) {
    const { clock, random, link } = options;
    this.mac = options.mac;
    this.#clock = clock;
    this.#link = link;
    this.send = new PacketSendProgram(link);
    this.pathMtus = new PathMtuCache(clock, link.mtu);
    this.#identification = random.u32() & 0xffff;
    this.arp = new ArpCache(
      clock,
      {
        request: (address, mac) => this.#arpHandler.request(address, mac),
        release: (packet, mac) => this.#release(packet, mac),
        fail: (packet) => this.#unresolved(packet),
      },
      options.arp,
    );
    this.#arpHandler = new ArpHandler({
      clock,
      mac: this.mac,
      addresses: this.addresses,
      cache: this.arp,
      send: this.send,
    });
    this.icmp = new IcmpHandler({
      clock,
      random,
      addresses: this.addresses,
      pathMtus: this.pathMtus,
      output: this,
      transportOf: (protocol) => this.#transports[protocol],
      discard: (reason) => this.discards.count(reason),
    });
    this.#ipv4 = new Ipv4Input(
      {
        clock,
        addresses: this.addresses,
        icmp: this.icmp,
        transportOf: (protocol) => this.#transports[protocol],
        discard: (reason) => this.discards.count(reason),
        flush: () => this.send.flush(),
      },
      options.reassembly,
    );
    for (const cidr of options.addresses ?? []) this.addresses.add(cidr);
    this.addresses.gateway = options.gateway;
    link.attach(this);
  }

  /** Frames received; each of them is in `accepted` or in `drops`. */
  get received(): number {
    return this.#received;
  }

  get accepted(): number {
    return this.#received - this.drops.total;
  }

  registerTransport(protocol: number, transport: Transport): void {
    this.#transports[protocol] = transport;
    this.#registered = this.#transports.filter((known) => known !== undefined);
  }

  /** Frames of a type that is not IP or ARP, such as the mux's barrier; without a handler they are dropped. */
  onEtherType(type: number, handler: EtherTypeHandler): void {
    this.#etherTypes.set(type, handler);
  }

  /** The default gateway; it must lie in a network of ours to be used. */
  setGateway(gateway: IpAddress | undefined): void {
    this.addresses.gateway = gateway;
  }

  /** Silent: nothing is announced. */
  addAddress(cidr: Cidr): void {
    this.addresses.add(cidr);
  }

  /**
   * RFC 5227 section 2.1: whether somebody on the link has `address`, before it is added here. Resolves with the holder's
   * hardware address as soon as it answers, or undefined after `count` probes `intervalMs` apart. A second call joins the first.
   */
  probe(address: IpAddress, count = 3, intervalMs = 1_000): Promise<MacAddress | undefined> {
    if (typeof address !== 'number') return Promise.resolve(undefined);
    return this.#arpHandler.probe(address, count, intervalMs);
  }

  /** Ends an address in any state; what was bound to an own one cannot go on. */
  removeAddress(address: IpAddress): void {
    const state = this.addresses.remove(address);
    if (state === 'own') for (const transport of this.#registered) transport.addressRemoved(address);
  }

  /** Packets to `to` are accepted from now on and belong to what is bound to `from`. Undone by removeAddress(to). */
  prepareAlter(from: IpAddress, to: IpAddress): void {
    this.addresses.prepareAlter(from, to);
  }

  /**
   * 1503/2202: the address `from` becomes `to`, open connections included. `from` is still accepted until it is removed, but
   * neither announced nor used. In one step: no packet comes between.
   */
  alter(from: IpAddress, to: IpAddress): void {
    this.addresses.alter(from, to);
    for (const transport of this.#registered) transport.rehome(from, to);
  }

  /**
   * 1505/1603/2203: announces own addresses (RFC 5227 section 2.3), `count` times, `intervalMs` apart.
   * @throws InterfaceError ADDRESS_NOT_OWN: an address that was left must never be announced.
   */
  announce(address?: IpAddress, count = 1, intervalMs = 2_000): void {
    if (address !== undefined && this.addresses.stateOf(address) !== 'own') {
      throw new InterfaceError(
        'ADDRESS_NOT_OWN',
        `${formatIpAddress(address)} must not be announced from here`,
        {
          remedy: 'announce an address that the interface has',
          values: { address: formatIpAddress(address) },
        },
      );
    }
    const which = address === undefined ? this.addresses.own.map((cidr) => cidr.address) : [address];
    for (const one of which) this.#arpHandler.announce(one, count, intervalMs);
  }

  // ---- output ----

  output(
    buffer: Uint8Array,
    offset: number,
    length: number,
    protocol: number,
    source: IpAddress,
    destination: IpAddress,
    checksumOffset: number,
    gsoSize: number,
    dontFragment: boolean,
    ttl: number,
  ): OutputResult {
    if (typeof source !== 'number' || typeof destination !== 'number') return OUTPUT.NO_ROUTE;
    const total = IPV4.MIN_HEADER + length;
    if (total > IPV4.MAX_LENGTH) return OUTPUT.TOO_BIG;
    const neighbour = this.#routeNeighbour;
    const routed =
      neighbour?.fresh === true &&
      destination === this.#routeDestination &&
      source === this.#routeSource &&
      this.addresses.version === this.#routeVersion;
    if (!routed && this.addresses.canonicalOf(source) === undefined) return OUTPUT.NO_ROUTE;
    const toSelf = !routed && this.addresses.canonicalOf(destination) !== undefined;
    let whole = true;
    if (!toSelf) {
      if (gsoSize > 0) {
        if (!this.#link.offload.tcp4Segmentation) return OUTPUT.TOO_BIG;
      } else if (total > this.pathMtus.of(destination)) {
        if (dontFragment) return OUTPUT.TOO_BIG;
        whole = false;
      }
    }
    const packet = offset - PACKET_HEADERS;
    const ip = offset - IPV4.MIN_HEADER;
    if (checksumOffset === CHECKSUM_COMPLETE) {
      clearVnet(buffer, packet);
    } else if ((this.#link.offload.checksum || toSelf) && whole) {
      writeU16(
        buffer,
        offset + checksumOffset,
        foldSum(pseudoHeaderSum(source, destination, protocol, length)),
      );
      const headers = gsoSize > 0 ? FRAME_HEADERS + (buffer[offset + 12]! >>> 4) * 4 : 0;
      const gsoType = gsoSize > 0 ? VNET_GSO.TCPV4 : VNET_GSO.NONE;
      emitVnet(buffer, packet, gsoType, headers, gsoSize, FRAME_HEADERS, checksumOffset);
    } else {
      this.#complete(buffer, offset, length, protocol, source, destination, checksumOffset);
      clearVnet(buffer, packet);
    }
    this.#identification = (this.#identification + 1) & 0xffff;
    emitIpv4(
      buffer,
      ip,
      total,
      this.#identification,
      dontFragment ? IPV4.DONT_FRAGMENT : 0,
      ttl === 0 ? DEFAULT_TTL : ttl,
      protocol,
      source,
      destination,
    );
    if (toSelf) return this.#loop(buffer, ip, total);
    if (routed && whole) return this.#transmitTo(neighbour.mac, buffer, packet, PACKET_HEADERS + length);
    if (whole) return this.#transmit(buffer, packet, PACKET_HEADERS + length, source, destination);
    return this.#transmitFragments(buffer, ip, source, destination);
  }

  flush(): void {
    this.send.flush();
  }

  sourceFor(destination: IpAddress): IpAddress | undefined {
    return this.addresses.sourceFor(destination);
  }

  isLocal(address: IpAddress): boolean {
    return this.addresses.isLocal(address);
  }

  canonical(address: IpAddress): IpAddress {
    return this.addresses.canonicalOf(address) ?? address;
  }

  pathMtu(destination: IpAddress): number {
    return this.pathMtus.of(destination);
  }

  maxGsoLength(destination: IpAddress): number {
    const { tcp4Segmentation, checksum, maxPacket } = this.#link.offload;
    if (typeof destination !== 'number' || !tcp4Segmentation || !checksum) return 0;
    return Math.min(IPV4.MAX_LENGTH - IPV4.MIN_HEADER, maxPacket - PACKET_HEADERS);
  }

  #complete(
    buffer: Uint8Array,
    offset: number,
    length: number,
    protocol: number,
    source: Ipv4Address,
    destination: Ipv4Address,
    checksumOffset: number,
  ): void {
    const field = offset + checksumOffset;
    writeU16(buffer, field, 0);
    const sum = finishSum(
      addBytes(pseudoHeaderSum(source, destination, protocol, length), buffer, offset, length),
    );
    writeU16(buffer, field, sum === 0 && protocol === PROTOCOL.UDP ? 0xffff : sum);
  }

  /** A complete packet but for the Ethernet header. */
  #transmit(
    buffer: Uint8Array,
    packet: number,
    length: number,
    source: Ipv4Address,
    destination: Ipv4Address,
  ): OutputResult {
    const hop = this.addresses.nextHop(destination);
    if (typeof hop !== 'number') return OUTPUT.NO_ROUTE;
    if (hop === IPV4_BROADCAST || this.addresses.isBroadcast(hop) || isMulticast(hop)) {
      return this.#transmitTo(groupMac(hop), buffer, packet, length);
    }
    const neighbour = this.arp.lookup(hop);
    if (neighbour === undefined) {
      return this.arp.enqueue(hop, buffer, packet, length) ? OUTPUT.PENDING : OUTPUT.PENDING_FULL;
    }
    this.#routeSource = source;
    this.#routeDestination = destination;
    this.#routeNeighbour = neighbour;
    this.#routeVersion = this.addresses.version;
    return this.#transmitTo(neighbour.mac, buffer, packet, length);
  }

  #transmitTo(mac: MacAddress, buffer: Uint8Array, packet: number, length: number): OutputResult {
    const head = this.#head;
    if (mac !== this.#headMac) {
      emitEthernet(head, 0, mac, this.mac, ETHERTYPE.IPV4);
      this.#headMac = mac;
    }
    const frame = packet + VNET.LENGTH;
    for (let i = 0; i < ETHERNET.HEADER; i++) buffer[frame + i] = head[i]!;
    return this.send.send(buffer, packet, length) ? OUTPUT.SENT : OUTPUT.LINK_FULL;
  }

  #transmitFragments(
    buffer: Uint8Array,
    ip: number,
    source: Ipv4Address,
    destination: Ipv4Address,
  ): OutputResult {
    this.#fragmentScratch ??= new Uint8Array(PACKET_HEADERS + this.#link.mtu);
    const scratch = this.#fragmentScratch;
    let result: OutputResult = OUTPUT.SENT;
    forEachFragment(buffer, ip, this.pathMtus.of(destination), scratch, PACKET_HEADERS, (length) => {
      clearVnet(scratch, 0);
      const one = this.#transmit(scratch, 0, PACKET_HEADERS + length, source, destination);
      if (one === OUTPUT.SENT || one === OUTPUT.PENDING) {
        result = one;
        return true;
      }
      result = one;
      return false;
    });
    return result;
  }

  /** A packet that waited: its neighbour has answered. */
  #release(packet: Uint8Array, mac: MacAddress): void {
    writeMac(packet, VNET.LENGTH + ETHERNET.DESTINATION, mac);
    writeMac(packet, VNET.LENGTH + ETHERNET.SOURCE, this.mac);
    writeU16(packet, VNET.LENGTH + ETHERNET.TYPE, ETHERTYPE.IPV4);
    if (!this.send.send(packet, 0, packet.length)) this.discards.count('send-queue-full');
  }

  /** A packet that waited in vain: its sender learns what a router would have told it. */
  #unresolved(packet: Uint8Array): void {
    this.discards.count('send-unresolved');
    this.icmp.deliverError('host-unreachable', packet, VNET.LENGTH + ETHERNET.HEADER, packet.length, 0);
  }

  #loop(buffer: Uint8Array, ip: number, total: number): OutputResult {
    if (this.#looped.length >= MAX_LOOPED) {
      this.discards.count('send-queue-full');
      return OUTPUT.SENT;
    }
    this.#looped.push(copyBytes(buffer, ip, total));
    if (this.#looped.length === 1) this.#clock.after(0, () => this.#inputLooped());
    return OUTPUT.SENT;
  }

  #inputLooped(): void {
    const batch = this.#looped;
    this.#looped = [];
    for (const packet of batch) {
      const reason = this.#ipv4.deliver(packet, 0, IPV4.MIN_HEADER, packet.length, false, true, 0);
      if (reason !== undefined) this.discards.count(reason);
    }
    this.endOfBatch();
  }

  // ---- input ----

  receive(buffer: Uint8Array, offset: number, length: number): void {
    this.#received++;
    const reason = this.#input(buffer, offset, length);
    if (reason !== undefined) this.drops.count(reason);
  }

  endOfBatch(): void {
    for (const transport of this.#registered) transport.endOfBatch();
    this.send.flush();
  }

  writable(): void {
    for (const transport of this.#registered) transport.writable();
  }

  #input(buffer: Uint8Array, offset: number, length: number): DropReason | undefined {
    if (length < VNET.LENGTH) return 'link-too-short';
    const frame = offset + VNET.LENGTH;
    const frameLength = length - VNET.LENGTH;
    const header = ethernetHeaderLength(buffer, frame, frameLength);
    if (header === 0) return 'ethernet-too-short';
    if (!vnetIsValid(buffer, offset, frameLength)) return 'link-bad-offload-header';
    const to = readMac(buffer, frame + ETHERNET.DESTINATION);
    const toGroup = to !== this.mac;
    if (toGroup && to !== MAC_BROADCAST) return 'ethernet-not-for-us';
    if (isGroupMac(readMac(buffer, frame + ETHERNET.SOURCE))) return 'ethernet-bad-source';
    if (header > ETHERNET.HEADER && ethernetVlan(buffer, frame) !== 0) return 'ethernet-vlan';
    const at = frame + header;
    const end = offset + length;
    switch (readU16(buffer, at - 2)) {
      case ETHERTYPE.IPV4:
        return this.#ipv4.input(buffer, offset, at, end, toGroup);
      case ETHERTYPE.ARP:
        return this.#arpHandler.input(buffer, at, end - at);
      case ETHERTYPE.IPV6:
        return 'ipv6-unsupported';
      default:
        return this.#inputOther(buffer, at, end);
    }
  }

  #inputOther(buffer: Uint8Array, at: number, end: number): DropReason | undefined {
    const handler = this.#etherTypes.get(readU16(buffer, at - 2));
    if (handler === undefined) return 'ethernet-unknown-type';
    handler(buffer, at, end - at);
    return undefined;
  }
}

/** Broadcast, or the mapping of RFC 1112 section 6.4. */
function groupMac(address: Ipv4Address): MacAddress {
  if (!isMulticast(address)) return MAC_BROADCAST;
  return (0x0100_5e00_0000 + (address & 0x7fffff)) as MacAddress;
}
