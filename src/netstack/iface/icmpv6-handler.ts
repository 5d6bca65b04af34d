/**
 * ICMPv6 of a host (RFC 4443): answers echo, asks it, tells transports about errors, and sends errors about packets that it
 * could not deliver. Errors are never sent about errors and redirects, about packets to groups (but for the two exceptions of
 * section 2.4 e.3) or without a source that names one host, and only at a limited rate. Neighbour discovery is handed on.
 */
import type { Clock } from '../../common/index.ts';
import type { DropReason, IpAddress, Ipv6Address, Ipv6Reader } from '../wire/index.ts';
import {
  formatIpAddress,
  ICMP,
  ICMPV6_PARAMETER_PROBLEM,
  ICMPV6_TYPE,
  ICMPV6_UNREACHABLE,
  IPV6,
  icmpv6IsError,
  ipv6PayloadLength,
  ipv6UpperLayer,
  isMulticast,
  isUnspecified,
  PROTOCOL,
  readU32,
  transportChecksumValid,
  writeU32,
} from '../wire/index.ts';
import type { AddressTable } from './address-table.ts';
import type { EchoRequests } from './echo-requests.ts';
import { PingError } from './echo-requests.ts';
import type { NdpHandler } from './ndp-handler.ts';
import type { PathMtuCache } from './path-mtu.ts';
import { RateLimit } from './rate-limit.ts';
import type { IcmpErrorKind, IpOutput, Transport } from './transport-interface.ts';
import { HEADROOM, OUTPUT } from './transport-interface.ts';

/** Section 2.4 c: as much as the minimum MTU holds. */
const MAX_QUOTE = IPV6.MIN_MTU - IPV6.HEADER - ICMP.HEADER;
const ERRORS_PER_SECOND = 100;
const ERRORS_AT_ONCE = 50;

export interface Icmpv6Context {
  readonly clock: Clock;
  readonly echoes: EchoRequests;
  readonly addresses: AddressTable;
  readonly reader: Ipv6Reader;
  readonly ndp: NdpHandler;
  readonly pathMtus: PathMtuCache;
  readonly output: IpOutput;
  transportOf(protocol: number): Transport | undefined;
  /** Something that was made here could not leave. */
  discard(reason: DropReason): void;
}

/** Undefined for types that are no errors a transport could use. */
function errorKind(type: number, code: number): IcmpErrorKind | undefined {
  switch (type) {
    case ICMPV6_TYPE.PACKET_TOO_BIG:
      return 'fragmentation-needed';
    case ICMPV6_TYPE.TIME_EXCEEDED:
      return 'time-exceeded';
    case ICMPV6_TYPE.PARAMETER_PROBLEM:
      return code === ICMPV6_PARAMETER_PROBLEM.NEXT_HEADER ? 'protocol-unreachable' : 'parameter-problem';
    case ICMPV6_TYPE.UNREACHABLE:
      break;
    default:
      return undefined;
  }
  switch (code) {
    case ICMPV6_UNREACHABLE.PORT:
      return 'port-unreachable';
    case ICMPV6_UNREACHABLE.ADDRESS:
      return 'host-unreachable';
    case ICMPV6_UNREACHABLE.PROHIBITED:
    case ICMPV6_UNREACHABLE.POLICY:
    case ICMPV6_UNREACHABLE.REJECT_ROUTE:
      return 'prohibited';
    default:
      return 'network-unreachable';
  }
}

export class Icmpv6Handler {
  readonly #context: Icmpv6Context;
  readonly #errors: RateLimit;
  readonly #scratch = new Uint8Array(HEADROOM + IPV6.MAX_PAYLOAD);

  constructor(context: Icmpv6Context) {
    this.#context = context;
    this.#errors = new RateLimit(context.clock, ERRORS_PER_SECOND, ERRORS_AT_ONCE);
  }

