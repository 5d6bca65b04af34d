/**
 * What IP offers to a transport (`IpOutput`) and asks of it (`Transport`). The unit of both directions is a range of a
 * caller's buffer; nobody allocates per packet.
 *
 * Output: the transport builds its header and payload at some `offset ≥ HEADROOM` of a scratch buffer; the HEADROOM bytes
 * in front belong to IP, Ethernet and the offload header. When `output` returns, the packet has been copied (to the link or
 * to the queue of packets waiting for an address) or refused: the scratch buffer is the caller's again.
 *
 * Input: IP hands over whole datagrams (reassembled), its own header verified, lengths consistent.
 */
import type { DropReason, IpAddress } from '../wire/index.ts';

/** Bytes in front of a transport header: offload header 10, Ethernet 14, IP up to 40. */
export const HEADROOM = 64;

/** Time to live and hop limit of what does not ask for another one. */
export const DEFAULT_HOPS = 64;

/** What became of a packet handed to `IpOutput.output`. */
export const OUTPUT = {
  /** Given to the link. */
  SENT: 0,
  /** Kept until the next hop's hardware address is known; dropped and reported as `host-unreachable` if it stays unknown. */
  PENDING: 1,
  /** Not taken: the link's queue is full; `Transport.writable` follows. */
  LINK_FULL: 2,
  /** Not taken: no route, or `source` is not an address of this host. */
  NO_ROUTE: 3,
  /** Not taken: larger than the path's MTU and not to be fragmented. */
  TOO_BIG: 4,
  /** Not taken: too many packets wait for this next hop. */
  PENDING_FULL: 5,
} as const;
export type OutputResult = (typeof OUTPUT)[keyof typeof OUTPUT];

/** `checksumOffset` for a transport whose checksum is already in place. */
export const CHECKSUM_COMPLETE = -1;

export interface IpOutput {
  /**
   * Sends transport header + payload at buffer[offset, offset + length).
   * @param checksumOffset where the checksum field stands, from `offset` (TCP 16, UDP 6); the field is overwritten with the
   *   checksum, or with the pseudo-header sum when the link completes it. CHECKSUM_COMPLETE: nothing is touched.
   * @param gsoSize 0, or the payload bytes per segment of a TCP packet larger than the path MTU; only up to
   *   `maxGsoLength(destination)`. The TCP header (options included) is then repeated by the link in each segment.
   * @param dontFragment sets DF (IPv4); the packet is refused with TOO_BIG when it exceeds the path MTU. Otherwise it is fragmented.
   * @param ttl 0 means the default (64).
   */
  output(
    buffer: Uint8Array,
    offset: number,
    length: number,
    protocol: number,
    source: IpAddress,
    destination: IpAddress,
    checksumOffset: number,
    gsoSize: number,
    dontFragment: boolean,
    ttl: number,
  ): OutputResult;
  /** Pushes what was output to the device. IP does it itself at the end of each received batch; others call it after a burst. */
  flush(): void;
  /** The address to use as source towards `destination`, or undefined when there is no route. */
  sourceFor(destination: IpAddress): IpAddress | undefined;
  /** Whether `address` is one of ours now (own, prepared or just left). */
  isLocal(address: IpAddress): boolean;
  /** Whether `address` is the limited broadcast, or the one of a network of ours. */
  isBroadcast?(address: IpAddress): boolean;
  /** The address under which transports know a local address: differs only around `alter` (see address-table.ts). */
  canonical(address: IpAddress): IpAddress;
  /**
   * Largest IP packet to `destination` in bytes: the link's MTU, or less after "fragmentation needed" or "packet too big". `source` tells which
   * link, where the host has several.
   */
  pathMtu(destination: IpAddress, source: IpAddress): number;
  /** Largest transport header + payload for one `output` with a `gsoSize`; 0 when the link does not segment. */
  maxGsoLength(destination: IpAddress, source: IpAddress): number;
}

/** RFC 792, RFC 1812 and RFC 4443 errors as a transport tells them apart (RFC 1122 section 4.2.3.9, RFC 5461: all but one are soft). */
export type IcmpErrorKind =
  | 'network-unreachable'
  | 'host-unreachable'
  | 'protocol-unreachable'
  | 'port-unreachable'
  /** Over IPv6: packet too big. */
  | 'fragmentation-needed'
  | 'source-route-failed'
  | 'prohibited'
  | 'time-exceeded'
  | 'parameter-problem';

/** UDP, TCP: registered for one protocol number. Must not throw. */
export interface Transport {
  /**
   * One datagram: the IP header at buffer[ipOffset, ipOffset + ipHeaderLength), the transport's part from there to
   * ipOffset + totalLength. Valid only during the call. A datagram above the MTU is a train of segments that the link joined.
   * @param destination canonical local address (or a broadcast/multicast one); the header may hold its alias, so verify
   *   the checksum from the header's own addresses: `transportChecksumValid`.
   * @param checksumKnownGood the link vouches for the transport checksum; do not verify, the field may hold a partial sum.
   * @returns undefined when accepted, else why it was dropped; IP counts it, and answers `udp-port-closed` with ICMP.
   */
  input(
    buffer: Uint8Array,
    ipOffset: number,
    ipHeaderLength: number,
    totalLength: number,
    source: IpAddress,
    destination: IpAddress,
    checksumKnownGood: boolean,
  ): DropReason | undefined;
  /**
   * An ICMP error, or our own failure to resolve the next hop, about a packet that this host sent from `source` (canonical)
   * to `destination`. The first `length ≥ 8` bytes of its transport header are at buffer[offset, offset + length).
   * @param mtu for `fragmentation-needed` the next hop's MTU as already clamped into `pathMtu`, else 0.
   * @returns undefined when it matched something of ours, else a drop reason (`icmp-unrelated-error`).
   */
  icmpError(
    kind: IcmpErrorKind,
    source: IpAddress,
    destination: IpAddress,
    buffer: Uint8Array,
    offset: number,
    length: number,
    mtu: number,
  ): DropReason | undefined;
  /** A local address has been altered: everything keyed by `from` is now keyed by `to`, open connections included. */
  rehome(from: IpAddress, to: IpAddress): void;
  /** `address` is gone: what is bound to it cannot go on. */
  addressRemoved(address: IpAddress): void;
  /** After the last packet of a received batch, before IP flushes: send the acknowledgements that were put off. */
  endOfBatch(): void;
  /** After LINK_FULL: there is room again. */
  writable(): void;
}
