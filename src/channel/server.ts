import { chmodSync, unlinkSync } from 'node:fs';
import type { Server } from 'node:net';
import { connect, createServer } from 'node:net';
import type { Duplex } from 'node:stream';
import { CodedError, codeOf, messageOf } from '../common/index.ts';
import type { CommandMap, EventMap } from './protocol.ts';
import { ChannelError, encodeLine, LineDecoder } from './protocol.ts';

/** One handler per command of the vocabulary; a thrown error becomes the error answer. */
export type Handlers<C extends CommandMap> = {
  // `string` itself, which CommandMap's index signature adds to the names, is left out.
  [N in keyof C as string extends N ? never : N]: (
    args: C[N]['arguments'],
  ) => C[N]['result'] | Promise<C[N]['result']>;
};
type AnyHandlers = Readonly<Record<string, ((args: object) => unknown) | undefined>>;

/** The answering side of a control channel: any number of clients, commands of one client may overlap. */
export class ChannelServer<C extends CommandMap, E extends EventMap = EventMap> {
  readonly #handlers: AnyHandlers;
  readonly #streams = new Set<Duplex>();
  #server: Server | undefined;
  #path: string | undefined;

  constructor(handlers: Handlers<C>) {
    this.#handlers = handlers as unknown as AnyHandlers;
  }

  /** Listens on a unix socket (mode 0600). A socket that nobody serves any more is replaced; a served one is `in-use`. */
  async listen(path: string): Promise<void> {
    if (await isServed(path)) {
      throw new ChannelError('in-use', `another process already serves ${path}`, {
        remedy: 'stop it first, or choose another run directory',
        values: { path },
      });
    }
    try {
      unlinkSync(path);
    } catch (error) {
      if (codeOf(error) !== 'ENOENT') throw error;
    }
    const server = createServer((socket) => this.accept(socket));
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(path, () => {
        server.off('error', reject);
        resolve();
      });
    });
    chmodSync(path, 0o600);
    this.#server = server;
    this.#path = path;
  }

  /** Serves one already connected stream. */
  accept(stream: Duplex): void {
    this.#streams.add(stream);
    const decoder = new LineDecoder(
      (value) => void this.#request(stream, value),
      (reason) => {
        this.#send(stream, { error: { class: 'GenericError', desc: `this line is ${reason}` } });
      },
    );
    stream.on('data', (chunk: Buffer) => decoder.push(chunk));
    stream.on('error', () => stream.destroy());
    stream.on('close', () => this.#streams.delete(stream));
  }

  /** Sends an event to every connected client. */
  broadcast<N extends keyof E & string>(name: N, data: E[N]): void {
    const now = Date.now();
    const timestamp = { seconds: Math.floor(now / 1000), microseconds: (now % 1000) * 1000 };
    for (const stream of this.#streams) this.#send(stream, { event: name, data, timestamp });
  }

  async close(): Promise<void> {
    for (const stream of this.#streams) stream.destroy();
    const server = this.#server;
    if (server !== undefined) await new Promise<void>((resolve) => server.close(() => resolve()));
    if (this.#path !== undefined) {
      try {
        unlinkSync(this.#path);
      } catch {
        // Closing a unix server removes its path; nothing is left to do.
      }
    }
  }

  async #request(stream: Duplex, value: Record<string, unknown>): Promise<void> {
    const id = value['id'] === undefined ? {} : { id: value['id'] };
    const name = value['execute'];
    const handler =
      typeof name === 'string' && Object.hasOwn(this.#handlers, name) ? this.#handlers[name] : undefined;
    if (handler === undefined) {
      const desc = `The command ${String(name)} has not been found`;
      this.#send(stream, { error: { class: 'CommandNotFound', desc }, ...id });
      return;
    }
    try {
      const args =
        typeof value['arguments'] === 'object' && value['arguments'] !== null ? value['arguments'] : {};
      const result = await handler(args);
      this.#send(stream, { return: result === undefined ? {} : result, ...id });
    } catch (error) {
      const remedy =
        error instanceof CodedError && error.remedy !== undefined ? { remedy: error.remedy } : {};
      this.#send(stream, {
        error: { class: codeOf(error) ?? 'GenericError', desc: messageOf(error), ...remedy },
        ...id,
      });
    }
  }

  #send(stream: Duplex, value: object): void {
    if (!stream.destroyed && stream.writable) stream.write(encodeLine(value));
  }
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
