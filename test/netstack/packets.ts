/** Packets for tests, made the slow and obvious way, with a checksum of their own. */
import { Buffer } from 'node:buffer';

/** RFC 1071 word by word. */
export function plainChecksum(...parts: Uint8Array[]): number {
  const bytes = Buffer.concat(parts);
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) {
    sum += (bytes[i]! << 8) | (bytes[i + 1] ?? 0);
    if (sum > 0xffff) sum = (sum & 0xffff) + 1;
  }
  return ~sum & 0xffff;
}

export function u16(value: number): Buffer {
  return Buffer.from([(value >>> 8) & 255, value & 255]);
}

export function u32(value: number): Buffer {
  return Buffer.from([(value >>> 24) & 255, (value >>> 16) & 255, (value >>> 8) & 255, value & 255]);
}

export function hex(text: string): Buffer {
  return Buffer.from(text.replace(/\s+/g, ''), 'hex');
}

export function ip4(text: string): Buffer {
  return Buffer.from(text.split('.').map(Number));
}

export function pseudo4(source: string, destination: string, protocol: number, length: number): Buffer {
  return Buffer.concat([ip4(source), ip4(destination), Buffer.from([0, protocol]), u16(length)]);
}

export interface Ipv4Fields {
  source: string;
  destination: string;
  protocol: number;
  payload: Uint8Array;
  options?: Uint8Array;
  identification?: number;
  /** DF 0x4000, MF 0x2000, offset in units of 8 bytes. */
  fragment?: number;
  ttl?: number;
}

export function ipv4(fields: Ipv4Fields): Buffer {
  const options = fields.options ?? Buffer.alloc(0);
  const headerLength = 20 + options.length;
  const header = Buffer.concat([
    Buffer.from([0x40 | (headerLength / 4), 0]),
    u16(headerLength + fields.payload.length),
    u16(fields.identification ?? 0x1234),
    u16(fields.fragment ?? 0),
    Buffer.from([fields.ttl ?? 64, fields.protocol]),
    u16(0),
    ip4(fields.source),
    ip4(fields.destination),
    options,
  ]);
  header.writeUInt16BE(plainChecksum(header), 10);
  return Buffer.concat([header, fields.payload]);
}

export interface Ports {
  source: string;
  destination: string;
  sourcePort: number;
  destinationPort: number;
  payload?: Uint8Array;
}

export function udp(fields: Ports & { noChecksum?: boolean }): Buffer {
  const payload = fields.payload ?? Buffer.alloc(0);
  const length = 8 + payload.length;
  const datagram = Buffer.concat([
    u16(fields.sourcePort),
    u16(fields.destinationPort),
    u16(length),
    u16(0),
    payload,
  ]);
  if (fields.noChecksum !== true) {
    const sum = plainChecksum(pseudo4(fields.source, fields.destination, 17, length), datagram);
    datagram.writeUInt16BE(sum === 0 ? 0xffff : sum, 6);
  }
  return datagram;
}

export function tcp(
  fields: Ports & { seq?: number; ack?: number; flags?: number; options?: Uint8Array; window?: number },
): Buffer {
  const payload = fields.payload ?? Buffer.alloc(0);
  const options = fields.options ?? Buffer.alloc(0);
  const segment = Buffer.concat([
    u16(fields.sourcePort),
    u16(fields.destinationPort),
    u32(fields.seq ?? 1000),
    u32(fields.ack ?? 2000),
    Buffer.from([((20 + options.length) / 4) << 4, fields.flags ?? 0x10]),
    u16(fields.window ?? 65_535),
    u16(0),
    u16(0),
    options,
    payload,
  ]);
  const sum = plainChecksum(pseudo4(fields.source, fields.destination, 6, segment.length), segment);
  segment.writeUInt16BE(sum, 16);
  return segment;
}

export function icmp(type: number, code: number, rest: number, body: Uint8Array): Buffer {
  const message = Buffer.concat([Buffer.from([type, code]), u16(0), u32(rest), body]);
  message.writeUInt16BE(plainChecksum(message), 2);
  return message;
}

export interface FrameFields {
  to?: string;
  from?: string;
  /** Default 0x0800. */
  type?: number;
  /** 802.1Q tags in front of the type. */
  tags?: number[];
  /** Zero bytes behind the payload up to this frame length. */
  padTo?: number;
}

/** Offload header of zeros, Ethernet, payload. */
export function packet(payload: Uint8Array, fields: FrameFields = {}): Buffer {
  const frame = Buffer.concat([
    hex(fields.to ?? '020000000001'),
    hex(fields.from ?? '020000000002'),
    ...(fields.tags ?? []).map((tag) => Buffer.concat([u16(0x8100), u16(tag)])),
    u16(fields.type ?? 0x0800),
    payload,
  ]);
  const padding = Buffer.alloc(Math.max(0, (fields.padTo ?? 0) - frame.length));
  return Buffer.concat([Buffer.alloc(10), frame, padding]);
}

export function arp(
  operation: number,
  senderMac: string,
  senderIp: string,
  targetMac: string,
  targetIp: string,
): Buffer {
  return Buffer.concat([
    hex('0001 0800 06 04'),
    u16(operation),
    hex(senderMac),
    ip4(senderIp),
    hex(targetMac),
    ip4(targetIp),
  ]);
}

/** Whether every checksum of an IPv4 packet (behind 24 bytes of offload and Ethernet header) is right. */
export function checksumsRight(bytes: Uint8Array): boolean {
  const ip = Buffer.from(bytes.subarray(24));
  const headerLength = (ip[0]! & 15) * 4;
  const total = ip.readUInt16BE(2);
  if (plainChecksum(ip.subarray(0, headerLength)) !== 0) return false;
  if ((ip.readUInt16BE(6) & 0x3fff) !== 0) return true;
  const body = ip.subarray(headerLength, total);
  const protocol = ip[9]!;
  if (protocol === 1) return plainChecksum(body) === 0;
  if (protocol === 17 && body.readUInt16BE(6) === 0) return true;
  const pseudo = Buffer.concat([ip.subarray(12, 20), Buffer.from([0, protocol]), u16(body.length)]);
  return plainChecksum(pseudo, body) === 0;
}
