/** Captures on demand; those of runs are started and stopped by the runs themselves. */
import { mkdirSync } from 'node:fs';
import { dirname, isAbsolute, join } from 'node:path';
import { HISTORY } from '../../hypervisor/index.ts';
import { ApiError } from '../api/index.ts';
import type { Daemon } from './daemon.ts';

const MIB = 1024 * 1024;

export interface CaptureRequest {
  /** Absolute; default: a new file below the state directory. */
  readonly file?: string;
  /** Absolute: a unix socket that the caller listens at takes it instead of a file, until the caller closes. */
  readonly socket?: string;
  readonly ports?: readonly string[];
  readonly snapLength?: number;
}

export interface HistoryRequest {
  /** Absolute; default: a new file below the state directory. */
  readonly file?: string;
  readonly ports?: readonly string[];
  readonly lastMs?: number;
}

export interface CaptureResult {
  readonly file: string;
  readonly packets: number;
  readonly bytes: number;
  readonly dropped: number;
}

export class Captures {
  readonly #daemon: Daemon;
  readonly #running = new Set<string>();

  constructor(daemon: Daemon) {
    this.#daemon = daemon;
  }

  running(): string[] {
    return [...this.#running];
  }

  async start(request: CaptureRequest): Promise<{ file: string }> {
    const file = this.#fileOf(request.file);
    const more = {
      ...(request.ports === undefined ? {} : { ports: [...request.ports] }),
      ...(request.snapLength === undefined ? {} : { snapLength: request.snapLength }),
      comment: 'changeover capture',
    };
    if (request.socket !== undefined) {
      if (request.file !== undefined || !isAbsolute(request.socket)) {
        throw new ApiError('bad-request', 'a capture goes to a file, or to a socket with an absolute path');
      }
      await this.#daemon.mux.execute('capture-start', { socket: request.socket, ...more });
      return { file: request.socket };
    }
    if (this.#running.has(file)) {
      throw new ApiError('capture-running', `${file} is being written already`, {
        remedy: 'stop it with changeover capture stop, or name another file',
      });
    }
    await this.#daemon.mux.execute('capture-start', { file, ...more });
    this.#running.add(file);
    this.#daemon.events.publish('capture', { file, state: 'started' });
    return { file };
  }

  /** As the configuration asks; one that a mux process keeps already goes on. */
  async keepHistory(mebibytes: number): Promise<void> {
    const { mux } = this.#daemon;
    if (mebibytes === 0) {
      await mux.execute('capture-stop', { file: HISTORY }).catch(() => {});
      return;
    }
    await mux.execute('capture-start', {
      file: HISTORY,
      ringBytes: mebibytes * MIB,
      comment: 'changeover capture history',
    });
  }

  /** Throws MuxError `no-capture` where none is kept. */
  history({
    file,
    ports,
    lastMs,
  }: HistoryRequest): Promise<{ file: string; packets: number; bytes: number }> {
    return this.#daemon.mux.execute('capture-dump', {
      name: HISTORY,
      file: this.#fileOf(file),
      ...(ports === undefined ? {} : { ports: [...ports] }),
      ...(lastMs === undefined ? {} : { lastMs }),
    });
  }

  /** Default: a new one below the state directory. Its folder is made. */
  #fileOf(given: string | undefined): string {
    const stamp = new Date().toISOString().replace(/[-:]/g, '').slice(0, 15);
    const file = given ?? join(this.#daemon.configuration.stateDirectory, 'captures', `${stamp}.pcapng`);
    if (!isAbsolute(file)) {
      throw new ApiError('bad-request', `${file} is not an absolute path`, { remedy: 'begin it with "/"' });
    }
    mkdirSync(dirname(file), { recursive: true });
    return file;
  }

  /** Stops one, or all that were started here. Throws ApiError `not-running`. */
  async stop(file?: string): Promise<CaptureResult[]> {
    const files = file === undefined ? this.running() : [file];
    if (files.length === 0 || (file !== undefined && !this.#running.has(file))) {
      throw new ApiError(
        'not-running',
        file === undefined ? 'no capture runs' : `no capture writes ${file}`,
        {
          remedy: 'start one with changeover capture start',
        },
      );
    }
    const results: CaptureResult[] = [];
    for (const name of files) {
      results.push(await this.#daemon.mux.execute('capture-stop', { file: name }));
      this.#running.delete(name);
      this.#daemon.events.publish('capture', { file: name, state: 'stopped' });
    }
    return results;
  }
}