  /**
   * An ICMPv6 message whose IPv6 header and extension headers, `headerLength` bytes, have been verified.
   * @param frame the Ethernet header's offset, −1 for a packet that came from ourselves or in fragments.
   * @param destination canonical, or a group of ours.
   */
  input(
    buffer: Uint8Array,
    frame: number,
    ip: number,
    headerLength: number,
    totalLength: number,
    source: Ipv6Address,
    destination: IpAddress,
    checksumKnownGood: boolean,
  ): DropReason | undefined {
    const icmp = ip + headerLength;
    const length = totalLength - headerLength;
    if (length < ICMP.HEADER) return 'icmp-too-short';
    if (!checksumKnownGood && !transportChecksumValid(buffer, ip, headerLength, totalLength)) {
      return 'icmp-bad-checksum';
    }
    const { addresses, echoes, ndp } = this.#context;
    const type = buffer[icmp]!;
    if (type >= ICMPV6_TYPE.ROUTER_SOLICITATION && type <= ICMPV6_TYPE.REDIRECT) {
      return ndp.input(buffer, frame, ip, icmp, length, source);
    }
    // Only neighbour discovery has packets without a sender, or news about somebody with an address of ours.
    if (isUnspecified(source) || (frame >= 0 && addresses.isLocal(source))) return 'ipv6-bad-source';
    if (type === ICMPV6_TYPE.ECHO_REQUEST) {
      // Section 4.2: asked in a group, it is one of our own addresses that answers.
      const from = isMulticast(destination) ? addresses.sourceFor(source) : destination;
      if (from === undefined) return 'ipv6-bad-source';
      this.#answer(buffer, icmp, length, from, source);
      return undefined;
    }
    if (type === ICMPV6_TYPE.ECHO_REPLY) {
      return echoes.answered(readU32(buffer, icmp + ICMP.IDENTIFIER), source);
    }
    const kind = errorKind(type, buffer[icmp + ICMP.CODE]!);
    if (kind === undefined) return 'icmp-unknown-type';
    return this.#error(kind, buffer, icmp, icmp + length);
  }

  /**
   * Sends an error about the packet whose header stands at `ip` and whose bytes end at `end`, if one may be sent.
   * @param toGroup the packet went to a group, by its IP or its Ethernet address.
   * @param exceptGroup the error is one that even those may have.
   */
  sendError(
    buffer: Uint8Array,
    ip: number,
    end: number,
    type: number,
    code: number,
    rest: number,
    toGroup: boolean,
    exceptGroup = false,
  ): void {
    const { addresses, output, reader } = this.#context;
    const source = reader.read(buffer, ip + IPV6.SOURCE);
    if (isUnspecified(source) || isMulticast(source)) return;
    if (toGroup && !exceptGroup) return;
    const upper = ipv6UpperLayer(buffer, ip, end);
    if (upper >= 0 && (upper & 0xff) === PROTOCOL.ICMPV6) {
      const at = Math.floor(upper / 256);
      if (at >= end || icmpv6IsError(buffer[at]!) || buffer[at] === ICMPV6_TYPE.REDIRECT) return;
    }
    const from =
      addresses.canonicalOf(reader.read(buffer, ip + IPV6.DESTINATION)) ?? addresses.sourceFor(source);
    if (from === undefined) return;
    if (!this.#errors.take()) {
      this.#context.discard('send-rate-limited');
      return;
    }
    const quote = Math.min(end - ip, MAX_QUOTE);
    this.#scratch.set(buffer.subarray(ip, ip + quote), HEADROOM + ICMP.HEADER);
    this.#head(type, code, rest);
    this.#send(ICMP.HEADER + quote, from, source, output);
  }

