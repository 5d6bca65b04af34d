/**
 * Addresses of both families as 32-bit integers, so that tables and packets compare them without an object or a string.
 *
 * An IPv4 address is its own key, as a signed integer. An IPv6 address gets a number from 1 on: no host has an address in
 * 0.0.0.0/8, so the families never meet. The numbers are given out for addresses that somebody refers to: commands (kept for
 * good) and flows (kept as long as the flow). An address that nobody refers to has the key NOBODY; looking it up changes
 * nothing, so packets from invented addresses take no room. Hash chains, free list and reference counts live in typed arrays.
 */
import type { IpAddress, Ipv4Address, Ipv6Address } from '../../netstack/index.ts';
import { readIpv6, writeIpv6 } from '../../netstack/index.ts';

/** An IPv6 address that nothing refers to. */
export const NOBODY = 0;
/** An IPv4 address in 0.0.0.1 … 0.255.255.255: equals no key that is given out, and no host. */
const IMPOSSIBLE = -1;

const FIRST_CAPACITY = 256;
const MAX_CAPACITY = 1 << 23;
/** References of an address that a command named. */
const FOR_GOOD = 0x4000_0000;

/** The key of the IPv4 address at `at`. */
export function ipv4Key(buffer: Uint8Array, at: number): number {
  const key = (buffer[at]! << 24) | (buffer[at + 1]! << 16) | (buffer[at + 2]! << 8) | buffer[at + 3]!;
  return key >>> 24 === 0 && key !== 0 ? IMPOSSIBLE : key;
}

export function isIpv6Key(key: number): boolean {
  return key >>> 24 === 0 && key !== NOBODY;
}

export class AddressKeys {
  readonly #salt: number;
  /** 16 bytes per key; place 0 is unused. */
  #bytes = new Uint8Array(0);
  #references = new Int32Array(0);
  /** Chain of a bucket, or of the free list. */
  #next = new Int32Array(0);
  #bucket = new Int32Array(0);
  #free = NOBODY;
  #size = 0;
  readonly #scratch = new Uint8Array(16);

  /** `salt` makes the hash unpredictable for senders. */
  constructor(salt = 0) {
    this.#salt = salt | 0;
    this.#grow(FIRST_CAPACITY);
  }

  /** IPv6 addresses that have a key. */
  get size(): number {
    return this.#size;
  }

  /** Key of the IPv6 address at `at`, or NOBODY. */
  find(buffer: Uint8Array, at: number): number {
    let key = this.#bucket[this.hash(buffer, at) & (this.#bucket.length - 1)]!;
    while (key !== NOBODY) {
      if (this.#matches(key, buffer, at)) return key;
      key = this.#next[key]!;
    }
    return NOBODY;
  }

  /**
   * As `find`, but an address without a key gets one; the caller has to `retain` it at once. NOBODY when there are eight
   * million.
   */
  add(buffer: Uint8Array, at: number): number {
    const known = this.find(buffer, at);
    if (known !== NOBODY) return known;
    if (this.#free === NOBODY) {
      if (this.#references.length >= MAX_CAPACITY) return NOBODY;
      this.#grow(this.#references.length * 2);
    }
    const key = this.#free;
    this.#free = this.#next[key]!;
    this.#size++;
    for (let i = 0; i < 16; i++) this.#bytes[key * 16 + i] = buffer[at + i]!;
    this.#references[key] = 0;
    this.#link(key);
    return key;
  }

  retain(key: number): void {
    this.#references[key]!++;
  }

  release(key: number): void {
    this.#references[key]!--;
    this.#collect(key);
  }

  /** Takes the key back if nothing refers to it. */
  #collect(key: number): void {
    if (this.#references[key] !== 0) return;
    const bucket = this.hash(this.#bytes, key * 16) & (this.#bucket.length - 1);
    if (this.#bucket[bucket] === key) this.#bucket[bucket] = this.#next[key]!;
    else {
      let at = this.#bucket[bucket]!;
      while (this.#next[at] !== key) at = this.#next[at]!;
      this.#next[at] = this.#next[key]!;
    }
    this.#references[key] = -1;
    this.#next[key] = this.#free;
    this.#free = key;
    this.#size--;
  }

  /** Key of an address that a command names: it is kept for good. */
  keep(address: IpAddress): number {
    if (typeof address === 'number') return address | 0;
    writeIpv6(this.#scratch, 0, address);
    const key = this.add(this.#scratch, 0);
    this.#references[key]! |= FOR_GOOD;
    return key;
  }

  /** Key of an address, NOBODY for an IPv6 one that nothing refers to. */
  lookUp(address: IpAddress): number {
    if (typeof address === 'number') return address | 0;
    writeIpv6(this.#scratch, 0, address);
    return this.find(this.#scratch, 0);
  }

  /** As `add`, for an address of either family. */
  addAddress(address: IpAddress): number {
    if (typeof address === 'number') return address | 0;
    writeIpv6(this.#scratch, 0, address);
    return this.add(this.#scratch, 0);
  }

  addressOf(key: number): IpAddress {
    return isIpv6Key(key) ? (readIpv6(this.#bytes, key * 16) as Ipv6Address) : ((key >>> 0) as Ipv4Address);
  }

  /** Salted, of the IPv6 address at `at`. */
  hash(buffer: Uint8Array, at: number): number {
    let h = this.#salt;
    for (let i = at; i < at + 16; i += 4) {
      const word = (buffer[i]! << 24) | (buffer[i + 1]! << 16) | (buffer[i + 2]! << 8) | buffer[i + 3]!;
      h = Math.imul(h ^ word, 0x85ebca6b);
      h ^= h >>> 15;
    }
    h = Math.imul(h, 0xc2b2ae35);
    return h ^ (h >>> 13);
  }

  #matches(key: number, buffer: Uint8Array, at: number): boolean {
    const base = key * 16;
    for (let i = 15; i >= 0; i--) if (this.#bytes[base + i] !== buffer[at + i]) return false;
    return true;
  }

  #link(key: number): void {
    const bucket = this.hash(this.#bytes, key * 16) & (this.#bucket.length - 1);
    this.#next[key] = this.#bucket[bucket]!;
    this.#bucket[bucket] = key;
  }

  #grow(capacity: number): void {
    const before = this.#references.length;
    const bytes = new Uint8Array(capacity * 16);
    bytes.set(this.#bytes);
    const references = new Int32Array(capacity).fill(-1);
    references.set(this.#references);
    this.#bytes = bytes;
    this.#references = references;
    this.#next = new Int32Array(capacity);
    this.#bucket = new Int32Array(capacity);
    for (let key = 1; key < before; key++) this.#link(key);
    for (let key = capacity - 1; key >= Math.max(1, before); key--) {
      this.#next[key] = this.#free;
      this.#free = key;
    }
  }
}
