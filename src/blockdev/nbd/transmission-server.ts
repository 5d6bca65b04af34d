/**
 * Server side of the transmission phase for one connection: from a parsed request to the device and back.
 *
 * Order: every request is started in the order of its arrival; those that the device answers synchronously are answered at
 * once, the others when they complete, in any order. In-flight requests are bounded by count and bytes, and so are replies
 * that the client does not take: beyond either bound `bounded` is true and the parser takes no further request, nor does it when
 * the server has had its time in this turn of the event loop.
 * A payload buffer belongs to its request until the device has taken it, a reply buffer to the writer from `append` on.
 */
import { messageOf } from '../../common/index.ts';
import type { Device } from '../device.ts';
import { DeviceError } from '../device.ts';
import type { BufferPool } from './buffer-pool.ts';
import { ChunkFormat } from './chunk-format.ts';
import { nbdErrorOf } from './errno.ts';
import * as nbd from './protocol.ts';
import type { ReplyWriter } from './reply-writer.ts';
import { emitSimpleReply, SLAB_REPLY_LIMIT } from './reply-writer.ts';
import type { RequestSink } from './request-parser.ts';
import type { TransmissionCounters } from './server-counters.ts';
import type { MetaContext } from './server-export.ts';
import type { Negotiated } from './server-handshake.ts';
import type { ReadParts } from './server-read.ts';
import { PortionedRead } from './server-read.ts';
import { contextRuns, parseStatusPayload } from './server-status.ts';
import type { ServerTurn } from './server-turn.ts';

export interface TransmissionLimits {
  /** Requests of one connection that the device works on. */
  readonly inFlightRequests: number;
  /** Bytes they read and write. */
  readonly inFlightBytes: number;
  /** Bytes of replies the client has not taken. */
  readonly replyBacklog: number;
}

export interface TransmissionEvents {
  /** A request was completed or refused, below the bounds again perhaps. */
  settled(): void;
  /** NBD_CMD_DISC came. */
  disconnect(): void;
  malformed(reason: string): void;
}

/** Reads of at least this many bytes look for holes first, and are done in portions where replies may be in chunks. */
const HOLES_FROM = 128 * 1024;
/** NBD_CMD_CACHE reads at most so much: it is advice. */
const CACHE_LIMIT = 64n * 1024n * 1024n;
const CACHE_STEP = 1024 * 1024;

const { NBD_CMD_FLAG_FUA: FUA, NBD_CMD_FLAG_NO_HOLE: NO_HOLE, NBD_CMD_FLAG_DF: DF } = nbd;
const { NBD_CMD_FLAG_REQ_ONE: REQ_ONE, NBD_CMD_FLAG_FAST_ZERO: FAST_ZERO } = nbd;

/** Flags a command may carry; FUA is accepted on all, as the specification asks. */
const ALLOWED_FLAGS: Readonly<Record<number, number>> = {
  [nbd.NBD_CMD_READ]: FUA | DF,
  [nbd.NBD_CMD_WRITE]: FUA,
  [nbd.NBD_CMD_DISC]: FUA,
  [nbd.NBD_CMD_FLUSH]: FUA,
  [nbd.NBD_CMD_TRIM]: FUA,
  [nbd.NBD_CMD_CACHE]: FUA,
  [nbd.NBD_CMD_WRITE_ZEROES]: FUA | NO_HOLE | FAST_ZERO,
  [nbd.NBD_CMD_BLOCK_STATUS]: FUA | REQ_ONE,
};

const PAYLOAD_LEN = nbd.NBD_CMD_FLAG_PAYLOAD_LEN;
/** With extended headers a write must carry PAYLOAD_LEN; block status may, and is unwrapped first. */
const ALLOWED_FLAGS_EXTENDED = { ...ALLOWED_FLAGS, [nbd.NBD_CMD_WRITE]: FUA | PAYLOAD_LEN };

interface Refusal {
  readonly error: number;
  readonly message: string;
}
const refuse = (error: number, message: string): Refusal => ({ error, message });

