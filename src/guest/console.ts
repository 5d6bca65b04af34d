/**
 * What the guest and its application print: to the process's own output, line by line to listeners, the last lines kept.
 *
 * A program that prints without end would cost the control process, which is told of every line, and the host's disk what other partitions
 * need. So it has a budget (a bucket of `burstBytes` that fills at `bytesPerSecond`): what it prints beyond is dropped, and how much
 * that was is printed once a second. The last lines are kept all the same; messages of the guest OS itself always pass.
 */
export type ConsoleStream = 'stdout' | 'stderr' | 'kernel';
export type ConsoleListener = (stream: ConsoleStream, line: string) => void;

export interface ConsoleLimits {
  readonly bytesPerSecond: number;
  readonly burstBytes: number;
}

const LIMITS: ConsoleLimits = { bytesPerSecond: 256 * 1024, burstBytes: 1024 * 1024 };
const KEPT_LINES = 200;
const MAX_LINE = 4096;
const TOLD_MS = 1_000;

export class GuestConsole {
  readonly #limits: ConsoleLimits;
  readonly #listeners = new Set<ConsoleListener>();
  readonly #lines: string[] = [];
  readonly #partial = { stdout: '', stderr: '' };
  #original: { stdout: typeof process.stdout.write; stderr: typeof process.stderr.write } | undefined;
  #budget: number;
  #budgetAtMs = performance.now();
  #dropped = 0;

  constructor(limits: ConsoleLimits = LIMITS) {
    this.#limits = limits;
    this.#budget = limits.burstBytes;
  }

  /** Takes over `process.stdout` and `process.stderr`; what is printed still reaches them. */
  capture(): void {
    if (this.#original !== undefined) return;
    this.#original = {
      stdout: process.stdout.write.bind(process.stdout),
      stderr: process.stderr.write.bind(process.stderr),
    };
    for (const name of ['stdout', 'stderr'] as const) {
      const original = this.#original[name] as (...args: unknown[]) => boolean;
      process[name].write = ((chunk: string | Uint8Array, ...rest: unknown[]) => {
        const passes = this.#admits(typeof chunk === 'string' ? Buffer.byteLength(chunk) : chunk.length);
        this.#take(name, typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString('utf8'), passes);
        if (passes) return original(chunk, ...rest);
        const done = rest.findLast((argument) => typeof argument === 'function');
        if (done !== undefined) process.nextTick(done as () => void);
        return true;
      }) as typeof process.stdout.write;
    }
  }

  /** A message of the guest OS itself. */
  kernel(line: string): void {
    const text = `changeover: ${line}\n`;
    if (this.#original === undefined) process.stderr.write(text);
    else this.#original.stderr(text);
    this.#keep(line);
    this.#tell('kernel', line);
  }

  on(listener: ConsoleListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  lastLines(count: number): string[] {
    const open = [this.#partial.stdout, this.#partial.stderr].filter((text) => text !== '');
    return [...this.#lines, ...open].slice(-count);
  }

  #admits(bytes: number): boolean {
    const { bytesPerSecond, burstBytes } = this.#limits;
    const nowMs = performance.now();
    this.#budget = Math.min(burstBytes, this.#budget + ((nowMs - this.#budgetAtMs) / 1000) * bytesPerSecond);
    this.#budgetAtMs = nowMs;
    // One that is larger than the bucket passes when that is full, and is owed for.
    if (this.#budget >= Math.min(bytes, burstBytes)) {
      this.#budget -= bytes;
      return true;
    }
    if (this.#dropped === 0) setTimeout(() => this.#tellDropped(), TOLD_MS).unref();
    this.#dropped += bytes;
    return false;
  }

  #tellDropped(): void {
    const dropped = this.#dropped;
    this.#dropped = 0;
    this.kernel(
      `${dropped} bytes of output were dropped: more than ${Math.round(this.#limits.bytesPerSecond / 1024)} KiB/s`,
    );
  }

  #take(stream: 'stdout' | 'stderr', text: string, passes: boolean): void {
    const lines = (this.#partial[stream] + text).split('\n');
    this.#partial[stream] = lines.pop()!.slice(-MAX_LINE);
    for (const line of lines) {
      const kept = this.#keep(line);
      if (passes) this.#tell(stream, kept);
    }
  }

  #keep(line: string): string {
    const text = line.length > MAX_LINE ? `${line.slice(0, MAX_LINE)} …` : line;
    this.#lines.push(text);
    if (this.#lines.length > KEPT_LINES) this.#lines.shift();
    return text;
  }

  #tell(stream: ConsoleStream, text: string): void {
    for (const listener of this.#listeners) listener(stream, text);
  }
}
