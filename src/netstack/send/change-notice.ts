/**
 * The packet change program [2104] and the notice that invokes it (H8, Figs 24-26).
 *
 * While a notice is set, the old partition already owns the `second` address, but the other side of its open connections
 * still knows it by the `first` (previous) one. Outbound, packets whose IP source is exactly `second` get the source
 * `first` (2501; Fig 26 B → C). Inbound, packets of the flows steered to the old partition get the destination `second`.
 * ICMP errors are handled twice: in their own header, and in the packet they quote, which travelled the opposite way.
 *
 * Packets are changed in place, at constant length. Checksums are updated incrementally (RFC 1624), so a packet that was
 * damaged before stays recognisably damaged. When the offload header says NEEDS_CSUM, the field holds the pseudo-header sum
 * and is updated as a sum; segmentation requests stay valid, since every segment is cut from the changed header.
 *
 * Left alone: ARP and neighbour discovery (they must never announce `first`; see `announcesFirst`), a zero UDP checksum,
 * whatever follows the IP header of a fragment that is not the first, addresses inside IP options. Transports with a
 * checksum over the pseudo header other than TCP, UDP and ICMPv6 (DCCP, UDP-Lite) would arrive damaged.
 */
import { CodedError } from '../../common/index.ts';
import type { IpAddress } from '../wire/index.ts';
import {
  ARP,
  addAddress,
  arpIsValid,
  ETHERTYPE,
  ethernetHeaderLength,
  formatIpAddress,
  readIpv4,
  readU16,
  sumDelta,
  VNET,
} from '../wire/index.ts';
import type { AddressChange } from './rewrite-ipv4.ts';
import { rewriteIpv4 } from './rewrite-ipv4.ts';
import { announcesIpv6, rewriteIpv6 } from './rewrite-ipv6.ts';
import { PlainChange } from './rewrite-plain.ts';

/** Misuse of a change notice. */
export class ChangeNoticeError extends CodedError {}

export interface ChangeNoticeOptions {
  /** Number under which reports and captures name the notice. */
  readonly id?: number;
  /** The previous address of the old partition, by which clients know it. */
  readonly first: IpAddress;
  /** The address the old partition has altered to. */
  readonly second: IpAddress;
}

/** Counts of one notice since it was made. */
export interface ChangeCounters {
  /** Outbound packets whose source was set back to `first`. */
  rewritten: number;
  /** Inbound packets whose destination was set to `second`. */
  undone: number;
  /** Of these, ICMP errors in which the quoted packet was changed, too. */
  quotesRewritten: number;
  quotesUndone: number;
  /** ARP or neighbour advertisements for `first` that were refused: counted by whoever asks `announcesFirst`. */
  announcementsRefused: number;
}

function change(from: IpAddress, to: IpAddress): AddressChange {
  return {
    from,
    to,
    delta: sumDelta(addAddress(0, from), addAddress(0, to)),
    fromBytes: typeof from === 'string' ? Buffer.from(from, 'hex') : undefined,
    toBytes: typeof to === 'string' ? Buffer.from(to, 'hex') : undefined,
  };
}

export class ChangeNotice {
  readonly id: number;
  readonly first: IpAddress;
  readonly second: IpAddress;
  readonly counters: ChangeCounters = {
    rewritten: 0,
    undone: 0,
    quotesRewritten: 0,
    quotesUndone: 0,
    announcementsRefused: 0,
  };
  readonly #outbound: AddressChange;
  readonly #inbound: AddressChange;
  readonly #plainOutbound: PlainChange;
  readonly #plainInbound: PlainChange;
  readonly #etherType: number;

  /** @throws ChangeNoticeError CHANGE_NOTICE_INVALID when the addresses are equal or of different families. */
  constructor(options: ChangeNoticeOptions) {
    this.id = options.id ?? 0;
    this.first = options.first;
    this.second = options.second;
    if (this.first === this.second || typeof this.first !== typeof this.second) {
      throw new ChangeNoticeError(
        'CHANGE_NOTICE_INVALID',
        `no change notice can be made from ${formatIpAddress(this.second)} to ${formatIpAddress(this.first)}`,
        { remedy: 'give two different addresses of one family', values: { ...options } },
      );
    }
    this.#outbound = change(this.second, this.first);
    this.#inbound = change(this.first, this.second);
    this.#plainOutbound = new PlainChange(this.second, this.first, true);
    this.#plainInbound = new PlainChange(this.first, this.second, false);
    this.#etherType = typeof this.first === 'number' ? ETHERTYPE.IPV4 : ETHERTYPE.IPV6;
  }

