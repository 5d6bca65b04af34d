/**
 * A large read on a connection with structured replies. Runs of zeroes travel as NBD_REPLY_TYPE_OFFSET_HOLE, data in portions of a chunk
 * each, for as long as the server has time in this turn of the event loop; then it goes on in the next one. Where the device cannot
 * answer at once the rest is read together and leaves together: nobody waits for the thread pool one portion at a time.
 */
import type { Device } from '../device.ts';
import type { BufferPool } from './buffer-pool.ts';
import type { ChunkFormat } from './chunk-format.ts';
import { NBD_REPLY_TYPE_OFFSET_DATA, NBD_REPLY_TYPE_OFFSET_HOLE } from './protocol.ts';
import type { ReplyWriter } from './reply-writer.ts';
import { zeroRuns } from './server-status.ts';
import type { ServerTurn, Waiting } from './server-turn.ts';

/** Data of one chunk: bytes. The kernel takes about a tenth of a millisecond to read and to send so much. */
const PORTION = 256 * 1024;
/** Of replies that the peer has not taken, beyond which no more is read: bytes. More would only take memory. */
const READ_AHEAD = 4 * 1024 * 1024;
/** Payload of a hole: its offset and length. */
const HOLE_SIZE = 12;
const OFFSET_SIZE = 8;

interface Portion {
  readonly zero: boolean;
  readonly offset: bigint;
  readonly length: number;
}

export interface ReadParts {
  readonly device: Device;
  readonly writer: ReplyWriter;
  readonly pool: BufferPool;
  readonly format: ChunkFormat;
  readonly turn: ServerTurn;
}

export class PortionedRead implements Waiting {
  readonly #parts: ReadParts;
  readonly #cookie: bigint;
  readonly #offset: bigint;
  #portions: readonly Portion[] = [];
  #next = 0;
  #ended: (failure?: { readonly thrown: unknown }) => void = () => {};

  constructor(parts: ReadParts, cookie: bigint, offset: bigint) {
    this.#parts = parts;
    this.#cookie = cookie;
    this.#offset = offset;
  }

  /** Resolves when the whole reply has been handed to the writer; rejects when an error has to end it. */
  async run(length: number): Promise<void> {
    const runs = await zeroRuns(this.#parts.device, this.#offset, length);
    const portions: Portion[] = [];
    let offset = this.#offset;
    for (const { zero, length: bytes } of runs) {
      for (let left = bytes; left > 0; ) {
        const one = zero ? left : Math.min(left, PORTION);
        portions.push({ zero, offset, length: one });
        offset += BigInt(one);
        left -= one;
      }
    }
    this.#portions = portions;
    await new Promise<void>((resolve, reject) => {
      this.#ended = (failure) => (failure === undefined ? resolve() : reject(failure.thrown));
      this.goOn();
    });
  }

  goOn(): void {
    const { turn, writer } = this.#parts;
    try {
      while (this.#next < this.#portions.length && !writer.closed) {
        if (writer.backlog >= READ_AHEAD) {
          writer.whenTaken(() => this.goOn());
          return;
        }
        if (turn.over) {
          // One that was begun is finished first: what it holds is only of use when it is whole.
          turn.wait(this, this.#next > 0);
          return;
        }
        const portion = this.#portions[this.#next]!;
        if (!this.#sendNow(portion)) {
          this.#sendRest().then(
            () => this.#ended(),
            (thrown) => this.#ended({ thrown }),
          );
          return;
        }
        this.#next++;
      }
      this.#ended();
    } catch (thrown) {
      this.#ended({ thrown });
    }
  }

  /** False when the device has to be waited for. */
  #sendNow(portion: Portion): boolean {
    const { device, writer, pool, turn } = this.#parts;
    const size = this.#sizeOf(portion);
    const buffer = pool.acquire(size);
    try {
      const data = this.#lay(buffer, 0, portion, this.#next === this.#portions.length - 1);
      if (data !== undefined && device.readAtSync?.(data, portion.offset) !== true) {
        pool.release(buffer);
        return false;
      }
    } catch (thrown) {
      pool.release(buffer);
      throw thrown;
    }
    // Out of the file and into the socket.
    if (!portion.zero) turn.charge(2 * portion.length);
    writer.append(buffer.subarray(0, size), buffer);
    return true;
  }

  async #sendRest(): Promise<void> {
    const { device, writer, pool } = this.#parts;
    const rest = this.#portions.slice(this.#next);
    const size = rest.reduce((sum, portion) => sum + this.#sizeOf(portion), 0);
    const buffer = pool.acquire(size);
    const reads: Promise<void>[] = [];
    let at = 0;
    for (const [index, portion] of rest.entries()) {
      const data = this.#lay(buffer, at, portion, index === rest.length - 1);
      if (data !== undefined) reads.push(readOf(device, data, portion.offset));
      at += this.#sizeOf(portion);
    }
    // All of them, before the buffer may be given away. One that reads may still fill is left to the garbage collector.
    for (const outcome of await Promise.allSettled(reads))
      if (outcome.status === 'rejected') throw outcome.reason;
    writer.append(buffer.subarray(0, size), buffer);
  }

  #sizeOf({ zero, length }: Portion): number {
    return this.#parts.format.headerSize + (zero ? HOLE_SIZE : OFFSET_SIZE + length);
  }

  /** Lays the chunk of `portion` into `target`; returns where its data goes, if it has any. */
  #lay(target: Buffer, at: number, { zero, offset, length }: Portion, done: boolean): Buffer | undefined {
    const type = zero ? NBD_REPLY_TYPE_OFFSET_HOLE : NBD_REPLY_TYPE_OFFSET_DATA;
    const payload = zero ? HOLE_SIZE : OFFSET_SIZE + length;
    const from = this.#parts.format.emit(target, at, done, type, this.#cookie, this.#offset, payload);
    target.writeBigUInt64BE(offset, from);
    if (!zero) return target.subarray(from + OFFSET_SIZE, from + OFFSET_SIZE + length);
    target.writeUInt32BE(length, from + OFFSET_SIZE);
    return undefined;
  }
}

/** A device that throws instead of rejecting has failed the request, not the server. */
async function readOf(device: Device, target: Buffer, offset: bigint): Promise<void> {
  await device.readAt(target, offset);
}
