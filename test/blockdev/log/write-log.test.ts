import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { cp } from 'node:fs/promises';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  LogReader,
  MemoryStore,
  RECORD,
  recoverLog,
  replayLog,
  SEGMENT,
  segmentName,
  verifyLog,
  WriteLog,
} from '../../../src/blockdev/index.ts';
import { VirtualClock } from '../../../src/common/index.ts';
import { inScratch, seeded, within } from '../../support/index.ts';
import { errnoOf } from '../device-compliance.ts';
import { DISK_SIZE, fill, GENERATION, newLog, segmentsOf } from './log-support.ts';

const log = suite('blockdev/log');

log(
  'records are read back in order with time, address, length and data',
  within(() =>
    inScratch(async (directory) => {
      const clock = new VirtualClock();
      const writer = newLog(directory, { clock });
      await writer.record('data', 4096, 3, Buffer.from('abc'), { fua: true });
      clock.advance(1.5);
      await writer.record('zeroes', 8192, 65_536, undefined, { noHole: true });
      await writer.record('trim', 0, 512, undefined, undefined);
      await writer.flush();
      await writer.close();
      const reader = await LogReader.open(directory, { diskId: 'a-application', generation: GENERATION });
      const found = [];
      for await (const record of reader.records()) found.push(record);
      assert.equal(
        found.map((r) => [r.sequence, r.kind, r.address, r.length, r.payload, r.fua, r.noHole]),
        [
          [1n, 'data', 4096, 3, 3, true, false],
          [2n, 'zeroes', 8192, 65_536, 0, false, true],
          [3n, 'trim', 0, 512, 0, false, false],
          [4n, 'flush', 0, 0, 0, false, false],
        ],
      );
      assert.is(found[1]!.timeNs - found[0]!.timeNs, 1_500_000n);
      assert.is((await reader.readData(found[0]!)).toString(), 'abc');
    }),
  ),
);

log(
  'many large writes at once go out in batches and lose nothing',
  within(() =>
    inScratch(async (directory) => {
      const writer = newLog(directory, { segmentBytes: 1_000_000 });
      // Larger than what is written at once on the event loop.
      const writes = Array.from({ length: 100 }, (_, i) =>
        writer.record('data', i, 140_000 + i, Buffer.alloc(140_000 + i, i), undefined),
      );
      const small = writer.record('data', 5, 1, Buffer.from([9]), undefined);
      assert.ok(small instanceof Promise, 'a record behind a batch waits for its turn');
      await Promise.all([...writes, small]);
      await writer.close();
      const summary = await verifyLog(directory);
      assert.is(summary.records, 101);
      assert.is(summary.findings.length, 0);
      assert.is(summary.lastSequence, 101n);
      assert.ok(summary.segments > 5);
    }),
  ),
);

log(
  'segments are begun at their size, and each says which record is its first',
  within(() =>
    inScratch(async (directory) => {
      const writer = newLog(directory, { segmentBytes: 400 });
      await fill(writer, 20);
      await writer.close();
      const summary = await verifyLog(directory);
      assert.is(summary.records, 20);
      assert.is(summary.segments, segmentsOf(directory).size);
      assert.ok(summary.segments >= 5);
    }),
  ),
);

log(
  'a torn tail, cut at every byte of the last record, is found, cut off and gone on behind',
  within(() =>
    inScratch(async (directory) => {
      const writer = newLog(join(directory, 'log'));
      await fill(writer, 3);
      await writer.close();
      const name = segmentName(1);
      const whole = readFileSync(join(directory, 'log', name));
      const size = RECORD.size + 40;
      const lastAt = whole.length - size;
      for (let cut = 0; cut < size; cut++) {
        const torn = join(directory, 'torn');
        await cp(join(directory, 'log'), torn, { recursive: true });
        truncateSync(join(torn, name), lastAt + cut);
        const summary = await verifyLog(torn);
        assert.is(summary.records, 2);
        assert.is(summary.findings.length, 0);
        assert.is(summary.tornTail?.offset, cut === 0 ? undefined : lastAt, `cut after ${cut} bytes`);
        const recovery = await recoverLog(torn);
        assert.is(recovery.tail.nextSequence, 3n);
        assert.is(recovery.tail.offset, lastAt);
        assert.is(recovery.damage, undefined);
        const options = { diskId: 'a-application', diskSize: BigInt(DISK_SIZE), purpose: 'copy' as const };
        const again = WriteLog.resume(torn, recovery.tail, options);
        await again.record('data', 0, 2, Buffer.from('ok'), undefined);
        await again.close();
        const after = await verifyLog(torn);
        assert.is(after.lastSequence, 3n);
        assert.is(after.tornTail, undefined);
        assert.is(after.findings.length, 0);
        rmSync(torn, { recursive: true });
      }
    }),
  ),
);

