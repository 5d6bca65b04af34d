/**
 * UDP below its sockets: port table, checksums, errors. A socket bound to an address goes before one bound to any, a
 * connected one before both. A port has one socket per (local address, peer).
 */
import type { Random } from '../../../common/index.ts';
import { CodedError } from '../../../common/index.ts';
import type { IcmpErrorKind, IpOutput, Transport } from '../../iface/index.ts';
import { HEADROOM, OUTPUT } from '../../iface/index.ts';
import type { DropReason, IpAddress } from '../../wire/index.ts';
import {
  copyBytes,
  emitUdp,
  formatIpAddress,
  isUnspecified,
  PROTOCOL,
  readU16,
  transportChecksumValid,
  UDP,
  udpChecksum,
  udpDestinationPort,
  udpLength,
  udpSourcePort,
} from '../../wire/index.ts';
import type { UdpSendResult, UdpSocketLimits } from './udp-socket.ts';
import { UDP_SOCKET_LIMITS, UdpSocket } from './udp-socket.ts';

/** UDP_PORT_IN_USE, UDP_NO_FREE_PORT, UDP_ADDRESS_NOT_OWN, UDP_PORT_INVALID. */
export class UdpError extends CodedError {}

/** RFC 6335: the dynamic ports. */
const FIRST_DYNAMIC_PORT = 49_152;
const DYNAMIC_PORTS = 65_536 - FIRST_DYNAMIC_PORT;
/** 65535 less IP and UDP header: over IPv4. */
export const MAX_UDP_PAYLOAD = 65_507;
/** IPv6 does not count its own header. */
export const MAX_UDP6_PAYLOAD = 65_527;

export interface UdpOpenOptions {
  /** Default, and when unspecified: any local address, of both families. */
  readonly address?: IpAddress;
  /** Default 0: a free dynamic port, chosen at random (RFC 6056). */
  readonly port?: number;
  readonly limits?: Partial<UdpSocketLimits>;
}

export class UdpTransport implements Transport {
  readonly #ip: IpOutput;
  readonly #random: Random;
  readonly #ports = new Map<number, UdpSocket[]>();
  readonly #scratch = new Uint8Array(HEADROOM + UDP.HEADER + MAX_UDP6_PAYLOAD);
  #waiting = new Set<UdpSocket>();

  constructor(ip: IpOutput, random: Random) {
    this.#ip = ip;
    this.#random = random;
  }

  /** @throws UdpError when the port is taken or none is free, or the address is not ours. */
  open(options: UdpOpenOptions = {}): UdpSocket {
    const address =
      options.address === undefined || isUnspecified(options.address) ? undefined : options.address;
    const port = options.port ?? 0;
    if (!Number.isInteger(port) || port < 0 || port > 65_535) {
      throw new UdpError('UDP_PORT_INVALID', `${port} is no UDP port`, {
        remedy: 'use 1 … 65535, or 0 for any',
      });
    }
    if (address !== undefined && !this.#ip.isLocal(address)) {
      throw new UdpError('UDP_ADDRESS_NOT_OWN', `${formatIpAddress(address)} is no address of this stack`, {
        remedy: 'add the address to the interface first',
        values: { address: formatIpAddress(address) },
      });
    }
    const chosen = port === 0 ? this.#freePort() : port;
    const bound = address === undefined ? undefined : this.#ip.canonical(address);
    const there = this.#ports.get(chosen) ?? [];
    if (there.some((socket) => socket.localAddress === bound && socket.remoteAddress === undefined)) {
      throw new UdpError('UDP_PORT_IN_USE', `UDP port ${chosen} is in use`, {
        remedy: 'close the other socket or choose another port',
        values: { port: chosen },
      });
    }
    const socket = new UdpSocket(this, bound, chosen, { ...UDP_SOCKET_LIMITS, ...options.limits });
    this.#ports.set(chosen, [...there, socket]);
    return socket;
  }

  /** For UdpSocket. */
  send(socket: UdpSocket, payload: Uint8Array, destination: IpAddress, port: number): UdpSendResult {
    const most = typeof destination === 'number' ? MAX_UDP_PAYLOAD : MAX_UDP6_PAYLOAD;
    if (payload.length > most) return 'too-big';
    const source = socket.localAddress ?? this.#ip.sourceFor(destination);
    if (source === undefined) return 'no-route';
    const length = UDP.HEADER + payload.length;
    emitUdp(this.#scratch, HEADROOM, socket.localPort, port, length);
    this.#scratch.set(payload, HEADROOM + UDP.HEADER);
    const result = this.#ip.output(
      this.#scratch,
      HEADROOM,
      length,
      PROTOCOL.UDP,
      source,
      destination,
      UDP.CHECKSUM,
      0,
      false,
      0,
    );
    switch (result) {
      case OUTPUT.SENT:
      case OUTPUT.PENDING:
        this.#ip.flush();
        return 'sent';
      case OUTPUT.LINK_FULL:
        this.#waiting.add(socket);
        return 'full';
      case OUTPUT.PENDING_FULL:
        return 'full';
      case OUTPUT.TOO_BIG:
        return 'too-big';
      default:
        return 'no-route';
    }
  }

