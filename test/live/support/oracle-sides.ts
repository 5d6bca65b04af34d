/**
 * One host as frames see it, twice: the kernel behind a TAP, and our stack behind a link in memory on a virtual clock. Both have
 * the same addresses and the same small programs on the same ports, and get the same frames from a peer that the test plays.
 *
 * What the kernel answers at once is there before the reply to an echo request sent behind it, so nothing waits for time.
 */
import { execFileSync } from 'node:child_process';
import dgram from 'node:dgram';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import net from 'node:net';
import { SeededRandom, VirtualClock } from '../../../src/common/index.ts';
import type { LinkDevice } from '../../../src/netstack/index.ts';
import { cidr, ipAddress, MemoryLink, macAddress, Stack, TapLink } from '../../../src/netstack/index.ts';
import { arp, icmp, ipv4, packet } from '../../netstack/packets.ts';
import { advertisement } from '../../netstack/packets6.ts';
import { adopt, type Endpoint } from '../../netstack/transport/tcp/support/index.ts';

export const HOST = '10.97.0.1';
export const PEER = '10.97.0.9';
export const HOST6 = 'fd97::1';
export const PEER6 = 'fd97::9';
const HOST_MAC = '02:00:00:00:00:01';
const PEER_MAC = '020000000002';
const SENTINEL = 0x5e17;

/** What the program on a port does. */
export const PORT = {
  /** Reads all, ends when the peer ends. */
  READ: 8000,
  /** Never reads. */
  MUTE: 8001,
  /** Writes 3000 bytes when a connection comes, reads. */
  TALK: 8002,
  /** Ends at once, reads on. */
  HANG_UP: 8003,
  /** Reads all, ends never. */
  HALF: 8004,
  CLOSED: 8009,
  UDP_ECHO: 8010,
} as const;

export const TALK_BYTES = 3000;

/** What a program has seen of one connection. */
export interface Seen {
  text: string;
  ended: boolean;
  /** Code of the error that ended it, unless the peer had ended before: then it may stay unnoticed. */
  closed: string | undefined;
}

export interface Side {
  readonly name: string;
  /** Puts frames in, one after the other; returns what came out by itself and as answers. */
  exchange(...frames: Uint8Array[]): Promise<Buffer[]>;
  /** What the program on `port` has seen of the connection from `peerPort`. */
  seen(peerPort: number): Seen | undefined;
  close(): void;
}

const isSentinelReply = (frame: Buffer) =>
  frame.length >= 52 &&
  frame.readUInt16BE(22) === 0x0800 &&
  frame[33] === 1 &&
  frame[44] === 0 &&
  frame.readUInt16BE(48) === SENTINEL;

/** Answers to the host's questions for the peer's hardware address; other traffic about addresses is nobody's business. */
function neighbourAnswer(frame: Buffer): Buffer | undefined {
  const type = frame.readUInt16BE(22);
  if (type === 0x0806) {
    if (frame.readUInt16BE(30) !== 1 || frame.subarray(48, 52).join('.') !== PEER) return undefined;
    return packet(arp(2, PEER_MAC, PEER, '020000000001', HOST), { type: 0x0806 });
  }
  if (type === 0x86dd && frame[30] === 58 && frame[64] === 135) {
    const flags = 0x60;
    return advertisement({ source: PEER6, destination: HOST6, target: PEER6, mac: PEER_MAC, flags });
  }
  return undefined;
}

const isNeighbourTraffic = (frame: Buffer) => {
  const type = frame.readUInt16BE(22);
  if (type === 0x0806) return true;
  if (type !== 0x86dd) return false;
  // Also multicast listener reports behind a hop-by-hop header, and mDNS-like chatter to groups.
  return frame[48] === 0xff || (frame[30] === 58 && frame[64]! >= 133 && frame[64]! <= 136);
};

export class KernelSide implements Side {
  readonly name = 'kernel';
  readonly #link: LinkDevice;
  readonly #servers: net.Server[] = [];
  readonly #connections = new Map<number, Seen>();
  readonly #sockets = new Set<net.Socket>();
  readonly #udp: dgram.Socket[] = [];
  #inbox: Buffer[] = [];
  #sentinel: (() => void) | undefined;
  #number = 0;

