/** ARP for IPv4 over Ethernet (RFC 826), with the special forms of RFC 5227 (probe, announcement). */
import { readU16, writeU16 } from './big-endian.ts';
import type { Ipv4Address, MacAddress } from './ip-address.ts';
import { isGroupMac, readMac, writeIpv4, writeMac } from './ip-address.ts';

export const ARP = {
  HARDWARE_TYPE: 0,
  PROTOCOL_TYPE: 2,
  HARDWARE_LENGTH: 4,
  PROTOCOL_LENGTH: 5,
  OPERATION: 6,
  SENDER_MAC: 8,
  SENDER_IP: 14,
  TARGET_MAC: 18,
  TARGET_IP: 24,
  LENGTH: 28,
} as const;

export const ARP_OPERATION = { REQUEST: 1, REPLY: 2 } as const;

/** Whether a whole ARP packet for IPv4 over Ethernet stands at `at`: lengths, types, operation, a unicast sender. */
export function arpIsValid(buffer: Uint8Array, at: number, length: number): boolean {
  if (length < ARP.LENGTH) return false;
  if (readU16(buffer, at + ARP.HARDWARE_TYPE) !== 1 || readU16(buffer, at + ARP.PROTOCOL_TYPE) !== 0x0800) {
    return false;
  }
  if (buffer[at + ARP.HARDWARE_LENGTH] !== 6 || buffer[at + ARP.PROTOCOL_LENGTH] !== 4) return false;
  const operation = readU16(buffer, at + ARP.OPERATION);
  if (operation !== ARP_OPERATION.REQUEST && operation !== ARP_OPERATION.REPLY) return false;
  const sender = readMac(buffer, at + ARP.SENDER_MAC);
  return sender !== 0 && !isGroupMac(sender);
}

export function emitArp(
  buffer: Uint8Array,
  at: number,
  operation: number,
  senderMac: MacAddress,
  senderIp: Ipv4Address,
  targetMac: MacAddress,
  targetIp: Ipv4Address,
): void {
  writeU16(buffer, at + ARP.HARDWARE_TYPE, 1);
  writeU16(buffer, at + ARP.PROTOCOL_TYPE, 0x0800);
  buffer[at + ARP.HARDWARE_LENGTH] = 6;
  buffer[at + ARP.PROTOCOL_LENGTH] = 4;
  writeU16(buffer, at + ARP.OPERATION, operation);
  writeMac(buffer, at + ARP.SENDER_MAC, senderMac);
  writeIpv4(buffer, at + ARP.SENDER_IP, senderIp);
  writeMac(buffer, at + ARP.TARGET_MAC, targetMac);
  writeIpv4(buffer, at + ARP.TARGET_IP, targetIp);
}
