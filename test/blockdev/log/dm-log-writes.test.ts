/** The export, read back by a reader written from the kernel's description of dm-log-writes. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
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
    const length = Number(bytes.readBigUInt64LE(at + 24));
    const [sector, nrSectors] = [bytes.readBigUInt64LE(at), bytes.readBigUInt64LE(at + 8)];
    at += sectorSize;
    entries.push({ sector, nrSectors, flags, data: bytes.subarray(at, at + length) });
    if ((flags & 4n) === 0n) assert.is(length, Number(nrSectors) * sectorSize);
    at += Math.ceil(length / sectorSize) * sectorSize;
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