  private constructor(link: LinkDevice) {
    this.#link = link;
    link.attach({
      receive: (buffer, offset, length) => {
        const frame = Buffer.from(buffer.subarray(offset, offset + length));
        if (frame.length < 24) return;
        const answer = neighbourAnswer(frame);
        if (answer !== undefined) {
          link.transmit(answer, 0, answer.length);
          link.flush();
        } else if (isSentinelReply(frame)) this.#sentinel?.();
        else if (!isNeighbourTraffic(frame)) this.#inbox.push(frame);
      },
      endOfBatch: () => {},
      writable: () => {},
    });
  }

  static async open(): Promise<KernelSide> {
    const link = new TapLink({
      name: 'oracle0',
      ipv4: `${HOST}/24`,
      offload: false,
      mac: HOST_MAC,
      up: true,
    });
    const set = (name: string, value: number) => writeFileSync(`/proc/sys/net/${name}`, String(value));
    set('ipv6/conf/oracle0/accept_dad', 0);
    set('ipv6/conf/oracle0/router_solicitations', 0);
    // Every answer counts here; how often one is given is another matter.
    set('ipv4/icmp_ratelimit', 0);
    set('ipv6/icmp/ratelimit', 0);
    set('ipv4/tcp_invalid_ratelimit', 0);
    execFileSync('ip', ['-6', 'addr', 'add', `${HOST6}/64`, 'dev', 'oracle0', 'nodad']);
    const mac = PEER_MAC.replace(/..(?!$)/g, '$&:');
    for (const peer of [PEER, PEER6]) {
      execFileSync('ip', ['neigh', 'replace', peer, 'lladdr', mac, 'dev', 'oracle0', 'nud', 'permanent']);
    }
    const side = new KernelSide(link);
    try {
      await side.#programs();
    } catch (error) {
      side.close();
      throw error;
    }
    return side;
  }

  async #programs(): Promise<void> {
    const kinds = [PORT.READ, PORT.MUTE, PORT.TALK, PORT.HANG_UP, PORT.HALF];
    for (const port of kinds) {
      const server = net.createServer(
        { allowHalfOpen: port === PORT.HALF, pauseOnConnect: port === PORT.MUTE, noDelay: true },
        (socket) => {
          const seen: Seen = { text: '', ended: false, closed: undefined };
          this.#connections.set(socket.remotePort!, seen);
          this.#sockets.add(socket);
          socket.on('error', (error: NodeJS.ErrnoException) => {
            if (!seen.ended) seen.closed = error.code;
          });
          socket.on('close', () => this.#sockets.delete(socket));
          if (port !== PORT.MUTE) {
            socket.on('data', (chunk: Buffer) => {
              seen.text += chunk.toString('latin1');
            });
            socket.on('end', () => {
              seen.ended = true;
            });
          }
          if (port === PORT.TALK) socket.write(Buffer.alloc(TALK_BYTES, 't'));
          if (port === PORT.HANG_UP) socket.end();
        },
      );
      server.listen(port, '::');
      await once(server, 'listening');
      this.#servers.push(server);
    }
    for (const type of ['udp4', 'udp6'] as const) {
      const udp = dgram.createSocket(type === 'udp6' ? { type, ipv6Only: true } : { type });
      udp.on('message', (bytes, from) => {
        if (from.port !== 0) udp.send(bytes, from.port, from.address);
      });
      udp.bind(PORT.UDP_ECHO);
      await once(udp, 'listening');
      this.#udp.push(udp);
    }
  }

  async exchange(...frames: Uint8Array[]): Promise<Buffer[]> {
    this.#inbox = [];
    for (const frame of frames) this.#link.transmit(frame, 0, frame.length);
    // Twice: the programs' doings come with the event loop, after the kernel's own.
    for (let round = 0; round < 2; round++) {
      await this.#barrier();
      for (let turn = 0; turn < 4; turn++) await new Promise((done) => setImmediate(done));
    }
    await this.#barrier();
    return this.#inbox;
  }

