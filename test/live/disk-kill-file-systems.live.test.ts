/**
 * The kernel's ext4 and XFS over the real block process, which strace kills at its N-th write or sync of the image or the log.
 *
 *   fio → ext4 or XFS → loop device → nbdfuse → our server, our client → block process (under strace) → image, reverse log
 *
 * Either our client waits for the next life, and the guest notices nothing; or it does not, and the file system goes down: what
 * it had synced is there after its journal was replayed. And a sync of the image that fails once (S5).
 */
import { mkdirSync, rmSync } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { NbdClient, NbdServer } from '../../src/blockdev/index.ts';
import type { SeededRandom } from '../../src/common/index.ts';
import { codeOf, messageOf } from '../../src/common/index.ts';
import { BlockProcess, bundleBlockProcess } from '../hypervisor/disks/block-process.ts';
import { eventually, limitMs, seeded, Trials, within } from '../support/index.ts';
import { inFolder, ok, programSuite, run } from './nbd-programs.ts';
import { mount, raiseLoop, Tower } from './support/tower.ts';

const PROGRAMS = ['strace', 'nbdfuse', 'losetup', 'fio', 'mkfs.ext4', 'e2fsck', 'mkfs.xfs', 'xfs_repair'];
const test = programSuite('live/disk-kill-file-systems', PROGRAMS);

const MIB = 1024 * 1024;
const RECORD = 4096;
const CALLS = ['pwrite64', 'pwritev', 'fdatasync'] as const;

const FILE_SYSTEMS = [
  { name: 'ext4', sizeMib: 64, make: ['mkfs.ext4', '-q', '-F'], check: ['e2fsck', '-fn'] },
  { name: 'xfs', sizeMib: 320, make: ['mkfs.xfs', '-q', '-f'], check: ['xfs_repair', '-n'] },
] as const;
type FileSystem = (typeof FILE_SYSTEMS)[number];

/** The block process in one life after the other, each killed at a place drawn anew. */
class Lives {
  kills = 0;
  readonly killedAt = new Map<string, number>();
  readonly #program: string;
  readonly #directory: string;
  readonly #bytes: number;
  readonly #random: SeededRandom;
  #calm = false;
  #process: BlockProcess | undefined;
  #running: Promise<void> | undefined;
  #failure: unknown;

  constructor(program: string, directory: string, bytes: number, random: SeededRandom) {
    this.#program = program;
    this.#directory = directory;
    this.#bytes = bytes;
    this.#random = random;
  }

