/** A copy that was killed is gone on with when its logs know every write since it began, and begun anew when they do not. */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { NbdClient } from '../../../src/blockdev/index.ts';
import { ChannelClient } from '../../../src/channel/index.ts';
import type { SeededRandom } from '../../../src/common/index.ts';
import type { DiskCommands, DiskEvents } from '../../../src/hypervisor/disks/index.ts';
import { DiskService } from '../../../src/hypervisor/disks/index.ts';
import { errnoOf } from '../../blockdev/device-compliance.ts';
import { eventually, inScratch, limitMs, seeded, Trials, within } from '../../support/index.ts';

const resume = suite('hypervisor/disks/resume');
const MIB = 1024 * 1024;
const SIZE = 16 * MIB;
const pairs = [{ from: 'a', to: 'b' }];

/** Fills the source image with data, some of it holes. */
function fill(path: string, random: SeededRandom): void {
  const image = Buffer.alloc(SIZE);
  for (let at = 0; at < SIZE; at += 4096)
    if (random.below(4) > 0) image.fill(random.u32() & 0xff, at, at + 4096);
  writeFileSync(path, image);
}

/** Writers with blocks of their own; the last acknowledged stamp of each block is known. */
class Load {
  readonly acknowledged = new Map<number, number>();
  #stop = false;
  #stamp = 0;
  readonly #running: Promise<void>[];

  constructor(client: NbdClient, random: SeededRandom) {
    this.#running = [0, 1, 2].map((own) => this.#write(client, random, own));
  }