  /**
   * 2403 for one packet (offload header + frame at buffer[offset, offset + length)) that leaves the old partition: source
   * `second` → `first`. Changes it in place; true when it did.
   */
  rewriteOutbound(buffer: Uint8Array, offset: number, length: number): boolean {
    if (this.#plainOutbound.rewrite(buffer, offset, length)) {
      this.counters.rewritten++;
      return true;
    }
    const ip = this.#network(buffer, offset, length);
    if (ip < 0) return false;
    const end = offset + length;
    const done =
      this.#etherType === ETHERTYPE.IPV4
        ? rewriteIpv4(buffer, offset, ip, end, true, this.#outbound)
        : rewriteIpv6(buffer, offset, ip, end, true, this.#outbound);
    if (done === 0) return false;
    this.counters.rewritten++;
    if (done === 2) this.counters.quotesRewritten++;
    return true;
  }

  /** The same for a TCP or UDP packet that is about to be made: its source. */
  sourceOf<A extends IpAddress>(source: A): A {
    if (source !== this.second) return source;
    this.counters.rewritten++;
    return this.first as A;
  }

  /**
   * The counterpart for one packet of a steered flow on its way to the old partition: destination `first` → `second`. Which
   * flows are steered is the caller's knowledge.
   */
  rewriteInbound(buffer: Uint8Array, offset: number, length: number): boolean {
    if (this.#plainInbound.rewrite(buffer, offset, length)) {
      this.counters.undone++;
      return true;
    }
    const ip = this.#network(buffer, offset, length);
    if (ip < 0) return false;
    const end = offset + length;
    const done =
      this.#etherType === ETHERTYPE.IPV4
        ? rewriteIpv4(buffer, offset, ip, end, false, this.#inbound)
        : rewriteIpv6(buffer, offset, ip, end, false, this.#inbound);
    if (done === 0) return false;
    this.counters.undone++;
    if (done === 2) this.counters.quotesUndone++;
    return true;
  }

  /**
   * Whether a packet from the old partition would tell the network that `first` is at its hardware address: an ARP packet
   * with that sender address, or neighbour discovery from or for it. Such a packet must not leave.
   */
  announcesFirst(buffer: Uint8Array, offset: number, length: number): boolean {
    const frame = offset + VNET.LENGTH;
    const header = ethernetHeaderLength(buffer, frame, length - VNET.LENGTH);
    if (header === 0) return false;
    const at = frame + header;
    const type = readU16(buffer, at - 2);
    if (typeof this.first === 'number') {
      if (type !== ETHERTYPE.ARP || !arpIsValid(buffer, at, offset + length - at)) return false;
      return readIpv4(buffer, at + ARP.SENDER_IP) === this.first;
    }
    return type === ETHERTYPE.IPV6 && announcesIpv6(buffer, at, offset + length, this.#inbound);
  }

  /** For captures and reports: `change notice 3: source 10.77.0.12 → 10.77.0.11`. */
  describe(direction: 'outbound' | 'inbound' = 'outbound'): string {
    const first = formatIpAddress(this.first);
    const second = formatIpAddress(this.second);
    return direction === 'outbound'
      ? `change notice ${this.id}: source ${second} → ${first}`
      : `change notice ${this.id}: destination ${first} → ${second}`;
  }

  /** Offset of the IP header when the frame carries the notice's family, else −1. */
  #network(buffer: Uint8Array, offset: number, length: number): number {
    const frame = offset + VNET.LENGTH;
    const header = ethernetHeaderLength(buffer, frame, length - VNET.LENGTH);
    if (header === 0) return -1;
    const ip = frame + header;
    return readU16(buffer, ip - 2) === this.#etherType ? ip : -1;
  }
}
