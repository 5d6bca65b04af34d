/**
 * One network interface: everything between a link and the transports, for IPv4 and IPv6.
 *
 * Input   receive → offload header → Ethernet → ARP | ipv4-input.ts | ipv6-input.ts → ICMP, neighbour discovery | transport
 * Output  output → ipv4-output.ts | ipv6-output.ts → packet send program → link
 *
 * Every frame received is counted once: `accepted`, or one reason in `drops`. What was accepted or made here and given up
 * later (no hardware address, no room, reassembly timeout) is counted in `discards`. Packets from us to ourselves take
 * no link: they come back at the clock's next moment.
 */
import type { Clock, Random } from '../../common/index.ts';
import type { LinkDevice, LinkReceiver } from '../link/index.ts';
import { PacketSendProgram } from '../send/index.ts';
import type { Cidr, DropReason, IpAddress, Ipv6Address, MacAddress } from '../wire/index.ts';
import {
  DropCounters,
  ETHERNET,
  ETHERTYPE,
  ethernetHeaderLength,
  ethernetVlan,
  formatIpAddress,
  IPV4,
  IPV6,
  Ipv6Reader,
  isGroupMac,
  linkLocalAddress,
  MAC_BROADCAST,
  readMac,
  readU16,
  VNET,
  vnetIsValid,
} from '../wire/index.ts';
import { AddressTable, InterfaceError } from './address-table.ts';
import type { ArpLimits } from './arp-cache.ts';
import { ArpCache } from './arp-cache.ts';
import { ArpHandler } from './arp-handler.ts';
import { EchoRequests } from './echo-requests.ts';
import { IcmpHandler } from './icmp-handler.ts';
import { Icmpv6Handler } from './icmpv6-handler.ts';
import { Ipv4Input } from './ipv4-input.ts';
import { Ipv4Output } from './ipv4-output.ts';
import { Ipv6Input } from './ipv6-input.ts';
import { Ipv6Output } from './ipv6-output.ts';
import { LocalPackets } from './local-packets.ts';
import { NdpHandler } from './ndp-handler.ts';
import type { NeighbourLimits } from './neighbour-cache.ts';
import { NeighbourCache } from './neighbour-cache.ts';
import { PathMtuCache } from './path-mtu.ts';
import type { ReassemblyLimits } from './reassembly.ts';
import type { IpOutput, OutputResult, Transport } from './transport-interface.ts';
import { OUTPUT } from './transport-interface.ts';

const LINK_LOCAL_PREFIX = 64;
/** RFC 4862: DupAddrDetectTransmits, RetransTimer. */
const DETECTION_COUNT = 1;
const DETECTION_MS = 1_000;

export interface InterfaceOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly link: LinkDevice;
  readonly mac: MacAddress;
  readonly addresses?: readonly Cidr[];
  /** The default gateway, or one of each family. */
  readonly gateway?: IpAddress | readonly IpAddress[];
  readonly arp?: Partial<ArpLimits>;
  readonly neighbours?: Partial<NeighbourLimits>;
  readonly reassembly?: Partial<ReassemblyLimits>;
  /**
   * RFC 4862 section 5.4: an IPv6 address is ours a second after it was added, if nobody else has it. Default true. Off where
   * the address is known to be free, or is being taken over and must serve at once.
   */
  readonly detectDuplicates?: boolean;
  /** Somebody else has an IPv6 address that was added here; it stays unused. */
  readonly onDuplicate?: (address: Ipv6Address, holder: MacAddress) => void;
}

/** Handles frames of one Ethernet type; the payload, padding included, is at buffer[at, at + length). */
export type EtherTypeHandler = (buffer: Uint8Array, at: number, length: number) => void;

