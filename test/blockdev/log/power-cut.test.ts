/**
 * S3, S4, S10 in memory: a disk and its write log on files that lose, tear and mix what was not made durable. 100 000 power cuts,
 * 200 crashes during recovery, 20 000 flipped bits; more with SOAK=1.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { LogRecord, LogReader as Reader } from '../../../src/blockdev/index.ts';
import {
  FileStore,
  LogReader,
  recoverLog,
  verifyLog,
  WriteLog,
  WriteTrap,
} from '../../../src/blockdev/index.ts';
import type { SeededRandom } from '../../../src/common/index.ts';
import { codeOf } from '../../../src/common/index.ts';
import { limitMs, SOAK, seeded, Trials, within } from '../../support/index.ts';
import type { Files } from './volatile-files.ts';
import { afterPowerCut, Crash, SECTOR, VolatileFiles } from './volatile-files.ts';

const power = suite('blockdev/log/power-cut');

const POWER_CUTS = SOAK ? 50_000_000 : 100_000;
const RECOVERY_CRASHES = SOAK ? 20_000 : 200;
const FLIPPED_BITS = SOAK ? 10_000_000 : 20_000;
const LIMIT_MS = limitMs(270_000);

const LOG = '/volatile/log';
const IMAGE = '/volatile/disk/a.img';
const SECTORS = 48;
const WRITERS = 3;
const OWN = SECTORS / WRITERS;

type Note =
  | { readonly what: 'begun'; readonly stamp: number; readonly sector: number; readonly count: number }
  /** Writes up to this stamp of the writer are promised to be durable. */
  | { readonly what: 'promised'; readonly writer: number; readonly stamp: number };

interface Trace {
  readonly disk: VolatileFiles;
  readonly before: Files;
  /** Every record as it was written, by sequence. */
  readonly records: Map<bigint, { readonly address: number; readonly data: Buffer }>;
}

function options() {
  return {
    diskId: 'a',
    diskSize: BigInt(SECTORS * SECTOR),
    purpose: 'reverse' as const,
    segmentBytes: 6 * 1024,
  };
}

async function inVolatile<T>(disk: VolatileFiles, body: () => Promise<T>): Promise<T> {
  disk.install();
  try {
    return await body();
  } finally {
    disk.restore();
  }
}

/** A few writes by three writers with sectors of their own, some of them FUA, some flushes. */
async function record(random: SeededRandom, shortEvery = 0): Promise<Trace> {
  const before: Files = new Map([[IMAGE, Buffer.alloc(SECTORS * SECTOR)]]);
  const disk = new VolatileFiles(new Map(before));
  disk.shortEvery = shortEvery;
  return inVolatile(disk, async () => {
    const store = FileStore.open(IMAGE, { exclusive: false });
    const trap = new WriteTrap(store);
    const log = WriteLog.create(LOG, options());
    trap.attach(log);
    let stamp = 0;
    const finished = new Uint32Array(WRITERS);
    const note = (value: Note) => disk.note(value);
    const writer = async (own: number) => {
      for (let i = 0; i < 3; i++) {
        const mine = ++stamp;
        const count = 1 + random.below(4);
        const sector = own * OWN + random.below(OWN - count);
        const fua = random.below(6) === 0;
        note({ what: 'begun', stamp: mine, sector, count });
        const data = Buffer.alloc(count * SECTOR, mine);
        const now = !fua && random.below(2) === 0 && trap.writeAtSync(data, BigInt(sector * SECTOR));
        if (!now) await trap.writeAt(data, BigInt(sector * SECTOR), { fua });
        finished[own] = mine;
        // FUA promises this write; earlier ones of the writer only where it lies above them.
        if (fua) note({ what: 'begun', stamp: mine, sector, count: -count });
        if (random.below(4) === 0) {
          const covered = [...finished];
          await trap.flush();
          for (const [w, s] of covered.entries()) note({ what: 'promised', writer: w, stamp: s });
        }
      }
    };
    await Promise.all(Array.from({ length: WRITERS }, (_, own) => writer(own)));
    assert.is(log.spilled, undefined);
    await log.position();
    const records: Trace['records'] = new Map();
    for await (const item of (await LogReader.open(LOG)).scan())
      if ('record' in item)
        records.set(item.record.sequence, { address: item.record.address, data: Buffer.from(item.data) });
    return { disk, before, records };
  });
}