const REFUSED_TYPE = refuse(nbd.NBD_EINVAL, 'unknown command');
const REFUSED_FLAGS = refuse(nbd.NBD_EINVAL, 'flag not allowed with this command');
const REFUSED_DF = refuse(nbd.NBD_EINVAL, 'NBD_CMD_FLAG_DF needs structured replies');
const REFUSED_LENGTH = refuse(nbd.NBD_EINVAL, `more than ${nbd.NBD_MAX_PAYLOAD} bytes`);
const REFUSED_EMPTY_STATUS = refuse(nbd.NBD_EINVAL, 'block status of no bytes');
const REFUSED_CONTEXT = refuse(nbd.NBD_EINVAL, 'no metadata context was negotiated');
const REFUSED_RANGE = refuse(nbd.NBD_EINVAL, 'beyond the end of the export');
const REFUSED_RANGE_WRITE = refuse(nbd.NBD_ENOSPC, 'beyond the end of the export');
const REFUSED_READ_ONLY = refuse(nbd.NBD_EPERM, 'the export is read-only');
const REFUSED_TRIM = refuse(nbd.NBD_EINVAL, 'NBD_CMD_TRIM was not offered');
const REFUSED_ZEROES = refuse(nbd.NBD_EINVAL, 'NBD_CMD_WRITE_ZEROES was not offered');
const REFUSED_FAST = refuse(nbd.NBD_EINVAL, 'NBD_CMD_FLAG_FAST_ZERO was not offered');
const REFUSED_NO_PAYLOAD = refuse(nbd.NBD_EINVAL, 'a write needs NBD_CMD_FLAG_PAYLOAD_LEN');
const REFUSED_PAYLOAD = refuse(nbd.NBD_EINVAL, 'this command takes no payload, or another one');

export class TransmissionServer implements RequestSink {
  readonly #device: Device;
  readonly #size: bigint;
  readonly #structured: boolean;
  readonly #extended: boolean;
  readonly #allowed: Readonly<Record<number, number>>;
  readonly #format: ChunkFormat;
  /** Bytes before the data of a read. */
  readonly #readHeaderSize: number;
  readonly #contexts: readonly MetaContext[];
  readonly #writer: ReplyWriter;
  readonly #pool: BufferPool;
  readonly #limits: TransmissionLimits;
  readonly #counters: TransmissionCounters;
  readonly #turn: ServerTurn;
  readonly #events: TransmissionEvents;
  readonly #readParts: ReadParts;
  #inFlight = 0;
  #inFlightBytes = 0;

