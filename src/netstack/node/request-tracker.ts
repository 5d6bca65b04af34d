/**
 * Knows for every accepted connection whether a request is in flight, so that connections can be moved between two requests.
 *
 *   idle    nothing in flight, nothing half delivered: may be frozen and exported
 *   safe    only requests that must not write (GET, HEAD, OPTIONS), or a connection that cannot be moved but is silent
 *   unsafe  a request that may write, or one whose method is not known yet because its head is incomplete
 *
 * HTTP/1. Exact by node's own parser: `kOnMessageBegin` is called with the first octet of a request, `kOnMessageComplete`
 * with its last, `onIncoming` with its head; a response ends when node takes it off the socket (`_httpMessage`). Responses
 * leave in the order of the requests, so a queue of methods is enough, pipelining included. When told to freeze, a connection
 * is frozen in the very call in which its last response is taken off: the stream's unread bytes go back to the stack's side
 * and nothing more is delivered.
 *
 * Upgraded connections (WebSocket), CONNECT, TLS: the program keeps state for them that no stack knows; never idle. TLS goes
 * by its requests. Others, and servers that speak no HTTP: unsafe while bytes were delivered that no write has followed
 * since; otherwise safe, or idle when nothing was ever delivered. With `stateless` also a silent one is idle: right for
 * protocols in which every request stands for itself and clients wait for an answer before they ask again.
 */
import { Server as HttpServer } from 'node:http';
import { Server as HttpsServer } from 'node:https';
import type { Server } from 'node:net';
import type { Clock } from '../../common/index.ts';
import { messageOf, systemClock } from '../../common/index.ts';
import type { TcpConnectionState } from '../transport/tcp/index.ts';
import { formatIpAddress } from '../wire/index.ts';
import type { StackSocket } from './socket.ts';

export type RequestState = 'idle' | 'safe' | 'unsafe';
export type Flow = TcpConnectionState['flow'];

export interface TrackedConnection {
  readonly flow: Flow;
  /** State of the TCP connection. */
  readonly state: string;
  readonly requests: RequestState;
  readonly frozen: boolean;
}

export interface Quiesced {
  /** Go on with requests that do not write, or cannot be moved. With `all`: nothing is in flight on them, but they cannot be moved. */
  readonly draining: Flow[];
  /** May still write after the budget; with `all`: have a request in flight after it. */
  readonly unfinished: Flow[];
  /** Frozen, ready to be exported. */
  readonly idle: Flow[];
  readonly waitedMs: number;
}

export interface TrackerOptions {
  readonly clock?: Clock;
  /** Connections of servers that speak no HTTP are idle whenever they are silent. */
  readonly stateless?: boolean;
}

const SAFE_METHODS = new Set(['GET', 'HEAD', 'OPTIONS']);

/** Node's HTTP parser as far as it is used here. */
interface Parser {
  [callback: number]: unknown;
  constructor: { kOnMessageBegin: number; kOnMessageComplete: number };
  socket: object | null;
  onIncoming: ((...args: unknown[]) => unknown) | undefined;
}

interface HttpSocket {
  parser?: Parser | null;
  _httpMessage?: unknown;
}

const trackOf = new WeakMap<object, Track>();
const watched = new WeakSet<Parser>();

function messageBegan(this: Parser): void {
  if (this.socket !== null) trackOf.get(this.socket)?.messageBegan();
}

/** Parsers are pooled by node: each is watched once, and finds its connection by the socket it has now. */
function watch(parser: Parser): void {
  if (watched.has(parser)) return;
  watched.add(parser);
  const { kOnMessageBegin, kOnMessageComplete } = parser.constructor;
  const complete = parser[kOnMessageComplete] as (...args: unknown[]) => unknown;
  parser[kOnMessageBegin] = messageBegan;
  parser[kOnMessageComplete] = function (this: Parser, ...args: unknown[]): unknown {
    const track = this.socket === null ? undefined : trackOf.get(this.socket);
    const result = complete.apply(this, args);
    track?.messageCompleted();
    return result;
  };
}

