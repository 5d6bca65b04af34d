/** What the guest and its application print: to the process's own output, line by line to listeners, the last lines kept. */
export type ConsoleStream = 'stdout' | 'stderr' | 'kernel';
export type ConsoleListener = (stream: ConsoleStream, line: string) => void;

const KEPT_LINES = 200;
const MAX_LINE = 4096;

export class GuestConsole {
  readonly #listeners = new Set<ConsoleListener>();
  readonly #lines: string[] = [];
  readonly #partial = { stdout: '', stderr: '' };
  #original: { stdout: typeof process.stdout.write; stderr: typeof process.stderr.write } | undefined;

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
        this.#take(name, typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString('utf8'));
        return original(chunk, ...rest);
      }) as typeof process.stdout.write;
    }
  }

  /** A message of the guest OS itself. */
  kernel(line: string): void {
    const text = `changeover: ${line}\n`;
    if (this.#original === undefined) process.stderr.write(text);
    else this.#original.stderr(text);
    this.#emit('kernel', line);
  }

  on(listener: ConsoleListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  lastLines(count: number): string[] {
    const open = [this.#partial.stdout, this.#partial.stderr].filter((text) => text !== '');
    return [...this.#lines, ...open].slice(-count);
  }

  #take(stream: 'stdout' | 'stderr', text: string): void {
    const lines = (this.#partial[stream] + text).split('\n');
    this.#partial[stream] = lines.pop()!.slice(-MAX_LINE);
    for (const line of lines) this.#emit(stream, line);
  }

  #emit(stream: ConsoleStream, line: string): void {
    const text = line.length > MAX_LINE ? `${line.slice(0, MAX_LINE)} …` : line;
    this.#lines.push(text);
    if (this.#lines.length > KEPT_LINES) this.#lines.shift();
    for (const listener of this.#listeners) listener(stream, text);
  }
}