  constructor(
    negotiated: Negotiated,
    writer: ReplyWriter,
    pool: BufferPool,
    limits: TransmissionLimits,
    counters: TransmissionCounters,
    turn: ServerTurn,
    events: TransmissionEvents,
  ) {
    this.#device = negotiated.device;
    this.#size = negotiated.device.size;
    this.#structured = negotiated.structuredReplies;
    this.#extended = negotiated.extendedHeaders;
    this.#allowed = this.#extended ? ALLOWED_FLAGS_EXTENDED : ALLOWED_FLAGS;
    this.#format = new ChunkFormat(this.#extended);
    this.#readHeaderSize = this.#structured ? this.#format.headerSize + 8 : nbd.SIMPLE_REPLY_SIZE;
    this.#contexts = negotiated.contexts;
    this.#writer = writer;
    this.#pool = pool;
    this.#limits = limits;
    this.#counters = counters;
    this.#turn = turn;
    this.#events = events;
    this.#readParts = { device: this.#device, writer, pool, format: this.#format, turn };
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  get stalled(): boolean {
    return this.bounded || this.#turn.over;
  }

  get bounded(): boolean {
    return (
      this.#inFlight >= this.#limits.inFlightRequests ||
      this.#inFlightBytes >= this.#limits.inFlightBytes ||
      this.#writer.backlog >= this.#limits.replyBacklog
    );
  }

  malformed(reason: string): void {
    this.#events.malformed(reason);
  }

  request(
    type: number,
    flags: number,
    cookie: bigint,
    offset: bigint,
    length: number,
    payload: Buffer | undefined,
    owner: Buffer | undefined,
  ): void {
    if (type === nbd.NBD_CMD_DISC) {
      this.#events.disconnect();
      return;
    }
    if (this.#extended && (flags & PAYLOAD_LEN) !== 0 && type !== nbd.NBD_CMD_WRITE) {
      this.#withPayload(type, flags, cookie, offset, payload);
      if (owner !== undefined) this.#pool.release(owner);
      return;
    }
    const refusal = this.#check(type, flags, offset, length);
    if (refusal !== undefined) {
      if (owner !== undefined) this.#pool.release(owner);
      this.#refused(cookie, offset, refusal);
      return;
    }
    const device = this.#device;
    const fua = (flags & FUA) !== 0;
    switch (type) {
      case nbd.NBD_CMD_READ:
        this.#read(flags, cookie, offset, length);
        return;
      case nbd.NBD_CMD_WRITE:
        this.#write(fua, cookie, offset, length, payload, owner);
        return;
      case nbd.NBD_CMD_FLUSH:
        this.#counters.flushes++;
        this.#start(cookie, offset, 0, () => device.flush());
        return;
      case nbd.NBD_CMD_TRIM:
        this.#counters.trims++;
        this.#start(cookie, offset, 0, () => device.trim(offset, BigInt(length), { fua }));
        return;
      case nbd.NBD_CMD_CACHE:
        this.#counters.caches++;
        this.#start(cookie, offset, CACHE_STEP, () => this.#cache(offset, BigInt(length)));
        return;
      case nbd.NBD_CMD_WRITE_ZEROES: {
        this.#counters.writeZeroes++;
        const options = { fua, noHole: (flags & NO_HOLE) !== 0, fast: (flags & FAST_ZERO) !== 0 };
        const zero = () => device.writeZeroes(offset, BigInt(length), options);
        this.#start(cookie, offset, 0, zero, undefined, options.fast);
        return;
      }
      default:
        this.#counters.blockStatus++;
        this.#blockStatus(cookie, offset, length, (flags & REQ_ONE) !== 0, this.#contexts);
    }
  }

  /** A command other than a write that carries a payload: block status of some of the contexts, or a mistake. */
  #withPayload(
    type: number,
    flags: number,
    cookie: bigint,
    offset: bigint,
    payload: Buffer | undefined,
  ): void {
    const query =
      type === nbd.NBD_CMD_BLOCK_STATUS && payload !== undefined
        ? parseStatusPayload(payload, this.#contexts)
        : undefined;
    const refusal =
      query === undefined
        ? REFUSED_PAYLOAD
        : this.#check(type, flags & ~PAYLOAD_LEN, offset, query.effectLength);
    if (refusal !== undefined || query === undefined) {
      this.#refused(cookie, offset, refusal ?? REFUSED_PAYLOAD);
      return;
    }
    this.#counters.blockStatus++;
    this.#blockStatus(cookie, offset, query.effectLength, (flags & REQ_ONE) !== 0, query.contexts);
  }

  /** Why a request may not reach the device. */
  #check(type: number, flags: number, offset: bigint, length: number): Refusal | undefined {
    const allowed = this.#allowed[type];
    if (allowed === undefined) return REFUSED_TYPE;
    if ((flags & ~allowed) !== 0) return REFUSED_FLAGS;
    // Offset and length of a flush are reserved and ignored.
    if (type === nbd.NBD_CMD_FLUSH) return undefined;
    const can = this.#device.capabilities;
    const modifying =
      type === nbd.NBD_CMD_WRITE || type === nbd.NBD_CMD_TRIM || type === nbd.NBD_CMD_WRITE_ZEROES;
    if (modifying && can.readOnly) return REFUSED_READ_ONLY;
    if (type === nbd.NBD_CMD_READ || type === nbd.NBD_CMD_WRITE) {
      if (length > nbd.NBD_MAX_PAYLOAD) return REFUSED_LENGTH;
      if ((flags & DF) !== 0 && !this.#structured) return REFUSED_DF;
      if (this.#extended && type === nbd.NBD_CMD_WRITE && (flags & PAYLOAD_LEN) === 0)
        return REFUSED_NO_PAYLOAD;
    }
    if (offset + BigInt(length) > this.#size) {
      return type === nbd.NBD_CMD_WRITE || type === nbd.NBD_CMD_WRITE_ZEROES
        ? REFUSED_RANGE_WRITE
        : REFUSED_RANGE;
    }
    if (type === nbd.NBD_CMD_TRIM && !can.trim) return REFUSED_TRIM;
    if (type === nbd.NBD_CMD_WRITE_ZEROES) {
      if (!can.writeZeroes) return REFUSED_ZEROES;
      if ((flags & FAST_ZERO) !== 0 && !can.fastZero) return REFUSED_FAST;
    }
    if (type === nbd.NBD_CMD_BLOCK_STATUS) {
      if (this.#contexts.length === 0) return REFUSED_CONTEXT;
      if (length === 0) return REFUSED_EMPTY_STATUS;
    }
    return undefined;
  }

  /** Success of a command that returns no data. */
  #ok(cookie: bigint, offset: bigint): void {
    if (this.#extended) this.#writer.extendedNone(cookie, offset);
    else this.#writer.simple(cookie, 0);
  }

  /** An error reply of the kind that the client expects. */
  #fail(cookie: bigint, offset: bigint, error: number, message: string): void {
    if (this.#extended) this.#writer.error(cookie, error, message, offset);
    else if (this.#structured) this.#writer.error(cookie, error, message);
    else this.#writer.simple(cookie, error);
  }

  #refused(cookie: bigint, offset: bigint, refusal: Refusal): void {
    this.#counters.refusedRequests++;
    this.#fail(cookie, offset, refusal.error, refusal.message);
  }

  #deviceFailed(cookie: bigint, offset: bigint, thrown: unknown, fast = false): void {
    this.#counters.deviceErrors++;
    // Only what a device says on purpose is for the client's eyes.
    const message = thrown instanceof DeviceError ? messageOf(thrown) : 'input/output error';
    this.#fail(cookie, offset, nbdErrorOf(thrown, fast), message);
  }

  #began(bytes: number): void {
    this.#inFlight++;
    this.#inFlightBytes += bytes;
  }

  #ended(bytes: number): void {
    this.#inFlight--;
    this.#inFlightBytes -= bytes;
    this.#events.settled();
  }