/** Per sector: the stamp that must be there at least, and the newest that may be. */
function boundsAt(trace: Trace, count: number): { readonly least: Uint8Array; readonly most: Uint8Array } {
  const least = new Uint8Array(SECTORS);
  const most = new Uint8Array(SECTORS);
  const begun: { readonly stamp: number; readonly sector: number; readonly count: number }[] = [];
  for (const change of trace.disk.changes.slice(0, count)) {
    if (change.kind !== 'note') continue;
    const note = change.note as Note;
    if (note.what === 'begun' && note.count > 0) {
      begun.push(note);
      most.fill(note.stamp, note.sector, note.sector + note.count);
    } else if (note.what === 'begun') least.fill(note.stamp, note.sector, note.sector - note.count);
    else
      for (const { stamp, sector, count: length } of begun)
        if (stamp <= note.stamp && Math.floor(sector / OWN) === note.writer)
          for (let s = sector; s < sector + length; s++) least[s] = Math.max(least[s]!, stamp);
  }
  return { least, most };
}

function checkSectors(bytes: Buffer, bounds: ReturnType<typeof boundsAt>, where: string): void {
  for (let s = 0; s < SECTORS; s++) {
    const found = bytes[s * SECTOR]!;
    if (found < bounds.least[s]! || found > bounds.most[s]!)
      assert.unreachable(`${where}, sector ${s}: write ${found}, promised ${bounds.least[s]}`);
    if (bytes[(s + 1) * SECTOR - 1] !== found) assert.unreachable(`${where}, sector ${s} is torn`);
  }
}

/** Reflects what a reader hands out; each record must be one that was written. */
async function replayed(
  trace: Trace,
): Promise<{ readonly bytes: Buffer; readonly finding: string | undefined }> {
  const bytes = Buffer.alloc(SECTORS * SECTOR);
  let reader: Reader;
  try {
    reader = await LogReader.open(LOG);
  } catch (error) {
    const code = codeOf(error) ?? '';
    if (code === 'no-log' || code === 'damaged') return { bytes, finding: code };
    throw error;
  }
  for await (const item of reader.scan()) {
    if ('finding' in item) return { bytes, finding: item.finding.kind };
    expectWritten(trace, item.record, item.data);
    item.data.copy(bytes, item.record.address);
  }
  return { bytes, finding: undefined };
}

function expectWritten(trace: Trace, record: LogRecord, data: Buffer): void {
  const was = trace.records.get(record.sequence);
  if (was === undefined || was.address !== record.address || !was.data.equals(data))
    assert.unreachable(`record ${record.sequence} was never written so`);
}

power(
  `after ${POWER_CUTS} power cuts what was flushed or FUA is on the disk and in the log, and no bad record is replayed`,
  within(
    () =>
      seeded(async (random, seed) => {
        const ends = new Map<string, number>();
        const cuts = new Trials('S3: power cuts', 100_000, POWER_CUTS);
        while (cuts.more) {
          const trace = await record(random);
          const view = new VolatileFiles();
          await inVolatile(view, async () => {
            const places = trace.disk.changes.length;
            for (let count = 0; count <= places && cuts.more; count++) {
              const bounds = boundsAt(trace, count);
              for (let again = 0; again < 20 && cuts.more; again++, cuts.count++) {
                view.files = afterPowerCut(trace.before, trace.disk.changes, count, random);
                checkSectors(view.files.get(IMAGE)!, bounds, 'disk');
                const { bytes, finding } = await replayed(trace);
                checkSectors(bytes, bounds, 'log');
                ends.set(finding ?? 'whole', (ends.get(finding ?? 'whole') ?? 0) + 1);
              }
            }
          });
        }
        cuts.report(seed, `logs found ${[...ends].join(' ')}`);
      }),
    LIMIT_MS,
  ),
);

/** Recovers, goes on with two records and a flush. Returns the records found first. */
async function recoverAndGoOn(): Promise<bigint> {
  const { tail, damage } = await recoverLog(LOG, { diskId: 'a' });
  if (damage !== undefined) return -1n;
  const log = WriteLog.resume(LOG, tail, options());
  for (let i = 0; i < 2; i++) await log.record('data', 0, SECTOR, Buffer.alloc(SECTOR, 0xee), undefined);
  await log.flush();
  await log.close();
  if (log.spilled !== undefined) throw new Crash(log.spilled);
  return tail.nextSequence;
}

