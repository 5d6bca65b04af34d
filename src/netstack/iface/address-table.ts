/**
 * The addresses of an interface, and what an alteration (1503, 2202) needs of them.
 *
 * An address is `own`: answered in ARP, used as source. Around an alteration from X to Y there are two more states, both
 * accepted on input and known to transports under the other name ("canonical"):
 *   prepareAlter(X, Y)   Y is `prepared`, canonical X: packets already addressed to Y belong to X's connections.
 *   alter(X, Y)          Y is own; X is `left`, canonical Y: packets still addressed to X belong to the connections that now
 *                        are Y's. X is neither answered in ARP nor used as source any more.
 *   removeAddress(X)     ends it. alter(Y, X) instead goes back.
 */
import { CodedError } from '../../common/index.ts';
import type { Cidr, IpAddress, Ipv4Address } from '../wire/index.ts';
import {
  broadcastOf,
  cidrContains,
  formatIpAddress,
  IPV4_BROADCAST,
  IPV4_LOOPBACK,
  isMulticast,
} from '../wire/index.ts';

/** Misuse of an interface's addresses. */
export class InterfaceError extends CodedError {}

export type AddressState = 'own' | 'prepared' | 'left';

interface Entry {
  state: AddressState;
  canonical: IpAddress;
}

export class AddressTable {
  /** In order of preference. */
  #own: Cidr[] = [];
  readonly #entries = new Map<IpAddress, Entry>();
  #broadcasts: Ipv4Address[] = [];
  #gateway: IpAddress | undefined;
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

  get gateway(): IpAddress | undefined {
    return this.#gateway;
  }

  set gateway(address: IpAddress | undefined) {
    this.#gateway = address;
    this.#version++;
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
    this.#entries.set(cidr.address, { state: 'own', canonical: cidr.address });
    this.#changed();
  }

  /** Removes an address in any state, with those that were another name of it; tells which state it had. */
  remove(address: IpAddress): AddressState | undefined {
    const entry = this.#entries.get(address);
    if (entry === undefined) return undefined;
    this.#entries.delete(address);
    this.#own = this.#own.filter((cidr) => cidr.address !== address);
    for (const [alias, other] of this.#entries) if (other.canonical === address) this.#entries.delete(alias);
    this.#changed();
    return entry.state;
  }

  prepareAlter(from: IpAddress, to: IpAddress): void {
    this.#ownCidr(from);
    const known = this.#entries.get(to);
    if (known !== undefined && known.canonical !== from) {
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
    let canonical = this.#entries.get(address)?.canonical;
    if (canonical === undefined && typeof address === 'number' && address >>> 24 === 127) {
      canonical = IPV4_LOOPBACK;
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

  /** Whether ARP answers for it. */
  isAnswered(address: IpAddress): boolean {
    const state = this.stateOf(address);
    return state === 'own' || state === 'prepared';
  }

  isOnLink(address: IpAddress): boolean {
    return this.#own.some((cidr) => cidrContains(cidr, address));
  }

  /** Where to send what is for `destination`: itself when on the link, else the gateway; undefined without a route. */
  nextHop(destination: IpAddress): IpAddress | undefined {
    if (this.isOnLink(destination)) return destination;
    if (destination === IPV4_BROADCAST || isMulticast(destination)) {
      return this.#own.length > 0 ? destination : undefined;
    }
    const gateway = this.#gateway;
    return gateway !== undefined && typeof gateway === typeof destination && this.isOnLink(gateway)
      ? gateway
      : undefined;
  }

  sourceFor(destination: IpAddress): IpAddress | undefined {
    const canonical = this.canonicalOf(destination);
    if (canonical !== undefined) return canonical;
    const hop = this.nextHop(destination);
    if (hop === undefined) return undefined;
    const same = (cidr: Cidr) => typeof cidr.address === typeof destination;
    return (this.#own.find((cidr) => cidrContains(cidr, hop)) ?? this.#own.find(same))?.address;
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
  }
}
