/**
 * Write log and copy, in process: `node bench/write-log.ts [DIRECTORY]` (default: the system’s directory for temporary files).
 * Random and sequential writes with the write log off and on, at depth 1 and 16; copy of a half-sparse image of 1 GiB
 * against `cp --sparse=always`. Every figure is the median of three runs, caches warm.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bulkCopy, clearDevice, DiskStack, FileStore, WriteLog } from '../src/blockdev/index.ts';
import { SeededRandom } from '../src/common/index.ts';

const MIB = 1024 * 1024;
const directory = mkdtempSync(join(process.argv[2] ?? tmpdir(), 'changeover-bench-'));

async function median(run: () => Promise<number>): Promise<number> {
  const figures = [await run(), await run(), await run()].sort((a, b) => a - b);
  return figures[1]!;
}

const imageBytes = 256 * MIB;
const disk = new DiskStack(
  'bench',
  FileStore.open(join(directory, 'disk.img'), { create: BigInt(imageBytes) }),
);
for (let at = 0; at < imageBytes; at += MIB) await disk.store.writeAt(Buffer.alloc(MIB, 1), BigInt(at));
await disk.store.flush();

async function writes(block: number, total: number, depth: number, random: boolean): Promise<number> {
  const numbers = new SeededRandom(1);
  const data = Buffer.alloc(block, 2);
  let left = total / block;
  let next = 0;
  const startedMs = performance.now();
  const worker = async () => {
    while (left-- > 0) {
      const at = random ? numbers.below(imageBytes / block) * block : (next++ * block) % imageBytes;
      await disk.top.writeAt(data, BigInt(at));
    }
  };
  await Promise.all(Array.from({ length: depth }, worker));
  return total / MIB / ((performance.now() - startedMs) / 1000);
}

let logs = 0;
async function logged(run: () => Promise<number>): Promise<number> {
  const path = join(directory, `log${logs++}`);
  const log = WriteLog.create(path, { diskId: 'bench', diskSize: disk.top.size, purpose: 'copy' });
  disk.trap.attach(log);
  try {
    return await run();
  } finally {
    disk.trap.detach(log);
    await log.close();
    rmSync(path, { recursive: true });
  }
}

for (const [name, block, total, depth, random] of [
  ['random 4 KiB, depth 1', 4096, 64 * MIB, 1, true],
  ['random 4 KiB, depth 16', 4096, 64 * MIB, 16, true],
  ['sequential 64 KiB, depth 1', 65_536, 256 * MIB, 1, false],
  ['sequential 1 MiB, depth 4', MIB, 256 * MIB, 4, false],
] as const) {
  const off = await median(() => writes(block, total, depth, random));
  const on = await median(() => logged(() => writes(block, total, depth, random)));
  console.log(
    `${name.padEnd(28)} log off ${off.toFixed(0)} MiB/s (${((off * MIB) / block).toFixed(0)}/s), on ${on.toFixed(0)} MiB/s (${((on * MIB) / block).toFixed(0)}/s): ${(on / off).toFixed(2)}`,
  );
}

const size = 1024 * MIB;
const source = FileStore.open(join(directory, 'source.img'), { create: BigInt(size) });
const data = Buffer.from(new SeededRandom(2).fill(new Uint8Array(MIB)));
for (let at = 0; at < size; at += 2 * MIB) await source.writeAt(data, BigInt(at));
await source.flush();
const target = FileStore.open(join(directory, 'target.img'), { create: BigInt(size) });
const copied = await median(async () => {
  await clearDevice(target);
  const startedMs = performance.now();
  await bulkCopy(source, target);
  return performance.now() - startedMs;
});
const cp = await median(async () => {
  rmSync(join(directory, 'cp.img'), { force: true });
  const startedMs = performance.now();
  execFileSync('cp', ['--sparse=always', join(directory, 'source.img'), join(directory, 'cp.img')]);
  return performance.now() - startedMs;
});
console.log(
  `copy of 1 GiB, half of it holes: ${copied.toFixed(0)} ms; cp --sparse=always: ${cp.toFixed(0)} ms`,
);
await target.close();
await source.close();
await disk.top.close();
rmSync(directory, { recursive: true, force: true });