power(
  `a crash at each write of a recovery, ${RECOVERY_CRASHES} times: the next recovery finds every record that was whole`,
  within(
    () =>
      seeded(async (random, seed) => {
        const crashes = new Trials('S4: crashes during recovery', 200, RECOVERY_CRASHES);
        while (crashes.more) {
          const trace = await record(random);
          const count = random.below(trace.disk.changes.length + 1);
          const found = afterPowerCut(trace.before, trace.disk.changes, count, random);
          const sound = new VolatileFiles(new Map(found));
          const next = await inVolatile(sound, () => recoverAndGoOn().catch(() => -1n));
          if (next < 0n) continue;
          for (let at = 0; at < sound.made && crashes.more; at++, crashes.count++) {
            const crashed = new VolatileFiles(new Map(found));
            crashed.crashAt = at;
            await inVolatile(crashed, () => recoverAndGoOn().catch(() => 0n));
            const files =
              crashes.count % 2 === 0
                ? crashed.files
                : afterPowerCut(found, crashed.changes, crashed.changes.length, random);
            const again = new VolatileFiles(files);
            await inVolatile(again, async () => {
              const then = await recoverAndGoOn();
              // After kill -9 the log is gone on with; after a power failure what was not flushed may be damaged.
              if (crashes.count % 2 === 0)
                assert.ok(then >= next, `recovered to ${then}, at first to ${next}`);
              // Of a log whose first segments were lost the later ones begin higher.
              const reader = await LogReader.open(LOG);
              let sequence = reader.header.firstSequence;
              for await (const item of reader.scan()) {
                if ('finding' in item) break;
                const { record, data } = item;
                sequence = record.sequence + 1n;
                if (record.sequence < next) expectWritten(trace, record, data);
              }
              assert.ok(sequence >= next, `records to ${sequence}, before the crash to ${next}`);
            });
          }
        }
        crashes.report(seed);
      }),
    LIMIT_MS,
  ),
);

power(
  `${FLIPPED_BITS} single flipped bits anywhere in a log are found, and nothing wrong is handed out`,
  within(
    () =>
      seeded(async (random, seed) => {
        const flips = new Trials('S10: flipped bits', 20_000, FLIPPED_BITS);
        while (flips.more) {
          const trace = await record(random);
          const segments = [...trace.disk.files.keys()].filter((name) => name.startsWith(LOG));
          const view = new VolatileFiles(trace.disk.files);
          await inVolatile(view, async () => {
            for (let i = 0; i < 2000 && flips.more; i++, flips.count++) {
              const name = segments[random.below(segments.length)]!;
              const bytes = view.files.get(name)!;
              const bit = random.below(bytes.length * 8);
              bytes[bit >> 3]! ^= 1 << (bit & 7);
              const { finding } = await replayed(trace);
              if (finding === undefined || finding === 'torn-tail')
                assert.unreachable(`bit ${bit} of ${name}: ${finding ?? 'not found'}`);
              if (i % 100 === 0) {
                const summary = await verifyLog(LOG).catch(codeOf);
                assert.ok(
                  summary === 'damaged' || (typeof summary === 'object' && summary.findings.length > 0),
                );
              }
              bytes[bit >> 3]! ^= 1 << (bit & 7);
            }
          });
        }
        flips.report(seed);
      }),
    LIMIT_MS,
  ),
);

power(
  'writes that the kernel cuts short, every N-th one: disk and log hold every byte',
  within(() =>
    seeded(async (random) => {
      for (let every = 1; every <= 12; every++) {
        const trace = await record(random, every);
        const bounds = boundsAt(trace, trace.disk.changes.length);
        checkSectors(trace.disk.files.get(IMAGE)!, { ...bounds, least: bounds.most }, 'disk');
        const view = new VolatileFiles(trace.disk.files);
        const { bytes, finding } = await inVolatile(view, () => replayed(trace));
        assert.is(finding, undefined);
        checkSectors(bytes, { ...bounds, least: bounds.most }, 'log');
      }
    }),
  ),
);

power.run();