  /** For UdpSocket. */
  forget(socket: UdpSocket): void {
    this.#waiting.delete(socket);
    const rest = (this.#ports.get(socket.localPort) ?? []).filter((other) => other !== socket);
    if (rest.length === 0) this.#ports.delete(socket.localPort);
    else this.#ports.set(socket.localPort, rest);
  }

  input(
    buffer: Uint8Array,
    ipOffset: number,
    ipHeaderLength: number,
    totalLength: number,
    source: IpAddress,
    destination: IpAddress,
    checksumKnownGood: boolean,
  ): DropReason | undefined {
    const udp = ipOffset + ipHeaderLength;
    const available = totalLength - ipHeaderLength;
    if (available < UDP.HEADER) return 'udp-too-short';
    const length = udpLength(buffer, udp);
    if (length < UDP.HEADER || length > available) return 'udp-bad-length';
    // RFC 8200 section 8.1: "none" exists over IPv4 only.
    if (typeof source === 'string' && udpChecksum(buffer, udp) === 0) return 'udp-bad-checksum';
    if (!checksumKnownGood && udpChecksum(buffer, udp) !== 0) {
      // The pseudo header counts UDP's own length, which may be less than IP's.
      if (!transportChecksumValid(buffer, ipOffset, ipHeaderLength, ipHeaderLength + length)) {
        return 'udp-bad-checksum';
      }
    }
    const sourcePort = udpSourcePort(buffer, udp);
    const toGroup = !this.#ip.isLocal(destination);
    const sockets = this.#ports.get(udpDestinationPort(buffer, udp));
    if (sockets === undefined) return 'udp-port-closed';
    const socket = this.#choose(sockets, destination, source, sourcePort, toGroup);
    if (socket === undefined) return 'udp-port-closed';
    const payload = copyBytes(buffer, udp + UDP.HEADER, length - UDP.HEADER);
    return socket.deliver({ payload, source, sourcePort, destination }) ? undefined : 'udp-queue-full';
  }

  icmpError(
    kind: IcmpErrorKind,
    source: IpAddress,
    destination: IpAddress,
    buffer: Uint8Array,
    offset: number,
    _length: number,
    _mtu: number,
  ): DropReason | undefined {
    const destinationPort = readU16(buffer, offset + UDP.DESTINATION_PORT);
    const sockets = this.#ports.get(readU16(buffer, offset + UDP.SOURCE_PORT));
    const socket =
      sockets === undefined ? undefined : this.#choose(sockets, source, destination, destinationPort, false);
    if (socket === undefined) return 'icmp-unrelated-error';
    socket.onError?.({ kind, destination, destinationPort });
    return undefined;
  }

  rehome(from: IpAddress, to: IpAddress): void {
    for (const sockets of this.#ports.values()) {
      for (const socket of sockets) if (socket.localAddress === from) socket.localAddress = to;
    }
  }

  /** Sockets bound to the address are closed; they learn it as an unreachable network. */
  addressRemoved(address: IpAddress): void {
    for (const sockets of [...this.#ports.values()]) {
      for (const socket of sockets) {
        if (socket.localAddress !== address) continue;
        socket.close();
        socket.onError?.({ kind: 'network-unreachable', destination: address, destinationPort: 0 });
      }
    }
  }

  endOfBatch(): void {}

  writable(): void {
    const waiting = this.#waiting;
    this.#waiting = new Set();
    for (const socket of waiting) socket.onWritable?.();
  }

  #choose(
    sockets: readonly UdpSocket[],
    destination: IpAddress,
    source: IpAddress,
    sourcePort: number,
    toGroup: boolean,
  ): UdpSocket | undefined {
    let best: UdpSocket | undefined;
    let bestScore = -1;
    for (const socket of sockets) {
      if (!socket.accepts(destination, source, sourcePort, toGroup)) continue;
      const score =
        (socket.remoteAddress === undefined ? 0 : 2) + (socket.localAddress === undefined ? 0 : 1);
      if (score > bestScore) [best, bestScore] = [socket, score];
    }
    return best;
  }

  #freePort(): number {
    const start = this.#random.u32() % DYNAMIC_PORTS;
    for (let i = 0; i < DYNAMIC_PORTS; i++) {
      const port = FIRST_DYNAMIC_PORT + ((start + i) % DYNAMIC_PORTS);
      if (!this.#ports.has(port)) return port;
    }
    throw new UdpError('UDP_NO_FREE_PORT', 'every dynamic UDP port is in use', {
      remedy: 'close sockets that are no longer needed',
    });
  }
}
