/** A file system as two collections, and operations at random on it and on a real one. */
import { posix } from 'node:path';
import type { FileSystem } from '../../../src/blockdev/index.ts';
import type { SeededRandom } from '../../../src/common/index.ts';

/** What a file system is to hold. */
export interface Model {
  readonly files: Map<string, Buffer>;
  readonly folders: Set<string>;
}

/** One operation, on both. */
export async function randomStep(fs: FileSystem, model: Model, random: SeededRandom): Promise<void> {
  const pick = <T>(from: readonly T[]): T | undefined => from[random.below(from.length)];
  const folder = pick([...model.folders])!;
  const path = posix.join(folder, `n${random.below(12)}${'_'.repeat(random.below(3) * 40)}`);
  const file = pick([...model.files.keys()]);
  switch (random.below(8)) {
    case 0:
    case 1: {
      if (model.folders.has(path)) return;
      const data = Buffer.from(random.fill(new Uint8Array(random.below(20_000))));
      await fs.writeFile(path, data);
      model.files.set(path, data);
      return;
    }
    case 2:
    case 3: {
      if (file === undefined) return;
      const data = Buffer.from(random.fill(new Uint8Array(random.below(3_000))));
      await fs.appendFile(file, data);
      model.files.set(file, Buffer.concat([model.files.get(file)!, data]));
      return;
    }
    case 4: {
      if (file === undefined) return;
      const length = random.below(10_000);
      await fs.truncate(file, length);
      const next = Buffer.alloc(length);
      model.files.get(file)!.copy(next, 0, 0, length);
      model.files.set(file, next);
      return;
    }
    case 5: {
      if (file === undefined) return;
      await fs.unlink(file);
      model.files.delete(file);
      return;
    }
    case 6: {
      if (model.files.has(path) || model.folders.has(path) || path.split('/').length > 5) return;
      await fs.mkdir(path);
      model.folders.add(path);
      return;
    }
    default: {
      if (file === undefined || model.folders.has(path)) return;
      await fs.rename(file, path);
      const data = model.files.get(file)!;
      model.files.delete(file);
      model.files.set(path, data);
    }
  }
}

export function copyOfModel(model: Model): Model {
  return { files: new Map(model.files), folders: new Set(model.folders) };
}

/** What a file system holds, `/lost+found` left out. */
export async function readModel(fs: FileSystem): Promise<Model> {
  const model: Model = { files: new Map(), folders: new Set(['/']) };
  for (const entry of await fs.readdir('/', { withFileTypes: true, recursive: true })) {
    const path = posix.join(entry.parentPath, entry.name);
    if (path === '/lost+found') continue;
    if (entry.isDirectory()) model.folders.add(path);
    else model.files.set(path, await fs.readFile(path));
  }
  return model;
}

function sameNames(a: Model, b: Model): boolean {
  return (
    a.files.size === b.files.size &&
    a.folders.size === b.folders.size &&
    [...a.files.keys()].every((path) => b.files.has(path)) &&
    [...a.folders].every((path) => b.folders.has(path))
  );
}

/** Undefined when `found` is `wanted`, else the first difference. */
export function difference(found: Model, wanted: Model): string | undefined {
  if (!sameNames(found, wanted)) {
    const names = (model: Model) => [...model.files.keys(), ...model.folders].sort().join(' ');
    return `there are ${names(found)}, expected ${names(wanted)}`;
  }
  for (const [path, data] of wanted.files) {
    const there = found.files.get(path)!;
    if (!there.equals(data)) return `${path}: ${there.length} bytes, expected ${data.length}, or they differ`;
  }
  return undefined;
}

/** As `difference`, for a commit that wrote in place: a byte that it did not change must be as it was. */
export function torn(found: Model, before: Model, after: Model): string | undefined {
  if (!sameNames(found, before) || !sameNames(found, after)) return 'names changed';
  for (const [path, old] of before.files) {
    const data = found.files.get(path)!;
    const next = after.files.get(path)!;
    if (data.length !== old.length && data.length !== next.length) return `${path}: ${data.length} bytes`;
    for (let i = 0; i < Math.min(data.length, old.length); i++) {
      if (data[i] !== old[i] && data[i] !== next[i]) return `${path}: byte ${i}`;
    }
  }
  return undefined;
}
