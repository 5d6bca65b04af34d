/**
 * Replies out of a byte stream, incrementally (specification: "Simple reply message", "Structured reply chunk message", and
 * the extension's "Extended reply chunk message").
 *
 * Data of a read is copied from the socket's buffer straight into the reader's target; only headers and the small payloads
 * of other chunks are gathered first. Anything a correct server would not send throws NbdClientError EPROTO: a cookie that
 * is not outstanding, a chunk outside its request or over another one, a reply that does not cover its request.
 */
import { NbdClientError } from './client-handshake.ts';
import type { ClientRequest } from './client-request.ts';
import * as nbd from './protocol.ts';
import { ReadCoverage } from './read-coverage.ts';

/** Largest payload of a chunk that is not read data: 2^20 descriptors of a block status, the most a server should send. */
const STATUS_LIMIT = 8 + 16 * 2 ** 20;
/** Of an error: number, text of at most 2^16 bytes, offset. */
const CHUNK_LIMIT = 128 * 1024;

export interface ReplySink {
  find(cookie: bigint): ClientRequest | undefined;
  /** The reply is complete; `request.error` tells how it ended. */
  answered(cookie: bigint, request: ClientRequest): void;
}

export interface ReplyFormat {
  readonly structuredReplies: boolean;
  readonly extendedHeaders: boolean;
}

type State = 'header' | 'payload' | 'offset' | 'data';

const broken = (what: string) => new NbdClientError('EPROTO', `the NBD server broke the protocol: ${what}`);

export class ReplyParser {
  readonly #sink: ReplySink;
  readonly #structured: boolean;
  readonly #extended: boolean;
  readonly #headerSize: number;
  #state: State = 'header';
  /** Header, offset or payload being gathered. */
  #gather: Buffer = Buffer.alloc(nbd.EXTENDED_CHUNK_HEADER_SIZE);
  readonly #small = this.#gather;
  #have = 0;
  #want: number;
  #cookie = 0n;
  #request: ClientRequest | undefined;
  #type = 0;
  #done = false;
  /** Where the next data goes in the target, and how much is missing. */
  #dataAt = 0;
  #dataMissing = 0;

  constructor(sink: ReplySink, format: ReplyFormat) {
    this.#sink = sink;
    this.#structured = format.structuredReplies;
    this.#extended = format.extendedHeaders;
    this.#headerSize = this.#extended ? nbd.EXTENDED_CHUNK_HEADER_SIZE : nbd.SIMPLE_REPLY_SIZE;
    this.#want = this.#headerSize;
  }

