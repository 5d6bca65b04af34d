/**
 * `changeover demo`: the main job for real. Everything runs in a network namespace of its own (it vanishes with its last
 * process) and in a scratch folder, which is removed at the end, on Ctrl-C too; only the evidence is kept.
 */
import { spawn, spawnSync } from 'node:child_process';
import { accessSync, constants, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Procedure } from '../../patch/index.ts';
import { CliError } from '../cli-error.ts';
import { EXIT } from '../exit-codes.ts';
import type { InsideOptions } from './inside.ts';

export const DEMO_STRATEGIES = ['both', 'overlap', 'hold', 'drain'] as const;
export type DemoStrategy = (typeof DEMO_STRATEGIES)[number];

export interface DemoOptions {
  readonly strategy: DemoStrategy;
  /** Default: the one that the product picks for the strategy. With `both`: the strategy that shows it. */
  readonly procedure?: Procedure;
  /** Steady load before and after every step of an act, 1 … 3600. */
  readonly seconds: number;
  /** Requests per second of the readers, 10 … 100 000. */
  readonly rate: number;
  /** Folder for the evidence; default: a new one below the system's temporary folder. */
  readonly keep?: string;
  readonly json: boolean;
}

/** By H7 every accepted request is complete before the addresses change; drain has the budget for streams of two seconds. */
const SHOWN_BY = {
  any: ['overlap', 'hold'],
  H6: ['hold', 'drain'],
  H7: ['drain'],
  H8: ['overlap'],
} as const;

const SCRATCH_PREFIX = 'changeover-demo-';

/** Resolves with the exit code. Throws CliError when the machine lacks something. */
export async function runDemo(options: DemoOptions): Promise<number> {
  checkMachine();
  removeAbandoned();
  const scratch = mkdtempSync(join(tmpdir(), `${SCRATCH_PREFIX}${process.pid}-`));
  const evidence = options.keep ?? mkdtempSync(join(tmpdir(), 'changeover-evidence-'));
  const inside: InsideOptions = {
    scratch,
    evidence,
    strategies: options.strategy === 'both' ? SHOWN_BY[options.procedure ?? 'any'] : [options.strategy],
    ...(options.procedure === undefined ? {} : { procedure: options.procedure }),
    seconds: options.seconds,
    rate: options.rate,
    json: options.json,
  };
  const child = spawn(
    'unshare',
    [
      '--net',
      process.execPath,
      '--disable-warning=ExperimentalWarning',
      join(import.meta.dirname, 'inside.ts'),
      JSON.stringify(inside),
    ],
    { stdio: ['pipe', 'inherit', 'inherit'], detached: true },
  );
  const forward = (signal: NodeJS.Signals) => child.kill(signal);
  process.on('SIGINT', forward).on('SIGTERM', forward);
  try {
    return await new Promise<number>((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', (code) => resolve(code ?? EXIT.failed));
    });
  } finally {
    process.off('SIGINT', forward).off('SIGTERM', forward);
    rmSync(scratch, { recursive: true, force: true, maxRetries: 5 });
  }
}

function checkMachine(): void {
  if (process.getuid?.() !== 0) {
    throw new CliError(
      'no-root',
      'changeover demo needs root: it makes a network namespace and a TAP interface',
      {
        remedy: 'run it with sudo',
      },
    );
  }
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK);
  } catch (error) {
    throw new CliError('no-tun', '/dev/net/tun cannot be opened', {
      remedy: 'load the module with: modprobe tun; in a container pass the device through',
      cause: error,
    });
  }
  for (const [tool, pack] of [
    ['unshare', 'util-linux'],
    ['ip', 'iproute2'],
    ['mke2fs', 'e2fsprogs'],
    ['debugfs', 'e2fsprogs'],
    ['e2fsck', 'e2fsprogs'],
  ] as const) {
    if (spawnSync(tool, ['-V'], { stdio: 'ignore' }).error !== undefined) {
      throw new CliError('missing-tool', `the program ${tool} is missing`, {
        remedy: `apt-get install ${pack}`,
      });
    }
  }
}

/** Scratch folders of demos that were killed: their process is gone. */
function removeAbandoned(): void {
  for (const name of readdirSync(tmpdir())) {
    const pid = new RegExp(`^${SCRATCH_PREFIX}(\\d+)-`).exec(name)?.[1];
    if (pid === undefined || isAlive(Number(pid))) continue;
    const path = join(tmpdir(), name);
    if (statSync(path).uid === process.getuid?.()) rmSync(path, { recursive: true, force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