export class Interface implements IpOutput, LinkReceiver {
  readonly mac: MacAddress;
  readonly addresses = new AddressTable();
  readonly arp: ArpCache;
  /** IPv6 neighbours. */
  readonly neighbours: NeighbourCache;
  readonly icmp: IcmpHandler;
  readonly icmpv6: Icmpv6Handler;
  /** The one path to the link: packet send program [2305]. */
  readonly send: PacketSendProgram;
  readonly pathMtus: PathMtuCache;
  readonly drops = new DropCounters();
  readonly discards = new DropCounters();
  readonly #link: LinkDevice;
  readonly #arpHandler: ArpHandler;
  readonly #ndp: NdpHandler;
  readonly #ipv4Input: Ipv4Input;
  readonly #ipv4Output: Ipv4Output;
  readonly #ipv6Input: Ipv6Input;
  readonly #ipv6Output: Ipv6Output;
  readonly #local: LocalPackets;
  readonly #detectDuplicates: boolean;
  readonly #onDuplicate: InterfaceOptions['onDuplicate'];
  /** What to announce as soon as the address is known to be ours. */
  readonly #announceLater = new Map<IpAddress, { count: number; intervalMs: number }>();
  readonly #transports: (Transport | undefined)[] = new Array<Transport | undefined>(256).fill(undefined);
  /** The same without the gaps. */
  #registered: Transport[] = [];
  readonly #etherTypes = new Map<number, EtherTypeHandler>();
  /** Other interfaces of the same host. */
  #siblings: readonly Interface[] = [];
  #received = 0;