type Kind = 'http' | 'tls' | 'opaque';

class Track {
  readonly socket: StackSocket;
  kind: Kind;
  readonly #tracker: RequestTracker;
  /** Methods of the requests whose response is not complete, in order. */
  readonly #methods: string[] = [];
  #messageOpen = false;
  /** Head of the open message seen, its method is in the queue. */
  #headSeen = false;
  #delivered = 0;
  #writtenAtDelivery = 0;
  #timeoutMs: number | undefined;

  constructor(tracker: RequestTracker, socket: StackSocket, kind: Kind) {
    this.#tracker = tracker;
    this.socket = socket;
    this.kind = kind;
  }

  get state(): RequestState {
    if (this.kind === 'opaque') return this.#opaqueState();
    if (this.#messageOpen && !this.#headSeen) return 'unsafe';
    if (this.#methods.some((method) => !SAFE_METHODS.has(method))) return 'unsafe';
    if (this.#methods.length > 0 || this.#messageOpen || this.kind === 'tls') return 'safe';
    return 'idle';
  }

  /** A request is in flight, or may be. Silent connections that cannot be moved are `safe` without it. */
  get busy(): boolean {
    return this.state === 'unsafe' || this.#methods.length > 0 || this.#messageOpen;
  }

  get flow(): Flow {
    const { connection } = this.socket;
    if (connection === undefined) throw new TypeError('the socket has no connection');
    return {
      protocol: 'tcp',
      localAddress: formatIpAddress(connection.localAddress),
      localPort: connection.localPort,
      remoteAddress: formatIpAddress(connection.remoteAddress),
      remotePort: connection.remotePort,
    };
  }

  /** Bytes are about to reach the stream. */
  delivered(bytes: number): void {
    this.#delivered += bytes;
    this.#writtenAtDelivery = this.socket.bytesWritten;
    if (this.kind === 'http') this.#watchParser();
  }

  messageBegan(): void {
    this.#messageOpen = true;
    this.#headSeen = false;
  }

  messageCompleted(): void {
    this.#messageOpen = false;
    this.#tracker.changed(this);
  }

  requestArrived(method: string, upgrade: boolean): void {
    this.#headSeen = true;
    if (upgrade) {
      this.kind = 'opaque';
      this.#writtenAtDelivery = this.socket.bytesWritten;
      return;
    }
    this.#methods.push(method);
  }

  responseEnded(): void {
    this.#methods.shift();
    this.#tracker.changed(this);
  }

  freeze(): void {
    if (this.socket.frozen) return;
    this.socket.freeze();
    // An idle connection must not time out while it is on its way; node sets its keep-alive timeout after this call.
    process.nextTick(() => {
      if (!this.socket.frozen || this.socket.destroyed) return;
      this.#timeoutMs = this.socket.timeout;
      this.socket.setTimeout(0);
    });
  }

  thaw(): void {
    if (!this.socket.frozen) return;
    if (this.#timeoutMs !== undefined) this.socket.setTimeout(this.#timeoutMs);
    this.#timeoutMs = undefined;
    this.socket.thaw();
  }

  #opaqueState(): RequestState {
    if (this.#delivered === 0) return 'idle';
    if (this.socket.bytesWritten === this.#writtenAtDelivery) return 'unsafe';
    return this.#tracker.stateless ? 'idle' : 'safe';
  }

  #watchParser(): void {
    const { parser } = this.socket as HttpSocket;
    if (parser === undefined || parser === null || parser.onIncoming === undefined) return;
    watch(parser);
    const { onIncoming } = parser;
    if (wrappedIncoming.has(onIncoming)) return;
    const wrapped = (...args: unknown[]): unknown => {
      const request = args[0] as { method?: string; upgrade?: boolean };
      this.requestArrived(request.method ?? '', request.upgrade === true);
      return onIncoming(...args);
    };
    wrappedIncoming.add(wrapped);
    parser.onIncoming = wrapped;
  }
}

const wrappedIncoming = new WeakSet<object>();

/** Node assigns the response to `socket._httpMessage` and null when it is done: an own accessor sees both. */
function watchResponses(socket: StackSocket, track: Track): void {
  let current: unknown = null;
  Object.defineProperty(socket, '_httpMessage', {
    configurable: true,
    enumerable: true,
    get: () => current,
    set: (value: unknown) => {
      const ended = current !== null && current !== undefined && (value === null || value === undefined);
      current = value;
      if (ended) track.responseEnded();
    },
  });
}

export class RequestTracker {
  readonly #tracks = new Set<Track>();
  readonly #clock: Clock;
  /** Connections of servers that speak no HTTP are idle whenever they are silent. */
  stateless: boolean;
  #freezing = false;
  /** What `quiesce` waits for. */
  #isAwaited: (track: Track) => boolean = isUnsafe;
  #waiters: (() => void)[] = [];

  constructor(options: TrackerOptions = {}) {
    this.#clock = options.clock ?? systemClock;
    this.stateless = options.stateless ?? false;
  }

  /** For FaceHooks.onConnection: before the server's 'connection' event. */
  readonly onConnection = (server: Server, socket: StackSocket): void => {
    const kind: Kind =
      server instanceof HttpsServer ? 'tls' : server instanceof HttpServer ? 'http' : 'opaque';
    const track = new Track(this, socket, kind);
    this.#tracks.add(track);
    trackOf.set(socket, track);
    socket.beforeDelivery = (bytes) => track.delivered(bytes);
    if (kind === 'http') watchResponses(socket, track);
    // Between an answer and the next request nobody else is asked about a connection whose protocol is not known.
    if (kind === 'opaque') socket.beforeRead = () => this.#freezeIdle(track);
    if (kind === 'tls') this.#followSecure(server as HttpsServer);
    socket.once('close', () => {
      this.#tracks.delete(track);
      this.#wake();
    });
    if (this.#freezing) this.changed(track);
  };

  /** Every accepted connection that is open. */
  connections(): TrackedConnection[] {
    return this.#open().map((track) => ({
      flow: track.flow,
      state: track.socket.connection?.state ?? 'CLOSED',
      requests: track.state,
      frozen: track.socket.frozen,
    }));
  }

  /** Requests in flight on all connections that are not idle. */
  get busy(): number {
    return this.#open().filter((track) => track.state !== 'idle').length;
  }

  /**
   * Freezes what is idle now, the others as soon as they are, and waits up to `budgetMs` until none is unsafe (with `all`:
   * until none is busy). New connections are frozen before their first byte is delivered. Undone by `resume`.
   */
  async quiesce(budgetMs: number, all = false): Promise<Quiesced> {
    const startedMs = this.#clock.nowMs();
    this.#freezing = true;
    this.#isAwaited = all ? isBusy : isUnsafe;
    for (const track of this.#open()) this.changed(track);
    await this.#untilNoneAwaited(budgetMs);
    const open = this.#open();
    for (const track of open) this.#freezeIdle(track);
    const unfinished = open.filter(this.#isAwaited);
    return {
      draining: open
        .filter((track) => track.state === 'safe' && !unfinished.includes(track))
        .map((track) => track.flow),
      unfinished: unfinished.map((track) => track.flow),
      idle: open.filter((track) => track.socket.frozen).map((track) => track.flow),
      waitedMs: this.#clock.nowMs() - startedMs,
    };
  }

  /**
   * Freezes at most `most` connections that are idle now, and no other. Another call takes others first, so that one that
   * cannot be moved keeps nobody from being moved. Undone by `resume`.
   */
  freezeIdle(most: number): Flow[] {
    const chosen = this.#open()
      .filter((track) => track.state === 'idle' && !track.socket.destroyed)
      .slice(0, most);
    for (const track of chosen) {
      track.freeze();
      this.#tracks.delete(track);
      this.#tracks.add(track);
    }
    return chosen.filter((track) => track.socket.frozen).map((track) => track.flow);
  }

  /** Frozen connections are read again. */
  resume(): void {
    this.#freezing = false;
    for (const track of this.#open()) track.thaw();
  }

  /**
   * Takes the frozen connections (with `only`: those of them that it names) out of the stack. Those that cannot go (the peer or the program is closing them) stay, and
   * are read again, so that they can end.
   */
  exportFrozen(only?: readonly FlowKey[]): {
    connections: TcpConnectionState[];
    kept: { flow: Flow; reason: string }[];
  } {
    const connections: TcpConnectionState[] = [];
    const kept: { flow: Flow; reason: string }[] = [];
    for (const track of this.#open()) {
      if (!track.socket.frozen) continue;
      const { flow } = track;
      if (only !== undefined && !only.some((o) => sameFlow(o, flow))) continue;
      try {
        connections.push(track.socket.exportState());
        this.#tracks.delete(track);
      } catch (error) {
        kept.push({ flow, reason: messageOf(error) });
        track.thaw();
      }
    }
    return { connections, kept };
  }

  /**
   * Ends our side of connections that cannot be moved and on which nothing is in flight; those that it ended. The peer reads
   * everything that was sent, then the end, and opens a new connection for its next request.
   */
  windDown(only: readonly FlowKey[]): Flow[] {
    const ended: Flow[] = [];
    for (const track of this.#open()) {
      const { flow } = track;
      if (track.state !== 'safe' || track.busy || !only.some((o) => sameFlow(o, flow))) continue;
      track.socket.end();
      ended.push(flow);
    }
    return ended;
  }

  /** @internal A connection may have become idle. */
  changed(track: Track): void {
    this.#freezeIdle(track);
    this.#wake();
  }

  #freezeIdle(track: Track): void {
    if (this.#freezing && track.state === 'idle' && !track.socket.destroyed) track.freeze();
  }

  #open(): Track[] {
    return [...this.#tracks].filter((track) => track.socket.connection !== undefined);
  }

  #wake(): void {
    if (this.#waiters.length === 0) return;
    if (this.#open().some(this.#isAwaited)) return;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter();
  }

  #untilNoneAwaited(budgetMs: number): Promise<void> {
    if (!this.#open().some(this.#isAwaited)) return Promise.resolve();
    return new Promise((resolve) => {
      // Writes of protocols that are not HTTP are not announced: looked at now and then.
      let timer = this.#clock.after(0, () => {});
      const untilMs = this.#clock.nowMs() + budgetMs;
      const finish = () => {
        timer.cancel();
        this.#waiters = this.#waiters.filter((waiter) => waiter !== finish);
        resolve();
      };
      const look = () => {
        const leftMs = untilMs - this.#clock.nowMs();
        if (leftMs <= 0 || !this.#open().some(this.#isAwaited)) finish();
        else timer = this.#clock.after(Math.min(leftMs, 5), look);
      };
      this.#waiters.push(finish);
      look();
    });
  }

  readonly #secure = new WeakSet<HttpsServer>();

  /** TLS: requests are seen on the secure socket, which has the same name as ours. */
  #followSecure(server: HttpsServer): void {
    if (this.#secure.has(server)) return;
    this.#secure.add(server);
    server.prependListener('request', (request, response) => {
      const { remoteAddress, remotePort } = request.socket;
      const track = this.#open().find(
        ({ socket }) => socket.remotePort === remotePort && socket.remoteAddress === remoteAddress,
      );
      if (track === undefined) return;
      track.requestArrived(request.method ?? '', false);
      response.once('close', () => track.responseEnded());
    });
  }
}

function isUnsafe(track: Track): boolean {
  return track.state === 'unsafe';
}

function isBusy(track: Track): boolean {
  return track.busy;
}

/** What names a flow of this stack. */
type FlowKey = Pick<Flow, 'localAddress' | 'localPort' | 'remoteAddress' | 'remotePort'>;

function sameFlow(a: FlowKey, b: FlowKey): boolean {
  return (
    a.remotePort === b.remotePort &&
    a.localPort === b.localPort &&
    a.remoteAddress === b.remoteAddress &&
    a.localAddress === b.localAddress
  );
}
