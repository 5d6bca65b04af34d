import { CHUNK_HEADER_SIZE, EXTENDED_CHUNK_HEADER_SIZE, NBD_REPLY_FLAG_DONE } from './protocol.ts';
import { emitChunkHeader, emitExtendedChunkHeader } from './reply-writer.ts';

/** Headers of reply chunks as a connection negotiated them: structured, or extended. */
export class ChunkFormat {
  readonly #extended: boolean;
  /** Bytes before the payload of a chunk. */
  readonly headerSize: number;

  constructor(extended: boolean) {
    this.#extended = extended;
    this.headerSize = extended ? EXTENDED_CHUNK_HEADER_SIZE : CHUNK_HEADER_SIZE;
  }

  /** The header of one chunk of the reply to a request at `offset`; returns where its payload goes. */
  emit(
    target: Buffer,
    at: number,
    done: boolean,
    type: number,
    cookie: bigint,
    offset: bigint,
    length: number,
  ): number {
    const flags = done ? NBD_REPLY_FLAG_DONE : 0;
    if (this.#extended) emitExtendedChunkHeader(target, at, flags, type, cookie, offset, length);
    else emitChunkHeader(target, at, flags, type, cookie, length);
    return at + this.headerSize;
  }
}
