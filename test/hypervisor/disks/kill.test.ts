/**
 * S1: kill -9 of the block process under load. 200 kills, 30 000 with SOAK=1. Ten lives of one disk and one log in a row; after
 * each, the disk and what the log alone gives are compared with what was acknowledged; at the end the way back is taken
 * and proven.
 */
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { MemoryStore, NbdClient, replayLog } from '../../../src/blockdev/index.ts';
import { SeededRandom } from '../../../src/common/index.ts';
import { inScratch, limitMs, SOAK, seeded, Trials, within } from '../../support/index.ts';
import { BlockProcess, bundleBlockProcess } from './block-process.ts';
import { SECTOR, SectorModel } from './sector-model.ts';

const kill = suite('hypervisor/disks/kill');

const KILLS = SOAK ? 30_000 : 200;
const LIVES = 10;
const DISK = 1024 * 1024;
const WRITERS = 6;

/** Writes until the server is gone. Each writer has sectors of its own, so that the order of its writes is known. */
async function load(client: NbdClient, model: SectorModel, random: SeededRandom, enough: () => void) {
  const own = model.sectors / WRITERS;
  const writer = async (number: number) => {
    const first = Math.ceil(number * own);
    const end = Math.floor((number + 1) * own);
    for (;;) {
      const count = 1 + random.below(random.below(8) === 0 ? 64 : 12);
      const sector = first + random.below(end - first - count);
      const { stamp, data } = model.begin(sector, count);
      try {
        await client.writeAt(data, BigInt(sector * SECTOR), { fua: random.below(20) === 0 });
      } catch {
        return;
      }
      model.acknowledge(sector, count, stamp);
      enough();
      if (random.below(40) === 0) await client.flush().catch(() => {});
    }
  };
  await Promise.all(Array.from({ length: WRITERS }, (_, number) => writer(number)));
}

async function life(process: BlockProcess, model: SectorModel, random: SeededRandom): Promise<void> {
  await process.serve();
  const client = await NbdClient.connect(process.socket, 'a', { reconnectTimeoutMs: 1 });
  let left = 5 + random.below(80);
  await load(client, model, random, () => {
    if (--left === 0) process.kill();
  });
  await client.close().catch(() => {});
  assert.is(await process.ended, 'SIGKILL');
  // A damaged log is refused here, a torn tail is not.
  const replayed = new MemoryStore(DISK);
  await replayLog(process.logDirectory, replayed);
  const inLog = Buffer.alloc(DISK);
  await replayed.readAt(inLog, 0n);
  model.check(readFileSync(process.image), inLog);
}

/** Returns acknowledged writes. */
async function chain(program: string, directory: string, lives: number, seed: number): Promise<number> {
  const random = new SeededRandom(seed);
  const model = new SectorModel(DISK);
  mkdirSync(directory);
  const options = { program, directory, diskBytes: DISK };
  for (let i = 0; i < lives; i++) await life(await BlockProcess.start(options), model, random);
  const last = await BlockProcess.start(options);
  await last.serve();
  const cut = await last.command('copy-cut', { copy: 'back', fence: 'refuse', verify: true });
  assert.is(cut.disks[0]?.proof?.unproven, '0', 'the way back is proven');
  await last.stop();
  assert.ok(readFileSync(join(directory, 'b.img')).equals(readFileSync(join(directory, 'a.img'))));
  return model.acknowledgedWrites;
}

kill(
  `after each of ${KILLS} kills every acknowledged write is on the disk and in the log, and the way back works`,
  within(
    () =>
      seeded((random, seed) =>
        inScratch(async (directory) => {
          const program = await bundleBlockProcess(directory);
          const kills = new Trials('S1: kills', 200, KILLS);
          let begun = 0;
          let writes = 0;
          const worker = async () => {
            while (begun < KILLS && kills.more) {
              const lives = Math.min(LIVES, KILLS - begun);
              begun += lives;
              const acknowledged = await chain(program, join(directory, `c${begun}`), lives, random.u32());
              writes += acknowledged;
              kills.count += lives;
            }
          };
          await Promise.all([worker(), worker()]);
          kills.report(seed, `${writes} acknowledged writes`);
        }),
      ),
    limitMs(240_000),
  ),
);

kill.run();
