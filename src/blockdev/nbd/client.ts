/**
 * NBD client as a block device.
 *
 * A request is submitted, sent, acknowledged. At most `maxInFlightRequests` and `maxInFlightBytes` are sent and not
 * acknowledged; what is beyond waits in order. A modification that overlaps an earlier one that is not acknowledged waits
 * for it, so that overlapping writes land in the order in which they were asked.
 *
 * When the connection breaks, everything that was sent and not acknowledged is kept in the order of sending; the client
 * connects again with growing pauses and sends it again, then goes on. That is safe: a read may be asked twice, a write that
 * already landed is written again with the same bytes, and nothing that overlaps it was sent in between. A flush that was
 * not acknowledged is asked again of the new server, which sees the same file: it covers what was acknowledged before. After
 * `reconnectTimeoutMs` without a connection the device has failed: every request is refused with EIO.
 */
import type { CodedError, Log } from '../../common/index.ts';
import { messageOf, silentLog } from '../../common/index.ts';
import type {
  Device,
  DeviceCapabilities,
  Extent,
  WriteOptions,
  WriteZeroesOptions,
  WrittenExtent,
} from '../device.ts';
import { DeviceError } from '../device.ts';
import { absentContext, capabilitiesOf, differenceOf, refusalOf } from './client-export.ts';
import type { ExportInfo } from './client-handshake.ts';
import { NbdClientError } from './client-handshake.ts';
import { ClientQueue } from './client-queue.ts';
import type { ClientRequest, StatusDescriptor } from './client-request.ts';
import { isModifying } from './client-request.ts';
import { deviceErrnoOf } from './errno.ts';
import { LinkGroup } from './link-group.ts';
import * as nbd from './protocol.ts';

export type NbdClientState = 'connected' | 'reconnecting' | 'failed' | 'closed';

export interface NbdClientOptions {
  /** For connecting and negotiating, each time. Default 10 000. */
  readonly connectTimeoutMs?: number;
  /** How long a lost server is waited for; 0: not at all. Default 60 000. */
  readonly reconnectTimeoutMs?: number;
  /**
   * A request that is not answered within it, on a connection that stands, means a server that is stuck: the connection is
   * given up and renewed. Must exceed the longest flush. Default 0: never.
   */
  readonly requestTimeoutMs?: number;
  /** How many connections to use where the server promises NBD_FLAG_CAN_MULTI_CONN. Default 1. */
  readonly connections?: number;
  /** Ask for extended headers (64-bit lengths), an extension that few servers know. Default false. */
  readonly extendedHeaders?: boolean;
  /** Default 128. */
  readonly maxInFlightRequests?: number;
  /** Default 32 MiB; a single larger request is sent alone. */
  readonly maxInFlightBytes?: number;
  readonly log?: Log;
  readonly onStateChange?: (state: NbdClientState, reason?: string) => void;
}

const FIRST_PAUSE_MS = 10;
const LONGEST_PAUSE_MS = 1_000;
/** A server that breaks the protocol, or is silent, so often without answering anything in between will not get better. */
const PROTOCOL_FAILURES_LIMIT = 5;
/** Range of one request that moves no data, without extended headers: 1 GiB. */
const RANGE_LIMIT = 1 << 30;
const CLOSE_LIMIT_MS = 2_000;

export class NbdClient implements Device {
  readonly size: bigint;
  readonly capabilities: DeviceCapabilities;
  /** Set when the server offers the context `changeover:written-since`. */
  readonly writtenSince?: (offset: bigint, length: bigint) => Promise<WrittenExtent[]>;
  readonly socketPath: string;
  readonly exportName: string;
  readonly #options: Required<Omit<NbdClientOptions, 'onStateChange' | 'log'>>;
  readonly #log: Log;
  readonly #onStateChange: NonNullable<NbdClientOptions['onStateChange']>;
  readonly #info: ExportInfo;
  #link: LinkGroup | undefined;
  #state: NbdClientState = 'connected';
  #failure: DeviceError | undefined;
  readonly #queue: ClientQueue;
  /** The most one request that moves no data is about, bytes. */
  readonly #rangeLimit: number;
  #reconnects = 0;
  #protocolFailures = 0;
  #pause: { timer: NodeJS.Timeout; wake: () => void } | undefined;
  #idle: (() => void) | undefined;
  #watch: NodeJS.Timeout | undefined;

