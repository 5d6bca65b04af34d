/**
 * A net.Socket whose bytes run through our stack. It *is* a net.Socket (same constructor, streams, timeouts, half-open rules,
 * `instanceof`), with every method that would touch the kernel's handle replaced; `_handle` stays null. So an existing
 * net.Socket can become one, too: `becomeStackSocket` when a program calls `connect` on it.
 *
 * `Attachment` joins a socket and a connection. Receiving: chunks go to the stream as they were received, until push says
 * stop; the rest waits in the stack, whose window closes. Sending: bytes go to the send buffer; when that is beyond
 * its limit the write's callback waits for `writable`, so that 'drain' and pipe work as with the kernel.
 */
import type { SetKeepAliveOptions } from 'node:net';
import { isIP, Socket } from 'node:net';
import type {
  KeepAliveOptions,
  TcpConnection,
  TcpConnectionState,
  TcpError,
  TcpHandler,
} from '../transport/tcp/index.ts';
import { formatIpAddress, isIpv4 } from '../wire/index.ts';
import { connectException, errnoException } from './errno.ts';
import type { AnchorHold } from './loop-anchor.ts';

type Done = (error?: Error | null) => void;

/** The parts of net.Socket that Node keeps to itself but its own subclasses use. */
interface SocketInside {
  connecting: boolean;
  server: ServerInside | null;
  _server: ServerInside | null;
  _handle: unknown;
  _pendingData: unknown;
  _pendingEncoding: string;
  resetAndClosing?: boolean;
  readonly readableBuffer: readonly (Buffer | string)[];
  readonly _readableState: { readonly buffer: unknown[]; bufferIndex: number; length: number };
  _unrefTimer(): void;
}
interface ServerInside {
  _connections: number;
  _emitCloseIfDrained(): void;
}

const NO_BYTES = Buffer.alloc(0);
/** A write takes at least so much, room or not, so that it makes progress. */
const LEAST_WRITE = 4096;
const attachmentOf = Symbol('attachment');

function inside(socket: Socket): SocketInside {
  return socket as unknown as SocketInside;
}

/** What the stream holds and the program has not got. */
function unreadOf(socket: Socket): Buffer {
  return Buffer.concat(
    inside(socket).readableBuffer.map((part) =>
      typeof part === 'string' ? Buffer.from(part, socket.readableEncoding ?? 'utf8') : part,
    ),
  );
}

/** Empties the readable side's buffer without delivering it. */
function takeUnread(socket: Socket): Buffer {
  const unread = unreadOf(socket);
  const state = inside(socket)._readableState;
  state.buffer.length = 0;
  state.bufferIndex = 0;
  state.length = 0;
  return unread;
}

class Attachment implements TcpHandler {
  readonly connection: TcpConnection;
  readonly hold: AnchorHold;
  readonly #socket: Socket;
  /** What connect was asked for; undefined on accepted connections. */
  readonly #target: { readonly address: string; readonly port: number } | undefined;
  /** Bytes that a freeze took back from the stream. */
  aside: Buffer = NO_BYTES;
  #wanted = false;
  #endPushed = false;
  /** The write under way: parts from #partIndex, #partOffset on are not in the send buffer yet. */
  #parts: readonly Uint8Array[] = [];
  #partIndex = 0;
  #partOffset = 0;
  #writeDone: Done | undefined;
  /** Told before bytes are given to the stream. */
  beforeDelivery: ((bytes: number) => void) | undefined;
  /** Told before bytes are taken from the stack; may freeze. */
  beforeRead: (() => void) | undefined;

  constructor(
    socket: Socket,
    connection: TcpConnection,
    hold: AnchorHold,
    target?: { readonly address: string; readonly port: number },
  ) {
    this.#socket = socket;
    this.connection = connection;
    this.hold = hold;
    this.#target = target;
  }

  connected(): void {
    const socket = this.#socket;
    if (socket.destroyed) return;
    inside(socket).connecting = false;
    inside(socket)._unrefTimer();
    socket.emit('connect');
    socket.emit('ready');
    // As node:net does: the stream begins to be read although nobody asks yet.
    if (!socket.isPaused()) socket.read(0);
  }

