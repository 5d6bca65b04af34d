/**
 * S8 with the real block process: its log disk, its image disk or both are full, at any of its jobs. Production writes go on, nothing
 * that was acknowledged is lost, and what could not be kept is known to be incomplete by the next process too: after kill -9
 * the way back is proven, or the changeover is given up and the standby stays invalid.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import * as assert from 'uvu/assert';
import { NbdClient } from '../../src/blockdev/index.ts';
import type { SeededRandom } from '../../src/common/index.ts';
import { codeOf } from '../../src/common/index.ts';
import { BlockProcess, bundleBlockProcess } from '../hypervisor/disks/block-process.ts';
import { SECTOR, SectorModel } from '../hypervisor/disks/sector-model.ts';
import { eventually, inScratch, limitMs, liveSuite, seeded, Trials, within } from '../support/index.ts';

const live = liveSuite('hypervisor/disks/full');

const MIB = 1024 * 1024;
const DISK = 2 * MIB;
const FILE_SYSTEMS = ['tmpfs', 'ext4', 'xfs'] as const;
type FileSystem = (typeof FILE_SYSTEMS)[number];
/** The smallest that each can be made. */
const LEAST_MIB: Record<FileSystem, number> = { tmpfs: 8, ext4: 16, xfs: 320 };

/** Two file systems of their own: `images`, and `log` in it. */
async function mounted(kind: FileSystem, body: (images: string) => Promise<void>) {
  await inScratch(async (scratch) => {
    const images = join(scratch, 'images');
    const up: string[] = [];
    const mount = (at: string) => {
      mkdirSync(at);
      const mib = LEAST_MIB[kind];
      if (kind === 'tmpfs')
        execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${mib}m`, 'changeover-test', at]);
      else {
        const image = join(scratch, `${up.length}.fs`);
        execFileSync('truncate', ['-s', `${mib}M`, image]);
        execFileSync(`mkfs.${kind}`, kind === 'ext4' ? ['-q', '-F', '-m', '0', image] : ['-q', image]);
        execFileSync('mount', ['-o', 'loop', image, at]);
      }
      up.unshift(at);
    };
    try {
      mount(images);
      mount(join(images, 'log'));
      await body(images);
    } finally {
      for (const at of up) execFileSync('umount', [at]);
    }
  });
}

/** Takes all the space there is. */
function fill(directory: string): void {
  execFileSync('sh', [
    '-c',
    'cat /dev/zero > "$0/ballast" 2>&- || true; sync -f "$0"; cat /dev/zero >> "$0/ballast" 2>&- || true',
    directory,
  ]);
}

/** One disk `a` with its standby `b`; a guest that writes to `a` and remembers what was acknowledged. */
class Scene {
  readonly model = new SectorModel(DISK);
  readonly directory: string;
  readonly errors: string[] = [];
  block!: BlockProcess;
  #client: NbdClient | undefined;
  readonly #program: string;
  readonly #random: SeededRandom;

  readonly #kind: FileSystem;

  constructor(directory: string, kind: FileSystem, program: string, random: SeededRandom) {
    this.directory = directory;
    this.#kind = kind;
    this.#program = program;
    this.#random = random;
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  async start(): Promise<void> {
    // Its sockets are where there is room, as in /run.
    this.block = await BlockProcess.start({
      program: this.#program,
      directory: this.directory,
      sockets: dirname(this.directory),
      diskBytes: DISK,
    });
    for (const id of ['a', 'b'])
      await this.block.command('disk-add', { id, path: this.path(`${id}.img`), create: String(DISK) });
  }

  async serve(): Promise<void> {
    await this.block.command('serve', { socket: this.block.socket, exports: { a: 'a' } });
    this.#client = await NbdClient.connect(this.block.socket, 'a', { reconnectTimeoutMs: 1 });
  }

  /** Every sector of `a` and `b` has its block. */
  async allocate(): Promise<void> {
    for (const id of ['a', 'b'])
      execFileSync(
        'dd',
        [
          'if=/dev/zero',
          `of=${this.path(`${id}.img`)}`,
          'bs=1M',
          `count=${DISK / MIB}`,
          'conv=notrunc,fsync',
        ],
        {
          stdio: 'ignore',
        },
      );
  }

  reverse() {
    return this.block.command('reverse-start', {
      copy: 'back',
      pairs: [{ from: 'a', to: 'b' }],
      logDirectory: this.path('log'),
    });
  }

  copy(resumeOnly = false) {
    const pairs = [{ from: 'a', to: 'b' }];
    return this.block.command('copy-start', { copy: 'c', pairs, logDirectory: this.path('log'), resumeOnly });
  }

  /** So many writes one after the other; failures are kept, and must be ENOSPC. */
  async write(count: number, sectors = 128): Promise<void> {
    for (let i = 0; i < count; i++) {
      const length = 1 + this.#random.below(sectors);
      const sector = this.#random.below(this.model.sectors - length);
      const { stamp, data } = this.model.begin(sector, length);
      try {
        await this.#client!.writeAt(data, BigInt(sector * SECTOR), { fua: i % 16 === 0 });
        this.model.acknowledge(sector, length, stamp);
      } catch (error) {
        this.errors.push(codeOf(error) ?? String(error));
      }
    }
  }

  async reason(copy: string): Promise<string> {
    return (await this.block.command('copy-status', { copy })).reason ?? '';
  }

  async spilled(copy: string): Promise<void> {
    await eventually(
      'the spill',
      async () => {
        await this.write(8);
        return /not kept/.test(await this.reason(copy));
      },
      30_000,
    );
  }

  async kill(): Promise<void> {
    await this.#client?.close().catch(() => {});
    this.block.kill();
    await this.block.stop();
    // XFS without a free block makes no lock: the next opener is told ENOSPC until somebody makes room.
    if (this.#kind === 'xfs') rmSync(this.path('ballast'), { force: true });
  }

  /** What was acknowledged is on the disk. */
  check(name = 'a.img'): void {
    const disk = readFileSync(this.path(name));
    this.model.check(disk, disk);
  }

  cut(copy: string) {
    return this.block.command('copy-cut', { copy, fence: 'refuse', verify: true });
  }

  /** The cut was proven and both disks are the same. */
  async proven(copy: string): Promise<void> {
    await eventually('converged', async () => {
      const { phase } = await this.block.command('copy-status', { copy });
      return phase === 'converged' || phase === 'replaying';
    });
    await this.cut(copy);
    assert.ok(
      readFileSync(this.path('a.img')).equals(readFileSync(this.path('b.img'))),
      'the same at the cut',
    );
    assert.not(existsSync(this.path('b.img.invalid')), 'the target is valid');
    this.check('b.img');
  }
}

type Variant = (scene: Scene) => Promise<void>;

/** The reverse log spills, the process is killed, more is written: the next one must not take the log for complete. */
function reverseLog(fillImages: boolean): Variant {
  return async (scene) => {
    await scene.start();
    await scene.allocate();
    await scene.reverse();
    await scene.serve();
    await scene.write(20);
    fill(scene.path('log'));
    if (fillImages) fill(scene.directory);
    await scene.spilled('back');
    await scene.write(20);
    assert.equal(scene.errors, [], 'production writes go on');
    await scene.kill();
    await scene.start();
    scene.check();
    if (fillImages) rmSync(scene.path('ballast'), { force: true });
    rmSync(scene.path('log/ballast'));
    await scene.reverse();
    await scene.serve();
    await scene.write(5);
    await scene.proven('back');
  };
}

const VARIANTS: Record<string, Variant> = {
  'the log disk of the way back is full, then kill -9': reverseLog(false),
  'log disk and image disk of the way back are full, then kill -9': reverseLog(true),

  'both are full before the way back begins: it is refused, or the next process knows': async (scene) => {
    await scene.start();
    await scene.allocate();
    await scene.serve();
    await scene.write(5);
    execFileSync('cp', ['--reflink=never', '--sparse=never', scene.path('a.img'), scene.path('b.img')]);
    mkdirSync(scene.path('log/a'));
    fill(scene.path('log'));
    fill(scene.directory);
    const began = await scene.reverse().then(
      () => true,
      () => false,
    );
    await scene.write(20);
    assert.equal(scene.errors, [], 'production writes go on');
    await scene.kill();
    rmSync(scene.path('ballast'), { force: true });
    rmSync(scene.path('log/ballast'));
    await scene.start();
    scene.check();
    if (!began) return;
    await scene.reverse();
    await scene.proven('back');
  },

  'the log disk of a copy is full: it is made all the same; killed meanwhile it begins anew': async (
    scene,
  ) => {
    await scene.start();
    await scene.allocate();
    await scene.serve();
    await scene.write(20);
    fill(scene.path('log'));
    await scene.copy();
    await scene.spilled('c');
    assert.equal(scene.errors, [], 'production writes go on');
    await scene.kill();
    await scene.start();
    scene.check();
    assert.ok(existsSync(scene.path('b.img.invalid')), 'the standby is invalid');
    assert.is(await scene.copy(true).then(() => 'resumed', codeOf), 'not-resumable');
    await scene.copy();
    await scene.serve();
    await scene.write(20);
    await scene.proven('c');
    assert.equal(scene.errors, []);
  },

  'the image disk is full: the copy is given up, its target stays invalid': async (scene) => {
    await scene.start();
    await scene.serve();
    await scene.write(40, 64);
    fill(scene.directory);
    const begun = await scene.copy().then(
      () => undefined,
      (error: unknown) => codeOf(error) ?? String(error),
    );
    if (begun === undefined) {
      await eventually(
        'given up',
        async () => {
          const { phase } = await scene.block.command('copy-status', { copy: 'c' });
          return phase === 'failed';
        },
        30_000,
      );
      assert.is(await scene.cut('c').then(() => 'cut', codeOf), 'copy-failed');
      assert.ok(existsSync(scene.path('b.img.invalid')));
    }
    const before = scene.model.acknowledgedWrites;
    await scene.write(60, 16);
    // Where the disk has no block yet there is none; what has one is written.
    for (const code of scene.errors) assert.is(code, 'ENOSPC');
    assert.ok(scene.model.acknowledgedWrites > before, 'production writes go on');
    await scene.kill();
    await scene.start();
    scene.check();
  },

  'the standby of a mirror is full: it is dropped and stays invalid': async (scene) => {
    await scene.start();
    await scene.serve();
    await scene.block.command('mirror-start', { mirror: 'm', pairs: [{ from: 'a', to: 'b' }] });
    await eventually(
      'joined',
      async () => (await scene.block.command('copy-status', { copy: 'm' })).phase === 'converged',
    );
    await scene.write(10, 32);
    // The first half has its blocks, the second one has not.
    execFileSync('fallocate', ['-l', String(DISK), scene.path('a.img')]);
    fill(scene.directory);
    await scene.write(60, 64);
    assert.equal(scene.errors, [], 'production writes go on');
    assert.match(await scene.reason('m'), /b failed and was dropped/);
    assert.is(
      await scene.block.command('mirror-split', { mirror: 'm' }).then(() => 'split', codeOf),
      'copy-failed',
    );
    await scene.kill();
    await scene.start();
    scene.check();
    assert.ok(existsSync(scene.path('b.img.invalid')));
  },

  'both halves of a mirror are full: the guest is told, and the half that is valid has every acknowledged write':
    async (scene) => {
      await scene.start();
      await scene.serve();
      await scene.block.command('mirror-start', { mirror: 'm', pairs: [{ from: 'a', to: 'b' }] });
      await eventually(
        'joined',
        async () => (await scene.block.command('copy-status', { copy: 'm' })).phase === 'converged',
      );
      await scene.write(10, 32);
      execFileSync('fallocate', ['-l', String(DISK), scene.path('b.img')]);
      fill(scene.directory);
      await scene.write(60, 64);
      for (const code of scene.errors) assert.is(code, 'ENOSPC');
      await scene.kill();
      await scene.start();
      const valid = ['a.img', 'b.img'].filter((name) => !existsSync(scene.path(`${name}.invalid`)));
      assert.is(valid.length, 1, `valid: ${valid.join(' ')}`);
      scene.check(valid[0]);
    },

  'the place of late writes is full: they fail, what was kept is still there, the disk is as at its cut':
    async (scene) => {
      await scene.start();
      await scene.allocate();
      await scene.serve();
      await scene.write(20);
      const atCut = readFileSync(scene.path('a.img'));
      const aside = { id: 'a', mode: 'set-aside', directory: scene.path('log/aside') } as const;
      await scene.block.command('fence', aside);
      await scene.write(10);
      assert.equal(scene.errors, []);
      fill(scene.path('log'));
      await eventually('full', async () => {
        await scene.write(8);
        return scene.errors.length > 3;
      });
      for (const code of scene.errors) assert.match(code, /^(ENOSPC|EIO)$/);
      await scene.kill();
      assert.ok(readFileSync(scene.path('a.img')).equals(atCut), 'nothing got through the fence');
      rmSync(scene.path('log/ballast'));
      await scene.start();
      const [status] = await scene.block.command('disk-status', { id: 'a' });
      assert.is(status!.fence, 'set-aside');
      await scene.serve();
      const back = Buffer.alloc(DISK);
      const client = await NbdClient.connect(scene.block.socket, 'a');
      await client.readAt(back, 0n);
      await client.close();
      // Whole records only: every late write that was acknowledged is read back.
      scene.model.check(back, back);
    },
};

const NAMES = Object.keys(VARIANTS);

live(
  'whatever is full: production writes go on, nothing acknowledged is lost, no standby is called good that is not',
  within(
    () =>
      seeded((random, seed) =>
        inScratch(async (built) => {
          const program = await bundleBlockProcess(built);
          const trials = new Trials('S8: full disks', NAMES.length + 4, 50);
          const seen = new Map<string, number>();
          for (; trials.more; trials.count++) {
            const name = NAMES[trials.count % NAMES.length]!;
            // The first round on tmpfs, which is quick; then the others in turn.
            const round = Math.floor(trials.count / NAMES.length);
            const kind = round === 0 ? 'tmpfs' : FILE_SYSTEMS[(round + trials.count) % FILE_SYSTEMS.length]!;
            try {
              await mounted(kind, async (images) => {
                const scene = new Scene(images, kind, program, random);
                try {
                  await VARIANTS[name]!(scene);
                } finally {
                  await scene.kill();
                }
              });
            } catch (error) {
              console.error(`on ${kind}: ${name}`);
              throw error;
            }
            seen.set(kind, (seen.get(kind) ?? 0) + 1);
          }
          trials.report(seed, [...seen].map(([kind, count]) => `${count} on ${kind}`).join(', '));
        }),
      ),
    limitMs(180_000),
  ),
);

live.run();