  async stop(): Promise<void> {
    this.#stop = true;
    await Promise.all(this.#running);
  }

  async #write(client: NbdClient, random: SeededRandom, own: number): Promise<void> {
    while (!this.#stop) {
      const offset = (random.below(SIZE / 4096 / 3 - 1) * 3 + own) * 4096;
      const stamp = ++this.#stamp;
      const data = Buffer.alloc(4096);
      data.writeUInt32LE(stamp);
      await client.writeAt(data, BigInt(offset));
      this.acknowledged.set(offset, stamp);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }
}

for (const kind of ['copy', 'mirror'] as const)
  resume(
    `a ${kind} under load goes on after each kill -9 of the block process; the target is the source as of the cut`,
    within(
      () =>
        seeded((random, seed) =>
          inScratch(async (directory) => {
            const path = (name: string) => join(directory, name);
            const program = fileURLToPath(new URL('../../../src/daemon/processes/block.ts', import.meta.url));
            const start = async () => {
              const argv = [
                '--disable-warning=ExperimentalWarning',
                program,
                '--socket',
                path('block.sock'),
                '--lifeline',
              ];
              const child = spawn(process.execPath, argv, { stdio: ['pipe', 'ignore', 'ignore'] });
              const ended = new Promise((resolve) => child.once('close', resolve));
              const channel = await ChannelClient.connect<DiskCommands, DiskEvents>(
                path('block.sock'),
                'block',
                { waitMs: 30_000 },
              );
              for (const id of ['a', 'b'])
                await channel.execute('disk-add', { id, path: path(`${id}.img`), create: String(SIZE) });
              return { child, ended, channel };
            };
            const copyStart = { copy: 'c', pairs, logDirectory: path('log'), rateLimit: 6 * MIB };
            const serve = { socket: path('a.sock'), exports: { a: 'a' } };
            fill(path('a.img'), random);
            let block = await start();
            const mirrorStart = { mirror: 'c', pairs, rateLimit: 6 * MIB };
            if (kind === 'copy') await block.channel.execute('copy-start', copyStart);
            else await block.channel.execute('mirror-start', mirrorStart);
            await block.channel.execute('serve', serve);
            const client = await NbdClient.connect(serve.socket, 'a', { reconnectTimeoutMs: 30_000 });
            const load = new Load(client, random);
            let before = 0;
            const trials = new Trials(`S6: kills while a ${kind} is made`, 3, 100);
            for (; trials.more; trials.count++) {
              const kill = trials.count;
              const goal = Math.min(before + MIB + random.below(2 * MIB), 12 * MIB);
              await eventually(
                'some more copied',
                async () =>
                  Number((await block.channel.execute('copy-status', { copy: 'c' })).copied) >= goal,
                20_000,
              );
              block.child.kill('SIGKILL');
              await block.ended;
              block = await start();
              const status =
                kind === 'copy'
                  ? await block.channel.execute('copy-start', { ...copyStart, resumeOnly: true })
                  : await block.channel.execute('mirror-resync', mirrorStart);
              assert.is(status.resumed, true);
              if (kind === 'mirror' && kill === 0)
                assert.ok(Number(status.total) < SIZE, 'what was copied before a kill is not copied again');
              await block.channel.execute('serve', serve);
              const { copied } = await eventually('what was copied is counted', async () => {
                const now = await block.channel.execute('copy-status', { copy: 'c' });
                return Number(now.copied) > 0 || now.phase !== 'copying' ? now : undefined;
              });
              before = kind === 'copy' ? Number(copied) : 0;
            }
            if (kind === 'copy') assert.ok(before > 0, 'what was copied before a kill was not copied again');
            await eventually(
              'converged',
              async () => (await block.channel.execute('copy-status', { copy: 'c' })).phase === 'converged',
              30_000,
            );
            await load.stop();
            const cut = await block.channel.execute('copy-cut', { copy: 'c', fence: 'refuse', verify: true });
            assert.is(cut.disks[0]?.proof?.unproven, '0');
            assert.not.ok(existsSync(path('log/c.copy')));
            assert.not.ok(existsSync(path('a.img.logged')));
            await client.close();
            block.child.stdin?.end();
            await block.ended;
            const target = readFileSync(path('b.img'));
            assert.ok(target.equals(readFileSync(path('a.img'))));
            trials.report(seed);
            assert.ok(load.acknowledged.size > 0);
            for (const [offset, stamp] of load.acknowledged) assert.is(target.readUInt32LE(offset), stamp);
          }),
        ),
      limitMs(110_000),
    ),
  );

/** A service that stopped in the middle of a copy, and the next one with the same disks. */
function stopped(body: (next: DiskService, path: (name: string) => string) => Promise<void>) {
  return within(
    () =>
      seeded((random) =>
        inScratch(async (directory) => {
          const path = (name: string) => join(directory, name);
          fill(path('a.img'), random);
          const open = async () => {
            const service = new DiskService();
            for (const id of ['a', 'b'])
              await service.add({ id, path: path(`${id}.img`), create: String(SIZE) });
            return service;
          };
          const first = await open();
          await first.copyStart({ copy: 'c', pairs, logDirectory: path('log'), rateLimit: 4 * MIB });
          await eventually('half of it', () => Number(first.copyStatus({ copy: 'c' }).copied) > 3 * MIB);
          await first.close();
          assert.ok(existsSync(path('b.img.invalid')));
          const next = await open();
          try {
            await body(next, path);
          } finally {
            await next.close();
          }
        }),
      ),
    30_000,
  );
}

const start = (path: (name: string) => string) => ({ copy: 'c', pairs, logDirectory: path('log') });

async function finished(service: DiskService): Promise<void> {
  await eventually('converged', () => service.copyStatus({ copy: 'c' }).phase === 'converged');
  const cut = await service.copyCut({ copy: 'c', fence: 'refuse', verify: true });
  assert.is(cut.disks[0]?.proof?.unproven, '0');
}

resume(
  'a copy whose process ended in order is gone on with',
  stopped(async (service, path) => {
    const status = await service.copyStart({ ...start(path), resumeOnly: true });
    assert.is(status.resumed, true);
    await finished(service);
  }),
);

resume(
  'a disk that was served without its log since is copied anew, or not at all',
  stopped(async (service, path) => {
    await service.serve({ socket: path('a.sock'), exports: { a: 'a' } });
    const client = await NbdClient.connect(path('a.sock'), 'a');
    await client.writeAt(Buffer.alloc(4096, 0xee), 0n);
    await client.close();
    assert.is(await errnoOf(() => service.copyStart({ ...start(path), resumeOnly: true })), 'not-resumable');
    const status = await service.copyStart(start(path));
    assert.is(status.resumed, undefined);
    await finished(service);
  }),
);

resume(
  'a damaged log is not gone on with',
  stopped(async (service, path) => {
    const segment = path('log/a/00000001.wlog');
    const bytes = readFileSync(segment);
    bytes[20]! ^= 1;
    writeFileSync(segment, bytes);
    assert.is(await errnoOf(() => service.copyStart({ ...start(path), resumeOnly: true })), 'not-resumable');
  }),
);

resume(
  'a target that was cut, or made the target of something else, is not written by a copy that is found',
  stopped(async (service, path) => {
    writeFileSync(path('b.img.invalid'), 'target of copy other from x\n');
    assert.is(await errnoOf(() => service.copyStart({ ...start(path), resumeOnly: true })), 'not-resumable');
  }),
);

resume.run();
