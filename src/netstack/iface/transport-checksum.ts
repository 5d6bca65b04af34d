import { addBytes, finishSum, PROTOCOL, writeU16 } from '../wire/index.ts';

/** Writes the checksum of the transport part at buffer[offset, offset + length) into its field, over `pseudo`, its pseudo header's sum. */
export function completeChecksum(
  buffer: Uint8Array,
  offset: number,
  length: number,
  protocol: number,
  pseudo: number,
  checksumOffset: number,
): void {
  const field = offset + checksumOffset;
  writeU16(buffer, field, 0);
  const sum = finishSum(addBytes(pseudo, buffer, offset, length));
  writeU16(buffer, field, sum === 0 && protocol === PROTOCOL.UDP ? 0xffff : sum);
}
