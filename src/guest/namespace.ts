/** The guest's tree of files: file systems mounted at paths, the system disk at `/`. */
import { posix } from 'node:path';
import type { Dirent, FileHandle, Stats } from '../blockdev/index.ts';
import { FileError, type FileSystem } from '../blockdev/index.ts';
import { isBelow } from './configuration.ts';

export class Namespace {
  /** Longest mount point first. */
  #mounts: { readonly at: string; readonly fileSystem: FileSystem }[] = [];
  #expected: { readonly at: string; readonly mounted: Promise<void>; readonly told: () => void } | undefined;
  #blocked: () => void = () => {};

  /** Until something is mounted at `at`, whoever asks for a path there waits. Resolves when somebody does. */
  expect(at: string): Promise<void> {
    let told: () => void = () => {};
    const mounted = new Promise<void>((resolve) => {
      told = resolve;
    });
    this.#expected = { at, mounted, told };
    return new Promise((resolve) => {
      this.#blocked = resolve;
    });
  }

  mount(at: string, fileSystem: FileSystem): void {
    if (this.#expected?.at === at) {
      this.#expected.told();
      this.#expected = undefined;
    }
    this.#mounts = [...this.#mounts, { at, fileSystem }].sort((a, b) => b.at.length - a.at.length);
  }

  /** Takes it out of the tree; unmounting the file system is the caller's. */
  detach(at: string): FileSystem | undefined {
    const mount = this.#mounts.find((candidate) => candidate.at === at);
    this.#mounts = this.#mounts.filter((candidate) => candidate !== mount);
    return mount?.fileSystem;
  }

  get fileSystems(): FileSystem[] {
    return this.#mounts.map((mount) => mount.fileSystem);
  }

  mountPoints(): string[] {
    return this.#mounts.map((mount) => mount.at);
  }

  /** The file system that holds `path`, and its path there. */
  at(path: string): { fileSystem: FileSystem; path: string } {
    const normal = posix.normalize(path);
    for (const { at, fileSystem } of this.#mounts) {
      if (isBelow(normal, at))
        return { fileSystem, path: at === '/' ? normal : normal.slice(at.length) || '/' };
    }
    throw new FileError('ENODEV', 'open', path, { detail: 'nothing is mounted there' });
  }

  /** As `at`, once nothing is expected any more to be mounted above `path`. */
  async find(path: string): Promise<{ fileSystem: FileSystem; path: string }> {
    const expected = this.#expected;
    if (expected !== undefined && isBelow(posix.normalize(path), expected.at)) {
      this.#blocked();
      await expected.mounted;
    }
    return this.at(path);
  }

  open(path: string, flags?: string | number, mode?: number): Promise<FileHandle> {
    return this.#on(path, (fs, at) => fs.open(at, flags, mode));
  }

  readFile(path: string): Promise<Buffer>;
  readFile(path: string, encoding: BufferEncoding): Promise<string>;
  readFile(path: string, encoding?: BufferEncoding): Promise<Buffer | string> {
    return this.#on<Buffer | string>(path, (fs, at) =>
      encoding === undefined ? fs.readFile(at) : fs.readFile(at, encoding),
    );
  }

  writeFile(
    path: string,
    data: string | Uint8Array,
    options?: { encoding?: BufferEncoding | null; mode?: number; flag?: string },
  ): Promise<void> {
    return this.#on(path, (fs, at) => fs.writeFile(at, data, options));
  }

  stat(path: string): Promise<Stats> {
    return this.#on(path, (fs, at) => fs.stat(at));
  }

  lstat(path: string): Promise<Stats> {
    return this.#on(path, (fs, at) => fs.lstat(at));
  }

  exists(path: string): Promise<boolean> {
    return this.#on(path, (fs, at) => fs.exists(at));
  }

  readdir(path: string): Promise<Dirent[]> {
    return this.#on(path, (fs, at) => fs.readdir(at, { withFileTypes: true }));
  }

  mkdir(path: string, options?: { recursive?: boolean; mode?: number }): Promise<string | undefined> {
    return this.#on(path, (fs, at) => fs.mkdir(at, options));
  }

  rmdir(path: string): Promise<void> {
    return this.#on(path, (fs, at) => fs.rmdir(at));
  }

  rm(path: string, options?: { recursive?: boolean; force?: boolean }): Promise<void> {
    return this.#on(path, (fs, at) => fs.rm(at, options));
  }

  unlink(path: string): Promise<void> {
    return this.#on(path, (fs, at) => fs.unlink(at));
  }

  rename(from: string, to: string): Promise<void> {
    return this.#pair('rename', from, to, (fs, a, b) => fs.rename(a, b));
  }

  link(existing: string, path: string): Promise<void> {
    return this.#pair('link', existing, path, (fs, a, b) => fs.link(a, b));
  }

  symlink(target: string, path: string): Promise<void> {
    return this.#on(path, (fs, at) => fs.symlink(target, at));
  }

  readlink(path: string): Promise<string> {
    return this.#on(path, (fs, at) => fs.readlink(at));
  }

  async realpath(path: string): Promise<string> {
    const { fileSystem, path: inside } = await this.find(path);
    const mount = this.#mounts.find((candidate) => candidate.fileSystem === fileSystem)!;
    return posix.join(mount.at, await fileSystem.realpath(inside));
  }

  chmod(path: string, mode: number): Promise<void> {
    return this.#on(path, (fs, at) => fs.chmod(at, mode));
  }

  chown(path: string, uid: number, gid: number): Promise<void> {
    return this.#on(path, (fs, at) => fs.chown(at, uid, gid));
  }

  truncate(path: string, length?: number): Promise<void> {
    return this.#on(path, (fs, at) => fs.truncate(at, length));
  }

  async copyFile(from: string, to: string): Promise<void> {
    const { mode } = await this.stat(from);
    await this.writeFile(to, await this.readFile(from), { mode: mode & 0o7777 });
  }

  /** Everything written so far is durable, on every disk. */
  async sync(): Promise<void> {
    await Promise.all(this.fileSystems.map((fileSystem) => fileSystem.sync()));
  }

  /** Number of file systems. */
  async freeze(): Promise<number> {
    await Promise.all(this.fileSystems.map((fileSystem) => fileSystem.freeze()));
    return this.fileSystems.length;
  }

  thaw(): number {
    const frozen = this.fileSystems.filter((fileSystem) => fileSystem.frozen);
    for (const fileSystem of frozen) fileSystem.thaw();
    return frozen.length;
  }

  get frozen(): boolean {
    return this.fileSystems.some((fileSystem) => fileSystem.frozen);
  }

  async #on<T>(path: string, body: (fileSystem: FileSystem, path: string) => Promise<T>): Promise<T> {
    const found = this.#expected === undefined ? this.at(path) : await this.find(path);
    return body(found.fileSystem, found.path);
  }

  async #pair<T>(
    syscall: string,
    from: string,
    to: string,
    body: (fileSystem: FileSystem, from: string, to: string) => Promise<T>,
  ): Promise<T> {
    const a = await this.find(from);
    const b = await this.find(to);
    if (a.fileSystem !== b.fileSystem) throw new FileError('EXDEV', syscall, from, { dest: to });
    return body(a.fileSystem, a.path, b.path);
  }
}
