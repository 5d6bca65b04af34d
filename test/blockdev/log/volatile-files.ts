/**
 * The file calls of the block layer (node:fs) on files in memory that a power failure may empty, tear and mix: what was written
 * and not yet made durable is, per sector, there or not, in any order. `install` puts them in place of node:fs for paths below
 * `/volatile/`; `restore` takes them away again.
 */
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import type { SeededRandom } from '../../../src/common/index.ts';

export const SECTOR = 512;
/** No two views share one: what is still closed in an earlier view must not close a file of the next. */
let nextFd = 1_000_000;

/** One change to a file, in the order in which they were made. */
export type Change =
  | { readonly kind: 'create'; readonly path: string }
  | { readonly kind: 'unlink'; readonly path: string }
  | { readonly kind: 'write'; readonly path: string; readonly at: number; readonly data: Buffer }
  | { readonly kind: 'truncate'; readonly path: string; readonly size: number }
  /** All changes of the path (of its directory, for `directory`) before index `upTo` are durable now. */
  | { readonly kind: 'durable'; readonly path: string; readonly directory: boolean; readonly upTo: number }
  /** Told by the test: something it wants to find again. */
  | { readonly kind: 'note'; readonly note: unknown };

export type Files = Map<string, Buffer>;

/** The error of a simulated crash. */
export class Crash extends Error {}

export class VolatileFiles {
  files: Files;
  readonly changes: Change[] = [];
  /** A change beyond this one throws Crash, as does everything afterwards. */
  crashAt = Number.POSITIVE_INFINITY;
  /** Every N-th write is cut short to `n` bytes less than asked, at least one byte. */
  shortEvery = 0;
  #writes = 0;
  #made = 0;
  readonly #fds = new Map<number, string>();
  #saved: Record<string, unknown> | undefined;

  constructor(files: Files = new Map()) {
    this.files = files;
  }

  note(note: unknown): void {
    this.changes.push({ kind: 'note', note });
  }

  /** Changes made to files so far. */
  get made(): number {
    return this.#made;
  }

  #change(change: Change): void {
    if (this.#made >= this.crashAt) throw new Crash('power failure');
    this.#made++;
    this.changes.push(change);
  }

