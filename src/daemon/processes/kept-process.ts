/**
 * A mux or block process that is kept: found running and adopted, or started; started again with back-off when it dies, told
 * again what it was told (DesiredState), and offered to everybody else as one channel that outlives its restarts.
 *
 *   down ──start──▶ connecting ──connected, configuration replayed──▶ up ──channel closes──▶ waiting (back-off) ──▶ connecting
 *                                                                     └──stop()──▶ stopped         └──too often──▶ gave-up
 *
 * One that does not answer for `answerMs`, stopped or stuck, counts as dead: it is killed, so that it can never go on later
 * beside the one that takes its place, and started again. One that ends too often is left alone, and people are told.
 *
 * Calls made while it is not up wait for it, within their own time limit. A call whose answer was lost with the process is
 * made again when it is one that may be (every command is idempotent), and fails with `closed` otherwise.
 */
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { closeSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import type { Channel, CommandMap, EventMap, ExecuteOptions } from '../../channel/index.ts';
import { ChannelClient, ChannelError, isSilent } from '../../channel/index.ts';
import type { Log } from '../../common/index.ts';
import { arePointsArmed, CodedError, codeOf, messageOf, reach } from '../../common/index.ts';
import type { DesiredState, RememberedCommand } from './desired-state.ts';

/** Codes: `start-failed`, `gave-up`. */
export class KeptProcessError extends CodedError {}

/** Not zero: a process that is being killed may still take a connection that nobody will answer. */
const BACK_OFF_MS = [25, 100, 300, 1000, 2000, 5000] as const;
/** A process that lived so long, or longer than the window of the limit, starts the back-off from its beginning. */
const HEALTHY_AFTER_MS = 30_000;
const LAST_LINES = 4;
const ANSWER_MS = 10_000;
/** A call is made at most so often. */
const MAX_ATTEMPTS = 3;
const START_LIMIT_MS = 10_000;
const STOP_LIMIT_MS = 5_000;

export interface KeptProcessOptions {
  /** For people: `mux process`. */
  readonly title: string;
  readonly socket: string;
  /** Program and arguments. */
  readonly command: readonly [string, ...string[]];
  readonly pidFile: string;
  readonly logFile: string;
  readonly desired: DesiredState;
  /** It ends when this process does. */
  readonly lifeline: boolean;
  readonly log: Log;
  /** After a (re)start, when the configuration has been replayed. */
  readonly onUp?: (how: 'adopted' | 'started' | 'restarted') => Promise<void> | void;
  readonly onDown?: (reason: string) => void;
  /** A command that it answers at once, by which it is seen to be alive; without one nobody looks. */
  readonly ping?: string;
  /** No answer for so long is the end of it, ms. Default 10 000. */
  readonly answerMs?: number;
  /** More restarts than `restarts` within `withinMs` are no use. Default: any number. */
  readonly limit?: { readonly restarts: number; readonly withinMs: number };
  readonly onGaveUp?: (reason: string) => void;
  /** Tells a fresh process what it was told; default: one command after the other. */
  readonly replay?: (tell: Tell, commands: readonly RememberedCommand[]) => Promise<void>;
  /** Of compiled modules: a process that is started again is up sooner. */
  readonly cacheDirectory?: string;
  /** Named points are `NAME.spawn` and so on, e.g. `mux`. */
  readonly points?: string;
}

/** One command to a process that is not up yet; never throws: what it refuses is logged, and the answer undefined. */
export type Tell = (command: RememberedCommand) => Promise<unknown>;

export interface KeptProcessStatus {
  readonly state: 'down' | 'connecting' | 'up' | 'waiting' | 'stopped' | 'gave-up';
  readonly pid?: number;
  readonly restarts: number;
}

/** Also one that was killed and has threads in the kernel still: it holds its files and locks until they end. */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    const isZombie = /^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
    return !isZombie || readdirSync(`/proc/${pid}/task`).length > 1;
  } catch {
    return false;
  }
}

