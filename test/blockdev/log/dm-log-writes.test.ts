/** The export, read back by a reader written from the kernel's description of dm-log-writes. */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  exportDmLogWrites,
  LogReader,
  MemoryStore,
  replayLog,
  segmentName,
} from '../../../src/blockdev/index.ts';
import { codeOf } from '../../../src/common/index.ts';
import { inScratch, seeded, within } from '../../support/index.ts';
import { DISK_SIZE, newLog } from './log-support.ts';

const dm = suite('blockdev/log/dm-log-writes');

interface Entry {
  readonly sector: bigint;
  readonly nrSectors: bigint;
  readonly flags: bigint;
  readonly data: Buffer;
}

/** struct log_write_super and log_write_entry, little-endian, each on sectors of its own. */
function readDmLog(bytes: Buffer): Entry[] {
  assert.is(bytes.readBigUInt64LE(0), 0x6a736677736872n, 'magic');
  assert.is(bytes.readBigUInt64LE(8), 1n, 'version');
  const sectorSize = bytes.readUInt32LE(24);
  assert.is(sectorSize, 512);
  const entries: Entry[] = [];
  let at = sectorSize;
  for (let left = bytes.readBigUInt64LE(16); left > 0n; left--) {
    const flags = bytes.readBigUInt64LE(at + 16);
    assert.is(bytes.readBigUInt64LE(at + 24), 0n, 'only marks have data of their own');
    const [sector, nrSectors] = [bytes.readBigUInt64LE(at), bytes.readBigUInt64LE(at + 8)];
    const length = (flags & 4n) === 0n ? Number(nrSectors) * sectorSize : 0;
    assert.ok(bytes.subarray(at + 32, at + sectorSize).equals(Buffer.alloc(sectorSize - 32)));
    at += sectorSize;
    entries.push({ sector, nrSectors, flags, data: bytes.subarray(at, at + length) });
    at += length;
  }
  assert.is(at, bytes.length, 'nothing follows the last entry');
  return entries;
}

function replay(entries: readonly Entry[]): Buffer {
  const disk = Buffer.alloc(DISK_SIZE);
  for (const { sector, nrSectors, flags, data } of entries) {
    const at = Number(sector) * 512;
    if ((flags & 4n) !== 0n) disk.fill(0, at, at + Number(nrSectors) * 512);
    else data.copy(disk, at);
  }
  return disk;
}

async function exported(directory: string): Promise<Entry[]> {
  const output = join(directory, 'out');
  const result = await exportDmLogWrites(await LogReader.open(join(directory, 'log')), output);
  const entries = readDmLog(readFileSync(output));
  assert.is(result.entries, entries.length);
  return entries;
}

dm(
  'flags, places and data of each kind of record',
  within(() =>
    inScratch(async (directory) => {
      const log = newLog(join(directory, 'log'));
      await log.record('data', 4096, 1024, Buffer.alloc(1024, 7), undefined);
      await log.record('data', 512, 512, Buffer.alloc(512, 8), { fua: true });
      await log.flush();
      await log.record('trim', 8192, 4096, undefined, undefined);
      await log.record('zeroes', 0, 512, undefined, undefined);
      await log.close();
      const seen = (await exported(directory)).map(({ sector, nrSectors, flags, data }) => [
        Number(sector),
        Number(nrSectors),
        Number(flags),
        data.length,
      ]);
      assert.equal(seen, [
        [8, 2, 0, 1024],
        [1, 1, 2, 512],
        [0, 0, 1, 0],
        [16, 8, 4, 0],
        [0, 1, 0, 512],
      ]);
    }),
  ),
);

dm(
  'replayed by its format it gives what our replay gives, writes within a sector included',
  within(() =>
    seeded((random) =>
      inScratch(async (directory) => {
        const log = newLog(join(directory, 'log'), { segmentBytes: 100_000 });
        for (let i = 0; i < 300; i++) {
          const unit = random.below(3) === 0 ? 1 : 512;
          const length = unit * (1 + random.below(unit === 1 ? 3000 : 16));
          const address = unit * random.below(Math.floor((DISK_SIZE - length) / unit));
          const kind = (['data', 'data', 'data', 'zeroes', 'trim'] as const)[random.below(5)]!;
          const data = kind === 'data' ? Buffer.alloc(length, 1 + random.below(255)) : undefined;
          await log.record(kind, address, length, data, undefined);
        }
        await log.close();
        const ours = new MemoryStore(DISK_SIZE);
        await replayLog(join(directory, 'log'), ours);
        const expected = Buffer.alloc(DISK_SIZE);
        await ours.readAt(expected, 0n);
        assert.ok(replay(await exported(directory)).equals(expected));
      }),
    ),
  ),
);

