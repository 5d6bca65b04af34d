/** IPv6 packets for tests, made the slow and obvious way. */
import { Buffer } from 'node:buffer';
import { packet, plainChecksum, u16, u32 } from './packets.ts';

/** Text form to 16 bytes; `::` and hex groups only. */
export function ip6(text: string): Buffer {
  const [head = '', tail] = text.split('::');
  const groups = (part: string) =>
    part === '' ? [] : part.split(':').map((group) => Number.parseInt(group, 16));
  const first = groups(head);
  const last = tail === undefined ? [] : groups(tail);
  const zeros = new Array<number>(8 - first.length - last.length).fill(0);
  return Buffer.concat([...first, ...zeros, ...last].map(u16));
}

export function pseudo6(source: string, destination: string, protocol: number, length: number): Buffer {
  return Buffer.concat([ip6(source), ip6(destination), u32(length), u32(protocol)]);
}

export interface Ipv6Fields {
  source: string;
  destination: string;
  /** Of what stands behind the extension headers. */
  protocol: number;
  payload: Uint8Array;
  /** In order; each begins with a byte that is replaced by the next header's number. */
  extensions?: [number, Uint8Array][];
  hopLimit?: number;
  payloadLength?: number;
}

export function ipv6(fields: Ipv6Fields): Buffer {
  const extensions = fields.extensions ?? [];
  const numbers = [...extensions.map(([number]) => number), fields.protocol];
  const chain = extensions.map(([, bytes], i) => {
    const copy = Buffer.from(bytes);
    copy[0] = numbers[i + 1]!;
    return copy;
  });
  const body = Buffer.concat([...chain, fields.payload]);
  return Buffer.concat([
    u32(0x6000_0000),
    u16(fields.payloadLength ?? body.length),
    Buffer.from([numbers[0]!, fields.hopLimit ?? 64]),
    ip6(fields.source),
    ip6(fields.destination),
    body,
  ]);
}

/** A fragment header; the next header's number is filled in by `ipv6`. */
export function fragmentHeader(offset: number, more: boolean, identification: number): Buffer {
  return Buffer.concat([Buffer.from([0, 0]), u16(offset | (more ? 1 : 0)), u32(identification)]);
}

/** An options header with these options, padded by PadN. */
export function optionsHeader(...options: number[]): Buffer {
  const padding = (8 - ((2 + options.length) % 8)) % 8;
  const pad =
    padding === 0 ? [] : padding === 1 ? [0] : [1, padding - 2, ...new Array<number>(padding - 2).fill(0)];
  const bytes = [0, (2 + options.length + padding) / 8 - 1, ...options, ...pad];
  return Buffer.from(bytes);
}

function withSum(message: Buffer, at: number, source: string, destination: string, protocol: number): Buffer {
  const sum = plainChecksum(pseudo6(source, destination, protocol, message.length), message);
  message.writeUInt16BE(sum === 0 && protocol === 17 ? 0xffff : sum, at);
  return message;
}

export interface Ends {
  source: string;
  destination: string;
}

export function icmp6(ends: Ends, type: number, code: number, rest: number, body: Uint8Array): Buffer {
  const message = Buffer.concat([Buffer.from([type, code]), u16(0), u32(rest), body]);
  return withSum(message, 2, ends.source, ends.destination, 58);
}

export function udp6(
  fields: Ends & { sourcePort: number; destinationPort: number; payload?: Uint8Array },
): Buffer {
  const payload = fields.payload ?? Buffer.alloc(0);
  const length = u16(8 + payload.length);
  const datagram = Buffer.concat([
    u16(fields.sourcePort),
    u16(fields.destinationPort),
    length,
    u16(0),
    payload,
  ]);
  return withSum(datagram, 6, fields.source, fields.destination, 17);
}

export function tcp6(
  fields: Ends & { sourcePort: number; destinationPort: number; flags?: number; payload?: Uint8Array },
): Buffer {
  const segment = Buffer.concat([
    u16(fields.sourcePort),
    u16(fields.destinationPort),
    u32(1000),
    u32(2000),
    Buffer.from([0x50, fields.flags ?? 0x10]),
    u16(65_535),
    u32(0),
    fields.payload ?? Buffer.alloc(0),
  ]);
  return withSum(segment, 16, fields.source, fields.destination, 6);
}

/** The same in a frame behind an offload header of zeros. */
export function packet6(payload: Uint8Array, fields: Parameters<typeof packet>[1] = {}): Buffer {
  return packet(payload, { type: 0x86dd, ...fields });
}

export interface NdpFields {
  source: string;
  destination: string;
  target: string;
  /** Hex MAC of the link-address option; absent: no option. */
  mac?: string;
  /** Of an advertisement, in its first byte. */
  flags?: number;
  hopLimit?: number;
  to?: string;
  from?: string;
}

function ndp(type: number, option: number, fields: NdpFields): Buffer {
  const options =
    fields.mac === undefined
      ? Buffer.alloc(0)
      : Buffer.concat([Buffer.from([option, 1]), Buffer.from(fields.mac, 'hex')]);
  const body = Buffer.concat([ip6(fields.target), options]);
  const payload = icmp6(fields, type, 0, (fields.flags ?? 0) * 0x100_0000, body);
  const { to, from } = fields;
  return packet6(ipv6({ ...fields, protocol: 58, payload, hopLimit: fields.hopLimit ?? 255 }), {
    ...(to === undefined ? {} : { to }),
    ...(from === undefined ? {} : { from }),
  });
}

export function solicitation(fields: NdpFields): Buffer {
  return ndp(135, 1, fields);
}

export function advertisement(fields: NdpFields): Buffer {
  return ndp(136, 2, fields);
}

/** Whether the checksum of a whole IPv6 packet without extension headers (behind 24 bytes of headers) is right. */
export function checksum6Right(bytes: Uint8Array): boolean {
  const ip = Buffer.from(bytes.subarray(24));
  const length = ip.readUInt16BE(4);
  const pseudo = Buffer.concat([ip.subarray(8, 40), u32(length), u32(ip[6]!)]);
  return plainChecksum(pseudo, ip.subarray(40, 40 + length)) === 0;
}
