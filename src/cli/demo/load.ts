/**
 * The demo's clients, a process of its own on the host's kernel sockets: keep-alive readers, durable writers with numbered
 * records, streams of two seconds. It is told what to do over its IPC channel and answers with counts; a client never
 * retries, so whatever goes wrong is a failed request.
 */
import http from 'node:http';

export interface LoadOptions {
  readonly host: string;
  readonly port: number;
  /** Requests per second over all readers. */
  readonly rate: number;
  readonly readers: number;
  readonly writers: number;
  /** Entries per second over all writers. */
  readonly writeRate: number;
  readonly streams: number;
}

export interface LoadReport {
  readonly requests: {
    answered: number;
    failed: number;
    longestGapMs: number;
    medianGapMs: number;
    /** The longest one of each tenth of a second, longest first: when it ended, ms since 1970, and how long it was. */
    gaps: { endedAtMs: number; ms: number }[];
  };
  readonly streams: { completed: number; cut: number; open: number };
  /** Entry number → text, every one that was acknowledged since the start. */
  readonly acknowledged: [number, string][];
  readonly writeLongestMs: number;
  readonly perSecond: number;
  /** Version → requests that it answered. */
  readonly versions: Record<string, number>;
  readonly failures: string[];
}

export type LoadCommand =
  | { readonly command: 'start'; readonly options: LoadOptions }
  | { readonly command: 'pause-writers' | 'resume-writers' | 'report' | 'stop'; readonly id: number };

const MAX_FAILURES_KEPT = 20;
const PEAKS_REPORTED = 12;
const REQUEST_TIMEOUT_MS = 10_000;

interface Answer {
  readonly status: number;
  readonly body: string;
}

class Load {
  readonly #options: LoadOptions;
  readonly #gaps: number[] = [];
  /** Tenth of a second since the start → longest gap that ended in it, ms. */
  readonly #peaks = new Map<number, number>();
  readonly #acknowledged = new Map<number, string>();
  readonly #versions: Record<string, number> = {};
  readonly #failures: string[] = [];
  readonly #tasks: Promise<void>[] = [];
  #answered = 0;
  #failed = 0;
  #streamsCompleted = 0;
  #streamsCut = 0;
  #streamsOpen = 0;
  #writeLongestMs = 0;
  #writersPaused = false;
  #writesOpen = 0;
  #lastEntry = 0;
  #stopped = false;
  readonly #startMs = performance.now();

  constructor(options: LoadOptions) {
    this.#options = options;
    for (let i = 0; i < options.readers; i++) this.#tasks.push(this.#reader(i));
    for (let i = 0; i < options.writers; i++) this.#tasks.push(this.#writer(i));
    for (let i = 0; i < options.streams; i++) this.#tasks.push(this.#stream(i));
  }

