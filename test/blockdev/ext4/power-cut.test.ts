/**
 * Power cuts: the trace of a random workload is cut before every event; unflushed writes are lost, reordered and torn at
 * sectors. Held: every commit is there as a whole or not at all, and none that was acknowledged is missing.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Device } from '../../../src/blockdev/index.ts';
import { FileStore, MemoryStore, mountExt4 } from '../../../src/blockdev/index.ts';
import type { SeededRandom } from '../../../src/common/index.ts';
import { seeded, within } from '../../support/index.ts';
import { assertClean, freshDevice } from './image.ts';
import type { Model } from './model.ts';
import { copyOfModel, difference, randomStep, readModel, torn } from './model.ts';
import { PowerCuts, RecordingDevice } from './power-cut.ts';

const test = suite('blockdev/ext4/power-cut');
const SOAK = process.env['SOAK'] === '1';
const IMAGE_BYTES = 8 * 1024 * 1024;

interface Acknowledged {
  /** Events that there were when the sync began, and when it was acknowledged. */
  readonly began: number;
  readonly acknowledged: number;
  readonly model: Model;
}

interface Trace {
  readonly start: MemoryStore;
  readonly device: RecordingDevice;
  readonly states: readonly Acknowledged[];
}

async function copyOf(device: Device): Promise<MemoryStore> {
  const copy = new MemoryStore(device.size);
  const bytes = Buffer.alloc(Number(device.size));
  await device.readAt(bytes, 0n);
  await copy.writeAt(bytes, 0n);
  return copy;
}

/** Steps with a sync after every one to four; now and then a freeze, which empties the journal. */
async function record(random: SeededRandom, steps: number): Promise<Trace> {
  const start = await freshDevice(IMAGE_BYTES);
  const device = new RecordingDevice(await copyOf(start));
  const fs = await mountExt4(device);
  const model: Model = { files: new Map(), folders: new Set(['/']) };
  const states: Acknowledged[] = [{ began: 0, acknowledged: 0, model: copyOfModel(model) }];
  const log = await fs.open('/log', 'a');
  model.files.set('/log', Buffer.alloc(0));
  const commit = async (work: () => Promise<void>) => {
    const began = device.events.length;
    await work();
    states.push({ began, acknowledged: device.events.length, model: copyOfModel(model) });
  };
  for (let step = 0; step < steps; step++) {
    if (random.below(2) === 0) {
      const line = Buffer.from(`entry ${step} ${'x'.repeat(random.below(200))}\n`);
      await log.appendFile(line);
      model.files.set('/log', Buffer.concat([model.files.get('/log')!, line]));
    } else {
      const { files } = model;
      const kept = files.get('/log')!;
      files.delete('/log');
      await randomStep(fs, model, random);
      files.set('/log', kept);
    }
    if (random.below(3) !== 0) await commit(() => log.datasync());
    if (step % 60 === 59) {
      await commit(() => fs.freeze());
      fs.thaw();
    }
  }
  await commit(() => fs.unmount());
  return { start, device, states };
}

/** Undefined, or why what is found is neither the last acknowledged state nor the one on its way. */
function judge(found: Model, states: readonly Acknowledged[], at: number): string | undefined {
  let last = 0;
  while (last + 1 < states.length && states[last + 1]!.acknowledged <= at) last++;
  const before = states[last]!;
  const after = states[last + 1];
  const why = difference(found, before.model);
  if (why === undefined || after === undefined) return why;
  const other = difference(found, after.model);
  if (other === undefined) return undefined;
  return torn(found, before.model, after.model) === undefined ? undefined : `${why}; next state: ${other}`;
}