export class KeptProcess<C extends CommandMap, E extends EventMap> implements Channel<C, E> {
  readonly #options: KeptProcessOptions;
  readonly #listeners = new Map<string, Set<(data: never) => void>>();
  readonly #closeListeners = new Set<(reason: string) => void>();
  readonly #waiters = new Set<() => void>();
  #client: ChannelClient<C, E> | undefined;
  #child: ChildProcess | undefined;
  #pid: number | undefined;
  #state: KeptProcessStatus['state'] = 'down';
  #wasUp = false;
  #restarts = 0;
  #failures = 0;
  #upSinceMs = 0;
  #retry: NodeJS.Timeout | undefined;
  #pulse: NodeJS.Timeout | undefined;
  /** When it was started again, within the window of the limit. */
  #recentMs: number[] = [];
  #why = '';

  constructor(options: KeptProcessOptions) {
    this.#options = options;
  }

  /** True when a process answers at `socket` already: it will be adopted. */
  static async answers(socket: string): Promise<boolean> {
    try {
      (await ChannelClient.connect(socket, 'a process')).close();
      return true;
    } catch {
      return false;
    }
  }

  /** Adopts or starts it. Throws KeptProcessError `start-failed`. */
  async start(): Promise<void> {
    await this.#bringUp();
  }

  get closed(): boolean {
    return this.#state === 'stopped';
  }

