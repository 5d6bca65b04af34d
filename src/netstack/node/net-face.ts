/**
 * The stack as programs of node:net see it: listens for a net.Server, connects a net.Socket, and knows which server has
 * which port, so that imported connections find their application.
 */
import { lookup as dnsLookup } from 'node:dns';
import type { AddressInfo, LookupFunction, Server, Socket } from 'node:net';
import { isIP } from 'node:net';
import { codeOf } from '../../common/index.ts';
import type { Stack } from '../stack.ts';
import type { TcpConnection, TcpConnectionState, TcpListener } from '../transport/tcp/index.ts';
import { HandOverError } from '../transport/tcp/index.ts';
import type { IpAddress } from '../wire/index.ts';
import { IPV4_ANY, IPV6_ANY, parseIpAddress, unmapIpv4 } from '../wire/index.ts';
import { bindException, connectException, listenException } from './errno.ts';
import { AnchorHold, LoopAnchor } from './loop-anchor.ts';
import type { StackSocket } from './socket.ts';
import { attach, becomeStackSocket, StackSocket as Implementation, revive, socketName } from './socket.ts';

export interface FaceHooks {
  /** Before the server's 'connection' event. `imported`: the connection was handed over by another stack. */
  onConnection?(server: Server, socket: StackSocket, imported: boolean): void;
  onListening?(server: Server, port: number): void;
}

export interface FaceListenOptions {
  readonly port: number;
  /** Text form; absent: every address. */
  readonly host?: string | undefined;
  readonly backlog?: number | undefined;
  /** With `::`: no IPv4. */
  readonly ipv6Only?: boolean | undefined;
}

export interface FaceConnectOptions {
  readonly port: number;
  /** Text form of an address. */
  readonly host: string;
  readonly localAddress?: string | undefined;
  readonly localPort?: number | undefined;
}

/** What net.Server keeps to itself. */
interface ServerInside {
  _handle: unknown;
  _listeningId: number;
  _connections: number;
  allowHalfOpen: boolean;
  pauseOnConnect: boolean;
  noDelay?: boolean;
  keepAlive?: boolean;
  keepAliveInitialDelay?: number;
  highWaterMark?: number;
  maxConnections?: number;
}

function inside(server: Server): ServerInside {
  return server as unknown as ServerInside;
}

export class NetFace {
  readonly stack: Stack;
  readonly anchor = new LoopAnchor();
  readonly hooks: FaceHooks;
  readonly #servers = new Map<number, Server>();
  readonly #sockets = new Set<StackSocket>();

  constructor(stack: Stack, hooks: FaceHooks = {}) {
    this.stack = stack;
    this.hooks = hooks;
  }

  /** Servers by port. */
  get servers(): ReadonlyMap<number, Server> {
    return this.#servers;
  }

  /** Accepted sockets that are open. */
  get accepted(): ReadonlySet<StackSocket> {
    return this.#sockets;
  }

