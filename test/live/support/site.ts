/** A whole product under test: the demo's two partitions behind a TAP of this network namespace, and its control process. */
import type { ChildProcess } from 'node:child_process';
import { execFileSync, spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { ApiClient } from '../../../src/cli/api-client.ts';
import type { Scene } from '../../../src/cli/demo/scene.ts';
import { buildScene, publishPatch, SERVICE_ADDRESS } from '../../../src/cli/demo/scene.ts';
import { programFile } from '../../../src/common/index.ts';
import type { RunView } from '../../../src/daemon/index.ts';
import type { RunPhase } from '../../../src/patch/index.ts';
import { eventually } from '../../support/index.ts';

export const ROOT = resolve(import.meta.dirname, '../../..');

export interface SiteOptions {
  /** Changes the configuration text before the daemon reads it. */
  readonly configure?: (text: string, scene: Scene) => string;
  /** Mux, block and guests go on when the control process ends; default: they end with it. */
  readonly survives?: boolean;
  /** Named points can be armed: see `arm`. */
  readonly points?: boolean;
  /** Does something with the scene before the daemon starts. */
  readonly arrange?: (scene: Scene) => Promise<void> | void;
}

export class Site {
  readonly scene: Scene;
  readonly api: ApiClient;
  daemon: ChildProcess;
  readonly #survives: boolean;
  readonly #points: string | undefined;
  readonly #output: string[] = [];

  private constructor(scene: Scene, options: SiteOptions) {
    this.scene = scene;
    this.#survives = options.survives === true;
    if (options.points === true) {
      this.#points = join(scene.directory, 'points');
      mkdirSync(this.#points, { recursive: true });
    }
    this.api = new ApiClient(scene.runDirectory);
    this.daemon = this.#spawn();
  }

  #spawn(root = ROOT): ChildProcess {
    const daemon = spawn(
      process.execPath,
      [
        '--disable-warning=ExperimentalWarning',
        programFile(join(root, 'src/daemon/processes/control.ts'), root),
        '--config',
        this.scene.configuration,
        ...(this.#survives ? [] : ['--lifeline']),
        ...(this.#points === undefined ? [] : ['--test-points']),
      ],
      {
        stdio: ['pipe', 'pipe', 'pipe'],
        env: {
          ...process.env,
          NODE_OPTIONS: '',
          ...(this.#points === undefined ? {} : { CHANGEOVER_POINT_DIRECTORY: this.#points }),
        },
      },
    );
    const keep = (chunk: Buffer) => this.#output.push(chunk.toString());
    daemon.stdout?.on('data', keep);
    daemon.stderr?.on('data', keep);
    return daemon;
  }

  /** kill -9 of the control process, and a new one. */
  async killControl(): Promise<void> {
    const exited = new Promise((done) => this.daemon.once('exit', done));
    this.daemon.kill('SIGKILL');
    await exited;
    await this.restart();
  }

  /** A new control process, where the old one has ended; of the product in folder `root`. */
  async restart(root = ROOT): Promise<void> {
    this.daemon = this.#spawn(root);
    await this.up();
  }

  /** The named point acts once. */
  arm(point: string, action: string): void {
    for (const name of readdirSync(this.#points!)) rmSync(join(this.#points!, name));
    writeFileSync(join(this.#points!, `.${point}`), action);
    renameSync(join(this.#points!, `.${point}`), join(this.#points!, point));
  }

  fired(point: string): boolean {
    return existsSync(join(this.#points!, `${point}.fired`));
  }

  disarm(): void {
    for (const name of readdirSync(this.#points!)) rmSync(join(this.#points!, name));
  }

  static async open(options: SiteOptions = {}): Promise<Site> {
    const scene = await buildScene(mkdtempSync(join(tmpdir(), 'changeover-site-')));
    if (options.configure !== undefined) {
      writeFileSync(scene.configuration, options.configure(readFileSync(scene.configuration, 'utf8'), scene));
    }
    await options.arrange?.(scene);
    return new Site(scene, options);
  }

  get output(): string {
    return this.#output.join('');
  }

  /** The end of what mux, block process and guests logged. */
  get logs(): string {
    const directory = join(this.scene.runDirectory, 'logs');
    if (!existsSync(directory)) return '';
    return readdirSync(directory)
      .map((name) => `--- ${name}\n${readFileSync(join(directory, name), 'utf8').slice(-3000)}`)
      .join('\n');
  }

  /** Waits until the service answers health checks. */
  async up(): Promise<this> {
    await eventually(
      'the service to be up',
      async () => {
        if (this.daemon.exitCode !== null) throw new Error(`the daemon ended:\n${this.output}`);
        try {
          const status = await this.api.get<{ services: { health?: { ok: boolean } }[] }>('/status');
          return status.services[0]?.health?.ok === true;
        } catch {
          return false;
        }
      },
      60_000,
    ).catch((error) => {
      throw new Error(`${error.message}\n${this.output}`);
    });
    return this;
  }

  /** Registers and flags the demo's patch, or `files` put into the source beforehand. */
  async flagPatch(file = 'ledger-1.0.1-path-traversal.diff'): Promise<void> {
    if (!existsSync(join(this.scene.patchSource, file))) publishPatch(this.scene);
    await this.api.post('/patches/scan');
    await this.api.post(`/patches/${encodeURIComponent(file)}/flag`);
  }

  /** Polls a run until it does nothing any more. */
  async settled(id: string, limitMs = 60_000): Promise<RunView> {
    return eventually(
      `run ${id} to settle`,
      async () => {
        const run = await this.api.get<RunView>(`/runs/${id}`);
        return run.working ? false : run;
      },
      limitMs,
    );
  }

  async reached(id: string, phase: RunPhase, limitMs = 60_000): Promise<RunView> {
    const run = await this.settled(id, limitMs);
    if (run.phase !== phase) {
      throw new Error(
        `run ${id} is ${run.phase}, not ${phase}: ${run.error?.message ?? run.reason}\n${this.output}`,
      );
    }
    return run;
  }

  async close(): Promise<void> {
    // Of a control process that ended by itself the others are still there.
    const orphaned = this.daemon.exitCode !== null || this.daemon.signalCode !== null;
    if (this.daemon.exitCode === null && this.daemon.signalCode === null) {
      const exited = new Promise((done) => this.daemon.once('exit', done));
      this.daemon.kill('SIGTERM');
      const limit = setTimeout(() => this.daemon.kill('SIGKILL'), 15_000);
      await exited;
      clearTimeout(limit);
    }
    if (orphaned) for (const { pid } of this.#processes()) process.kill(pid, 'SIGKILL');
    rmSync(this.scene.directory, { recursive: true, force: true });
  }

  /** With our scratch folder in their arguments. */
  #processes(): { pid: number; line: string }[] {
    const found: { pid: number; line: string }[] = [];
    for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
      try {
        const line = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
        if (line.includes(this.scene.directory) && Number(pid) !== process.pid)
          found.push({ pid: Number(pid), line });
      } catch {
        // It ended while we looked.
      }
    }
    return found;
  }

  /** What is still there that should not be: processes with our scratch folder in their arguments, interfaces, sockets. */
  leftBehind(): string[] {
    const found = this.#processes().map(({ pid, line }) => `process ${pid}: ${line}`);
    const links = execFileSync('ip', ['-o', 'link'], { encoding: 'utf8' });
    if (links.includes('co0')) found.push('interface co0');
    const mounts = readFileSync('/proc/self/mounts', 'utf8');
    if (mounts.includes(this.scene.directory)) found.push('a mount below the scratch folder');
    return found;
  }
}

export interface Answer {
  readonly status: number;
  readonly body: string;
}

/** One request on a connection of its own. */
export function ask(path: string, body?: string): Promise<Answer> {
  return new Promise((done, fail) => {
    const request = http.request(
      {
        host: SERVICE_ADDRESS,
        port: 80,
        path,
        method: body === undefined ? 'GET' : 'POST',
        agent: false,
        timeout: 5_000,
      },
      (response) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (part: string) => {
          text += part;
        });
        response.on('end', () => done({ status: response.statusCode ?? 0, body: text }));
        response.on('error', fail);
      },
    );
    request.on('timeout', () => request.destroy(new Error(`no answer to ${path}`)));
    request.on('error', fail);
    request.end(body);
  });
}

export async function version(): Promise<string> {
  return (JSON.parse((await ask('/version')).body) as { version: string }).version;
}