log(
  'zero bytes behind the last record, as a power failure may leave them, are a torn tail',
  within(() =>
    inScratch(async (directory) => {
      const writer = newLog(directory);
      await fill(writer, 3);
      await writer.close();
      const path = join(directory, segmentName(1));
      const whole = readFileSync(path);
      writeFileSync(path, Buffer.concat([whole, Buffer.alloc(5000)]));
      const summary = await verifyLog(directory);
      assert.is(summary.tornTail?.offset, whole.length);
      assert.is(summary.records, 3);
      assert.is((await recoverLog(directory)).tail.offset, whole.length);
    }),
  ),
);

log(
  'a flipped bit at every byte is found at its place and nothing of it is replayed',
  within(
    () =>
      seeded((random) =>
        inScratch(async (directory) => {
          const writer = newLog(directory, { segmentBytes: 400 });
          await fill(writer, 8);
          await writer.record('zeroes', 100, 1000, undefined, undefined);
          await writer.close();
          const segments = segmentsOf(directory);
          assert.ok(segments.size > 2);
          for (const [name, good] of segments) {
            const number = Number(name.slice(0, 8));
            for (let at = 0; at < good.length; at++) {
              const bad = Buffer.from(good);
              bad[at]! ^= 1 << random.below(8);
              writeFileSync(join(directory, name), bad);
              const where = `segment ${number} byte ${at}`;
              if (at % 8 === 0) await assertNothingReplayed(directory, where);
              if (number === 1 && at < SEGMENT.size) continue;
              const { findings } = await verifyLog(directory);
              const first = findings[0]!;
              assert.is(first.segment, number, where);
              assert.ok(first.offset <= at && at < first.offset + RECORD.size + SEGMENT.size, where);
            }
            writeFileSync(join(directory, name), good);
          }
          assert.is((await verifyLog(directory)).findings.length, 0);
        }),
      ),
    60_000,
  ),
);

log(
  'records behind a damaged one are still shown by verify',
  within(() =>
    inScratch(async (directory) => {
      const writer = newLog(directory);
      await fill(writer, 10);
      await writer.close();
      const path = join(directory, segmentName(1));
      const bytes = readFileSync(path);
      bytes[SEGMENT.size + 3 * (RECORD.size + 40) + 5]! ^= 1;
      writeFileSync(path, bytes);
      const summary = await verifyLog(directory);
      assert.is(summary.findings[0]?.kind, 'damaged-header');
      assert.is(summary.records, 9);
      assert.is(summary.lastSequence, 10n);
    }),
  ),
);

log(
  'the log of another generation or disk is refused',
  within(() =>
    inScratch(async (directory) => {
      await newLog(directory).close();
      assert.is(await errnoOf(() => LogReader.open(directory, { generation: Buffer.alloc(16) })), 'foreign');
      assert.is(await errnoOf(() => LogReader.open(directory, { diskId: 'b' })), 'foreign');
      assert.is(await errnoOf(() => replayLog(directory, new MemoryStore(512))), 'foreign');
      assert.is(await errnoOf(() => LogReader.open(join(directory, 'none'))), 'no-log');
      assert.is(await errnoOf(() => newLog(directory)), 'log-exists');
    }),
  ),
);

log(
  'a segment of another log among the segments is found',
  within(() =>
    inScratch(async (directory) => {
      const own = join(directory, 'own');
      const other = join(directory, 'other');
      for (const [path, generation] of [
        [own, GENERATION],
        [other, Buffer.alloc(16, 7)],
      ] as const) {
        const writer = newLog(path, { segmentBytes: 300, generation });
        await fill(writer, 12);
        await writer.close();
      }
      writeFileSync(join(own, segmentName(2)), readFileSync(join(other, segmentName(2))));
      assert.is((await verifyLog(own)).findings[0]?.kind, 'foreign');
      assert.is(await errnoOf(() => replayLog(own, new MemoryStore(DISK_SIZE))), 'damaged');
      rmSync(join(own, segmentName(2)));
      assert.is((await verifyLog(own)).findings[0]?.kind, 'missing-segment');
      assert.is(await errnoOf(() => replayLog(own, new MemoryStore(DISK_SIZE))), 'damaged');
    }),
  ),
);

log(
  'replay goes up to a sequence or a time, the newest bytes win',
  within(() =>
    inScratch(async (directory) => {
      const clock = new VirtualClock();
      const writer = newLog(directory, { clock });
      const atNs: bigint[] = [];
      for (let i = 1; i <= 5; i++) {
        clock.advance(10);
        atNs.push(clock.wallNs());
        await writer.record('data', 1000, 100, Buffer.alloc(100, i), undefined);
      }
      await writer.close();
      const byteAfter = async (options: object) => {
        const target = new MemoryStore(DISK_SIZE);
        const result = await replayLog(directory, target, options);
        const out = Buffer.alloc(1);
        await target.readAt(out, 1050n);
        return [out[0], result.records, result.written];
      };
      assert.equal(await byteAfter({}), [5, 5, 100]);
      assert.equal(await byteAfter({ toSequence: 3n }), [3, 3, 100]);
      assert.equal(await byteAfter({ toTimeNs: atNs[1] }), [2, 2, 100]);
      assert.equal(await byteAfter({ toSequence: 0n }), [0, 0, 0]);
    }),
  ),
);

