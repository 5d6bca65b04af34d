/**
 * S2, S5, S7: kill -9, EIO and ENOSPC at the N-th system call on any file that the block process keeps: both images, locks, invalid marks,
 * fences, late writes set aside, notes about logs, the copy's journal, mirror maps, the directories themselves. One walk through a
 * copy, a mirror or a fence per fault; strace injects it. Half of every 5th N of a call
 * that alters something, with a fault, all drawn; with SOAK=1 every fault at each call.
 *
 * Afterwards there is one owner, with every acknowledged write; a standby is valid only behind a fence and only with everything;
 * and the next process brings the disks together again.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as assert from 'uvu/assert';
import { NbdClient } from '../../src/blockdev/index.ts';
import { codeOf, messageOf, SeededRandom } from '../../src/common/index.ts';
import { BlockProcess, bundleBlockProcess } from '../hypervisor/disks/block-process.ts';
import { SECTOR, SectorModel } from '../hypervisor/disks/sector-model.ts';
import { eventually, inScratch, limitMs, liveSuite, SOAK, seeded, Trials, within } from '../support/index.ts';

const live = liveSuite('hypervisor/disks/faults-files');

const DISK = 1024 * 1024;
const STEP = 5;
const WRITING = [
  'openat',
  'write',
  'pwrite64',
  'pwritev',
  'writev',
  'fsync',
  'fdatasync',
  'ftruncate',
  'fallocate',
];
const NAMING = ['copy_file_range', 'ioctl', 'rename', 'unlink', 'unlinkat', 'rmdir', 'symlink', 'mkdir'];
const READING = ['read', 'pread64', 'preadv2', 'lseek', 'readlink'];
const CALLS = [...WRITING, ...NAMING, ...READING];
const FAULTS = ['signal=KILL', 'error=EIO', 'error=ENOSPC'] as const;

interface Case {
  readonly walk: keyof typeof WALKS;
  /** Relative to the directory of the walk. */
  readonly file: string;
  readonly call: string;
  readonly n: number;
  readonly fault: (typeof FAULTS)[number];
}

/** What one walk saw. A command that failed is no failure of the walk. */
class Walk {
  readonly model = new SectorModel(DISK);
  readonly directory: string;
  readonly process: BlockProcess;
  readonly random: SeededRandom;
  readonly refused: string[] = [];
  readonly guestErrors: string[] = [];
  /** A fence is up as far as the answers say. */
  fenced = false;
  atFence: Buffer | undefined;
  client: NbdClient | undefined;

