/**
 * `node:dgram` on a stack: `dgram.createSocket` is replaced for the whole process. A socket is an event emitter with the calls
 * that programs use of node's: bind, send, connect, disconnect, address, close, ref, unref. Multicast membership is refused.
 */
import dgram from 'node:dgram';
import { EventEmitter } from 'node:events';
import { syncBuiltinESMExports } from 'node:module';
import { codeOf } from '../../common/index.ts';
import type { Stack } from '../stack.ts';
import type { UdpDatagram, UdpSocket } from '../transport/udp/index.ts';
import { UdpError } from '../transport/udp/index.ts';
import type { IpAddress } from '../wire/index.ts';
import { formatIpAddress, isLoopback, isUnspecified } from '../wire/index.ts';
import { errnoException } from './errno.ts';
import { AnchorHold, LoopAnchor } from './loop-anchor.ts';
import { parseHost, resolveHost } from './net-face.ts';

type Type = 'udp4' | 'udp6';
type Callback = (error: Error | null, bytes: number) => void;
interface Options {
  readonly type?: Type;
  readonly ipv6Only?: boolean;
  readonly lookup?: Parameters<typeof resolveHost>[1]['lookup'];
  readonly signal?: AbortSignal;
}

/** Stack's error code → errno. */
const ERRNO: Readonly<Record<string, string>> = {
  UDP_PORT_IN_USE: 'EADDRINUSE',
  UDP_NO_FREE_PORT: 'EADDRINUSE',
  UDP_ADDRESS_NOT_OWN: 'EADDRNOTAVAIL',
  UDP_PORT_INVALID: 'EINVAL',
};
const SEND_ERRNO = {
  full: 'ENOBUFS',
  'no-route': 'ENETUNREACH',
  'too-big': 'EMSGSIZE',
  'no-destination': 'EDESTADDRREQ',
  closed: 'EBADF',
} as const;

/** Misuse of a socket, as node names it. */
function misuse(code: string, message: string): Error {
  return Object.assign(new UdpError(code, message), { code });
}

export class StackDatagramSocket extends EventEmitter {
  readonly type: Type;
  readonly #stack: Stack;
  readonly #options: Options;
  readonly #hold: AnchorHold;
  #socket: UdpSocket | undefined;
  /** Calls that wait for the bind of a socket that was used without one. */
  #binding = false;
  #closed = false;

  constructor(stack: Stack, anchor: LoopAnchor, type: Type, options: Options) {
    super();
    this.type = type;
    this.#stack = stack;
    this.#options = options;
    this.#hold = new AnchorHold(anchor);
    options.signal?.addEventListener('abort', () => this.close(), { once: true });
  }

  /** bind([port][, address][, callback]), bind(options[, callback]). */
  bind(...args: unknown[]): this {
    this.#requireOpen();
    if (this.#socket !== undefined || this.#binding)
      throw misuse('ERR_SOCKET_ALREADY_BOUND', 'Socket is already bound');
    const callback = args.find((arg) => typeof arg === 'function') as (() => void) | undefined;
    const [first, second] = args;
    const given =
      typeof first === 'object' && first !== null
        ? (first as { port?: number; address?: string })
        : undefined;
    const port = given?.port ?? (typeof first === 'number' ? first : 0);
    const address = given?.address ?? (typeof second === 'string' ? second : undefined);
    if (callback !== undefined) this.once('listening', callback);
    this.#binding = true;
    if (address === undefined || address === '') this.#open(port, undefined);
    else {
      resolveHost(address, this.#lookup(), (error, found) => {
        if (error === null) this.#open(port, parseHost(found));
        else this.#fail(error);
      });
    }
    return this;
  }

