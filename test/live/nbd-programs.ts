/** What the live tests of NBD share: finding foreign programs, running them, serving files and being served. */
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { accessSync, constants, mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'uvu';
import { suite } from 'uvu';
import type { Device } from '../../src/blockdev/index.ts';
import { NbdServer } from '../../src/blockdev/index.ts';
import { eventually } from '../support/index.ts';

/** The distribution's programs, and its Python: another one has no libnbd module. */
const PATH = '/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin';

function isInstalled(program: string): boolean {
  return PATH.split(':').some((folder) => {
    try {
      accessSync(join(folder, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** A suite that needs `programs`; without them it says so and skips, under CI=true it fails. */
export function programSuite(name: string, programs: readonly string[]): Test<Record<string, never>> {
  const test = suite<Record<string, never>>(name);
  const missing = programs.filter((program) => !isInstalled(program));
  if (missing.length === 0) return test;
  if (process.env['CI'] === 'true') {
    test('can run here', () => {
      throw new Error(`missing programs: ${missing.join(', ')}`);
    });
  }
  console.error(`${name}: skipped, missing ${missing.join(', ')}`);
  const skip = ((title: string) => test.skip(title, () => {})) as unknown as Test<Record<string, never>>;
  return Object.assign(skip, test, { run: test.run }) as Test<Record<string, never>>;
}

export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end, whatever that is. */
export function run(program: string, args: readonly string[]): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      env: { ...process.env, PATH, LC_ALL: 'C' },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let stdout = '';
    let stderr = '';
    child.stdout.on('data', (chunk: Buffer) => {
      stdout += chunk.toString();
    });
    child.stderr.on('data', (chunk: Buffer) => {
      stderr += chunk.toString();
    });
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
}

/** Runs a program that must succeed; returns its standard output. */
export async function ok(program: string, ...args: readonly string[]): Promise<string> {
  const outcome = await run(program, args);
  if (outcome.code !== 0) {
    throw new Error(`${program} ${args.join(' ')}: exit ${outcome.code}\n${outcome.stdout}${outcome.stderr}`);
  }
  return outcome.stdout;
}

export async function inFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'nbd-live-'));
  try {
    await body(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Serves `devices` by our server; `uri(name)` is what the programs are given. */
export async function served(
  devices: Record<string, Device>,
  body: (uri: (name: string) => string, server: NbdServer, folder: string) => Promise<void>,
): Promise<void> {
  await inFolder(async (folder) => {
    const server = new NbdServer();
    const socket = join(folder, 'socket');
    await server.setExports(new Map(Object.entries(devices)));
    await server.listen(socket);
    try {
      await body((name) => `nbd+unix:///${name}?socket=${socket}`, server, folder);
    } finally {
      await server.close();
      for (const device of Object.values(devices)) await device.close();
    }
  });
}

/** Runs a foreign NBD server while `body` runs; `socket` is the path it listens on. */
export async function foreign(
  program: string,
  args: readonly string[],
  socket: string,
  body: (child: ChildProcess) => Promise<void>,
): Promise<void> {
  // nbdkit leaves its socket behind and refuses to replace it.
  rmSync(socket, { force: true });
  const child = spawn(program, args, {
    env: { ...process.env, PATH },
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const gone = new Promise((resolve) => child.once('close', resolve));
  try {
    await eventually(`${program} at its socket`, () => {
      if (child.exitCode !== null) throw new Error(`${program} ended with ${child.exitCode}`);
      return answers(socket);
    });
    await body(child);
  } finally {
    child.kill('SIGTERM');
    await gone;
  }
}

function answers(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(socket);
    probe.once('error', () => resolve(false));
    probe.once('data', () => {
      probe.destroy();
      resolve(true);
    });
  });
}
