/**
 * The API: HTTP/1.1 + JSON on a unix socket that only its owner may open (mode 0600). One request is one call of one
 * route; bodies are bounded and checked against the route's schema before it is called. `GET /events` is a stream.
 */
import { chmodSync, rmSync } from 'node:fs';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { createServer } from 'node:http';
import { connect } from 'node:net';
import type { ValidateFunction } from 'ajv';
import { Ajv } from 'ajv';
import type { Log } from '../../common/index.ts';
import { messageOf } from '../../common/index.ts';
import { ApiError, errorAnswer, statusOf } from './errors.ts';
import type { DaemonEvent, EventHub } from './event-hub.ts';
import { openApiDocument } from './openapi.ts';
import type { ApiSchema, Route } from './route.ts';
import { findRoute } from './route.ts';

/** A patch file travels base64 in a body. */
const MAX_BODY_BYTES = 96 * 1024 * 1024;
const KEEP_ALIVE_MS = 15_000;
/** A listener that does not read is cut off when so much is waiting for it. */
const MAX_STREAM_BACKLOG_BYTES = 4 * 1024 * 1024;
/** Of every request without one: a schema is compiled once and kept. */
const NO_BODY: ApiSchema = { type: 'object', additionalProperties: false };

export interface ApiServerOptions {
  readonly routes: readonly Route[];
  readonly events: EventHub;
  readonly version: string;
  readonly log: Log;
}

export class ApiServer {
  readonly #options: ApiServerOptions;
  readonly #server: Server;
  readonly #streams = new Set<ServerResponse>();
  readonly #validators = new Map<ApiSchema, ValidateFunction>();
  readonly #ajv = new Ajv({ allErrors: false, strictTypes: false });
  #path: string | undefined;

  constructor(options: ApiServerOptions) {
    this.#options = options;
    this.#server = createServer((request, response) => {
      this.#answer(request, response).catch((error: unknown) => {
        options.log.error('an API request failed outside of its route', { reason: messageOf(error) });
        response.destroy();
      });
    });
  }

  /** Throws ApiError `in-use` when somebody serves the socket; a left-over one is replaced. */
  async listen(path: string): Promise<void> {
    if (await isServed(path)) {
      throw new ApiError('in-use', `another daemon already serves ${path}`, {
        remedy: 'stop it with changeover down',
      });
    }
    rmSync(path, { force: true });
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(path, () => {
        this.#server.off('error', reject);
        resolve();
      });
    });
    chmodSync(path, 0o600);
    this.#path = path;
  }

  async close(): Promise<void> {
    for (const stream of this.#streams) stream.end();
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeIdleConnections();
    const limit = setTimeout(() => this.#server.closeAllConnections(), 500);
    await closed;
    clearTimeout(limit);
    if (this.#path !== undefined) rmSync(this.#path, { force: true });
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      const url = new URL(request.url ?? '/', 'http://localhost');
      const method = request.method ?? 'GET';
      if (method === 'GET' && url.pathname === '/events') {
        this.#stream(request, response, url.searchParams);
        return;
      }
      if (method === 'GET' && url.pathname === '/openapi.json') {
        send(response, 200, openApiDocument(this.#options.routes, this.#options.version));
        return;
      }
      const match = findRoute(this.#options.routes, method, url.pathname);
      if ('allowed' in match) {
        if (match.allowed.length === 0) {
          throw new ApiError('not-found', `there is no ${url.pathname}`, { remedy: 'see /openapi.json' });
        }
        response.setHeader('allow', match.allowed.join(', '));
        throw new ApiError('method-not-allowed', `${url.pathname} does not know ${method}`, {
          remedy: `it knows ${match.allowed.join(', ')}`,
        });
      }
      const { route, parameters } = match;
      const body = await this.#body(request, route);
      const result = await route.handle({ parameters, query: url.searchParams, body });
      if (route.contentType === undefined) send(response, route.status ?? 200, result ?? {});
      else sendText(response, route.status ?? 200, String(result), route.contentType);
    } catch (error) {
      const status = statusOf(error);
      if (status === 500) this.#options.log.error('an API request failed', { reason: messageOf(error) });
      send(response, status, errorAnswer(error));
    }
  }

  async #body(request: IncomingMessage, route: Route): Promise<Record<string, unknown>> {
    const parts: Buffer[] = [];
    let size = 0;
    for await (const part of request as AsyncIterable<Buffer>) {
      size += part.length;
      if (size > MAX_BODY_BYTES) {
        throw new ApiError('too-large', `the body of the request has more than ${MAX_BODY_BYTES} bytes`);
      }
      parts.push(part);
    }
    let value: unknown = {};
    if (size > 0) {
      try {
        value = JSON.parse(Buffer.concat(parts).toString('utf8'));
      } catch (error) {
        throw new ApiError('bad-request', `the body is not JSON: ${messageOf(error)}`);
      }
    }
    const schema = route.body ?? NO_BODY;
    const validate = this.#validator(schema);
    if (!validate(value)) {
      const first = validate.errors?.[0];
      const extra = first?.params as Record<string, unknown> | undefined;
      const what = String(extra?.['additionalProperty'] ?? '');
      const where = `body${(first?.instancePath ?? '').replaceAll('/', '.')}`;
      const known = Object.keys(schema.properties ?? {});
      throw new ApiError(
        'bad-request',
        `${where} ${first?.message ?? 'is not valid'}${what === '' ? '' : `: ${what}`}`,
        {
          remedy: known.length === 0 ? 'send no body' : `allowed are ${known.join(', ')}; see /openapi.json`,
        },
      );
    }
    return value as Record<string, unknown>;
  }

  #validator(schema: ApiSchema): ValidateFunction {
    let validate = this.#validators.get(schema);
    if (validate === undefined) {
      validate = this.#ajv.compile(schema);
      this.#validators.set(schema, validate);
    }
    return validate;
  }

  #stream(request: IncomingMessage, response: ServerResponse, query: URLSearchParams): void {
    const { events } = this.#options;
    const asked = Number(request.headers['last-event-id'] ?? query.get('since') ?? Number.NaN);
    response.writeHead(200, {
      'content-type': 'text/event-stream',
      'cache-control': 'no-store',
      connection: 'keep-alive',
    });
    response.write(': changeover\n\n');
    const write = (event: DaemonEvent) => {
      const data = JSON.stringify({ atMs: event.atMs, data: event.data }, bigintText);
      response.write(`id: ${event.id}\nevent: ${event.type}\ndata: ${data}\n\n`);
      if (response.writableLength > MAX_STREAM_BACKLOG_BYTES) response.destroy();
    };
    if (Number.isInteger(asked)) for (const event of events.since(asked)) write(event);
    const off = events.listen(write);
    const alive = setInterval(() => response.write(':\n\n'), KEEP_ALIVE_MS);
    this.#streams.add(response);
    response.on('error', () => response.destroy());
    response.on('close', () => {
      off();
      clearInterval(alive);
      this.#streams.delete(response);
    });
  }
}

function bigintText(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? value.toString() : value;
}

function send(response: ServerResponse, status: number, value: unknown): void {
  sendText(response, status, `${JSON.stringify(value, bigintText)}\n`, 'application/json');
}

function sendText(response: ServerResponse, status: number, text: string, type: string): void {
  if (response.destroyed || response.headersSent) return;
  response.writeHead(status, {
    'content-type': type,
    'content-length': Buffer.byteLength(text),
    'cache-control': 'no-store',
  });
  response.end(text);
}

function isServed(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path);
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', () => resolve(false));
  });
}
