/**
 * The real block process, cheap to start: `src/daemon/processes/block.ts` bundled once into one file, its compiled code cached.
 * One process with disk `a` (served as export `a`), disk `b` and the reverse log of a, for b.
 */
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { mkdirSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { ChannelClient } from '../../../src/channel/index.ts';
import type { DiskCommands, DiskEvents } from '../../../src/hypervisor/index.ts';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/** Bundles the block process into `directory`; returns what to run. */
export async function bundleBlockProcess(directory: string): Promise<string> {
  const program = join(directory, 'program', 'block.mjs');
  mkdirSync(dirname(program));
  await build({
    entryPoints: [join(ROOT, 'src/daemon/processes/block.ts')],
    bundle: true,
    platform: 'node',
    format: 'esm',
    alias: { 'block-io': join(ROOT, 'block-io/src/index.ts') },
    outfile: program,
    logLevel: 'warning',
  });
  // The addon is looked for beside its source.
  symlinkSync(join(ROOT, 'block-io/build'), join(directory, 'build'));
  return program;
}

export interface BlockProcessOptions {
  readonly program: string;
  /** Where its images and log are. */
  readonly directory: string;
  /** Where its sockets are; default `directory`. */
  readonly sockets?: string;
  readonly diskBytes: number;
  /** Words before the command: a tracer. */
  readonly prefix?: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
}

export class BlockProcess {
  readonly directory: string;
  readonly socket: string;
  /** Ends with the process: its signal, or null. */
  readonly ended: Promise<NodeJS.Signals | null>;
  readonly #child: ChildProcess;
  readonly #options: BlockProcessOptions;
  #channel: ChannelClient<DiskCommands, DiskEvents> | undefined;

  private constructor(options: BlockProcessOptions) {
    this.#options = options;
    this.directory = options.directory;
    this.socket = join(options.sockets ?? options.directory, 'nbd.sock');
    const argv = [
      ...(options.prefix ?? []),
      process.execPath,
      options.program,
      '--socket',
      join(options.sockets ?? options.directory, 'control.sock'),
      '--lifeline',
    ];
    this.#child = spawn(argv[0]!, argv.slice(1), {
      stdio: ['pipe', 'ignore', 'ignore'],
      env: {
        PATH: process.env['PATH'],
        NODE_COMPILE_CACHE: join(dirname(options.program), 'cache'),
        NODE_OPTIONS: '--disable-warning=ExperimentalWarning',
        ...options.env,
      },
    });
    this.#child.stdin!.on('error', () => {});
    this.ended = new Promise((resolve) => this.#child.once('exit', (_code, signal) => resolve(signal)));
  }

  /** The process itself answers; no disk yet. */
  static async start(options: BlockProcessOptions): Promise<BlockProcess> {
    const process = new BlockProcess(options);
    process.#channel = await ChannelClient.connect<DiskCommands, DiskEvents>(
      join(options.sockets ?? options.directory, 'control.sock'),
      'the block process',
      { waitMs: 30_000 },
    );
    return process;
  }

  command<N extends keyof DiskCommands & string>(
    name: N,
    args: DiskCommands[N]['arguments'],
  ): Promise<DiskCommands[N]['result']> {
    return this.#channel!.execute(name, args, { timeoutMs: 60_000 });
  }

  /** Disks, reverse log (gone on with when there is one), export. */
  async serve(): Promise<void> {
    const create = String(this.#options.diskBytes);
    for (const id of ['a', 'b'])
      await this.command('disk-add', { id, path: join(this.directory, `${id}.img`), create });
    await this.command('reverse-start', {
      copy: 'back',
      pairs: [{ from: 'a', to: 'b' }],
      logDirectory: join(this.directory, 'log'),
    });
    await this.command('serve', { socket: this.socket, exports: { a: 'a' } });
  }

  get image(): string {
    return join(this.directory, 'a.img');
  }

  get logDirectory(): string {
    return join(this.directory, 'log', 'a');
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  /** Ends it in order. */
  async stop(): Promise<void> {
    this.#channel?.close();
    this.#child.stdin!.end();
    await this.ended;
  }
}
