/** B3, B4: the copy of a disk and the replay of a write log, against the programs that one would use otherwise. */
import { randomFillSync } from 'node:crypto';
import { closeSync, fsyncSync, ftruncateSync, mkdirSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import {
  bulkCopy,
  CopyGroup,
  DiskStack,
  FileStore,
  invalidMark,
  replayLog,
  WriteLog,
} from '../src/blockdev/index.ts';
import { SeededRandom } from '../src/common/index.ts';
import type { Bench, Contender, Stage, Subject } from './framework/index.ts';
import { missing, onStage } from './framework/index.ts';
import { filledImage, folderOf } from './images.ts';

const MIB = 1024 * 1024;
const CP = 'cp --sparse=always';
const CONVERT = 'qemu-img convert';
const WITHOUT = 'without its proof';

export const copySubject: Subject = {
  ids: ['B3', 'B4'],
  async run(bench) {
    if (bench.wants('B3')) await onStage((stage) => copy(bench, stage));
    if (bench.wants('B4')) await onStage((stage) => replay(bench, stage));
  },
};

/** Every second 4 MiB of the image is a hole. */
async function copy(bench: Bench, stage: Stage): Promise<void> {
  const folder = folderOf(bench, 'b3');
  const source = join(folder, 'source.img');
  const target = join(folder, 'target.img');
  const sizeBytes = (bench.quick ? 256 : 1024) * MIB;
  const step = 4 * MIB;
  const fd = openSync(source, 'w');
  const data = randomFillSync(Buffer.allocUnsafe(step));
  for (let at = 0; at < sizeBytes; at += 2 * step) writeSync(fd, data, 0, step, at);
  ftruncateSync(fd, sizeBytes);
  fsyncSync(fd);
  closeSync(fd);
  const timed = (name: string, work: () => Promise<unknown>): Contender => ({
    name,
    async sample() {
      rmSync(target, { force: true });
      const startedMs = performance.now();
      await work();
      return [(sizeBytes / (performance.now() - startedMs)) * 1000];
    },
  });
  await bench.race({
    id: 'B3',
    figures: [
      {
        what: `copy of ${sizeBytes / MIB} MiB, half of it holes`,
        unit: 'bytesPerSecond',
        better: 'more',
        goals: { [CP]: 1, [CONVERT]: 1 },
      },
    ],
    ours: timed('bulk copy', async () => {
      const from = FileStore.open(source, { readOnly: true });
      const to = FileStore.open(target, { create: BigInt(sizeBytes) });
      await bulkCopy(from, to);
      await Promise.all([from.close(), to.close()]);
    }),
    peers: [
      // Without --reflink=never it would only note that the blocks are shared, where the file system can.
      timed(CP, () => stage.run(['cp', '--sparse=always', '--reflink=never', source, target])),
      missing('qemu-img') === undefined
        ? timed(CONVERT, () => stage.run(['qemu-img', 'convert', '-f', 'raw', '-O', 'raw', source, target]))
        : { name: CONVERT, absent: 'qemu-img is not installed' },
    ],
  });
  const toItsCut = (name: string, proof: boolean) =>
    timed(name, () => copyToItsCut({ source, target, sizeBytes, logDirectory: join(folder, 'log'), proof }));
  await bench.race({
    id: 'B3',
    figures: [
      {
        what: 'the same under a write log to its cut, proven by reading it back',
        unit: 'bytesPerSecond',
        better: 'more',
        goals: { [WITHOUT]: 0.77 },
      },
    ],
    ours: toItsCut('with its proof', true),
    peers: [toItsCut(WITHOUT, false)],
  });
  rmSync(folder, { recursive: true });
}

/** Until the target is durable and valid. */
async function copyToItsCut(copy: {
  readonly source: string;
  readonly target: string;
  readonly sizeBytes: number;
  readonly logDirectory: string;
  readonly proof: boolean;
}): Promise<void> {
  const from = new DiskStack('a', FileStore.open(copy.source));
  const to = new DiskStack('b', FileStore.open(copy.target, { create: BigInt(copy.sizeBytes) }));
  rmSync(copy.logDirectory, { recursive: true, force: true });
  mkdirSync(copy.logDirectory);
  const changed: { wake?: () => void } = {};
  const group = new CopyGroup({
    name: 'bench',
    pairs: [{ from, to, mark: invalidMark(copy.target) }],
    logDirectory: copy.logDirectory,
    purpose: 'copy',
    proof: copy.proof,
    onProgress: () => changed.wake?.(),
  });
  await group.start();
  for (
    let { phase, reason } = group.progress();
    phase !== 'converged';
    { phase, reason } = group.progress()
  ) {
    if (phase === 'failed') throw new Error(reason ?? 'the copy failed');
    await new Promise<void>((resolve) => {
      changed.wake = resolve;
    });
  }
  await group.cut(copy.proof ? { verify: true } : {});
  await Promise.all([from.top.close(), to.top.close()]);
}

/** Every block is written once, in a random order; both sides end with the data on the disk. */
async function replay(bench: Bench, stage: Stage): Promise<void> {
  const folder = folderOf(bench, 'b4');
  const sizeBytes = (bench.quick ? 64 : 256) * MIB;
  const target = filledImage(join(folder, 'target.img'), sizeBytes);
  const input = filledImage(join(folder, 'input.img'), sizeBytes);
  for (const blockBytes of [4096, 65_536]) {
    const directory = join(folder, `log-${blockBytes}`);
    await writeShuffled(directory, sizeBytes, blockBytes);
    const timed = (name: string, work: () => Promise<unknown>): Contender => ({
      name,
      async sample() {
        const startedMs = performance.now();
        await work();
        return [(sizeBytes / (performance.now() - startedMs)) * 1000];
      },
    });
    await bench.race({
      id: 'B4',
      figures: [
        {
          what: `replay of ${blockBytes / 1024} KiB writes`,
          unit: 'bytesPerSecond',
          better: 'more',
          goals: { dd: 0.7 },
        },
      ],
      ours: timed('replay', async () => {
        const store = FileStore.open(target);
        await replayLog(directory, store);
        await store.close();
      }),
      peers: [
        timed('dd', () =>
          stage.run([
            'dd',
            `if=${input}`,
            `of=${target}`,
            `bs=${blockBytes}`,
            'conv=notrunc,fdatasync',
            'status=none',
          ]),
        ),
      ],
    });
    rmSync(directory, { recursive: true });
  }
  rmSync(folder, { recursive: true });
}

async function writeShuffled(directory: string, sizeBytes: number, blockBytes: number): Promise<void> {
  const log = WriteLog.create(directory, { diskId: 'bench', diskSize: BigInt(sizeBytes), purpose: 'copy' });
  const random = new SeededRandom(1);
  const blocks = Array.from({ length: sizeBytes / blockBytes }, (_, at) => at);
  for (let at = blocks.length - 1; at > 0; at--) {
    const other = random.below(at + 1);
    [blocks[at], blocks[other]] = [blocks[other]!, blocks[at]!];
  }
  const data = randomFillSync(Buffer.allocUnsafe(blockBytes));
  for (const block of blocks) {
    await log.record('data', block * blockBytes, blockBytes, data, undefined);
    log.landed(block * blockBytes, blockBytes, true);
  }
  await log.close();
}
