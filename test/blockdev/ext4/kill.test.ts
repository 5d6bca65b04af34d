/** kill -9 of a process that writes to an ext4 over NBD, and of the block process below it. */
import type { ChildProcess } from 'node:child_process';
import { execFileSync, spawn } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { createImage, FileStore, mountExt4, NbdClient } from '../../../src/blockdev/index.ts';
import type { SeededRandom } from '../../../src/common/index.ts';
import { eventually, inScratch, limitMs, seeded, Trials, within } from '../../support/index.ts';
import { assertClean } from './image.ts';
import type { Told } from './records.ts';
import { assertAllThere, hear } from './records.ts';

const test = suite('blockdev/ext4/kill');

function start(script: string, ...args: string[]): ChildProcess {
  const path = fileURLToPath(new URL(script, import.meta.url));
  return spawn(process.execPath, ['--disable-warning=ExperimentalWarning', path, ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
}

async function kill(child: ChildProcess): Promise<void> {
  const gone = new Promise((resolve) => child.once('close', resolve));
  child.kill('SIGKILL');
  await gone;
}

/** One image, killed and mounted again and again; `during` may kill the server, too. */
async function rounds(
  what: string,
  random: SeededRandom,
  seed: number,
  during: (server: () => ChildProcess, restart: () => Promise<void>) => Promise<void>,
): Promise<void> {
  await inScratch(async (directory) => {
    const image = join(directory, 'image');
    const socket = join(directory, 'nbd.sock');
    await createImage({ path: image, sizeBytes: 16 * 1024 * 1024 });
    const told: Told = { log: -1, versions: new Map() };
    const serve = () => start('../nbd/serve-file.ts', image, socket);
    const trials = new Trials(`S1: ${what}`, 3, 20);
    for (; trials.more; trials.count++) {
      const round = trials.count + 1;
      let server = serve();
      await listening(socket);
      const writer = start('./kill-writer.ts', socket);
      let text = '';
      writer.stdout!.on('data', (chunk: Buffer) => {
        text += chunk.toString();
      });
      const lines = async (more: number) => {
        const wanted = text.split('\n').length + more;
        await eventually('acknowledged records', () => text.split('\n').length >= wanted, 60_000);
      };
      await lines(10 + random.below(60));
      await during(
        () => server,
        async () => {
          server = serve();
          await lines(20);
        },
      );
      await kill(writer);
      await kill(server);
      hear(told, text);
      const when = `in round ${round}`;
      if (round % 3 === 0) {
        execFileSync('e2fsck', ['-p', image], {
          stdio: 'pipe',
          env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` },
        });
      }
      const store = FileStore.open(image);
      const fs = await mountExt4(store);
      await assertAllThere(fs, told, when);
      await fs.unmount();
      await assertClean(store, when);
      await store.close();
    }
    trials.report(seed);
    assert.ok(told.log > 10, `${told.log} entries`);
    assert.ok(told.versions.size > 0, `${told.versions.size} files`);
  });
}

async function listening(socket: string): Promise<void> {
  const client = await eventually(
    'the server',
    () => NbdClient.connect(socket, 'disk').catch(() => undefined),
    30_000,
  );
  await client.close();
}

test(
  'kill -9 of the writer, three times: every acknowledged record is there, the file system is whole',
  within(
    () => seeded((random, seed) => rounds('kills of a writer on our ext4', random, seed, async () => {})),
    limitMs(280_000),
  ),
);

test(
  'kill -9 of the block process twice below a writer that goes on, then of the writer, three times',
  within(
    () =>
      seeded((random, seed) =>
        rounds('kills of the server and the writer', random, seed, async (server, restart) => {
          for (let time = 0; time < 2; time++) {
            await kill(server());
            await restart();
          }
        }),
      ),
    limitMs(280_000),
  ),
);

test.run();
