/** What a shortcut of a device recognises packets by, written down a second time: independent of tap-tun/src/native/shortcuts.c. */
const VNET = 10;

/** Ethernet header and IP destination of a packet in the plainest form, as text; undefined: such packets have no shortcut. */
export function shortcutKey(packet: Uint8Array): string | undefined {
  const frame = packet.subarray(VNET);
  const u16 = (at: number) => (frame[at] ?? 0) * 256 + (frame[at + 1] ?? 0);
  const hex = (from: number, to: number) => Buffer.from(frame.subarray(from, to)).toString('hex');
  if (frame.length < 34 || (frame[0]! & 1) === 1) return undefined;
  const room = frame.length - 14;
  if (u16(12) === 0x0800) {
    const plain = frame[14] === 0x45 && u16(16) >= 20 && u16(16) <= room;
    return plain ? hex(0, 14) + hex(30, 34) : undefined;
  }
  if (u16(12) !== 0x86dd || room <= 40 || frame[14]! >> 4 !== 6 || u16(18) > room - 40) return undefined;
  const next = frame[20]!;
  const echo = next === 58 && (frame[54] === 128 || frame[54] === 129);
  return next === 6 || next === 17 || echo ? hex(0, 14) + hex(38, 54) : undefined;
}

export interface ReferenceTerms {
  readonly longest: number;
  readonly checksum: boolean;
  readonly tso4: boolean;
  readonly tso6: boolean;
}

/** Whether a receiver on these terms takes the packet as it is. */
export function carriedOn(terms: ReferenceTerms, packet: Uint8Array): boolean {
  const [flags, gso] = [packet[0]!, packet[1]! & 0x7f];
  const little = (at: number) => packet[at]! + 256 * packet[at + 1]!;
  const length = packet.length - VNET;
  if (flags > 3) return false;
  if ((flags & 1) === 1 && (!terms.checksum || little(6) + little(8) + 2 > length)) return false;
  if (gso === 0) return length <= terms.longest;
  return ((gso === 1 && terms.tso4) || (gso === 4 && terms.tso6)) && little(4) > 0;
}

/**
 * The packets that a receiver makes of one with gso_type 5 (UDP segmentation), as Linux does it (net/ipv4/udp_offload.c), every
 * sum computed anew: independent of tap-tun/src/native/join.c. Other packets are returned as they are.
 */
export function segmentedUdp(packet: Uint8Array): Uint8Array[] {
  if (packet[1] !== 5) return [packet];
  const ipv4 = packet[VNET + 14]! >> 4 === 4;
  const udp = VNET + 14 + (ipv4 ? 20 : 40);
  const size = packet[4]! + 256 * packet[5]!;
  const headers = packet[2]! + 256 * packet[3]!;
  if (VNET + headers !== udp + 8) throw new Error(`${headers} bytes of headers`);
  const segments: Uint8Array[] = [];
  for (let at = udp + 8; at < packet.length; at += size) {
    const payload = packet.subarray(at, Math.min(packet.length, at + size));
    const segment = Buffer.concat([packet.subarray(0, udp + 8), payload]);
    segment.fill(0, 1, 6);
    const length = 8 + payload.length;
    segment.writeUInt16BE(length, udp + 4);
    segment.writeUInt16BE(pseudoHeaderSum(segment, ipv4, length), udp + 6);
    if (ipv4) {
      segment.writeUInt16BE(20 + length, VNET + 16);
      segment.writeUInt16BE(
        (packet[VNET + 18]! * 256 + packet[VNET + 19]! + segments.length) % 65_536,
        VNET + 18,
      );
      segment.writeUInt16BE(0, VNET + 24);
      segment.writeUInt16BE(0xffff - wordSum(segment.subarray(VNET + 14, VNET + 34)), VNET + 24);
    } else segment.writeUInt16BE(length, VNET + 18);
    segments.push(new Uint8Array(segment));
  }
  return segments;
}

/** Ones' complement sum of 16-bit words (RFC 1071). */
function wordSum(bytes: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) {
    sum += bytes[i]! * 256 + bytes[i + 1]!;
    if (sum > 0xffff) sum -= 0xffff;
  }
  return sum;
}

/** What stands in the checksum field of a UDP datagram that the receiver is to complete. */
export function pseudoHeaderSum(packet: Uint8Array, ipv4: boolean, length: number): number {
  const addresses = packet.subarray(VNET + (ipv4 ? 26 : 22), VNET + (ipv4 ? 34 : 54));
  return wordSum(Uint8Array.of(...addresses, 0, 17, length >> 8, length & 0xff));
}

/** One packet of which a receiver makes these again, or undefined when there is none. Of IPv4 only. */
export function joinedUdp(packets: readonly Uint8Array[]): Uint8Array | undefined {
  const first = packets[0]!;
  const udp = VNET + 34;
  if (first[0] !== 1 || first[1] !== 0 || first[VNET + 12] !== 8 || first[VNET + 23] !== 17) return undefined;
  const joined = Buffer.concat([first, ...packets.slice(1).map((packet) => packet.subarray(udp + 8))]);
  joined.set([1, 5, udp + 8 - VNET, 0], 0);
  joined.writeUInt16LE(first.length - udp - 8, 4);
  const length = joined.length - udp;
  joined.writeUInt16BE(length, udp + 4);
  joined.writeUInt16BE(pseudoHeaderSum(joined, true, length), udp + 6);
  joined.writeUInt16BE(20 + length, VNET + 16);
  joined.writeUInt16BE(0, VNET + 24);
  joined.writeUInt16BE(0xffff - wordSum(joined.subarray(VNET + 14, VNET + 34)), VNET + 24);
  const again = segmentedUdp(joined);
  const same =
    again.length === packets.length && again.every((one, i) => Buffer.compare(one, packets[i]!) === 0);
  return same ? new Uint8Array(joined) : undefined;
}
