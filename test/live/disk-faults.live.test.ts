/**
 * S2, S5: the block process meets kill -9, EIO or ENOSPC at its N-th system call on the image or on the log. strace injects them;
 * the product knows nothing of it. Every 5th N, each one with SOAK=1. One thread of the pool, since strace counts per thread.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { MemoryStore, NbdClient, replayLog, verifyLog } from '../../src/blockdev/index.ts';
import { codeOf, SeededRandom } from '../../src/common/index.ts';
import type { BlockProcessOptions } from '../hypervisor/disks/block-process.ts';
import { BlockProcess, bundleBlockProcess } from '../hypervisor/disks/block-process.ts';
import { SECTOR, SectorModel } from '../hypervisor/disks/sector-model.ts';
import { eventually, inScratch, limitMs, liveSuite, SOAK, seeded, Trials, within } from '../support/index.ts';

const live = liveSuite('hypervisor/disks/faults');

const STEP = SOAK ? 1 : 5;
const DISK = 1024 * 1024;
const WRITES = 24;
const FAULTS = ['signal=KILL', 'error=EIO', 'error=ENOSPC'] as const;
type Fault = (typeof FAULTS)[number];

interface Case {
  readonly file: 'image' | 'log';
  readonly call: string;
  readonly fault: Fault;
  readonly n: number;
}

function tracer(directory: string, { file, call, fault, n }: Case): string[] {
  const path = join(directory, file === 'image' ? 'a.img' : 'log/a/00000001.wlog');
  const expression = `${call}:${fault}:when=${n}`;
  return [
    'strace',
    '-D',
    '-f',
    '-qq',
    '-o',
    join(directory, 'trace'),
    '-P',
    path,
    '-e',
    `inject=${expression}`,
  ];
}

/** What a scenario saw. */
interface Seen {
  /** Codes of writes and flushes that failed, in order. */
  readonly failures: { readonly what: 'write' | 'flush'; readonly code: string }[];
  readonly afterFailedFlush: string[];
}

/** One request at a time: the N-th call is the same in every run. */
async function scenario(client: NbdClient, model: SectorModel, random: SeededRandom): Promise<Seen> {
  const seen: Seen = { failures: [], afterFailedFlush: [] };
  let flushFailed = false;
  for (let i = 0; i < WRITES; i++) {
    const flush = i % 4 === 3;
    const count = 1 + random.below(i % 6 === 0 ? 256 : 16);
    const sector = random.below(model.sectors - count);
    try {
      if (flush) {
        await client.flush();
        if (flushFailed) seen.afterFailedFlush.push('flush: ok');
      } else {
        const { stamp, data } = model.begin(sector, count);
        await client.writeAt(data, BigInt(sector * SECTOR), { fua: i === 10 });
        model.acknowledge(sector, count, stamp);
        if (flushFailed) seen.afterFailedFlush.push('write: ok');
      }
    } catch (error) {
      const code = codeOf(error) ?? '?';
      seen.failures.push({ what: flush || i === 10 ? 'flush' : 'write', code });
      if (code === 'ESHUTDOWN' || client.state !== 'connected') break;
      if (flushFailed) seen.afterFailedFlush.push(`${flush ? 'flush' : 'write'}: ${code}`);
      if ((flush || i === 10) && code === 'EIO') flushFailed = true;
    }
  }
  return seen;
}

async function run(program: string, directory: string, at: Case, seed: number): Promise<void> {
  const name = `${at.file} ${at.call} ${at.fault} ${at.n}`;
  mkdirSync(directory);
  const model = new SectorModel(DISK);
  const env = { UV_THREADPOOL_SIZE: '1' };
  const base = { program, directory, diskBytes: DISK };
  const traced = await BlockProcess.start({ ...base, env, prefix: tracer(directory, at) });
  try {
    await disturbedLife(traced, model, at, seed, name);
  } finally {
    traced.kill();
    await traced.stop();
  }
  try {
    await wayBack(base);
  } catch (error) {
    console.error(`${name}: the way back failed`);
    throw error;
  }
}

async function disturbedLife(
  traced: BlockProcess,
  model: SectorModel,
  at: Case,
  seed: number,
  name: string,
): Promise<void> {
  let seen: Seen = { failures: [], afterFailedFlush: [] };
  let began = false;
  try {
    await traced.serve();
    began = true;
  } catch {
    // Refused to begin: nothing was acknowledged.
  }
  let spilled = false;
  if (began) {
    const client = await NbdClient.connect(traced.socket, 'a', { reconnectTimeoutMs: 1 });
    seen = await scenario(client, model, new SeededRandom(seed));
    await client.close().catch(() => {});
    if (at.fault !== 'signal=KILL') {
      spilled = (await traced.command('copy-status', { copy: 'back' })).reason !== undefined;
      await disturbed(traced, at, seen, name);
    }
  }
  traced.kill();
  await traced.stop();
  await eventually(`${name}: the fault`, () =>
    /INJECTED|killed by SIGKILL/.test(readFileSync(join(traced.directory, 'trace'), 'latin1')),
  );
  if (existsSync(traced.logDirectory) && !spilled && existsSync(traced.image))
    await inStep(traced, model, name);
}