  private constructor(socketPath: string, exportName: string, options: NbdClientOptions, info: ExportInfo) {
    this.socketPath = socketPath;
    this.exportName = exportName;
    this.#options = {
      connectTimeoutMs: options.connectTimeoutMs ?? 10_000,
      reconnectTimeoutMs: options.reconnectTimeoutMs ?? 60_000,
      requestTimeoutMs: options.requestTimeoutMs ?? 0,
      connections: options.connections ?? 1,
      extendedHeaders: options.extendedHeaders ?? false,
      maxInFlightRequests: options.maxInFlightRequests ?? 128,
      maxInFlightBytes: options.maxInFlightBytes ?? 32 * 1024 * 1024,
    };
    this.#log = options.log ?? silentLog;
    this.#onStateChange = options.onStateChange ?? (() => {});
    this.#queue = new ClientQueue(this.#options.maxInFlightRequests, this.#options.maxInFlightBytes);
    this.#info = info;
    this.size = info.size;
    this.capabilities = capabilitiesOf(info);
    this.#rangeLimit = info.extendedHeaders ? Number.MAX_SAFE_INTEGER : RANGE_LIMIT;
    const written = this.#contextId(nbd.WRITTEN_SINCE);
    if (written !== undefined) {
      this.writtenSince = async (offset, length) =>
        (await this.#blockStatus(written, offset, length)).map((run) => ({
          offset: run.offset,
          length: run.length,
          written: (run.flags & nbd.WRITTEN_SINCE_WRITTEN) !== 0,
        }));
    }
  }

  /** Connects once; rejects with NbdClientError. A connection lost later is renewed. */
  static async connect(
    socketPath: string,
    exportName: string,
    options: NbdClientOptions = {},
  ): Promise<NbdClient> {
    let client: NbdClient | undefined;
    let lost: CodedError | undefined;
    const link = await LinkGroup.open(
      {
        socketPath,
        exportName,
        contexts: [nbd.BASE_ALLOCATION, nbd.WRITTEN_SINCE],
        extendedHeaders: options.extendedHeaders ?? false,
        timeoutMs: options.connectTimeoutMs ?? 10_000,
      },
      options.connections ?? 1,
      {
        answered: (request) => {
          if (client !== undefined) client.#answered(request);
        },
        lost: (reason) => {
          if (client === undefined) lost = reason;
          else client.#lost(reason);
        },
      },
    );
    const refusal = refusalOf(link.info);
    if (refusal !== undefined) {
      await link.disconnect(CLOSE_LIMIT_MS);
      throw refusal;
    }
    client = new NbdClient(socketPath, exportName, options, link.info);
    client.#link = link;
    if (lost !== undefined) client.#lost(lost);
    return client;
  }

  get state(): NbdClientState {
    return this.#state;
  }

  /** How often the connection was renewed. */
  get reconnects(): number {
    return this.#reconnects;
  }

  /** Open connections: 0 while the server is away. */
  get connections(): number {
    return this.#link?.count ?? 0;
  }

  /** Requests submitted and not acknowledged. */
  get pending(): number {
    return this.#queue.size;
  }

  async readAt(target: Uint8Array, offset: bigint): Promise<void> {
    this.#check(offset, BigInt(target.length));
    if (target.length <= this.capabilities.maxTransfer) {
      if (target.length > 0) await this.#submit(nbd.NBD_CMD_READ, 0, offset, target.length, { target });
      return;
    }
    await this.#pieces(offset, BigInt(target.length), this.capabilities.maxTransfer, (at, length, from) =>
      this.#submit(nbd.NBD_CMD_READ, 0, at, length, { target: target.subarray(from, from + length) }),
    );
  }

  async writeAt(source: Uint8Array, offset: bigint, options: WriteOptions = {}): Promise<void> {
    this.#check(offset, BigInt(source.length), true);
    const fua = options.fua === true;
    const flags = this.#fuaFlag(fua);
    if (source.length <= this.capabilities.maxTransfer) {
      if (source.length > 0) {
        await this.#submit(nbd.NBD_CMD_WRITE, flags, offset, source.length, { payload: source });
      }
    } else {
      await this.#pieces(offset, BigInt(source.length), this.capabilities.maxTransfer, (at, length, from) =>
        this.#submit(nbd.NBD_CMD_WRITE, flags, at, length, {
          payload: source.subarray(from, from + length),
        }),
      );
    }
    await this.#flushInsteadOfFua(fua, flags);
  }

  async writeZeroes(offset: bigint, length: bigint, options: WriteZeroesOptions = {}): Promise<void> {
    this.#check(offset, length, true);
    const fua = options.fua === true;
    let flags = this.#fuaFlag(fua);
    if (this.#can(nbd.NBD_FLAG_SEND_WRITE_ZEROES)) {
      if (options.noHole === true) flags |= nbd.NBD_CMD_FLAG_NO_HOLE;
      if (options.fast === true) {
        if (!this.#can(nbd.NBD_FLAG_SEND_FAST_ZERO)) throw this.#slowZeroes();
        flags |= nbd.NBD_CMD_FLAG_FAST_ZERO;
      }
      await this.#pieces(offset, length, this.#rangeLimit, (at, piece) =>
        this.#submit(nbd.NBD_CMD_WRITE_ZEROES, flags, at, piece),
      );
    } else {
      if (options.fast === true) throw this.#slowZeroes();
      const step = Math.min(this.capabilities.maxTransfer, 1024 * 1024);
      const zeroes = Buffer.alloc(Number(length < BigInt(step) ? length : BigInt(step)));
      await this.#pieces(offset, length, step, (at, piece) =>
        this.#submit(nbd.NBD_CMD_WRITE, flags, at, piece, { payload: zeroes.subarray(0, piece) }),
      );
    }
    await this.#flushInsteadOfFua(fua, flags);
  }

  async trim(offset: bigint, length: bigint, options: WriteOptions = {}): Promise<void> {
    this.#check(offset, length, true);
    if (!this.#can(nbd.NBD_FLAG_SEND_TRIM)) {
      throw new DeviceError('ENOTSUP', `${this.#name()} cannot be trimmed`);
    }
    const fua = options.fua === true;
    const flags = this.#fuaFlag(fua);
    await this.#pieces(offset, length, this.#rangeLimit, (at, piece) =>
      this.#submit(nbd.NBD_CMD_TRIM, flags, at, piece),
    );
    await this.#flushInsteadOfFua(fua, flags);
  }

  /** A server that offers no flush promises nothing more than its write replies: then this is nothing. */
  async flush(): Promise<void> {
    if (this.#can(nbd.NBD_FLAG_SEND_FLUSH)) await this.#submit(nbd.NBD_CMD_FLUSH, 0, 0n, 0);
    else this.#check(0n, 0n);
  }

  async extents(offset: bigint, length: bigint): Promise<Extent[]> {
    this.#check(offset, length);
    const id = this.#contextId(nbd.BASE_ALLOCATION);
    if (id === undefined) return length === 0n ? [] : [{ offset, length, zero: false, hole: false }];
    return (await this.#blockStatus(id, offset, length)).map((run) => ({
      offset: run.offset,
      length: run.length,
      zero: (run.flags & nbd.NBD_STATE_ZERO) !== 0,
      hole: (run.flags & nbd.NBD_STATE_HOLE) !== 0,
    }));
  }

  /** Waits for what is in flight, says NBD_CMD_DISC and closes; while the server is away, what is pending fails. */
  async close(): Promise<void> {
    if (this.#state === 'closed') return;
    const wasConnected = this.#state === 'connected';
    this.#setState('closed');
    this.#failure ??= new DeviceError('ESHUTDOWN', `${this.#name()} was closed`);
    if (wasConnected && this.pending > 0) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, CLOSE_LIMIT_MS);
        this.#idle = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    clearTimeout(this.#watch);
    this.#pause?.wake();
    this.#queue.rejectAll(this.#failure);
    await this.#link?.disconnect(CLOSE_LIMIT_MS);
    this.#link = undefined;
  }

  #name(): string {
    return `NBD export "${this.exportName}" at ${this.socketPath}`;
  }

  #can(flag: number): boolean {
    return (this.#info.transmissionFlags & flag) !== 0;
  }

  #contextId(name: string): number | undefined {
    for (const [id, context] of this.#info.contexts) if (context === name) return id;
    return undefined;
  }

  #fuaFlag(fua: boolean): number {
    return fua && this.#can(nbd.NBD_FLAG_SEND_FUA) ? nbd.NBD_CMD_FLAG_FUA : 0;
  }

  async #flushInsteadOfFua(fua: boolean, flags: number): Promise<void> {
    if (fua && (flags & nbd.NBD_CMD_FLAG_FUA) === 0) await this.flush();
  }

  #slowZeroes(): DeviceError {
    return new DeviceError('ENOTSUP', `${this.#name()} has no fast way to write zeroes`);
  }

  #check(offset: bigint, length: bigint, modifying = false): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (offset < 0n || length < 0n || offset + length > this.size) {
      throw new DeviceError(
        modifying ? 'ENOSPC' : 'EINVAL',
        `[${offset}, ${offset + length}) is outside ${this.#name()} of ${this.size} bytes`,
      );
    }
    const { minimum } = this.#info.blockSizes;
    if (minimum > 1 && (offset | length) & BigInt(minimum - 1)) {
      throw new DeviceError(
        'EINVAL',
        `[${offset}, ${offset + length}) is not aligned to the ${minimum}-byte blocks of ${this.#name()}`,
      );
    }
    if (modifying && this.capabilities.readOnly) {
      throw new DeviceError('EROFS', `${this.#name()} is read-only`);
    }
  }

  /** Runs `one` for pieces of at most `step` bytes, all submitted in order; the first error is thrown when all are over. */
  async #pieces(
    offset: bigint,
    length: bigint,
    step: number,
    one: (at: bigint, length: number, from: number) => Promise<void>,
  ): Promise<void> {
    const running: Promise<void>[] = [];
    for (let from = 0n; from < length; from += BigInt(step)) {
      const left = length - from;
      const piece = left < BigInt(step) ? Number(left) : step;
      running.push(one(offset + from, piece, Number(from)));
    }
    const outcomes = await Promise.allSettled(running);
    const failed = outcomes.find((outcome) => outcome.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  async #blockStatus(
    id: number,
    offset: bigint,
    length: bigint,
  ): Promise<{ offset: bigint; length: bigint; flags: number }[]> {
    this.#check(offset, length);
    if (length === 0n) return [];
    const asked = length < BigInt(this.#rangeLimit) ? Number(length) : this.#rangeLimit;
    const status = new Map<number, StatusDescriptor[]>();
    await this.#submit(nbd.NBD_CMD_BLOCK_STATUS, 0, offset, asked, { status });
    const runs: { offset: bigint; length: bigint; flags: number }[] = [];
    const end = offset + BigInt(asked);
    let at = offset;
    for (const descriptor of status.get(id) ?? []) {
      if (at >= end) break;
      // The last descriptor may reach beyond what was asked.
      const left = end - at;
      const run = BigInt(descriptor.length) < left ? BigInt(descriptor.length) : left;
      if (run === 0n) continue;
      runs.push({ offset: at, length: run, flags: descriptor.flags });
      at += run;
    }
    if (runs.length === 0) throw new DeviceError('EIO', `${this.#name()} told no status of byte ${offset}`);
    return runs;
  }

  #submit(
    type: number,
    flags: number,
    offset: bigint,
    length: number,
    more: Partial<Pick<ClientRequest, 'payload' | 'target' | 'status'>> = {},
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#failure !== undefined) {
        reject(this.#failure);
        return;
      }
      const request: ClientRequest = {
        type,
        flags,
        offset,
        length,
        payload: more.payload,
        target: more.target,
        status: more.status,
        sentMs: 0,
        answered: 0,
        coverage: undefined,
        error: 0,
        errorText: '',
        waitsFor: 0,
        followers: [],
        resolve,
        reject,
      };
      this.#queue.submit(request);
      this.#pump();
    });
  }

  /** Sends what is ready, within the bounds. */
  #pump(): void {
    const link = this.#link;
    if (link === undefined) return;
    for (let request = this.#queue.next(); request !== undefined; request = this.#queue.next()) {
      link.send(request);
    }
    if (this.#options.requestTimeoutMs > 0) this.#watchOldest();
  }

  /** Looks again when the request that was sent first will be overdue. */
  #watchOldest(): void {
    const [oldest] = this.#queue.sent;
    if (this.#watch !== undefined || oldest === undefined) return;
    const limitMs = this.#options.requestTimeoutMs;
    const leftMs = Math.max(1, oldest.sentMs + limitMs - performance.now());
    this.#watch = setTimeout(() => {
      this.#watch = undefined;
      // Behind the replies that are there already: it may be us who were late.
      setImmediate(() => this.#overdue(limitMs));
    }, leftMs);
    this.#watch.unref();
  }

  #overdue(limitMs: number): void {
    const [oldest] = this.#queue.sent;
    if (oldest === undefined || this.#link === undefined) return;
    if (performance.now() < oldest.sentMs + limitMs) {
      this.#watchOldest();
      return;
    }
    const text = `${this.#name()} did not answer a request within ${limitMs} ms`;
    this.#link.giveUp(new NbdClientError('ETIMEDOUT', text));
  }

  #answered(request: ClientRequest): void {
    this.#protocolFailures = 0;
    this.#queue.acknowledged(request);
    if (request.error === 0) request.resolve();
    else request.reject(this.#errorOf(request));
    // "If the client receives an NBD_ESHUTDOWN error it MUST initiate a soft disconnect."
    if (request.error === nbd.NBD_ESHUTDOWN) this.#link?.leave();
    this.#pump();
    if (this.#idle !== undefined && this.pending === 0) this.#idle();
  }

  #errorOf(request: ClientRequest): DeviceError {
    const code = deviceErrnoOf(request.error, isModifying(request.type));
    const said = request.errorText === '' ? '' : ` (${request.errorText})`;
    return new DeviceError(
      code,
      `${this.#name()} answered ${code} to ${request.length} bytes at ${request.offset}${said}`,
    );
  }

  #lost(reason: CodedError): void {
    this.#link = undefined;
    if (reason.code === 'EPROTO' || reason.code === 'ETIMEDOUT') this.#protocolFailures++;
    if (this.#state === 'closed') {
      this.#queue.rejectAll(this.#failure!);
      this.#idle?.();
      return;
    }
    if (this.#options.reconnectTimeoutMs <= 0 || this.#protocolFailures >= PROTOCOL_FAILURES_LIMIT) {
      this.#fail(reason);
      return;
    }
    this.#log.warn('NBD connection lost', { export: this.exportName, reason: reason.message });
    this.#setState('reconnecting', reason.message);
    void this.#reconnect(reason);
  }

  async #reconnect(reason: CodedError): Promise<void> {
    const untilMs = performance.now() + this.#options.reconnectTimeoutMs;
    let pauseMs = FIRST_PAUSE_MS;
    let last: unknown = reason;
    while (this.#state === 'reconnecting') {
      await this.#sleep(Math.min(pauseMs, Math.max(1, untilMs - performance.now())));
      if (this.#state !== 'reconnecting') return;
      pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
      try {
        await this.#renew();
        return;
      } catch (error) {
        last = error;
        const hopeless = error instanceof NbdClientError && error.code === 'ESTALE';
        if (hopeless || performance.now() >= untilMs) break;
      }
    }
    if (this.#state === 'reconnecting') this.#fail(last);
  }

  /** One attempt to connect again; on success everything unacknowledged is on its way. */
  async #renew(): Promise<void> {
    let current: LinkGroup | undefined;
    let lost: CodedError | undefined;
    const link = await LinkGroup.open(
      {
        socketPath: this.socketPath,
        exportName: this.exportName,
        contexts: [...this.#info.contexts.values()],
        extendedHeaders: this.#info.extendedHeaders,
        timeoutMs: this.#options.connectTimeoutMs,
      },
      this.#options.connections,
      {
        answered: (request) => this.#answered(request),
        lost: (why) => {
          if (current !== undefined && this.#link === current) this.#lost(why);
          else lost = why;
        },
      },
    );
    if (this.#state !== 'reconnecting') {
      await link.disconnect(CLOSE_LIMIT_MS);
      return;
    }
    const difference = differenceOf(this.#info, link.info);
    if (difference !== undefined) {
      await link.disconnect(CLOSE_LIMIT_MS);
      throw new NbdClientError('ESTALE', `${this.#name()} came back as another one: ${difference}`);
    }
    const absent = absentContext(this.#info, link.info);
    if (absent !== undefined) {
      // An export that appears between the two halves of the negotiation is offered without its contexts: tried again.
      await link.disconnect(CLOSE_LIMIT_MS);
      throw new NbdClientError('ENOENT', `${this.#name()} came back without the context ${absent}`);
    }
    if (lost !== undefined) throw lost;
    current = link;
    this.#link = link;
    this.#reconnects++;
    this.#log.info('NBD connection renewed', { export: this.exportName, resent: this.#queue.sent.size });
    this.#setState('connected');
    for (const request of this.#queue.sent) link.send(request);
    this.#pump();
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        this.#pause = undefined;
        resolve();
      };
      const timer = setTimeout(wake, ms);
      this.#pause = { timer, wake };
    });
  }

  #fail(reason: unknown): void {
    this.#failure = new DeviceError('EIO', `${this.#name()} is lost: ${messageOf(reason)}`, reason);
    this.#log.error('NBD device failed', { export: this.exportName, reason: messageOf(reason) });
    this.#setState('failed', messageOf(reason));
    this.#queue.rejectAll(this.#failure);
  }

  #setState(state: NbdClientState, reason?: string): void {
    this.#state = state;
    this.#onStateChange(state, reason);
  }
}
