import { IPV4, ipv4HeaderChecksum, ipv4HeaderLength, ipv4TotalLength, writeU16 } from '../wire/index.ts';

/**
 * Cuts the IPv4 packet at buffer[ip] into fragments of at most `mtu` bytes (RFC 791 section 3.2). Each is built at
 * scratch[at, at + length), header included, and handed to `send`; false from it ends the loop. Our own packets carry no
 * options, so every fragment repeats the whole header.
 */
export function forEachFragment(
  buffer: Uint8Array,
  ip: number,
  mtu: number,
  scratch: Uint8Array,
  payloadAt: number,
  send: (payloadLength: number) => boolean,
): void {
  const headerLength = ipv4HeaderLength(buffer, ip);
  const payload = ipv4TotalLength(buffer, ip) - headerLength;
  const perFragment = (mtu - headerLength) & ~7;
  const header = payloadAt - headerLength;
  for (let start = 0; start < payload; start += perFragment) {
    const length = Math.min(perFragment, payload - start);
    const more = start + length < payload;
    scratch.set(buffer.subarray(ip, ip + headerLength), header);
    scratch.set(buffer.subarray(ip + headerLength + start, ip + headerLength + start + length), payloadAt);
    writeU16(scratch, header + IPV4.TOTAL_LENGTH, headerLength + length);
    writeU16(scratch, header + IPV4.FRAGMENT, (more ? IPV4.MORE_FRAGMENTS : 0) | (start >>> 3));
    writeU16(scratch, header + IPV4.CHECKSUM, ipv4HeaderChecksum(scratch, header, headerLength));
    if (!send(length)) return;
  }
}
