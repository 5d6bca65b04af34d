/**
 * Work that a link without offloads leaves to the mux: completing a checksum (virtio NEEDS_CSUM) and cutting a TCP packet
 * larger than the MTU into segments (gso_type TCPV4 and TCPV6).
 */
import {
  addBytes,
  clearVnet,
  copyPacket,
  ETHERNET,
  ETHERTYPE,
  finishSum,
  IPV4,
  ipv4HeaderChecksum,
  ipv4HeaderLength,
  ipv4PseudoHeaderSum,
  ipv6PseudoHeaderSum,
  MAX_PACKET_LEN,
  PROTOCOL,
  readU16,
  readU32,
  TCP,
  TCP_FLAG,
  tcpHeaderLength,
  UDP,
  VNET_HDR_LEN,
  vnetCsumOffset,
  vnetCsumStart,
  vnetGsoSize,
  writeU16,
  writeU32,
} from '../../netstack/index.ts';

const IPV6_HEADER = 40;
const IPV6_PAYLOAD_LENGTH = 4;
const IPV6_NEXT_HEADER = 6;
const CSUM_OFFSET_UDP: number = UDP.CHECKSUM;

/** Writes the checksum that the offload header asks for, and clears the request. The header has been judged valid. */
export function completeChecksum(buffer: Uint8Array, offset: number, length: number): void {
  const frame = offset + VNET_HDR_LEN;
  const start = frame + vnetCsumStart(buffer, offset);
  const csumOffset = vnetCsumOffset(buffer, offset);
  let end = offset + length;
  // Ethernet padding is no part of the packet.
  if (readU16(buffer, frame + ETHERNET.TYPE) === ETHERTYPE.IPV4) {
    const ip = frame + ETHERNET.HEADER;
    end = Math.min(end, ip + readU16(buffer, ip + IPV4.TOTAL_LENGTH));
  } else if (readU16(buffer, frame + ETHERNET.TYPE) === ETHERTYPE.IPV6) {
    const ip = frame + ETHERNET.HEADER;
    end = Math.min(end, ip + IPV6_HEADER + readU16(buffer, ip + IPV6_PAYLOAD_LENGTH));
  }
  let checksum = finishSum(addBytes(0, buffer, start, Math.max(0, end - start)));
  if (checksum === 0 && csumOffset === CSUM_OFFSET_UDP) checksum = 0xffff;
  writeU16(buffer, start + csumOffset, checksum);
  clearVnet(buffer, offset);
}

/** Segments of one packet, one after the other in a buffer of its own. */
export class TcpSegmenter {
  readonly buffer = new Uint8Array(MAX_PACKET_LEN);

  /**
   * Cuts the packet and hands out each segment with complete checksums (RFC 9293: PSH and FIN on the last one; RFC 3168:
   * CWR on the first). False when the packet is not one that can be cut; nothing has been handed out then.
   */
  segment(
    buffer: Uint8Array,
    offset: number,
    length: number,
    give: (segment: Uint8Array, offset: number, length: number) => void,
  ): boolean {
    const frame = offset + VNET_HDR_LEN;
    const ip = frame + ETHERNET.HEADER;
    const type = readU16(buffer, frame + ETHERNET.TYPE);
    const end = offset + length;
    const mss = vnetGsoSize(buffer, offset);
    let tcp: number;
    let packetEnd: number;
    if (type === ETHERTYPE.IPV4) {
      if (end - ip < IPV4.MIN_HEADER || buffer[ip + IPV4.PROTOCOL] !== PROTOCOL.TCP) return false;
      tcp = ip + ipv4HeaderLength(buffer, ip);
      packetEnd = ip + readU16(buffer, ip + IPV4.TOTAL_LENGTH);
    } else if (type === ETHERTYPE.IPV6) {
      if (end - ip < IPV6_HEADER || buffer[ip + IPV6_NEXT_HEADER] !== PROTOCOL.TCP) return false;
      tcp = ip + IPV6_HEADER;
      packetEnd = tcp + readU16(buffer, ip + IPV6_PAYLOAD_LENGTH);
    } else return false;
    if (packetEnd > end || tcp + TCP.MIN_HEADER > packetEnd) return false;
    const payload = tcp + tcpHeaderLength(buffer, tcp);
    if (payload < tcp + TCP.MIN_HEADER || payload > packetEnd || mss === 0) return false;

    const out = this.buffer;
    const headers = payload - frame;
    clearVnet(out, 0);
    copyPacket(buffer, frame, out, VNET_HDR_LEN, headers);
    const outIp = VNET_HDR_LEN + ETHERNET.HEADER;
    const outTcp = outIp + (tcp - ip);
    const outPayload = VNET_HDR_LEN + headers;
    const sequence = readU32(buffer, tcp + TCP.SEQUENCE);
    const flags = buffer[tcp + TCP.FLAGS]!;
    const identification = readU16(buffer, ip + IPV4.IDENTIFICATION);
    let at = payload;
    let index = 0;
    do {
      const size = Math.min(mss, packetEnd - at);
      const last = at + size >= packetEnd;
      let segmentFlags = flags;
      if (!last) segmentFlags &= ~(TCP_FLAG.FIN | TCP_FLAG.PSH);
      if (index > 0) segmentFlags &= ~TCP_FLAG.CWR;
      copyPacket(buffer, at, out, outPayload, size);
      writeU32(out, outTcp + TCP.SEQUENCE, (sequence + (at - payload)) >>> 0);
      out[outTcp + TCP.FLAGS] = segmentFlags;
      const tcpLength = outPayload - outTcp + size;
      let sum: number;
      if (type === ETHERTYPE.IPV4) {
        writeU16(out, outIp + IPV4.TOTAL_LENGTH, outTcp - outIp + tcpLength);
        writeU16(out, outIp + IPV4.IDENTIFICATION, (identification + index) & 0xffff);
        writeU16(out, outIp + IPV4.CHECKSUM, ipv4HeaderChecksum(out, outIp, outTcp - outIp));
        sum = ipv4PseudoHeaderSum(out, outIp, tcpLength);
      } else {
        writeU16(out, outIp + IPV6_PAYLOAD_LENGTH, tcpLength);
        sum = ipv6PseudoHeaderSum(out, outIp, PROTOCOL.TCP, tcpLength);
      }
      writeU16(out, outTcp + TCP.CHECKSUM, 0);
      writeU16(out, outTcp + TCP.CHECKSUM, finishSum(addBytes(sum, out, outTcp, tcpLength)));
      give(out, 0, outPayload + size);
      at += size;
      index++;
    } while (at < packetEnd);
    return true;
  }
}
