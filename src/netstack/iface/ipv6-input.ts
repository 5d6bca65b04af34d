/**
 * IPv6 input (RFC 8200; RFC 8504 as far as a host with static addresses goes): length, addresses, extension headers; fragments
 * are collected; whole datagrams go to ICMPv6 or to the transport of their protocol.
 *
 * A datagram that has been put together keeps its fragment header, which then says "offset 0, last": what follows is the same
 * as for one that came like that (RFC 6946).
 */
import type { Clock } from '../../common/index.ts';
import type { DropReason, IpAddress, Ipv6Address, Ipv6Reader } from '../wire/index.ts';
import {
  ICMP,
  ICMPV6_PARAMETER_PROBLEM,
  ICMPV6_TYPE,
  ICMPV6_UNREACHABLE,
  IPV6,
  IPV6_EXTENSION,
  IPV6_FRAGMENT,
  Ipv6HeaderWalk,
  ipv6FragmentOffset,
  ipv6MoreFragments,
  ipv6PayloadLength,
  isLoopback,
  isMappedIpv4,
  isMulticast,
  isUnspecified,
  PROTOCOL,
  readU32,
  TCP,
  UDP,
  VNET,
  VNET_GSO,
  vnetChecksumGood,
  vnetGsoSize,
  vnetGsoType,
  writeU16,
} from '../wire/index.ts';
import type { AddressTable } from './address-table.ts';
import type { Icmpv6Handler } from './icmpv6-handler.ts';
import type { ReassemblyLimits, ReassemblyReasons } from './reassembly.ts';
import { Reassembler } from './reassembly.ts';
import type { Transport } from './transport-interface.ts';
import { UdpSegmentation } from './udp-segmentation.ts';

/** RFC 8200 section 4.5. */
const REASSEMBLY_TIMEOUT_MS = 60_000;

const REASONS: ReassemblyReasons = {
  malformed: 'ipv6-fragment-malformed',
  overlap: 'ipv6-fragment-overlap',
  tooBig: 'ipv6-fragment-too-big',
  limit: 'ipv6-fragment-limit',
  timeout: 'ipv6-fragment-timeout',
};

export interface Ipv6InputContext {
  readonly clock: Clock;
  readonly addresses: AddressTable;
  readonly reader: Ipv6Reader;
  readonly icmp: Icmpv6Handler;
  transportOf(protocol: number): Transport | undefined;
  /** Something that had been accepted is given up. */
  discard(reason: DropReason): void;
  flush(): void;
}

export class Ipv6Input {
  readonly #context: Ipv6InputContext;
  readonly #reassembler: Reassembler;
  readonly #walk = new Ipv6HeaderWalk();
  readonly #udpSegmentation = new UdpSegmentation();

  constructor(context: Ipv6InputContext, limits: Partial<ReassemblyLimits> | undefined) {
    this.#context = context;
    this.#reassembler = new Reassembler(
      context.clock,
      { giveUp: (reason, first) => this.#reassemblyGivenUp(reason, first) },
      REASONS,
      { timeoutMs: REASSEMBLY_TIMEOUT_MS, ...limits },
    );
  }

  /** A frame's payload at buffer[ip, end); the offload header stands at `offset`. */
  input(
    buffer: Uint8Array,
    offset: number,
    ip: number,
    end: number,
    toGroupMac: boolean,
  ): DropReason | undefined {
    if (end - ip < IPV6.HEADER) return 'ipv6-too-short';
    if (buffer[ip]! >>> 4 !== 6) return 'ipv6-bad-version';
    const packetEnd = ip + IPV6.HEADER + ipv6PayloadLength(buffer, ip);
    if (packetEnd > end) return 'ipv6-bad-length';
    const { addresses, reader } = this.#context;
    const source = reader.read(buffer, ip + IPV6.SOURCE);
    if (isMulticast(source) || isLoopback(source) || isMappedIpv4(source)) return 'ipv6-bad-source';
    const address = reader.read(buffer, ip + IPV6.DESTINATION);
    const group = isMulticast(address);
    const destination = group ? address : addresses.canonicalOf(address);
    if (destination === undefined || isLoopback(address) || (group && !addresses.isMember(address))) {
      return 'ipv6-not-for-us';
    }
    const good = vnetChecksumGood(buffer, offset);
    const toGroup = toGroupMac || group;
    const reason = this.#walk.walk(buffer, ip, packetEnd);
    if (reason !== undefined) {
      this.#problem(buffer, ip, packetEnd, toGroup);
      return reason;
    }
    if (this.#walk.protocol === IPV6_EXTENSION.FRAGMENT) {
      return this.#inputFragment(buffer, ip, packetEnd, source, destination, toGroup, good);
    }
    const frame = offset + VNET.LENGTH;
    const udpSegment = vnetGsoType(buffer, offset) === VNET_GSO.UDP_L4 ? vnetGsoSize(buffer, offset) : 0;
    return this.#deliver(buffer, frame, ip, packetEnd, source, destination, toGroup, good, udpSegment);
  }

