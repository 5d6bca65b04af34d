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
