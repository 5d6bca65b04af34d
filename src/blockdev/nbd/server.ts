/**
 * NBD server on a unix socket: any number of exports, any number of connections, exports may change while it runs.
 *
 * A connection belongs to the device that its export named when it was negotiated. `setExports` closes the connections whose
 * export is gone or names another device now, after their requests in flight were answered; clients that reconnect find what
 * the table says then.
 */
import { chmodSync, existsSync, lstatSync, unlinkSync } from 'node:fs';
import type { Server } from 'node:net';
import { connect, createServer } from 'node:net';
import { dirname } from 'node:path';
import type { Duplex } from 'node:stream';
import type { Clock, Log } from '../../common/index.ts';
import { CodedError, codeOf, messageOf, silentLog, systemClock, Turns } from '../../common/index.ts';
import type { Device } from '../device.ts';
import { BufferPool } from './buffer-pool.ts';
import { isProtocolString } from './options.ts';
import type { ConnectionContext, ConnectionEnd, ConnectionLimits } from './server-connection.ts';
import { ServerConnection } from './server-connection.ts';
import { newCounters } from './server-counters.ts';
import type { ExportTable } from './server-export.ts';
import { ServerTurn } from './server-turn.ts';

export type NbdServerErrorCode = 'EADDRINUSE' | 'EACCES' | 'ELISTEN' | 'EINVAL' | 'EALREADY';

export class NbdServerError extends CodedError {
  declare readonly code: NbdServerErrorCode;
}

export interface NbdServerOptions {
  readonly log?: Log;
  readonly clock?: Clock;
  /** Those of all servers in this process, so that none of them keeps the others waiting. Default: its own. */
  readonly turns?: Turns;
  /** More clients than this are closed at once. Default 256. */
  readonly maxConnections?: number;
  readonly limits?: Partial<ConnectionLimits>;
  /** How long `close` waits for a device that does not answer. Default 10 000. */
  readonly closeTimeoutMs?: number;
}

const DEFAULT_LIMITS: ConnectionLimits = {
  handshakeTimeoutMs: 10_000,
  lingerMs: 2_000,
  inFlightRequests: 256,
  inFlightBytes: 64 * 1024 * 1024,
  replyBacklog: 8 * 1024 * 1024,
};

/**
 * What all connections together may hold: bytes of requests in flight, and of replies that are not taken. Each has its share,
 * no less than the floor, so that one that takes nothing cannot starve the others.
 */
const TOTAL_IN_FLIGHT_BYTES = 512 * 1024 * 1024;
const TOTAL_REPLY_BACKLOG = 64 * 1024 * 1024;
const SHARE_FLOOR = 256 * 1024;

const shareOf = (total: number, connections: number, most: number): number =>
  Math.min(most, Math.max(SHARE_FLOOR, Math.floor(total / Math.max(1, connections))));

/** What the server counts, beside one counter `ended-<reason>` per way a connection ended. */
export type NbdCounters = Readonly<Record<string, number>>;

export class NbdServer {
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #maxConnections: number;
  readonly #closeTimeoutMs: number;
  readonly #connections = new Set<ServerConnection>();
  readonly #counters = newCounters();
  readonly #ends = new Map<ConnectionEnd | 'too-many-connections', number>();
  readonly #context: ConnectionContext;
  /** As they are now, read by every connection. */
  readonly #limits: { -readonly [K in keyof ConnectionLimits]: ConnectionLimits[K] };
  readonly #mostLimits: ConnectionLimits;
  #exports: ReadonlyMap<string, Device> = new Map();
  #accepted = 0;
  #server: Server | undefined;
  #path: string | undefined;

