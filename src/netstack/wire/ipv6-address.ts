/** Special IPv6 addresses (RFC 4291) and what follows from them on Ethernet (RFC 2464). */
import type { IpAddress, Ipv4Address, Ipv6Address, MacAddress } from './ip-address.ts';
import { formatMac, readIpv6 } from './ip-address.ts';

/** ff02::1 */
export const IPV6_ALL_NODES = `ff02${'0'.repeat(27)}1` as Ipv6Address;

const MAPPED_PREFIX = `${'0'.repeat(20)}ffff`;
const SOLICITED_NODE_PREFIX = `ff02${'0'.repeat(19)}1ff`;
const MULTICAST_MAC = 0x3333_0000_0000;

/** fe80::/10. */
export function isLinkLocal(address: IpAddress): boolean {
  return typeof address === 'string' && /^fe[89ab]/.test(address);
}

/** The interface identifier of RFC 2464 section 4 behind fe80::/64: the MAC with its universal bit turned and fffe in its middle. */
export function linkLocalAddress(mac: MacAddress): Ipv6Address {
  const digits = formatMac(mac).replaceAll(':', '');
  const first = (Number.parseInt(digits.slice(0, 2), 16) ^ 2).toString(16).padStart(2, '0');
  return `fe80${'0'.repeat(12)}${first}${digits.slice(2, 6)}fffe${digits.slice(6)}` as Ipv6Address;
}

/** ff02::1:ffXX:XXXX, the group in which whoever has `address` is asked for (RFC 4291 section 2.7.1). */
export function solicitedNodeAddress(address: Ipv6Address): Ipv6Address {
  return (SOLICITED_NODE_PREFIX + address.slice(26)) as Ipv6Address;
}

/** 33:33 and the group's last four bytes (RFC 2464 section 7). */
export function ipv6MulticastMac(group: Ipv6Address): MacAddress {
  return (MULTICAST_MAC + Number.parseInt(group.slice(24), 16)) as MacAddress;
}

/** ::ffff:a.b.c.d becomes a.b.c.d, everything else stays: programs write IPv4 addresses that way (RFC 4291 section 2.5.5.2). */
export function unmapIpv4(address: IpAddress): IpAddress {
  if (typeof address === 'number' || !address.startsWith(MAPPED_PREFIX)) return address;
  return Number.parseInt(address.slice(24), 16) as Ipv4Address;
}

/** A mapped address never stands in a packet. */
export function isMappedIpv4(address: Ipv6Address): boolean {
  return address.startsWith(MAPPED_PREFIX);
}

const SLOTS = 256;

/**
 * Reads IPv6 addresses out of packets without making a string each time: a table of the addresses seen lately, 256 at most,
 * found by a hash of the bytes. The same address yields the same string, which makes `===` cheap, too.
 */
export class Ipv6Reader {
  readonly #bytes = new Uint8Array(SLOTS * 16);
  readonly #strings = new Array<Ipv6Address | undefined>(SLOTS).fill(undefined);

  read(buffer: Uint8Array, at: number): Ipv6Address {
    // The last bytes differ most, and the third and fourth tell networks apart.
    const slot =
      (buffer[at + 15]! ^
        (buffer[at + 14]! * 7) ^
        (buffer[at + 13]! * 31) ^
        (buffer[at + 7]! * 13) ^
        (buffer[at + 3]! * 3)) &
      (SLOTS - 1);
    const bytes = this.#bytes;
    const base = slot * 16;
    const known = this.#strings[slot];
    if (known !== undefined) {
      let i = 0;
      while (i < 16 && bytes[base + i] === buffer[at + i]) i++;
      if (i === 16) return known;
    }
    const address = readIpv6(buffer, at);
    for (let i = 0; i < 16; i++) bytes[base + i] = buffer[at + i]!;
    this.#strings[slot] = address;
    return address;
  }
}
