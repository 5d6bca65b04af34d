/** One connection of the client: socket, handshake, then requests out and replies in. Knows nothing of what came before it. */
import type { Socket } from 'node:net';
import { connect } from 'node:net';
import { CodedError, codeOf, messageOf } from '../../common/index.ts';
import type { ExportInfo } from './client-handshake.ts';
import { ClientHandshake, NbdClientError } from './client-handshake.ts';
import type { ClientRequest } from './client-request.ts';
import { emitExtendedRequest, emitRequest } from './client-request.ts';
import { emitOption } from './options.ts';
import { NBD_CMD_DISC, NBD_OPT_ABORT } from './protocol.ts';
import { ReplyParser } from './reply-parser.ts';

const READ_BUFFER = 256 * 1024;
/** How long a server that has refused may take to close. */
const ABORT_LIMIT_MS = 1_000;

export interface LinkEvents {
  answered(request: ClientRequest): void;
  /** The connection is over, once; what was not answered stays unanswered. Not called after `disconnect`. */
  lost(reason: CodedError): void;
}

export interface LinkTarget {
  readonly socketPath: string;
  readonly exportName: string;
  readonly contexts: readonly string[];
  /** Whether to ask for extended headers. */
  readonly extendedHeaders: boolean;
  readonly timeoutMs: number;
}

export class ClientLink {
  readonly #socket: Socket;
  #events: LinkEvents | undefined;
  #info: ExportInfo | undefined;
  /** Sent and not answered, by cookie. */
  readonly #outstanding = new Map<bigint, ClientRequest>();
  #cookie = 0n;
  #corked = false;
  #leaving = false;
  #over = false;

  private constructor(socket: Socket) {
    this.#socket = socket;
  }

  get info(): ExportInfo {
    return this.#info!;
  }

  /** Requests that were sent and not answered. */
  get outstanding(): number {
    return this.#outstanding.size;
  }

  /** Connects and negotiates. Rejects with NbdClientError. `events` are called only after it has resolved. */
  static open(target: LinkTarget, events: LinkEvents): Promise<ClientLink> {
    return new Promise((resolve, reject) => {
      let handshake: ClientHandshake | undefined;
      let parser: ReplyParser | undefined;
      let link: ClientLink | undefined;
      let settled = false;
      const fail = (error: CodedError) => {
        clearTimeout(timer);
        if (link === undefined && !settled) {
          settled = true;
          reject(error);
          // A server that is able to refuse is left by a soft disconnect.
          if (handshake?.refused === true) {
            setTimeout(() => socket.destroy(), ABORT_LIMIT_MS).unref();
            socket.end(emitOption(NBD_OPT_ABORT));
            return;
          }
        }
        socket.destroy();
        if (link !== undefined) link.#lose(error);
      };
      const take = (count: number, buffer: Uint8Array): boolean => {
        if (settled && link === undefined) return true;
        try {
          if (parser !== undefined) {
            if (!socket.destroyed) parser.push(buffer, count);
            return true;
          }
          // The handshake may keep what it is given; the socket's buffer is used again.
          const outcome = handshake!.push(Buffer.from(buffer.subarray(0, count)));
          if (outcome === undefined) return true;
          clearTimeout(timer);
          settled = true;
          link = new ClientLink(socket);
          link.#info = outcome.info;
          link.#events = events;
          parser = new ReplyParser(link.#sink(), outcome.info);
          if (outcome.rest.length > 0) parser.push(outcome.rest);
          resolve(link);
        } catch (error) {
          fail(
            error instanceof CodedError
              ? error
              : new NbdClientError('EPROTO', messageOf(error), { cause: error }),
          );
        }
        return true;
      };
      const timer = setTimeout(
        () =>
          fail(
            new NbdClientError(
              'ETIMEDOUT',
              `no NBD handshake at ${target.socketPath} within ${target.timeoutMs} ms`,
            ),
          ),
        target.timeoutMs,
      );
      const socket = connect({
        path: target.socketPath,
        onread: { buffer: Buffer.allocUnsafeSlow(READ_BUFFER), callback: take },
      });
      handshake = new ClientHandshake(
        target.exportName,
        target.contexts,
        (bytes) => socket.write(bytes),
        target.extendedHeaders,
      );
      socket.on('error', (error) => fail(connectError(target, error)));
      socket.on('close', () =>
        fail(
          new NbdClientError(
            'ECONNREFUSED',
            `the NBD server at ${target.socketPath} closed the connection${settled ? '' : ' in the handshake'}`,
            settled ? {} : { remedy: `check that it has an export "${target.exportName}"` },
          ),
        ),
      );
    });
  }

  /** Sends a request; what is sent in one turn of the event loop leaves in one write. */
  send(request: ClientRequest): void {
    if (this.#over || this.#leaving) return;
    const cookie = this.#cookie++;
    request.sentMs = performance.now();
    request.answered = 0;
    request.coverage = undefined;
    request.error = 0;
    request.errorText = '';
    request.status?.clear();
    this.#outstanding.set(cookie, request);
    if (!this.#corked) {
      this.#corked = true;
      this.#socket.cork();
      process.nextTick(() => {
        this.#corked = false;
        this.#socket.uncork();
      });
    }
    this.#socket.write(this.#emit(request, cookie));
    if (request.payload !== undefined) this.#socket.write(request.payload);
  }

  #emit(request: ClientRequest, cookie: bigint): Buffer {
    return this.#info!.extendedHeaders ? emitExtendedRequest(request, cookie) : emitRequest(request, cookie);
  }

  #sayGoodbye(): void {
    const goodbye = { type: NBD_CMD_DISC, flags: 0, offset: 0n, length: 0 } as ClientRequest;
    this.#socket.end(this.#emit(goodbye, this.#cookie));
    this.#leaving = true;
  }

