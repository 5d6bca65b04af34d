/** Processes and network namespaces of one subject; what it started ends with it, by process id. */
import type { ChildProcess } from 'node:child_process';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { existsSync, readlinkSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { CodedError } from '../../src/common/index.ts';

/** `missing-tool`, `failed`, `timeout`, `not-ready`. */
export class StageError extends CodedError {}

export const REPOSITORY = resolve(import.meta.dirname, '../..');
export const CHANGEOVER: readonly string[] = [
  process.execPath,
  '--disable-warning=ExperimentalWarning',
  join(REPOSITORY, 'src/cli/main.ts'),
];
export const PROGRAMS = join(REPOSITORY, 'bench/programs');
export const NODE: readonly string[] = [process.execPath, '--disable-warning=ExperimentalWarning'];

const READY_LIMIT_MS = 20_000;
const MAX_OUTPUT = 256 * 1024 * 1024;

export interface StartOptions {
  readonly in?: NetworkNamespace | undefined;
  readonly env?: Readonly<Record<string, string>>;
  /** Printed when it is ready (either stream), or a test that is polled. Default: ready at once. */
  readonly ready?: RegExp | (() => boolean | Promise<boolean>);
  /** How long it may take to be ready, default 20 s. */
  readonly limitMs?: number;
}

export interface Started {
  readonly pid: number;
  /** Both streams so far. */
  output(): string;
  /** SIGTERM, after a while SIGKILL. */
  stop(): Promise<void>;
}

export class Stage {
  readonly #children: ChildProcess[] = [];

  /** Starts a program that serves until the subject ends. */
  async start(argv: readonly string[], options: StartOptions = {}): Promise<Started> {
    const [program, ...rest] = [...(options.in?.enter ?? []), ...argv];
    // Some servers (vde_switch) end when their standard input does.
    const child = spawn(program!, rest, {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { ...process.env, ...options.env },
    });
    this.#children.push(child);
    let output = '';
    let fault: Error | undefined;
    const told = (chunk: Buffer) => {
      output = (output + chunk.toString('utf8')).slice(-65_536);
    };
    child.stdout.on('data', told);
    child.stderr.on('data', told);
    child.on('error', (error) => {
      fault = error;
    });
    const started: Started = {
      pid: child.pid ?? -1,
      output: () => output,
      stop: () => ended(child),
    };
    const { ready } = options;
    const untilMs = performance.now() + (options.limitMs ?? READY_LIMIT_MS);
    while (ready !== undefined && !(ready instanceof RegExp ? ready.test(output) : await ready())) {
      const gone = fault !== undefined || child.exitCode !== null || child.signalCode !== null;
      if (!gone && performance.now() < untilMs) {
        await pause(5);
        continue;
      }
      throw new StageError(
        'not-ready',
        `${argv.join(' ')}: ${fault?.message ?? (gone ? `ended with ${child.exitCode ?? child.signalCode}` : 'not ready in time')} ${output.trim().slice(-400)}`,
      );
    }
    return started;
  }

  /** Runs a program to its end; its standard output. Throws StageError. */
  run(
    argv: readonly string[],
    options: {
      readonly in?: NetworkNamespace | undefined;
      readonly limitMs?: number;
      readonly env?: Readonly<Record<string, string>>;
    } = {},
  ): Promise<string> {
    const [program, ...rest] = [...(options.in?.enter ?? []), ...argv];
    const child = spawn(program!, rest, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...options.env },
    });
    this.#children.push(child);
    return new Promise((done, failed) => {
      const parts: Buffer[] = [];
      let complaint = '';
      let size = 0;
      child.stdout.on('data', (part: Buffer) => {
        size += part.length;
        if (size <= MAX_OUTPUT) parts.push(part);
      });
      child.stderr.on('data', (part: Buffer) => {
        complaint = (complaint + part.toString('utf8')).slice(-4096);
      });
      const limit = setTimeout(() => child.kill('SIGKILL'), options.limitMs ?? 60_000);
      child.on('error', failed);
      child.on('close', (code, signal) => {
        clearTimeout(limit);
        const output = Buffer.concat(parts).toString('utf8');
        if (code === 0) done(output);
        else {
          const why = `${complaint.trim()} ${output.trim().slice(-400)}`.trim();
          failed(
            new StageError('failed', `${argv.slice(0, 4).join(' ')} ended with ${code ?? signal}: ${why}`),
          );
        }
      });
    });
  }

  /** A network namespace that lives as long as the stage. */
  async namespace(): Promise<NetworkNamespace> {
    const holder = spawn('unshare', ['--net', 'sleep', 'infinity'], { stdio: 'ignore' });
    this.#children.push(holder);
    const path = `/proc/${holder.pid}/ns/net`;
    const own = readlinkSync('/proc/self/ns/net');
    for (let left = 400; ; left--) {
      if (existsSync(path) && readlinkSync(path) !== own) break;
      if (left === 0) throw new StageError('not-ready', 'no network namespace can be made');
      await pause(5);
    }
    const space: NetworkNamespace = { pid: holder.pid!, enter: ['nsenter', `--net=${path}`] };
    ip(space, 'link set lo up');
    return space;
  }

  async close(): Promise<void> {
    await Promise.all(this.#children.map(ended));
  }
}

export interface NetworkNamespace {
  readonly pid: number;
  /** Prefix of a command line that runs in it. */
  readonly enter: readonly string[];
}

/** `ip …` in a namespace, or in ours. Throws with what it printed. */
export function ip(space: NetworkNamespace | undefined, command: string): void {
  const [program, ...rest] = [...(space?.enter ?? []), 'ip', ...command.split(' ')];
  execFileSync(program!, rest, { stdio: ['ignore', 'pipe', 'pipe'] });
}

/** Runs `body` with a stage, and ends everything that it started. */
export async function onStage(body: (stage: Stage) => Promise<void>): Promise<void> {
  const stage = new Stage();
  try {
    await body(stage);
  } finally {
    await stage.close();
  }
}

/** Why a program cannot be used, or undefined. */
export function missing(program: string): string | undefined {
  const found = spawnSync('sh', ['-c', 'command -v "$0"', program], { stdio: 'ignore' }).status === 0;
  return found ? undefined : `${program} is not installed`;
}

/** Compiles a program of `bench/programs` into `folder`; its path. Throws with what the compiler said first. */
export function compiled(source: string, folder: string, options: readonly string[] = []): string {
  const program = join(folder, source.replace(/\.c$/, ''));
  const { error, status, stderr } = spawnSync(
    'cc',
    ['-O2', '-o', program, join(PROGRAMS, source), ...options],
    { encoding: 'utf8', stdio: ['ignore', 'ignore', 'pipe'] },
  );
  if (status === 0) return program;
  const why = error?.message ?? /error:.*|cannot find.*/.exec(stderr)?.[0] ?? stderr.trim();
  throw new StageError('missing-tool', `${source} cannot be compiled here: ${why}`);
}

export function pause(ms: number): Promise<void> {
  return new Promise((done) => setTimeout(done, ms));
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const exited = new Promise((done) => child.once('exit', done));
  child.kill('SIGTERM');
  const limit = setTimeout(() => child.kill('SIGKILL'), 3_000);
  await exited;
  clearTimeout(limit);
}
