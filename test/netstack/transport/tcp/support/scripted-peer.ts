/**
 * A peer played by the test: it sends exactly the segments it is told to and collects what comes. `established` and the
 * like bring a connection of the stack under test into a state with known sequence numbers.
 */
import type { TcpConnection } from '../../../../../src/netstack/transport/tcp/index.ts';
import type { IpAddress } from '../../../../../src/netstack/wire/index.ts';
import {
  emitMss,
  emitSack,
  emitSackPermitted,
  emitTcp,
  emitTimestamps,
  emitWindowScale,
  ipAddress,
  parseTcpOptions,
  TCP,
  TCP_FLAG,
  TcpOptions,
  tcpAcknowledgment,
  tcpDestinationPort,
  tcpFlags,
  tcpHeaderLength,
  tcpSequence,
  tcpSourcePort,
  tcpWindow,
} from '../../../../../src/netstack/wire/index.ts';
import { adopt, Endpoint } from './endpoint.ts';
import type { Host, Network, SeenSegment } from './network.ts';

export const { FIN, SYN, RST, PSH, ACK } = TCP_FLAG;

export interface Spec {
  seq: number;
  ack?: number;
  flags: number;
  wnd?: number;
  data?: string | Uint8Array;
  mss?: number;
  windowScale?: number;
  sackPermitted?: boolean;
  timestamps?: [tsVal: number, tsEcr: number];
  sack?: [left: number, right: number][];
}

export interface Got {
  readonly atMs: number;
  readonly seq: number;
  readonly ack: number;
  readonly flags: number;
  readonly wnd: number;
  readonly data: Buffer;
  readonly options: TcpOptions;
  readonly gsoSize: number;
}

export const FLAG_NAMES: readonly [number, string][] = [
  [SYN, 'SYN'],
  [FIN, 'FIN'],
  [RST, 'RST'],
  [PSH, 'PSH'],
  [ACK, 'ACK'],
];

/** `SYN ACK`; PSH is left out, it says nothing here. */
export function flagsOf(got: Got): string {
  return FLAG_NAMES.filter(([bit]) => got.flags & bit && bit !== PSH)
    .map(([, name]) => name)
    .join(' ');
}

export function buildSegment(sourcePort: number, destinationPort: number, spec: Spec): Uint8Array {
  const data = typeof spec.data === 'string' ? Buffer.from(spec.data) : (spec.data ?? new Uint8Array(0));
  const buffer = new Uint8Array(TCP.MAX_HEADER + data.length);
  let at: number = TCP.MIN_HEADER;
  if (spec.mss !== undefined) at = emitMss(buffer, at, spec.mss);
  if (spec.windowScale !== undefined) at = emitWindowScale(buffer, at, spec.windowScale);
  if (spec.sackPermitted === true) at = emitSackPermitted(buffer, at);
  if (spec.timestamps !== undefined) at = emitTimestamps(buffer, at, spec.timestamps[0], spec.timestamps[1]);
  if (spec.sack !== undefined) {
    const left = spec.sack.map(([l]) => l >>> 0);
    const right = spec.sack.map(([, r]) => r >>> 0);
    at = emitSack(buffer, at, spec.sack.length, left, right);
  }
  const wnd = spec.wnd ?? 0xffff;
  emitTcp(buffer, 0, sourcePort, destinationPort, spec.seq >>> 0, (spec.ack ?? 0) >>> 0, at, spec.flags, wnd);
  buffer.set(data, at);
  return buffer.subarray(0, at + data.length);
}

export class ScriptedPeer {
  readonly address: IpAddress;
  readonly port: number;
  readonly inbox: Got[] = [];
  readonly #network: Network;
  readonly #host: Host;
  readonly hostPort: number;

  constructor(network: Network, host: Host, hostPort: number, address = '10.0.0.9', port = 5000) {
    this.#network = network;
    this.#host = host;
    this.hostPort = hostPort;
    this.address = ipAddress(address);
    this.port = port;
    network.hosts.set(this.address, this);
  }