  get socket(): string {
    return join(this.#directory, 'nbd.sock');
  }

  get process(): BlockProcess {
    return this.#process!;
  }

  /** A life whose image cannot be made durable from its N-th sync on. */
  async failing(): Promise<void> {
    const when = 3 + this.#random.below(8);
    const image = join(this.#directory, 'a.img');
    const tracer = ['strace', '-D', '-f', '-qq', '-o', join(this.#directory, 'trace'), '-P', image];
    const prefix = [...tracer, '-e', `inject=fdatasync:error=EIO:when=${when}`];
    this.#process = (await this.#begin(prefix)).process;
  }

  async live(undisturbed = false): Promise<void> {
    this.#calm = undisturbed;
    const call = CALLS[this.#random.below(CALLS.length)]!;
    // Syncs are rarer. Counted per thread.
    const when = 1 + this.#random.below(call === 'fdatasync' ? 12 : 60);
    const tracer = ['strace', '-D', '-f', '-qq', '--seccomp-bpf', '-o', join(this.#directory, 'trace')];
    const prefix = undisturbed ? [] : [...tracer, '-e', `inject=${call}:signal=KILL:when=${when}`];
    const { process } = await this.#begin(prefix);
    this.#process = process;
    void process.ended.then((signal) => {
      if (signal !== 'SIGKILL') return;
      this.kills++;
      this.killedAt.set(call, (this.killedAt.get(call) ?? 0) + 1);
    });
  }

  /** Killed while it begins it is begun again. */
  async #begin(prefix: readonly string[]): Promise<{ process: BlockProcess }> {
    for (let attempt = 0; ; attempt++) {
      const process = await BlockProcess.start({
        program: this.#program,
        directory: this.#directory,
        diskBytes: this.#bytes,
        prefix: attempt === 0 ? prefix : [],
      });
      try {
        await process.serve();
        return { process };
      } catch (error) {
        process.kill();
        await process.stop();
        if (attempt > 0) throw error;
        this.kills++;
      }
    }
  }

  /** From now on each death is followed by the next life. */
  goOn(): void {
    this.#running = (async () => {
      while (!this.#calm) {
        await this.process.ended;
        await this.process.stop();
        await this.live(this.#calm);
      }
    })().catch((error) => {
      this.#failure = error;
    });
  }

  /** The next life is the last and has no tracer. */
  async calm(): Promise<void> {
    this.#calm = true;
    this.process.kill();
    await this.#running;
    if (this.#failure !== undefined) throw this.#failure;
  }

  async end(): Promise<void> {
    this.#calm = true;
    this.#process?.kill();
    await this.#process?.stop();
  }
}

interface Built {
  readonly lives: Lives;
  readonly client: NbdClient;
  readonly loop: string;
}

/** Our server and client between nbdfuse and the block process: the end of a life reaches the guest only if the client gives up. */
async function build(tower: Tower, folder: string, lives: Lives, reconnectTimeoutMs: number): Promise<Built> {
  const client = await NbdClient.connect(lives.socket, 'a', { reconnectTimeoutMs });
  tower.add(() => client.close());
  const server = new NbdServer();
  const socket = join(folder, 'between.sock');
  await server.setExports(new Map([['disk', client]]));
  await server.listen(socket);
  tower.add(() => server.close());
  return { lives, client, loop: await raiseLoop(tower, folder, `nbd+unix:///disk?socket=${socket}`) };
}

/** Formatted in an undisturbed life. */
async function formatted(
  { name, make, sizeMib }: FileSystem,
  random: SeededRandom,
  body: (folder: string, lives: Lives, at: string) => Promise<void>,
): Promise<void> {
  await inFolder(async (folder) => {
    const program = await bundleBlockProcess(folder);
    const directory = join(folder, 'disks');
    mkdirSync(directory);
    const lives = new Lives(program, directory, sizeMib * MIB, random);
    try {
      await lives.live(true);
      const tower = new Tower();
      try {
        const { loop } = await build(tower, folder, lives, 1);
        await ok(...([...make, loop] as [string, ...string[]]));
      } finally {
        await tower.down();
      }
      await lives.process.stop();
      await body(folder, lives, join(folder, `mnt-${name}`));
    } catch (error) {
      // Said at once: what cannot be taken down after it has errors of its own.
      console.error(messageOf(error));
      throw error;
    } finally {
      await lives.end();
    }
  });
}

function fio(at: string, seed: number): Promise<string> {
  return ok(
    'fio',
    ...['--name=load', `--directory=${at}`, '--ioengine=psync', '--rw=randwrite', '--bsrange=4k-32k'],
    ...['--size=4M', '--fsync=4', '--verify=crc32c', '--verify_fatal=1', '--do_verify=1'],
    ...[`--randseed=${seed}`, '--allrandrepeat=1', '--invalidate=1', '--verify_state_save=0'],
  );
}

async function fileSystemIsClean({ check }: FileSystem, lives: Lives): Promise<void> {
  await ok(...([...check, lives.process.image] as [string, ...string[]]));
}

for (const fileSystem of FILE_SYSTEMS) {
  const { name } = fileSystem;

  test(
    `${name}: the block process is killed again and again under fio, which verifies every block; the file system and the way back are whole`,
    within(
      () =>
        seeded((random, seed) =>
          formatted(fileSystem, random, async (folder, lives, at) => {
            const trials = new Trials(`S2: kills under fio on ${name}`, 8, 500);
            const tower = new Tower();
            let jobs = 0;
            try {
              await lives.live();
              const { loop, client } = await build(tower, folder, lives, 60_000);
              lives.goOn();
              await mount(tower, loop, at);
              for (; trials.more; trials.count = Math.min(lives.kills, trials.wanted)) {
                assert.match(await fio(at, random.u32()), /err= 0/);
                jobs++;
              }
              await lives.calm();
              assert.ok(client.reconnects > 0);
            } finally {
              await tower.down();
            }
            await fileSystemIsClean(fileSystem, lives);
            const { disks } = await lives.process.command('copy-cut', {
              copy: 'back',
              fence: 'refuse',
              verify: true,
            });
            assert.is(disks.length, 1);
            const [a, b] = await Promise.all(
              ['a', 'b'].map((id) => readFile(join(folder, 'disks', `${id}.img`))),
            );
            assert.ok(a!.equals(b!), 'the way back');
            const where = [...lives.killedAt].map(([call, count]) => `${call} ${count}`).join(', ');
            trials.report(seed, `${jobs} jobs verified, killed at ${where}`);
          }),
        ),
      limitMs(150_000),
    ),
  );

  test(
    `${name}: the block process is killed and the guest with it; every record that was synced is there after the journal`,
    within(
      () =>
        seeded((random, seed) =>
          formatted(fileSystem, random, async (folder, lives, at) => {
            const trials = new Trials(`S1: kills with the guest on ${name}`, 4, 300);
            let records = 0;
            mkdirSync(at);
            for (; trials.more; trials.count++) {
              const before = lives.kills;
              const tower = new Tower();
              try {
                await lives.live();
                const { loop } = await build(tower, folder, lives, 1);
                if ((await run('mount', [loop, at])).code === 0) {
                  tower.add(() => ok('umount', at));
                  records = await writeRecords(join(at, 'records'), records);
                }
              } finally {
                await tower.down();
              }
              await eventually('the kill', () => lives.kills > before);
              await lives.process.stop();
              await lives.live(true);
              const second = new Tower();
              try {
                const { loop } = await build(second, folder, lives, 1);
                await mount(second, loop, at);
                await allThere(join(at, 'records'), records);
              } finally {
                await second.down();
              }
              await lives.process.stop();
              await fileSystemIsClean(fileSystem, lives);
            }
            trials.report(seed, `${records} records`);
          }),
        ),
      limitMs(150_000),
    ),
  );
}

for (const fileSystem of FILE_SYSTEMS)
  test(
    `${fileSystem.name}: one failed sync of the image ends the file system for ever; what was synced before is there, once a person says so`,
    within(
      () =>
        seeded((random, seed) =>
          formatted(fileSystem, random, async (folder, lives, at) => {
            const trials = new Trials(`S5: a failed sync below ${fileSystem.name}`, 1, 50);
            mkdirSync(at);
            let records = 0;
            for (; trials.more; trials.count++) {
              const tower = new Tower();
              try {
                await lives.failing();
                const { loop, client } = await build(tower, folder, lives, 1);
                if ((await run('mount', [loop, at])).code === 0) {
                  tower.add(() => ok('umount', at));
                  records = await writeRecords(join(at, 'records'), records);
                }
                // One fault was injected: nothing later may pass for durable.
                assert.is(await client.flush().catch(codeOf), 'EIO');
                assert.is(await client.writeAt(Buffer.alloc(512), 0n).catch(codeOf), 'EROFS');
              } finally {
                await tower.down();
              }
              const { image } = lives.process;
              await lives.end();
              await lives.live(true);
              const next = await NbdClient.connect(lives.socket, 'a', { reconnectTimeoutMs: 1 });
              assert.is(await next.flush().catch(codeOf), 'EIO', 'the next process knows');
              await next.close();
              await lives.end();
              rmSync(`${image}.failed`);
              await lives.live(true);
              const second = new Tower();
              try {
                const { loop } = await build(second, folder, lives, 1);
                await mount(second, loop, at);
                await allThere(join(at, 'records'), records);
              } finally {
                await second.down();
              }
              await lives.end();
              await fileSystemIsClean(fileSystem, lives);
            }
            trials.report(seed, `${records} records`);
          }),
        ),
      limitMs(120_000),
    ),
  );

function recordOf(number: number): Buffer {
  const record = Buffer.alloc(RECORD, number & 0xff);
  record.writeUInt32LE(number, 0);
  return record;
}

/** Goes on with record `next` until a sync fails; returns the next one that was not synced. */
async function writeRecords(path: string, next: number): Promise<number> {
  let number = next;
  try {
    const file = await open(path, number === 0 ? 'w' : 'r+');
    try {
      for (; ; number++) {
        await file.write(recordOf(number), 0, RECORD, number * RECORD);
        await file.datasync();
      }
    } finally {
      await file.close();
    }
  } catch (error) {
    assert.match(messageOf(error), /EIO|EROFS|ENODEV|ESHUTDOWN|ENOSPC/);
    return number;
  }
}

async function allThere(path: string, count: number): Promise<void> {
  if (count === 0) return;
  const found = await readFile(path);
  for (let number = 0; number < count; number++)
    if (!found.subarray(number * RECORD, (number + 1) * RECORD).equals(recordOf(number)))
      assert.unreachable(`record ${number} of ${count} was synced and is not there`);
}

test.run();
