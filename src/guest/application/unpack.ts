/**
 * Programs are run from a private scratch directory of the host (on a memory file system where the run directory is one):
 * the folder of the program is copied there from the guest's disk with the paths it has in the guest. Node's own module
 * resolution then does the rest, node_modules included, and no loader has to imitate it. The price is a copy per boot; the
 * other way, serving modules from the disk through load hooks, needs synchronous reads of a disk that has none.
 */
import { mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join, posix } from 'node:path';
import { GuestError } from '../errors.ts';
import type { Namespace } from '../namespace.ts';

const MAX_BYTES = 256 * 1024 * 1024;
const MAX_FILES = 100_000;

export interface Unpacked {
  readonly files: number;
  readonly bytes: number;
}

export class Scratch {
  /** Host directory under which the guest's `/` appears. */
  readonly root: string;

  constructor(directory: string) {
    this.root = join(directory, 'root');
  }

  async clear(): Promise<void> {
    await rm(this.root, { recursive: true, force: true });
    await mkdir(this.root, { recursive: true, mode: 0o700 });
  }

  /** Where a guest path stands on the host. */
  host(path: string): string {
    return join(this.root, path);
  }

  /** The guest path of a host path below the scratch directory; other paths are guest paths already. */
  guest(path: string): string {
    if (path === this.root) return '/';
    return path.startsWith(`${this.root}/`) ? path.slice(this.root.length) : path;
  }

  /** Copies a file or a folder. Throws GuestError `program-too-large`. */
  async unpack(tree: Namespace, path: string): Promise<Unpacked> {
    const total = { files: 0, bytes: 0 };
    const stats = await tree.stat(path);
    if (stats.isDirectory()) await this.#folder(tree, path, total);
    else {
      await mkdir(this.host(posix.dirname(path)), { recursive: true, mode: 0o700 });
      await this.#file(tree, path, stats.mode, total);
    }
    return total;
  }

  async #folder(tree: Namespace, path: string, total: { files: number; bytes: number }): Promise<void> {
    await mkdir(this.host(path), { recursive: true, mode: 0o700 });
    for (const entry of await tree.readdir(path)) {
      const at = posix.join(path, entry.name);
      if (entry.isDirectory()) await this.#folder(tree, at, total);
      else if (entry.isSymbolicLink()) {
        // Resolved in the guest's tree, so that no link of an image leads out of the scratch directory.
        const target = posix.resolve(path, await tree.readlink(at));
        await rm(this.host(at), { force: true });
        await symlink(this.host(target), this.host(at));
      } else if (entry.isFile()) await this.#file(tree, at, undefined, total);
    }
  }

  async #file(
    tree: Namespace,
    path: string,
    mode: number | undefined,
    total: { files: number; bytes: number },
  ): Promise<void> {
    const bytes = await tree.readFile(path);
    total.files++;
    total.bytes += bytes.length;
    if (total.bytes > MAX_BYTES || total.files > MAX_FILES) {
      throw new GuestError(
        'program-too-large',
        `the program's folder holds more than ${MAX_BYTES} bytes or ${MAX_FILES} files`,
        {
          remedy: "keep data out of it, or name a smaller folder as 'root' in guest.json",
        },
      );
    }
    await writeFile(this.host(path), bytes, { mode: ((mode ?? 0o600) & 0o700) | 0o600 });
  }
}

/** The folder to unpack for an entry module: the nearest one that has a package.json, else the module's own. */
export async function programRoot(tree: Namespace, entry: string): Promise<string> {
  const own = posix.dirname(entry);
  for (let folder = own; folder !== '/'; folder = posix.dirname(folder)) {
    if (await tree.exists(posix.join(folder, 'package.json'))) return folder;
  }
  return own;
}
