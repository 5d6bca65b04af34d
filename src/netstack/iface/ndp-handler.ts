/**
 * Neighbour discovery in and out (RFC 4861), and duplicate address detection (RFC 4862 section 5.4).
 *
 * Solicitations for an address that is answered get an advertisement; who solicits us is remembered. Announcements are
 * unsolicited advertisements to all nodes with the override flag (section 7.2.6). As with ARP, somebody else who has our
 * address is counted and not driven away: around a changeover the other one may be the rightful owner. Router
 * advertisements and redirects are ignored: the gateway is configured.
 */
import type { Clock, Timer } from '../../common/index.ts';
import type { PacketSendProgram } from '../send/index.ts';
import type { DropReason, Ipv6Address, Ipv6Reader, MacAddress } from '../wire/index.ts';
import {
  addBytes,
  clearVnet,
  ETHERNET,
  ETHERTYPE,
  emitEthernet,
  emitIpv6,
  emitNdp,
  finishSum,
  ICMP,
  ICMPV6_TYPE,
  IPV6,
  IPV6_ALL_NODES,
  IPV6_ANY,
  ipv6MulticastMac,
  ipv6PseudoHeaderSum,
  isGroupMac,
  isMulticast,
  isUnspecified,
  MAC_NONE,
  NDP,
  NDP_FLAG,
  NDP_OPTION,
  ndpLinkAddress,
  ndpOptionsValid,
  PROTOCOL,
  readMac,
  solicitedNodeAddress,
  VNET,
  writeU16,
} from '../wire/index.ts';
import type { AddressTable } from './address-table.ts';
import type { NeighbourCache } from './neighbour-cache.ts';

const { NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, REDIRECT } = ICMPV6_TYPE;
const ICMP_AT = VNET.LENGTH + ETHERNET.HEADER + IPV6.HEADER;

export interface NdpContext {
  readonly clock: Clock;
  readonly mac: MacAddress;
  readonly addresses: AddressTable;
  readonly neighbours: NeighbourCache;
  readonly reader: Ipv6Reader;
  readonly send: PacketSendProgram;
}

/** Somebody waits to hear whether an address is free. */
interface Detection {
  timer: Timer | undefined;
  readonly waiting: ((holder: MacAddress | undefined) => void)[];
}

export class NdpHandler {
  readonly #context: NdpContext;
  readonly #detections = new Map<Ipv6Address, Detection>();
  readonly #scratch = new Uint8Array(ICMP_AT + NDP.OPTIONS + 8);

  constructor(context: NdpContext) {
    this.#context = context;
  }