  deliver({ bytes, gsoSize, atMs }: SeenSegment): void {
    if (tcpDestinationPort(bytes, 0) !== this.port || tcpSourcePort(bytes, 0) !== this.hostPort) return;
    const headerLength = tcpHeaderLength(bytes, 0);
    const options = new TcpOptions();
    parseTcpOptions(bytes, 0, headerLength, options);
    this.inbox.push({
      atMs,
      seq: tcpSequence(bytes, 0),
      ack: tcpAcknowledgment(bytes, 0),
      flags: tcpFlags(bytes, 0),
      wnd: tcpWindow(bytes, 0),
      data: Buffer.from(bytes.subarray(headerLength)),
      options,
      gsoSize,
    });
  }

  /** Puts the segment into the stack now, without the network, and lets it answer. */
  send(spec: Spec): void {
    this.sendBytes(buildSegment(this.port, this.hostPort, spec));
  }

  sendBytes(bytes: Uint8Array): void {
    this.#host.deliver({
      atMs: this.#network.clock.nowMs(),
      from: this.address,
      to: this.#host.address,
      bytes,
      gsoSize: 0,
    });
    this.settle();
  }

  /** Lets deferred output happen and arrive. */
  settle(ms = 0): void {
    this.#network.clock.advance(this.#network.impairment.delayMs + ms);
  }

  /** Takes the oldest collected segment; fails when there is none. */
  take(what = 'a segment'): Got {
    const got = this.inbox.shift();
    if (got === undefined) throw new Error(`${what} was expected, nothing came`);
    return got;
  }

  /** Drops what was collected. */
  clear(): void {
    this.inbox.length = 0;
  }

  get silent(): boolean {
    return this.inbox.length === 0;
  }
}

/** What a builder leaves behind: the stack's endpoint, and the next numbers of both sides. */
export interface Scene {
  readonly peer: ScriptedPeer;
  readonly endpoint: Endpoint;
  readonly connection: TcpConnection;
  /** The peer's next sequence number. */
  seq: number;
  /** The stack's next sequence number, which the peer acknowledges. */
  ack: number;
}

export interface SceneOptions {
  readonly irs?: number;
  readonly wnd?: number;
  readonly syn?: Partial<Spec>;
}

/** SYN sent to a listener on port 80; the SYN-ACK is taken. */
export function synReceived(
  network: Network,
  host: Host,
  options: SceneOptions = {},
): Omit<Scene, 'endpoint' | 'connection'> & { accepted: Endpoint[] } {
  const accepted: Endpoint[] = [];
  if (!host.tcp.listeningPorts().includes(80)) {
    host.tcp.listen({ port: 80 }, (connection) => accepted.push(adopt(connection)));
  }
  const peer = new ScriptedPeer(network, host, 80);
  const irs = options.irs ?? 1000;
  peer.send({ seq: irs, flags: SYN, mss: 1460, wnd: options.wnd ?? 0xffff, ...options.syn });
  const synAck = peer.take('a SYN-ACK');
  if (flagsOf(synAck) !== 'SYN ACK') throw new Error(`SYN ACK expected, ${flagsOf(synAck)} came`);
  return { peer, seq: irs + 1, ack: synAck.seq + 1, accepted };
}

/** ESTABLISHED by a passive open; nothing is pending on either side. */
export function establishedPassive(network: Network, host: Host, options: SceneOptions = {}): Scene {
  const scene = synReceived(network, host, options);
  const timestamps = options.syn?.timestamps;
  scene.peer.send({
    seq: scene.seq,
    ack: scene.ack,
    flags: ACK,
    wnd: options.wnd ?? 0xffff,
    ...(timestamps === undefined ? {} : { timestamps }),
  });
  const endpoint = scene.accepted[0];
  if (endpoint === undefined) throw new Error('the connection was not accepted');
  scene.peer.clear();
  return { peer: scene.peer, endpoint, connection: endpoint.connection, seq: scene.seq, ack: scene.ack };
}

/** SYN-SENT: the stack's SYN is taken, not answered. */
export function synSent(
  network: Network,
  host: Host,
): { peer: ScriptedPeer; endpoint: Endpoint; iss: number; port: number } {
  const endpoint = new Endpoint();
  const address = ipAddress('10.0.0.9');
  endpoint.connection = host.tcp.connect({ remoteAddress: address, remotePort: 5000 }, endpoint);
  const peer = new ScriptedPeer(network, host, endpoint.connection.localPort);
  peer.settle();
  const syn = peer.take('a SYN');
  return { peer, endpoint, iss: syn.seq, port: endpoint.connection.localPort };
}