  /**
   * Makes `server` listen on the stack. As node:net: 'listening' or 'error' follow. The server's own close, address,
   * listening, getConnections work on.
   */
  listen(server: Server, options: FaceListenOptions): void {
    const address = options.host === undefined ? undefined : parseHost(options.host);
    const shown = options.host ?? socketName(this.#any(), options.port).address;
    let listener: TcpListener;
    try {
      listener = this.stack.tcp.listen(
        { address, port: options.port, backlog: options.backlog, ipv6Only: options.ipv6Only },
        (connection) => this.#accept(server, connection, false),
      );
    } catch (error) {
      const exception = listenException(codeOf(error) ?? 'EINVAL', shown, options.port);
      process.nextTick(() => server.emit('error', exception));
      return;
    }
    this.#servers.set(listener.port, server);
    const hold = new AnchorHold(this.anchor);
    inside(server)._handle = {
      getsockname: (out: AddressInfo) => {
        Object.assign(out, socketName(listener.address ?? address ?? this.#any(), listener.port));
        return 0;
      },
      close: () => {
        listener.close();
        hold.end();
        if (this.#servers.get(listener.port) === server) this.#servers.delete(listener.port);
      },
      ref: () => hold.ref(),
      unref: () => hold.unref(),
      getAsyncId: () => 0,
    };
    process.nextTick(() => {
      if (inside(server)._handle === null) return;
      this.hooks.onListening?.(server, listener.port);
      server.emit('listening');
    });
  }

  /** Connects `socket`, which becomes a StackSocket. As node:net: 'connect' and 'ready', or 'error', follow. */
  connect(socket: Socket, options: FaceConnectOptions): StackSocket {
    const ours = becomeStackSocket(socket);
    revive(ours);
    Object.assign(ours, { connecting: true });
    // Errors come on a later tick, as from the kernel.
    process.nextTick(() => {
      if (!ours.connecting || ours.destroyed) return;
      const { host, port } = options;
      const remoteAddress = parseHost(host);
      const localAddress = options.localAddress === undefined ? undefined : parseHost(options.localAddress);
      if (localAddress !== undefined && !this.stack.host.isLocal(localAddress)) {
        ours.destroy(bindException('EADDRNOTAVAIL', options.localAddress!, options.localPort));
        return;
      }
      ours.emit('connectionAttempt', host, port, isIP(host));
      if (!ours.connecting || ours.destroyed) return;
      const hold = new AnchorHold(this.anchor);
      try {
        if (remoteAddress === undefined) throw connectException('EINVAL', host, port);
        const pending = new PendingHandler();
        const connection = this.stack.tcp.connect(
          { remoteAddress, remotePort: port, localAddress, localPort: options.localPort },
          pending,
        );
        attach(ours, connection, hold, { address: host, port });
      } catch (error) {
        hold.end();
        ours.destroy(connectException(codeOf(error) ?? 'EINVAL', host, port));
      }
    });
    return ours;
  }

  /**
   * Continues connections exported by another stack: each is handed to the server that listens on its port as if accepted.
   * What cannot be continued is named with its reason; nothing is thrown.
   */
  importConnections(states: readonly unknown[]): {
    imported: number;
    refused: { flow: TcpConnectionState['flow']; reason: string }[];
  } {
    const refused: { flow: TcpConnectionState['flow']; reason: string }[] = [];
    let imported = 0;
    for (const state of states) {
      const { flow } = (state ?? {}) as TcpConnectionState;
      try {
        const server = this.#servers.get(flow?.localPort ?? -1);
        if (server === undefined) {
          throw new HandOverError('TCP_NO_LISTENER', `nothing listens on port ${flow?.localPort}`, {
            remedy: 'start the application before importing its connections',
          });
        }
        this.#accept(server, this.stack.tcp.importState(state), true);
        imported++;
      } catch (error) {
        refused.push({ flow, reason: error instanceof Error ? error.message : String(error) });
      }
    }
    return { imported, refused };
  }

  /** The stack goes away: peers get a reset unless `silent`, and nothing keeps the process alive any more. */
  close(silent = false): void {
    this.stack.tcp.close(!silent);
    this.stack.host.flush();
    this.anchor.end();
  }

  /** What a server without an address is shown to listen on: as node:net, `::` where there is IPv6. */
  #any(): IpAddress {
    return this.stack.interfaces.some((one) => one.addresses.linkLocal !== undefined) ? IPV6_ANY : IPV4_ANY;
  }

  /** What net.Server does with a handle that the kernel has accepted. */
  #accept(server: Server, connection: TcpConnection, imported: boolean): void {
    const self = inside(server);
    if (self._handle === null) {
      connection.abort();
      return;
    }
    if (self.maxConnections !== undefined && self._connections >= self.maxConnections) {
      const local = socketName(connection.localAddress, connection.localPort);
      const remote = socketName(connection.remoteAddress, connection.remotePort);
      server.emit('drop', {
        localAddress: local.address,
        localPort: local.port,
        localFamily: local.family,
        remoteAddress: remote.address,
        remotePort: remote.port,
        remoteFamily: remote.family,
      });
      connection.close();
      return;
    }
    const socket = new Implementation({
      allowHalfOpen: self.allowHalfOpen,
      ...(self.highWaterMark === undefined
        ? {}
        : { readableHighWaterMark: self.highWaterMark, writableHighWaterMark: self.highWaterMark }),
    });
    attach(socket, connection, new AnchorHold(this.anchor));
    if (self.noDelay === true) socket.setNoDelay(true);
    if (self.keepAlive === true) socket.setKeepAlive(true, (self.keepAliveInitialDelay ?? 0) * 1000);
    self._connections++;
    Object.assign(socket, { server, _server: server });
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    this.hooks.onConnection?.(server, socket, imported);
    if (self.pauseOnConnect) socket.pause();
    server.emit('connection', socket);
    if (!self.pauseOnConnect && !socket.destroyed) socket.read(0);
  }
}

/** Stands in until the socket is attached, in the same call. */
class PendingHandler {
  connected(): void {}
  readable(): void {}
  writable(): void {}
  closed(): void {}
}

/** An address as programs write it: a zone (`fe80::1%eth0`) names the only interface there is, ::ffff:10.0.0.1 means 10.0.0.1. */
export function parseHost(host: string): IpAddress | undefined {
  const address = parseIpAddress(host.replace(/(?<=:.*)%.+$/, ''));
  return address === undefined ? undefined : unmapIpv4(address);
}

interface ResolveOptions {
  readonly family?: number | undefined;
  readonly hints?: number | undefined;
  readonly lookup?: LookupFunction | undefined;
  /** Of several addresses the first for which it holds is taken. */
  readonly prefer?: ((address: string) => boolean) | undefined;
}

/** Looks `host` up as node:net does, unless it is an address already. */
export function resolveHost(
  host: string,
  options: ResolveOptions,
  done: (error: Error | null, address: string, family: number) => void,
): void {
  const literal = isIP(host);
  if (literal !== 0) {
    done(null, host, literal);
    return;
  }
  const lookup = options.lookup ?? (dnsLookup as unknown as LookupFunction);
  const family = options.family === 4 || options.family === 6 ? options.family : 0;
  lookup(host, { family, hints: options.hints ?? 0, all: true }, (error, address, one) => {
    if (error) {
      done(error, '', 0);
      return;
    }
    const all = Array.isArray(address) ? address : [{ address, family: one ?? isIP(address) }];
    const { prefer } = options;
    const chosen = (prefer === undefined ? undefined : all.find((each) => prefer(each.address))) ?? all[0];
    if (chosen === undefined) done(notFound(host), '', 0);
    else done(null, chosen.address, chosen.family);
  });
}

/** As getaddrinfo says it; a lookup of a program's own may just have nothing. */
function notFound(host: string): Error {
  const what = { code: 'ENOTFOUND', syscall: 'getaddrinfo', hostname: host };
  return Object.assign(new Error(`getaddrinfo ENOTFOUND ${host}`), what);
}
