/**
 * S7 with the real block process and each way a disk gets to the standby: shared blocks on XFS, copy_file_range, reads and writes, a
 * mirror. strace fails a call on the source or on the standby, once or from then on, while the guest writes: a standby that is
 * called good holds what the source held at the cut, every other one stays invalid, and the guest hears nothing of it.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, realpathSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { NbdClient } from '../../src/blockdev/index.ts';
import type { SeededRandom } from '../../src/common/index.ts';
import { codeOf } from '../../src/common/index.ts';
import { BlockProcess, bundleBlockProcess } from '../hypervisor/disks/block-process.ts';
import { eventually, inScratch, limitMs, liveSuite, seeded, Trials, within } from '../support/index.ts';

const live = liveSuite('hypervisor/disks/copy-faults');

const MIB = 1024 * 1024;
const DISK = 4 * MIB;

interface Way {
  readonly method: 'reflink' | 'kernel' | 'pipeline' | 'mirror';
  /** Calls that it makes, by side. */
  readonly source: readonly string[];
  readonly target: readonly string[];
}

const WAYS: readonly Way[] = [
  { method: 'reflink', source: ['ioctl'], target: ['ioctl', 'pwrite64', 'fdatasync'] },
  {
    method: 'kernel',
    source: ['copy_file_range'],
    target: ['copy_file_range', 'pwrite64', 'fdatasync', 'fallocate'],
  },
  {
    method: 'pipeline',
    source: ['preadv2', 'pread64', 'copy_file_range'],
    target: ['pwrite64', 'fdatasync', 'fallocate'],
  },
  { method: 'mirror', source: ['preadv2', 'pread64'], target: ['pwrite64', 'fdatasync', 'fallocate'] },
];

/** Places for the two images: one file system for both, an XFS, or two that cannot share. */
async function withPlaces(
  body: (
    places: Record<Way['method'], { readonly a: string; readonly b: string }>,
    scratch: string,
  ) => Promise<void>,
) {
  await inScratch(async (directory) => {
    const scratch = realpathSync(directory);
    const [xfs, memory, disk] = ['xfs', 'memory', 'disk'].map((name) => join(scratch, name)) as [
      string,
      string,
      string,
    ];
    for (const at of [xfs, memory, disk]) mkdirSync(at);
    execFileSync('truncate', ['-s', '320M', `${xfs}.fs`]);
    execFileSync('mkfs.xfs', ['-q', '-m', 'reflink=1', `${xfs}.fs`]);
    execFileSync('mount', ['-o', 'loop', `${xfs}.fs`, xfs]);
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64m', 'changeover-test', memory]);
      try {
        const one = { a: disk, b: disk };
        await body(
          { reflink: { a: xfs, b: xfs }, kernel: one, pipeline: { a: xfs, b: memory }, mirror: one },
          scratch,
        );
      } finally {
        execFileSync('umount', [memory]);
      }
    } finally {
      execFileSync('umount', [xfs]);
    }
  });
}

interface Outcome {
  readonly struck: boolean;
  readonly good: boolean;
}