  readable(): void {
    if (this.#wanted) this.pull();
  }

  /** The stream asks for more. */
  want(): void {
    this.#wanted = true;
    this.pull();
  }

  pull(): void {
    const socket = this.#socket;
    const { connection } = this;
    while (this.#wanted) {
      this.beforeRead?.();
      const chunk = connection.read();
      if (chunk === undefined) break;
      inside(socket)._unrefTimer();
      this.beforeDelivery?.(chunk.length);
      if (!socket.push(chunk)) this.#wanted = false;
      if (socket.destroyed) return;
    }
    if (connection.remoteClosed && !this.#endPushed) {
      this.#endPushed = true;
      socket.push(null);
      socket.read(0);
    }
  }

  writable(): void {
    this.#push();
  }

  /** `done` is called when the last byte has found room in the send buffer. */
  write(parts: readonly Uint8Array[], done: Done): void {
    this.#parts = parts;
    this.#partIndex = 0;
    this.#partOffset = 0;
    this.#writeDone = done;
    this.#push();
  }

  #push(): void {
    const { connection } = this;
    try {
      while (this.#partIndex < this.#parts.length) {
        const part = this.#parts[this.#partIndex]!;
        const left = part.length - this.#partOffset;
        const take = Math.min(left, Math.max(connection.writeRoom, Math.min(left, LEAST_WRITE)));
        const more =
          take > 0 ? connection.write(part.subarray(this.#partOffset, this.#partOffset + take)) : true;
        this.#partOffset += take;
        if (this.#partOffset === part.length) {
          this.#partIndex++;
          this.#partOffset = 0;
        }
        if (!more) return;
      }
    } catch {
      this.#endWrite(errnoException('EPIPE', 'write'));
      return;
    }
    this.#endWrite();
  }

  /** The socket is destroyed with a write under way. */
  cancelWrite(): void {
    if (this.#writeDone !== undefined) this.#endWrite(errnoException('ECANCELED', 'write'));
  }

  #endWrite(error?: Error): void {
    const done = this.#writeDone;
    this.#writeDone = undefined;
    this.#parts = [];
    done?.(error);
  }

  closed(error: TcpError | undefined): void {
    const socket = this.#socket;
    const writing = this.#writeDone !== undefined;
    if (error === undefined) {
      this.pull();
      this.#endWrite();
      return;
    }
    if (socket.destroyed) return;
    const target = this.#target;
    const exception =
      socket.connecting && target !== undefined
        ? connectException(error.code, target.address, target.port)
        : errnoException(error.code, writing && !this.#wanted ? 'write' : 'read');
    if (socket.connecting && target !== undefined) {
      const { address, port } = target;
      socket.emit('connectionAttemptFailed', address, port, isIP(address), exception);
    }
    socket.destroy(exception);
  }
}

function attachment(socket: Socket): Attachment | undefined {
  return (socket as unknown as { [attachmentOf]?: Attachment })[attachmentOf];
}

function whenConnected(socket: Socket, action: () => void, gone: () => void): void {
  const onClose = () => gone();
  socket.once('connect', () => {
    socket.off('close', onClose);
    action();
  });
  socket.once('close', onClose);
}

function bytesOf(chunk: Buffer | Uint8Array | string, encoding: BufferEncoding): Uint8Array {
  return typeof chunk === 'string' ? Buffer.from(chunk, encoding) : chunk;
}

/** ERR_SOCKET_CLOSED as node:net gives it to a write on a socket that has no connection. */
function socketClosed(): Error {
  return Object.assign(new Error('Socket is closed'), { code: 'ERR_SOCKET_CLOSED' });
}

/** Writes now, or as soon as the connection is established. */
function writeParts(
  socket: Socket,
  pending: unknown,
  encoding: string,
  parts: () => Uint8Array[],
  done: Done,
): void {
  const self = inside(socket);
  if (socket.connecting) {
    self._pendingData = pending;
    self._pendingEncoding = encoding;
    whenConnected(
      socket,
      () => writeParts(socket, pending, encoding, parts, done),
      () => done(closedBeforeConnection()),
    );
    return;
  }
  self._pendingData = null;
  self._pendingEncoding = '';
  const attached = attachment(socket);
  if (attached === undefined) {
    done(socketClosed());
    return;
  }
  self._unrefTimer();
  attached.write(parts(), done);
}

function closedBeforeConnection(): Error {
  return Object.assign(new Error('Socket closed before the connection was established'), {
    code: 'ERR_SOCKET_CLOSED_BEFORE_CONNECTION',
  });
}

/** No private members: an existing net.Socket becomes one by a change of prototype. */
export class StackSocket extends Socket {
  override _read(size: number): void {
    const attached = attachment(this);
    if (attached === undefined || this.connecting) this.once('connect', () => this._read(size));
    else attached.want();
  }

  override _write(chunk: Buffer | string, encoding: BufferEncoding, done: Done): void {
    writeParts(this, chunk, encoding, () => [bytesOf(chunk, encoding)], done);
  }

  override _writev(chunks: { chunk: Buffer | string; encoding: BufferEncoding }[], done: Done): void {
    writeParts(this, chunks, 'utf8', () => chunks.map((part) => bytesOf(part.chunk, part.encoding)), done);
  }

  override _final(done: Done): void {
    if (this.connecting) {
      this.once('connect', () => this._final(done));
      return;
    }
    attachment(this)?.connection.shutdown();
    // As a kernel's shutdown: complete in a later turn.
    setImmediate(done);
  }

  override _destroy(error: Error | null, done: Done): void {
    const self = inside(this);
    const attached = attachment(this);
    if (attached !== undefined) {
      const { connection, hold } = attached;
      const reset = self.resetAndClosing === true;
      // net.Socket's own _destroy does the rest: timers, counters, 'close' with hadError, the server's count.
      const gone = (closed: () => void) => {
        if (reset) connection.abort();
        else connection.close();
        hold.end();
        setImmediate(() => {
          attached.cancelWrite();
          closed();
        });
        return 0;
      };
      self._handle = {
        bytesRead: this.bytesRead,
        bytesWritten: connection.bytesWritten,
        close: gone,
        reset: gone,
      };
      setAttachment(this, undefined);
    } else if (this.connecting && self._handle === null) {
      // As if there were one already: 'close' comes later and says whether there was an error.
      const gone = (closed: () => void) => {
        setImmediate(closed);
        return 0;
      };
      self._handle = { bytesRead: 0, bytesWritten: 0, close: gone, reset: gone };
    }
    super._destroy(error, done);
  }

  override resetAndDestroy(): this {
    if (attachment(this) === undefined && !this.connecting) {
      this.destroy(socketClosed());
    } else if (this.connecting) {
      this.once('connect', () => this.resetAndDestroy());
    } else {
      inside(this).resetAndClosing = true;
      this.destroy();
    }
    return this;
  }

  override setNoDelay(noDelay?: boolean): this {
    const attached = attachment(this);
    if (attached === undefined) super.setNoDelay(noDelay);
    else attached.connection.setNoDelay(noDelay ?? true);
    return this;
  }

  override setKeepAlive(
    enable?: boolean | SetKeepAliveOptions,
    initialDelayMs?: number,
    intervalMs?: number,
    count?: number,
  ): this {
    const attached = attachment(this);
    if (attached === undefined) {
      super.setKeepAlive(enable as boolean, initialDelayMs, intervalMs, count);
      return this;
    }
    const wanted =
      typeof enable === 'object'
        ? { on: enable.enable === true, delayMs: enable.initialDelay, intervalMs: enable.interval }
        : { on: enable === true, delayMs: initialDelayMs, intervalMs };
    attached.connection.setKeepAlive(wanted.on ? keepAliveOf(wanted.delayMs, wanted.intervalMs) : null);
    return this;
  }

  override ref(): this {
    attachment(this)?.hold.ref();
    return this;
  }

  override unref(): this {
    const attached = attachment(this);
    if (attached === undefined) this.once('connect', () => this.unref());
    else attached.hold.unref();
    return this;
  }

  /** Nothing more is delivered: bytes the stream holds unread are put aside, further ones stay in the stack, acknowledged. */
  freeze(): void {
    const attached = attachment(this);
    if (attached === undefined || attached.connection.frozen) return;
    attached.connection.freeze();
    attached.aside = takeUnread(this);
  }

  /** Undo of freeze. */
  thaw(): void {
    const attached = attachment(this);
    if (attached === undefined) return;
    if (attached.aside.length > 0) this.unshift(attached.aside);
    attached.aside = NO_BYTES;
    attached.connection.thaw();
  }

  get frozen(): boolean {
    return attachment(this)?.connection.frozen ?? false;
  }

  /** The connection below, while there is one. */
  get connection(): TcpConnection | undefined {
    return attachment(this)?.connection;
  }

  /** Told how many bytes the program is about to get, each time. */
  set beforeDelivery(hook: (bytes: number) => void) {
    const attached = attachment(this);
    if (attached !== undefined) attached.beforeDelivery = hook;
  }

  /** Told before the stack is asked for bytes, each time; may freeze the socket. */
  set beforeRead(hook: () => void) {
    const attached = attachment(this);
    if (attached !== undefined) attached.beforeRead = hook;
  }

  /**
   * Takes the connection out of this process. Bytes the stream holds unread go along. The socket is destroyed, without a
   * segment leaving. Throws HandOverError as TcpConnection.exportState does; the socket then goes on.
   */
  exportState(): TcpConnectionState {
    const attached = attachment(this);
    if (attached === undefined) throw socketClosed();
    const { connection, hold } = attached;
    const unread = attached.aside.length > 0 ? attached.aside : unreadOf(this);
    const state = connection.exportState(unread);
    hold.end();
    this.destroy();
    return state;
  }

  /** @internal */
  _getpeername(): object {
    const connection = attachment(this)?.connection;
    if (connection === undefined || this.connecting) return lastNames(this).peer;
    return socketName(connection.remoteAddress, connection.remotePort);
  }

  /** @internal */
  _getsockname(): object {
    const connection = attachment(this)?.connection;
    if (connection === undefined) return lastNames(this).own;
    return socketName(connection.localAddress, connection.localPort);
  }
}

const namesOf = Symbol('names');
interface Names {
  peer: object;
  own: object;
}

/** The names remain readable after the connection is gone, as with node:net. */
function lastNames(socket: Socket): Names {
  return (socket as unknown as { [namesOf]?: Names })[namesOf] ?? { peer: {}, own: {} };
}

export function socketName(
  address: Parameters<typeof formatIpAddress>[0],
  port: number,
): { address: string; family: string; port: number } {
  return { address: formatIpAddress(address), family: isIpv4(address) ? 'IPv4' : 'IPv6', port };
}

/** Whole seconds as node:net takes them; none given = the stack's default. */
function keepAliveOf(delayMs?: number, intervalMs?: number): KeepAliveOptions {
  const whole = (ms: number | undefined) => Math.trunc((ms ?? 0) / 1000) * 1000;
  return {
    ...(whole(delayMs) > 0 ? { idleMs: whole(delayMs) } : {}),
    ...(whole(intervalMs) > 0 ? { intervalMs: whole(intervalMs) } : {}),
  };
}

const keptSymbols = new Map<string, symbol>();

/** What net.Socket keeps under a symbol of its own: options given before there is a connection. */
function kept(socket: Socket, name: string): unknown {
  let symbol = keptSymbols.get(name);
  if (symbol === undefined) {
    symbol = Object.getOwnPropertySymbols(socket).find((own) => own.description === name);
    if (symbol === undefined) return undefined;
    keptSymbols.set(name, symbol);
  }
  return (socket as unknown as Record<symbol, unknown>)[symbol];
}

function setAttachment(socket: Socket, attached: Attachment | undefined): void {
  const slot = socket as unknown as { [attachmentOf]?: Attachment | undefined; [namesOf]?: Names };
  if (attached === undefined) {
    const before = slot[attachmentOf];
    if (before !== undefined) {
      const { connection } = before;
      slot[namesOf] = {
        peer: socketName(connection.remoteAddress, connection.remotePort),
        own: socketName(connection.localAddress, connection.localPort),
      };
    }
  }
  slot[attachmentOf] = attached;
}

// In node:net these are accessors on the prototype, declared as properties: TypeScript wants them defined this way.
Object.defineProperties(StackSocket.prototype, {
  bytesRead: {
    configurable: true,
    get(this: Socket): number {
      const attached = attachment(this);
      if (attached !== undefined)
        return attached.connection.bytesReceived - attached.connection.readableBytes;
      return Reflect.get(Socket.prototype, 'bytesRead', this) as number;
    },
  },
  _bytesDispatched: {
    configurable: true,
    get(this: Socket): number {
      const attached = attachment(this);
      if (attached !== undefined) return attached.connection.bytesWritten;
      return Reflect.get(Socket.prototype, '_bytesDispatched', this) as number;
    },
  },
  pending: {
    configurable: true,
    get(this: Socket): boolean {
      return attachment(this) === undefined || this.connecting;
    },
  },
});

/** A socket that was closed may connect again, as with node:net. */
export function revive(socket: Socket): void {
  if (socket.destroyed) (socket as unknown as { _undestroy(): void })._undestroy();
}

/** Turns a net.Socket that has no handle into a StackSocket. */
export function becomeStackSocket(socket: Socket): StackSocket {
  if (!(socket instanceof StackSocket)) Object.setPrototypeOf(socket, StackSocket.prototype);
  return socket as StackSocket;
}

/** Joins a socket and a connection that is established or on its way there (`target` given). */
export function attach(
  socket: StackSocket,
  connection: TcpConnection,
  hold: AnchorHold,
  target?: { readonly address: string; readonly port: number },
): void {
  const attached = new Attachment(socket, connection, hold, target);
  setAttachment(socket, attached);
  // What was set while there was no connection.
  if (kept(socket, 'kSetNoDelay') === true) connection.setNoDelay(true);
  if (kept(socket, 'kSetKeepAlive') === true) {
    connection.setKeepAlive(keepAliveOf(Number(kept(socket, 'kSetKeepAliveInitialDelay')) * 1000));
  }
  connection.setHandler(attached);
}
