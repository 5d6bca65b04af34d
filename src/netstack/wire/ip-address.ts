import { CodedError } from '../../common/index.ts';

/** An IPv4 address as an unsigned 32-bit number: 10.77.0.11 is 0x0a4d000b. */
export type Ipv4Address = number & { readonly __brand: 'Ipv4Address' };
/** An IPv6 address as exactly 32 lower-case hex digits, no colons. */
export type Ipv6Address = string & { readonly __brand: 'Ipv6Address' };
/** `typeof` tells the family, `===` compares. Text exists at the borders only. */
export type IpAddress = Ipv4Address | Ipv6Address;
/** A 48-bit number, the first octet on the wire being the most significant. */
export type MacAddress = number & { readonly __brand: 'MacAddress' };

/** An address with the length of its network prefix, host bits kept: 10.77.0.11/24. */
export interface Cidr {
  readonly address: IpAddress;
  readonly prefixLength: number;
}

/** Text that is not an address. */
export class AddressError extends CodedError {}

export const IPV4_ANY = 0 as Ipv4Address;
export const IPV4_BROADCAST = 0xffffffff as Ipv4Address;
export const IPV4_LOOPBACK = 0x7f000001 as Ipv4Address;
export const IPV6_ANY = '0'.repeat(32) as Ipv6Address;
export const IPV6_LOOPBACK = `${'0'.repeat(31)}1` as Ipv6Address;
export const MAC_BROADCAST = 0xffffffffffff as MacAddress;
export const MAC_NONE = 0 as MacAddress;

export function isIpv4(address: IpAddress): address is Ipv4Address {
  return typeof address === 'number';
}

export function isIpv6(address: IpAddress): address is Ipv6Address {
  return typeof address === 'string';
}

/** The unspecified address of either family. */
export function isUnspecified(address: IpAddress): boolean {
  return address === IPV4_ANY || address === IPV6_ANY;
}

/** 224.0.0.0/4 or ff00::/8. */
export function isMulticast(address: IpAddress): boolean {
  return typeof address === 'number' ? address >>> 28 === 0xe : address.startsWith('ff');
}

/** 127.0.0.0/8 or ::1. */
export function isLoopback(address: IpAddress): boolean {
  return typeof address === 'number' ? address >>> 24 === 127 : address === IPV6_LOOPBACK;
}

/** Strict dotted decimal: four numbers, no leading zeros; otherwise undefined. */
export function parseIpv4(text: string): Ipv4Address | undefined {
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text);
  if (match === null) return undefined;
  let value = 0;
  for (let i = 1; i <= 4; i++) {
    const digits = match[i]!;
    const octet = Number(digits);
    if (octet > 255 || (digits.length > 1 && digits.startsWith('0'))) return undefined;
    value = value * 256 + octet;
  }
  return value as Ipv4Address;
}

export function formatIpv4(address: Ipv4Address): string {
  return `${address >>> 24}.${(address >>> 16) & 255}.${(address >>> 8) & 255}.${address & 255}`;
}

function parseGroups(text: string): string[] | undefined {
  if (text === '') return [];
  const groups: string[] = [];
  const parts = text.split(':');
  for (const [index, part] of parts.entries()) {
    if (part.includes('.')) {
      const v4 = index === parts.length - 1 ? parseIpv4(part) : undefined;
      if (v4 === undefined) return undefined;
      const hex = v4.toString(16).padStart(8, '0');
      groups.push(hex.slice(0, 4), hex.slice(4));
    } else {
      if (!/^[0-9a-fA-F]{1,4}$/.test(part)) return undefined;
      groups.push(part.toLowerCase().padStart(4, '0'));
    }
  }
  return groups;
}

