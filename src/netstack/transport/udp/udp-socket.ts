/** One UDP socket (RFC 768, RFC 1122 section 4.1): bound to a port, perhaps to an address, perhaps connected to a peer. */
import type { IcmpErrorKind } from '../../iface/index.ts';
import type { IpAddress } from '../../wire/index.ts';
import type { UdpTransport } from './udp-transport.ts';

export interface UdpDatagram {
  /** The socket's own copy. */
  readonly payload: Uint8Array;
  readonly source: IpAddress;
  readonly sourcePort: number;
  /** The local address it was sent to, or a broadcast address. */
  readonly destination: IpAddress;
}

export interface UdpSocketLimits {
  readonly datagrams: number;
  readonly bytes: number;
}

export const UDP_SOCKET_LIMITS: UdpSocketLimits = { datagrams: 1024, bytes: 1024 * 1024 };

/**
 * What became of a datagram: on its way; not taken since the link or the neighbour's queue is full (try again after
 * `onWritable`); no route; longer than 65507 bytes (IPv6: 65527); no peer named.
 */
export type UdpSendResult = 'sent' | 'full' | 'no-route' | 'too-big' | 'no-destination' | 'closed';

export interface UdpIcmpError {
  readonly kind: IcmpErrorKind;
  readonly destination: IpAddress;
  readonly destinationPort: number;
}

export class UdpSocket {
  readonly #transport: UdpTransport;
  readonly #limits: UdpSocketLimits;
  readonly #queue: UdpDatagram[] = [];
  #queueBytes = 0;
  #closed = false;
  /** Undefined: any local address. */
  localAddress: IpAddress | undefined;
  readonly localPort: number;
  #remoteAddress: IpAddress | undefined;
  #remotePort = 0;
  /** Datagrams for which the queue had no room. */
  overflowed = 0;
  /** Called for each datagram as it arrives; without it, datagrams wait for `receive`. Must not throw. */
  onDatagram: ((datagram: UdpDatagram) => void) | undefined;
  /** ICMP errors about what this socket sent; also an unresolved neighbour. */
  onError: ((error: UdpIcmpError) => void) | undefined;
  /** There is room again after `full`. */
  onWritable: (() => void) | undefined;

  /** Made by `UdpTransport.open`. */
  constructor(
    transport: UdpTransport,
    localAddress: IpAddress | undefined,
    localPort: number,
    limits: UdpSocketLimits,
  ) {
    this.#transport = transport;
    this.localAddress = localAddress;
    this.localPort = localPort;
    this.#limits = limits;
  }

  get closed(): boolean {
    return this.#closed;
  }

  get remoteAddress(): IpAddress | undefined {
    return this.#remoteAddress;
  }

  get remotePort(): number {
    return this.#remotePort;
  }

  get queued(): number {
    return this.#queue.length;
  }

  /** From now on only datagrams from this peer are received, and `send` needs no destination. Again undefined: disconnects. */
  connect(address: IpAddress | undefined, port = 0): void {
    this.#remoteAddress = address;
    this.#remotePort = address === undefined ? 0 : port;
  }

  /** Sends one datagram; the payload is copied. */
  send(payload: Uint8Array, destination = this.#remoteAddress, port = this.#remotePort): UdpSendResult {
    if (this.#closed) return 'closed';
    if (destination === undefined || port === 0) return 'no-destination';
    return this.#transport.send(this, payload, destination, port);
  }

  /** The oldest waiting datagram, or undefined. */
  receive(): UdpDatagram | undefined {
    const datagram = this.#queue.shift();
    if (datagram !== undefined) this.#queueBytes -= datagram.payload.length;
    return datagram;
  }

  /** Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#queue.length = 0;
    this.#queueBytes = 0;
    this.#transport.forget(this);
  }

  /** For the transport: whether a datagram from this peer is wanted here. */
  accepts(destination: IpAddress, source: IpAddress, sourcePort: number, toGroup: boolean): boolean {
    if (this.localAddress !== undefined && this.localAddress !== destination && !toGroup) return false;
    if (this.#remoteAddress === undefined) return true;
    return this.#remoteAddress === source && this.#remotePort === sourcePort;
  }

  /** For the transport: false when there is no room. */
  deliver(datagram: UdpDatagram): boolean {
    const handler = this.onDatagram;
    if (handler !== undefined) {
      handler(datagram);
      return true;
    }
    const { datagrams, bytes } = this.#limits;
    if (this.#queue.length >= datagrams || this.#queueBytes + datagram.payload.length > bytes) {
      this.overflowed++;
      return false;
    }
    this.#queue.push(datagram);
    this.#queueBytes += datagram.payload.length;
    return true;
  }
}
