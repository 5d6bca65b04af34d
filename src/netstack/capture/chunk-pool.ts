import { Chunk } from './pcapng-blocks.ts';

const KEPT = 4;

/**
 * Chunks of captures that have ended, for the next ones. Megabytes that are new make V8 collect all garbage soon, and a capture begins
 * where that is least welcome: right before a cut.
 */
export class ChunkPool {
  readonly #free: Chunk[] = [];

  take(size: number): Chunk {
    const at = this.#free.findIndex(({ bytes }) => bytes.length === size);
    return at < 0 ? new Chunk(size) : this.#free.splice(at, 1)[0]!;
  }

  /** Nobody else has it. */
  give(chunk: Chunk): void {
    chunk.used = 0;
    if (this.#free.length < KEPT) this.#free.push(chunk);
  }
}
