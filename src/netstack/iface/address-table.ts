/**
 * The addresses of an interface, and what an alteration (1503, 2202) needs of them.
 *
 * An address is `own`: answered in ARP, used as source. Around an alteration from X to Y there are two more states, both
 * accepted on input and known to transports under the other name ("canonical"):
 *   prepareAlter(X, Y)   Y is `prepared`, canonical X: packets already addressed to Y belong to X's connections.
 *   alter(X, Y)          Y is own; X is `left`, canonical Y: packets still addressed to X belong to the connections that now
 *                        are Y's. X is neither answered in ARP nor used as source any more.
 *   removeAddress(X)     ends it. alter(Y, X) instead goes back.
 *
 * An IPv6 address may first be `tentative` (RFC 4862 section 5.4): asked about, but neither accepted nor used, until it turns
 * out to be free (`own`) or not (`duplicate`). The link-local address stands beside the list of own ones: it comes from the
 * hardware address, and serves link-local peers and neighbour discovery.
 */
import { CodedError } from '../../common/index.ts';
import type { Cidr, IpAddress, Ipv4Address, Ipv6Address, MacAddress } from '../wire/index.ts';
import {
  broadcastOf,
  cidrContains,
  formatIpAddress,
  IPV4_BROADCAST,
  IPV4_LOOPBACK,
  IPV6_ALL_NODES,
  IPV6_LOOPBACK,
  ipv6MulticastMac,
  isLinkLocal,
  isMulticast,
  solicitedNodeAddress,
} from '../wire/index.ts';

/** Misuse of an interface's addresses. */
export class InterfaceError extends CodedError {}

export type AddressState = 'own' | 'prepared' | 'left' | 'tentative' | 'duplicate';

interface Entry {
  state: AddressState;
  canonical: IpAddress;
}

/** States in which packets to an address are accepted. */
function isAccepted(state: AddressState): boolean {
  return state === 'own' || state === 'prepared' || state === 'left';
}

export class AddressTable {
  /** In order of preference. */
  #own: Cidr[] = [];
  readonly #entries = new Map<IpAddress, Entry>();
  #broadcasts: Ipv4Address[] = [];
  #linkLocal: Ipv6Address | undefined;
  /** What became of them is not known yet; or known, and bad. */
  readonly #untried = new Map<IpAddress, Cidr>();
  #gateways: readonly IpAddress[] = [];
  /** Multicast groups and their MAC addresses: all nodes, and the solicited-node groups of what we answer for. */
  #groups = new Set<Ipv6Address>();
  #groupMacs = new Set<MacAddress>();
  /** Memory of the last address found; most packets of a batch are for one. */
  #lastAddress: IpAddress | undefined;
  #lastCanonical: IpAddress | undefined;
  #version = 0;

  /** Another number after every change: what was derived from the table before is void. */
  get version(): number {
    return this.#version;
  }

  get own(): readonly Cidr[] {
    return this.#own;
  }

