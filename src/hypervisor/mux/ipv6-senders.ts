/**
 * What a partition may send over IPv6 besides packets of its flows: neighbour discovery about its own addresses, reports of
 * its multicast groups, nothing that only a router says. What hides its kind from us (a header chain that does not end in
 * the first fragment, RFC 7113; neighbour discovery in fragments, RFC 6980) does not leave.
 */
import type { MacAddress } from '../../netstack/index.ts';
import {
  ICMPV6_TYPE,
  IPV6,
  MAC_NONE,
  NDP,
  NDP_OPTION,
  ndpLinkAddress,
  ndpOptionsValid,
  PROTOCOL,
} from '../../netstack/index.ts';
import { NOBODY } from './address-keys.ts';
import { DROP } from './drops.ts';
import { FINE, FRAGMENT, type PacketView } from './packet-view.ts';
import type { Senders, SendersState } from './senders.ts';
import type { MuxPort } from './state.ts';

/** Of the upper layers that matter here: ICMPv6's and UDP's. */
const SMALLEST_HEADER = 8;
const MLD_QUERY = 130;
const MLD_REPORT = 131;
const MLD_DONE = 132;
const ROUTER_RENUMBERING = 138;
const MLDV2_REPORT = 143;
const DHCPV6_SERVER_PORT = 547;
const ROUTER_SOLICITATION_OPTIONS = 8;

/** Judges the IPv6 packet that `view` has read; answers FINE or a drop reason. */
export class Ipv6Senders {
  readonly #state: SendersState;
  readonly #view: PacketView;
  readonly #senders: Senders;

  constructor(state: SendersState, view: PacketView, senders: Senders) {
    this.#state = state;
    this.#view = view;
    this.#senders = senders;
  }

  /** What no partition says, whatever its addresses are. */
  kind(port: MuxPort): number {
    const view = this.#view;
    if (!view.chainComplete) return DROP['malformed-ipv6'];
    if (view.fragment === FRAGMENT.FIRST && (view.l4 < 0 || view.end - view.l4 < SMALLEST_HEADER)) {
      return DROP['malformed-ipv6'];
    }
    switch (view.icmpv6Type) {
      case ICMPV6_TYPE.ROUTER_ADVERTISEMENT:
      case ICMPV6_TYPE.REDIRECT:
      case MLD_QUERY:
      case ROUTER_RENUMBERING:
        return DROP['router-only'];
    }
    if (view.isNdp && view.fragment !== FRAGMENT.NONE) return DROP['malformed-ndp'];
    if (
      view.protocol === PROTOCOL.UDP &&
      view.hasFlow &&
      !view.quoted &&
      view.sourcePort === DHCPV6_SERVER_PORT &&
      port.role === 'partition'
    ) {
      return DROP['dhcp-server'];
    }
    return FINE;
  }

  /**
   * A packet from none of the service addresses, or neighbour discovery.
   */
  other(port: MuxPort, buffer: Uint8Array): number {
    const view = this.#view;
    if (view.isNdp) return this.#ndp(port, buffer);
    if (view.source === NOBODY && isUnspecified(buffer, view.sourceAt)) {
      const type = view.icmpv6Type;
      const reports = type === MLD_REPORT || type === MLD_DONE || type === MLDV2_REPORT;
      return reports ? FINE : DROP['spoofed-source'];
    }
    return this.#may(port, view.source) ? FINE : DROP['spoofed-source'];
  }

  #may(port: MuxPort, address: number): boolean {
    if (port.role === 'probe' && port.addresses.length === 0) return true;
    return address !== NOBODY && (address === port.linkLocal || port.has(address));
  }

  #ndp(port: MuxPort, buffer: Uint8Array): number {
    const view = this.#view;
    const type = view.icmpv6Type;
    const at = view.l4;
    const options =
      at + (type === ICMPV6_TYPE.ROUTER_SOLICITATION ? ROUTER_SOLICITATION_OPTIONS : NDP.OPTIONS);
    if (
      buffer[view.l3 + IPV6.HOP_LIMIT] !== NDP.HOP_LIMIT ||
      buffer[at + 1] !== 0 ||
      options > view.end ||
      !ndpOptionsValid(buffer, options, view.end)
    ) {
      return DROP['malformed-ndp'];
    }
    const advertises = type === ICMPV6_TYPE.NEIGHBOUR_ADVERTISEMENT;
    const option = advertises ? NDP_OPTION.TARGET_LINK_ADDRESS : NDP_OPTION.SOURCE_LINK_ADDRESS;
    if (!this.#ownMacOnly(port, buffer, options, option)) return DROP['spoofed-ndp'];
    if (isUnspecified(buffer, view.sourceAt)) {
      // Duplicate detection asks for an address of its own and does not say where it is.
      if (type === ICMPV6_TYPE.ROUTER_SOLICITATION) return FINE;
      if (advertises || options !== view.end) return DROP['spoofed-ndp'];
      return this.#speaksFor(port, view.ndpTarget, false);
    }
    const why = this.#speaksFor(port, view.source, view.isSolicitation);
    return why === FINE && advertises ? this.#speaksFor(port, view.ndpTarget, false) : why;
  }

  /** Every option that tells a link-layer address tells the port's (the first is what receivers read; any could be). */
  #ownMacOnly(port: MuxPort, buffer: Uint8Array, options: number, option: number): boolean {
    const { end } = this.#view;
    for (let next = options; next < end; next += buffer[next + 1]! * 8) {
      if (
        buffer[next] !== NDP_OPTION.SOURCE_LINK_ADDRESS &&
        buffer[next] !== NDP_OPTION.TARGET_LINK_ADDRESS
      ) {
        continue;
      }
      if (buffer[next] !== option) return false;
      const mac: MacAddress = ndpLinkAddress(buffer, next, next + buffer[next + 1]! * 8, option);
      if (mac === MAC_NONE || mac !== port.mac) return false;
    }
    return true;
  }

  /** As for the sender of an ARP packet. `asks`: who finishes flows of the address may still ask for its neighbours. */
  #speaksFor(port: MuxPort, address: number, asks: boolean): number {
    const notice = port.noticeFor(address);
    if (notice !== undefined) {
      notice.translate = true;
      return FINE;
    }
    const service = this.#state.services.get(address);
    if (service !== undefined) {
      if (service.path === port) {
        this.#senders.backAtFirst(port, service);
        return FINE;
      }
      return asks && this.#senders.drains(port, service) ? FINE : DROP['ndp-not-path-holder'];
    }
    return this.#may(port, address) ? FINE : DROP['spoofed-ndp'];
  }
}

function isUnspecified(buffer: Uint8Array, at: number): boolean {
  for (let i = 0; i < 16; i++) if (buffer[at + i] !== 0) return false;
  return true;
}
