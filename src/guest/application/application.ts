/**
 * The application: an unmodified Node program from the system disk, its data on the application disk. `prepare` unpacks it
 * while nobody waits; `load` begins to run it, `serve` returns when it listens. A program is run once per boot: modules cannot be
 * unloaded, so what failed to start is started again by a restart of the partition.
 */
import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { LoadState } from '../../channel/index.ts';
import { messageOf } from '../../common/index.ts';
import type { GuestConfiguration } from '../configuration.ts';
import type { GuestConsole } from '../console.ts';
import { GuestError } from '../errors.ts';
import type { Namespace } from '../namespace.ts';
import type { ProcessShim } from './process-shim.ts';
import { installProcessShim } from './process-shim.ts';
import type { Scratch } from './unpack.ts';
import { programRoot } from './unpack.ts';

const OUTPUT_LINES = 10;

export interface ApplicationOptions {
  readonly configuration: GuestConfiguration;
  readonly hostname: string;
  readonly tree: Namespace;
  readonly scratch: Scratch;
  readonly console: GuestConsole;
  /** Resolves with the ports as soon as the program listens on one. */
  readonly listening: () => Promise<number[]>;
  /** The program cannot go on. */
  readonly ended: (reason: string) => void;
}

export class Application {
  readonly #options: ApplicationOptions;
  #shim: ProcessShim | undefined;
  #started = false;
  /** Rejects when the program cannot go on. */
  #failed: Promise<never> = new Promise(() => {});
  #ended: string | undefined;

  constructor(options: ApplicationOptions) {
    this.#options = options;
  }

  get configured(): boolean {
    return this.#options.configuration.application !== undefined;
  }

  get started(): boolean {
    return this.#started;
  }

  /** Copies the program's folder into the scratch directory. Does nothing without an application. */
  async prepare(): Promise<void> {
    const { configuration, tree, scratch, console } = this.#options;
    const entry = configuration.application;
    if (entry === undefined) return;
    const startedMs = performance.now();
    const root = configuration.root ?? (await programRoot(tree, entry));
    const { files, bytes } = await scratch.unpack(tree, root);
    console.kernel(
      `unpacked ${root}: ${files} files, ${bytes} bytes in ${(performance.now() - startedMs).toFixed(0)} ms`,
    );
  }

  /**
   * Runs the program until it listens, has been evaluated or waits for its disk, at most `limitMs`; it goes on after that.
   * `blocked`: resolves when it asks for something on a disk that is not mounted yet.
   * Throws GuestError `no-application`, `started-already`, `application-failed`.
   */
  async load(limitMs: number, blocked: Promise<void>): Promise<LoadState> {
    const { configuration, hostname, scratch, listening } = this.#options;
    const entry = configuration.application;
    if (entry === undefined) {
      throw new GuestError('no-application', 'this partition has no application', {
        remedy: "name its entry module as 'application' in /etc/changeover/guest.json of the system disk",
      });
    }
    if (this.#started) {
      throw new GuestError('started-already', 'the application was started already', {
        remedy: 'restart the partition',
      });
    }
    this.#started = true;
    let failed: (error: GuestError) => void = () => {};
    this.#failed = new Promise<never>((_resolve, reject) => {
      failed = reject;
    });
    this.#failed.catch(() => {});
    this.#shim = installProcessShim(
      { entry, arguments: configuration.arguments, environment: configuration.environment, hostname },
      (reason) => {
        const failure = this.#failure('application-failed', reason);
        this.#ended = reason;
        failed(failure);
        this.#options.ended(failure.message);
      },
    );
    const folder = scratch.host(dirname(entry));
    mkdirSync(folder, { recursive: true });
    process.chdir(folder);
    const evaluated = import(pathToFileURL(scratch.host(entry)).href).then(
      () => 'evaluated' as const,
      (error) => {
        failed(
          this.#failure('application-failed', `the application could not be loaded: ${messageOf(error)}`),
        );
        return this.#failed;
      },
    );
    evaluated.catch(() => {});
    let timer: NodeJS.Timeout | undefined;
    const expired = new Promise<'loading'>((resolve) => {
      timer = setTimeout(() => resolve('loading'), limitMs);
    });
    try {
      return await Promise.race([
        listening().then(() => 'listening' as const),
        blocked.then(() => 'waits-for-disk' as const),
        evaluated,
        this.#failed,
        expired,
      ]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** When it listens; `leftMs` of `timeoutMs` are left for it. Throws GuestError `application-failed`, `timeout`. */
  async serve(timeoutMs: number, leftMs: number): Promise<number[]> {
    let timer: NodeJS.Timeout | undefined;
    const expired = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => {
        reject(this.#failure('timeout', `the application does not listen after ${timeoutMs} ms`));
      }, leftMs);
    });
    try {
      return await Promise.race([this.#options.listening(), this.#failed, expired]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Tells the program to end, as `kill` would; waits up to `limitMs` for its process.exit if it handles the signal. */
  async terminate(limitMs: number): Promise<void> {
    const shim = this.#shim;
    if (shim === undefined || this.#ended !== undefined || !shim.signal('SIGTERM')) return;
    let timer: NodeJS.Timeout | undefined;
    const expired = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, limitMs);
    });
    await Promise.race([shim.exited, expired]);
    clearTimeout(timer);
  }

  #failure(code: string, message: string): GuestError {
    const output = this.#options.console.lastLines(OUTPUT_LINES);
    const tail = output.length === 0 ? '; it printed nothing' : `; its last output: ${output.join(' | ')}`;
    return new GuestError(code, `${message}${tail}`, { values: { output } });
  }
}
