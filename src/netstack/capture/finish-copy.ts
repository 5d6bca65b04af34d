/**
 * A packet on its way through offloading links has an unfinished checksum (the field holds the pseudo-header sum) and may
 * be larger than the MTU. In a capture that looks like an error in every frame; so the captured copy, and only it, is finished.
 */
import {
  addBytes,
  checksumOf,
  ETHERTYPE,
  ethernetHeaderLength,
  finishSum,
  IPV4,
  readU16,
  UDP,
  VNET_GSO,
  vnetCsumOffset,
  vnetCsumStart,
  vnetGsoType,
  vnetNeedsChecksum,
  writeU16,
} from '../wire/index.ts';

const UDP_CHECKSUM: number = UDP.CHECKSUM;
const IPV6_PAYLOAD_LENGTH = 4;
const IPV6_HEADER = 40;

/**
 * Finishes the copy at copy[at, at + captured) of the frame at source[frame, frame + length), whose vnet header stands at
 * source[vnet]. The copy may be shorter than the frame (snap length); the sum is that of the whole frame.
 */
export function finishCopy(
  copy: Uint8Array,
  at: number,
  captured: number,
  source: Uint8Array,
  vnet: number,
  frame: number,
  length: number,
): void {
  if (vnetNeedsChecksum(source, vnet)) {
    const start = vnetCsumStart(source, vnet);
    const field = start + vnetCsumOffset(source, vnet);
    if (field + 2 <= length && field + 2 <= captured && start < length) {
      const sum = finishSum(addBytes(0, source, frame + start, length - start));
      // RFC 768: a computed zero is sent as all ones. For TCP both mean the same, and Wireshark warns of the ones (RFC 1624).
      writeU16(copy, at + field, sum === 0 && field - start === UDP_CHECKSUM ? 0xffff : sum);
    }
  }
  if (vnetGsoType(source, vnet) !== VNET_GSO.NONE) finishLength(copy, at, captured, length);
}

/** The length field of the IP header says what the frame carries; senders of one large segment may leave it to the segmenter. */
function finishLength(copy: Uint8Array, at: number, captured: number, length: number): void {
  const l2 = ethernetHeaderLength(copy, at, captured);
  if (l2 === 0) return;
  const type = readU16(copy, at + l2 - 2);
  const ip = at + l2;
  if (type === ETHERTYPE.IPV4 && captured >= l2 + IPV4.MIN_HEADER) {
    const total = length - l2;
    const header = (copy[ip]! & 0x0f) * 4;
    if (total > 0xffff || readU16(copy, ip + IPV4.TOTAL_LENGTH) === total) return;
    if (header < IPV4.MIN_HEADER || captured < l2 + header) return;
    writeU16(copy, ip + IPV4.TOTAL_LENGTH, total);
    writeU16(copy, ip + IPV4.CHECKSUM, 0);
    writeU16(copy, ip + IPV4.CHECKSUM, checksumOf(copy, ip, header));
  } else if (type === ETHERTYPE.IPV6 && captured >= l2 + IPV6_HEADER) {
    const payload = length - l2 - IPV6_HEADER;
    if (payload >= 0 && payload <= 0xffff) writeU16(copy, ip + IPV6_PAYLOAD_LENGTH, payload);
  }
}
