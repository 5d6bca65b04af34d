/** The IPv6 header (RFC 8200) and its extension headers. */
import { readU16, writeU16, writeU32 } from './big-endian.ts';
import type { Ipv6Address } from './ip-address.ts';
import { writeIpv6 } from './ip-address.ts';

export const IPV6 = {
  VERSION_CLASS_FLOW: 0,
  PAYLOAD_LENGTH: 4,
  NEXT_HEADER: 6,
  HOP_LIMIT: 7,
  SOURCE: 8,
  DESTINATION: 24,
  HEADER: 40,
  /** RFC 8200 section 5: what every link carries. */
  MIN_MTU: 1280,
  /** Extension headers included; jumbograms are not supported. */
  MAX_PAYLOAD: 65_535,
} as const;

/** The fragment header (RFC 8200 section 4.5). */
export const IPV6_FRAGMENT = {
  NEXT_HEADER: 0,
  OFFSET: 2,
  IDENTIFICATION: 4,
  HEADER: 8,
  MORE: 1,
} as const;

export const IPV6_EXTENSION = {
  HOP_BY_HOP: 0,
  ROUTING: 43,
  FRAGMENT: 44,
  AUTHENTICATION: 51,
  NONE: 59,
  DESTINATION_OPTIONS: 60,
} as const;

const MAX_EXTENSIONS = 8;

export function ipv6Version(buffer: Uint8Array, ip: number): number {
  return buffer[ip]! >>> 4;
}

export function ipv6PayloadLength(buffer: Uint8Array, ip: number): number {
  return readU16(buffer, ip + IPV6.PAYLOAD_LENGTH);
}

/** The fixed header of 40 bytes; traffic class and flow label are zero. */
export function emitIpv6(
  buffer: Uint8Array,
  ip: number,
  payloadLength: number,
  nextHeader: number,
  hopLimit: number,
  source: Ipv6Address,
  destination: Ipv6Address,
): void {
  writeU32(buffer, ip, 0x6000_0000);
  writeU16(buffer, ip + IPV6.PAYLOAD_LENGTH, payloadLength);
  buffer[ip + IPV6.NEXT_HEADER] = nextHeader;
  buffer[ip + IPV6.HOP_LIMIT] = hopLimit;
  writeIpv6(buffer, ip + IPV6.SOURCE, source);
  writeIpv6(buffer, ip + IPV6.DESTINATION, destination);
}

/**
 * Steps over extension headers. The result packs protocol and offset of the upper layer's header as
 * `offset * 256 + protocol`, or is −1 when there is none: truncated, too many, or behind the first fragment.
 */
export function ipv6UpperLayer(buffer: Uint8Array, ip: number, end: number): number {
  let next = buffer[ip + IPV6.NEXT_HEADER]!;
  let at = ip + IPV6.HEADER;
  for (let count = 0; count <= MAX_EXTENSIONS; count++) {
    let length: number;
    switch (next) {
      case IPV6_EXTENSION.HOP_BY_HOP:
      case IPV6_EXTENSION.ROUTING:
      case IPV6_EXTENSION.DESTINATION_OPTIONS:
        if (at + 8 > end) return -1;
        length = (buffer[at + 1]! + 1) * 8;
        break;
      case IPV6_EXTENSION.FRAGMENT:
        if (at + 8 > end || (readU16(buffer, at + 2) & 0xfff8) !== 0) return -1;
        length = 8;
        break;
      case IPV6_EXTENSION.AUTHENTICATION:
        if (at + 8 > end) return -1;
        length = (buffer[at + 1]! + 2) * 4;
        break;
      case IPV6_EXTENSION.NONE:
        return -1;
      default:
        return at <= end ? at * 256 + next : -1;
    }
    next = buffer[at]!;
    at += length;
    if (at > end) return -1;
  }
  return -1;
}
