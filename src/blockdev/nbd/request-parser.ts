/**
 * Requests out of a byte stream, incrementally (specification: "Transmission phase", "Request message").
 *
 * A chunk from the socket is parsed where it lies. The payload of a write that lies in one chunk is handed out as a view of
 * it. One that does not is gathered into a pool buffer: what the chunk holds of it is copied, the rest the socket may read
 * straight into `space`. The sink tells through `stalled` when no further request may be taken: then the chunk is kept and
 * `resume` goes on where it stopped.
 */
import type { BufferPool } from './buffer-pool.ts';
import {
  EXTENDED_REQUEST_SIZE,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_WRITE,
  NBD_EXTENDED_REQUEST_MAGIC,
  NBD_MAX_PAYLOAD,
  NBD_REQUEST_MAGIC,
  REQUEST_SIZE,
} from './protocol.ts';

const FLAGS_AT = 4;
const TYPE_AT = 6;
const COOKIE_AT = 8;
const OFFSET_AT = 16;
const LENGTH_AT = 24;

/**
 * A write with a longer payload than this ends the connection: skipping it would cost more than it is worth. With extended
 * headers the bound is NBD_MAX_PAYLOAD, as the extension asks.
 */
export const PAYLOAD_SKIP_LIMIT = 2 * NBD_MAX_PAYLOAD;

/** From here on a copy costs more than a read of its own for the header. */
const LARGE_PAYLOAD = 64 * 1024;

export interface RequestSink {
  readonly stalled: boolean;
  /**
   * One request. `payload` is set for a write of at most NBD_MAX_PAYLOAD bytes, and for what carries
   * NBD_CMD_FLAG_PAYLOAD_LEN; `owner`, where set, is the pool buffer behind it, to be released when the payload is no
   * longer needed. A payload without owner is lent for this call. A `length` beyond 2^53 is rounded.
   */
  request(
    type: number,
    flags: number,
    cookie: bigint,
    offset: bigint,
    length: number,
    payload: Buffer | undefined,
    owner: Buffer | undefined,
  ): void;
  /** The stream is no longer understood: nothing more is parsed. */
  malformed(reason: 'bad-request-magic' | 'payload-too-long'): void;
}

export class RequestParser {
  readonly #sink: RequestSink;
  readonly #pool: BufferPool;
  readonly #extended: boolean;
  readonly #magic: number;
  readonly #headerSize: number;
  readonly #payloadLimit: number;
  #chunk: Buffer | undefined;
  #at = 0;
  #stopped = false;
  /** A header that began at the end of a chunk. */
  readonly #head = Buffer.alloc(EXTENDED_REQUEST_SIZE);
  #headLength = 0;
  /** The request whose payload is being gathered or skipped. */
  #type = 0;
  #flags = 0;
  #cookie = 0n;
  #offset = 0n;
  #length = 0;
  #gather: Buffer | undefined;
  #missing = 0;
  /** The last request was a write of at least LARGE_PAYLOAD bytes. */
  #behindLarge = false;

  constructor(sink: RequestSink, pool: BufferPool, extended = false) {
    this.#sink = sink;
    this.#pool = pool;
    this.#extended = extended;
    this.#magic = extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC;
    this.#headerSize = extended ? EXTENDED_REQUEST_SIZE : REQUEST_SIZE;
    this.#payloadLimit = extended ? NBD_MAX_PAYLOAD : PAYLOAD_SKIP_LIMIT;
  }

  /** Whether a chunk is kept that was not parsed to its end. */
  get holding(): boolean {
    return this.#chunk !== undefined;
  }

