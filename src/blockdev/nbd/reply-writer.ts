/**
 * Replies of one connection, corked: what is ready together leaves in one write.
 *
 * Small replies are laid one behind the other into a slab; a large one brings a pool buffer of its own. `flush` hands all
 * parts to the stream at once; slabs and buffers go back to the pool when the stream has taken them. Replies that become
 * ready outside a batch (`hold` … `release`) are flushed at the end of the event loop's turn, so that completions that
 * arrive together also leave together.
 */
import type { Duplex } from 'node:stream';
import type { BufferPool } from './buffer-pool.ts';
import {
  CHUNK_HEADER_SIZE,
  EXTENDED_CHUNK_HEADER_SIZE,
  NBD_EXTENDED_REPLY_MAGIC,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_ERROR,
  NBD_REPLY_TYPE_NONE,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
  SIMPLE_REPLY_SIZE,
} from './protocol.ts';

const SLAB_SIZE = 256 * 1024;
/** A reply of more bytes than this does not go into a slab. */
export const SLAB_REPLY_LIMIT = 64 * 1024;
/** Of an error's text, far below NBD_MAX_STRING: bytes. */
const MESSAGE_LIMIT = 512;
/** A batch of more bytes than this is not gathered further. */
const BATCH_LIMIT = 1024 * 1024;

export function emitSimpleReply(target: Buffer, at: number, error: number, cookie: bigint): void {
  target.writeUInt32BE(NBD_SIMPLE_REPLY_MAGIC, at);
  target.writeUInt32BE(error, at + 4);
  target.writeBigUInt64BE(cookie, at + 8);
}

export function emitChunkHeader(
  target: Buffer,
  at: number,
  flags: number,
  type: number,
  cookie: bigint,
  length: number,
): void {
  target.writeUInt32BE(NBD_STRUCTURED_REPLY_MAGIC, at);
  target.writeUInt16BE(flags, at + 4);
  target.writeUInt16BE(type, at + 6);
  target.writeBigUInt64BE(cookie, at + 8);
  target.writeUInt32BE(length, at + 16);
}

/** `offset` is that of the request, whatever the chunk is about. */
export function emitExtendedChunkHeader(
  target: Buffer,
  at: number,
  flags: number,
  type: number,
  cookie: bigint,
  offset: bigint,
  length: number,
): void {
  target.writeUInt32BE(NBD_EXTENDED_REPLY_MAGIC, at);
  target.writeUInt16BE(flags, at + 4);
  target.writeUInt16BE(type, at + 6);
  target.writeBigUInt64BE(cookie, at + 8);
  target.writeBigUInt64BE(offset, at + 16);
  // Payloads stay below 2^32 bytes.
  target.writeUInt32BE(0, at + 24);
  target.writeUInt32BE(length, at + 28);
}

/** At most `limit` bytes of `text` as a string of the protocol: no NUL, no half character at its end. */
function messageBytes(text: string, limit: number): Buffer {
  const bytes = Buffer.from(text.replaceAll('\0', ' '));
  let end = Math.min(bytes.length, limit);
  while (end > 0 && end < bytes.length && (bytes[end]! & 0xc0) === 0x80) end--;
  return bytes.subarray(0, end);
}

export class ReplyWriter {
  readonly #stream: Duplex;
  readonly #pool: BufferPool;
  #slab: Buffer;
  /** Next free byte of the slab, and the first that is not yet part of `#parts`. */
  #at = 0;
  #from = 0;
  #parts: Buffer[] = [];
  /** Pool buffers to release when the batch has been taken by the stream. */
  #owned: Buffer[] = [];
  #bytes = 0;
  #held = 0;
  #scheduled = false;
  #closed = false;
  #waiting: (() => void)[] = [];

  constructor(stream: Duplex, pool: BufferPool) {
    this.#stream = stream;
    this.#pool = pool;
    this.#slab = pool.acquire(SLAB_SIZE);
  }

  /** Bytes that wait to be taken by the peer. */
  get backlog(): number {
    return this.#bytes + this.#stream.writableLength;
  }

  /** Nothing is sent any more. */
  get closed(): boolean {
    return this.#closed;
  }

  /** Calls back once, when the peer has taken some of the backlog, or nothing is sent any more. */
  whenTaken(callback: () => void): void {
    this.#waiting.push(callback);
  }

  /** The slab in which `reserve` returned an offset; valid until the next reserve. */
  get slab(): Buffer {
    return this.#slab;
  }

