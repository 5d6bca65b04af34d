/**
 * Guest kind `process`: the partition is a child process that runs the guest OS of src/guest. It outlives the control
 * process unless `lifeline` is asked: its output goes to a file, and it is found again by its agent socket.
 */
import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync, readSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, resolve } from 'node:path';
import { codeOf, messageOf, pointsForChild, programFile } from '../../../common/index.ts';
import { deviceOf } from '../../partition/config.ts';
import type { GuestExit, GuestKind, GuestSpec, RunningGuest } from '../guest-kind.ts';
import { GuestKindError } from '../guest-kind.ts';
import type { BootDescription } from './boot-description.ts';
import { boundConsole, rotateConsole } from './console-file.ts';
import { groupName, limitProcess, limitsOf } from './limits.ts';

const require = createRequire(import.meta.url);
const GUEST_MAIN = resolve(import.meta.dirname, '../../../guest/main.ts');
/** The product's own folder: the only files of the host that a guest reads, beside its boot file and its scratch directory. */
const PRODUCT = resolve(import.meta.dirname, '../../../..');
const TAIL_BYTES = 16 * 1024;
const DEFAULT_LINES = 20;
const POLL_MS = 100;

export interface ProcessKindOptions {
  /** Default: the Node that runs us. */
  readonly node?: string;
  /** Put the process into control groups. Default true. */
  readonly limits?: boolean;
}

/**
 * V8 begins with a young generation of 1 MiB. A busy program fills that every 20 ms, and each collection stops it for 0.3 to 5 ms: three
 * times in a cut.
 */
const YOUNG_GENERATION = '--min-semi-space-size=8';

export class ProcessKind implements GuestKind {
  readonly name = 'process';
  readonly #node: string;
  readonly #limits: boolean;

  constructor(options: ProcessKindOptions = {}) {
    this.#node = options.node ?? process.execPath;
    this.#limits = options.limits ?? true;
  }

  /** Throws GuestKindError `spawn-failed`. */
  async start(spec: GuestSpec): Promise<RunningGuest> {
    const { config } = spec;
    mkdirSync(spec.scratchDirectory, { recursive: true, mode: 0o700 });
    writeFileSync(spec.bootFile, `${JSON.stringify(bootDescription(spec), null, 2)}\n`, { mode: 0o600 });
    rotateConsole(spec.logFile);
    const points = pointsForChild();
    const log = openSync(spec.logFile, 'a', 0o600);
    const args = [
      '--disable-warning=ExperimentalWarning',
      YOUNG_GENERATION,
      `--max-old-space-size=${config.memoryMiB}`,
      ...permissions(spec),
      programFile(GUEST_MAIN),
      '--boot',
      spec.bootFile,
      ...(spec.lifeline ? ['--lifeline'] : []),
      ...points.args,
    ];
    try {
      const child = spawn(this.#node, args, {
        stdio: [spec.lifeline ? 'pipe' : 'ignore', log, log],
        detached: true,
        cwd: '/',
        env: {
          PATH: process.env['PATH'] ?? '',
          TZ: process.env['TZ'] ?? '',
          LANG: process.env['LANG'] ?? 'C.UTF-8',
          NODE_COMPILE_CACHE: spec.cacheDirectory,
          // Of the addons that may be loaded before they are locked out, the one that is needed.
          BLOCK_IO: 'off',
          ...points.env,
        },
      });
      const exited = new Promise<GuestExit>((done) => {
        child.once('exit', (code, signal) => done({ code, signal }));
        child.once('error', () => done({ code: null, signal: null }));
      });
      await new Promise<void>((done, failed) => {
        child.once('spawn', done);
        child.once('error', failed);
      });
      child.unref();
      (child.stdin as { unref?: () => void } | null)?.unref?.();
      const pid = child.pid!;
      writeFileSync(pidFile(spec), `${pid} ${startTimeOf(pid) ?? ''}\n`, { mode: 0o600 });
      const limits = this.#limits
        ? limitProcess(pid, config, groupName(config.id, spec.agentSocket))
        : { notes: [], remove: () => {} };
      return new ProcessGuest(pid, exited, limits.notes, spec.logFile, limits.remove);
    } catch (error) {
      throw new GuestKindError(
        'spawn-failed',
        `partition ${config.id} cannot be started: ${messageOf(error)}`,
        {
          cause: error,
          values: { node: this.#node },
        },
      );
    } finally {
      closeSync(log);
    }
  }