  /**
   * A message of the types 133 … 137 with a right checksum.
   * @param frame the Ethernet header's offset; −1 when there is none, or the message came in fragments (refused, RFC 6980).
   */
  input(
    buffer: Uint8Array,
    frame: number,
    ip: number,
    icmp: number,
    length: number,
    source: Ipv6Address,
  ): DropReason | undefined {
    // Section 7.1: nothing from beyond the link, code 0, options with lengths.
    if (frame < 0 || buffer[ip + IPV6.HOP_LIMIT] !== NDP.HOP_LIMIT) return 'ndp-malformed';
    if (buffer[icmp + ICMP.CODE] !== 0) return 'ndp-malformed';
    const type = buffer[icmp]!;
    if (type === REDIRECT) return 'ndp-redirect-ignored';
    if (type !== NEIGHBOUR_SOLICITATION && type !== NEIGHBOUR_ADVERTISEMENT) return 'ndp-router-ignored';
    const options = icmp + NDP.OPTIONS;
    if (length < NDP.OPTIONS || !ndpOptionsValid(buffer, options, icmp + length)) return 'ndp-malformed';
    const target = this.#context.reader.read(buffer, icmp + NDP.TARGET);
    if (isMulticast(target)) return 'ndp-malformed';
    const sender = readMac(buffer, frame + ETHERNET.SOURCE);
    // What we have sent ourselves may come back from a link that echoes groups.
    if (sender === this.#context.mac) return 'ndp-not-for-us';
    const toGroup = isMulticast(this.#context.reader.read(buffer, ip + IPV6.DESTINATION));
    return type === NEIGHBOUR_SOLICITATION
      ? this.#solicitation(buffer, options, icmp + length, source, target, sender, toGroup)
      : this.#advertisement(buffer, icmp, icmp + length, source, target, sender, toGroup);
  }

  /** Asks who has `address`; `to` is the neighbour that had it, or its group. */
  solicit(address: Ipv6Address, to: MacAddress | undefined): void {
    const { addresses, send } = this.#context;
    const source = addresses.sourceFor(address);
    if (typeof source !== 'string') return;
    const group = solicitedNodeAddress(address);
    this.#emit(
      to ?? ipv6MulticastMac(group),
      NEIGHBOUR_SOLICITATION,
      0,
      source,
      to === undefined ? group : address,
      address,
      true,
    );
    send.flush();
  }

  /**
   * Asks `count` times whether somebody has `address`, or is about to take it. `done` gets the holder's hardware address, or
   * undefined when nobody answered until `intervalMs` after the last question.
   */
  detect(
    address: Ipv6Address,
    count: number,
    intervalMs: number,
    done: (holder: MacAddress | undefined) => void,
  ): void {
    const { clock, send } = this.#context;
    const running = this.#detections.get(address);
    if (running !== undefined) {
      running.waiting.push(done);
      return;
    }
    const detection: Detection = { timer: undefined, waiting: [done] };
    this.#detections.set(address, detection);
    const ask = (left: number) => {
      if (left === 0) {
        this.#detected(address, undefined);
        return;
      }
      const group = solicitedNodeAddress(address);
      this.#emit(ipv6MulticastMac(group), NEIGHBOUR_SOLICITATION, 0, IPV6_ANY, group, address, false);
      send.flush();
      detection.timer = clock.after(intervalMs, () => ask(left - 1));
    };
    ask(count);
  }

  announce(address: Ipv6Address, count: number, intervalMs: number): void {
    const { addresses, clock, send } = this.#context;
    if (count <= 0 || addresses.stateOf(address) !== 'own') return;
    this.#advertise(ipv6MulticastMac(IPV6_ALL_NODES), IPV6_ALL_NODES, address, address, NDP_FLAG.OVERRIDE);
    send.flush();
    if (count > 1) clock.after(intervalMs, () => this.announce(address, count - 1, intervalMs));
  }

  #solicitation(
    buffer: Uint8Array,
    options: number,
    end: number,
    source: Ipv6Address,
    target: Ipv6Address,
    sender: MacAddress,
    toGroup: boolean,
  ): DropReason | undefined {
    const { addresses, neighbours } = this.#context;
    const mac = ndpLinkAddress(buffer, options, end, NDP_OPTION.SOURCE_LINK_ADDRESS);
    if (isUnspecified(source)) {
      // Section 7.1.1: such a question goes to the group and has no sender to tell.
      if (!toGroup || mac !== MAC_NONE) return 'ndp-malformed';
      // RFC 4862 section 5.4.3: somebody else asks for the address that we are asking for.
      if (this.#detected(target, sender)) return undefined;
      if (!addresses.isAnswered(target)) return 'ndp-not-for-us';
      this.#advertise(ipv6MulticastMac(IPV6_ALL_NODES), IPV6_ALL_NODES, target, target, NDP_FLAG.OVERRIDE);
      return undefined;
    }
    if (addresses.isAnswered(source)) return 'ndp-conflict';
    if (!addresses.isAnswered(target)) return 'ndp-not-for-us';
    // Addresses from elsewhere have no place in the cache; answered they are all the same.
    if (mac !== MAC_NONE && !isGroupMac(mac) && addresses.isOnLink(source)) neighbours.learn(source, mac);
    const flags = NDP_FLAG.SOLICITED | NDP_FLAG.OVERRIDE;
    this.#advertise(mac === MAC_NONE || isGroupMac(mac) ? sender : mac, source, target, target, flags);
    return undefined;
  }

  #advertisement(
    buffer: Uint8Array,
    icmp: number,
    end: number,
    source: Ipv6Address,
    target: Ipv6Address,
    sender: MacAddress,
    toGroup: boolean,
  ): DropReason | undefined {
    const { addresses, neighbours } = this.#context;
    const flags = buffer[icmp + NDP.FLAGS]!;
    const solicited = (flags & NDP_FLAG.SOLICITED) !== 0;
    if (isUnspecified(source) || (toGroup && solicited)) return 'ndp-malformed';
    const mac = ndpLinkAddress(buffer, icmp + NDP.OPTIONS, end, NDP_OPTION.TARGET_LINK_ADDRESS);
    if (isGroupMac(mac)) return 'ndp-malformed';
    if (this.#detected(target, mac === MAC_NONE ? sender : mac)) return undefined;
    if (addresses.isAnswered(target)) return 'ndp-conflict';
    const override = (flags & NDP_FLAG.OVERRIDE) !== 0;
    return neighbours.advertised(target, mac, solicited, override) ? undefined : 'ndp-not-for-us';
  }

  /** Ends the detection for an address; false when there is none. */
  #detected(address: Ipv6Address, holder: MacAddress | undefined): boolean {
    const detection = this.#detections.get(address);
    if (detection === undefined) return false;
    detection.timer?.cancel();
    this.#detections.delete(address);
    for (const done of detection.waiting) done(holder);
    return true;
  }

  #advertise(
    to: MacAddress,
    destination: Ipv6Address,
    source: Ipv6Address,
    target: Ipv6Address,
    flags: number,
  ): void {
    this.#emit(to, NEIGHBOUR_ADVERTISEMENT, flags, source, destination, target, true);
  }

  #emit(
    to: MacAddress,
    type: typeof NEIGHBOUR_SOLICITATION | typeof NEIGHBOUR_ADVERTISEMENT,
    flags: number,
    source: Ipv6Address,
    destination: Ipv6Address,
    target: Ipv6Address,
    withMac: boolean,
  ): void {
    const { mac, send } = this.#context;
    const packet = this.#scratch;
    const ip = VNET.LENGTH + ETHERNET.HEADER;
    clearVnet(packet, 0);
    emitEthernet(packet, VNET.LENGTH, to, mac, ETHERTYPE.IPV6);
    const length = emitNdp(packet, ICMP_AT, type, flags, target, withMac ? mac : MAC_NONE);
    emitIpv6(packet, ip, length, PROTOCOL.ICMPV6, NDP.HOP_LIMIT, source, destination);
    const pseudo = ipv6PseudoHeaderSum(packet, ip, PROTOCOL.ICMPV6, length);
    writeU16(packet, ICMP_AT + ICMP.CHECKSUM, finishSum(addBytes(pseudo, packet, ICMP_AT, length)));
    send.send(packet, 0, ICMP_AT + length);
  }
}
