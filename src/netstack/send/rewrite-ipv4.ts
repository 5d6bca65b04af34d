/** One address replaced by another in an IPv4 packet, with every checksum that covers it. */
import type { IpAddress, Ipv4Address } from '../wire/index.ts';
import {
  foldSum,
  ICMP,
  IPV4,
  icmpIsError,
  ipv4FragmentOffset,
  ipv4HeaderLength,
  ipv4Protocol,
  ipv4TotalLength,
  PROTOCOL,
  readIpv4,
  readU16,
  sumDelta,
  TCP,
  UDP,
  updateChecksum,
  updatePartialSum,
  VNET,
  vnetCsumOffset,
  vnetCsumStart,
  vnetNeedsChecksum,
  writeIpv4,
  writeU16,
} from '../wire/index.ts';

/** An address replacement, with what it adds to any sum over the address. */
export interface AddressChange {
  readonly from: IpAddress;
  readonly to: IpAddress;
  readonly delta: number;
  /** IPv6 only. */
  readonly fromBytes: Uint8Array | undefined;
  readonly toBytes: Uint8Array | undefined;
}

/** 0: not this address, nothing changed; 1: changed; 2: changed, and so was the packet that it quotes. */
export type RewriteResult = 0 | 1 | 2;

/** Whether the checksum field at `field` is one that the link completes, so that it holds a sum. */
export function isPartialSum(buffer: Uint8Array, offset: number, field: number): boolean {
  if (!vnetNeedsChecksum(buffer, offset)) return false;
  return offset + VNET.LENGTH + vnetCsumStart(buffer, offset) + vnetCsumOffset(buffer, offset) === field;
}

/** A UDP checksum whose computed value is zero is sent as all ones (RFC 768). */
export function updateUdpChecksum(buffer: Uint8Array, field: number, delta: number): void {
  if (readU16(buffer, field) === 0) return;
  updateChecksum(buffer, field, delta);
  if (readU16(buffer, field) === 0) writeU16(buffer, field, 0xffff);
}

/** The checksum of the transport header at `at`, as far as it lies before `end`. */
export function updateTransportChecksum(
  buffer: Uint8Array,
  offset: number,
  protocol: number,
  at: number,
  end: number,
  delta: number,
): void {
  const isUdp = protocol === PROTOCOL.UDP;
  if (!isUdp && protocol !== PROTOCOL.TCP) return;
  const field = at + (isUdp ? UDP.CHECKSUM : TCP.CHECKSUM);
  if (field + 2 > end) return;
  if (isPartialSum(buffer, offset, field)) updatePartialSum(buffer, field, delta);
  else if (isUdp) updateUdpChecksum(buffer, field, delta);
  else updateChecksum(buffer, field, delta);
}

/** The same inside a quoted packet; returns what it adds to the sum over the quote. */
export function updateQuotedTransport(
  buffer: Uint8Array,
  protocol: number,
  at: number,
  end: number,
  delta: number,
): number {
  const isUdp = protocol === PROTOCOL.UDP;
  if (!isUdp && protocol !== PROTOCOL.TCP) return 0;
  const field = at + (isUdp ? UDP.CHECKSUM : TCP.CHECKSUM);
  if (field + 2 > end) return 0;
  const before = readU16(buffer, field);
  if (isUdp) updateUdpChecksum(buffer, field, delta);
  else updateChecksum(buffer, field, delta);
  return sumDelta(before, readU16(buffer, field));
}

/**
 * Replaces the source (`ofSource`) or the destination of the packet whose header stands at `ip`, and in a quoted packet the
 * opposite one. `offset` is the offload header's, `end` the end of the frame.
 */
export function rewriteIpv4(
  buffer: Uint8Array,
  offset: number,
  ip: number,
  end: number,
  ofSource: boolean,
  change: AddressChange,
): RewriteResult {
  if (ip + IPV4.MIN_HEADER > end || buffer[ip]! >>> 4 !== 4) return 0;
  const address = ip + (ofSource ? IPV4.SOURCE : IPV4.DESTINATION);
  if (readIpv4(buffer, address) !== change.from) return 0;
  const headerLength = ipv4HeaderLength(buffer, ip);
  if (headerLength < IPV4.MIN_HEADER || ip + headerLength > end) return 0;
  writeIpv4(buffer, address, change.to as Ipv4Address);
  updateChecksum(buffer, ip + IPV4.CHECKSUM, change.delta);
  if (ipv4FragmentOffset(buffer, ip) !== 0) return 1;
  const transport = ip + headerLength;
  const transportEnd = Math.min(end, ip + ipv4TotalLength(buffer, ip));
  const protocol = ipv4Protocol(buffer, ip);
  if (protocol !== PROTOCOL.ICMP) {
    updateTransportChecksum(buffer, offset, protocol, transport, transportEnd, change.delta);
    return 1;
  }
  if (transport + ICMP.HEADER > transportEnd || !icmpIsError(buffer[transport]!)) return 1;
  const quoteDelta = rewriteQuote(buffer, transport + ICMP.HEADER, transportEnd, !ofSource, change);
  if (quoteDelta < 0) return 1;
  const field = transport + ICMP.CHECKSUM;
  // A checksum left to the link is computed over the changed bytes; ICMP has no pseudo header.
  if (!isPartialSum(buffer, offset, field)) updateChecksum(buffer, field, foldSum(quoteDelta));
  return 2;
}

/** The quoted packet at `ip`. What its change adds to the sum over it, or −1 when it is not about this address. */
function rewriteQuote(
  buffer: Uint8Array,
  ip: number,
  end: number,
  ofSource: boolean,
  change: AddressChange,
): number {
  if (ip + IPV4.MIN_HEADER > end || buffer[ip]! >>> 4 !== 4) return -1;
  const address = ip + (ofSource ? IPV4.SOURCE : IPV4.DESTINATION);
  if (readIpv4(buffer, address) !== change.from) return -1;
  const before = readU16(buffer, ip + IPV4.CHECKSUM);
  writeIpv4(buffer, address, change.to as Ipv4Address);
  updateChecksum(buffer, ip + IPV4.CHECKSUM, change.delta);
  const delta = change.delta + sumDelta(before, readU16(buffer, ip + IPV4.CHECKSUM));
  if (ipv4FragmentOffset(buffer, ip) !== 0) return delta;
  const transport = ip + ipv4HeaderLength(buffer, ip);
  return delta + updateQuotedTransport(buffer, ipv4Protocol(buffer, ip), transport, end, change.delta);
}