/** RFC 4291 section 2.2 text, `::` and a dotted tail included, no zone; otherwise undefined. */
export function parseIpv6(text: string): Ipv6Address | undefined {
  const halves = text.split('::');
  if (halves.length > 2) return undefined;
  const head = parseGroups(halves[0]!);
  if (head === undefined) return undefined;
  if (halves.length === 1) return head.length === 8 ? (head.join('') as Ipv6Address) : undefined;
  if (halves[0]!.includes('.')) return undefined;
  const tail = parseGroups(halves[1]!);
  if (tail === undefined || head.length + tail.length > 7) return undefined;
  const zeros = '0000'.repeat(8 - head.length - tail.length);
  return (head.join('') + zeros + tail.join('')) as Ipv6Address;
}

/** RFC 5952: lower case, no leading zeros, the first longest run of two or more zero groups as `::`. */
export function formatIpv6(address: Ipv6Address): string {
  const groups: string[] = [];
  for (let i = 0; i < 32; i += 4) groups.push(Number.parseInt(address.slice(i, i + 4), 16).toString(16));
  let bestAt = -1;
  let bestLength = 1;
  for (let at = 0; at < 8; at++) {
    let length = 0;
    while (at + length < 8 && groups[at + length] === '0') length++;
    if (length > bestLength) [bestAt, bestLength] = [at, length];
    at += length;
  }
  if (bestAt < 0) return groups.join(':');
  return `${groups.slice(0, bestAt).join(':')}::${groups.slice(bestAt + bestLength).join(':')}`;
}

/** Either family; undefined when the text is neither. */
export function parseIpAddress(text: string): IpAddress | undefined {
  return text.includes(':') ? parseIpv6(text) : parseIpv4(text);
}

export function formatIpAddress(address: IpAddress): string {
  return typeof address === 'number' ? formatIpv4(address) : formatIpv6(address);
}

/** As `parseIpAddress`; throws AddressError ADDRESS_INVALID. */
export function ipAddress(text: string): IpAddress {
  const address = parseIpAddress(text);
  if (address === undefined) {
    throw new AddressError('ADDRESS_INVALID', `"${text}" is no IP address`, {
      remedy: 'write an IPv4 address such as 10.77.0.11 or an IPv6 address such as fd00::11',
      values: { text },
    });
  }
  return address;
}

/** As `parseIpv4`; throws AddressError ADDRESS_INVALID. */
export function ipv4Address(text: string): Ipv4Address {
  const address = ipAddress(text);
  if (typeof address === 'number') return address;
  throw new AddressError('ADDRESS_INVALID', `"${text}" is no IPv4 address`, {
    remedy: 'write an IPv4 address such as 10.77.0.11',
    values: { text },
  });
}

export function addressBits(address: IpAddress): 32 | 128 {
  return typeof address === 'number' ? 32 : 128;
}

/** `address/prefix`; a bare address gets its full length. Undefined when malformed. */
export function parseCidr(text: string): Cidr | undefined {
  const slash = text.indexOf('/');
  const address = parseIpAddress(slash < 0 ? text : text.slice(0, slash));
  if (address === undefined) return undefined;
  if (slash < 0) return { address, prefixLength: addressBits(address) };
  const digits = text.slice(slash + 1);
  if (!/^(0|[1-9]\d{0,2})$/.test(digits)) return undefined;
  const prefixLength = Number(digits);
  return prefixLength > addressBits(address) ? undefined : { address, prefixLength };
}

/** As `parseCidr`; throws AddressError CIDR_INVALID. */
export function cidr(text: string): Cidr {
  const parsed = parseCidr(text);
  if (parsed !== undefined) return parsed;
  throw new AddressError('CIDR_INVALID', `"${text}" is no address with prefix length`, {
    remedy: 'write it like 10.77.0.11/24',
    values: { text },
  });
}

export function formatCidr({ address, prefixLength }: Cidr): string {
  return `${formatIpAddress(address)}/${prefixLength}`;
}

/** The netmask of an IPv4 prefix length 0 … 32. */
export function ipv4Mask(prefixLength: number): number {
  return prefixLength === 0 ? 0 : (0xffffffff << (32 - prefixLength)) >>> 0;
}