/** S5 and S8 for faults that the process outlives. */
async function disturbed(process: BlockProcess, at: Case, seen: Seen, name: string): Promise<void> {
  const status = (await process.command('disk-status', { id: 'a' }))[0]!;
  if (at.file === 'log') {
    // A log in trouble never reaches the guest.
    assert.equal(seen.failures, [], name);
    assert.is(status.failed, undefined, name);
    const { reason } = await process.command('copy-status', { copy: 'back' });
    assert.match(reason ?? '', /write log is not kept/, name);
  } else if (at.call === 'fdatasync') {
    assert.ok(status.failed, `${name}: the disk is not read-only`);
    assert.is(seen.failures[0]?.code, 'EIO', name);
    assert.ok(seen.afterFailedFlush.length > 0, name);
    for (const outcome of seen.afterFailedFlush) assert.match(outcome, /^flush: EIO$|^write: EROFS$/, name);
  } else {
    const code = at.fault === 'error=EIO' ? 'EIO' : 'ENOSPC';
    // Once on the event loop, once in the pool: strace counts per thread.
    assert.ok(seen.failures.length >= 1 && seen.failures.length <= 2, name);
    for (const failure of seen.failures) assert.is(failure.code, code, name);
  }
}

/** Disk and log agree with what was acknowledged. */
async function inStep(process: BlockProcess, model: SectorModel, name: string): Promise<void> {
  const summary = await verifyLog(process.logDirectory).catch((error) => {
    if (codeOf(error) === 'damaged' || codeOf(error) === 'no-log') return undefined;
    throw error;
  });
  // Killed before the first header was whole: nothing was served.
  if (summary === undefined) return assert.is(model.acknowledgedWrites, 0, name);
  assert.equal(summary.findings, [], name);
  const replayed = new MemoryStore(DISK);
  await replayLog(process.logDirectory, replayed);
  const inLog = Buffer.alloc(DISK);
  await replayed.readAt(inLog, 0n);
  const disk = readFileSync(process.image);
  model.check(disk.length === 0 ? Buffer.alloc(DISK) : disk, inLog);
}

/** Whatever happened: after a restart the way back makes both disks equal. */
async function wayBack(base: BlockProcessOptions): Promise<void> {
  const process = await BlockProcess.start(base);
  try {
    await process.serve();
    await process.command('copy-cut', { copy: 'back', fence: 'refuse', verify: true });
  } finally {
    await process.stop();
  }
}

/** Calls of an undisturbed scenario: per file, which call and how often. */
async function count(program: string, directory: string, seed: number): Promise<Omit<Case, 'fault'>[]> {
  mkdirSync(directory);
  const found: Omit<Case, 'fault'>[] = [];
  const calls = ['openat', 'pwrite64', 'pwritev', 'writev', 'fdatasync', 'fsync', 'ftruncate', 'rename'];
  for (const file of ['image', 'log'] as const) {
    const own = join(directory, file);
    mkdirSync(own);
    const path = join(own, file === 'image' ? 'a.img' : 'log/a/00000001.wlog');
    const prefix = [
      'strace',
      '-D',
      '-f',
      '-qq',
      '-o',
      join(own, 'trace'),
      '-P',
      path,
      '-e',
      `trace=${calls.join(',')}`,
    ];
    const env = { UV_THREADPOOL_SIZE: '1' };
    const traced = await BlockProcess.start({ program, directory: own, diskBytes: DISK, prefix, env });
    await traced.serve();
    const client = await NbdClient.connect(traced.socket, 'a', { reconnectTimeoutMs: 1 });
    await scenario(client, new SectorModel(DISK), new SeededRandom(seed));
    await client.close();
    traced.kill();
    await traced.stop();
    /** strace counts per thread. */
    const most = new Map<string, Map<string, number>>();
    for (const line of readFileSync(join(own, 'trace'), 'latin1').split('\n')) {
      const [, thread, call] = /^(\d+)\s+(\w+)\(/.exec(line) ?? [];
      if (thread === undefined || call === undefined) continue;
      const threads = most.get(call) ?? new Map<string, number>();
      most.set(call, threads.set(thread, (threads.get(thread) ?? 0) + 1));
    }
    for (const [call, threads] of most)
      for (let n = 1; n <= Math.max(...threads.values()); n += STEP) found.push({ file, call, n });
  }
  return found;
}

live('strace is here', () => void execFileSync('strace', ['-V']));

live(
  'killed or failed at its N-th system call, no acknowledged write is lost and no failure is hidden',
  within(
    () =>
      seeded((random, seed) =>
        inScratch(async (directory) => {
          const program = await bundleBlockProcess(directory);
          const own = random.u32();
          const places = await count(program, join(directory, 'count'), own);
          const cases = places.flatMap((place) => FAULTS.map((fault) => ({ ...place, fault })));
          const trials = new Trials(
            `S2: faults at every ${STEP}. call on image and log`,
            SOAK ? 24 : cases.length,
            cases.length,
          );
          const queue = [...cases.entries()];
          const worker = async () => {
            for (let next = queue.shift(); next !== undefined && trials.more; next = queue.shift()) {
              await run(program, join(directory, `${next[0]}`), next[1], own);
              trials.count++;
            }
          };
          await Promise.all([worker(), worker()]);
          const calls = [...new Set(places.map(({ file, call }) => `${file} ${call}`))].join(', ');
          trials.report(seed, calls);
          assert.ok(cases.length >= 3 * 8, 'too few places');
        }),
      ),
    limitMs(200_000),
  ),
);

live.run();
