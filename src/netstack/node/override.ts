/**
 * Puts an unmodified program of node:net on a stack: `net.Server.prototype.listen` and `net.Socket.prototype.connect` (and
 * `tls.connect`, which would need a kernel handle) are replaced for the whole process. What the stack does not serve goes
 * to the originals: unix paths, handles, file descriptors, loopback unless wanted, addresses without a route.
 */

import { syncBuiltinESMExports } from 'node:module';
import type { Server, Socket } from 'node:net';
import net, { BlockList, isIP } from 'node:net';
import tls from 'node:tls';
import type { Stack } from '../stack.ts';
import { formatIpAddress, isLoopback } from '../wire/index.ts';
import type { FaceHooks } from './net-face.ts';
import { NetFace, parseHost, resolveHost } from './net-face.ts';
import { becomeStackSocket, revive } from './socket.ts';
import { installTlsOnStack } from './tls-on-stack.ts';

export interface OverrideOptions extends FaceHooks {
  /**
   * Who serves 127.0.0.0/8, ::1 and the name localhost. `node` (default): the kernel. `stack`: the stack, listening on all
   * its addresses, connecting to its first own one.
   */
  readonly loopback?: 'node' | 'stack';
}

export interface NetOverride {
  readonly face: NetFace;
  /** Puts the originals back; what is open stays open. */
  uninstall(): void;
}

type Normalized = [options: Record<string, unknown>, callback: (() => void) | null];
interface NetInside {
  _normalizeArgs(args: readonly unknown[]): Normalized;
}

const LOOPBACK_NAMES = new Set(['localhost', 'localhost.localdomain', 'ip6-localhost']);

function isLoopbackHost(host: string): boolean {
  if (LOOPBACK_NAMES.has(host)) return true;
  const address = parseHost(host);
  return address !== undefined && isLoopback(address);
}

function portOf(value: unknown): number | undefined {
  if (
    typeof value === 'number' ? Number.isInteger(value) : typeof value === 'string' && /^\d+$/.test(value)
  ) {
    const port = Number(value);
    if (port >= 0 && port <= 0xffff) return port;
  }
  return undefined;
}

