/** Files put on and taken from a partition's disk while the partition does not run (steps 705, 706). Nothing is mounted by the host. */
import { posix } from 'node:path';
import type { Device } from '../blockdev/index.ts';
import { mountExt4 } from '../blockdev/index.ts';

export interface InjectedFile {
  /** Absolute path inside the file system; directories on the way are made. */
  readonly path: string;
  readonly data: Uint8Array;
  /** Default 0o644. */
  readonly mode?: number;
}

/** Writes the files and makes them durable, or throws with the file system as it was. Refuses what Ext4MountError refuses. */
export async function injectFiles(device: Device, files: readonly InjectedFile[]): Promise<void> {
  const fs = await mountExt4(device);
  try {
    for (const { path, data, mode = 0o644 } of files) {
      await fs.mkdir(posix.dirname(path), { recursive: true, mode: 0o755 });
      await fs.writeFile(path, data, { mode });
      await fs.chmod(path, mode);
    }
    await fs.unmount();
  } catch (error) {
    fs.abandon();
    throw error;
  }
}

export async function extractFile(device: Device, path: string): Promise<Buffer> {
  const fs = await mountExt4(device, { readOnly: true });
  try {
    return await fs.readFile(path);
  } finally {
    await fs.unmount();
  }
}
