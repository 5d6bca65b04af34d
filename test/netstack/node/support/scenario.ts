/**
 * One scenario, run on node:net and again on our stack: it makes servers and sockets, and everything they emit is written down per
 * emitter, in order. Addresses, ports and the sizes of chunks, which are each side's own, are taken out.
 */
import type { EventEmitter } from 'node:events';
import { once } from 'node:events';
import net from 'node:net';

export type Scenario = readonly [name: string, run: (env: Env) => Promise<unknown> | unknown];

/** Events of the streams' own machinery, whose number depends on how bytes were cut. */
const QUIET = new Set([
  'newListener',
  'removeListener',
  'readable',
  'prefinish',
  'pipe',
  'unpipe',
  'resume',
  'pause',
]);

export class Env {
  readonly host: string;
  readonly #logs = new Map<string, string[]>();
  readonly #servers: net.Server[] = [];
  readonly #sockets: net.Socket[] = [];
  readonly #ports = new Map<number, string>();

  constructor(host: string) {
    this.host = host;
  }

  /** Writes down what the emitter emits from now on, under `name`. */
  watch<E extends EventEmitter>(name: string, emitter: E): E {
    const log = this.#log(name);
    const emit = emitter.emit.bind(emitter);
    emitter.emit = (event: string | symbol, ...args: unknown[]) => {
      if (typeof event === 'string' && !QUIET.has(event)) this.#event(log, event, args);
      return emit(event, ...args);
    };
    if (emitter instanceof net.Socket) this.#sockets.push(emitter);
    // An error that nobody listens for would end the test.
    emitter.on('error', () => {});
    return emitter;
  }

  note(name: string, ...values: unknown[]): void {
    this.#log(name).push(values.map((value) => this.#plain(value)).join(' '));
  }

  /** What a call throws, or what it returns. */
  attempt(name: string, call: () => unknown): void {
    try {
      const value = call();
      if (value instanceof net.Socket || value instanceof net.Server) this.watch(name, value);
      this.note(name, 'returned', typeof value === 'object' && value !== null ? 'an object' : value);
    } catch (error) {
      this.note(name, 'threw', error);
    }
  }

  /** A server on a port of its own; accepted sockets are watched as `accepted`. */
  async server(
    options: net.ServerOpts = {},
    onConnection: (socket: net.Socket) => void = () => {},
  ): Promise<{ server: net.Server; port: number }> {
    const server = net.createServer(options);
    this.#servers.push(server);
    let count = 0;
    server.on('connection', (socket) => {
      this.watch(`accepted${count++ === 0 ? '' : ` ${count}`}`, socket);
      onConnection(socket);
    });
    server.listen(0, this.host);
    await once(server, 'listening');
    const { port } = server.address() as net.AddressInfo;
    this.#ports.set(port, 'PORT');
    this.watch('server', server);
    return { server, port };
  }

  connect(port: number, options: Partial<net.TcpNetConnectOpts> = {}, name = 'client'): net.Socket {
    return this.watch(name, net.connect({ port, host: this.host, ...options }));
  }

  /** Both ends of a connection. */
  async joined(
    options: { server?: net.ServerOpts; client?: Partial<net.TcpNetConnectOpts> } = {},
  ): Promise<{ client: net.Socket; accepted: net.Socket; server: net.Server; port: number }> {
    const { server, port } = await this.server(options.server);
    const coming = once(server, 'connection') as Promise<[net.Socket]>;
    const client = this.connect(port, options.client);
    await once(client, 'connect');
    const [accepted] = await coming;
    return { client, accepted, server, port };
  }

  /** A port where nobody listens. */
  async closedPort(): Promise<number> {
    const server = net.createServer().listen(0, this.host);
    await once(server, 'listening');
    const { port } = server.address() as net.AddressInfo;
    await new Promise((done) => server.close(done));
    this.#ports.set(port, 'CLOSED');
    return port;
  }

  ignorePort(port: number): void {
    this.#ports.set(port, 'PORT');
  }

  /** What was written down, by name. */
  async end(): Promise<Record<string, string[]>> {
    const lines = () => [...this.#logs.values()].reduce((sum, log) => sum + log.length, 0);
    // Until nothing has happened for a while.
    for (let before = -1; before !== lines(); ) {
      before = lines();
      await pauseMs(10);
    }
    const logs = [...this.#logs].map(([name, log]): [string, string[]] => [name, withoutBulk(log)]);
    for (const socket of this.#sockets) socket.destroy();
    for (const server of this.#servers) server.close();
    return Object.fromEntries(logs);
  }

  #log(name: string): string[] {
    let log = this.#logs.get(name);
    if (log === undefined) {
      log = [];
      this.#logs.set(name, log);
    }
    return log;
  }

  #event(log: string[], event: string, args: unknown[]): void {
    if (event === 'data') {
      const chunk = args[0] as Buffer | string;
      const text = typeof chunk === 'string' ? chunk : chunk.toString('latin1');
      const last = log.at(-1);
      if (last?.startsWith('data ') === true) log[log.length - 1] = last + text;
      else log.push(`data ${text}`);
      return;
    }
    if (event === 'drain' && log.at(-1) === 'drain') return;
    log.push([event, ...args.map((arg) => this.#plain(arg))].join(' '));
  }

  #plain(value: unknown): string {
    if (value instanceof Error) {
      const { code, syscall, errno, address, port } = value as NodeJS.ErrnoException & {
        address?: string;
        port?: number;
      };
      const fields = { message: value.message, code, syscall, errno, address, port };
      return this.#hide(`${value.name} ${JSON.stringify(fields)}`);
    }
    if (value instanceof net.Socket) return 'SOCKET';
    if (typeof value === 'function') return 'FUNCTION';
    return this.#hide(typeof value === 'string' ? value : (JSON.stringify(value) ?? String(value)));
  }

  #hide(text: string): string {
    let plain = text.replaceAll(this.host, 'HOST');
    for (const [port, name] of this.#ports) plain = plain.replace(new RegExp(`\\b${port}\\b`, 'g'), name);
    return plain.replace(/\b\d{5}\b/g, 'EPHEMERAL').replace(/\b[1-9]\d{3}\b(?=[,}"]|$)/g, 'EPHEMERAL');
  }
}

/** Of much data neither the chunks nor when there was room again; scenarios note what arrived. */
function withoutBulk(log: readonly string[]): string[] {
  const isData = (line: string) => line.startsWith('data ');
  const bytes = log.filter(isData).reduce((sum, line) => sum + line.length - 'data '.length, 0);
  if (bytes < 1000) return [...log];
  return [...log.filter((line) => !isData(line) && line !== 'drain'), 'much data'];
}

export const closed = (emitter: EventEmitter): Promise<void> =>
  new Promise((done) => emitter.once('close', () => done()));
export const turn = () => new Promise((done) => setImmediate(done));
export const pauseMs = (ms: number) => new Promise((done) => setTimeout(done, ms));