  status(): KeptProcessStatus {
    const pid = this.#pid === undefined ? {} : { pid: this.#pid };
    return { state: this.#state, ...pid, restarts: this.#restarts };
  }

  async execute<N extends keyof C & string>(
    name: N,
    args: C[N]['arguments'],
    options: ExecuteOptions = {},
  ): Promise<C[N]['result']> {
    const untilMs = performance.now() + (options.timeoutMs ?? 10_000);
    const left = () => Math.max(1, Math.ceil(untilMs - performance.now()));
    for (let attempt = 1; ; attempt++) {
      const client = await this.#connected(left());
      try {
        this.#point(`${name}.send`);
        const result = await client.execute(name, args, { timeoutMs: left() });
        this.#point(`${name}.answered`);
        this.#options.desired.executed(name, args);
        return result;
      } catch (error) {
        this.#options.desired.refused(name, args, codeOf(error));
        const lost = codeOf(error) === 'closed' && this.#state !== 'stopped';
        if (!lost || attempt >= MAX_ATTEMPTS || !REPEATABLE.has(name)) throw error;
      }
    }
  }

  on<N extends keyof E & string>(name: N, listener: (data: E[N]) => void): () => void {
    const set = this.#listeners.get(name) ?? new Set();
    if (!this.#listeners.has(name)) {
      this.#listeners.set(name, set);
      if (this.#client !== undefined) this.#subscribe(this.#client, name);
    }
    set.add(listener as (data: never) => void);
    return () => set.delete(listener as (data: never) => void);
  }

  /** Called when the process is stopped for good, not at its restarts. */
  onClose(listener: (reason: string) => void): void {
    if (this.#state === 'stopped') listener(`the ${this.#options.title} was stopped`);
    else this.#closeListeners.add(listener);
  }

  /** Lets go of the process without ending it. */
  close(): void {
    if (this.#state === 'stopped') return;
    this.#state = 'stopped';
    clearTimeout(this.#retry);
    clearTimeout(this.#pulse);
    this.#client?.close();
    for (const wake of this.#waiters) wake();
    for (const listener of this.#closeListeners) listener(`the ${this.#options.title} was stopped`);
  }

  /** Ends the process: asks it, then SIGTERM, then SIGKILL. Afterwards no file of it is left. */
  async stop(): Promise<void> {
    const client = this.#client;
    if (this.#state === 'up' && client !== undefined) {
      this.#state = 'stopped';
      try {
        await client.execute('shutdown', {}, { timeoutMs: STOP_LIMIT_MS });
      } catch (error) {
        if (codeOf(error) !== 'closed') {
          this.#options.log.warn(`the ${this.#options.title} did not shut down when asked`, {
            reason: messageOf(error),
          });
        }
      }
      this.#state = 'up';
    }
    this.close();
    await this.#end();
    rmSync(this.#options.pidFile, { force: true });
    rmSync(this.#options.socket, { force: true });
    this.#options.desired.clear();
  }

  async #end(): Promise<void> {
    const pid = this.#pid;
    if (pid === undefined) return;
    for (const signal of [undefined, 'SIGTERM', 'SIGKILL'] as const) {
      if (signal !== undefined) {
        if (!isAlive(pid)) return;
        this.#options.log.warn(`the ${this.#options.title} still runs, sending ${signal}`, { pid });
        process.kill(pid, signal);
      }
      const untilMs = performance.now() + (signal === undefined ? 2000 : STOP_LIMIT_MS);
      while (performance.now() < untilMs) {
        if (!isAlive(pid)) return;
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    }
  }

  async #connected(timeoutMs: number): Promise<ChannelClient<C, E>> {
    const untilMs = performance.now() + timeoutMs;
    for (;;) {
      if (this.#state === 'stopped') {
        throw new ChannelError('closed', `the ${this.#options.title} was stopped`);
      }
      if (this.#state === 'gave-up') throw new KeptProcessError('gave-up', this.#why, this.#remedy());
      if (this.#state === 'up' && this.#client !== undefined && !this.#client.closed) return this.#client;
      const leftMs = untilMs - performance.now();
      if (leftMs <= 0) {
        throw new ChannelError('timeout', `the ${this.#options.title} is not up`, {
          remedy: `see ${this.#options.logFile}`,
        });
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(wake, leftMs);
        const waiters = this.#waiters;
        function wake() {
          clearTimeout(timer);
          waiters.delete(wake);
          resolve();
        }
        waiters.add(wake);
      });
    }
  }

  async #bringUp(): Promise<void> {
    this.#state = 'connecting';
    const adopted = await this.#adopt();
    if (adopted) await this.#take(true);
    else {
      await this.#spawn();
      try {
        await this.#take(false);
      } catch (error) {
        // Half told, it must not be taken for one that was told everything.
        await this.#discard();
        throw error;
      }
    }
    for (const wake of this.#waiters) wake();
  }

  async #discard(): Promise<void> {
    const client = this.#client;
    this.#client = undefined;
    client?.close();
    this.#kill();
    await this.#gone();
  }

  /** Until the process that ran last has let go of everything. */
  async #gone(): Promise<void> {
    const pid = this.#pid;
    const untilMs = performance.now() + STOP_LIMIT_MS;
    while (pid !== undefined && isAlive(pid)) {
      if (performance.now() > untilMs) {
        this.#options.log.warn(`the ${this.#options.title} was killed and has not ended`, { pid });
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  /** From the first connection to the state `up`. */
  async #take(adopted: boolean): Promise<void> {
    const { title, socket, log } = this.#options;
    const client = this.#client;
    if (client === undefined || client.closed) {
      throw new KeptProcessError('start-failed', `the ${title} went away while it started`, {
        remedy: `see ${this.#options.logFile}`,
      });
    }
    if (!adopted) {
      const tell: Tell = async (command) => {
        try {
          return await client.execute(command.name as keyof C & string, command.args);
        } catch (error) {
          log.error(`the ${title} could not be told again: ${command.name}`, { reason: messageOf(error) });
          return undefined;
        }
      };
      this.#point('replay');
      await (this.#options.replay ?? replayEach)(tell, this.#options.desired.commands());
      this.#point('replayed');
      if (client.closed) {
        throw new KeptProcessError(
          'start-failed',
          `the ${title} ended while it was told again`,
          this.#remedy(),
        );
      }
    }
    for (const name of this.#listeners.keys()) this.#subscribe(client, name);
    this.#state = 'up';
    this.#wasUp = true;
    this.#upSinceMs = performance.now();
    log.info(`the ${title} is up`, { socket, pid: this.#pid, adopted, restarts: this.#restarts });
    client.onClose((reason) => this.#lost(client, reason));
    this.#watch(client);
    await this.#options.onUp?.(adopted ? 'adopted' : this.#restarts > 0 ? 'restarted' : 'started');
  }

  #remedy(): { remedy: string } {
    return { remedy: `see ${this.#options.logFile}` };
  }

  #point(where: string): void {
    if (arePointsArmed() && this.#options.points !== undefined) reach(`${this.#options.points}.${where}`);
  }

  /** Asks at intervals; silence for `answerMs` is the end of it. */
  #watch(client: ChannelClient<C, E>): void {
    const { ping, answerMs = ANSWER_MS, title, log } = this.#options;
    if (ping === undefined) return;
    const look = async () => {
      const asked = (timeoutMs: number) => client.execute(ping as keyof C & string, {}, { timeoutMs });
      if (await isSilent(asked, answerMs)) {
        if (this.#client !== client || this.#state === 'stopped') return;
        log.error(`the ${title} does not answer and is killed`, { pid: this.#pid, answerMs });
        this.#kill();
        return;
      }
      if (this.#client === client) this.#pulse = setTimeout(() => void look(), answerMs / 4).unref();
    };
    this.#pulse = setTimeout(() => void look(), answerMs / 4).unref();
  }

  #kill(): void {
    if (this.#pid === undefined) return;
    try {
      process.kill(this.#pid, 'SIGKILL');
    } catch (error) {
      if (codeOf(error) !== 'ESRCH') throw error;
    }
  }

  async #adopt(): Promise<boolean> {
    try {
      this.#client = await ChannelClient.connect<C, E>(this.#options.socket, `the ${this.#options.title}`);
    } catch {
      return false;
    }
    try {
      this.#pid = Number.parseInt(readFileSync(this.#options.pidFile, 'utf8'), 10) || undefined;
    } catch {
      this.#pid = undefined;
    }
    const { ping, answerMs = ANSWER_MS, title, log } = this.#options;
    if (ping === undefined) return true;
    try {
      await this.#client.execute(ping as keyof C & string, {}, { timeoutMs: answerMs });
      return true;
    } catch (error) {
      const pid = this.#pid;
      log.error(`the ${title} that was found does not answer and is killed`, {
        pid,
        reason: messageOf(error),
      });
      this.#client.close();
      this.#client = undefined;
      this.#kill();
      const untilMs = performance.now() + STOP_LIMIT_MS;
      while (pid !== undefined && isAlive(pid) && performance.now() < untilMs) {
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      return false;
    }
  }

  async #spawn(): Promise<void> {
    const { command, logFile, lifeline, title, socket, pidFile, cacheDirectory } = this.#options;
    if (this.#wasUp && this.#pid !== undefined) {
      // Its channel broke: what is left of it must not hold what the next one needs.
      this.#kill();
      await this.#gone();
    }
    this.#point('spawn');
    const output = openSync(logFile, 'a', 0o600);
    const child = spawn(command[0], command.slice(1), {
      stdio: [lifeline ? 'pipe' : 'ignore', output, output],
      detached: true,
      ...(cacheDirectory === undefined
        ? {}
        : { env: { ...process.env, NODE_COMPILE_CACHE: cacheDirectory } }),
    });
    closeSync(output);
    this.#point('spawned');
    if (this.#wasUp) this.#restarts++;
    this.#child = child;
    this.#pid = child.pid;
    child.unref();
    let died: string | undefined;
    child.once('error', (error) => {
      died = messageOf(error);
    });
    child.once('exit', (code, signal) => {
      died = signal === null ? `it exited with code ${code}` : `it was ended by ${signal}`;
      if (this.#child === child) this.#child = undefined;
    });
    const untilMs = performance.now() + START_LIMIT_MS;
    for (;;) {
      try {
        this.#client = await ChannelClient.connect<C, E>(socket, `the ${title}`);
        if (child.pid !== undefined) writeFileSync(pidFile, `${child.pid}\n`, { mode: 0o600 });
        return;
      } catch (error) {
        if (died !== undefined || performance.now() > untilMs) {
          if (died === undefined) child.kill('SIGKILL');
          const reason = died ?? `it did not listen on ${socket} within ${START_LIMIT_MS} ms`;
          const last = lastLines(logFile);
          const why = last === '' ? reason : `${reason}; its last output: ${last}`;
          throw new KeptProcessError('start-failed', `the ${title} could not be started: ${why}`, {
            remedy: `see ${logFile}`,
            values: { logFile },
            cause: error,
          });
        }
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    }
  }

  #subscribe(client: ChannelClient<C, E>, name: string): void {
    client.on(name as keyof E & string, (data) => {
      for (const listener of this.#listeners.get(name) ?? []) listener(data as never);
    });
  }

  #lost(client: ChannelClient<C, E>, reason: string): void {
    if (this.#client !== client || this.#state === 'stopped') return;
    clearTimeout(this.#pulse);
    this.#client = undefined;
    this.#options.log.error(`the ${this.#options.title} is gone`, { reason });
    this.#options.onDown?.(reason);
    const healthyMs = Math.min(HEALTHY_AFTER_MS, this.#options.limit?.withinMs ?? HEALTHY_AFTER_MS);
    if (performance.now() - this.#upSinceMs > healthyMs) this.#failures = 0;
    this.#again();
  }

  #gaveUp(): boolean {
    const { limit, title, log, onGaveUp } = this.#options;
    if (limit === undefined) return false;
    const nowMs = performance.now();
    this.#recentMs = this.#recentMs.filter((ms) => nowMs - ms < limit.withinMs);
    if (this.#recentMs.length < limit.restarts) {
      this.#recentMs.push(nowMs);
      return false;
    }
    this.#state = 'gave-up';
    this.#why = `the ${title} ended ${limit.restarts + 1} times within ${limit.withinMs / 1000} s and is not started again`;
    log.error(this.#why);
    for (const wake of this.#waiters) wake();
    onGaveUp?.(this.#why);
    return true;
  }

  #again(): void {
    if (this.#gaveUp()) return;
    this.#state = 'waiting';
    const delayMs = BACK_OFF_MS[Math.min(this.#failures, BACK_OFF_MS.length - 1)] ?? 0;
    this.#failures++;
    this.#retry = setTimeout(() => {
      if (this.#state === 'stopped') return;
      this.#bringUp().catch((error: unknown) => {
        this.#options.log.error(messageOf(error));
        if (this.#state !== 'stopped') this.#again();
      });
    }, delayMs);
  }
}

async function replayEach(tell: Tell, commands: readonly RememberedCommand[]): Promise<void> {
  for (const command of commands) await tell(command);
}

/** The end of a log, in one line; empty when there is none. */
function lastLines(logFile: string): string {
  try {
    return readFileSync(logFile, 'utf8').trim().split('\n').slice(-LAST_LINES).join(' | ');
  } catch {
    return '';
  }
}

/** Commands that are made again when their answer was lost: done or not, the outcome is the same. */
const REPEATABLE: ReadonlySet<string> = new Set([
  'uplink-add',
  'port-add',
  'port-remove',
  'port-state',
  'port-addresses',
  'port-limits',
  'ports',
  'path-set',
  'private-path',
  'requests-record',
  'requests-recorded',
  'hold-start',
  'hold-release',
  'switch',
  'notice-cancel',
  'flows-known',
  'flows-moved',
  'announce',
  'flows',
  'counters',
  'capture-start',
  'disk-add',
  'disk-remove',
  'disk-status',
  'serve',
  'serve-stop',
  'copy-status',
  'copy-round',
  'copy-cut',
  'copy-cancel',
  'reverse-start',
  'fence',
  'hash',
]);
