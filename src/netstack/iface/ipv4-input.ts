/**
 * IPv4 input (RFC 791, RFC 1122 section 3.2.1): header checks in the order length, checksum, fields; fragments are collected;
 * whole datagrams go to ICMP or to the transport of their protocol.
 */
import type { Clock } from '../../common/index.ts';
import type { DropReason, Ipv4Address } from '../wire/index.ts';
import {
  ICMP_TIME_EXCEEDED,
  ICMP_TYPE,
  ICMP_UNREACHABLE,
  IPV4,
  ipv4ChecksumValid,
  ipv4Destination,
  ipv4FragmentOffset,
  ipv4HeaderLength,
  ipv4Identification,
  ipv4IsFragment,
  ipv4MoreFragments,
  ipv4Options,
  ipv4Protocol,
  ipv4Source,
  ipv4TotalLength,
  isLoopback,
  PROTOCOL,
  VNET_GSO,
  vnetChecksumGood,
  vnetGsoSize,
  vnetGsoType,
  writeU16,
} from '../wire/index.ts';
import type { AddressTable } from './address-table.ts';
import type { IcmpHandler } from './icmp-handler.ts';
import type { ReassemblyLimits, ReassemblyReasons } from './reassembly.ts';
import { Reassembler } from './reassembly.ts';
import type { Transport } from './transport-interface.ts';
import { UdpSegmentation } from './udp-segmentation.ts';

export interface Ipv4InputContext {
  readonly clock: Clock;
  readonly addresses: AddressTable;
  readonly icmp: IcmpHandler;
  transportOf(protocol: number): Transport | undefined;
  /** Something that had been accepted is given up. */
  discard(reason: DropReason): void;
  flush(): void;
}

const REASONS: ReassemblyReasons = {
  malformed: 'ipv4-fragment-malformed',
  overlap: 'ipv4-fragment-overlap',
  tooBig: 'ipv4-fragment-too-big',
  limit: 'ipv4-fragment-limit',
  timeout: 'ipv4-fragment-timeout',
};

export class Ipv4Input {
  readonly #context: Ipv4InputContext;
  readonly #reassembler: Reassembler;
  readonly #udpSegmentation = new UdpSegmentation();

  constructor(context: Ipv4InputContext, limits: Partial<ReassemblyLimits> | undefined) {
    this.#context = context;
    this.#reassembler = new Reassembler(
      context.clock,
      { giveUp: (reason, first) => this.#reassemblyGivenUp(reason, first) },
      REASONS,
      limits,
    );
  }

  /** RFC 1122 section 3.2.1: length, checksum, then fields. */
  input(
    buffer: Uint8Array,
    offset: number,
    ip: number,
    end: number,
    toGroupMac: boolean,
  ): DropReason | undefined {
    if (end - ip < IPV4.MIN_HEADER) return 'ipv4-too-short';
    if (buffer[ip]! >>> 4 !== 4) return 'ipv4-bad-version';
    const headerLength = ipv4HeaderLength(buffer, ip);
    if (headerLength < IPV4.MIN_HEADER) return 'ipv4-bad-header-length';
    const totalLength = ipv4TotalLength(buffer, ip);
    if (totalLength < headerLength || ip + totalLength > end) return 'ipv4-bad-length';
    if (!ipv4ChecksumValid(buffer, ip, headerLength)) return 'ipv4-bad-checksum';
    const source = ipv4Source(buffer, ip);
    if (
      isForged(source) ||
      this.#context.addresses.isBroadcast(source) ||
      this.#context.addresses.isLocal(source)
    ) {
      return 'ipv4-bad-source';
    }
    if (isLoopback(ipv4Destination(buffer, ip))) return 'ipv4-not-for-us';
    if (headerLength > IPV4.MIN_HEADER) {
      const verdict = ipv4Options(buffer, ip, headerLength);
      if (verdict === 'malformed') return 'ipv4-bad-header-length';
      if (verdict === 'source-route') return 'ipv4-source-route';
    }
    const good = vnetChecksumGood(buffer, offset);
    if (ipv4IsFragment(buffer, ip)) return this.#inputFragment(buffer, ip, toGroupMac, good);
    const udpSegment = vnetGsoType(buffer, offset) === VNET_GSO.UDP_L4 ? vnetGsoSize(buffer, offset) : 0;
    return this.deliver(buffer, ip, headerLength, totalLength, toGroupMac, good, udpSegment);
  }