/** Whether `address` lies in the network of `network`. Families never match each other. */
export function cidrContains(network: Cidr, address: IpAddress): boolean {
  if (typeof address === 'number') {
    if (typeof network.address !== 'number') return false;
    return ((address ^ network.address) & ipv4Mask(network.prefixLength)) === 0;
  }
  if (typeof network.address === 'number') return false;
  const bits = network.prefixLength;
  const digits = bits >>> 2;
  if (address.slice(0, digits) !== network.address.slice(0, digits)) return false;
  const rest = bits & 3;
  if (rest === 0) return true;
  const differing = Number.parseInt(address[digits]!, 16) ^ Number.parseInt(network.address[digits]!, 16);
  return differing >> (4 - rest) === 0;
}

/** The directed broadcast address; undefined for IPv6 and for prefixes 31 and 32 (RFC 3021). */
export function broadcastOf(network: Cidr): Ipv4Address | undefined {
  if (typeof network.address !== 'number' || network.prefixLength >= 31) return undefined;
  return ((network.address | ~ipv4Mask(network.prefixLength)) >>> 0) as Ipv4Address;
}

/** Six hex octets separated by `:` or `-`; otherwise undefined. */
export function parseMac(text: string): MacAddress | undefined {
  if (!/^[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}$/.test(text)) return undefined;
  return Number.parseInt(text.replace(/[:-]/g, ''), 16) as MacAddress;
}

/** As `parseMac`; throws AddressError MAC_INVALID. */
export function macAddress(text: string): MacAddress {
  const mac = parseMac(text);
  if (mac !== undefined) return mac;
  throw new AddressError('MAC_INVALID', `"${text}" is no MAC address`, {
    remedy: 'write six hex octets such as 02:00:00:00:00:0b',
    values: { text },
  });
}

export function formatMac(mac: MacAddress): string {
  return mac
    .toString(16)
    .padStart(12, '0')
    .replace(/..(?!$)/g, '$&:');
}

/** The group bit: broadcast and multicast. */
export function isGroupMac(mac: MacAddress): boolean {
  return (Math.floor(mac / 0x100_0000_0000) & 1) === 1;
}

export function readIpv4(buffer: Uint8Array, at: number): Ipv4Address {
  return (((buffer[at]! << 24) | (buffer[at + 1]! << 16) | (buffer[at + 2]! << 8) | buffer[at + 3]!) >>>
    0) as Ipv4Address;
}

export function writeIpv4(buffer: Uint8Array, at: number, address: Ipv4Address): void {
  buffer[at] = address >>> 24;
  buffer[at + 1] = address >>> 16;
  buffer[at + 2] = address >>> 8;
  buffer[at + 3] = address;
}

/** Allocates a string: not for per-packet work on IPv4 paths. */
export function readIpv6(buffer: Uint8Array, at: number): Ipv6Address {
  return Buffer.from(buffer.buffer, buffer.byteOffset + at, 16).toString('hex') as Ipv6Address;
}

export function writeIpv6(buffer: Uint8Array, at: number, address: Ipv6Address): void {
  for (let i = 0; i < 16; i++) buffer[at + i] = Number.parseInt(address.slice(2 * i, 2 * i + 2), 16);
}

export function readMac(buffer: Uint8Array, at: number): MacAddress {
  const high = (buffer[at]! << 8) | buffer[at + 1]!;
  const low = (buffer[at + 2]! << 24) | (buffer[at + 3]! << 16) | (buffer[at + 4]! << 8) | buffer[at + 5]!;
  return (high * 0x1_0000_0000 + (low >>> 0)) as MacAddress;
}

export function writeMac(buffer: Uint8Array, at: number, mac: MacAddress): void {
  const high = Math.floor(mac / 0x1_0000_0000);
  buffer[at] = high >>> 8;
  buffer[at + 1] = high;
  buffer[at + 2] = mac >>> 24;
  buffer[at + 3] = mac >>> 16;
  buffer[at + 4] = mac >>> 8;
  buffer[at + 5] = mac;
}