  #open(path: string, flags: string | number): number {
    if (!this.files.has(path)) {
      const isDirectory = [...this.files.keys()].some((name) => name.startsWith(`${path}/`));
      if (!isDirectory && !String(flags).startsWith('w')) throw errno('ENOENT', path);
      if (!isDirectory) {
        this.#change({ kind: 'create', path });
        this.files.set(path, Buffer.alloc(0));
      }
    } else if (String(flags).includes('x')) throw errno('EEXIST', path);
    const fd = nextFd++;
    this.#fds.set(fd, path);
    return fd;
  }

  #write(fd: number, buffers: readonly Uint8Array[], at: number): number {
    const path = this.#fds.get(fd)!;
    let data = Buffer.concat(buffers);
    if (this.shortEvery > 0 && ++this.#writes % this.shortEvery === 0 && data.length > 1)
      data = data.subarray(0, Math.ceil(data.length / 2));
    this.#change({ kind: 'write', path, at, data });
    this.files.set(path, written(this.files.get(path)!, at, data));
    return data.length;
  }

  #truncate(path: string, size: number): void {
    this.#change({ kind: 'truncate', path, size });
    this.files.set(path, truncated(this.files.get(path)!, size));
  }

  #durable(fd: number, upTo: number): void {
    const path = this.#fds.get(fd)!;
    this.#change({ kind: 'durable', path, directory: !this.files.has(path), upTo });
  }

  #read(fd: number, into: Uint8Array, start: number, length: number, position: number): number {
    return this.files.get(this.#fds.get(fd)!)!.copy(into, start, position, position + length);
  }

  install(): void {
    const own = fs as unknown as Record<string, (...args: never[]) => unknown>;
    const ours = (path: unknown) => typeof path === 'string' && path.startsWith('/volatile');
    const mine = (fd: unknown) => this.#fds.has(fd as number);
    const saved: Record<string, unknown> = {};
    const put = (name: string, isOurs: (first: unknown) => boolean, call: (...args: never[]) => unknown) => {
      const real = own[name]!;
      saved[name] = real;
      own[name] = (...args: never[]) => (isOurs(args[0]) ? call(...args) : real(...args));
    };
    const later = (name: string, isOurs: (first: unknown) => boolean, call: (...args: never[]) => unknown) =>
      put(name, isOurs, (...args) => {
        const done = args.at(-1) as unknown as (error: unknown, value?: unknown) => void;
        let value: unknown;
        try {
          value = call(...(args.slice(0, -1) as never[]));
        } catch (error) {
          return queueMicrotask(() => done(error));
        }
        queueMicrotask(() => done(null, value));
      });
    const stat = (path: string) => {
      const file = this.files.get(path);
      if (file === undefined) throw errno('ENOENT', path);
      return (options?: { bigint?: boolean }) => ({
        size: options?.bigint === true ? BigInt(file.length) : file.length,
        isFile: () => true,
      });
    };
    const open = (path: string, flags: string) => this.#open(path, flags);
    put('openSync', ours, open as never);
    later('open', ours, open as never);
    put('closeSync', mine, ((fd: number) => void this.#fds.delete(fd)) as never);
    put('close', mine, ((fd: number) => void this.#fds.delete(fd)) as never);
    const write = (fd: number, data: Uint8Array, start: number, length: number, at: number) =>
      this.#write(fd, [data.subarray(start, start + length)], at);
    put('writeSync', mine, write as never);
    later('write', mine, write as never);
    const writev = (fd: number, data: Uint8Array[], at: number) => this.#write(fd, data, at);
    put('writevSync', mine, writev as never);
    later('writev', mine, writev as never);
    later('read', mine, ((fd: number, into: Uint8Array, start: number, length: number, at: number) =>
      this.#read(fd, into, start, length, at)) as never);
    put('fsyncSync', mine, ((fd: number) => this.#durable(fd, this.changes.length)) as never);
    put('fdatasync', mine, ((fd: number, done: (error: unknown) => void) => {
      // What is written while it runs is not covered.
      const upTo = this.changes.length;
      setImmediate(() => {
        try {
          this.#durable(fd, upTo);
        } catch (error) {
          return done(error);
        }
        done(null);
      });
    }) as never);
    put('ftruncateSync', mine, ((fd: number, size: number) =>
      this.#truncate(this.#fds.get(fd)!, size)) as never);
    put('fstatSync', mine, ((fd: number, options?: { bigint?: boolean }) =>
      stat(this.#fds.get(fd)!)(options)) as never);
    put('statSync', ours, ((path: string, options?: { bigint?: boolean }) => stat(path)(options)) as never);
    put('mkdirSync', ours, (() => undefined) as never);
    put('readdirSync', ours, ((path: string) =>
      [...this.files.keys()]
        .filter((name) => name.startsWith(`${path}/`))
        .map((name) => name.slice(path.length + 1))) as never);
    put('unlinkSync', ours, ((path: string) => {
      this.#change({ kind: 'unlink', path });
      this.files.delete(path);
    }) as never);
    this.#saved = saved;
    syncBuiltinESMExports();
  }

  restore(): void {
    Object.assign(fs, this.#saved);
    syncBuiltinESMExports();
  }
}

/** What may be found after the power failed behind `count` changes. */
export function afterPowerCut(
  before: Files,
  changes: readonly Change[],
  count: number,
  random: SeededRandom,
): Files {
  const files: Files = new Map([...before].map(([path, bytes]) => [path, Buffer.from(bytes)]));
  /** Index up to which changes of a path (of a directory) are durable. */
  const durable = new Map<string, number>();
  for (let i = 0; i < count; i++) {
    const change = changes[i]!;
    if (change.kind === 'durable')
      durable.set(change.path, Math.max(durable.get(change.path) ?? 0, change.upTo));
  }
  const all = random.below(4);
  /** Parts of writes that were not durable, by sector. A sector is there as it was after some of them, in their order. */
  const loose = new Map<string, { readonly path: string; readonly at: number; readonly data: Buffer }[]>();
  for (let i = 0; i < count; i++) {
    const change = changes[i]!;
    if (change.kind === 'note' || change.kind === 'durable') continue;
    const { path } = change;
    const named = i < (durable.get(path.slice(0, path.lastIndexOf('/'))) ?? 0);
    const sure = i < (durable.get(path) ?? 0);
    if (change.kind === 'create') {
      // A name that was never made durable may be gone, its file with it.
      if (named || random.below(4) > 0) files.set(path, Buffer.alloc(0));
    } else if (change.kind === 'unlink') {
      if (named || random.below(2) === 0) files.delete(path);
    } else if (files.has(path)) {
      const file = files.get(path)!;
      if (change.kind === 'truncate') {
        if (sure || random.below(2) === 0) files.set(path, truncated(file, change.size));
      } else if (sure) files.set(path, putInto(file, change.at, change.data));
      else {
        // The length of the file may be known without its data.
        if (random.below(4) === 0)
          files.set(path, putInto(file, change.at + change.data.length, Buffer.alloc(0)));
        for (let at = 0; at < change.data.length; ) {
          const sector = Math.floor((change.at + at) / SECTOR);
          const end = Math.min(change.data.length, (sector + 1) * SECTOR - change.at);
          const key = `${path} ${sector}`;
          const parts = loose.get(key) ?? [];
          parts.push({ path, at: change.at + at, data: change.data.subarray(at, end) });
          loose.set(key, parts);
          at = end;
        }
      }
    }
  }
  for (const parts of loose.values()) {
    const landed = all === 0 ? 0 : all === 1 ? parts.length : random.below(parts.length + 1);
    for (const { path, at, data } of parts.slice(0, landed))
      files.set(path, putInto(files.get(path)!, at, data));
  }
  return files;
}

/** As `written`, into the same buffer where it is long enough. */
function putInto(file: Buffer, at: number, data: Uint8Array): Buffer {
  if (at + data.length > file.length) return written(file, at, data);
  file.set(data, at);
  return file;
}

function written(file: Buffer, at: number, data: Uint8Array): Buffer {
  const out = Buffer.alloc(Math.max(file.length, at + data.length));
  file.copy(out);
  out.set(data, at);
  return out;
}

function truncated(file: Buffer, size: number): Buffer {
  const out = Buffer.alloc(size);
  file.copy(out, 0, 0, size);
  return out;
}

function errno(code: string, path: string): Error {
  return Object.assign(new Error(`${code}: ${path}`), { code });
}