  #inputFragment(buffer: Uint8Array, ip: number, toGroupMac: boolean, good: boolean): DropReason | undefined {
    const destination = ipv4Destination(buffer, ip);
    if (!this.#context.addresses.isLocal(destination) && !this.#context.addresses.isBroadcast(destination)) {
      return 'ipv4-not-for-us';
    }
    const header = ipv4HeaderLength(buffer, ip);
    const result = this.#reassembler.add(buffer, ip, {
      key: `${ipv4Source(buffer, ip)} ${destination} ${ipv4Protocol(buffer, ip)} ${ipv4Identification(buffer, ip)}`,
      headerLength: header,
      payloadLength: ipv4TotalLength(buffer, ip) - header,
      start: ipv4FragmentOffset(buffer, ip),
      more: ipv4MoreFragments(buffer, ip),
      limit: IPV4.MAX_LENGTH - header,
      checksumKnownGood: good,
    });
    if (result === undefined || typeof result === 'string') return result;
    const { bytes, headerLength, checksumKnownGood } = result;
    if (bytes.length > IPV4.MAX_LENGTH) return 'ipv4-fragment-too-big';
    writeU16(bytes, IPV4.TOTAL_LENGTH, bytes.length);
    writeU16(bytes, IPV4.FRAGMENT, 0);
    return this.deliver(bytes, 0, headerLength, bytes.length, toGroupMac, checksumKnownGood, 0);
  }

  /** A whole datagram with a verified header. */
  deliver(
    buffer: Uint8Array,
    ip: number,
    headerLength: number,
    totalLength: number,
    toGroupMac: boolean,
    checksumKnownGood: boolean,
    udpSegment: number,
  ): DropReason | undefined {
    const source = ipv4Source(buffer, ip);
    const address = ipv4Destination(buffer, ip);
    const canonical = this.#context.addresses.canonicalOf(address);
    const toGroup = toGroupMac || canonical === undefined;
    if (canonical === undefined && !this.#context.addresses.isBroadcast(address)) return 'ipv4-not-for-us';
    const destination = canonical ?? address;
    const protocol = ipv4Protocol(buffer, ip);
    if (protocol === PROTOCOL.ICMP) {
      return this.#context.icmp.input(
        buffer,
        ip,
        headerLength,
        totalLength,
        source,
        destination,
        toGroup,
        checksumKnownGood,
      );
    }
    if (protocol === PROTOCOL.TCP && toGroup) return 'tcp-broadcast';
    const transport = this.#context.transportOf(protocol);
    if (transport === undefined) {
      if (!toGroup) this.#unreachable(buffer, ip, totalLength, ICMP_UNREACHABLE.PROTOCOL);
      return 'ipv4-unknown-protocol';
    }
    if (udpSegment > 0 && protocol === PROTOCOL.UDP) {
      return this.#udpSegmentation.deliver(
        transport,
        buffer,
        ip,
        headerLength,
        totalLength,
        source,
        destination,
        udpSegment,
      );
    }
    const reason = transport.input(
      buffer,
      ip,
      headerLength,
      totalLength,
      source,
      destination,
      checksumKnownGood,
    );
    if (reason === 'udp-port-closed' && !toGroup) {
      this.#unreachable(buffer, ip, totalLength, ICMP_UNREACHABLE.PORT);
    }
    return reason;
  }

  #unreachable(buffer: Uint8Array, ip: number, totalLength: number, code: number): void {
    this.#context.icmp.sendError(buffer, ip, ip + totalLength, ICMP_TYPE.UNREACHABLE, code);
  }

  #reassemblyGivenUp(reason: DropReason, first: Uint8Array | undefined): void {
    this.#context.discard(reason);
    if (reason !== 'ipv4-fragment-timeout' || first === undefined) return;
    this.#context.icmp.sendError(
      first,
      0,
      first.length,
      ICMP_TYPE.TIME_EXCEEDED,
      ICMP_TIME_EXCEEDED.REASSEMBLY,
    );
    this.#context.flush();
  }
}

/** Sources that no packet on a wire may have: unspecified, loopback, multicast, reserved (RFC 1122 section 3.2.1.3). */
function isForged(source: Ipv4Address): boolean {
  const high = source >>> 24;
  return source === 0 || high === 127 || high >= 224;
}