  /** Parses `chunk[0, length)`; nothing of it is kept. Throws NbdClientError. */
  push(chunk: Uint8Array, length = chunk.length): void {
    let at = 0;
    while (at < length) {
      if (this.#state === 'data') {
        const taken = Math.min(this.#dataMissing, length - at);
        this.#request!.target!.set(chunk.subarray(at, at + taken), this.#dataAt);
        at += taken;
        this.#dataAt += taken;
        this.#dataMissing -= taken;
        if (this.#dataMissing === 0) this.#chunkDone();
        continue;
      }
      const taken = Math.min(this.#want - this.#have, length - at);
      this.#gather.set(chunk.subarray(at, at + taken), this.#have);
      at += taken;
      this.#have += taken;
      if (this.#have < this.#want) continue;
      if (this.#state === 'header') this.#header();
      else if (this.#state === 'offset') this.#offset();
      else this.#payload();
    }
  }

  #expect(state: State, length: number): void {
    this.#state = state;
    this.#have = 0;
    this.#want = length;
    this.#gather = length <= this.#small.length ? this.#small : Buffer.allocUnsafe(length);
  }

  #header(): void {
    const header = this.#gather;
    const magic = header.readUInt32BE(0);
    if (this.#extended) {
      if (magic !== nbd.NBD_EXTENDED_REPLY_MAGIC) throw broken('reply without its magic');
      this.#find(header.readBigUInt64BE(8));
      if (header.readBigUInt64BE(16) !== this.#request!.offset) throw broken('reply with another offset');
      this.#chunk(header, header.readUInt32BE(24) * 2 ** 32 + header.readUInt32BE(28));
      return;
    }
    if (magic === nbd.NBD_SIMPLE_REPLY_MAGIC) {
      this.#find(header.readBigUInt64BE(8));
      this.#simple(header.readUInt32BE(4));
      return;
    }
    if (magic !== nbd.NBD_STRUCTURED_REPLY_MAGIC || !this.#structured)
      throw broken('reply without its magic');
    if (this.#have < nbd.CHUNK_HEADER_SIZE) {
      this.#want = nbd.CHUNK_HEADER_SIZE;
      return;
    }
    this.#find(header.readBigUInt64BE(8));
    this.#chunk(header, header.readUInt32BE(16));
  }

  #find(cookie: bigint): void {
    const request = this.#sink.find(cookie);
    if (request === undefined) throw broken('reply to a request that is not outstanding');
    this.#cookie = cookie;
    this.#request = request;
  }

  #simple(error: number): void {
    const request = this.#request!;
    if (this.#structured && (request.target !== undefined || request.status !== undefined) && error === 0) {
      throw broken('simple reply where a structured one was agreed');
    }
    this.#done = true;
    request.error ||= error;
    if (error === 0 && request.target !== undefined && request.length > 0) this.#data(0, request.length);
    else this.#chunkDone();
  }

  #data(at: number, length: number): void {
    this.#dataAt = at;
    this.#dataMissing = length;
    this.#state = 'data';
  }

  /** Flags and type lie at the same place in both headers. */
  #chunk(header: Buffer, length: number): void {
    this.#done = (header.readUInt16BE(4) & nbd.NBD_REPLY_FLAG_DONE) !== 0;
    const type = header.readUInt16BE(6);
    this.#type = type;
    switch (type) {
      case nbd.NBD_REPLY_TYPE_NONE:
        if (length !== 0 || !this.#done) throw broken('NBD_REPLY_TYPE_NONE with a payload or without DONE');
        this.#chunkDone();
        return;
      case nbd.NBD_REPLY_TYPE_OFFSET_DATA:
        if (this.#request!.target === undefined || length <= 8) throw broken('read data nobody asked for');
        this.#dataMissing = length - 8;
        this.#expect('offset', 8);
        return;
      case nbd.NBD_REPLY_TYPE_OFFSET_HOLE:
        if (this.#request!.target === undefined || length !== 12) throw broken('malformed hole');
        this.#expect('payload', 12);
        return;
      case this.#statusType():
        if (this.#request!.status === undefined || length > STATUS_LIMIT) throw broken('block status');
        break;
      default:
        if ((type & nbd.NBD_REPLY_TYPE_ERROR_BIT) === 0) throw broken(`chunk of unknown type ${type}`);
        if (length > CHUNK_LIMIT) throw broken(`error of ${length} bytes`);
    }
    if (length > 0) this.#expect('payload', length);
    else throw broken('chunk without its payload');
  }

  #statusType(): number {
    return this.#extended ? nbd.NBD_REPLY_TYPE_BLOCK_STATUS_EXT : nbd.NBD_REPLY_TYPE_BLOCK_STATUS;
  }

  /** Position of [offset, offset + length) in the target, and counts it as answered. */
  #place(offset: bigint, length: number): number {
    const request = this.#request!;
    const from = offset - request.offset;
    if (from < 0n || from + BigInt(length) > BigInt(request.length))
      throw broken('chunk outside its request');
    const at = Number(from);
    if (at !== request.answered || request.coverage !== undefined) {
      request.coverage ??= new ReadCoverage(request.answered);
      if (!request.coverage.add(at, at + length)) throw broken('chunks that overlap');
    }
    request.answered += length;
    return at;
  }

  #offset(): void {
    const length = this.#dataMissing;
    this.#data(this.#place(this.#gather.readBigUInt64BE(0), length), length);
  }

  #payload(): void {
    const payload = this.#gather;
    const request = this.#request!;
    if (this.#type === nbd.NBD_REPLY_TYPE_OFFSET_HOLE) {
      const hole = payload.readUInt32BE(8);
      if (hole === 0) throw broken('hole of no bytes');
      const at = this.#place(payload.readBigUInt64BE(0), hole);
      request.target!.fill(0, at, at + hole);
    } else if (this.#type === this.#statusType()) this.#status(payload, this.#want);
    else this.#error(payload, this.#want);
    this.#chunkDone();
  }

  #status(payload: Buffer, length: number): void {
    const { status, length: asked } = this.#request!;
    const head = this.#extended ? 8 : 4;
    const each = this.#extended ? 16 : 8;
    const count = (length - head) / each;
    if (count < 1 || !Number.isInteger(count)) throw broken('malformed block status');
    if (this.#extended && payload.readUInt32BE(4) !== count) throw broken('wrong count of descriptors');
    const id = payload.readUInt32BE(0);
    if (status!.has(id)) throw broken('two chunks of one metadata context');
    let before = 0;
    const descriptors = Array.from({ length: count }, (_, i) => {
      const at = head + each * i;
      const run = this.#extended ? Number(payload.readBigUInt64BE(at)) : payload.readUInt32BE(at);
      // "the sum of the length fields of the first N-1 extents MUST be less than the requested length".
      if (run === 0 || before >= asked) throw broken('descriptor of no bytes, or beyond what was asked');
      before += run;
      return { length: run, flags: payload.readUInt32BE(at + each - 4) };
    });
    status!.set(id, descriptors);
  }

  #error(payload: Buffer, length: number): void {
    const request = this.#request!;
    const tail = this.#type === nbd.NBD_REPLY_TYPE_ERROR_OFFSET ? 8 : 0;
    if (length < 6 + tail) throw broken('malformed error');
    const error = payload.readUInt32BE(0);
    const text = payload.readUInt16BE(4);
    if (error === 0 || text > length - 6 - tail) throw broken('malformed error');
    if (tail > 0) {
      const at = payload.readBigUInt64BE(6 + text) - request.offset;
      if (at < 0n || at >= BigInt(request.length)) throw broken('error outside its request');
    }
    request.error ||= error;
    request.errorText ||= textOf(payload.subarray(6, 6 + Math.min(text, nbd.NBD_MAX_STRING)));
  }

  #chunkDone(): void {
    const request = this.#request!;
    this.#expect('header', this.#headerSize);
    if (!this.#done) return;
    this.#done = false;
    if (this.#structured && request.error === 0) {
      if (request.target !== undefined && request.answered !== request.length) {
        throw broken('a read that was not answered completely');
      }
      if (request.status !== undefined && request.status.size === 0) throw broken('block status without any');
    }
    this.#sink.answered(this.#cookie, request);
  }
}

/** What a server says about an error, fit for a terminal or a log: nothing in it controls either. */
function textOf(bytes: Buffer): string {
  return bytes.toString('utf8').replace(/\p{Cc}/gu, ' ');
}
