/**
 * Replies out of a byte stream, incrementally (specification: "Simple reply message", "Structured reply chunk message").
 *
 * Data of a read is copied from the socket's buffer straight into the reader's target; only headers and the small payloads
 * of other chunks are gathered first. Anything a correct server would not send throws NbdClientError EPROTO: a cookie that
 * is not outstanding, a chunk outside its request, a reply that does not cover its request.
 */
import { NbdClientError } from './client-handshake.ts';
import type { ClientRequest } from './client-request.ts';
import * as nbd from './protocol.ts';

/** Largest payload of a chunk that is not read data: descriptors of a block status, or an error. */
const CHUNK_LIMIT = 1024 * 1024;

export interface ReplySink {
  find(cookie: bigint): ClientRequest | undefined;
  /** The reply is complete; `request.error` tells how it ended. */
  answered(cookie: bigint, request: ClientRequest): void;
}

type State = 'header' | 'payload' | 'offset' | 'data';

const broken = (what: string) => new NbdClientError('EPROTO', `the NBD server broke the protocol: ${what}`);

export class ReplyParser {
  readonly #sink: ReplySink;
  readonly #structured: boolean;
  #state: State = 'header';
  /** Header, offset or payload being gathered. */
  #gather: Buffer = Buffer.alloc(nbd.CHUNK_HEADER_SIZE);
  readonly #small = this.#gather;
  #have = 0;
  #want = nbd.SIMPLE_REPLY_SIZE;
  #cookie = 0n;
  #request: ClientRequest | undefined;
  #type = 0;
  #done = false;
  /** Where the next data goes in the target, and how much is missing. */
  #dataAt = 0;
  #dataMissing = 0;

  constructor(sink: ReplySink, structuredReplies: boolean) {
    this.#sink = sink;
    this.#structured = structuredReplies;
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
    this.#done = (header.readUInt16BE(4) & nbd.NBD_REPLY_FLAG_DONE) !== 0;
    this.#chunk(header.readUInt16BE(6), header.readUInt32BE(16));
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

  #chunk(type: number, length: number): void {
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
      default:
        if (length > CHUNK_LIMIT) throw broken(`chunk of ${length} bytes`);
        if (length > 0) this.#expect('payload', length);
        else this.#payload();
    }
  }

  /** Position of [offset, offset + length) in the target, and counts it as answered. */
  #place(offset: bigint, length: number): number {
    const request = this.#request!;
    const at = offset - request.offset;
    if (at < 0n || at + BigInt(length) > BigInt(request.length)) throw broken('chunk outside its request');
    request.answered += length;
    if (request.answered > request.length) throw broken('chunks that overlap');
    return Number(at);
  }

  #offset(): void {
    const length = this.#dataMissing;
    this.#data(this.#place(this.#gather.readBigUInt64BE(0), length), length);
  }

  #payload(): void {
    const payload = this.#gather;
    const length = this.#state === 'payload' ? this.#want : 0;
    const request = this.#request!;
    if (this.#type === nbd.NBD_REPLY_TYPE_OFFSET_HOLE) {
      const hole = payload.readUInt32BE(8);
      const at = this.#place(payload.readBigUInt64BE(0), hole);
      request.target!.fill(0, at, at + hole);
    } else if (this.#type === nbd.NBD_REPLY_TYPE_BLOCK_STATUS) {
      if (request.status === undefined || length < 12 || (length - 4) % 8 !== 0) {
        throw broken('malformed block status');
      }
      const descriptors = Array.from({ length: (length - 4) / 8 }, (_, i) => ({
        length: payload.readUInt32BE(4 + 8 * i),
        flags: payload.readUInt32BE(8 + 8 * i),
      }));
      request.status.set(payload.readUInt32BE(0), descriptors);
    } else if ((this.#type & nbd.NBD_REPLY_TYPE_ERROR_BIT) !== 0) {
      if (length < 6) throw broken('malformed error');
      const error = payload.readUInt32BE(0);
      const text = payload.readUInt16BE(4);
      if (error === 0 || text > length - 6) throw broken('malformed error');
      request.error ||= error;
      request.errorText ||= payload.toString('utf8', 6, 6 + text);
    } else {
      throw broken(`chunk of unknown type ${this.#type}`);
    }
    this.#chunkDone();
  }

  #chunkDone(): void {
    const request = this.#request!;
    this.#expect('header', nbd.SIMPLE_REPLY_SIZE);
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