async function trial(
  way: Way,
  place: { readonly a: string; readonly b: string },
  program: string,
  directory: string,
  random: SeededRandom,
): Promise<Outcome> {
  mkdirSync(directory);
  const name = directory.slice(directory.lastIndexOf('/') + 1);
  const images = { a: join(place.a, `${name}-a.img`), b: join(place.b, `${name}-b.img`) };
  // Data, a hole, data; something old on the standby.
  const data = Buffer.from(random.fill(Buffer.alloc(DISK)));
  data.fill(0, MIB, 2 * MIB);
  writeFileSync(images.a, data);
  execFileSync('fallocate', ['--dig-holes', images.a]);
  writeFileSync(images.b, random.fill(Buffer.alloc(DISK)));
  const side = random.below(3) === 0 ? 'source' : 'target';
  const call = way[side][random.below(way[side].length)]!;
  const errno = side === 'source' || random.below(2) === 0 ? 'EIO' : 'ENOSPC';
  const when = `${1 + random.below(call === 'pwrite64' ? 12 : 2)}${random.below(2) === 0 ? '+' : ''}`;
  const trace = join(directory, 'trace');
  const prefix = ['strace', '-D', '-f', '-qq', '-o', trace, '-P', side === 'source' ? images.a : images.b];
  const process = await BlockProcess.start({
    program,
    directory,
    diskBytes: DISK,
    prefix: [...prefix, '-e', `inject=${call}:error=${errno}:when=${when}`],
    // One thread of the pool: strace counts per thread.
    env: { UV_THREADPOOL_SIZE: '1' },
  });
  const at = `${way.method}: ${errno} at ${call} ${when} of the ${side}`;
  const errors: string[] = [];
  let good = false;
  try {
    for (const id of ['a', 'b'] as const) await process.command('disk-add', { id, path: images[id] });
    await process.command('serve', { socket: process.socket, exports: { a: 'a' } });
    const client = await NbdClient.connect(process.socket, 'a', { reconnectTimeoutMs: 1 });
    const pairs = [{ from: 'a', to: 'b' }];
    let cutting = false;
    const guest = (async () => {
      while (!cutting) {
        const length = 512 * (1 + random.below(64));
        const offset = 512 * random.below((DISK - length) / 512);
        await client.writeAt(Buffer.alloc(length, random.u32()), BigInt(offset)).catch((error) => {
          if (!cutting) errors.push(codeOf(error) ?? String(error));
        });
      }
    })();
    try {
      const logDirectory = join(directory, 'log');
      if (way.method === 'mirror') await process.command('mirror-start', { mirror: 'c', pairs });
      else await process.command('copy-start', { copy: 'c', pairs, logDirectory });
      const status = await eventually(
        'its end',
        async () => {
          const now = await process.command('copy-status', { copy: 'c' });
          return now.phase === 'copying' || now.phase === 'replaying' ? undefined : now;
        },
        30_000,
      );
      if (status.phase === 'converged' && way.method !== 'mirror') assert.is(status.method, way.method, at);
      cutting = true;
      good = await process.command('copy-cut', { copy: 'c', fence: 'refuse' }).then(
        () => true,
        () => false,
      );
    } catch {
      // It could not begin.
    }
    cutting = true;
    await guest;
    await client.close();
  } finally {
    process.kill();
    await process.stop();
  }
  assert.equal(errors, [], `${at}: the guest was spared`);
  const same = readFileSync(images.a).equals(readFileSync(images.b));
  const valid = !existsSync(`${images.b}.invalid`);
  assert.is(valid, good, `${at}: valid exactly when the cut was answered`);
  if (good) assert.ok(same, `${at}: called good, and is not what the source was`);
  return { struck: /INJECTED/.test(readFileSync(trace, 'latin1')), good };
}

live(
  'whatever call fails on either side, in every way to copy: a standby that is called good is good',
  within(
    () =>
      seeded((random, seed) =>
        withPlaces(async (places, scratch) => {
          const program = await bundleBlockProcess(scratch);
          const trials = new Trials('S7: failing calls while copying', 20, 200);
          const seen = new Map<string, number>();
          let good = 0;
          let made = 0;
          while (trials.more) {
            const way = WAYS[trials.count % WAYS.length]!;
            const outcome = await trial(
              way,
              places[way.method],
              program,
              join(scratch, `t${made++}`),
              random,
            );
            assert.ok(made < 6 * (trials.count + 10), 'faults are never struck');
            // One that nothing ran into is no trial.
            if (!outcome.struck) continue;
            trials.count++;
            seen.set(way.method, (seen.get(way.method) ?? 0) + 1);
            if (outcome.good) good++;
          }
          assert.is(seen.size, WAYS.length);
          trials.report(
            seed,
            `${[...seen].map(([method, count]) => `${method} ${count}`).join(', ')}; ${good} got over it`,
          );
        }),
      ),
    limitMs(180_000),
  ),
);

live.run();