  /** Says goodbye; what is outstanding may still be answered, then `lost` is called, after `limitMs` at the latest. */
  leave(limitMs: number): void {
    if (this.#over || this.#leaving) return;
    this.#sayGoodbye();
    setTimeout(() => this.#socket.destroy(), limitMs).unref();
  }

  /** Says goodbye and closes; `lost` is not called. Resolves when the socket is closed, within `limitMs`. */
  disconnect(limitMs: number): Promise<void> {
    if (this.#over) return Promise.resolve();
    this.#over = true;
    const socket = this.#socket;
    return new Promise((resolve) => {
      if (socket.closed) {
        resolve();
        return;
      }
      const timer = setTimeout(() => socket.destroy(), limitMs);
      socket.once('close', () => {
        clearTimeout(timer);
        resolve();
      });
      if (!this.#leaving) this.#sayGoodbye();
      socket.resume();
    });
  }

  /** Closes at once; `lost` is not called. */
  destroy(): void {
    this.#over = true;
    this.#socket.destroy();
  }

  #lose(reason: CodedError): void {
    if (this.#over) return;
    this.#over = true;
    this.#events!.lost(reason);
  }

  #sink() {
    return {
      find: (cookie: bigint) => this.#outstanding.get(cookie),
      answered: (cookie: bigint, request: ClientRequest) => {
        this.#outstanding.delete(cookie);
        if (!this.#over) this.#events!.answered(request);
      },
    };
  }
}

function connectError(target: LinkTarget, error: Error): NbdClientError {
  const code = codeOf(error);
  const values = { path: target.socketPath };
  if (code === 'ENOENT' || code === 'ECONNREFUSED') {
    return new NbdClientError('ECONNREFUSED', `nobody serves NBD at ${target.socketPath}`, {
      remedy: 'start the server, or check the socket path',
      values,
      cause: error,
    });
  }
  if (code === 'EACCES' || code === 'EPERM') {
    return new NbdClientError('EACCES', `no permission to connect to ${target.socketPath}`, {
      values,
      cause: error,
    });
  }
  return new NbdClientError('ECONNREFUSED', `connection to ${target.socketPath} failed: ${error.message}`, {
    values,
    cause: error,
  });
}