  async adopt(spec: Omit<GuestSpec, 'addresses'>): Promise<RunningGuest | undefined> {
    const recorded = readProcess(pidFile(spec));
    if (recorded === undefined || !stillRuns(recorded)) return undefined;
    const { pid } = recorded;
    const exited = new Promise<GuestExit>((done) => {
      const timer = setInterval(() => {
        if (stillRuns(recorded)) return;
        clearInterval(timer);
        done({ code: null, signal: null });
      }, POLL_MS);
      timer.unref();
    });
    return new ProcessGuest(
      pid,
      exited,
      [],
      spec.logFile,
      limitsOf(groupName(spec.config.id, spec.agentSocket)).remove,
    );
  }
}

class ProcessGuest implements RunningGuest {
  readonly pid: number;
  readonly exited: Promise<GuestExit>;
  readonly notes: readonly string[];
  readonly #logFile: string;

  constructor(
    pid: number,
    exited: Promise<GuestExit>,
    notes: readonly string[],
    logFile: string,
    removeLimits: () => void,
  ) {
    this.pid = pid;
    const endBound = boundConsole(logFile);
    this.exited = exited.then((exit) => {
      endBound();
      removeLimits();
      return exit;
    });
    this.notes = notes;
    this.#logFile = logFile;
  }

  lastOutput(lines = DEFAULT_LINES): string[] {
    return tail(this.#logFile, lines);
  }

  kill(): void {
    try {
      process.kill(this.pid, 'SIGKILL');
    } catch (error) {
      if (codeOf(error) !== 'ESRCH') throw error;
    }
  }
}

/**
 * Node's permission model: no child processes, no threads, no inspector; files as listed. Sockets are not restricted by it. The
 * guest loads one addon and then lets in no other (src/guest/addons.ts).
 */
function permissions(spec: GuestSpec): string[] {
  const modules = ['ext2fs', 'diff'].map((name) => dirname(dirname(require.resolve(`${name}/package.json`))));
  const readable = new Set([PRODUCT, ...modules, spec.bootFile, spec.scratchDirectory, spec.cacheDirectory]);
  const points = pointsForChild().directory;
  if (points !== undefined) readable.add(points);
  const writable = [
    spec.scratchDirectory,
    spec.cacheDirectory,
    spec.agentSocket,
    ...(points === undefined ? [] : [points]),
  ];
  return [
    '--permission',
    '--allow-addons',
    '--disable-warning=PERM0001',
    ...[...readable].map((path) => `--allow-fs-read=${path}`),
    ...writable.map((path) => `--allow-fs-write=${path}`),
  ];
}

function bootDescription(spec: GuestSpec): BootDescription {
  const { config } = spec;
  return {
    partition: config.id,
    hostname: config.hostname ?? config.id,
    network: config.network.map((device, i) => ({
      mac: device.mac,
      socket: spec.portSockets[i]!,
      addresses: spec.addresses.filter((address) => deviceOf(config, address) === device),
      ...(device.gateways === undefined ? {} : { gateways: device.gateways }),
    })),
    blockSocket: spec.blockSocket,
    agentSocket: spec.agentSocket,
    scratchDirectory: spec.scratchDirectory,
  };
}

function pidFile(spec: { readonly agentSocket: string }): string {
  return `${spec.agentSocket}.pid`;
}

interface RecordedProcess {
  readonly pid: number;
  /** A process id may be given to somebody else; with its start time it names one process. */
  readonly startTime: string;
}

function readProcess(path: string): RecordedProcess | undefined {
  try {
    const [pid, startTime] = readFileSync(path, 'utf8').trim().split(' ');
    if (startTime === undefined || !(Number(pid) > 1)) return undefined;
    return { pid: Number(pid), startTime };
  } catch {
    return undefined;
  }
}

/** Clock ticks from boot to its start (proc(5), stat field 22); undefined when there is no such process, or a zombie. */
function startTimeOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The program's name stands in brackets and may hold anything; field 3 follows it.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

/** The command line does not tell: an application may set its title. */
function stillRuns(recorded: RecordedProcess): boolean {
  return startTimeOf(recorded.pid) === recorded.startTime;
}

function tail(path: string, lines: number): string[] {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch {
    return [];
  }
  try {
    const { size } = statSync(path);
    const buffer = Buffer.alloc(Math.min(TAIL_BYTES, size));
    readSync(fd, buffer, 0, buffer.length, size - buffer.length);
    return buffer.toString('utf8').trimEnd().split('\n').slice(-lines);
  } finally {
    closeSync(fd);
  }
}
