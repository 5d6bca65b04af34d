/** `guest-file-*` and `guest-exec` of the standard agent, on the guest's own tree of files. */
import type { FileHandle } from '../../blockdev/index.ts';
import { messageOf } from '../../common/index.ts';
import { GuestError } from '../errors.ts';
import type { Namespace } from '../namespace.ts';

/** As the QEMU guest agent: 48 MiB at most in one answer. */
const MAX_READ = 48 * 1024 * 1024;
const DEFAULT_READ = 4096;
const MAX_HANDLES = 64;

interface OpenFile {
  readonly handle: FileHandle;
  position: number;
}

export class AgentFiles {
  readonly #tree: Namespace;
  readonly #open = new Map<number, OpenFile>();
  #next = 1000;

  constructor(tree: Namespace) {
    this.#tree = tree;
  }

  async open(path: string, mode = 'r'): Promise<number> {
    if (this.#open.size >= MAX_HANDLES) {
      throw new GuestError('too-many-files', `the agent has ${MAX_HANDLES} files open already`, {
        remedy: 'close some with guest-file-close',
      });
    }
    const handle = await this.#tree.open(path, mode.replace('b', ''));
    this.#open.set(this.#next, { handle, position: 0 });
    return this.#next++;
  }

  async read(id: number, count = DEFAULT_READ): Promise<{ count: number; 'buf-b64': string; eof: boolean }> {
    if (!(count >= 0 && count <= MAX_READ))
      throw new GuestError('bad-argument', `count must be 0 to ${MAX_READ}`);
    const file = this.#file(id);
    const target = Buffer.allocUnsafe(count);
    const { bytesRead } = await file.handle.read(target, 0, count, file.position);
    file.position += bytesRead;
    return {
      count: bytesRead,
      'buf-b64': target.toString('base64', 0, bytesRead),
      eof: bytesRead < count,
    };
  }

  async write(id: number, data: string): Promise<{ count: number; eof: boolean }> {
    const file = this.#file(id);
    const bytes = Buffer.from(data, 'base64');
    await file.handle.write(bytes, 0, bytes.length, file.position);
    file.position += bytes.length;
    return { count: bytes.length, eof: false };
  }

  /** Closes, and makes what was written durable. */
  async close(id: number): Promise<void> {
    const file = this.#file(id);
    this.#open.delete(id);
    await file.handle.sync();
    await file.handle.close();
  }

  #file(id: number): OpenFile {
    const file = this.#open.get(id);
    if (file === undefined) throw new GuestError('bad-handle', `there is no open file ${id}`);
    return file;
  }
}

interface Run {
  exited: boolean;
  exitcode: number;
  output: string[];
  error: string;
}

const KEPT_RUNS = 64;

/** Modules run by `guest-exec`: they have numbers where a process would have an id. */
export class AgentRuns {
  readonly #runs = new Map<number, Run>();
  #next = 1;

  start(body: (output: string[]) => Promise<void>): number {
    const id = this.#next++;
    const run: Run = { exited: false, exitcode: 0, output: [], error: '' };
    this.#runs.set(id, run);
    for (const [old, kept] of this.#runs) {
      if (this.#runs.size <= KEPT_RUNS) break;
      if (kept.exited) this.#runs.delete(old);
    }
    body(run.output).then(
      () => {
        run.exited = true;
      },
      (error) => {
        run.exited = true;
        run.exitcode = 1;
        run.error = messageOf(error);
      },
    );
    return id;
  }

  status(id: number): { exited: boolean; exitcode?: number; 'out-data'?: string; 'err-data'?: string } {
    const run = this.#runs.get(id);
    if (run === undefined) throw new GuestError('bad-pid', `there is no run ${id}`);
    if (!run.exited) return { exited: false };
    // The standard agent forgets a process once its end was told.
    this.#runs.delete(id);
    const encode = (text: string) => Buffer.from(text, 'utf8').toString('base64');
    return {
      exited: true,
      exitcode: run.exitcode,
      ...(run.output.length === 0 ? {} : { 'out-data': encode(`${run.output.join('\n')}\n`) }),
      ...(run.error === '' ? {} : { 'err-data': encode(`${run.error}\n`) }),
    };
  }
}