  /** Makes room for `length` ≤ SLAB_REPLY_LIMIT bytes and returns where it begins; nothing is sent before `commit`. */
  reserve(length: number): number {
    if (SLAB_SIZE - this.#at < length) {
      this.#cut();
      this.#owned.push(this.#slab);
      this.#slab = this.#pool.acquire(SLAB_SIZE);
      this.#at = 0;
      this.#from = 0;
    }
    return this.#at;
  }

  /** The `length` bytes at the offset that the last `reserve` returned are a reply. */
  commit(length: number): void {
    this.#at += length;
    this.#bytes += length;
    this.#ready();
  }

  /** Queues a reply that is not in the slab; `owner` goes back to the pool when it has left. */
  append(reply: Buffer, owner: Buffer | undefined): void {
    this.#cut();
    this.#parts.push(reply);
    if (owner !== undefined) this.#owned.push(owner);
    this.#bytes += reply.length;
    this.#ready();
  }

  simple(cookie: bigint, error: number): void {
    const at = this.reserve(SIMPLE_REPLY_SIZE);
    emitSimpleReply(this.#slab, at, error, cookie);
    this.commit(SIMPLE_REPLY_SIZE);
  }

  /** Success without data, with an extended header. */
  extendedNone(cookie: bigint, offset: bigint): void {
    const at = this.reserve(EXTENDED_CHUNK_HEADER_SIZE);
    emitExtendedChunkHeader(this.#slab, at, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE, cookie, offset, 0);
    this.commit(EXTENDED_CHUNK_HEADER_SIZE);
  }

  /** A structured error with a message for people, which ends the reply; `offset` is set where headers are extended. */
  error(cookie: bigint, error: number, message: string, offset?: bigint): void {
    const text = messageBytes(message, MESSAGE_LIMIT);
    const payload = 6 + text.length;
    const header = offset === undefined ? CHUNK_HEADER_SIZE : EXTENDED_CHUNK_HEADER_SIZE;
    const at = this.reserve(header + payload);
    const slab = this.#slab;
    const flags = NBD_REPLY_FLAG_DONE;
    if (offset === undefined) emitChunkHeader(slab, at, flags, NBD_REPLY_TYPE_ERROR, cookie, payload);
    else emitExtendedChunkHeader(slab, at, flags, NBD_REPLY_TYPE_ERROR, cookie, offset, payload);
    slab.writeUInt32BE(error, at + header);
    slab.writeUInt16BE(text.length, at + header + 4);
    slab.set(text, at + header + 6);
    this.commit(header + payload);
  }

  /** Until `release`, replies are gathered. */
  hold(): void {
    this.#held++;
  }

  release(): void {
    if (--this.#held === 0) this.flush();
  }

  flush(): void {
    if (this.#bytes === 0) return;
    this.#cut();
    const parts = this.#parts;
    const owned = this.#owned;
    this.#parts = [];
    this.#owned = [];
    this.#bytes = 0;
    if (this.#from > SLAB_SIZE - SLAB_REPLY_LIMIT || (this.#from > 0 && this.#stream.writableLength > 0)) {
      // The slab is nearly used up, or its earlier parts still wait: go on in a new one rather than let it be pinned.
      owned.push(this.#slab);
      this.#slab = this.#pool.acquire(SLAB_SIZE);
      this.#at = 0;
      this.#from = 0;
    }
    const taken = () => {
      for (const buffer of owned) this.#pool.release(buffer);
      this.#tellWaiting();
    };
    if (parts.length === 1) {
      this.#stream.write(parts[0]!, taken);
      return;
    }
    this.#stream.cork();
    const last = parts.length - 1;
    for (let i = 0; i < last; i++) this.#stream.write(parts[i]!);
    this.#stream.write(parts[last]!, taken);
    this.#stream.uncork();
  }

  /** Nothing is written any more. */
  close(): void {
    this.#closed = true;
    this.#parts = [];
    this.#owned = [];
    this.#bytes = 0;
    this.#tellWaiting();
  }

  #tellWaiting(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const callback of waiting) callback();
  }

  /** What lies in the slab since the last cut becomes a part. */
  #cut(): void {
    if (this.#at === this.#from) return;
    this.#parts.push(this.#slab.subarray(this.#from, this.#at));
    this.#from = this.#at;
  }

  #ready(): void {
    if (this.#closed) {
      this.close();
      this.#from = this.#at;
      return;
    }
    if (this.#bytes >= BATCH_LIMIT) {
      this.flush();
      return;
    }
    if (this.#held > 0 || this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      if (!this.#closed) this.flush();
    });
  }
}