  constructor(options: NbdServerOptions = {}) {
    this.#log = options.log ?? silentLog;
    this.#clock = options.clock ?? systemClock;
    this.#maxConnections = options.maxConnections ?? 256;
    this.#closeTimeoutMs = options.closeTimeoutMs ?? 10_000;
    this.#mostLimits = { ...DEFAULT_LIMITS, ...options.limits };
    this.#limits = { ...this.#mostLimits };
    const table: ExportTable = {
      names: () => [...this.#exports.keys()],
      find: (name) => this.#find(name),
    };
    this.#context = {
      exports: table,
      limits: this.#limits,
      counters: this.#counters,
      pool: new BufferPool(),
      clock: this.#clock,
      turn: new ServerTurn(options.turns ?? new Turns()),
      settled: (newcomer) => this.#settled(newcomer),
      ended: (connection, reason) => this.#ended(connection, reason),
    };
  }

  /**
   * Listens on a unix socket (mode 0600). A path at which nobody answers any more is replaced; one that is served fails with
   * EADDRINUSE, a missing or forbidden folder with ELISTEN or EACCES.
   */
  async listen(path: string): Promise<void> {
    if (this.#server !== undefined) {
      throw new NbdServerError('EALREADY', `this NBD server listens on ${this.#path} already`);
    }
    await removeStale(path);
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) =>
      this.#accept(socket, true),
    );
    this.#server = server;
    this.#path = path;
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen(path, () => {
          server.off('error', reject);
          resolve();
        });
      });
      chmodSync(path, 0o600);
    } catch (error) {
      this.#server = undefined;
      server.close();
      throw listenError(path, error);
    }
    server.on('error', (error) => this.#log.warn('NBD socket', { path, reason: messageOf(error) }));
  }

  /** Serves one connected stream. */
  accept(stream: Duplex): void {
    this.#accept(stream, false);
  }

  #accept(stream: Duplex, fresh: boolean): void {
    if (this.#connections.size >= this.#maxConnections) {
      this.#count('too-many-connections');
      stream.on('error', () => {});
      stream.destroy();
      return;
    }
    this.#accepted++;
    this.#connections.add(new ServerConnection(stream, this.#context, fresh));
    this.#share();
  }

  #share(): void {
    const count = this.#connections.size;
    const most = this.#mostLimits;
    this.#limits.inFlightBytes = shareOf(TOTAL_IN_FLIGHT_BYTES, count, most.inFlightBytes);
    this.#limits.replyBacklog = shareOf(TOTAL_REPLY_BACKLOG, count, most.replyBacklog);
  }

  /**
   * Replaces the exports (name → device; the server does not close devices). Resolves when every connection to a removed or
   * exchanged device has had its requests answered and touches that device no more.
   */
  async setExports(exports: ReadonlyMap<string, Device>): Promise<void> {
    for (const name of exports.keys()) {
      if (!isProtocolString(name)) {
        throw new NbdServerError('EINVAL', 'an export name is UTF-8 of at most 4096 bytes without NUL', {
          values: { name },
        });
      }
    }
    this.#exports = new Map(exports);
    const leaving = [...this.#connections].filter(
      (connection) =>
        connection.device !== undefined && this.#exports.get(connection.exportName!) !== connection.device,
    );
    for (const connection of leaving) connection.drain();
    await Promise.all(leaving.map((connection) => connection.idle()));
  }

  /** Names and devices served now. */
  get exports(): ReadonlyMap<string, Device> {
    return this.#exports;
  }

  /** Connections that are open, in handshake or transmission. */
  get connections(): number {
    return [...this.#connections].filter((connection) => !connection.gone).length;
  }

  counters(): NbdCounters {
    const ends = [...this.#ends].map(([reason, count]) => [`ended-${reason}`, count] as const);
    return {
      connections: this.connections,
      accepted: this.#accepted,
      ...this.#counters,
      ...Object.fromEntries(ends),
    };
  }

  /**
   * Stops listening, answers what is in flight, closes every connection; the devices stay open. Where a device does not answer
   * within `closeTimeoutMs` its connections are cut; resolves to the number of requests that it still works on, 0 as a rule.
   */
  async close(): Promise<number> {
    const server = this.#server;
    this.#server = undefined;
    const closed =
      server === undefined
        ? Promise.resolve()
        : new Promise<void>((resolve) => {
            server.close(() => resolve());
          });
    const all = [...this.#connections];
    for (const connection of all) connection.drain();
    const through = Promise.all(all.flatMap((connection) => [connection.idle(), connection.closed()]));
    await new Promise<void>((resolve) => {
      const timer = this.#clock.after(this.#closeTimeoutMs, resolve);
      void through.then(() => {
        timer.cancel();
        resolve();
      });
    });
    const abandoned = all.reduce((sum, connection) => sum + connection.inFlight, 0);
    if (abandoned > 0) {
      this.#log.warn('NBD server closed without answers of its devices', { requests: abandoned });
    }
    for (const connection of all) connection.cut();
    await closed;
    return abandoned;
  }

  #find(name: string): { name: string; device: Device } | undefined {
    const device = this.#exports.get(name);
    if (device !== undefined) return { name, device };
    if (name !== '' || this.#exports.size !== 1) return undefined;
    const [only] = this.#exports;
    return { name: only![0], device: only![1] };
  }

  async #settled(newcomer: ServerConnection): Promise<void> {
    const others = [...this.#connections].filter(
      (connection) => connection !== newcomer && connection.device === newcomer.device,
    );
    if (others.length === 0) return;
    await Promise.all(others.map((connection) => connection.caughtUp()));
    // What a peer that is gone had sent is read in the next turn of the event loop, its end at the latest in the one after.
    await new Promise((resolve) => setImmediate(() => setImmediate(resolve)));
    await Promise.all(
      others.filter((connection) => connection.leaving).map((connection) => connection.idle()),
    );
  }

  #ended(connection: ServerConnection, reason: ConnectionEnd): void {
    this.#count(reason);
    this.#log.debug('NBD connection ended', { export: connection.exportName, reason });
    // It stays known until its requests are through, for `settled`.
    void connection.idle().then(() => {
      this.#connections.delete(connection);
      this.#share();
    });
  }

  #count(reason: ConnectionEnd | 'too-many-connections'): void {
    this.#ends.set(reason, (this.#ends.get(reason) ?? 0) + 1);
  }
}