test(
  'cut at every write and flush: our mount finds every acknowledged commit, whole',
  within(
    () =>
      seeded(async (random) => {
        const rounds = SOAK ? 12 : 2;
        let cases = 0;
        for (let round = 0; round < rounds; round++) {
          const { start, device, states } = await record(random, 220);
          const cuts = new PowerCuts(await copyOf(start), device.events);
          for (let at = 0; at <= device.events.length; at++) {
            await cuts.advance(at);
            const disk = await cuts.cut(random);
            const recovery = new RecordingDevice(disk);
            const fs = await mountExt4(recovery);
            const found = await readModel(fs);
            assert.is(judge(found, states, at), undefined, `cut before event ${at}`);
            cases++;
            // What is allocated now must not lie upon what is there.
            if (at % 16 === 0) {
              await fs.writeFile('/afterwards', Buffer.alloc(50_000, 1));
              await fs.sync();
              for (const [path, data] of found.files) assert.ok((await fs.readFile(path)).equals(data), path);
            }
            if (at % 40 === 0) {
              await fs.unmount();
              await assertClean(disk, `after a cut before event ${at}`);
            } else fs.abandon();
          }
          assert.ok(device.events.length > 700, `${device.events.length} events`);
        }
        assert.ok(cases > 1_500, `${cases} cases`);
      }),
    SOAK ? 290_000 : 150_000,
  ),
);

test(
  'cut while it recovers: the next recovery finds the same',
  within(
    () =>
      seeded(async (random) => {
        const { start, device, states } = await record(random, 120);
        const cuts = new PowerCuts(await copyOf(start), device.events);
        let cases = 0;
        for (let at = 0; at <= device.events.length; at += 1 + random.below(6)) {
          await cuts.advance(at);
          const disk = await copyOf(await cuts.cut(random));
          const recovery = new RecordingDevice(await copyOf(disk));
          const first = await mountExt4(recovery);
          await first.appendFile('/log', 'more');
          await first.unmount();
          const again = new PowerCuts(disk, recovery.events);
          const place = random.below(recovery.events.length);
          await again.advance(place);
          const fs = await mountExt4(await again.cut(random), { readOnly: random.below(2) === 0 });
          const found = await readModel(fs);
          const log = found.files.get('/log');
          if (log !== undefined && log.subarray(-4).toString() === 'more') {
            found.files.set('/log', log.subarray(0, -4));
          }
          let verdict = judge(found, states, at);
          // The append may have made the file: then there was none, or an empty one, before it.
          if (verdict !== undefined && (log?.toString() === 'more' || log?.length === 0)) {
            found.files.delete('/log');
            verdict = judge(found, states, at);
          }
          assert.is(verdict, undefined, `cut before event ${at}, then before ${place}`);
          fs.abandon();
          cases++;
        }
        assert.ok(cases > 80, `${cases} cases`);
      }),
    120_000,
  ),
);

test(
  'e2fsck by itself puts the journal back: it finds nothing else, and no acknowledged commit is lost',
  within(
    () =>
      seeded(async (random) => {
        const { start, device, states } = await record(random, 160);
        const cuts = new PowerCuts(await copyOf(start), device.events);
        const directory = mkdtempSync(join(tmpdir(), 'changeover-ext4-'));
        const path = join(directory, 'image');
        const e2fsck = (...args: string[]) =>
          execFileSync('e2fsck', [...args, path], {
            stdio: 'pipe',
            env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` },
          }).toString();
        try {
          const step = Math.ceil(device.events.length / (SOAK ? 400 : 40));
          for (let at = random.below(step); at <= device.events.length; at += step) {
            await cuts.advance(at);
            const disk = await cuts.cut(random, true);
            const bytes = Buffer.alloc(Number(disk.size));
            await disk.readAt(bytes, 0n);
            writeFileSync(path, bytes);
            // -p ends with 1 when it mended more than the journal.
            e2fsck('-p');
            e2fsck('-fn');
            const store = FileStore.open(path, { readOnly: true });
            const fs = await mountExt4(store, { readOnly: true });
            assert.is(judge(await readModel(fs), states, at), undefined, `cut before event ${at}`);
            await fs.unmount();
            await store.close();
          }
        } finally {
          rmSync(directory, { recursive: true, force: true });
        }
      }),
    120_000,
  ),
);

test.run();
