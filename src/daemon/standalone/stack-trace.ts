/** `changeover stack --trace FILE`: how each connection's round trip, windows and losses change, one JSON object per line. */
import { closeSync, openSync, write } from 'node:fs';
import type { ConnectionFigures, Stack, TcpConnection } from '../../netstack/index.ts';
import { connectionFigures } from '../../netstack/index.ts';

/** What waits for a slow disk at most; further lines are left out and counted. */
const MOST_WAITING_BYTES = 4 * 1024 * 1024;
const CHUNK_BYTES = 64 * 1024;
const FLUSH_MS = 250;

/** The figures whose change makes a line; the others come with it. */
const MARKS = [
  'state',
  'rttMs',
  'cwnd',
  'ssthresh',
  'retransmits',
  'timeouts',
  'outOfWindow',
  'pawsDropped',
] as const;

export interface TraceLine extends ConnectionFigures {
  /** Milliseconds since the trace began. */
  readonly atMs: number;
}

/** Throws what opening the file throws. The last line has `lines`, `lost` and, when writing failed, `error`. */
export class StackTrace {
  readonly #stack: Stack;
  readonly #fd: number;
  readonly #startMs: number;
  readonly #last = new WeakMap<TcpConnection, ConnectionFigures>();
  readonly #timer: NodeJS.Timeout;
  #waiting: string[] = [];
  #waitingBytes = 0;
  #writing: Promise<void> | undefined;
  #lines = 0;
  #lost = 0;
  #error: string | undefined;

  constructor(stack: Stack, file: string) {
    this.#stack = stack;
    this.#fd = openSync(file, 'w', 0o640);
    this.#startMs = stack.clock.nowMs();
    stack.tcp.observer = (connection) => this.#look(connection);
    this.#timer = setInterval(() => this.#flush(), FLUSH_MS);
    this.#timer.unref();
  }

  #look(connection: TcpConnection): void {
    const figures = connectionFigures(connection);
    const before = this.#last.get(connection);
    if (before !== undefined && MARKS.every((mark) => before[mark] === figures[mark])) return;
    this.#last.set(connection, figures);
    const atMs = Math.round((this.#stack.clock.nowMs() - this.#startMs) * 1000) / 1000;
    const line = `${JSON.stringify({ atMs, ...figures } satisfies TraceLine)}\n`;
    if (this.#waitingBytes + line.length > MOST_WAITING_BYTES || this.#error !== undefined) {
      this.#lost++;
      return;
    }
    this.#lines++;
    this.#waiting.push(line);
    this.#waitingBytes += line.length;
    if (this.#waitingBytes >= CHUNK_BYTES) this.#flush();
  }

  #flush(): void {
    if (this.#writing !== undefined || this.#waiting.length === 0) return;
    const chunk = Buffer.from(this.#waiting.join(''));
    this.#waiting = [];
    this.#writing = this.#write(chunk).then(() => {
      this.#waitingBytes = this.#waiting.reduce((sum, line) => sum + line.length, 0);
      this.#writing = undefined;
      if (this.#waitingBytes >= CHUNK_BYTES) this.#flush();
    });
  }

  async #write(chunk: Buffer): Promise<void> {
    for (let at = 0; at < chunk.length && this.#error === undefined; ) {
      at += await new Promise<number>((done) =>
        write(this.#fd, chunk, at, chunk.length - at, null, (error, written) => {
          if (error !== null) this.#error = error.message;
          done(written);
        }),
      );
    }
  }

  /** Writes what is left and how many lines there are. */
  async close(): Promise<void> {
    this.#stack.tcp.observer = undefined;
    clearInterval(this.#timer);
    await this.#writing;
    const error = this.#error === undefined ? {} : { error: this.#error };
    this.#waiting.push(`${JSON.stringify({ lines: this.#lines, lost: this.#lost, ...error })}\n`);
    await this.#write(Buffer.from(this.#waiting.join('')));
    closeSync(this.#fd);
  }
}
