/** Frames that the mux itself makes, each with an offload header that says "complete". */
import type { IpAddress, Ipv6Address, MacAddress } from '../../netstack/index.ts';
import {
  ARP_OPERATION,
  addBytes,
  ETHERNET,
  ETHERTYPE,
  emitArp,
  emitEthernet,
  emitIpv6,
  emitNdp,
  finishSum,
  ICMP,
  ICMPV6_TYPE,
  IPV6,
  IPV6_ALL_NODES,
  ipv6MulticastMac,
  ipv6PseudoHeaderSum,
  MAC_BROADCAST,
  MAC_NONE,
  macAddress,
  NDP,
  NDP_FLAG,
  PROTOCOL,
  VNET_HDR_LEN,
  writeU16,
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

/**
 * IPv4: ARP announcement (RFC 5227, section 3), a request of the address for itself. IPv6: unsolicited neighbour advertisement
 * to all nodes, with the override flag (RFC 4861, section 7.2.6).
 */
export function announcement(mac: MacAddress, address: IpAddress): Uint8Array {
  if (typeof address === 'string') return advertisement(mac, address);
  const packet = new Uint8Array(VNET_HDR_LEN + ETHERNET.MIN_FRAME);
  emitEthernet(packet, VNET_HDR_LEN, MAC_BROADCAST, mac, ETHERTYPE.ARP);
  const arp = VNET_HDR_LEN + ETHERNET.HEADER;
  emitArp(packet, arp, ARP_OPERATION.REQUEST, mac, address, MAC_NONE, address);
  return packet;
}

function advertisement(mac: MacAddress, address: Ipv6Address): Uint8Array {
  const ip = VNET_HDR_LEN + ETHERNET.HEADER;
  const icmp = ip + IPV6.HEADER;
  const packet = new Uint8Array(icmp + NDP.OPTIONS + 8);
  emitEthernet(packet, VNET_HDR_LEN, ipv6MulticastMac(IPV6_ALL_NODES), mac, ETHERTYPE.IPV6);
  const type = ICMPV6_TYPE.NEIGHBOUR_ADVERTISEMENT;
  const length = emitNdp(packet, icmp, type, NDP_FLAG.OVERRIDE, address, mac);
  emitIpv6(packet, ip, length, PROTOCOL.ICMPV6, NDP.HOP_LIMIT, address, IPV6_ALL_NODES);
  const sum = ipv6PseudoHeaderSum(packet, ip, PROTOCOL.ICMPV6, length);
  writeU16(packet, icmp + ICMP.CHECKSUM, finishSum(addBytes(sum, packet, icmp, length)));
  return packet;
}
