/** Captures on demand; those of runs are started and stopped by the runs themselves. */
import { mkdirSync } from 'node:fs';
import { dirname, isAbsolute, join } from 'node:path';
import { ApiError } from '../api/index.ts';
import type { Daemon } from './daemon.ts';

export interface CaptureRequest {
  /** Absolute; default: a new file below the state directory. */
  readonly file?: string;
  /** Absolute: a unix socket that the caller listens at takes it instead of a file, until the caller closes. */
  readonly socket?: string;
  readonly ports?: readonly string[];
  readonly snapLength?: number;
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
    const stamp = new Date().toISOString().replace(/[-:]/g, '').slice(0, 15);
    const file =
      request.file ?? join(this.#daemon.configuration.stateDirectory, 'captures', `${stamp}.pcapng`);
    if (!isAbsolute(file)) {
      throw new ApiError('bad-request', `${file} is not an absolute path`, { remedy: 'begin it with "/"' });
    }
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
    mkdirSync(dirname(file), { recursive: true });
    await this.#daemon.mux.execute('capture-start', { file, ...more });
    this.#running.add(file);
    this.#daemon.events.publish('capture', { file, state: 'started' });
    return { file };
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
