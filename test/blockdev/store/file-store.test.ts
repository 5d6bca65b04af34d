import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs, { openSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Coalesced, FileStore, InlineBudget } from '../../../src/blockdev/index.ts';
import { eventually, inScratch, within } from '../../support/index.ts';
import { errnoOf } from '../device-compliance.ts';

const store = suite('blockdev/store/file-store');
const MIB = 1024n * 1024n;

store(
  'a file is made with the size asked for, sparse, and opened again as it is',
  within(() =>
    inScratch(async (directory) => {
      const path = join(directory, 'a.img');
      const first = FileStore.open(path, { create: 64n * MIB });
      assert.is(first.allocated(), 0n);
      await first.writeAt(Buffer.alloc(4096, 1), 32n * MIB);
      await first.flush();
      assert.is(first.allocated(), 4096n);
      await first.close();
      const again = FileStore.open(path);
      assert.is(again.size, 64n * MIB);
      await again.close();
      assert.is(statSync(path).size, Number(64n * MIB));
    }),
  ),
);

store(
  'a disk of more than 4 TiB keeps what is written at its ends',
  within(() =>
    inScratch(async (directory) => {
      const size = 5n * MIB * MIB;
      const disk = FileStore.open(join(directory, 'big.img'), { create: size });
      await disk.writeAt(Buffer.from('first'), 0n);
      await disk.writeAt(Buffer.from('last!'), size - 5n);
      const out = Buffer.alloc(5);
      await disk.readAt(out, size - 5n);
      assert.is(out.toString(), 'last!');
      await disk.writeZeroes(0n, size - 5n);
      await disk.readAt(out, 0n);
      assert.ok(out.equals(Buffer.alloc(5)));
      await disk.close();
    }),
  ),
);

store(
  'opening fails by name: absent, other size, no file, a size that is none',
  within(() =>
    inScratch(async (directory) => {
      const path = join(directory, 'a.img');
      assert.is(await errnoOf(() => FileStore.open(path)), 'ENOENT');
      await FileStore.open(path, { create: MIB }).close();
      assert.is(await errnoOf(() => FileStore.open(path, { create: 2n * MIB })), 'size-mismatch');
      assert.is(
        fs.lstatSync(`${path}.lock`, { throwIfNoEntry: false }),
        undefined,
        'a failed opening leaves no lock',
      );
      assert.is(await errnoOf(() => FileStore.open('/dev/null', { readOnly: true })), 'not-a-file');
      assert.is(
        await errnoOf(() => FileStore.open(join(directory, 'b'), { create: 2n ** 53n })),
        'too-large',
      );
      assert.is(await errnoOf(() => FileStore.open(join(directory, 'b'), { create: 0n })), 'too-large');
    }),
  ),
);

store(
  'one file is one disk: a second opener is told who has it; a lock of a dead process is replaced',
  within(() =>
    inScratch(async (directory) => {
      const path = join(directory, 'a.img');
      const first = FileStore.open(path, { create: MIB });
      assert.is(await errnoOf(() => FileStore.open(path)), 'in-use');
      const looker = FileStore.open(path, { readOnly: true, exclusive: false });
      assert.is(await errnoOf(() => looker.writeAt(Buffer.alloc(1), 0n)), 'EROFS');
      await looker.close();
      const lock = fs.readlinkSync(`${path}.lock`);
      await first.close();
      assert.is(fs.lstatSync(`${path}.lock`, { throwIfNoEntry: false }), undefined);
      // Somebody else holds it: process 1 with its own start time.
      const started = readFileSync('/proc/1/stat', 'utf8').split(') ')[1]!.split(' ')[19];
      writeFileSync(`${path}.lock`, `1 ${started}\n`);
      assert.is(await errnoOf(() => FileStore.open(path)), 'in-use');
      // The same pid, started at another time: another program.
      writeFileSync(`${path}.lock`, '1 12345678901\n');
      const third = FileStore.open(path);
      assert.is(fs.readlinkSync(`${path}.lock`), lock);
      assert.equal(fs.readdirSync(directory).sort(), ['a.img', 'a.img.lock']);
      await third.close();
    }),
  ),
);

store(
  'a process that has ended holds no disk, though nobody has waited for it yet',
  within(() =>
    inScratch(async (directory) => {
      const path = join(directory, 'a.img');
      await FileStore.open(path, { create: MIB }).close();
      // Its parent becomes a program that never asks for its children.
      const parent = spawn('sh', ['-c', 'sleep 0 & echo $!; exec sleep 60'], {
        stdio: ['ignore', 'pipe', 'ignore'],
      });
      try {
        const [line] = (await once(parent.stdout, 'data')) as [Buffer];
        const pid = line.toString().trim();
        const fields = () => readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
        await eventually('the zombie', () => fields()[0] === 'Z');
        fs.symlinkSync(`${pid} ${fields()[19]}`, `${path}.lock`);
        await FileStore.open(path).close();
      } finally {
        parent.kill('SIGKILL');
      }
    }),
  ),
);