/** Removes a socket that nobody serves. Anything else at `path` is left alone and makes listening fail. */
async function removeStale(path: string): Promise<void> {
  const code = await new Promise<string | undefined>((resolve) => {
    const probe = connect(path);
    probe.once('connect', () => {
      probe.destroy();
      resolve('served');
    });
    probe.once('error', (error) => resolve(codeOf(error)));
  });
  if (code === 'served') {
    throw new NbdServerError('EADDRINUSE', `another process already serves ${path}`, {
      remedy: 'stop it first, or choose another socket path',
      values: { path },
    });
  }
  if (code !== 'ECONNREFUSED') return;
  try {
    // Connecting to a plain file is refused too.
    if (lstatSync(path).isSocket()) unlinkSync(path);
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw listenError(path, error);
  }
}

function listenError(path: string, error: unknown): NbdServerError {
  const code = codeOf(error);
  const options = { values: { path }, cause: error };
  if (code === 'EADDRINUSE') {
    return new NbdServerError('EADDRINUSE', `${path} is in the way and is no unused socket`, {
      ...options,
      remedy: 'choose another socket path, or remove it',
    });
  }
  // libuv reports a missing folder as EACCES.
  if ((code === 'EACCES' || code === 'EPERM') && existsSync(dirname(path))) {
    return new NbdServerError('EACCES', `no permission to create the socket ${path}`, {
      ...options,
      remedy: 'choose a folder that this user may write',
    });
  }
  return new NbdServerError(
    'ELISTEN',
    `cannot listen on ${path}: ${existsSync(dirname(path)) ? messageOf(error) : 'its folder does not exist'}`,
    {
      ...options,
      remedy: 'check that the folder exists and that the path is shorter than 108 bytes',
    },
  );
}