  /** What an announcement without a name is about: own addresses, and those that are about to be. */
  get announced(): IpAddress[] {
    const tentative = [...this.#untried.keys()].filter(
      (address) => address !== this.#linkLocal && this.stateOf(address) === 'tentative',
    );
    return [...this.#own.map((cidr) => cidr.address), ...tentative];
  }

  /** At most one per family. */
  get gateways(): readonly IpAddress[] {
    return this.#gateways;
  }

  /** The default gateway of its family. */
  setGateway(address: IpAddress): void {
    this.#gateways = [...this.#gateways.filter((known) => typeof known !== typeof address), address];
    this.#version++;
  }

  clearGateways(): void {
    this.#gateways = [];
    this.#version++;
  }

  /** From the first IPv6 address on. */
  get linkLocal(): Ipv6Address | undefined {
    return this.#linkLocal;
  }

  /** fe80::/64 of the interface. It is no member of `own`: nobody configures, alters or announces it. */
  setLinkLocal(address: Ipv6Address): void {
    this.#linkLocal = address;
    if (!this.#entries.has(address)) this.#entries.set(address, { state: 'own', canonical: address });
    this.#changed();
  }

  stateOf(address: IpAddress): AddressState | undefined {
    return this.#entries.get(address)?.state;
  }

  add(cidr: Cidr): void {
    if (this.#entries.get(cidr.address)?.state === 'own') {
      this.#own = this.#own.map((known) => (known.address === cidr.address ? cidr : known));
    } else {
      this.#own = [...this.#own, cidr];
    }
    this.#untried.delete(cidr.address);
    this.#entries.set(cidr.address, { state: 'own', canonical: cidr.address });
    this.#changed();
  }

  /** The address is being asked about; it is ours only after `confirm`. */
  addTentative(cidr: Cidr): void {
    this.#untried.set(cidr.address, cidr);
    this.#entries.set(cidr.address, { state: 'tentative', canonical: cidr.address });
    this.#changed();
  }

  /** Nobody else has the tentative address. */
  confirm(address: IpAddress): void {
    const cidr = this.#untried.get(address);
    if (cidr === undefined || this.stateOf(address) !== 'tentative') return;
    this.#untried.delete(address);
    if (address === this.#linkLocal) {
      this.#entries.set(address, { state: 'own', canonical: address });
      this.#changed();
    } else {
      this.#entries.delete(address);
      this.add(cidr);
    }
  }

  /** Somebody else has it: it stays unused until it is removed, or added again. */
  refuse(address: IpAddress): void {
    if (this.stateOf(address) !== 'tentative') return;
    this.#entries.set(address, { state: 'duplicate', canonical: address });
    this.#changed();
  }

  /** Removes an address in any state, with those that were another name of it; tells which state it had. */
  remove(address: IpAddress): AddressState | undefined {
    const entry = this.#entries.get(address);
    if (entry === undefined) return undefined;
    this.#entries.delete(address);
    this.#untried.delete(address);
    if (address === this.#linkLocal) this.#linkLocal = undefined;
    this.#own = this.#own.filter((cidr) => cidr.address !== address);
    for (const [alias, other] of this.#entries) if (other.canonical === address) this.#entries.delete(alias);
    this.#changed();
    return entry.state;
  }

  prepareAlter(from: IpAddress, to: IpAddress): void {
    this.#ownCidr(from);
    const known = this.#entries.get(to);
    if (known !== undefined && (known.canonical !== from || known.state === 'duplicate')) {
      throw new InterfaceError('ADDRESS_IN_USE', `${formatIpAddress(to)} is already used here`, {
        remedy: 'choose an address that this interface does not have',
        values: { address: formatIpAddress(to), state: known.state },
      });
    }
    this.#sameFamily(from, to);
    this.#entries.set(to, { state: 'prepared', canonical: from });
    this.#changed();
  }

  /** The alteration itself, prepared or not. */
  alter(from: IpAddress, to: IpAddress): void {
    if (this.#entries.get(to)?.state !== 'prepared') this.prepareAlter(from, to);
    const { prefixLength } = this.#ownCidr(from);
    this.#own = this.#own.map((known) => (known.address === from ? { address: to, prefixLength } : known));
    for (const entry of this.#entries.values()) if (entry.canonical === from) entry.canonical = to;
    this.#entries.set(from, { state: 'left', canonical: to });
    this.#entries.set(to, { state: 'own', canonical: to });
    this.#changed();
  }

  isLocal(address: IpAddress): boolean {
    return this.canonicalOf(address) !== undefined;
  }

  /** The name under which transports know a local address, or undefined when it is not ours. */
  canonicalOf(address: IpAddress): IpAddress | undefined {
    if (address === this.#lastAddress) return this.#lastCanonical;
    const entry = this.#entries.get(address);
    let canonical = entry !== undefined && isAccepted(entry.state) ? entry.canonical : undefined;
    if (canonical === undefined) {
      if (typeof address === 'string') canonical = address === IPV6_LOOPBACK ? address : undefined;
      else if (address >>> 24 === 127) canonical = IPV4_LOOPBACK;
    }
    if (canonical !== undefined) {
      this.#lastAddress = address;
      this.#lastCanonical = canonical;
    }
    return canonical;
  }

  /** Limited or directed broadcast of one of our networks. */
  isBroadcast(address: Ipv4Address): boolean {
    return address === IPV4_BROADCAST || this.#broadcasts.includes(address);
  }

  /** Whether we are a member of an IPv6 multicast group. */
  isMember(group: Ipv6Address): boolean {
    return this.#groups.has(group);
  }

  /** The MAC addresses of these groups; empty without IPv6 addresses. */
  get groupMacs(): ReadonlySet<MacAddress> {
    return this.#groupMacs;
  }

  /** Whether ARP or neighbour discovery answers for it. */
  isAnswered(address: IpAddress): boolean {
    const state = this.stateOf(address);
    return state === 'own' || state === 'prepared';
  }

  isOnLink(address: IpAddress): boolean {
    if (this.#linkLocal !== undefined && isLinkLocal(address)) return true;
    return this.#own.some((cidr) => cidrContains(cidr, address));
  }

  /** Where to send what is for `destination`: itself when on the link, else the gateway; undefined without a route. */
  nextHop(destination: IpAddress): IpAddress | undefined {
    if (this.isOnLink(destination)) return destination;
    if (destination === IPV4_BROADCAST || isMulticast(destination)) {
      return this.#own.length > 0 ? destination : undefined;
    }
    return this.#gateways.find((gateway) => typeof gateway === typeof destination && this.isOnLink(gateway));
  }

  sourceFor(destination: IpAddress): IpAddress | undefined {
    const canonical = this.canonicalOf(destination);
    if (canonical !== undefined) return canonical;
    const hop = this.nextHop(destination);
    if (hop === undefined) return undefined;
    if (typeof destination === 'string') return this.#ipv6SourceFor(destination);
    const same = (cidr: Cidr) => typeof cidr.address === typeof destination;
    return (this.#own.find((cidr) => cidrContains(cidr, hop)) ?? this.#own.find(same))?.address;
  }

  /**
   * A small part of RFC 6724: link-local for link-local and link-scope groups; else an address whose prefix holds the
   * destination, the longest first; else the first global one; link-local when there is no other.
   */
  #ipv6SourceFor(destination: Ipv6Address): IpAddress | undefined {
    const linkLocal =
      this.#linkLocal !== undefined && this.stateOf(this.#linkLocal) === 'own' ? this.#linkLocal : undefined;
    const ofLink = isLinkLocal(destination) || /^ff.[12]/.test(destination);
    if (ofLink && linkLocal !== undefined) return linkLocal;
    let best: Cidr | undefined;
    for (const cidr of this.#own) {
      if (typeof cidr.address !== 'string') continue;
      const better =
        best === undefined || !cidrContains(best, destination) || cidr.prefixLength > best.prefixLength;
      if (cidrContains(cidr, destination) ? better : best === undefined) best = cidr;
    }
    return best?.address ?? linkLocal;
  }

  #ownCidr(address: IpAddress): Cidr {
    const cidr = this.#own.find((known) => known.address === address);
    if (cidr !== undefined) return cidr;
    throw new InterfaceError(
      'ADDRESS_NOT_OWN',
      `${formatIpAddress(address)} is no address of this interface`,
      {
        remedy: 'add it first, or name the address the interface has now',
        values: {
          address: formatIpAddress(address),
          own: this.#own.map((own) => formatIpAddress(own.address)),
        },
      },
    );
  }

  #sameFamily(from: IpAddress, to: IpAddress): void {
    if (typeof from === typeof to && from !== to) return;
    throw new InterfaceError(
      'ALTER_INVALID',
      `${formatIpAddress(from)} cannot become ${formatIpAddress(to)}`,
      { remedy: 'give two different addresses of one family' },
    );
  }

  #changed(): void {
    this.#version++;
    this.#lastAddress = undefined;
    this.#lastCanonical = undefined;
    this.#broadcasts = this.#own.map(broadcastOf).filter((address) => address !== undefined);
    this.#groups = new Set();
    for (const [address, { state }] of this.#entries) {
      if (typeof address !== 'string' || state === 'left' || state === 'duplicate') continue;
      this.#groups.add(IPV6_ALL_NODES);
      this.#groups.add(solicitedNodeAddress(address));
    }
    this.#groupMacs = new Set([...this.#groups].map(ipv6MulticastMac));
  }
}
