/**
 * The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
 *
 * A `sum` here is any number congruent to the sum of the 16-bit words modulo 65535, and zero only if all words are: words
 * may be added as 32-bit values (2^16 ≡ 1), carries stay where they are until `foldSum`. 64 KiB of 32-bit words stay
 * below 2^47, exact in a double. Long ranges go through a DataView: measured at four times the speed of byte pairs.
 */
import { readU16, writeU16 } from './big-endian.ts';
import type { IpAddress } from './ip-address.ts';
import { IPV4 } from './ipv4.ts';
import { IPV6, ipv6UpperLayer } from './ipv6.ts';

const LONG = 64;

let viewOf: ArrayBufferLike | undefined;
let view: DataView = new DataView(new ArrayBuffer(0));

/** Adds the bytes of buffer[at, at + length) to `sum`; an odd last byte counts as the high half of a word. */
export function addBytes(sum: number, buffer: Uint8Array, at: number, length: number): number {
  let i = at;
  const end = at + length;
  let total = sum;
  if (length >= LONG) {
    const memory = buffer.buffer;
    if (memory !== viewOf) {
      view = new DataView(memory);
      viewOf = memory;
    }
    const shift = buffer.byteOffset;
    const longEnd = end - ((end - at) & 7) + shift;
    let word = at + shift;
    for (; word < longEnd; word += 8) total += view.getUint32(word) + view.getUint32(word + 4);
    i = word - shift;
  }
  for (; i + 1 < end; i += 2) total += (buffer[i]! << 8) | buffer[i + 1]!;
  if (i < end) total += buffer[i]! << 8;
  return total;
}

/** The sum as one 16-bit word, not complemented. */
export function foldSum(sum: number): number {
  let folded = Math.floor(sum / 0x1_0000_0000) + ((sum >>> 16) & 0xffff) + (sum & 0xffff);
  folded = (folded >>> 16) + (folded & 0xffff);
  return (folded >>> 16) + (folded & 0xffff);
}

/** The checksum of a sum: folded and complemented. */
export function finishSum(sum: number): number {
  return ~foldSum(sum) & 0xffff;
}

/** The checksum of a range as it goes into a header whose checksum field is zero; 0 over a range that carries a good one. */
export function checksumOf(buffer: Uint8Array, at: number, length: number): number {
  return finishSum(addBytes(0, buffer, at, length));
}

/** The address's part of a sum. */
export function addAddress(sum: number, address: IpAddress): number {
  if (typeof address === 'number') return sum + address;
  let total = sum;
  for (let i = 0; i < 32; i += 8) total += Number.parseInt(address.slice(i, i + 8), 16);
  return total;
}

/** Pseudo header of TCP, UDP and ICMPv6 (RFC 9293 section 3.1, RFC 8200 section 8.1); `length` of the transport part. */
export function pseudoHeaderSum(
  source: IpAddress,
  destination: IpAddress,
  protocol: number,
  length: number,
): number {
  return addAddress(addAddress(protocol + length, source), destination);
}

/** The same from the addresses of an IPv4 header in a buffer. */
export function ipv4PseudoHeaderSum(buffer: Uint8Array, ipOffset: number, length: number): number {
  return addBytes(buffer[ipOffset + IPV4.PROTOCOL]! + length, buffer, ipOffset + IPV4.SOURCE, 8);
}

/** The same from the addresses of an IPv6 header; `protocol` is the upper layer's, behind any extension headers. */
export function ipv6PseudoHeaderSum(
  buffer: Uint8Array,
  ipOffset: number,
  protocol: number,
  length: number,
): number {
  return addBytes(protocol + length, buffer, ipOffset + IPV6.SOURCE, 32);
}

/**
 * Whether the checksum of a TCP, UDP or ICMPv6 packet over IPv4 or IPv6 is right; `ipHeaderLength` includes extension headers.
 * A zero UDP checksum means "none" over IPv4 (RFC 768): the caller's to tell apart, here it fails.
 */
export function transportChecksumValid(
  buffer: Uint8Array,
  ipOffset: number,
  ipHeaderLength: number,
  totalLength: number,
): boolean {
  const length = totalLength - ipHeaderLength;
  let sum: number;
  if (buffer[ipOffset]! >>> 4 === 6) {
    const protocol =
      ipHeaderLength === IPV6.HEADER
        ? buffer[ipOffset + IPV6.NEXT_HEADER]!
        : ipv6UpperLayer(buffer, ipOffset, ipOffset + totalLength) & 0xff;
    sum = ipv6PseudoHeaderSum(buffer, ipOffset, protocol, length);
  } else {
    sum = ipv4PseudoHeaderSum(buffer, ipOffset, length);
  }
  return foldSum(addBytes(sum, buffer, ipOffset + ipHeaderLength, length)) === 0xffff;
}

/** `foldSum` for a few words added up: below 2^31. */
function foldSmall(sum: number): number {
  const folded = (sum >>> 16) + (sum & 0xffff);
  return (folded >>> 16) + (folded & 0xffff);
}

/** What replacing `before` by `after` adds to a sum. Both are sums or words. */
export function sumDelta(before: number, after: number): number {
  return (~foldSum(before) & 0xffff) + foldSum(after);
}

/** RFC 1624 equation 3 on a checksum field: HC' = ~(~HC + ~m + m'), with `delta` = ~m + m', below 2^30. */
export function updateChecksum(buffer: Uint8Array, at: number, delta: number): void {
  writeU16(buffer, at, ~foldSmall((~readU16(buffer, at) & 0xffff) + delta));
}

/** The same on a field that holds a sum, not its complement: the pseudo-header sum of a packet the link will complete. */
export function updatePartialSum(buffer: Uint8Array, at: number, delta: number): void {
  writeU16(buffer, at, foldSmall(readU16(buffer, at) + delta));
}
