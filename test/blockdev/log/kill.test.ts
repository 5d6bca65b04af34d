import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { FileStore, LogReader, MemoryStore, recoverLog, replayLog } from '../../../src/blockdev/index.ts';
import { inScratch, seeded, within } from '../../support/index.ts';

const kill = suite('blockdev/log/kill');

/** Runs the writer, kills it with SIGKILL after so many acknowledged writes; offset → last acknowledged stamp. */
async function killed(directory: string, seed: number, after: number): Promise<Map<number, number>> {
  const program = fileURLToPath(new URL('./kill-writer.ts', import.meta.url));
  const child = spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', program, directory, `${seed}`],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  let text = '';
  let lines = 0;
  child.stdout.on('data', (chunk: Buffer) => {
    text += chunk.toString();
    lines += chunk.toString().split('\n').length - 1;
    if (lines >= after) child.kill('SIGKILL');
  });
  await new Promise((resolve) => child.once('close', resolve));
  const acknowledged = new Map<number, number>();
  for (const line of text.slice(0, text.lastIndexOf('\n')).split('\n')) {
    const [offset, stamp] = line.split(' ').map(Number);
    acknowledged.set(offset!, stamp!);
  }
  return acknowledged;
}

kill(
  'after kill -9 every acknowledged write is on the disk and in the log, twenty times',
  within(
    () =>
      seeded(async (random) => {
        const seeds = Array.from({ length: 20 }, () => ({
          seed: random.u32(),
          after: 20 + random.below(400),
        }));
        const worker = async () => {
          for (let run = seeds.pop(); run !== undefined; run = seeds.pop()) {
            const { seed, after } = run;
            await inScratch((directory) => killOnce(directory, seed, after));
          }
        };
        await Promise.all([worker(), worker(), worker()]);
      }),
    120_000,
  ),
);

async function killOnce(directory: string, seed: number, after: number): Promise<void> {
  const acknowledged = await killed(directory, seed, after);
  assert.ok(acknowledged.size > 0);
  const recovery = await recoverLog(join(directory, 'log'), { diskId: 'd' });
  assert.is(recovery.damage, undefined);
  assert.not.ok(recovery.otherBoot);
  const disk = FileStore.open(join(directory, 'disk.img'));
  const replayed = new MemoryStore(disk.size);
  await replayLog(join(directory, 'log'), replayed);
  const word = Buffer.alloc(4);
  for (const [offset, stamp] of acknowledged) {
    await disk.readAt(word, BigInt(offset));
    // A later write to it may have been under way.
    assert.ok(word.readUInt32LE() >= stamp, `disk, byte ${offset}`);
    await replayed.readAt(word, BigInt(offset));
    assert.ok(word.readUInt32LE() >= stamp, `log, byte ${offset}`);
  }
  await diskIsInLog(directory, disk, replayed);
  await disk.close();
}

/** What stands on the disk and not in the replayed log would be a write that went ahead of its record. */
async function diskIsInLog(directory: string, disk: FileStore, replayed: MemoryStore): Promise<void> {
  const reader = await LogReader.open(join(directory, 'log'));
  const a = Buffer.alloc(4096);
  const b = Buffer.alloc(4096);
  for await (const record of reader.records()) {
    if (record.kind !== 'data' || record.length !== 4096) continue;
    await disk.readAt(a, BigInt(record.address));
    await replayed.readAt(b, BigInt(record.address));
    for (let at = 0; at < 4096; at += 4)
      assert.ok(
        a.readUInt32LE(at) <= b.readUInt32LE(at),
        `byte ${record.address + at} went ahead of its record`,
      );
  }
}

kill.run();
