/** The IPv4 header (RFC 791). Accessors take the offset of the header; the caller has checked the length. */
import { readU16, writeU16 } from './big-endian.ts';
import type { Ipv4Address } from './ip-address.ts';
import { readIpv4, writeIpv4 } from './ip-address.ts';

export const IPV4 = {
  VERSION_IHL: 0,
  TOS: 1,
  TOTAL_LENGTH: 2,
  IDENTIFICATION: 4,
  FRAGMENT: 6,
  TTL: 8,
  PROTOCOL: 9,
  CHECKSUM: 10,
  SOURCE: 12,
  DESTINATION: 16,
  MIN_HEADER: 20,
  MAX_HEADER: 60,
  MAX_LENGTH: 65_535,
  /** RFC 1122: what every host must be able to receive; also the most an ICMP error should carry (RFC 1812). */
  MIN_REASSEMBLY: 576,
  /** RFC 791: what every link carries. */
  MIN_MTU: 68,
  DONT_FRAGMENT: 0x4000,
  MORE_FRAGMENTS: 0x2000,
} as const;

/** Protocol numbers, also IPv6 next headers. */
export const PROTOCOL = { ICMP: 1, TCP: 6, UDP: 17, ICMPV6: 58 } as const;

export function ipv4Version(buffer: Uint8Array, ip: number): number {
  return buffer[ip]! >>> 4;
}

/** Bytes, options included. */
export function ipv4HeaderLength(buffer: Uint8Array, ip: number): number {
  return (buffer[ip]! & 0x0f) * 4;
}

export function ipv4TotalLength(buffer: Uint8Array, ip: number): number {
  return readU16(buffer, ip + IPV4.TOTAL_LENGTH);
}

export function ipv4Identification(buffer: Uint8Array, ip: number): number {
  return readU16(buffer, ip + IPV4.IDENTIFICATION);
}

/** More fragments follow, or this is not the first one. */
export function ipv4IsFragment(buffer: Uint8Array, ip: number): boolean {
  return (readU16(buffer, ip + IPV4.FRAGMENT) & 0x3fff) !== 0;
}

/** Bytes from the start of the datagram's payload. */
export function ipv4FragmentOffset(buffer: Uint8Array, ip: number): number {
  return (readU16(buffer, ip + IPV4.FRAGMENT) & 0x1fff) * 8;
}

export function ipv4MoreFragments(buffer: Uint8Array, ip: number): boolean {
  return (buffer[ip + IPV4.FRAGMENT]! & 0x20) !== 0;
}

export function ipv4DontFragment(buffer: Uint8Array, ip: number): boolean {
  return (buffer[ip + IPV4.FRAGMENT]! & 0x40) !== 0;
}

export function ipv4Protocol(buffer: Uint8Array, ip: number): number {
  return buffer[ip + IPV4.PROTOCOL]!;
}

export function ipv4Source(buffer: Uint8Array, ip: number): Ipv4Address {
  return readIpv4(buffer, ip + IPV4.SOURCE);
}

export function ipv4Destination(buffer: Uint8Array, ip: number): Ipv4Address {
  return readIpv4(buffer, ip + IPV4.DESTINATION);
}

/** The checksum a header should carry, over its 20 … 60 bytes as if the field were zero. */
export function ipv4HeaderChecksum(buffer: Uint8Array, ip: number, headerLength: number): number {
  let sum = 0;
  for (let i = ip; i < ip + headerLength; i += 2) sum += (buffer[i]! << 8) | buffer[i + 1]!;
  sum -= readU16(buffer, ip + IPV4.CHECKSUM);
  sum = (sum >>> 16) + (sum & 0xffff);
  return ~((sum >>> 16) + sum) & 0xffff;
}

export function ipv4ChecksumValid(buffer: Uint8Array, ip: number, headerLength: number): boolean {
  let sum = 0;
  for (let i = ip; i < ip + headerLength; i += 2) sum += (buffer[i]! << 8) | buffer[i + 1]!;
  sum = (sum >>> 16) + (sum & 0xffff);
  return (((sum >>> 16) + sum) & 0xffff) === 0xffff;
}

/** A header of 20 bytes with its checksum. `fragment` holds DF, MF and the offset in units of 8 bytes. */
export function emitIpv4(
  buffer: Uint8Array,
  ip: number,
  totalLength: number,
  identification: number,
  fragment: number,
  ttl: number,
  protocol: number,
  source: Ipv4Address,
  destination: Ipv4Address,
): void {
  buffer[ip] = 0x45;
  buffer[ip + IPV4.TOS] = 0;
  writeU16(buffer, ip + IPV4.TOTAL_LENGTH, totalLength);
  writeU16(buffer, ip + IPV4.IDENTIFICATION, identification);
  writeU16(buffer, ip + IPV4.FRAGMENT, fragment);
  buffer[ip + IPV4.TTL] = ttl;
  buffer[ip + IPV4.PROTOCOL] = protocol;
  writeIpv4(buffer, ip + IPV4.SOURCE, source);
  writeIpv4(buffer, ip + IPV4.DESTINATION, destination);
  let sum = 0x4500 + totalLength + identification + fragment + ((ttl << 8) | protocol);
  sum += (source >>> 16) + (source & 0xffff) + (destination >>> 16) + (destination & 0xffff);
  sum = (sum >>> 16) + (sum & 0xffff);
  writeU16(buffer, ip + IPV4.CHECKSUM, ~((sum >>> 16) + sum));
}

const OPTION_END = 0;
const OPTION_NOP = 1;
const OPTION_LOOSE_SOURCE_ROUTE = 131;
const OPTION_STRICT_SOURCE_ROUTE = 137;

export type Ipv4OptionsVerdict = 'ok' | 'malformed' | 'source-route';

/** Options are stepped over; source routes are named because hosts refuse them (RFC 7126 section 4). */
export function ipv4Options(buffer: Uint8Array, ip: number, headerLength: number): Ipv4OptionsVerdict {
  let at = ip + IPV4.MIN_HEADER;
  const end = ip + headerLength;
  while (at < end) {
    const kind = buffer[at]!;
    if (kind === OPTION_END) return 'ok';
    if (kind === OPTION_NOP) {
      at++;
      continue;
    }
    const length = at + 1 < end ? buffer[at + 1]! : 0;
    if (length < 2 || at + length > end) return 'malformed';
    if (kind === OPTION_LOOSE_SOURCE_ROUTE || kind === OPTION_STRICT_SOURCE_ROUTE) return 'source-route';
    at += length;
  }
  return 'ok';
}