  constructor(directory: string, process: BlockProcess, seed: number) {
    this.directory = directory;
    this.process = process;
    this.random = new SeededRandom(seed);
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  /** True when it was carried out. */
  async command(...args: Parameters<BlockProcess['command']>): Promise<boolean> {
    try {
      await this.process.command(...args);
      return true;
    } catch (error) {
      this.refused.push(`${args[0]}: ${messageOf(error)}`);
      return false;
    }
  }

  async begin(): Promise<void> {
    // Asked again, as the daemon does.
    for (const id of ['a', 'b'])
      (await this.command('disk-add', this.disk(id))) || (await this.command('disk-add', this.disk(id)));
    const serve = { socket: this.process.socket, exports: { a: 'a' } };
    if ((await this.command('serve', serve)) || (await this.command('serve', serve)))
      this.client = await NbdClient.connect(this.process.socket, 'a', { reconnectTimeoutMs: 1 }).catch(
        () => undefined,
      );
  }

  disk(id: string) {
    return { id, path: this.path(`${id}.img`), create: String(DISK) };
  }

  async write(count: number): Promise<void> {
    for (let i = 0; i < count && this.client !== undefined; i++) {
      const length = 1 + this.random.below(i === 2 ? 256 : 16);
      const sector = this.random.below(this.model.sectors - length);
      const { stamp, data } = this.model.begin(sector, length);
      try {
        await this.client.writeAt(data, BigInt(sector * SECTOR), { fua: i === 1 });
        this.model.acknowledge(sector, length, stamp);
        if (i === 3) await this.client.flush();
      } catch (error) {
        this.guestErrors.push(codeOf(error) ?? String(error));
        if (this.client.state !== 'connected') return;
      }
    }
  }

  /** Whether the copy got there; false when it failed, or the process is gone. */
  async converged(copy: string): Promise<boolean> {
    try {
      return await eventually(
        'the end of copying',
        async () => {
          const { phase } = await this.process.command('copy-status', { copy });
          return phase === 'copying' || phase === 'replaying' ? undefined : { is: phase === 'converged' };
        },
        30_000,
      ).then(({ is }) => is);
    } catch (error) {
      if (/did not happen/.test(messageOf(error))) throw error;
      return false;
    }
  }

  async cut(command: 'copy-cut' | 'mirror-split', name: string): Promise<void> {
    const cut =
      command === 'copy-cut'
        ? await this.command('copy-cut', { copy: name, fence: 'refuse' })
        : await this.command('mirror-split', { mirror: name, fence: 'refuse' });
    this.fenced = cut;
    const before = this.guestErrors.length;
    await this.write(2);
    if (cut) this.guestErrors.splice(before);
  }
}

const PAIRS = [{ from: 'a', to: 'b' }];

const WALKS = {
  copy: async (walk: Walk) => {
    await walk.begin();
    await walk.write(6);
    const start = { copy: 'c', pairs: PAIRS, logDirectory: walk.path('log') };
    if (await walk.command('copy-start', start)) {
      await walk.write(6);
      if (await walk.converged('c')) {
        await walk.write(6);
        await walk.command('copy-round', { copy: 'c' });
        await walk.cut('copy-cut', 'c');
      } else await walk.command('copy-cancel', { copy: 'c' });
    }
    if (!walk.fenced) await walk.write(2);
  },
  mirror: async (walk: Walk) => {
    await walk.begin();
    await walk.write(6);
    if (await walk.command('mirror-start', { mirror: 'm', pairs: PAIRS })) {
      await walk.write(6);
      if (await walk.converged('m')) {
        await walk.write(6);
        await walk.cut('mirror-split', 'm');
      } else await walk.command('mirror-cancel', { mirror: 'm' });
    }
    if (!walk.fenced) await walk.write(2);
  },
  aside: async (walk: Walk) => {
    await walk.begin();
    await walk.write(6);
    walk.fenced = await walk.command('fence', { id: 'a', mode: 'set-aside' });
    if (walk.fenced) walk.atFence = readFileSync(walk.path('a.img'));
    await walk.write(6);
  },
} as const;

async function traced(
  at: Omit<Case, 'n' | 'fault'> | Case,
  program: string,
  directory: string,
  strace: readonly string[],
  seed: number,
) {
  const prefix = ['strace', '-D', '-f', '-qq', '-o', join(directory, 'trace'), ...strace];
  const env = { UV_THREADPOOL_SIZE: '1' };
  const sockets = join(directory, 's');
  mkdirSync(sockets, { recursive: true });
  const process = await BlockProcess.start({ program, directory, sockets, diskBytes: DISK, prefix, env });
  const walk = new Walk(directory, process, seed);
  try {
    await WALKS[at.walk](walk);
    // Whatever failed, the process is there and says so.
    if ('fault' in at && at.fault !== 'signal=KILL') await process.command('disk-status', {});
  } finally {
    await walk.client?.close().catch(() => {});
    process.kill();
    await process.stop();
  }
  return walk;
}

async function run(program: string, directory: string, at: Case, seed: number): Promise<void> {
  mkdirSync(directory);
  const path = join(directory, at.file);
  const walk = await traced(
    at,
    program,
    directory,
    ['-P', path, '-e', `inject=${at.call}:${at.fault}:when=${at.n}`],
    seed,
  );
  guestIsSpared(walk, at);
  owners(walk, at);
  await nextProcess(program, walk, at);
}

/** Production hears of its own disk's trouble only. */
function guestIsSpared(walk: Walk, at: Case): void {
  if (at.fault === 'signal=KILL') return;
  const own =
    at.file === 'a.img' || at.file === '.' || (at.walk === 'aside' && at.file.startsWith('a.img.aside'));
  if (!own) assert.equal(walk.guestErrors, [], 'the guest was spared');
  if (at.file === 'a.img' && at.call === 'fdatasync' && walk.guestErrors.length > 0 && at.walk !== 'mirror')
    assert.ok(existsSync(walk.path('a.img.failed')), 'a failed flush is known to the next process');
}

const valid = (walk: Walk, id: string) =>
  existsSync(walk.path(`${id}.img`)) && !existsSync(walk.path(`${id}.img.invalid`));
const image = (walk: Walk, id: string) => {
  const bytes = readFileSync(walk.path(`${id}.img`));
  return bytes.length === 0 ? Buffer.alloc(DISK) : bytes;
};

function owners(walk: Walk, at: Case): void {
  if (!existsSync(walk.path('a.img'))) {
    assert.is(walk.model.acknowledgedWrites, 0);
    return;
  }
  if (at.walk === 'aside') {
    if (walk.atFence !== undefined)
      assert.ok(image(walk, 'a').equals(walk.atFence), 'nothing got through the fence');
    return;
  }
  const fenced = existsSync(walk.path('a.img.fence'));
  const both = [valid(walk, 'a'), valid(walk, 'b')];
  assert.ok(both[0] || both[1], 'one of them is valid');
  if (walk.fenced) assert.ok(fenced && both[1], 'the cut that was answered is done');
  const touched = existsSync(walk.path('b.img')) && image(walk, 'b').some((byte) => byte !== 0);
  if (both[0] && both[1] && touched) assert.ok(fenced, 'a valid copy of a disk that may still be written');
  for (const id of ['a', 'b'] as const)
    if (both[id === 'a' ? 0 : 1] && (id === 'a' || touched)) {
      const bytes = image(walk, id);
      walk.model.check(bytes, bytes);
    }
}

/** Without faults: the owner is served, and a copy of it is made and proven. */
async function nextProcess(program: string, walk: Walk, at: Case): Promise<void> {
  for (const id of ['a', 'b']) rmSync(walk.path(`${id}.img.failed`), { force: true });
  const { directory } = walk;
  const process = await BlockProcess.start({
    program,
    directory,
    sockets: join(directory, 's'),
    diskBytes: DISK,
  });
  try {
    for (const id of ['a', 'b']) await process.command('disk-add', walk.disk(id));
    const from =
      valid(walk, 'b') && (existsSync(walk.path('a.img.fence')) || !valid(walk, 'a')) && at.walk !== 'aside'
        ? 'b'
        : 'a';
    const to = from === 'a' ? 'b' : 'a';
    await process.command('serve', { socket: process.socket, exports: { x: from } });
    const client = await NbdClient.connect(process.socket, 'x');
    const seen = Buffer.alloc(DISK);
    await client.readAt(seen, 0n);
    // Late writes that were acknowledged are read back as well.
    walk.model.check(seen, seen);
    await process.command('fence', { id: from, mode: 'none' });
    await client.writeAt(Buffer.alloc(SECTOR, 0xff), 0n, { fua: true });
    const pairs = [{ from, to }];
    const copy = 'again';
    if (at.walk === 'mirror') await process.command('mirror-start', { mirror: copy, pairs });
    else await process.command('copy-start', { copy, pairs, logDirectory: walk.path('log') });
    await eventually(
      'converged',
      async () => (await process.command('copy-status', { copy })).phase === 'converged',
      30_000,
    );
    await process.command('copy-cut', { copy, fence: 'refuse', verify: true });
    await client.close();
  } finally {
    await process.stop();
  }
  assert.ok(image(walk, 'a').equals(image(walk, 'b')), 'the same after a new copy');
  const left = readdirSync(directory).filter((name) => /\.new$|\.lock/.test(name));
  assert.equal(left, [], 'nothing is left over');
}

/** The calls of an undisturbed walk on files in its directory: which, on which, how often by one thread. */
async function places(
  walkName: keyof typeof WALKS,
  program: string,
  directory: string,
  seed: number,
): Promise<Omit<Case, 'fault'>[]> {
  mkdirSync(directory);
  const walk = await traced(
    { walk: walkName, file: '', call: '' },
    program,
    directory,
    ['-y', '-s', '512', '-e', `trace=${CALLS.join(',')}`],
    seed,
  );
  assert.equal(walk.refused, [], 'undisturbed');
  assert.ok(walk.fenced, 'undisturbed');
  /** `file call` → thread → count. */
  const most = new Map<string, Map<string, number>>();
  for (const line of readFileSync(join(directory, 'trace'), 'latin1').split('\n')) {
    const [, thread, call, rest] = /^(\d+)\s+(\w+)\((.*)/.exec(line) ?? [];
    if (thread === undefined || call === undefined) continue;
    // What a call is about: its first descriptor, or its path; a link's path is its second.
    const quoted = [...rest!.matchAll(/"([^"]*)"/g)].map(([, text]) => text!);
    const path = /^\d+<([^>]*)>/.exec(rest!)?.[1] ?? (call === 'symlink' ? quoted[1] : quoted[0]);
    if (path === undefined || (path !== directory && !path.startsWith(`${directory}/`))) continue;
    if (/\/(s|trace)(\/|$)/.test(path)) continue;
    const key = `${path === directory ? '.' : path.slice(directory.length + 1)} ${call}`;
    const threads = most.get(key) ?? new Map<string, number>();
    most.set(key, threads.set(thread, (threads.get(thread) ?? 0) + 1));
  }
  return [...most].flatMap(([key, threads]) => {
    const [file, call] = key.split(' ') as [string, string];
    return Array.from({ length: Math.max(...threads.values()) }, (_, i) => ({
      walk: walkName,
      file,
      call,
      n: i + 1,
    }));
  });
}

function one<T>(of: readonly T[], random: SeededRandom): T {
  return of[random.below(of.length)]!;
}

function shuffled<T>(of: readonly T[], random: SeededRandom): T[] {
  const out = [...of];
  for (let i = out.length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [out[i], out[j]] = [out[j]!, out[i]!];
  }
  return out;
}

live(
  'at any call on any file: one owner with every acknowledged write, no standby is valid too early, the next process goes on',
  within(
    () =>
      seeded((random, seed) =>
        inScratch(async (scratch) => {
          const directory = realpathSync(scratch);
          const program = await bundleBlockProcess(directory);
          const own = random.u32();
          const found: Omit<Case, 'fault'>[] = [];
          for (const walk of Object.keys(WALKS) as (keyof typeof WALKS)[])
            found.push(...(await places(walk, program, join(directory, walk), own)));
          const faults = (call: string) =>
            FAULTS.filter((fault) => fault !== 'error=ENOSPC' || !READING.includes(call));
          const all = found.flatMap((place) => faults(place.call).map((fault) => ({ ...place, fault })));
          // In make test every 5th N with one fault, and of these every other one; which is drawn.
          const half = random.below(2);
          const queue = SOAK
            ? shuffled(all, random)
            : found
                .filter(({ call, n }) => n % STEP === 1 && !READING.includes(call))
                .filter((_, i) => i % 2 === half)
                .map((place) => ({ ...place, fault: one(faults(place.call), random) }));
          const trials = new Trials('S2: faults on every file', SOAK ? 50 : queue.length, queue.length);
          const files = new Set(queue.map(({ file }) => file)).size;
          const worker = async (name: string) => {
            for (let at = queue.shift(), i = 0; at !== undefined && trials.more; at = queue.shift(), i++) {
              try {
                await run(program, join(directory, `${name}${i}`), at, own);
              } catch (error) {
                queue.length = 0;
                console.error(`SEED=${seed} ${at.walk}: ${at.fault} at ${at.call} ${at.n} of ${at.file}`);
                throw error;
              }
              rmSync(join(directory, `${name}${i}`), { recursive: true, force: true });
              trials.count++;
            }
          };
          const ends = await Promise.allSettled([worker('x'), worker('y')]);
          for (const end of ends) if (end.status === 'rejected') throw end.reason;
          assert.ok(files > 8, `only ${files} files`);
          trials.report(seed, `of ${all.length} that there are, ${files} files`);
        }),
      ),
    limitMs(240_000),
  ),
);

live(
  'writes, batches and copies that the kernel cuts short, every N-th: nobody notices, and both disks hold every byte',
  within(
    () =>
      seeded((random, seed) =>
        inScratch(async (scratch) => {
          const directory = realpathSync(scratch);
          const program = await bundleBlockProcess(directory);
          const preload = join(directory, 'short-writes.so');
          const source = fileURLToPath(new URL('../hypervisor/disks/short-writes.c', import.meta.url));
          execFileSync('cc', ['-shared', '-fPIC', '-O2', '-o', preload, source, '-ldl']);
          const walks = Object.keys(WALKS) as (keyof typeof WALKS)[];
          const trials = new Trials('S2: walks with short writes', 15, 600);
          for (; trials.more; trials.count++) {
            const name = walks[trials.count % walks.length]!;
            const every = 1 + Math.floor(trials.count / walks.length);
            const own = join(directory, `short${trials.count}`);
            const sockets = join(own, 's');
            mkdirSync(sockets, { recursive: true });
            const env = { LD_PRELOAD: preload, SHORT_EVERY: String(every) };
            const process = await BlockProcess.start({
              program,
              directory: own,
              sockets,
              diskBytes: DISK,
              env,
            });
            const walk = new Walk(own, process, random.u32());
            const at: Case = { walk: name, file: '', call: '', n: every, fault: 'signal=KILL' };
            try {
              await WALKS[name](walk);
              assert.equal(walk.refused, [], `${name}, every ${every}.`);
              assert.equal(walk.guestErrors, [], `${name}, every ${every}.`);
              assert.ok(walk.fenced);
            } finally {
              await walk.client?.close().catch(() => {});
              process.kill();
              await process.stop();
            }
            owners(walk, at);
            await nextProcess(program, walk, at);
            rmSync(own, { recursive: true });
          }
          trials.report(seed);
        }),
      ),
    limitMs(120_000),
  ),
);

live.run();