  /**
   * Tells a transport that a packet of ours is undeliverable; the packet's IPv6 header stands at `ip`. Used for quotes and
   * for packets that waited in vain for a hardware address.
   */
  deliverError(
    kind: IcmpErrorKind,
    buffer: Uint8Array,
    ip: number,
    end: number,
    mtu: number,
  ): DropReason | undefined {
    const { addresses, echoes, pathMtus, reader, transportOf } = this.#context;
    const packetEnd = Math.min(end, ip + IPV6.HEADER + ipv6PayloadLength(buffer, ip));
    const source = addresses.canonicalOf(reader.read(buffer, ip + IPV6.SOURCE));
    const destination = reader.read(buffer, ip + IPV6.DESTINATION);
    if (source === undefined) return 'icmp-unrelated-error';
    const upper = ipv6UpperLayer(buffer, ip, packetEnd);
    if (upper < 0) return 'icmp-bad-quote';
    const at = Math.floor(upper / 256);
    const protocol = upper & 0xff;
    const length = packetEnd - at;
    if (length < 8) return 'icmp-bad-quote';
    const isPing = protocol === PROTOCOL.ICMPV6;
    const key = isPing ? readU32(buffer, at + ICMP.IDENTIFIER) : 0;
    if (isPing && (buffer[at] !== ICMPV6_TYPE.ECHO_REQUEST || !echoes.has(key, destination))) {
      return 'icmp-unrelated-error';
    }
    const transport = transportOf(protocol);
    if (!isPing && transport === undefined) return 'icmp-unrelated-error';
    const tell = (clamped: number) =>
      isPing
        ? echoes.failed(key, destination, kind)
        : transport?.icmpError(kind, source, destination, buffer, at, length, clamped);
    if (kind !== 'fragmentation-needed') return tell(0);
    // RFC 8201 section 4: below the minimum it is discarded, and never raises what is known.
    if (mtu < IPV6.MIN_MTU) return 'icmp-mtu-too-small';
    const clamped = Math.min(pathMtus.of(destination), mtu);
    // The cache is lowered before the transport looks at it, and set back when the transport does not know the packet.
    const before = pathMtus.set(destination, clamped);
    const refused = tell(clamped);
    if (refused !== undefined) pathMtus.restore(destination, before);
    return refused;
  }

  /** Sends one echo request and waits for its answer. Rejects with PingError. */
  ping(destination: IpAddress, payloadLength = 56, timeoutMs = 1_000): Promise<{ rttMs: number }> {
    const { echoes, output } = this.#context;
    const source = output.sourceFor(destination);
    if (typeof destination !== 'string' || typeof source !== 'string') {
      return Promise.reject(new PingError('PING_NO_ROUTE', `no route to ${formatIpAddress(destination)}`));
    }
    return echoes.start(destination, timeoutMs, (key) => {
      const length = ICMP.HEADER + Math.min(payloadLength, IPV6.MAX_PAYLOAD - ICMP.HEADER);
      for (let i = ICMP.HEADER; i < length; i++) this.#scratch[HEADROOM + i] = i & 0xff;
      this.#head(ICMPV6_TYPE.ECHO_REQUEST, 0, key);
      const sent = this.#send(length, source, destination, output);
      if (sent) output.flush();
      return sent;
    });
  }

  #answer(
    buffer: Uint8Array,
    icmp: number,
    length: number,
    source: IpAddress,
    destination: Ipv6Address,
  ): void {
    this.#scratch.set(buffer.subarray(icmp + ICMP.HEADER, icmp + length), HEADROOM + ICMP.HEADER);
    this.#head(ICMPV6_TYPE.ECHO_REPLY, 0, readU32(buffer, icmp + ICMP.IDENTIFIER));
    this.#send(length, source, destination, this.#context.output);
  }

  #head(type: number, code: number, rest: number): void {
    this.#scratch[HEADROOM + ICMP.TYPE] = type;
    this.#scratch[HEADROOM + ICMP.CODE] = code;
    writeU32(this.#scratch, HEADROOM + ICMP.IDENTIFIER, rest);
  }

  #send(length: number, source: IpAddress, destination: IpAddress, output: IpOutput): boolean {
    const result = output.output(
      this.#scratch,
      HEADROOM,
      length,
      PROTOCOL.ICMPV6,
      source,
      destination,
      ICMP.CHECKSUM,
      0,
      false,
      0,
    );
    return result === OUTPUT.SENT || result === OUTPUT.PENDING;
  }

  #error(kind: IcmpErrorKind, buffer: Uint8Array, icmp: number, end: number): DropReason | undefined {
    const ip = icmp + ICMP.HEADER;
    if (ip + IPV6.HEADER > end || buffer[ip]! >>> 4 !== 6) return 'icmp-bad-quote';
    const mtu = kind === 'fragmentation-needed' ? readU32(buffer, icmp + ICMP.IDENTIFIER) : 0;
    return this.deliverError(kind, buffer, ip, end, mtu);
  }
}
