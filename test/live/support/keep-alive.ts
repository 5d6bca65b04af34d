/** Clients with one keep-alive connection each that ask until told to stop and never try again: whatever goes wrong is a failure. */
import http from 'node:http';
import { eventually } from '../../support/index.ts';

export interface Asked {
  readonly path: string;
  /** Sent by POST; without one the request is a GET. */
  readonly body?: string;
}

export interface Got {
  readonly host: string;
  readonly status: number;
  readonly body: string;
  readonly reused: boolean;
  readonly sent?: string;
}

const MOST_FAILURES = 20;
const TIMEOUT_MS = 20_000;

export class KeepAlive {
  readonly failures: string[] = [];
  readonly answers: Got[] = [];
  /** Connections that had to be made anew, by host. */
  readonly reconnected = new Map<string, number>();
  longestMs = 0;
  readonly #pauseMs: number;
  #stopped = false;
  readonly #tasks: Promise<void>[];

  /** `each` clients per host; `ask` makes the i-th request of a client. */
  constructor(hosts: readonly string[], each: number, ask: (i: number) => Asked, pauseMs = 2) {
    this.#pauseMs = pauseMs;
    this.#tasks = hosts.flatMap((host) => Array.from({ length: each }, () => this.#client(host, ask)));
  }

  async #client(host: string, ask: (i: number) => Asked): Promise<void> {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    for (let i = 0; !this.#stopped && this.failures.length < MOST_FAILURES; i++) {
      const asked = ask(i);
      const startMs = performance.now();
      try {
        const got = await request(host, agent, asked);
        this.longestMs = Math.max(this.longestMs, performance.now() - startMs);
        if (got.status >= 300) this.failures.push(`${host}${asked.path}: ${got.status} ${got.body}`);
        else this.answers.push(got);
        if (i > 0 && !got.reused) this.reconnected.set(host, (this.reconnected.get(host) ?? 0) + 1);
      } catch (error) {
        this.failures.push(`${host}${asked.path}: ${String(error)}`);
      }
      await new Promise((resolve) => setTimeout(resolve, this.#pauseMs));
    }
    agent.destroy();
  }

  /** Waits for so many further answers, or the first failure. */
  async answered(count: number): Promise<void> {
    const until = this.answers.length + count;
    await eventually(
      `${count} answers`,
      () => this.answers.length >= until || this.failures.length > 0,
      30_000,
    );
  }

  /** One request on a connection of its own. */
  once(host: string, path: string): Promise<Got> {
    return request(host, false, { path });
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#tasks);
  }
}

function request(host: string, agent: http.Agent | false, { path, body }: Asked): Promise<Got> {
  return new Promise((done, fail) => {
    const method = body === undefined ? 'GET' : 'POST';
    const asked = http.request({ host, port: 80, path, method, agent, timeout: TIMEOUT_MS }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (part: string) => {
        text += part;
      });
      response.on('end', () =>
        done({
          host,
          status: response.statusCode ?? 0,
          body: text,
          reused: asked.reusedSocket,
          ...(body === undefined ? {} : { sent: body }),
        }),
      );
      response.on('error', fail);
    });
    asked.on('timeout', () => asked.destroy(new Error(`no answer from ${host} to ${path}`)));
    asked.on('error', fail);
    asked.end(body);
  });
}
