import { connect } from 'node:net';
import type { Duplex } from 'node:stream';
import { codeOf, messageOf } from '../common/index.ts';
import type { CommandMap, ErrorBody, EventMap } from './protocol.ts';
import { ChannelError, encodeLine, LineDecoder } from './protocol.ts';

interface Pending {
  readonly name: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

export interface ExecuteOptions {
  /** Default 10 000. The call fails with `timeout` after it; the other side may still carry it out. */
  readonly timeoutMs?: number;
}

export interface ConnectOptions {
  /** How long to try while the socket is absent or refuses, default 0: one try. */
  readonly waitMs?: number;
}

/** The asking side of a control channel. Every call ends: with the answer, an error answer, a timeout, or `closed`. */
export class ChannelClient<C extends CommandMap, E extends EventMap = EventMap> {
  readonly #stream: Duplex;
  readonly #peer: string;
  readonly #pending = new Map<number, Pending>();
  readonly #listeners = new Map<string, Set<(data: never) => void>>();
  readonly #closeListeners = new Set<(reason: string) => void>();
  #nextId = 1;
  #closed: string | undefined;

  /** `peer` names the other side in errors. */
  constructor(stream: Duplex, peer: string) {
    this.#stream = stream;
    this.#peer = peer;
    const decoder = new LineDecoder(
      (value) => this.#receive(value),
      (reason) => this.#end(`${peer} sent ${reason}`),
    );
    stream.on('data', (chunk: Buffer) => decoder.push(chunk));
    stream.on('error', (error) => this.#end(`the channel to ${peer} broke: ${messageOf(error)}`));
    stream.on('close', () => this.#end(`${peer} closed the channel`));
  }

  /** Connects to a unix socket. Throws `unreachable`. */
  static async connect<C extends CommandMap, E extends EventMap = EventMap>(
    path: string,
    peer: string,
    options: ConnectOptions = {},
  ): Promise<ChannelClient<C, E>> {
    const untilMs = performance.now() + (options.waitMs ?? 0);
    for (;;) {
      try {
        const socket = await new Promise<Duplex>((resolve, reject) => {
          const s = connect(path);
          s.once('connect', () => {
            s.off('error', reject);
            resolve(s);
          });
          s.once('error', reject);
        });
        return new ChannelClient<C, E>(socket, peer);
      } catch (error) {
        if (performance.now() >= untilMs) {
          throw new ChannelError('unreachable', `cannot reach ${peer} at ${path}: ${messageOf(error)}`, {
            cause: error,
            values: { path },
          });
        }
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    }
  }

  get closed(): boolean {
    return this.#closed !== undefined;
  }

  /** Throws ChannelError: `timeout`, `closed`, or the class that the other side answered with. */
  execute<N extends keyof C & string>(
    name: N,
    args: C[N]['arguments'],
    options: ExecuteOptions = {},
  ): Promise<C[N]['result']> {
    if (this.#closed !== undefined) return Promise.reject(new ChannelError('closed', this.#closed));
    const id = this.#nextId++;
    const timeoutMs = options.timeoutMs ?? 10_000;
    return new Promise<unknown>((resolve, reject) => {
      const expire = () => {
        if (!this.#pending.delete(id)) return;
        reject(
          new ChannelError('timeout', `${this.#peer} did not answer ${name} within ${timeoutMs} ms`, {
            values: { name, timeoutMs },
          }),
        );
      };
      // What has arrived is read first: where this process itself did not run for a while, timers are due before anything else.
      const timer = setTimeout(() => setImmediate(expire), timeoutMs);
      this.#pending.set(id, { name, resolve, reject, timer });
      this.#stream.write(encodeLine({ execute: name, arguments: args, id }));
    });
  }

  /** Returns the function that takes the listener off again. */
  on<N extends keyof E & string>(name: N, listener: (data: E[N]) => void): () => void {
    const set = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, set);
    set.add(listener as (data: never) => void);
    return () => set.delete(listener as (data: never) => void);
  }

  onClose(listener: (reason: string) => void): void {
    if (this.#closed !== undefined) listener(this.#closed);
    else this.#closeListeners.add(listener);
  }

  close(): void {
    this.#end(`the channel to ${this.#peer} was closed`);
  }

  #receive(value: Record<string, unknown>): void {
    if (typeof value['event'] === 'string') {
      for (const listener of this.#listeners.get(value['event']) ?? [])
        listener((value['data'] ?? {}) as never);
      return;
    }
    const id = typeof value['id'] === 'number' ? value['id'] : this.#pending.keys().next().value;
    const pending = id === undefined ? undefined : this.#pending.get(id);
    if (id === undefined || pending === undefined) return;
    this.#pending.delete(id);
    clearTimeout(pending.timer);
    const error = value['error'] as ErrorBody | undefined;
    if (error === undefined) {
      pending.resolve(value['return']);
      return;
    }
    pending.reject(
      new ChannelError(
        String(error.class ?? 'failed'),
        `${String(error.desc)}`,
        error.remedy === undefined
          ? { values: { command: pending.name } }
          : { values: { command: pending.name }, remedy: error.remedy },
      ),
    );
  }

  #end(reason: string): void {
    if (this.#closed !== undefined) return;
    this.#closed = reason;
    for (const pending of this.#pending.values()) {
      clearTimeout(pending.timer);
      pending.reject(new ChannelError('closed', `${reason} before it answered ${pending.name}`));
    }
    this.#pending.clear();
    this.#stream.destroy();
    for (const listener of this.#closeListeners) listener(reason);
  }
}

/** What callers of a channel need of it; a wrapper that reconnects offers the same. */
export type Channel<C extends CommandMap, E extends EventMap = EventMap> = Pick<
  ChannelClient<C, E>,
  'execute' | 'on' | 'onClose' | 'closed' | 'close'
>;

/**
 * Whether nothing comes back for `answerMs`. Asked twice: where this process did not run for a while, the time for the first
 * answer is up before the other side had any of it.
 */
export async function isSilent(
  ask: (timeoutMs: number) => Promise<unknown>,
  answerMs: number,
): Promise<boolean> {
  for (const timeoutMs of [(answerMs * 3) / 4, answerMs / 4]) {
    try {
      await ask(timeoutMs);
      return false;
    } catch (error) {
      if (codeOf(error) !== 'timeout') return false;
    }
  }
  return true;
}