  /** send(msg[, offset, length][, port][, address][, callback]); `msg` may be a list. */
  send(message: unknown, ...rest: unknown[]): void {
    this.#requireOpen();
    const callback = rest.find((arg) => typeof arg === 'function') as Callback | undefined;
    const words = rest.filter((arg) => typeof arg !== 'function');
    let payload = bytesOf(message);
    const connected = this.#socket?.remoteAddress !== undefined;
    const sliced = typeof words[1] === 'number' && (connected ? words.length <= 2 : true);
    if (sliced && typeof words[0] === 'number' && !Array.isArray(message)) {
      const [offset, length] = words.splice(0, 2) as [number, number];
      payload = payload.subarray(offset, offset + length);
    }
    const [port, address] = words as [number | undefined, string | undefined];
    if (this.#socket === undefined && !this.#binding) this.bind(0);
    const finish = (error: Error | null) => {
      if (callback !== undefined) process.nextTick(callback, error, error === null ? payload.length : 0);
      else if (error !== null) process.nextTick(() => this.emit('error', error));
    };
    const go = (destination: IpAddress | undefined) => {
      const result = this.#socket?.send(payload, destination, port) ?? 'closed';
      finish(result === 'sent' ? null : errnoException(SEND_ERRNO[result], 'send'));
    };
    const whenBound = (work: () => void) =>
      this.#socket === undefined ? this.once('listening', work) : work();
    if (port === undefined) return void whenBound(() => go(undefined));
    const host = address ?? (this.type === 'udp4' ? '127.0.0.1' : '::1');
    resolveHost(host, this.#lookup(), (error, found) => {
      if (error === null) whenBound(() => go(this.#own(parseHost(found))));
      else finish(error);
    });
  }

  connect(port: number, ...rest: unknown[]): void {
    this.#requireOpen();
    const address = rest.find((arg) => typeof arg === 'string') as string | undefined;
    const callback = rest.find((arg) => typeof arg === 'function') as (() => void) | undefined;
    if (callback !== undefined) this.once('connect', callback);
    if (this.#socket === undefined && !this.#binding) this.bind(0);
    const host = address ?? (this.type === 'udp4' ? '127.0.0.1' : '::1');
    resolveHost(host, this.#lookup(), (error, found) => {
      if (error !== null) return void process.nextTick(() => this.emit('error', error));
      const work = () => {
        this.#socket?.connect(this.#own(parseHost(found)), port);
        process.nextTick(() => this.emit('connect'));
      };
      if (this.#socket === undefined) this.once('listening', work);
      else work();
    });
  }

  disconnect(): void {
    if (this.#socket?.remoteAddress === undefined)
      throw misuse('ERR_SOCKET_DGRAM_NOT_CONNECTED', 'Not connected');
    this.#socket.connect(undefined);
  }

  address(): { address: string; family: string; port: number } {
    this.#requireOpen();
    if (this.#socket === undefined) throw errnoException('EBADF', 'getsockname');
    const { localAddress, localPort } = this.#socket;
    const any = this.type === 'udp4' ? '0.0.0.0' : '::';
    return {
      address: localAddress === undefined ? any : formatIpAddress(localAddress),
      family: this.type === 'udp4' ? 'IPv4' : 'IPv6',
      port: localPort,
    };
  }

  remoteAddress(): { address: string; family: string; port: number } {
    const remote = this.#socket?.remoteAddress;
    if (remote === undefined) throw misuse('ERR_SOCKET_DGRAM_NOT_CONNECTED', 'Not connected');
    return { address: formatIpAddress(remote), family: familyOf(remote), port: this.#socket!.remotePort };
  }

  close(callback?: () => void): this {
    this.#requireOpen();
    if (typeof callback === 'function') this.once('close', callback);
    this.#closed = true;
    this.#socket?.close();
    this.#hold.end();
    process.nextTick(() => this.emit('close'));
    return this;
  }

  ref(): this {
    this.#hold.ref();
    return this;
  }

  unref(): this {
    this.#hold.unref();
    return this;
  }

  /** Accepted and without effect: every broadcast may be sent, queues have the stack's size. */
  setBroadcast(_flag: boolean): void {}
  setTTL(ttl: number): number {
    return ttl;
  }
  setRecvBufferSize(_size: number): void {}
  setSendBufferSize(_size: number): void {}
  getRecvBufferSize(): number {
    return 1024 * 1024;
  }
  getSendBufferSize(): number {
    return 1024 * 1024;
  }
  addMembership(_group: string): void {
    throw errnoException('ENOPROTOOPT', 'addMembership');
  }

  [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return Promise.resolve();
    return new Promise((resolve) => this.close(resolve));
  }

  #open(port: number, address: IpAddress | undefined): void {
    if (this.#closed) return;
    const any = address === undefined || isUnspecified(address);
    try {
      const socket = this.#stack.udp.open(any ? { port } : { port, address: this.#own(address)! });
      this.#socket = socket;
      socket.onDatagram = (datagram) => this.#receive(datagram);
      socket.onError = ({ kind }) => {
        if (socket.remoteAddress !== undefined && kind === 'port-unreachable')
          process.nextTick(() => this.emit('error', errnoException('ECONNREFUSED', 'recvmsg')));
      };
      process.nextTick(() => this.emit('listening'));
    } catch (error) {
      this.#fail(errnoException(ERRNO[codeOf(error) ?? ''] ?? 'EINVAL', 'bind'));
    } finally {
      this.#binding = false;
    }
  }

  #fail(error: Error): void {
    this.#binding = false;
    process.nextTick(() => this.emit('error', error));
  }

  #receive(datagram: UdpDatagram): void {
    const isIpv4 = typeof datagram.source === 'number';
    if (isIpv4 ? this.type === 'udp6' && this.#options.ipv6Only === true : this.type === 'udp4') return;
    const text = formatIpAddress(datagram.source);
    const payload = Buffer.from(
      datagram.payload.buffer,
      datagram.payload.byteOffset,
      datagram.payload.length,
    );
    const info = {
      address: isIpv4 && this.type === 'udp6' ? `::ffff:${text}` : text,
      family: this.type === 'udp4' ? 'IPv4' : 'IPv6',
      port: datagram.sourcePort,
      size: payload.length,
    };
    // A handler that throws must not throw into the stack.
    process.nextTick(() => {
      if (!this.#closed) this.emit('message', payload, info);
    });
  }

  /** A loopback address stands for our own. */
  #own(address: IpAddress | undefined): IpAddress | undefined {
    if (address === undefined || !isLoopback(address)) return address;
    return this.#stack.addresses.find((cidr) => typeof cidr.address === typeof address)?.address ?? address;
  }

  #lookup() {
    const { lookup } = this.#options;
    return { family: this.type === 'udp4' ? 4 : 0, ...(lookup === undefined ? {} : { lookup }) };
  }

  #requireOpen(): void {
    if (this.#closed) throw misuse('ERR_SOCKET_DGRAM_NOT_RUNNING', 'Not running');
  }
}

/** Returns the function that puts the original back; open sockets stay open. */
export function installDgramOverride(stack: Stack): () => void {
  const original = dgram.createSocket;
  const anchor = new LoopAnchor();
  const createSocket = (
    given: Type | (Options & { type: Type }),
    listener?: (...args: unknown[]) => void,
  ) => {
    const options: Options = typeof given === 'string' ? {} : given;
    const type = typeof given === 'string' ? given : given.type;
    if (type !== 'udp4' && type !== 'udp6')
      throw misuse('ERR_SOCKET_BAD_TYPE', 'Bad socket type specified. Valid types are: udp4, udp6');
    const socket = new StackDatagramSocket(stack, anchor, type, options);
    if (listener !== undefined) socket.on('message', listener);
    return socket;
  };
  Object.assign(dgram, { createSocket });
  syncBuiltinESMExports();
  return () => {
    anchor.end();
    Object.assign(dgram, { createSocket: original });
    syncBuiltinESMExports();
  };
}

function familyOf(address: IpAddress): string {
  return typeof address === 'number' ? 'IPv4' : 'IPv6';
}

function bytesOf(message: unknown): Buffer {
  if (typeof message === 'string') return Buffer.from(message);
  if (Array.isArray(message)) return Buffer.concat(message.map(bytesOf));
  if (ArrayBuffer.isView(message)) return Buffer.from(message.buffer, message.byteOffset, message.byteLength);
  throw Object.assign(new TypeError('The "msg" argument must be a string, a view, or a list of them'), {
    code: 'ERR_INVALID_ARG_TYPE',
  });
}
