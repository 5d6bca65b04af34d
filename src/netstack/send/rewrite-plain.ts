/**
 * The packet that a notice meets nearly always, changed in a straight line: an untagged frame with TCP or UDP behind an IPv4 header
 * without options, not a later fragment, or behind a plain IPv6 header; its checksum is complete, or the one that the link completes.
 *
 * Everything is read and checked before the first byte is written. Whatever looks otherwise, and a packet of another address, is
 * left to the general path (rewrite-ipv4.ts, rewrite-ipv6.ts), which does the same to the packets taken here; a test compares both.
 * No calls and, for IPv4, no loops: measured by `make bench BENCH=M7`, that is what makes it cheap beside the stack's output.
 */
import type { IpAddress } from '../wire/index.ts';
import {
  addAddress,
  ETHERNET,
  ETHERTYPE,
  foldSum,
  IPV4,
  IPV6,
  PROTOCOL,
  sumDelta,
  TCP,
  UDP,
  VNET,
  VNET_FLAG,
} from '../wire/index.ts';

const TYPE = VNET.LENGTH + ETHERNET.TYPE;
const IP = VNET.LENGTH + ETHERNET.HEADER;
const IPV4_NO_OPTIONS = 0x45;
/** Header and what is needed of the transport header: as far as its checksum. */
const TCP_NEEDED = TCP.CHECKSUM + 2;
const UDP_NEEDED = UDP.CHECKSUM + 2;

export class PlainChange {
  readonly #isIpv4: boolean;
  /** Of the address, from the start of the packet unit. */
  readonly #at: number;
  readonly #from: Uint8Array;
  readonly #to: Uint8Array;
  /** The same for IPv4. */
  readonly #from0: number;
  readonly #from1: number;
  readonly #from2: number;
  readonly #from3: number;
  readonly #to0: number;
  readonly #to1: number;
  readonly #to2: number;
  readonly #to3: number;
  /** ~m + m' of RFC 1624, as one word: below 2^16, and 0 only if nothing is added. */
  readonly #delta: number;

  constructor(from: IpAddress, to: IpAddress, ofSource: boolean) {
    this.#isIpv4 = typeof from === 'number';
    const at = this.#isIpv4
      ? ofSource
        ? IPV4.SOURCE
        : IPV4.DESTINATION
      : ofSource
        ? IPV6.SOURCE
        : IPV6.DESTINATION;
    this.#at = IP + at;
    this.#from = bytesOf(from);
    this.#to = bytesOf(to);
    [this.#from0, this.#from1, this.#from2, this.#from3] = this.#from as unknown as Four;
    [this.#to0, this.#to1, this.#to2, this.#to3] = this.#to as unknown as Four;
    this.#delta = foldSum(sumDelta(addAddress(0, from), addAddress(0, to)));
  }

  /** The packet unit at buffer[offset, offset + length). True: changed. False: untouched, it is the general path's. */
  rewrite(buffer: Uint8Array, offset: number, length: number): boolean {
    return this.#isIpv4
      ? this.#rewriteIpv4(buffer, offset, length)
      : this.#rewriteIpv6(buffer, offset, length);
  }

  #rewriteIpv4(buffer: Uint8Array, offset: number, length: number): boolean {
    const ip = offset + IP;
    const at = offset + this.#at;
    if (
      length < IP + IPV4.MIN_HEADER + UDP_NEEDED ||
      buffer[at + 3] !== this.#from3 ||
      buffer[at + 2] !== this.#from2 ||
      buffer[at + 1] !== this.#from1 ||
      buffer[at] !== this.#from0 ||
      buffer[ip] !== IPV4_NO_OPTIONS ||
      buffer[offset + TYPE] !== ETHERTYPE.IPV4 >>> 8 ||
      buffer[offset + TYPE + 1] !== (ETHERTYPE.IPV4 & 0xff) ||
      ((buffer[ip + IPV4.FRAGMENT]! & 0x1f) | buffer[ip + IPV4.FRAGMENT + 1]!) !== 0
    ) {
      return false;
    }
    const transport = ip + IPV4.MIN_HEADER;
    const protocol = buffer[ip + IPV4.PROTOCOL];
    if (
      !this.#transport(
        buffer,
        offset,
        length,
        protocol!,
        transport,
        ((buffer[ip + 2]! << 8) | buffer[ip + 3]!) - IPV4.MIN_HEADER,
      )
    )
      return false;
    buffer[at] = this.#to0;
    buffer[at + 1] = this.#to1;
    buffer[at + 2] = this.#to2;
    buffer[at + 3] = this.#to3;
    const sum =
      (((buffer[ip + IPV4.CHECKSUM]! << 8) | buffer[ip + IPV4.CHECKSUM + 1]!) ^ 0xffff) + this.#delta;
    const word = ~((sum & 0xffff) + (sum >>> 16));
    buffer[ip + IPV4.CHECKSUM] = word >>> 8;
    buffer[ip + IPV4.CHECKSUM + 1] = word;
    return true;
  }

