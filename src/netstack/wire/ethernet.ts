/** Ethernet II frames, without frame check sequence; 802.1Q and 802.1ad tags are stepped over. */
import { readU16, writeU16 } from './big-endian.ts';
import type { MacAddress } from './ip-address.ts';
import { writeMac } from './ip-address.ts';

export const ETHERNET = {
  DESTINATION: 0,
  SOURCE: 6,
  TYPE: 12,
  HEADER: 14,
  TAG: 4,
  /** Shortest frame on a wire without FCS: what is shorter arrives padded with zeros. */
  MIN_FRAME: 60,
} as const;

export const ETHERTYPE = {
  IPV4: 0x0800,
  ARP: 0x0806,
  VLAN: 0x8100,
  VLAN_SERVICE: 0x88a8,
  IPV6: 0x86dd,
} as const;

const MAX_TAGS = 2;

/**
 * Where the frame's payload starts, counted from the frame: 14, or 4 more per 802.1Q tag (two at most); 0 when the frame
 * is too short. The type of the payload stands 2 bytes before.
 */
export function ethernetHeaderLength(buffer: Uint8Array, frame: number, length: number): number {
  let header: number = ETHERNET.HEADER;
  if (length < header) return 0;
  for (let tags = 0; tags < MAX_TAGS; tags++) {
    const type = readU16(buffer, frame + header - 2);
    if (type !== ETHERTYPE.VLAN && type !== ETHERTYPE.VLAN_SERVICE) return header;
    header += ETHERNET.TAG;
    if (length < header) return 0;
  }
  return header;
}

/** VLAN id of the first tag; meaningful only if `ethernetHeaderLength` is above 14. 0 is a priority tag. */
export function ethernetVlan(buffer: Uint8Array, frame: number): number {
  return readU16(buffer, frame + ETHERNET.HEADER) & 0x0fff;
}

export function emitEthernet(
  buffer: Uint8Array,
  frame: number,
  destination: MacAddress,
  source: MacAddress,
  type: number,
): void {
  writeMac(buffer, frame + ETHERNET.DESTINATION, destination);
  writeMac(buffer, frame + ETHERNET.SOURCE, source);
  writeU16(buffer, frame + ETHERNET.TYPE, type);
}
