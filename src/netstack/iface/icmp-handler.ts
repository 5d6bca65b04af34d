/**
 * ICMP of a host (RFC 792, RFC 1122 section 3.2.2): answers echo, asks it, tells transports about errors, and sends errors
 * about packets that it could not deliver. Errors are never sent about errors, broadcasts, fragments other than the first or
 * packets without a unicast source, and only at a limited rate. Redirects and source quench are ignored (RFC 6633).
 */
import type { Clock } from '../../common/index.ts';
import type { DropReason, IpAddress, Ipv4Address } from '../wire/index.ts';
import {
  checksumOf,
  emitIcmp,
  formatIpAddress,
  ICMP,
  ICMP_TYPE,
  ICMP_UNREACHABLE,
  IPV4,
  icmpIsError,
  icmpNextHopMtu,
  ipv4Destination,
  ipv4FragmentOffset,
  ipv4HeaderLength,
  ipv4Protocol,
  ipv4Source,
  ipv4TotalLength,
  isLoopback,
  isMulticast,
  PROTOCOL,
  readU16,
  readU32,
} from '../wire/index.ts';
import type { AddressTable } from './address-table.ts';
import type { EchoRequests } from './echo-requests.ts';
import { PingError } from './echo-requests.ts';
import type { PathMtuCache } from './path-mtu.ts';
import { RateLimit } from './rate-limit.ts';
import type { IcmpErrorKind, IpOutput, Transport } from './transport-interface.ts';
import { CHECKSUM_COMPLETE, HEADROOM, OUTPUT } from './transport-interface.ts';

/** RFC 1812 section 4.3.2.3: quote as much as fits 576 bytes. */
const MAX_QUOTE = IPV4.MIN_REASSEMBLY - IPV4.MIN_HEADER - ICMP.HEADER;
const ERRORS_PER_SECOND = 100;
const ERRORS_AT_ONCE = 50;

export interface IcmpContext {
  readonly clock: Clock;
  readonly echoes: EchoRequests;
  readonly addresses: AddressTable;
  readonly pathMtus: PathMtuCache;
  readonly output: IpOutput;
  transportOf(protocol: number): Transport | undefined;
  /** Something that was made here could not leave. */
  discard(reason: DropReason): void;
}

function unreachableKind(code: number): IcmpErrorKind {
  switch (code) {
    case ICMP_UNREACHABLE.PROTOCOL:
      return 'protocol-unreachable';
    case ICMP_UNREACHABLE.PORT:
      return 'port-unreachable';
    case ICMP_UNREACHABLE.FRAGMENTATION_NEEDED:
      return 'fragmentation-needed';
    case ICMP_UNREACHABLE.SOURCE_ROUTE_FAILED:
      return 'source-route-failed';
    case 9:
    case 10:
    case 13:
    case 14:
    case 15:
      return 'prohibited';
    case 1:
    case 7:
    case 8:
    case 12:
      return 'host-unreachable';
    default:
      return 'network-unreachable';
  }
}

/** Undefined for types that are no errors a transport could use. */
function errorKind(type: number, code: number): IcmpErrorKind | undefined {
  if (type === ICMP_TYPE.UNREACHABLE) return unreachableKind(code);
  if (type === ICMP_TYPE.TIME_EXCEEDED) return 'time-exceeded';
  if (type === ICMP_TYPE.PARAMETER_PROBLEM) return 'parameter-problem';
  return undefined;
}

export class IcmpHandler {
  readonly #context: IcmpContext;
  readonly #errors: RateLimit;
  readonly #scratch = new Uint8Array(HEADROOM + IPV4.MAX_LENGTH);

  constructor(context: IcmpContext) {
    this.#context = context;
    this.#errors = new RateLimit(context.clock, ERRORS_PER_SECOND, ERRORS_AT_ONCE);
  }

  /** An ICMP message in an IPv4 packet whose header has been verified. `destination` is canonical or a broadcast. */
  input(
    buffer: Uint8Array,
    ip: number,
    headerLength: number,
    totalLength: number,
    source: Ipv4Address,
    destination: IpAddress,
    toGroup: boolean,
    checksumKnownGood: boolean,
  ): DropReason | undefined {
    const icmp = ip + headerLength;
    const length = totalLength - headerLength;
    if (length < ICMP.HEADER) return 'icmp-too-short';
    if (!checksumKnownGood && checksumOf(buffer, icmp, length) !== 0) return 'icmp-bad-checksum';
    const type = buffer[icmp]!;
    if (type === ICMP_TYPE.ECHO_REQUEST) {
      if (toGroup) return 'icmp-echo-broadcast';
      this.#answer(buffer, icmp, length, destination, source);
      return undefined;
    }
    if (type === ICMP_TYPE.ECHO_REPLY) {
      return this.#context.echoes.answered(readU32(buffer, icmp + ICMP.IDENTIFIER), source);
    }
    const kind = errorKind(type, buffer[icmp + ICMP.CODE]!);
    if (kind === undefined) return 'icmp-unknown-type';
    return this.#error(kind, buffer, icmp, icmp + length);
  }

