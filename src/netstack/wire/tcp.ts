/** The TCP header (RFC 9293 section 3.1). Options are in tcp-options.ts. */
import { readU16, readU32, writeU16, writeU32 } from './big-endian.ts';

export const TCP = {
  SOURCE_PORT: 0,
  DESTINATION_PORT: 2,
  SEQUENCE: 4,
  ACKNOWLEDGMENT: 8,
  DATA_OFFSET: 12,
  FLAGS: 13,
  WINDOW: 14,
  CHECKSUM: 16,
  URGENT: 18,
  MIN_HEADER: 20,
  MAX_HEADER: 60,
} as const;

export const TCP_FLAG = {
  FIN: 0x01,
  SYN: 0x02,
  RST: 0x04,
  PSH: 0x08,
  ACK: 0x10,
  URG: 0x20,
  ECE: 0x40,
  CWR: 0x80,
} as const;

export function tcpSourcePort(buffer: Uint8Array, tcp: number): number {
  return readU16(buffer, tcp + TCP.SOURCE_PORT);
}

export function tcpDestinationPort(buffer: Uint8Array, tcp: number): number {
  return readU16(buffer, tcp + TCP.DESTINATION_PORT);
}

export function tcpSequence(buffer: Uint8Array, tcp: number): number {
  return readU32(buffer, tcp + TCP.SEQUENCE);
}

export function tcpAcknowledgment(buffer: Uint8Array, tcp: number): number {
  return readU32(buffer, tcp + TCP.ACKNOWLEDGMENT);
}

/** Bytes, options included; below 20 it is malformed. */
export function tcpHeaderLength(buffer: Uint8Array, tcp: number): number {
  return (buffer[tcp + TCP.DATA_OFFSET]! >>> 4) * 4;
}

export function tcpFlags(buffer: Uint8Array, tcp: number): number {
  return buffer[tcp + TCP.FLAGS]!;
}

/** As on the wire, not scaled. */
export function tcpWindow(buffer: Uint8Array, tcp: number): number {
  return readU16(buffer, tcp + TCP.WINDOW);
}

export function tcpUrgentPointer(buffer: Uint8Array, tcp: number): number {
  return readU16(buffer, tcp + TCP.URGENT);
}

/** The fixed 20 bytes; `headerLength` counts the options that follow. Checksum and urgent pointer are zero. */
export function emitTcp(
  buffer: Uint8Array,
  tcp: number,
  sourcePort: number,
  destinationPort: number,
  sequence: number,
  acknowledgment: number,
  headerLength: number,
  flags: number,
  window: number,
): void {
  writeU16(buffer, tcp + TCP.SOURCE_PORT, sourcePort);
  writeU16(buffer, tcp + TCP.DESTINATION_PORT, destinationPort);
  writeU32(buffer, tcp + TCP.SEQUENCE, sequence);
  writeU32(buffer, tcp + TCP.ACKNOWLEDGMENT, acknowledgment);
  buffer[tcp + TCP.DATA_OFFSET] = (headerLength >>> 2) << 4;
  buffer[tcp + TCP.FLAGS] = flags;
  writeU16(buffer, tcp + TCP.WINDOW, window);
  writeU32(buffer, tcp + TCP.CHECKSUM, 0);
}
