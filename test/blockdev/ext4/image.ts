/** An ext4 image in memory, and e2fsck's opinion of it. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Device } from '../../../src/blockdev/index.ts';
import { createImage, MemoryStore } from '../../../src/blockdev/index.ts';

const images = new Map<number, Buffer>();

async function image(sizeBytes: number): Promise<Buffer> {
  const known = images.get(sizeBytes);
  if (known !== undefined) return known;
  const directory = mkdtempSync(join(tmpdir(), 'changeover-ext4-'));
  try {
    const path = join(directory, 'image');
    await createImage({ path, sizeBytes, label: 'test' });
    const bytes = readFileSync(path);
    images.set(sizeBytes, bytes);
    return bytes;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** A device with a fresh file system. */
export async function freshDevice(sizeBytes = 16 * 1024 * 1024): Promise<MemoryStore> {
  const bytes = await image(sizeBytes);
  const device = new MemoryStore(BigInt(bytes.length));
  await device.writeAt(bytes, 0n);
  return device;
}

/** Throws with e2fsck's words unless it finds nothing to complain about. */
export async function assertClean(device: Device, when: string): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'changeover-ext4-'));
  try {
    const path = join(directory, 'image');
    const bytes = Buffer.alloc(Number(device.size));
    await device.readAt(bytes, 0n);
    writeFileSync(path, bytes);
    execFileSync('e2fsck', ['-fn', path], {
      stdio: 'pipe',
      env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` },
    });
  } catch (error) {
    const { stdout, stderr } = error as { stdout?: Buffer; stderr?: Buffer };
    throw new Error(`e2fsck ${when}: ${stdout?.toString() ?? String(error)}${stderr?.toString() ?? ''}`);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}