store(
  'a failed fdatasync is remembered: flush fails for ever, writes are refused, reads go on',
  within(() =>
    inScratch(async (directory) => {
      const reasons: string[] = [];
      const disk = FileStore.open(join(directory, 'a.img'), {
        create: MIB,
        onFailed: (reason) => reasons.push(reason),
      });
      await disk.writeAt(Buffer.alloc(512, 3), 0n);
      await failingSync(async () => {
        assert.is(await errnoOf(() => disk.flush()), 'EIO');
      });
      assert.is(await errnoOf(() => disk.flush()), 'EIO');
      assert.is(await errnoOf(() => disk.writeAt(Buffer.alloc(1), 0n)), 'EROFS');
      assert.is(await errnoOf(() => disk.writeAtSync(Buffer.alloc(1), 0n)), 'EROFS');
      assert.is(await errnoOf(() => disk.writeZeroes(0n, 1n)), 'EROFS');
      const out = Buffer.alloc(1);
      await disk.readAt(out, 0n);
      assert.is(out[0], 3);
      assert.match(disk.failed ?? '', /fdatasync of .* failed/);
      assert.is(reasons.length, 1);
      await disk.close();
    }),
  ),
);

/** While `body` runs, fdatasync answers EIO, as a disk that lost its power would. */
async function failingSync(body: () => Promise<void>): Promise<void> {
  const { fdatasync } = fs;
  const failing = (_fd: number, done: (error: Error) => void) =>
    setImmediate(() => done(Object.assign(new Error('EIO: i/o error, fdatasync'), { code: 'EIO' })));
  Object.assign(fs, { fdatasync: failing });
  syncBuiltinESMExports();
  try {
    await body();
  } finally {
    Object.assign(fs, { fdatasync });
    syncBuiltinESMExports();
  }
}

store(
  'a file that was cut shorter fails reads with EIO instead of giving zeroes',
  within(() =>
    inScratch(async (directory) => {
      const path = join(directory, 'a.img');
      const disk = FileStore.open(path, { create: MIB });
      truncateSync(path, 100_000);
      assert.is(await errnoOf(() => disk.readAt(Buffer.alloc(4096), 500_000n)), 'EIO');
      await disk.close();
    }),
  ),
);

store(
  'closing waits for what is under way',
  within(() =>
    inScratch(async (directory) => {
      const disk = FileStore.open(join(directory, 'a.img'), { create: 32n * MIB });
      const writes = Promise.all([
        disk.writeAt(Buffer.alloc(Number(8n * MIB), 1), 0n),
        disk.writeAt(Buffer.alloc(Number(8n * MIB), 2), 8n * MIB, { fua: true }),
      ]);
      await disk.close();
      await writes;
      const again = openSync(join(directory, 'a.img'), 'r');
      assert.ok(again > 0);
      fs.closeSync(again);
    }),
  ),
);

store(
  'a copy inside the kernel is the same bytes',
  within(() =>
    inScratch(async (directory) => {
      const a = FileStore.open(join(directory, 'a.img'), { create: 4n * MIB });
      const b = FileStore.open(join(directory, 'b.img'), { create: 4n * MIB });
      await a.writeAt(Buffer.alloc(100_000, 7), MIB + 5n);
      const done = await b.copyFrom(a, MIB, MIB);
      const out = Buffer.alloc(100_000);
      await b.readAt(out, MIB + 5n);
      assert.is(out.equals(Buffer.alloc(100_000, 7)), done);
      await a.close();
      await b.close();
    }),
  ),
);

store(
  'who asks for a flush while one runs gets one that began after he asked',
  within(async () => {
    const started: (() => void)[] = [];
    const task = new Coalesced(() => new Promise((resolve) => started.push(resolve)));
    const first = task.request();
    const second = task.request();
    const third = task.request();
    assert.is(started.length, 1);
    assert.is(second, third);
    started[0]!();
    await first;
    await new Promise((resolve) => setImmediate(resolve));
    assert.is(started.length, 2);
    started[1]!();
    await third;
    await task.idle();
  }),
);

store(
  'two slow operations within a second send the others to the thread pool for a while',
  within(() => {
    const budget = new InlineBudget(3, 500);
    assert.ok(budget.allows(1000));
    budget.took(1000, 1002);
    budget.took(1000, 1010);
    assert.ok(budget.allows(1011), 'one may be an accident');
    budget.took(1020, 1030);
    assert.not.ok(budget.allows(1031));
    assert.ok(budget.allows(1530));
    budget.took(5000, 5010);
    assert.ok(budget.allows(5011));
    assert.is(budget.overruns, 3);
  }),
);

store.run();
