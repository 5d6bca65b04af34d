/** Neighbour discovery (RFC 4861): solicitation and advertisement, from their ICMPv6 header on. */
import { ICMP, ICMPV6_TYPE } from './icmp.ts';
import type { Ipv6Address, MacAddress } from './ip-address.ts';
import { MAC_NONE, readMac, writeIpv6, writeMac } from './ip-address.ts';

export const NDP = {
  /** Advertisement: router, solicited, override. */
  FLAGS: 4,
  TARGET: 8,
  OPTIONS: 24,
  /** Hop limit of every such packet: what arrives with less has crossed a router (RFC 4861 section 7.1). */
  HOP_LIMIT: 255,
} as const;

export const NDP_FLAG = { ROUTER: 0x80, SOLICITED: 0x40, OVERRIDE: 0x20 } as const;

export const NDP_OPTION = { SOURCE_LINK_ADDRESS: 1, TARGET_LINK_ADDRESS: 2 } as const;

/** Type, length in units of 8 bytes, MAC address. */
const LINK_ADDRESS_OPTION = 8;

/** Whether every option between `at` and `end` has a length, and ends where the next begins (section 4.6). */
export function ndpOptionsValid(buffer: Uint8Array, at: number, end: number): boolean {
  let next = at;
  while (next < end) {
    const length = next + 1 < end ? buffer[next + 1]! * 8 : 0;
    if (length === 0 || next + length > end) return false;
    next += length;
  }
  return true;
}

/** The link-layer address in the first option of `type`; MAC_NONE when there is none of Ethernet's length. Options are valid. */
export function ndpLinkAddress(buffer: Uint8Array, at: number, end: number, type: number): MacAddress {
  for (let next = at; next < end; next += buffer[next + 1]! * 8) {
    if (buffer[next] === type && buffer[next + 1] === 1) return readMac(buffer, next + 2);
  }
  return MAC_NONE;
}

/**
 * A solicitation or advertisement; the checksum field is left zero. With `mac` MAC_NONE it has no option.
 * @returns its length: 24 or 32 bytes.
 */
export function emitNdp(
  buffer: Uint8Array,
  at: number,
  type: typeof ICMPV6_TYPE.NEIGHBOUR_SOLICITATION | typeof ICMPV6_TYPE.NEIGHBOUR_ADVERTISEMENT,
  flags: number,
  target: Ipv6Address,
  mac: MacAddress,
): number {
  buffer.fill(0, at, at + NDP.OPTIONS);
  buffer[at + ICMP.TYPE] = type;
  buffer[at + NDP.FLAGS] = flags;
  writeIpv6(buffer, at + NDP.TARGET, target);
  if (mac === MAC_NONE) return NDP.OPTIONS;
  const solicits = type === ICMPV6_TYPE.NEIGHBOUR_SOLICITATION;
  const option = at + NDP.OPTIONS;
  buffer[option] = solicits ? NDP_OPTION.SOURCE_LINK_ADDRESS : NDP_OPTION.TARGET_LINK_ADDRESS;
  buffer[option + 1] = 1;
  writeMac(buffer, option + 2, mac);
  return NDP.OPTIONS + LINK_ADDRESS_OPTION;
}