dm(
  'a program of its own, written from the layout, replays it to the same bytes',
  within(
    () =>
      seeded((random) =>
        inScratch(async (directory) => {
          const log = newLog(join(directory, 'log'), { segmentBytes: 100_000 });
          const count = { flush: 0, fua: 0, trim: 0 };
          for (let i = 0; i < 200; i++) {
            const length = 512 * (1 + random.below(16));
            const address = 512 * random.below((DISK_SIZE - length) / 512);
            const kind = (['data', 'data', 'data', 'zeroes', 'trim'] as const)[random.below(5)]!;
            const data = kind === 'data' ? Buffer.alloc(length, 1 + random.below(255)) : undefined;
            const fua = kind === 'data' && random.below(9) === 0;
            if (fua) count.fua++;
            if (kind === 'trim') count.trim++;
            await log.record(kind, address, length, data, fua ? { fua } : undefined);
          }
          await log.close();
          for await (const { kind } of (await LogReader.open(join(directory, 'log'))).records())
            if (kind === 'flush') count.flush++;
          const output = join(directory, 'out');
          await exportDmLogWrites(await LogReader.open(join(directory, 'log')), output);
          const image = join(directory, 'image');
          writeFileSync(image, Buffer.alloc(DISK_SIZE));
          const program = fileURLToPath(new URL('./dm_log_writes_replay.py', import.meta.url));
          const told = execFileSync('python3', [program, output, image], { encoding: 'utf8' });
          const [, flushes, fuas, discards, marks] = told.trim().split(' ').map(Number);
          assert.equal([flushes, fuas, discards, marks], [count.flush, count.fua, count.trim, 0]);
          const ours = new MemoryStore(DISK_SIZE);
          await replayLog(join(directory, 'log'), ours);
          const expected = Buffer.alloc(DISK_SIZE);
          await ours.readAt(expected, 0n);
          assert.ok(readFileSync(image).equals(expected));
        }),
      ),
    30_000,
  ),
);

dm(
  'byte for byte: super block, entry, data',
  within(() =>
    inScratch(async (directory) => {
      const log = newLog(join(directory, 'log'));
      await log.record('data', 4096, 512, Buffer.alloc(512, 0x5a), { fua: true });
      await log.close();
      const output = join(directory, 'out');
      await exportDmLogWrites(await LogReader.open(join(directory, 'log')), output);
      const bytes = readFileSync(output);
      const hex = (from: number, to: number) => bytes.subarray(from, to).toString('hex');
      assert.is(bytes.length, 3 * 512);
      // magic 0x6a736677736872, version 1, 1 entry, sectors of 512 bytes
      assert.is(hex(0, 8), '72687377' + '66736a00');
      assert.is(hex(8, 16), '0100000000000000');
      assert.is(hex(16, 24), '0100000000000000');
      assert.is(hex(24, 28), '00020000');
      // sector 8, 1 sector, FUA, no data of its own
      assert.is(hex(512, 544), '08000000000000000100000000000000' + '02000000000000000000000000000000');
      assert.ok(bytes.subarray(1024).equals(Buffer.alloc(512, 0x5a)));
    }),
  ),
);

dm(
  'a damaged log is exported up to the damage and said so; a file is never written over',
  within(() =>
    inScratch(async (directory) => {
      const path = join(directory, 'log');
      const log = newLog(path);
      for (let i = 0; i < 3; i++) await log.record('data', 0, 512, Buffer.alloc(512, i + 1), undefined);
      await log.close();
      const segment = join(path, segmentName(1));
      const bytes = readFileSync(segment);
      bytes[bytes.length - 1]! ^= 1;
      writeFileSync(segment, bytes);
      const output = join(directory, 'out');
      const fail = async () => exportDmLogWrites(await LogReader.open(path), output).then(() => 'ok', codeOf);
      assert.is(await fail(), 'damaged');
      assert.is(readDmLog(readFileSync(output)).length, 2);
      assert.is(await fail(), 'EEXIST');
    }),
  ),
);

dm.run();
