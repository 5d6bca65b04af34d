import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { crc32Be, crc32c } from '../../../src/blockdev/ext4/crc.ts';
import { MemoryStore, mountExt4 } from '../../../src/blockdev/index.ts';
import { CodedError } from '../../../src/common/index.ts';
import { seeded, within } from '../../support/index.ts';
import { freshDevice } from './image.ts';
import { PowerCuts, RecordingDevice } from './power-cut.ts';

const test = suite('blockdev/ext4/journal');
const SIZE = 8 * 1024 * 1024;

test(
  'check values of both CRCs, in one piece and in two',
  within(() => {
    const digits = Buffer.from('123456789');
    assert.is((crc32c(digits) ^ 0xffff_ffff) >>> 0, 0xe306_9283);
    assert.is(crc32Be(digits), 0x0376_e6e7);
    for (let at = 0; at <= digits.length; at++) {
      assert.is(crc32Be(digits.subarray(at), crc32Be(digits.subarray(0, at))), 0x0376_e6e7);
      assert.is(crc32c(digits.subarray(at), crc32c(digits.subarray(0, at))), crc32c(digits));
    }
  }),
);

/** A disk with a whole transaction in its journal, nothing of it in its places; and where its journal begins. */
async function unreplayed(): Promise<{ disk: MemoryStore; journal: number }> {
  const start = await freshDevice(SIZE);
  const copy = new MemoryStore(start.size);
  const bytes = Buffer.alloc(SIZE);
  await start.readAt(bytes, 0n);
  await copy.writeAt(bytes, 0n);
  const recording = new RecordingDevice(copy);
  const fs = await mountExt4(recording);
  await fs.writeFile('/f', 'one');
  const handle = await fs.open('/f', 'r+');
  await handle.datasync();
  const at = recording.events.length;
  fs.abandon();
  const disk = new MemoryStore(start.size);
  await disk.writeAt(bytes, 0n);
  await new PowerCuts(disk, recording.events).advance(at);
  const written = recording.events.flatMap((event) => (event.kind === 'write' ? [event.offset] : []));
  return { disk, journal: Math.min(...written.filter((offset) => offset > SIZE / 16)) };
}

test(
  'damage anywhere in superblock, group table and journal: mounted as before or after the transaction, or refused',
  within(
    () =>
      seeded(async (random) => {
        const { disk, journal } = await unreplayed();
        const whole = await mountExt4(disk, { readOnly: true });
        assert.is(await whole.readFile('/f', 'utf8'), 'one');
        whole.abandon();
        const bytes = Buffer.alloc(SIZE);
        await disk.readAt(bytes, 0n);
        const outcomes = { mounted: 0, refused: 0 };
        for (let run = 0; run < 600; run++) {
          const damaged = new MemoryStore(BigInt(SIZE));
          await damaged.writeAt(bytes, 0n);
          const places = [
            1024 + random.below(1024),
            4096 + random.below(64),
            journal + random.below(12 * 4096),
          ];
          for (let flips = 1 + random.below(4); flips > 0; flips--) {
            const small = journal + random.below(3) * 4096 + random.below(128);
            const at = random.below(3) === 0 ? small : places[random.below(places.length)]!;
            await damaged.writeAt(Buffer.of(random.u32() & 0xff), BigInt(at));
          }
          try {
            const fs = await mountExt4(damaged, { readOnly: true });
            const there = (await fs.readdir('/')).includes('f');
            if (there) assert.is(await fs.readFile('/f', 'utf8'), 'one', `run ${run}`);
            fs.abandon();
            outcomes.mounted++;
          } catch (error) {
            if (!(error instanceof CodedError)) throw error;
            outcomes.refused++;
          }
        }
        assert.ok(outcomes.mounted > 50 && outcomes.refused > 20, JSON.stringify(outcomes));
      }),
    60_000,
  ),
);

test.run();
