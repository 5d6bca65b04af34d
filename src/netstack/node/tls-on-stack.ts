/**
 * TLS over sockets of the stack. A `tls.TLSSocket` over a `net.Socket` without a kernel handle waits for its `connect`, which
 * an accepted or long connected socket never emits, and it asks the handle for addresses. Both are put right here.
 */
import type { Socket } from 'node:net';
import tls from 'node:tls';
import { StackSocket } from './socket.ts';

interface Name {
  readonly address?: string | undefined;
  readonly port?: number | undefined;
  readonly family?: string | undefined;
}

interface TlsInside {
  /** The socket below. */
  readonly _parent?: unknown;
  _peername?: Name;
  connecting: boolean;
  _init(socket: Socket | undefined, wrap: unknown): void;
  _getpeername(): Name;
  _getsockname(): Name;
}

/** Returns what undoes it. */
export function installTlsOnStack(): () => void {
  const prototype = tls.TLSSocket.prototype as unknown as TlsInside;
  const { _init: init, _getpeername: getPeerName, _getsockname: getSockName } = prototype;

  function _init(this: TlsInside, socket: Socket | undefined, wrap: unknown): void {
    init.call(this, socket, wrap);
    if (!(socket instanceof StackSocket) || socket.connecting) return;
    this.connecting = false;
    // Kept, as node does it, for when the connection is gone.
    this._peername = peerName(socket);
  }

  function _getpeername(this: TlsInside): Name {
    const { _parent: parent } = this;
    if (!(parent instanceof StackSocket)) return getPeerName.call(this);
    if (this._peername?.address === undefined && !parent.connecting) this._peername = peerName(parent);
    return this._peername ?? {};
  }

  function _getsockname(this: TlsInside): Name {
    const { _parent: parent } = this;
    if (!(parent instanceof StackSocket)) return getSockName.call(this);
    return { address: parent.localAddress, port: parent.localPort, family: parent.localFamily };
  }

  Object.assign(prototype, { _init, _getpeername, _getsockname });
  return () => {
    // The two names are net.Socket's, inherited.
    Object.assign(prototype, { _init: init });
    Reflect.deleteProperty(prototype, '_getpeername');
    Reflect.deleteProperty(prototype, '_getsockname');
  };
}

function peerName(socket: Socket): Name {
  return { address: socket.remoteAddress, port: socket.remotePort, family: socket.remoteFamily };
}