  #barrier(): Promise<void> {
    const echo = icmp(8, 0, SENTINEL * 0x1_0000 + (this.#number++ & 0xffff), Buffer.alloc(8));
    const frame = packet(ipv4({ source: PEER, destination: HOST, protocol: 1, payload: echo }));
    return new Promise((resolve, reject) => {
      const limit = setTimeout(() => reject(new Error('the kernel does not answer echo requests')), 5_000);
      this.#sentinel = () => {
        clearTimeout(limit);
        resolve();
      };
      this.#link.transmit(frame, 0, frame.length);
      this.#link.flush();
    });
  }

  seen(peerPort: number): Seen | undefined {
    return this.#connections.get(peerPort);
  }

  close(): void {
    for (const socket of this.#sockets) socket.destroy();
    for (const server of this.#servers) server.close();
    for (const udp of this.#udp) udp.close();
    this.#link.close();
  }
}

export class OurSide implements Side {
  readonly name = 'ours';
  readonly clock = new VirtualClock();
  readonly stack: Stack;
  readonly #link: MemoryLink;
  readonly #connections = new Map<number, { endpoint: Endpoint; mute: boolean }>();
  #inbox: Buffer[] = [];

  constructor() {
    const [hostLink, link] = MemoryLink.pair(this.clock);
    this.#link = link;
    link.attach({
      receive: (buffer, offset, length) => {
        const frame = Buffer.from(buffer.subarray(offset, offset + length));
        const answer = neighbourAnswer(frame);
        if (answer !== undefined) {
          link.transmit(answer, 0, answer.length);
          link.flush();
        } else if (!isNeighbourTraffic(frame)) this.#inbox.push(frame);
      },
      endOfBatch: () => {},
      writable: () => {},
    });
    this.stack = new Stack({
      clock: this.clock,
      random: new SeededRandom(97),
      link: hostLink,
      mac: macAddress(HOST_MAC),
      addresses: [cidr(`${HOST}/24`), cidr(`${HOST6}/64`)],
      detectDuplicates: false,
      gateway: ipAddress('10.97.0.254'),
    });
    for (const port of [PORT.READ, PORT.MUTE, PORT.TALK, PORT.HANG_UP, PORT.HALF]) {
      this.stack.tcp.listen({ port }, (connection) => {
        const endpoint = adopt(connection, (fresh) => {
          fresh.reading = port !== PORT.MUTE;
          connection.setNoDelay(true);
        });
        this.#connections.set(connection.remotePort, { endpoint, mute: port === PORT.MUTE });
        if (port === PORT.TALK) endpoint.send(Buffer.alloc(TALK_BYTES, 't'));
        if (port === PORT.HANG_UP) endpoint.end();
        if (port === PORT.HALF || port === PORT.MUTE) return;
        const readable = endpoint.readable.bind(endpoint);
        endpoint.readable = () => {
          readable();
          if (endpoint.isEnded) endpoint.end();
        };
      });
    }
    const udp = this.stack.udp.open({ port: PORT.UDP_ECHO });
    udp.onDatagram = ({ payload, source, sourcePort }) => void udp.send(payload, source, sourcePort);
    this.clock.advance(2_000);
  }

  exchange(...frames: Uint8Array[]): Promise<Buffer[]> {
    this.#inbox = [];
    for (const frame of frames) {
      this.#link.transmit(frame, 0, frame.length);
      this.#link.flush();
      this.clock.advance(1);
    }
    this.clock.advance(1);
    return Promise.resolve(this.#inbox);
  }

  seen(peerPort: number): Seen | undefined {
    const known = this.#connections.get(peerPort);
    if (known === undefined) return undefined;
    const { endpoint } = known;
    return {
      text: endpoint.bytes.toString('latin1'),
      ended: endpoint.isEnded,
      closed: endpoint.isEnded ? undefined : endpoint.error?.code,
    };
  }

  close(): void {
    this.#link.close();
  }
}