  /** Answers with success or error when `work` is done; `owner` is released then. `fast`: of NBD_CMD_FLAG_FAST_ZERO. */
  #start(
    cookie: bigint,
    offset: bigint,
    bytes: number,
    work: () => Promise<void>,
    owner?: Buffer,
    fast = false,
  ): void {
    this.#began(bytes);
    const over = () => {
      if (owner !== undefined) this.#pool.release(owner);
      this.#ended(bytes);
    };
    called(work).then(
      () => {
        this.#ok(cookie, offset);
        over();
      },
      (thrown) => {
        this.#deviceFailed(cookie, offset, thrown, fast);
        over();
      },
    );
  }

  #write(
    fua: boolean,
    cookie: bigint,
    offset: bigint,
    length: number,
    payload: Buffer | undefined,
    owner: Buffer | undefined,
  ): void {
    this.#counters.writes++;
    this.#counters.bytesWritten += length;
    if (payload === undefined) {
      this.#ok(cookie, offset);
      return;
    }
    const device = this.#device;
    if (!fua && device.writeAtSync !== undefined) {
      let failure: unknown;
      let done = true;
      try {
        done = device.writeAtSync(payload, offset);
      } catch (thrown) {
        failure = thrown ?? new Error('nothing was thrown');
      }
      if (done) {
        if (owner !== undefined) this.#pool.release(owner);
        if (failure === undefined) this.#ok(cookie, offset);
        else this.#deviceFailed(cookie, offset, failure);
        return;
      }
    }
    let kept = owner;
    if (kept === undefined) {
      kept = this.#pool.acquire(length);
      payload.copy(kept);
    }
    const source = kept.subarray(0, length);
    this.#start(cookie, offset, length, () => device.writeAt(source, offset, { fua }), kept);
  }

  #read(flags: number, cookie: bigint, offset: bigint, length: number): void {
    this.#counters.reads++;
    this.#counters.bytesRead += length;
    if (length === 0) {
      if (this.#structured && !this.#extended) this.#emptyChunk(cookie);
      else this.#ok(cookie, offset);
      return;
    }
    if (this.#structured && length >= HOLES_FROM && (flags & DF) === 0) {
      this.#began(length);
      new PortionedRead(this.#readParts, cookie, offset)
        .run(length)
        .catch((thrown) => this.#deviceFailed(cookie, offset, thrown))
        .then(() => this.#ended(length));
      return;
    }
    // Into the socket; reading is measured where it is done at once.
    if (length >= HOLES_FROM) this.#turn.charge(length);
    const device = this.#device;
    const header = this.#readHeaderSize;
    const total = header + length;
    const small = total <= SLAB_REPLY_LIMIT;
    if (device.readAtSync !== undefined && small) {
      const at = this.#writer.reserve(total);
      const slab = this.#writer.slab;
      try {
        if (device.readAtSync(slab.subarray(at + header, at + total), offset)) {
          this.#readHeader(slab, at, cookie, offset, length);
          this.#writer.commit(total);
          return;
        }
      } catch (thrown) {
        this.#deviceFailed(cookie, offset, thrown);
        return;
      }
    }
    const buffer = this.#pool.acquire(total);
    const target = buffer.subarray(header, total);
    const answer = () => {
      this.#readHeader(buffer, 0, cookie, offset, length);
      this.#writer.append(buffer.subarray(0, total), buffer);
    };
    if (device.readAtSync !== undefined && !small) {
      try {
        if (device.readAtSync(target, offset)) {
          answer();
          return;
        }
      } catch (thrown) {
        this.#pool.release(buffer);
        this.#deviceFailed(cookie, offset, thrown);
        return;
      }
    }
    this.#began(length);
    called(() => device.readAt(target, offset)).then(
      () => {
        answer();
        this.#ended(length);
      },
      (thrown) => {
        this.#pool.release(buffer);
        this.#deviceFailed(cookie, offset, thrown);
        this.#ended(length);
      },
    );
  }

  /** The header of a whole read in one reply. */
  #readHeader(target: Buffer, at: number, cookie: bigint, offset: bigint, length: number): void {
    if (!this.#structured) {
      emitSimpleReply(target, at, 0, cookie);
      return;
    }
    this.#format.emit(target, at, true, nbd.NBD_REPLY_TYPE_OFFSET_DATA, cookie, offset, length + 8);
    target.writeBigUInt64BE(offset, at + this.#format.headerSize);
  }

  #emptyChunk(cookie: bigint): void {
    const { headerSize } = this.#format;
    const at = this.#writer.reserve(headerSize);
    this.#format.emit(this.#writer.slab, at, true, nbd.NBD_REPLY_TYPE_NONE, cookie, 0n, 0);
    this.#writer.commit(headerSize);
  }

  async #cache(offset: bigint, length: bigint): Promise<void> {
    const end = offset + (length < CACHE_LIMIT ? length : CACHE_LIMIT);
    const buffer = Buffer.allocUnsafe(CACHE_STEP);
    for (let at = offset; at < end; at += BigInt(CACHE_STEP)) {
      const left = Number(end - at);
      await this.#device.readAt(left < CACHE_STEP ? buffer.subarray(0, left) : buffer, at);
    }
  }

  #blockStatus(
    cookie: bigint,
    offset: bigint,
    length: number,
    one: boolean,
    contexts: readonly MetaContext[],
  ): void {
    this.#began(0);
    const extended = this.#extended;
    const type = extended ? nbd.NBD_REPLY_TYPE_BLOCK_STATUS_EXT : nbd.NBD_REPLY_TYPE_BLOCK_STATUS;
    const answers = contexts.map((context) => contextRuns(this.#device, context.name, offset, length, one));
    void Promise.all(answers)
      .then((all) => {
        for (const [index, runs] of all.entries()) {
          const payload = extended ? 8 + 16 * runs.length : 4 + 8 * runs.length;
          const reply = Buffer.allocUnsafe(this.#format.headerSize + payload);
          const done = index === all.length - 1;
          let at = this.#format.emit(reply, 0, done, type, cookie, offset, payload);
          at = reply.writeUInt32BE(contexts[index]!.id, at);
          if (extended) at = reply.writeUInt32BE(runs.length, at);
          for (const run of runs) {
            if (extended) {
              at = reply.writeBigUInt64BE(BigInt(run.length), at);
              at = reply.writeBigUInt64BE(BigInt(run.flags), at);
            } else {
              at = reply.writeUInt32BE(run.length, at);
              at = reply.writeUInt32BE(run.flags, at);
            }
          }
          this.#writer.append(reply, undefined);
        }
      })
      .catch((thrown: unknown) => this.#deviceFailed(cookie, offset, thrown))
      .then(() => this.#ended(0));
  }
}

/** A device that throws instead of rejecting has failed the request, not the server. */
function called(work: () => Promise<void>): Promise<void> {
  try {
    return work();
  } catch (thrown) {
    return Promise.reject(thrown);
  }
}
