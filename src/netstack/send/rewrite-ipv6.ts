/** One address replaced by another in an IPv6 packet. There is no header checksum; ICMPv6 covers the pseudo header. */
import {
  foldSum,
  ICMP,
  ICMPV6_TYPE,
  IPV6,
  ipv6PayloadLength,
  ipv6UpperLayer,
  PROTOCOL,
  updateChecksum,
  updatePartialSum,
} from '../wire/index.ts';
import type { AddressChange, RewriteResult } from './rewrite-ipv4.ts';
import { isPartialSum, updateQuotedTransport, updateTransportChecksum } from './rewrite-ipv4.ts';

const ICMPV6_FIRST_INFORMATIONAL = 128;
const NEIGHBOUR_SOLICITATION = 135;
/** Target address of neighbour solicitation and advertisement, from the ICMPv6 header. */
const ND_TARGET = 8;

function matches(buffer: Uint8Array, at: number, bytes: Uint8Array): boolean {
  for (let i = 0; i < 16; i++) if (buffer[at + i] !== bytes[i]) return false;
  return true;
}

function isNeighbourDiscovery(type: number): boolean {
  return type >= ICMPV6_TYPE.ROUTER_SOLICITATION && type <= ICMPV6_TYPE.REDIRECT;
}

/** As `rewriteIpv4`. Neighbour discovery is left alone. */
export function rewriteIpv6(
  buffer: Uint8Array,
  offset: number,
  ip: number,
  end: number,
  ofSource: boolean,
  change: AddressChange,
): RewriteResult {
  if (ip + IPV6.HEADER > end || buffer[ip]! >>> 4 !== 6) return 0;
  const address = ip + (ofSource ? IPV6.SOURCE : IPV6.DESTINATION);
  if (!matches(buffer, address, change.fromBytes!)) return 0;
  const packetEnd = Math.min(end, ip + IPV6.HEADER + ipv6PayloadLength(buffer, ip));
  const upper = ipv6UpperLayer(buffer, ip, packetEnd);
  const protocol = upper & 0xff;
  const at = Math.floor(upper / 256);
  const isIcmp = upper >= 0 && protocol === PROTOCOL.ICMPV6 && at + ICMP.HEADER <= packetEnd;
  if (isIcmp && isNeighbourDiscovery(buffer[at]!)) return 0;
  buffer.set(change.toBytes!, address);
  if (upper < 0) return 1;
  if (!isIcmp) {
    updateTransportChecksum(buffer, offset, protocol, at, packetEnd, change.delta);
    return 1;
  }
  const field = at + ICMP.CHECKSUM;
  const isError = buffer[at]! < ICMPV6_FIRST_INFORMATIONAL;
  const quoteDelta = isError ? rewriteQuote(buffer, at + ICMP.HEADER, packetEnd, !ofSource, change) : -1;
  if (isPartialSum(buffer, offset, field)) updatePartialSum(buffer, field, change.delta);
  else updateChecksum(buffer, field, foldSum(change.delta + Math.max(quoteDelta, 0)));
  return quoteDelta < 0 ? 1 : 2;
}

/** What the change adds to the sum over the quote, or −1 when the quote is not about this address. */
function rewriteQuote(
  buffer: Uint8Array,
  ip: number,
  end: number,
  ofSource: boolean,
  change: AddressChange,
): number {
  if (ip + IPV6.HEADER > end || buffer[ip]! >>> 4 !== 6) return -1;
  const address = ip + (ofSource ? IPV6.SOURCE : IPV6.DESTINATION);
  if (!matches(buffer, address, change.fromBytes!)) return -1;
  buffer.set(change.toBytes!, address);
  const upper = ipv6UpperLayer(buffer, ip, end);
  if (upper < 0) return change.delta;
  return (
    change.delta + updateQuotedTransport(buffer, upper & 0xff, Math.floor(upper / 256), end, change.delta)
  );
}

/** Neighbour discovery from `change.from`, or a solicitation/advertisement with it as target that is not a question to others. */
export function announcesIpv6(buffer: Uint8Array, ip: number, end: number, change: AddressChange): boolean {
  if (ip + IPV6.HEADER > end || buffer[ip]! >>> 4 !== 6) return false;
  const upper = ipv6UpperLayer(buffer, ip, end);
  if (upper < 0 || (upper & 0xff) !== PROTOCOL.ICMPV6) return false;
  const at = Math.floor(upper / 256);
  if (at + ICMP.HEADER > end || !isNeighbourDiscovery(buffer[at]!)) return false;
  if (matches(buffer, ip + IPV6.SOURCE, change.fromBytes!)) return true;
  if (buffer[at] === NEIGHBOUR_SOLICITATION || at + ND_TARGET + 16 > end) return false;
  return (
    buffer[at] === ICMPV6_TYPE.NEIGHBOUR_ADVERTISEMENT && matches(buffer, at + ND_TARGET, change.fromBytes!)
  );
}
