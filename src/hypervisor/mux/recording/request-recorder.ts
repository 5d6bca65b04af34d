/**
 * Records requests of clients to a service, for the rehearsal of its next changeover. The forwarder shows it every packet that goes to
 * the service's partition; packets are looked at, never changed, and nothing leaves this process's memory but as the answer to
 * `requests-recorded`.
 *
 *   packet → sample (so many new connections per second) → StreamAssembler → RequestReader → filter → RequestStore
 *
 * A connection is followed from its SYN on; of one that began before nothing is known. It is left alone when it says what is no
 * HTTP, when its bytes are more than a connection may cost, when segments are missing, or when there are more connections than
 * places: the one that was idle for longest goes. A connection's number is that of its flow; where the number is used again without
 * a SYN having been seen, the client's port tells them apart.
 *
 * Of a request are kept: method, target, and the headers of a list. Cookies and credentials are on it only when the configuration
 * names them.
 */
import { isUtf8 } from 'node:buffer';
import { IPV4, PROTOCOL, readU16, TCP_FLAG } from '../../../netstack/index.ts';
import type { MuxCommands, RecordedRequest } from '../commands.ts';
import { FRAGMENT, KIND, type PacketView } from '../packet-view.ts';
import { RateLimit } from '../rate-limit.ts';
import { type ReadRequest, RequestReader } from './request-reader.ts';
import { RequestStore } from './request-store.ts';
import { StreamAssembler } from './stream-assembler.ts';

export type RecordingRules = NonNullable<MuxCommands['requests-record']['arguments']['record']>;

const ASSEMBLER = { bytes: 128 * 1024, segments: 64 };
const READER = { headBytes: 16 * 1024, bodyBytes: 64 * 1024 };
const STORE_BYTES = 1024 * 1024;
const MAX_CONNECTIONS = 32;
const CONNECTION_BYTES = 1024 * 1024;
/** Over all connections. */
const BYTES_PER_SECOND = 4 * 1024 * 1024;
const MAX_TARGET = 2048;
const MAX_HEADER = 1024;
const SAFE_METHODS = ['GET', 'HEAD'];
/** What shapes an answer and says nothing about who asked. Without Accept-Encoding bodies come as they are. */
const PLAIN_HEADERS = ['accept', 'accept-language', 'content-type', 'range'];

interface Connection {
  readonly port: number;
  readonly assembler: StreamAssembler;
  bytes: number;
  lastMs: number;
}

export class RequestRecorder {
  readonly rules: RecordingRules;
  readonly #store: RequestStore;
  readonly #methods: ReadonlySet<string>;
  readonly #headers: ReadonlySet<string>;
  readonly #sample: RateLimit;
  readonly #bytes: RateLimit;
  /** By flow number. */
  readonly #connections = new Map<number, Connection>();
  #nowMs = 0;
  #followed = 0;
  #passedOver = 0;
  #givenUp = 0;
  #refused = 0;

  constructor(rules: RecordingRules, nowMs: number) {
    this.rules = rules;
    this.#store = new RequestStore({ requests: rules.requests, bytes: STORE_BYTES, ageMs: rules.maxAgeMs });
    this.#methods = new Set(rules.methods.length === 0 ? SAFE_METHODS : rules.methods);
    this.#headers = new Set([...PLAIN_HEADERS, ...rules.headers]);
    const perSecond = rules.connectionsPerSecond;
    this.#sample = new RateLimit({ packetsPerSecond: perSecond, burstPackets: perSecond }, nowMs);
    this.#bytes = new RateLimit({ bytesPerSecond: BYTES_PER_SECOND, burstBytes: BYTES_PER_SECOND }, nowMs);
  }

  /** A packet of a client on its way to the service; `flow`: its number in the flow table. */
  packet(flow: number, buffer: Uint8Array, view: PacketView, nowMs: number): void {
    if (view.destinationPort !== this.rules.port || view.protocol !== PROTOCOL.TCP) return;
    if (view.fragment !== FRAGMENT.NONE || view.quoted) return;
    this.#nowMs = nowMs;
    let connection = this.#connections.get(flow);
    if (view.isSyn) {
      connection = this.#begin(flow, view, nowMs, connection);
    } else if (connection !== undefined && connection.port !== view.sourcePort) {
      this.#connections.delete(flow);
      return;
    }
    if (connection === undefined) return;
    connection.lastMs = nowMs;
    const length = view.tcpPayload;
    if (length > 0) {
      const end = view.kind === KIND.IPV6 ? view.end : view.l3 + readU16(buffer, view.l3 + IPV4.TOTAL_LENGTH);
      const sequence = view.isSyn ? view.tcpSequence + 1 : view.tcpSequence;
      connection.bytes += length;
      const fits = connection.bytes <= CONNECTION_BYTES && this.#bytes.admits(length, 0, nowMs);
      if (!fits || !connection.assembler.push(sequence, buffer.subarray(end - length, end))) {
        this.#givenUp++;
        this.#connections.delete(flow);
        return;
      }
    }
    if ((view.tcpFlags & (TCP_FLAG.FIN | TCP_FLAG.RST)) !== 0) this.#connections.delete(flow);
  }

  recorded(nowMs: number): MuxCommands['requests-recorded']['result'] {
    const requests = this.#store.list(nowMs).map(({ request, count, ageMs }): RecordedRequest => {
      const { method, target, headers, body } = request;
      return { method, path: target, headers, ...(body === undefined ? {} : { body }), count, ageMs };
    });
    return {
      requests,
      connections: {
        followed: this.#followed,
        passedOver: this.#passedOver,
        givenUp: this.#givenUp,
      },
      refused: this.#refused,
    };
  }

  #begin(
    flow: number,
    view: PacketView,
    nowMs: number,
    known: Connection | undefined,
  ): Connection | undefined {
    // The SYN once more: what follows it counts from the same number.
    if (known !== undefined && known.bytes === 0 && known.port === view.sourcePort) {
      this.#connections.delete(flow);
    } else if (!this.#sample.admits(0, 1, nowMs)) {
      this.#connections.delete(flow);
      this.#passedOver++;
      return undefined;
    } else this.#followed++;
    if (this.#connections.size >= MAX_CONNECTIONS) this.#dropIdlest();
    const reader = new RequestReader(READER, (request) => this.#take(request));
    const connection: Connection = {
      port: view.sourcePort,
      assembler: new StreamAssembler(view.tcpSequence + 1, ASSEMBLER, (bytes) => reader.push(bytes)),
      bytes: 0,
      lastMs: nowMs,
    };
    this.#connections.set(flow, connection);
    return connection;
  }

  #dropIdlest(): void {
    let idlest: [number, Connection] | undefined;
    for (const one of this.#connections) {
      if (idlest === undefined || one[1].lastMs < idlest[1].lastMs) idlest = one;
    }
    if (idlest !== undefined) this.#connections.delete(idlest[0]);
  }

  #take({ method, target, headers, body }: ReadRequest): void {
    const { paths } = this.rules;
    const wanted = paths.length === 0 || paths.some((prefix) => target.startsWith(prefix));
    const text = body.length === 0 ? undefined : isUtf8(body) ? body.toString('utf8') : false;
    if (!wanted || !this.#methods.has(method) || target.length > MAX_TARGET || text === false) {
      this.#refused++;
      return;
    }
    const kept: Record<string, string> = {};
    for (const [name, value] of headers) {
      if (this.#headers.has(name) && value.length <= MAX_HEADER) kept[name] = value;
    }
    this.#store.put({ method, target, headers: kept, body: text }, this.#nowMs);
  }
}
