/**
 * What a small durable append costs: `node bench/ext4-append.ts [DIRECTORY] [COUNT]`. An ext4 image in DIRECTORY (default
 * /dev/shm, so that the disk's own flush does not count) behind an NBD server in a process of its own; each append is 120
 * bytes and a datasync. The same through Node's own fs on the host, without NBD, for comparison.
 */
import { fork } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createImage, FileStore, mountExt4, NbdClient, NbdServer } from '../src/blockdev/index.ts';

const MIB = 1024 * 1024;
const LINE = `${'x'.repeat(119)}\n`;

async function serve(directory: string): Promise<void> {
  const server = new NbdServer();
  await server.setExports(new Map([['disk', FileStore.open(join(directory, 'image'))]]));
  await server.listen(join(directory, 'nbd.sock'));
  // The parent may end without a chance to tell.
  process.on('disconnect', () => process.exit());
  process.send?.('ready');
}

async function measure(what: string, count: number, append: () => Promise<void>): Promise<void> {
  for (let i = 0; i < 50; i++) await append();
  const took: number[] = [];
  for (let i = 0; i < count; i++) {
    const startedMs = performance.now();
    await append();
    took.push(performance.now() - startedMs);
  }
  took.sort((a, b) => a - b);
  const at = (share: number) => took[Math.min(count - 1, Math.floor(count * share))]!.toFixed(3);
  console.log(`${what.padEnd(34)} median ${at(0.5)} ms   p90 ${at(0.9)} ms   p99 ${at(0.99)} ms`);
}

async function main(parent: string, count: number): Promise<void> {
  const directory = mkdtempSync(join(parent, 'changeover-bench-'));
  try {
    await createImage({ path: join(directory, 'image'), sizeBytes: 64 * MIB });
    const child = fork(fileURLToPath(import.meta.url), ['--serve', directory]);
    await new Promise((resolve) => child.once('message', resolve));
    const device = await NbdClient.connect(join(directory, 'nbd.sock'), 'disk');
    const fs = await mountExt4(device);
    const file = await fs.open('/log', 'a');
    await measure('ext4 over NBD', count, async () => {
      await file.appendFile(LINE);
      await file.datasync();
    });
    const sector = Buffer.alloc(512);
    await measure('NBD: write 512 bytes twice, flush', count, async () => {
      await Promise.all([device.writeAt(sector, 40n * 1048576n), device.writeAt(sector, 41n * 1048576n)]);
      await device.flush();
    });
    await fs.unmount();
    await device.close();
    child.kill();
    const host = await open(join(directory, 'log'), 'a');
    await measure('file of the host', count, async () => {
      await host.appendFile(LINE);
      await host.datasync();
    });
    await host.close();
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

const [first = '/dev/shm', second = '2000'] = process.argv.slice(2);
if (first === '--serve') await serve(second);
else await main(first, Number(second));
