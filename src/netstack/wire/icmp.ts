/** ICMP (RFC 792, RFC 1191) and the ICMPv6 types that quote packets (RFC 4443). */
import { readU16, writeU16, writeU32 } from './big-endian.ts';
import { checksumOf } from './checksum.ts';

export const ICMP = {
  TYPE: 0,
  CODE: 1,
  CHECKSUM: 2,
  /** Echo: identifier and sequence number. Errors: unused, but the next hop's MTU in its second half. */
  IDENTIFIER: 4,
  SEQUENCE: 6,
  NEXT_HOP_MTU: 6,
  POINTER: 4,
  HEADER: 8,
} as const;

export const ICMP_TYPE = {
  ECHO_REPLY: 0,
  UNREACHABLE: 3,
  SOURCE_QUENCH: 4,
  REDIRECT: 5,
  ECHO_REQUEST: 8,
  TIME_EXCEEDED: 11,
  PARAMETER_PROBLEM: 12,
  TIMESTAMP: 13,
  TIMESTAMP_REPLY: 14,
} as const;

export const ICMP_UNREACHABLE = {
  NETWORK: 0,
  HOST: 1,
  PROTOCOL: 2,
  PORT: 3,
  FRAGMENTATION_NEEDED: 4,
  SOURCE_ROUTE_FAILED: 5,
} as const;

export const ICMP_TIME_EXCEEDED = { TRANSIT: 0, REASSEMBLY: 1 } as const;

export const ICMPV6_TYPE = {
  UNREACHABLE: 1,
  PACKET_TOO_BIG: 2,
  TIME_EXCEEDED: 3,
  PARAMETER_PROBLEM: 4,
  ECHO_REQUEST: 128,
  ECHO_REPLY: 129,
  ROUTER_SOLICITATION: 133,
  ROUTER_ADVERTISEMENT: 134,
  NEIGHBOUR_SOLICITATION: 135,
  NEIGHBOUR_ADVERTISEMENT: 136,
  REDIRECT: 137,
} as const;

export const ICMPV6_UNREACHABLE = {
  NO_ROUTE: 0,
  PROHIBITED: 1,
  BEYOND_SCOPE: 2,
  ADDRESS: 3,
  PORT: 4,
  POLICY: 5,
  REJECT_ROUTE: 6,
} as const;

export const ICMPV6_PARAMETER_PROBLEM = {
  HEADER_FIELD: 0,
  NEXT_HEADER: 1,
  OPTION: 2,
  /** RFC 7112: the first fragment does not contain all headers. */
  INCOMPLETE_CHAIN: 3,
} as const;

/** RFC 4443 section 2.1: types below 128 are errors, and quote a packet. */
export function icmpv6IsError(type: number): boolean {
  return type < ICMPV6_TYPE.ECHO_REQUEST;
}

/** Types whose body is the head of another packet. */
export function icmpIsError(type: number): boolean {
  return (
    type === ICMP_TYPE.UNREACHABLE ||
    type === ICMP_TYPE.SOURCE_QUENCH ||
    type === ICMP_TYPE.REDIRECT ||
    type === ICMP_TYPE.TIME_EXCEEDED ||
    type === ICMP_TYPE.PARAMETER_PROBLEM
  );
}

export function icmpNextHopMtu(buffer: Uint8Array, icmp: number): number {
  return readU16(buffer, icmp + ICMP.NEXT_HOP_MTU);
}

/** Type, code and the header's second half; the body must be in place: the checksum covers `length` bytes. */
export function emitIcmp(
  buffer: Uint8Array,
  icmp: number,
  type: number,
  code: number,
  rest: number,
  length: number,
): void {
  buffer[icmp + ICMP.TYPE] = type;
  buffer[icmp + ICMP.CODE] = code;
  writeU16(buffer, icmp + ICMP.CHECKSUM, 0);
  writeU32(buffer, icmp + ICMP.IDENTIFIER, rest);
  writeU16(buffer, icmp + ICMP.CHECKSUM, checksumOf(buffer, icmp, length));
}
