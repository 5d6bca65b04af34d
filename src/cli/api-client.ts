/** The daemon's API as the commands use it: JSON over the unix socket, errors as thrown ones with code and remedy. */
import type { IncomingMessage } from 'node:http';
import { request } from 'node:http';
import { join } from 'node:path';
import { codeOf, messageOf } from '../common/index.ts';
import { CliError } from './cli-error.ts';

const DEFAULT_TIMEOUT_MS = 120_000;

export interface ApiEvent {
  readonly id: number;
  readonly type: string;
  readonly atMs: number;
  readonly data: unknown;
}

export interface EventStream {
  close(): void;
  /** Settles when the stream ends, from either side. */
  readonly ended: Promise<void>;
}

export class ApiClient {
  readonly #socket: string;
  readonly #runDirectory: string;

  constructor(runDirectory: string) {
    this.#runDirectory = runDirectory;
    this.#socket = join(runDirectory, 'api.sock');
  }

  get runDirectory(): string {
    return this.#runDirectory;
  }

  get<T>(path: string): Promise<T> {
    return this.#call<T>('GET', path, undefined);
  }

  post<T>(path: string, body?: object, timeoutMs = DEFAULT_TIMEOUT_MS): Promise<T> {
    return this.#call<T>('POST', path, body, timeoutMs);
  }

  async #call<T>(
    method: string,
    path: string,
    body: object | undefined,
    timeoutMs = DEFAULT_TIMEOUT_MS,
  ): Promise<T> {
    const text = body === undefined ? undefined : JSON.stringify(body);
    const response = await this.#open(method, path, text, timeoutMs);
    const parts: Buffer[] = [];
    for await (const part of response as AsyncIterable<Buffer>) parts.push(part);
    const answer = Buffer.concat(parts).toString('utf8');
    let value: unknown;
    try {
      value = JSON.parse(answer);
    } catch {
      throw new CliError('bad-answer', `the daemon answered ${path} with something that is not JSON`);
    }
    const status = response.statusCode ?? 0;
    if (status >= 200 && status < 300) return value as T;
    const { code, message, remedy, values } = (value as { error?: ErrorBody }).error ?? {};
    throw new CliError(code ?? 'failed', message ?? `the daemon answered ${path} with status ${status}`, {
      ...(remedy === undefined ? {} : { remedy }),
      ...(values === undefined ? {} : { values }),
    });
  }

  #open(
    method: string,
    path: string,
    text: string | undefined,
    timeoutMs: number | undefined,
  ): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      const headers =
        text === undefined
          ? {}
          : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) };
      const call = request({ socketPath: this.#socket, method, path, headers, agent: false }, resolve);
      if (timeoutMs !== undefined) {
        call.setTimeout(timeoutMs, () => {
          call.destroy(
            new CliError('timeout', `the daemon did not answer ${path} within ${timeoutMs / 1000} s`, {
              remedy: 'see changeover status and the logs of the daemon',
            }),
          );
        });
      }
      call.on('error', (error) => reject(this.#unreachable(error)));
      call.end(text);
    });
  }

  #unreachable(error: Error): Error {
    if (error instanceof CliError) return error;
    const code = codeOf(error);
    if (code === 'ENOENT' || code === 'ECONNREFUSED') {
      return new CliError('no-daemon', `no daemon runs on ${this.#runDirectory}`, {
        remedy: 'start it with changeover up, or name its folder with --run-directory',
        cause: error,
      });
    }
    if (code === 'EACCES') {
      return new CliError('no-daemon', `${this.#socket} may not be opened by this user`, {
        remedy: 'run the command as root',
        cause: error,
      });
    }
    return new CliError('no-daemon', `the daemon on ${this.#runDirectory} broke off: ${messageOf(error)}`, {
      remedy: 'see changeover status',
      cause: error,
    });
  }

  /** Events from number `since` + 1 on (0: all that are known); from now on when left out. */
  async events(listener: (event: ApiEvent) => void, since?: number): Promise<EventStream> {
    const path = since === undefined ? '/events' : `/events?since=${since}`;
    const response = await this.#open('GET', path, undefined, undefined);
    let rest = '';
    response.setEncoding('utf8');
    response.on('data', (text: string) => {
      rest += text;
      for (let end = rest.indexOf('\n\n'); end !== -1; end = rest.indexOf('\n\n')) {
        const event = parseEvent(rest.slice(0, end));
        rest = rest.slice(end + 2);
        if (event !== undefined) listener(event);
      }
    });
    const ended = new Promise<void>((resolve) => {
      response.on('close', resolve);
      response.on('error', () => resolve());
    });
    return { ended, close: () => response.destroy() };
  }
}

interface ErrorBody {
  readonly code?: string;
  readonly message?: string;
  readonly remedy?: string;
  readonly values?: Record<string, unknown>;
}

function parseEvent(block: string): ApiEvent | undefined {
  const fields = new Map<string, string>();
  for (const line of block.split('\n')) {
    const colon = line.indexOf(': ');
    if (colon > 0) fields.set(line.slice(0, colon), line.slice(colon + 2));
  }
  const type = fields.get('event');
  const data = fields.get('data');
  if (type === undefined || data === undefined) return undefined;
  const { atMs, data: inner } = JSON.parse(data) as { atMs: number; data: unknown };
  return { id: Number(fields.get('id') ?? 0), type, atMs, data: inner };
}