  async pauseWriters(): Promise<void> {
    this.#writersPaused = true;
    while (this.#writesOpen > 0) await delay(1);
  }

  resumeWriters(): void {
    this.#writersPaused = false;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#tasks);
  }

  report(): LoadReport {
    const gaps = [...this.#gaps].sort((a, b) => a - b);
    return {
      requests: {
        answered: this.#answered,
        failed: this.#failed,
        longestGapMs: round(gaps.at(-1) ?? 0),
        medianGapMs: round(gaps[gaps.length >> 1] ?? 0),
        gaps: [...this.#peaks]
          .sort((a, b) => b[1] - a[1])
          .slice(0, PEAKS_REPORTED)
          .map(([tenth, ms]) => ({
            endedAtMs: Math.round(performance.timeOrigin + this.#startMs + tenth * 100),
            ms: round(ms),
          })),
      },
      streams: { completed: this.#streamsCompleted, cut: this.#streamsCut, open: this.#streamsOpen },
      acknowledged: [...this.#acknowledged],
      writeLongestMs: round(this.#writeLongestMs),
      perSecond: Math.round((this.#answered * 1000) / (performance.now() - this.#startMs)),
      versions: { ...this.#versions },
      failures: [...this.#failures],
    };
  }

  /** One request at a time at a fixed pace; a late one is sent at once. The gap is the time between two answers. */
  async #reader(index: number): Promise<void> {
    const { rate, readers } = this.#options;
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    const periodMs = (1000 * readers) / rate;
    let dueMs = performance.now() + (periodMs * index) / readers;
    let lastMs: number | undefined;
    for (let turn = 0; !this.#stopped; turn++) {
      const waitMs = dueMs - performance.now();
      if (waitMs > 0) await delay(waitMs);
      dueMs = Math.max(dueMs + periodMs, performance.now() - periodMs);
      const path =
        turn % 4 === 0 || this.#lastEntry === 0 ? '/version' : `/entries/${1 + (turn % this.#lastEntry)}`;
      const answer = await this.#request(agent, 'GET', path);
      if (answer === undefined) continue;
      const nowMs = performance.now();
      if (lastMs !== undefined) {
        const gapMs = nowMs - lastMs;
        this.#gaps.push(gapMs);
        const tenth = Math.floor((nowMs - this.#startMs) / 100);
        if (gapMs > (this.#peaks.get(tenth) ?? 0)) this.#peaks.set(tenth, gapMs);
      }
      lastMs = nowMs;
      if (path === '/version') this.#sawVersion(answer.body);
    }
    agent.destroy();
  }

  async #writer(index: number): Promise<void> {
    const { writeRate, writers } = this.#options;
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    const periodMs = (1000 * writers) / writeRate;
    let dueMs = performance.now() + (periodMs * index) / writers;
    for (let sequence = 1; !this.#stopped; ) {
      const waitMs = this.#writersPaused ? 5 : dueMs - performance.now();
      if (waitMs > 0) await delay(waitMs);
      if (this.#writersPaused || this.#stopped) continue;
      dueMs = Math.max(dueMs + periodMs, performance.now() - periodMs);
      const text = `writer ${index} record ${sequence}`;
      const startMs = performance.now();
      this.#writesOpen += 1;
      const answer = await this.#request(agent, 'POST', '/entries', text);
      this.#writesOpen -= 1;
      sequence += 1;
      if (answer === undefined) continue;
      this.#writeLongestMs = Math.max(this.#writeLongestMs, performance.now() - startMs);
      const { n } = JSON.parse(answer.body) as { n: number };
      if (this.#acknowledged.has(n)) this.#fail(`entry ${n} was given twice`);
      this.#acknowledged.set(n, text);
      this.#lastEntry = Math.max(this.#lastEntry, n);
    }
    agent.destroy();
  }

  async #stream(index: number): Promise<void> {
    await delay(index * 300);
    while (!this.#stopped) {
      this.#streamsOpen += 1;
      const answer = await this.#request(undefined, 'GET', '/slow');
      this.#streamsOpen -= 1;
      if (answer?.body.endsWith('line 20 of 20\n')) this.#streamsCompleted += 1;
      else this.#streamsCut += 1;
    }
  }

  #request(
    agent: http.Agent | undefined,
    method: string,
    path: string,
    body?: string,
  ): Promise<Answer | undefined> {
    const { host, port } = this.#options;
    return new Promise((resolve) => {
      const fail = (reason: string) => {
        this.#fail(`${method} ${path}: ${reason}`);
        resolve(undefined);
      };
      const request = http.request(
        { host, port, method, path, agent: agent ?? false, timeout: REQUEST_TIMEOUT_MS },
        (response) => {
          let text = '';
          response.setEncoding('utf8');
          response.on('data', (part: string) => {
            text += part;
          });
          response.on('error', (error) => fail(error.message));
          response.on('end', () => {
            const status = response.statusCode ?? 0;
            if (!response.complete || status < 200 || status > 299) {
              fail(`status ${status}${response.complete ? '' : ', cut short'} ${text.slice(0, 80)}`);
              return;
            }
            this.#answered += 1;
            resolve({ status, body: text });
          });
        },
      );
      request.on('timeout', () => request.destroy(new Error(`no answer within ${REQUEST_TIMEOUT_MS} ms`)));
      request.on('error', (error) => fail(error.message));
      request.end(body);
    });
  }

  #sawVersion(body: string): void {
    const { version } = JSON.parse(body) as { version: string };
    this.#versions[version] = (this.#versions[version] ?? 0) + 1;
  }

  #fail(reason: string): void {
    this.#failed += 1;
    if (this.#failures.length < MAX_FAILURES_KEPT) this.#failures.push(reason);
  }
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function round(ms: number): number {
  return Math.round(ms * 10) / 10;
}

let load: Load | undefined;

process.on('message', async (message: LoadCommand) => {
  if (message.command === 'start') {
    load = new Load(message.options);
    return;
  }
  if (load === undefined) return;
  if (message.command === 'pause-writers') await load.pauseWriters();
  if (message.command === 'resume-writers') load.resumeWriters();
  if (message.command === 'stop') await load.stop();
  const last = message.command === 'stop';
  process.send?.({ id: message.id, report: load.report() }, () => {
    if (last) process.exit(0);
  });
});
process.on('disconnect', () => process.exit(0));
