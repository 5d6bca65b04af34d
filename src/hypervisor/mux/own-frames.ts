/** Frames that the mux itself makes, each with an offload header that says "complete". */
import type { Ipv4Address, MacAddress } from '../../netstack/index.ts';
import {
  ARP_OPERATION,
  ETHERNET,
  ETHERTYPE,
  emitArp,
  emitEthernet,
  MAC_BROADCAST,
  MAC_NONE,
  macAddress,
  VNET_HDR_LEN,
  writeU32,
} from '../../netstack/index.ts';

/** IEEE 802 local experimental ethertype: the frame after which nothing that is on hold can still arrive. */
export const BARRIER_ETHERTYPE = 0x88b5;
/** Source of frames that the mux itself makes: `02` and "muxco". */
export const MUX_MAC = macAddress('02:6d:75:78:63:6f');

/** Payload: the token, 32 bits, big-endian. */
export function barrierFrame(to: MacAddress, token: number): Uint8Array {
  const packet = new Uint8Array(VNET_HDR_LEN + ETHERNET.MIN_FRAME);
  emitEthernet(packet, VNET_HDR_LEN, to, MUX_MAC, BARRIER_ETHERTYPE);
  writeU32(packet, VNET_HDR_LEN + ETHERNET.HEADER, token);
  return packet;
}

/** ARP announcement (RFC 5227, section 3): a request of the address for itself. */
export function announcement(mac: MacAddress, address: Ipv4Address): Uint8Array {
  const packet = new Uint8Array(VNET_HDR_LEN + ETHERNET.MIN_FRAME);
  emitEthernet(packet, VNET_HDR_LEN, MAC_BROADCAST, mac, ETHERTYPE.ARP);
  const arp = VNET_HDR_LEN + ETHERNET.HEADER;
  emitArp(packet, arp, ARP_OPERATION.REQUEST, mac, address, MAC_NONE, address);
  return packet;
}