  /** A packet from ourselves to ourselves, at the start of its buffer. */
  inputLooped(buffer: Uint8Array): DropReason | undefined {
    const { addresses, reader } = this.#context;
    const source = reader.read(buffer, IPV6.SOURCE);
    const destination = addresses.canonicalOf(reader.read(buffer, IPV6.DESTINATION));
    if (destination === undefined) return 'ipv6-not-for-us';
    const reason = this.#walk.walk(buffer, 0, buffer.length);
    if (reason !== undefined) return reason;
    return this.#deliver(buffer, -1, 0, buffer.length, source, destination, false, true, 0);
  }

  /** The header walk has stopped at a fragment header. */
  #inputFragment(
    buffer: Uint8Array,
    ip: number,
    end: number,
    source: Ipv6Address,
    destination: IpAddress,
    toGroup: boolean,
    good: boolean,
  ): DropReason | undefined {
    if (isUnspecified(source) || this.#context.addresses.isLocal(source)) return 'ipv6-bad-source';
    const fragment = this.#walk.at;
    const start = ipv6FragmentOffset(buffer, fragment);
    const more = ipv6MoreFragments(buffer, fragment);
    if (start === 0 && !more) return this.#inputWhole(buffer, ip, end, source, destination, toGroup, good);
    const payload = fragment + IPV6_FRAGMENT.HEADER;
    const limit = IPV6.MAX_PAYLOAD - (fragment - ip - IPV6.HEADER);
    const { HEADER_FIELD, INCOMPLETE_CHAIN } = ICMPV6_PARAMETER_PROBLEM;
    if (more && (end - payload) % 8 !== 0) {
      this.#tell(buffer, ip, end, HEADER_FIELD, IPV6.PAYLOAD_LENGTH, toGroup);
      return 'ipv6-fragment-malformed';
    }
    if (start + (end - payload) > limit) {
      this.#tell(buffer, ip, end, HEADER_FIELD, fragment + IPV6_FRAGMENT.OFFSET - ip, toGroup);
      return 'ipv6-fragment-too-big';
    }
    if (start === 0 && !this.#chainComplete(buffer, end)) {
      this.#tell(buffer, ip, end, INCOMPLETE_CHAIN, 0, toGroup);
      return 'ipv6-fragment-malformed';
    }
    const identification = readU32(buffer, fragment + IPV6_FRAGMENT.IDENTIFICATION);
    const result = this.#reassembler.add(buffer, ip, {
      key: `${source} ${destination} ${identification}`,
      headerLength: payload - ip,
      payloadLength: end - payload,
      start,
      more,
      limit,
      checksumKnownGood: good,
    });
    if (result === undefined || typeof result === 'string') return result;
    const { bytes, headerLength } = result;
    if (bytes.length - IPV6.HEADER - IPV6_FRAGMENT.HEADER > IPV6.MAX_PAYLOAD) return 'ipv6-fragment-too-big';
    writeU16(bytes, IPV6.PAYLOAD_LENGTH, Math.min(bytes.length - IPV6.HEADER, IPV6.MAX_PAYLOAD));
    writeU16(bytes, headerLength - IPV6_FRAGMENT.HEADER + IPV6_FRAGMENT.OFFSET, 0);
    // The headers in front of the payload are the first fragment's, not those just walked over.
    const reason = this.#walk.walk(bytes, 0, bytes.length);
    if (reason !== undefined) return reason;
    return this.#inputWhole(bytes, 0, bytes.length, source, destination, toGroup, result.checksumKnownGood);
  }

  /** Behind a fragment header that says "offset 0, last". */
  #inputWhole(
    buffer: Uint8Array,
    ip: number,
    end: number,
    source: Ipv6Address,
    destination: IpAddress,
    toGroup: boolean,
    good: boolean,
  ): DropReason | undefined {
    const reason = this.#walk.resume(buffer, end);
    if (reason !== undefined) {
      this.#problem(buffer, ip, end, toGroup);
      return reason;
    }
    return this.#deliver(buffer, -1, ip, end, source, destination, toGroup, good, 0);
  }

  /** RFC 7112: the first fragment holds all headers, the upper layer's included. */
  #chainComplete(buffer: Uint8Array, end: number): boolean {
    const reason = this.#walk.resume(buffer, end);
    if (reason !== undefined) return reason === 'ipv6-no-next-header';
    const { protocol, at } = this.#walk;
    const least =
      protocol === PROTOCOL.TCP ? TCP.MIN_HEADER : protocol === PROTOCOL.ICMPV6 ? ICMP.HEADER : UDP.HEADER;
    return at + least <= end;
  }

  /** The header walk has ended at the upper layer. */
  #deliver(
    buffer: Uint8Array,
    frame: number,
    ip: number,
    end: number,
    source: Ipv6Address,
    destination: IpAddress,
    toGroup: boolean,
    good: boolean,
    udpSegment: number,
  ): DropReason | undefined {
    const { addresses, icmp, transportOf } = this.#context;
    const { protocol, at } = this.#walk;
    const headerLength = at - ip;
    const total = end - ip;
    if (protocol === PROTOCOL.ICMPV6) {
      return icmp.input(buffer, frame, ip, headerLength, total, source, destination, good);
    }
    if (isUnspecified(source) || (frame >= 0 && addresses.isLocal(source))) return 'ipv6-bad-source';
    if (protocol === PROTOCOL.TCP && toGroup) return 'tcp-broadcast';
    const transport = transportOf(protocol);
    if (transport === undefined) {
      const { NEXT_HEADER } = ICMPV6_PARAMETER_PROBLEM;
      this.#tell(buffer, ip, end, NEXT_HEADER, this.#walk.nextHeaderAt - ip, toGroup);
      return 'ipv6-unknown-protocol';
    }
    if (udpSegment > 0 && protocol === PROTOCOL.UDP) {
      return this.#udpSegmentation.deliver(
        transport,
        buffer,
        ip,
        headerLength,
        total,
        source,
        destination,
        udpSegment,
      );
    }
    const reason = transport.input(buffer, ip, headerLength, total, source, destination, good);
    if (reason === 'udp-port-closed') {
      const { UNREACHABLE } = ICMPV6_TYPE;
      icmp.sendError(buffer, ip, end, UNREACHABLE, ICMPV6_UNREACHABLE.PORT, 0, toGroup);
    }
    return reason;
  }

  /** What the header walk wants to be told, if anything. */
  #problem(buffer: Uint8Array, ip: number, end: number, toGroup: boolean): void {
    const { problem, problemAt, problemToGroup } = this.#walk;
    if (problem >= 0) this.#tell(buffer, ip, end, problem, problemAt - ip, toGroup, problemToGroup);
  }

  #tell(
    buffer: Uint8Array,
    ip: number,
    end: number,
    code: number,
    pointer: number,
    toGroup: boolean,
    exceptGroup = false,
  ): void {
    const { icmp } = this.#context;
    icmp.sendError(buffer, ip, end, ICMPV6_TYPE.PARAMETER_PROBLEM, code, pointer, toGroup, exceptGroup);
  }

  #reassemblyGivenUp(reason: DropReason, first: Uint8Array | undefined): void {
    this.#context.discard(reason);
    if (reason !== REASONS.timeout || first === undefined) return;
    const toGroup = isMulticast(this.#context.reader.read(first, IPV6.DESTINATION));
    this.#context.icmp.sendError(first, 0, first.length, ICMPV6_TYPE.TIME_EXCEEDED, 1, 0, toGroup);
    this.#context.flush();
  }
}