  #rewriteIpv6(buffer: Uint8Array, offset: number, length: number): boolean {
    const ip = offset + IP;
    const at = offset + this.#at;
    if (
      length < IP + IPV6.HEADER + UDP_NEEDED ||
      buffer[ip]! >>> 4 !== 6 ||
      buffer[offset + TYPE] !== ETHERTYPE.IPV6 >>> 8 ||
      buffer[offset + TYPE + 1] !== (ETHERTYPE.IPV6 & 0xff)
    ) {
      return false;
    }
    const from = this.#from;
    for (let i = 15; i >= 0; i--) if (buffer[at + i] !== from[i]) return false;
    const payload = (buffer[ip + IPV6.PAYLOAD_LENGTH]! << 8) | buffer[ip + IPV6.PAYLOAD_LENGTH + 1]!;
    if (!this.#transport(buffer, offset, length, buffer[ip + IPV6.NEXT_HEADER]!, ip + IPV6.HEADER, payload))
      return false;
    const to = this.#to;
    for (let i = 0; i < 16; i++) buffer[at + i] = to[i]!;
    return true;
  }

  /** Changes the checksum of the transport header, of which the IP header says `size` bytes. False: not a plain one, untouched. */
  #transport(
    buffer: Uint8Array,
    offset: number,
    length: number,
    protocol: number,
    transport: number,
    size: number,
  ): boolean {
    let field = transport + TCP.CHECKSUM;
    if (protocol === PROTOCOL.TCP) {
      if (size < TCP_NEEDED) return false;
    } else {
      if (protocol !== PROTOCOL.UDP || size < UDP_NEEDED) return false;
      field = transport + UDP.CHECKSUM;
    }
    if (field + 2 > offset + length) return false;
    let word = (buffer[field]! << 8) | buffer[field + 1]!;
    if ((buffer[offset + VNET.FLAGS]! & VNET_FLAG.NEEDS_CSUM) !== 0) {
      const start = buffer[offset + VNET.CSUM_START]! | (buffer[offset + VNET.CSUM_START + 1]! << 8);
      const within = buffer[offset + VNET.CSUM_OFFSET]! | (buffer[offset + VNET.CSUM_OFFSET + 1]! << 8);
      if (offset + VNET.LENGTH + start + within !== field) return false;
      const sum = word + this.#delta;
      word = (sum & 0xffff) + (sum >>> 16);
    } else if (protocol === PROTOCOL.TCP) {
      const sum = (word ^ 0xffff) + this.#delta;
      word = ~((sum & 0xffff) + (sum >>> 16));
    } else if (word !== 0) {
      const sum = (word ^ 0xffff) + this.#delta;
      word = ~((sum & 0xffff) + (sum >>> 16));
      // A computed zero is sent as all ones (RFC 768).
      if ((word & 0xffff) === 0) word = 0xffff;
    }
    buffer[field] = word >>> 8;
    buffer[field + 1] = word;
    return true;
  }
}

type Four = [number, number, number, number];

function bytesOf(address: IpAddress): Uint8Array {
  if (typeof address === 'string') return new Uint8Array(Buffer.from(address, 'hex'));
  return Uint8Array.of(address >>> 24, address >>> 16, address >>> 8, address);
}