  /** Sends an error about the packet whose header stands at `ip` and whose bytes end at `end`, if one may be sent. */
  sendError(buffer: Uint8Array, ip: number, end: number, type: number, code: number, rest = 0): void {
    const source = ipv4Source(buffer, ip);
    const destination = ipv4Destination(buffer, ip);
    const { addresses, output } = this.#context;
    const canonical = addresses.canonicalOf(destination);
    if (canonical === undefined || typeof canonical !== 'number') return;
    if (source === 0 || isMulticast(source) || isLoopback(source) || addresses.isBroadcast(source)) return;
    if (ipv4FragmentOffset(buffer, ip) !== 0) return;
    const headerLength = ipv4HeaderLength(buffer, ip);
    if (ipv4Protocol(buffer, ip) === PROTOCOL.ICMP) {
      if (ip + headerLength >= end || icmpIsError(buffer[ip + headerLength]!)) return;
    }
    if (!this.#errors.take()) {
      this.#context.discard('send-rate-limited');
      return;
    }
    const quote = Math.min(end - ip, ipv4TotalLength(buffer, ip), MAX_QUOTE);
    this.#scratch.set(buffer.subarray(ip, ip + quote), HEADROOM + ICMP.HEADER);
    const length = ICMP.HEADER + quote;
    emitIcmp(this.#scratch, HEADROOM, type, code, rest, length);
    this.#send(length, canonical, source, output);
  }

  /**
   * Tells a transport that a packet of ours is undeliverable; the packet's IP header stands at `ip`. Used for quotes and for
   * packets that waited in vain for a hardware address.
   */
  deliverError(
    kind: IcmpErrorKind,
    buffer: Uint8Array,
    ip: number,
    end: number,
    mtu: number,
  ): DropReason | undefined {
    const headerLength = ipv4HeaderLength(buffer, ip);
    const protocol = ipv4Protocol(buffer, ip);
    const source = this.#context.addresses.canonicalOf(ipv4Source(buffer, ip));
    const destination = ipv4Destination(buffer, ip);
    const at = ip + headerLength;
    const length = Math.min(end - at, ipv4TotalLength(buffer, ip) - headerLength);
    if (source === undefined || ipv4FragmentOffset(buffer, ip) !== 0) return 'icmp-unrelated-error';
    if (length < 8) return 'icmp-bad-quote';
    if (protocol === PROTOCOL.ICMP) {
      if (buffer[at] !== ICMP_TYPE.ECHO_REQUEST) return 'icmp-unrelated-error';
      return this.#context.echoes.failed(readU32(buffer, at + ICMP.IDENTIFIER), destination, kind);
    }
    const transport = this.#context.transportOf(protocol);
    if (transport === undefined) return 'icmp-unrelated-error';
    if (kind !== 'fragmentation-needed') {
      return transport.icmpError(kind, source, destination, buffer, at, length, 0);
    }
    // The cache is lowered before the transport looks at it, and set back when the transport does not know the packet.
    const { pathMtus } = this.#context;
    const clamped = pathMtus.clamp(destination, mtu, ipv4TotalLength(buffer, ip));
    const before = pathMtus.set(destination, clamped);
    const refused = transport.icmpError(kind, source, destination, buffer, at, length, clamped);
    if (refused !== undefined) pathMtus.restore(destination, before);
    return refused;
  }

  /** Sends one echo request and waits for its answer. Rejects with PingError. */
  ping(destination: IpAddress, payloadLength = 56, timeoutMs = 1_000): Promise<{ rttMs: number }> {
    const { echoes, output } = this.#context;
    const source = output.sourceFor(destination);
    if (typeof destination !== 'number' || typeof source !== 'number') {
      return Promise.reject(new PingError('PING_NO_ROUTE', `no route to ${formatIpAddress(destination)}`));
    }
    return echoes.start(destination, timeoutMs, (key) => {
      const length = ICMP.HEADER + Math.min(payloadLength, IPV4.MAX_LENGTH - IPV4.MIN_HEADER - ICMP.HEADER);
      for (let i = ICMP.HEADER; i < length; i++) this.#scratch[HEADROOM + i] = i & 0xff;
      emitIcmp(this.#scratch, HEADROOM, ICMP_TYPE.ECHO_REQUEST, 0, key, length);
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
    destination: Ipv4Address,
  ): void {
    this.#scratch.set(buffer.subarray(icmp + ICMP.HEADER, icmp + length), HEADROOM + ICMP.HEADER);
    const rest = readU32(buffer, icmp + ICMP.IDENTIFIER);
    emitIcmp(this.#scratch, HEADROOM, ICMP_TYPE.ECHO_REPLY, 0, rest, length);
    this.#send(length, source, destination, this.#context.output);
  }

  #send(length: number, source: IpAddress, destination: IpAddress, output: IpOutput): boolean {
    const result = output.output(
      this.#scratch,
      HEADROOM,
      length,
      PROTOCOL.ICMP,
      source,
      destination,
      CHECKSUM_COMPLETE,
      0,
      false,
      0,
    );
    return result === OUTPUT.SENT || result === OUTPUT.PENDING;
  }

  #error(kind: IcmpErrorKind, buffer: Uint8Array, icmp: number, end: number): DropReason | undefined {
    const ip = icmp + ICMP.HEADER;
    if (ip + IPV4.MIN_HEADER > end || buffer[ip]! >>> 4 !== 4) return 'icmp-bad-quote';
    const headerLength = ipv4HeaderLength(buffer, ip);
    if (headerLength < IPV4.MIN_HEADER || ip + headerLength > end) return 'icmp-bad-quote';
    if (readU16(buffer, ip + IPV4.TOTAL_LENGTH) < headerLength) return 'icmp-bad-quote';
    const mtu = kind === 'fragmentation-needed' ? icmpNextHopMtu(buffer, icmp) : 0;
    return this.deliverError(kind, buffer, ip, end, mtu);
  }
}