  /** Where the rest of a payload that is being gathered goes; undefined when a chunk is wanted. */
  get space(): Buffer | undefined {
    if (this.#gather === undefined || this.#chunk !== undefined) return undefined;
    return this.#gather.subarray(this.#length - this.#missing, this.#length);
  }

  /**
   * How many bytes a chunk should hold at most. Behind a large write comes another one, as a rule: then only its header, so
   * that its payload can be read where it stays.
   */
  get wanted(): number {
    return this.#behindLarge ? this.#headerSize : Number.POSITIVE_INFINITY;
  }

  /** The next `count` bytes of the stream stand in `space`. */
  filled(count: number): void {
    if (this.#stopped) return;
    this.#missing -= count;
    if (this.#missing === 0) this.#complete();
  }

  /** Takes a chunk; only when nothing is held. */
  push(chunk: Buffer): void {
    if (this.#stopped) return;
    this.#chunk = chunk;
    this.#at = 0;
    this.resume();
  }

  /** Parses on until the chunk is used up or the sink stalls. */
  resume(): void {
    while (!this.#stopped && this.#chunk !== undefined) {
      if (this.#missing > 0) this.#fill();
      else if (this.#sink.stalled) return;
      else this.#header(this.#chunk);
      if (this.#chunk !== undefined && this.#at === this.#chunk.length && this.#missing === 0) {
        this.#chunk = undefined;
      }
    }
  }

  /** Forgets what is held; nothing more is parsed. A buffer that the socket may still read into is not used again. */
  stop(): void {
    this.#stopped = true;
    this.#chunk = undefined;
    this.#gather = undefined;
  }

  #header(chunk: Buffer): void {
    let head = chunk;
    let at = this.#at;
    const available = chunk.length - at;
    const size = this.#headerSize;
    if (this.#headLength > 0 || available < size) {
      const taken = Math.min(size - this.#headLength, available);
      chunk.copy(this.#head, this.#headLength, at, at + taken);
      this.#headLength += taken;
      this.#at += taken;
      // A wrong magic is told at once: a peer that speaks something else may never send a whole header.
      if (this.#headLength >= 4 && this.#head.readUInt32BE(0) !== this.#magic) this.#fail();
      if (this.#headLength < size || this.#stopped) return;
      this.#headLength = 0;
      head = this.#head;
      at = 0;
    } else {
      if (chunk.readUInt32BE(at) !== this.#magic) {
        this.#fail();
        return;
      }
      this.#at += size;
    }
    const flags = head.readUInt16BE(at + FLAGS_AT);
    const type = head.readUInt16BE(at + TYPE_AT);
    const cookie = head.readBigUInt64BE(at + COOKIE_AT);
    const offset = head.readBigUInt64BE(at + OFFSET_AT);
    let length = head.readUInt32BE(at + LENGTH_AT);
    let carries = type === NBD_CMD_WRITE;
    if (this.#extended) {
      length = length * 2 ** 32 + head.readUInt32BE(at + LENGTH_AT + 4);
      carries = (flags & NBD_CMD_FLAG_PAYLOAD_LEN) !== 0;
    }
    this.#behindLarge = false;
    if (!carries || length === 0) {
      this.#sink.request(type, flags, cookie, offset, length, undefined, undefined);
      return;
    }
    if (length > this.#payloadLimit) {
      this.stop();
      this.#sink.malformed('payload-too-long');
      return;
    }
    if (length <= NBD_MAX_PAYLOAD && chunk.length - this.#at >= length) {
      const payload = chunk.subarray(this.#at, this.#at + length);
      this.#at += length;
      this.#sink.request(type, flags, cookie, offset, length, payload, undefined);
      return;
    }
    this.#type = type;
    this.#flags = flags;
    this.#cookie = cookie;
    this.#offset = offset;
    this.#length = length;
    this.#missing = length;
    this.#gather = length <= NBD_MAX_PAYLOAD ? this.#pool.acquire(length) : undefined;
    if (this.#at === chunk.length) this.#chunk = undefined;
  }

  #fill(): void {
    const chunk = this.#chunk!;
    const taken = Math.min(this.#missing, chunk.length - this.#at);
    const gather = this.#gather;
    if (gather !== undefined) chunk.copy(gather, this.#length - this.#missing, this.#at, this.#at + taken);
    this.#at += taken;
    this.#missing -= taken;
    if (this.#at === chunk.length) this.#chunk = undefined;
    if (this.#missing === 0) this.#complete();
  }

  #complete(): void {
    const gather = this.#gather;
    this.#gather = undefined;
    this.#behindLarge = this.#length >= LARGE_PAYLOAD;
    const payload = gather?.subarray(0, this.#length);
    this.#sink.request(this.#type, this.#flags, this.#cookie, this.#offset, this.#length, payload, gather);
  }

  #fail(): void {
    this.stop();
    this.#sink.malformed('bad-request-magic');
  }
}
