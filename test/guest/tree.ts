/** A guest's tree of files on a disk in memory. */
import type { MemoryStore } from '../../src/blockdev/index.ts';
import { mountExt4 } from '../../src/blockdev/index.ts';
import { Namespace } from '../../src/guest/index.ts';
import { freshDevice } from '../blockdev/ext4/image.ts';

export interface Tree {
  readonly tree: Namespace;
  readonly device: MemoryStore;
}

export async function withTree(
  files: Readonly<Record<string, string>>,
  body: (tree: Tree) => Promise<void>,
): Promise<void> {
  const device = await freshDevice();
  const system = await mountExt4(device);
  const tree = new Namespace();
  tree.mount('/', system);
  for (const [path, text] of Object.entries(files)) {
    await tree.mkdir(path.slice(0, path.lastIndexOf('/')) || '/', { recursive: true });
    await tree.writeFile(path, text);
  }
  try {
    await body({ tree, device });
  } finally {
    for (const fileSystem of tree.fileSystems) await fileSystem.unmount();
  }
}