export function installNetOverride(stack: Stack, options: OverrideOptions = {}): NetOverride {
  const face = new NetFace(stack, options);
  const loopback = options.loopback ?? 'node';
  const originalListen = net.Server.prototype.listen as (...args: unknown[]) => Server;
  const originalConnect = net.Socket.prototype.connect as (...args: unknown[]) => Socket;
  const originalTlsConnect = tls.connect as (...args: unknown[]) => tls.TLSSocket;
  const normalize = (net as unknown as NetInside)._normalizeArgs;

  const routed = (host: string): boolean => {
    const address = parseHost(host);
    // A name may lead to loopback, too.
    if (loopback === 'node' && address !== undefined && isLoopback(address)) return false;
    return address !== undefined && stack.host.sourceFor(address) !== undefined;
  };

  const isOwn = (host: string): boolean => {
    const address = parseHost(host);
    return address !== undefined && stack.host.isLocal(address);
  };

  function listen(this: Server, ...args: unknown[]): Server {
    const [given, callback] = normalize(args);
    // Handles, descriptors and paths are the kernel's; a server that listens already gets node's own error.
    const noPort = given['port'] === undefined || given['port'] === null;
    const foreign =
      this.listening ||
      isGiven(given['handle']) ||
      isGiven(given['_handle']) ||
      isGiven(given['fd']) ||
      (noPort && isGiven(given['path'])) ||
      typeof (given as { getAsyncId?: unknown }).getAsyncId === 'function' ||
      (isGiven(given['signal']) && !(given['signal'] instanceof AbortSignal));
    const port = noPort
      ? args.length === 0 || typeof args[0] === 'function' || 'port' in given || args[0] === null
        ? 0
        : undefined
      : portOf(given['port']);
    if (foreign || port === undefined) return originalListen.apply(this, args);
    const host = typeof given['host'] === 'string' && given['host'] !== '' ? given['host'] : undefined;
    if (host !== undefined && isLoopbackHost(host) && loopback === 'node')
      return originalListen.apply(this, args);

    if (callback !== null) this.once('listening', callback);
    abortOn(this, given['signal']);
    const backlog = numberOf(given['backlog']) ?? numberOf(args[1]) ?? numberOf(args[2]);
    if (host === undefined || isLoopbackHost(host)) {
      face.listen(this, { port, backlog });
      return this;
    }
    const ipv6Only = given['ipv6Only'] === true;
    resolveHost(host, { prefer: isOwn }, (error, address) => {
      if (error !== null) process.nextTick(() => this.emit('error', error));
      else face.listen(this, { port, backlog, host: address, ipv6Only });
    });
    return this;
  }

  function connect(this: Socket, ...args: unknown[]): Socket {
    const first = args[0] as Normalized | undefined;
    // net.connect passes what it has normalized already.
    const [given, callback] = Array.isArray(first) ? first : normalize(args);
    const port = portOf(given['port']);
    const hasHandle = (this as unknown as { _handle: unknown })._handle !== null;
    // Node's own errors for what is no address and no function.
    const wrong =
      (isGiven(given['localAddress']) && isIP(String(given['localAddress'])) === 0) ||
      (isGiven(given['lookup']) && typeof given['lookup'] !== 'function');
    if (isGiven(given['path']) || port === undefined || hasHandle || wrong)
      return originalConnect.apply(this, args);
    const host = typeof given['host'] === 'string' && given['host'] !== '' ? given['host'] : 'localhost';
    const toLoopback = isLoopbackHost(host);
    if (toLoopback && loopback === 'node') return originalConnect.apply(this, args);
    if (isIP(host) !== 0 && !toLoopback && !routed(host)) return originalConnect.apply(this, args);
    if (isIP(host) !== 0 && isBlocked(given['blockList'], host)) return originalConnect.apply(this, args);

    const local = { localAddress: textOf(given['localAddress']), localPort: numberOf(given['localPort']) };
    if (toLoopback || isIP(host) !== 0) {
      if (callback !== null) this.once('connect', callback);
      return face.connect(this, { port, host: toLoopback ? ownAddress(stack, host) : host, ...local });
    }
    // A name: who serves it is known when its address is.
    revive(this);
    Object.assign(this, { connecting: true, _host: host });
    resolveHost(
      host,
      {
        family: numberOf(given['family']),
        hints: numberOf(given['hints']),
        lookup: given['lookup'] as Parameters<typeof resolveHost>[1]['lookup'],
        prefer: routed,
      },
      (error, address, family) => {
        if (error === null) this.emit('lookup', null, address, family, host);
        else this.emit('lookup', error, undefined, undefined, host);
        if (!this.connecting || this.destroyed) return;
        if (error !== null) {
          becomeStackSocket(this);
          process.nextTick(() => this.destroy(error));
        } else if (routed(address) && !isBlocked(given['blockList'], address)) {
          if (callback !== null) this.once('connect', callback);
          face.connect(this, { port, host: address, ...local });
        } else {
          originalConnect.call(this, { ...given, host: address }, callback ?? undefined);
        }
      },
    );
    return this;
  }

  /** TLS over our socket: as TLS over any stream. */
  function tlsConnect(...args: unknown[]): tls.TLSSocket {
    const given = tlsOptions(args);
    const host = textOf(given['host']) ?? 'localhost';
    const port = portOf(given['port']);
    const ours = loopback === 'stack' || !isLoopbackHost(host);
    if (isGiven(given['socket']) || isGiven(given['path']) || port === undefined || !ours) {
      return originalTlsConnect(...args);
    }
    if (isIP(host) !== 0 && !isLoopbackHost(host) && !routed(host)) return originalTlsConnect(...args);
    const { host: _host, port: _port, ...rest } = given;
    const socket = net.connect({ ...given, host, port } as net.TcpNetConnectOpts);
    const servername = given['servername'] ?? (isIP(host) === 0 ? host : '');
    const callback = args.at(-1);
    return originalTlsConnect(
      { ...rest, host, servername, socket },
      ...(typeof callback === 'function' ? [callback] : []),
    );
  }

  const undoTls = installTlsOnStack();
  Object.assign(net.Server.prototype, { listen });
  Object.assign(net.Socket.prototype, { connect });
  Object.assign(tls, { connect: tlsConnect });
  syncBuiltinESMExports();
  return {
    face,
    uninstall: () => {
      undoTls();
      Object.assign(net.Server.prototype, { listen: originalListen });
      Object.assign(net.Socket.prototype, { connect: originalConnect });
      Object.assign(tls, { connect: originalTlsConnect });
      syncBuiltinESMExports();
    },
  };
}

/** The address of ours that stands for a loopback one, of its family if there is one. */
function ownAddress(stack: Stack, loopback: string): string {
  const { addresses: own } = stack;
  const wanted = parseHost(loopback);
  const chosen = own.find((cidr) => wanted !== undefined && typeof cidr.address === typeof wanted) ?? own[0];
  return chosen === undefined ? loopback : formatIpAddress(chosen.address);
}

/** What is blocked goes to the original, which says so and connects nowhere. */
function isBlocked(blockList: unknown, address: string): boolean {
  return blockList instanceof BlockList && blockList.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4');
}

/** Node's own callers pass null for "not given", too. */
function isGiven(value: unknown): boolean {
  return value !== undefined && value !== null;
}

function textOf(value: unknown): string | undefined {
  return typeof value === 'string' && value !== '' ? value : undefined;
}

function numberOf(value: unknown): number | undefined {
  const number = typeof value === 'string' && value !== '' ? Number(value) : value;
  return typeof number === 'number' && Number.isFinite(number) ? number : undefined;
}

/** tls.connect(options[, callback]), (port[, host][, options][, callback]). */
function tlsOptions(args: readonly unknown[]): Record<string, unknown> {
  const merged: Record<string, unknown> = {};
  for (const arg of args) {
    if (typeof arg === 'object' && arg !== null) Object.assign(merged, arg);
    else if (typeof arg === 'number') merged['port'] = arg;
    else if (typeof arg === 'string') merged[portOf(arg) === undefined ? 'host' : 'port'] = arg;
  }
  return merged;
}

function abortOn(server: Server, signal: unknown): void {
  if (!(signal instanceof AbortSignal)) return;
  const stop = () => server.close();
  if (signal.aborted) {
    process.nextTick(stop);
    return;
  }
  signal.addEventListener('abort', stop);
  server.once('close', () => signal.removeEventListener('abort', stop));
}
