/** The UDP header (RFC 768). */
import { readU16, writeU16 } from './big-endian.ts';

export const UDP = {
  SOURCE_PORT: 0,
  DESTINATION_PORT: 2,
  LENGTH: 4,
  CHECKSUM: 6,
  HEADER: 8,
} as const;

export function udpSourcePort(buffer: Uint8Array, udp: number): number {
  return readU16(buffer, udp + UDP.SOURCE_PORT);
}

export function udpDestinationPort(buffer: Uint8Array, udp: number): number {
  return readU16(buffer, udp + UDP.DESTINATION_PORT);
}

/** Header and payload. */
export function udpLength(buffer: Uint8Array, udp: number): number {
  return readU16(buffer, udp + UDP.LENGTH);
}

/** 0 means that the sender computed none. */
export function udpChecksum(buffer: Uint8Array, udp: number): number {
  return readU16(buffer, udp + UDP.CHECKSUM);
}

/** The checksum field is left zero. */
export function emitUdp(
  buffer: Uint8Array,
  udp: number,
  sourcePort: number,
  destinationPort: number,
  length: number,
): void {
  writeU16(buffer, udp + UDP.SOURCE_PORT, sourcePort);
  writeU16(buffer, udp + UDP.DESTINATION_PORT, destinationPort);
  writeU16(buffer, udp + UDP.LENGTH, length);
  writeU16(buffer, udp + UDP.CHECKSUM, 0);
}