  constructor(options: InterfaceOptions) {
    const { clock, random, link } = options;
    const { mac } = options;
    const { addresses } = this;
    this.mac = mac;
    this.#link = link;
    this.#detectDuplicates = options.detectDuplicates ?? true;
    this.#onDuplicate = options.onDuplicate;
    this.send = new PacketSendProgram(link);
    this.pathMtus = new PathMtuCache(clock, link.mtu);
    this.#local = new LocalPackets(clock, (packets) => this.#inputLocal(packets));
    const { pathMtus, send } = this;
    const reader = new Ipv6Reader();
    const discard = (reason: DropReason) => this.discards.count(reason);
    const transportOf = (protocol: number) => this.#transports[protocol];
    const loop = (buffer: Uint8Array, ip: number, length: number): OutputResult => {
      if (!this.#local.add(buffer, ip, length)) discard('send-queue-full');
      return OUTPUT.SENT;
    };

    const isOfHost = (address: IpAddress) => this.#siblings.some((other) => other.isLocal(address));

    const identification = random.u32() & 0xffff;
    const echoes = new EchoRequests(clock, random);
    this.arp = new ArpCache(
      clock,
      {
        request: (address, to) => this.#arpHandler.request(address, to),
        release: (packet, to) => this.#ipv4Output.release(packet, to),
        fail: (packet) => this.#unresolved(packet, this.icmp),
      },
      options.arp,
    );
    const { arp } = this;
    this.#arpHandler = new ArpHandler({ clock, mac, addresses, cache: arp, send });
    this.#ipv4Output = new Ipv4Output({
      mac,
      link,
      send,
      addresses,
      arp,
      pathMtus,
      identification,
      isOfHost,
      loop,
      discard,
    });
    this.icmp = new IcmpHandler({ clock, echoes, addresses, pathMtus, output: this, transportOf, discard });
    const flush = () => send.flush();
    this.#ipv4Input = new Ipv4Input(
      { clock, addresses, icmp: this.icmp, transportOf, discard, flush },
      options.reassembly,
    );

    this.neighbours = new NeighbourCache(
      clock,
      random,
      {
        solicit: (address, to) => this.#ndp.solicit(address, to),
        release: (packet, to) => this.#ipv6Output.release(packet, to),
        fail: (packet) => this.#unresolved(packet, this.icmpv6),
      },
      options.neighbours,
    );
    const { neighbours } = this;
    this.#ndp = new NdpHandler({ clock, mac, addresses, neighbours, reader, send });
    this.#ipv6Output = new Ipv6Output({
      mac,
      random,
      link,
      send,
      addresses,
      neighbours,
      pathMtus,
      isOfHost,
      loop,
      discard,
    });
    this.icmpv6 = new Icmpv6Handler({
      clock,
      echoes,
      addresses,
      reader,
      ndp: this.#ndp,
      pathMtus,
      output: this,
      transportOf,
      discard,
    });
    this.#ipv6Input = new Ipv6Input(
      { clock, addresses, reader, icmp: this.icmpv6, transportOf, discard, flush },
      options.reassembly,
    );

    for (const cidr of options.addresses ?? []) this.addAddress(cidr);
    const gateways = options.gateway ?? [];
    for (const gateway of Array.isArray(gateways) ? gateways : [gateways]) addresses.setGateway(gateway);
    link.attach(this);
  }

  /** Frames received; each of them is in `accepted` or in `drops`. */
  get received(): number {
    return this.#received;
  }

  get accepted(): number {
    return this.#received - this.drops.total;
  }

  /** What the host sends from an address of `siblings` to one of ours is delivered here. */
  joinHost(siblings: readonly Interface[]): void {
    this.#siblings = siblings;
  }

  registerTransport(protocol: number, transport: Transport): void {
    this.#transports[protocol] = transport;
    this.#registered = this.#transports.filter((known) => known !== undefined);
  }

  /** Frames of a type that is not IP or ARP, such as the mux's barrier; without a handler they are dropped. */
  onEtherType(type: number, handler: EtherTypeHandler): void {
    this.#etherTypes.set(type, handler);
  }

  /** The default gateway of its family; it must lie in a network of ours to be used. Undefined: none any more, of either. */
  setGateway(gateway: IpAddress | undefined): void {
    if (gateway === undefined) this.addresses.clearGateways();
    else this.addresses.setGateway(gateway);
  }

  /**
   * Silent: nothing is announced. An IPv6 address is in use at once only without duplicate detection; with the first one
   * comes the link-local address.
   * @param detectDuplicates default: as the interface was made.
   * @throws InterfaceError MTU_TOO_SMALL: IPv6 needs links of 1280 bytes.
   */
  addAddress(cidr: Cidr, detectDuplicates = this.#detectDuplicates): void {
    const { address } = cidr;
    if (typeof address === 'number') {
      this.addresses.add(cidr);
      return;
    }
    if (this.#link.mtu < IPV6.MIN_MTU) {
      throw new InterfaceError(
        'MTU_TOO_SMALL',
        `${formatIpAddress(address)} cannot be used on a link with an MTU of ${this.#link.mtu}`,
        { remedy: `raise the MTU to ${IPV6.MIN_MTU} or more`, values: { mtu: this.#link.mtu } },
      );
    }
    if (this.addresses.linkLocal === undefined) {
      const linkLocal = linkLocalAddress(this.mac);
      if (detectDuplicates) this.#detect({ address: linkLocal, prefixLength: LINK_LOCAL_PREFIX });
      this.addresses.setLinkLocal(linkLocal);
    }
    const state = this.addresses.stateOf(address);
    const served = state === 'own' || state === 'prepared' || state === 'left';
    if (detectDuplicates && !served) this.#detect(cidr);
    else this.addresses.add(cidr);
  }

  /**
   * RFC 5227 section 2.1, RFC 4862 section 5.4: whether somebody on the link has `address`, before it is added here. Resolves with the holder's
   * hardware address as soon as it answers, or undefined after `count` probes `intervalMs` apart. A second call joins the first.
   */
  probe(address: IpAddress, count = 3, intervalMs = 1_000): Promise<MacAddress | undefined> {
    if (typeof address === 'number') return this.#arpHandler.probe(address, count, intervalMs);
    return new Promise((resolve) => this.#ndp.detect(address, count, intervalMs, resolve));
  }

  /** Ends an address in any state; what was bound to an own one cannot go on. */
  removeAddress(address: IpAddress): void {
    this.#announceLater.delete(address);
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
   * 1505/1603/2203: announces own addresses (RFC 5227 section 2.3, RFC 4861 section 7.2.6), `count` times, `intervalMs`
   * apart. A tentative address is announced as soon as it is ours.
   * @throws InterfaceError ADDRESS_NOT_OWN: an address that was left must never be announced.
   */
  announce(address?: IpAddress, count = 1, intervalMs = 2_000): void {
    if (address !== undefined && this.addresses.stateOf(address) === 'tentative') {
      this.#announceLater.set(address, { count, intervalMs });
      return;
    }
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
    for (const one of address === undefined ? this.addresses.announced : [address]) {
      if (this.addresses.stateOf(one) === 'tentative') this.#announceLater.set(one, { count, intervalMs });
      else if (typeof one === 'number') this.#arpHandler.announce(one, count, intervalMs);
      else this.#ndp.announce(one, count, intervalMs);
    }
  }

  /** One echo request to an address of either family; rejects with PingError. */
  ping(destination: IpAddress, payloadLength = 56, timeoutMs = 1_000): Promise<{ rttMs: number }> {
    const handler = typeof destination === 'number' ? this.icmp : this.icmpv6;
    return handler.ping(destination, payloadLength, timeoutMs);
  }

  /** Asks whether the address is free; it is tentative until then. */
  #detect(cidr: Cidr): void {
    const address = cidr.address as Ipv6Address;
    this.addresses.addTentative(cidr);
    this.#ndp.detect(address, DETECTION_COUNT, DETECTION_MS, (holder) => {
      const later = this.#announceLater.get(address);
      this.#announceLater.delete(address);
      if (this.addresses.stateOf(address) !== 'tentative') return;
      if (holder !== undefined) {
        this.addresses.refuse(address);
        this.#onDuplicate?.(address, holder);
        return;
      }
      this.addresses.confirm(address);
      if (later !== undefined) this.#ndp.announce(address, later.count, later.intervalMs);
    });
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
    if (typeof source === 'number' && typeof destination === 'number') {
      return this.#ipv4Output.output(
        buffer,
        offset,
        length,
        protocol,
        source,
        destination,
        checksumOffset,
        gsoSize,
        dontFragment,
        ttl,
      );
    }
    if (typeof source === 'number' || typeof destination === 'number') return OUTPUT.NO_ROUTE;
    return this.#ipv6Output.output(
      buffer,
      offset,
      length,
      protocol,
      source,
      destination,
      checksumOffset,
      gsoSize,
      dontFragment,
      ttl,
    );
  }

  flush(): void {
    this.send.flush();
  }

  sourceFor(destination: IpAddress): IpAddress | undefined {
    return this.addresses.sourceFor(destination);
  }

  isBroadcast(address: IpAddress): boolean {
    return typeof address === 'number' && this.addresses.isBroadcast(address);
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
    return typeof destination === 'number'
      ? this.#ipv4Output.maxGsoLength()
      : this.#ipv6Output.maxGsoLength();
  }

  /** A packet that waited for a hardware address in vain: its sender learns what a router would have told it. */
  #unresolved(packet: Uint8Array, icmp: IcmpHandler | Icmpv6Handler): void {
    this.discards.count('send-unresolved');
    icmp.deliverError('host-unreachable', packet, VNET.LENGTH + ETHERNET.HEADER, packet.length, 0);
  }

  #inputLocal(packets: readonly Uint8Array[]): void {
    for (const packet of packets) {
      const reason =
        packet[0]! >>> 4 === 6
          ? this.#ipv6Input.inputLooped(packet)
          : this.#ipv4Input.deliver(packet, 0, IPV4.MIN_HEADER, packet.length, false, true, 0);
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
    if (toGroup && to !== MAC_BROADCAST && !this.addresses.groupMacs.has(to)) return 'ethernet-not-for-us';
    if (isGroupMac(readMac(buffer, frame + ETHERNET.SOURCE))) return 'ethernet-bad-source';
    if (header > ETHERNET.HEADER && ethernetVlan(buffer, frame) !== 0) return 'ethernet-vlan';
    const at = frame + header;
    const end = offset + length;
    switch (readU16(buffer, at - 2)) {
      case ETHERTYPE.IPV4:
        return this.#ipv4Input.input(buffer, offset, at, end, toGroup);
      case ETHERTYPE.ARP:
        return this.#arpHandler.input(buffer, at, end - at);
      case ETHERTYPE.IPV6:
        return this.#ipv6Input.input(buffer, offset, at, end, toGroup);
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