log(
  'at its cap the log spills: no record fails, and the dirty map names what was written since',
  within(() =>
    inScratch(async (directory) => {
      let reason = '';
      const writer = newLog(directory, {
        capBytes: 1000,
        onSpill: (why) => {
          reason = why;
        },
      });
      for (let i = 0; i < 20; i++) {
        await writer.record('data', (i * 65_536) % DISK_SIZE, 100, Buffer.alloc(100, 1), undefined);
        writer.landed((i * 65_536) % DISK_SIZE, 100, true);
      }
      assert.match(reason, /cap of 1000 bytes/);
      assert.is(writer.lastSequence, 20n);
      assert.ok(writer.bytes <= 1000);
      const kept = (await verifyLog(directory)).records;
      assert.ok(kept > 0 && kept < 20);
      const ranges = writer.takeDirty();
      assert.equal(ranges.at(-1), { start: kept * 65_536, end: DISK_SIZE });
      assert.equal(writer.takeDirty(), []);
      await writer.flush();
      await writer.close();
    }),
  ),
);

log(
  'a log directory that vanished spills at the next segment',
  within(() =>
    inScratch(async (directory) => {
      const writer = newLog(join(directory, 'log'), { segmentBytes: 300 });
      await fill(writer, 2);
      rmSync(join(directory, 'log'), { recursive: true });
      await fill(writer, 10);
      assert.match(writer.spilled ?? '', /ENOENT/);
      assert.ok(writer.dirtyBytes > 0);
      await writer.close();
    }),
  ),
);

log(
  'segments that were reflected can be removed, the rest stays readable',
  within(() =>
    inScratch(async (directory) => {
      const writer = newLog(directory, { segmentBytes: 300 });
      await fill(writer, 12);
      const position = await writer.position();
      await writer.flush();
      writer.dropBefore(position);
      await fill(writer, 3);
      await writer.close();
      const reader = await LogReader.open(directory);
      const sequences = [];
      for await (const record of reader.records({ from: position })) sequences.push(record.sequence);
      assert.is(sequences[0], position.sequence);
      assert.is(sequences.length, 4, 'the flush mark and three records');
      assert.is(segmentsOf(directory).size < 4, true);
    }),
  ),
);

async function assertNothingReplayed(directory: string, where: string): Promise<void> {
  const target = new MemoryStore(DISK_SIZE);
  assert.is(await errnoOf(() => replayLog(directory, target)), 'damaged', where);
  assert.is((await target.extents(0n, target.size)).length, 1, `${where}: nothing was written`);
}

log(
  'a replay: damage behind the goal is not looked at; of another disk or generation, or without its first records, it is refused',
  within(() =>
    inScratch(async (directory) => {
      const path = join(directory, 'log');
      const writer = newLog(path, { segmentBytes: 4096 });
      await fill(writer, 200);
      await writer.flush();
      const names = [...segmentsOf(path).keys()];
      assert.ok(names.length > 3);
      const second = (await LogReader.open(path)).header;
      assert.is(second.firstSequence, 1n);
      const target = () => new MemoryStore(DISK_SIZE);
      assert.is(await errnoOf(() => replayLog(path, target(), { diskId: 'b-application' })), 'foreign');
      assert.is(
        await errnoOf(() => replayLog(path, target(), { generation: Buffer.alloc(16, 1) })),
        'foreign',
      );
      const segment = join(path, names[0]!);
      const bytes = readFileSync(segment);
      const broken = Buffer.from(bytes);
      broken[SEGMENT.size + 2 * (RECORD.size + 40) + RECORD.data]! ^= 1;
      writeFileSync(segment, broken);
      assert.is((await replayLog(path, target(), { toSequence: 2n })).lastSequence, 2n);
      assert.is(await errnoOf(() => replayLog(path, target(), { toSequence: 3n })), 'damaged');
      writeFileSync(segment, bytes);
      writer.dropBefore(await writer.position());
      await writer.close();
      const store = target();
      assert.is(await errnoOf(() => replayLog(path, store)), 'partial');
      assert.is((await store.extents(0n, store.size)).length, 1, 'nothing was written');
      const result = await replayLog(path, store, { partial: true });
      assert.ok(result.records < 200);
      assert.is(result.lastSequence, (await verifyLog(path)).lastSequence);
    }),
  ),
);

log.run();
