import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Device, FileSystem } from '../../../src/blockdev/index.ts';
import { FileError, MemoryStore, mountExt4 } from '../../../src/blockdev/index.ts';
import { CodedError } from '../../../src/common/index.ts';
import { seeded, within } from '../../support/index.ts';
import { assertClean, freshDevice } from './image.ts';
import type { Model } from './model.ts';
import { randomStep } from './model.ts';

const test = suite('blockdev/ext4/file-system');

async function mounted(body: (fs: FileSystem, device: MemoryStore) => Promise<void>): Promise<void> {
  const device = await freshDevice();
  const fs = await mountExt4(device);
  await body(fs, device);
  await fs.unmount();
  await assertClean(device, 'after unmount');
}

async function failure(work: Promise<unknown>): Promise<FileError> {
  try {
    await work;
  } catch (error) {
    assert.instance(error, FileError);
    return error as FileError;
  }
  throw new Error('it did not fail');
}

test(
  'what was written is read again, after the next mount too',
  within(async () => {
    const device = await freshDevice();
    const fs = await mountExt4(device);
    await fs.mkdir('/a/b/c', { recursive: true });
    await fs.writeFile('/a/b/c/file', 'text äöü');
    await fs.appendFile('/a/b/c/file', ' more');
    const bytes = Buffer.alloc(300_000, 7);
    await fs.writeFile('/bytes', bytes);
    await fs.unmount();
    const again = await mountExt4(device, { readOnly: true });
    assert.is(await again.readFile('/a/b/c/file', 'utf8'), 'text äöü more');
    assert.ok((await again.readFile('/bytes')).equals(bytes));
    assert.is((await again.stat('/bytes')).size, 300_000);
    assert.equal(await again.readdir('/a'), ['b']);
    await again.unmount();
    await assertClean(device, 'after both');
  }),
);

test(
  'after sync the image is clean although the file system stays mounted',
  within(() =>
    mounted(async (fs, device) => {
      for (let round = 0; round < 5; round++) {
        await fs.mkdir(`/d${round}`);
        for (let i = 0; i < 20; i++) await fs.writeFile(`/d${round}/f${i}`, 'x'.repeat(i * 700));
        if (round > 0) await fs.rm(`/d${round - 1}`, { recursive: true });
        await fs.sync();
        await assertClean(device, `in round ${round}`);
      }
    }),
  ),
);

test(
  'between two syncs the device does not change',
  within(() =>
    mounted(async (fs, device) => {
      await fs.writeFile('/committed', 'yes');
      await fs.sync();
      const before = Buffer.alloc(Number(device.size));
      await device.readAt(before, 0n);
      await fs.writeFile('/lost', 'no');
      await fs.unlink('/committed');
      const now = Buffer.alloc(Number(device.size));
      await device.readAt(now, 0n);
      assert.ok(now.equals(before));
    }),
  ),
);

test(
  'a small durable append writes two sectors and flushes once',
  within(() =>
    mounted(async (fs, device) => {
      const file = await fs.open('/log', 'a');
      await file.appendFile('first\n');
      await file.sync();
      const { bytesCommitted } = fs.counters();
      const flushes = device.flushes;
      await file.appendFile('second\n');
      await file.sync();
      assert.is(fs.counters().bytesCommitted - bytesCommitted, 1024);
      assert.is(device.flushes - flushes, 1);
      const other = await mountExt4(await copyOf(device), { readOnly: true });
      assert.is(await other.readFile('/log', 'utf8'), 'first\nsecond\n');
      await other.unmount();
      await assertClean(device, 'with appends');
      await file.close();
    }),
  ),
);

test(
  'overlapping durable appends share commits and none is lost',
  within(() =>
    mounted(async (fs) => {
      const file = await fs.open('/log', 'a');
      const { commits } = fs.counters();
      await Promise.all(
        Array.from({ length: 200 }, async (_, i) => {
          await file.appendFile(`${i}\n`);
          await file.datasync();
        }),
      );
      assert.ok(fs.counters().commits - commits < 200);
      const lines = (await fs.readFile('/log', 'utf8')).trim().split('\n').map(Number);
      assert.equal(
        lines.sort((a, b) => a - b),
        Array.from({ length: 200 }, (_, i) => i),
      );
      await file.close();
    }),
  ),
);

test(
  'frozen: what was written is on the device, further changes wait for thaw, reads do not',
  within(() =>
    mounted(async (fs, device) => {
      await fs.writeFile('/f', 'before');
      await fs.freeze();
      await assertClean(device, 'while frozen');
      let done = false;
      const late = fs.writeFile('/f', 'after').then(() => {
        done = true;
      });
      assert.is(await fs.readFile('/f', 'utf8'), 'before');
      assert.is(done, false);
      fs.thaw();
      await late;
      assert.is(await fs.readFile('/f', 'utf8'), 'after');
    }),
  ),
);

test(
  'errors have the names that node:fs gives them',
  within(() =>
    mounted(async (fs) => {
      await fs.mkdir('/d');
      await fs.writeFile('/d/f', '1');
      const cases: [string, () => Promise<unknown>][] = [
        ['ENOENT', () => fs.readFile('/none')],
        ['ENOENT', () => fs.open('/none/f', 'w')],
        ['ENOENT', () => fs.rename('/none', '/d/x')],
        ['ENOTDIR', () => fs.readdir('/d/f')],
        ['EISDIR', () => fs.readFile('/d')],
        ['EISDIR', () => fs.open('/d', 'w')],
        ['EISDIR', () => fs.unlink('/d')],
        ['EEXIST', () => fs.mkdir('/d')],
        ['EEXIST', () => fs.open('/d/f', 'wx')],
        ['ENOTEMPTY', () => fs.rmdir('/d')],
        ['EINVAL', () => fs.rename('/d', '/d/e')],
        ['EINVAL', () => fs.readFile('relative')],
        ['EINVAL', () => fs.readFile('/a\0b')],
        ['ENAMETOOLONG', () => fs.writeFile(`/${'x'.repeat(256)}`, '')],
        ['EPERM', () => fs.link('/d', '/e')],
      ];
      for (const [code, work] of cases) assert.is((await failure(work())).code, code, code);
      const missing = await failure(fs.stat('/none'));
      assert.is(missing.message, "ENOENT: no such file or directory, stat '/none'");
      assert.is(missing.errno, -2);
      assert.is(missing.syscall, 'stat');
    }),
  ),
);

test(
  'a full disk is ENOSPC, and clean',
  within(() =>
    mounted(async (fs, device) => {
      assert.is((await failure(fs.writeFile('/big', Buffer.alloc(20 * 1024 * 1024)))).code, 'ENOSPC');
      await fs.sync();
      await assertClean(device, 'when full');
      const file = await fs.open('/small', 'w');
      assert.is((await failure(file.appendFile('one byte more'))).code, 'ENOSPC');
      await file.close();
      await fs.unlink('/big');
      await fs.writeFile('/small', 'fits');
      assert.is(await fs.readFile('/small', 'utf8'), 'fits');
    }),
  ),
);

test(
  'a handle follows its file when it is renamed, and is stale when it is removed or replaced',
  within(() =>
    mounted(async (fs) => {
      const file = await fs.open('/a', 'w+');
      await file.write('one');
      await fs.rename('/a', '/b');
      await file.write(' two');
      assert.is(await fs.readFile('/b', 'utf8'), 'one two');
      await fs.writeFile('/c', 'other');
      await fs.rename('/c', '/b');
      assert.is((await failure(file.write('lost'))).code, 'ESTALE');
      assert.is(await fs.readFile('/b', 'utf8'), 'other');
      await file.close();
      assert.is((await failure(file.close())).code, 'EBADF');
    }),
  ),
);

test(
  'a handle reads and writes at positions, truncates and grows',
  within(() =>
    mounted(async (fs) => {
      const file = await fs.open('/f', 'w+');
      await file.write('hello world');
      await file.write('J', 0);
      const target = Buffer.alloc(5);
      assert.is((await file.read(target, 0, 5, 6)).bytesRead, 5);
      assert.is(target.toString(), 'world');
      await file.truncate(5);
      assert.is(await fs.readFile('/f', 'utf8'), 'Jello');
      await file.truncate(8);
      assert.is(await fs.readFile('/f', 'utf8'), 'Jello\0\0\0');
      await file.write('end', 100_000);
      assert.is((await file.stat()).size, 100_003);
      assert.is(
        (await fs.readFile('/f')).subarray(8, 100_000).findIndex((byte) => byte !== 0),
        -1,
      );
      await file.close();
    }),
  ),
);

test(
  'two names of one file show the same contents while both are open',
  within(() =>
    mounted(async (fs) => {
      await fs.writeFile('/a', '1');
      await fs.link('/a', '/b');
      const [a, b] = [await fs.open('/a', 'a'), await fs.open('/b', 'r')];
      await a.appendFile('2');
      assert.is(await b.readFile('utf8'), '12');
      await a.appendFile('3');
      assert.is(await fs.readFile('/b', 'utf8'), '123');
      assert.is((await fs.stat('/b')).nlink, 2);
      await a.close();
      await b.close();
    }),
  ),
);

test(
  'directories grow for files, directories and links',
  within(
    () =>
      mounted(async (fs, device) => {
        await fs.mkdir('/d');
        await fs.writeFile('/target', '');
        for (let i = 0; i < 60; i++) {
          const name = `${i}-`.padEnd(120, 'n');
          await fs.mkdir(`/d/d${name}`);
          await fs.symlink('../target', `/d/s${name}`);
          await fs.link('/target', `/d/l${name}`);
        }
        assert.is((await fs.readdir('/d')).length, 180);
        assert.is(await fs.realpath(`/d/s${'7-'.padEnd(120, 'n')}`), '/target');
        await fs.sync();
        await assertClean(device, 'with large directories');
        await fs.rm('/d', { recursive: true });
      }),
    20_000,
  ),
);

test(
  'streams carry a file in and out',
  within(() =>
    mounted(async (fs) => {
      const text = 'line of a file\n'.repeat(20_000);
      const out = (await fs.open('/f', 'w')).createWriteStream({ flush: true });
      for (let at = 0; at < text.length; at += 10_000) out.write(text.slice(at, at + 10_000));
      await new Promise<void>((resolve, reject) => out.end(() => resolve()).on('error', reject));
      let read = '';
      for await (const part of (await fs.open('/f')).createReadStream({ encoding: 'utf8' })) read += part;
      assert.ok(read === text);
      let middle = '';
      const range = (await fs.open('/f')).createReadStream({ start: 5, end: 6, encoding: 'utf8' });
      for await (const part of range) middle += part;
      assert.is(middle, 'of');
    }),
  ),
);

test(
  'a read-only mount refuses changes and writes nothing',
  within(async () => {
    const device = await freshDevice();
    const before = Buffer.alloc(Number(device.size));
    await device.readAt(before, 0n);
    const fs = await mountExt4(device, { readOnly: true });
    assert.is((await failure(fs.writeFile('/f', ''))).code, 'EROFS');
    assert.is((await failure(fs.open('/lost+found', 'r+'))).code, 'EROFS');
    await fs.readdir('/');
    await fs.unmount();
    const after = Buffer.alloc(Number(device.size));
    await device.readAt(after, 0n);
    assert.ok(after.equals(before));
  }),
);

test(
  'a disk that is not ext4, damaged, without a journal or cut off is refused with a remedy',
  within(async () => {
    const refused = async (device: Device): Promise<CodedError> => {
      try {
        await mountExt4(device);
      } catch (error) {
        assert.instance(error, CodedError);
        assert.ok((error as CodedError).remedy);
        return error as CodedError;
      }
      throw new Error('it was mounted');
    };
    assert.is((await refused(new MemoryStore(1_000_000n))).code, 'not-ext4');
    assert.is((await refused(new MemoryStore(10n))).code, 'not-ext4');
    const patched = async (offset: bigint, bytes: number[]) => {
      const device = await freshDevice();
      await device.writeAt(Uint8Array.from(bytes), offset);
      return device;
    };
    // The feature bit: the journal's inode stays as it is.
    const compat = Buffer.alloc(1);
    await (await freshDevice()).readAt(compat, 1024n + 0x5cn);
    assert.is((await refused(await patched(1024n + 0x5cn, [compat[0]! & ~4]))).code, 'no-journal');
    assert.is((await refused(await patched(1024n + 0x30n, [1, 2, 3, 4]))).code, 'has-errors');
    assert.is((await refused(await patched(1024n + 0x3an, [3, 0]))).code, 'has-errors');
    const whole = await freshDevice();
    const short = new MemoryStore(whole.size - 4096n);
    const bytes = Buffer.alloc(Number(short.size));
    await whole.readAt(bytes, 0n);
    await short.writeAt(bytes, 0n);
    assert.is((await refused(short)).code, 'truncated');
  }),
);

test(
  'a commit that fails is reported, and no change is accepted after it',
  within(async () => {
    const device = await freshDevice();
    const fs = await mountExt4(device);
    await fs.writeFile('/f', 'good');
    await fs.sync();
    let broken = true;
    const { writeAt } = device;
    device.writeAt = async (...args) => {
      if (broken) throw new Error('the disk is gone');
      return writeAt.apply(device, args);
    };
    await fs.writeFile('/f', 'bad');
    let reported = '';
    await fs.sync().catch((error) => {
      reported = error.message;
    });
    assert.is(reported, 'the disk is gone');
    broken = false;
    assert.is((await failure(fs.sync())).code, 'EIO');
    assert.is((await failure(fs.writeFile('/g', ''))).code, 'EIO');
    fs.abandon();
    const again = await mountExt4(device, { readOnly: true });
    assert.is(await again.readFile('/f', 'utf8'), 'good');
    await again.unmount();
  }),
);

test(
  'more than the journal holds is written in several commits; a long file is shortened',
  within(
    () =>
      mounted(async (fs, device) => {
        const bytes = Buffer.alloc(6_000_001);
        for (let at = 0; at + 4 <= bytes.length; at += 4) bytes.writeUInt32LE(at, at);
        await fs.writeFile('/long', bytes, { mode: 0o640 });
        const handle = await fs.open('/long', 'r+');
        await fs.sync();
        await assertClean(device, 'after a long write');
        assert.ok((await fs.readFile('/long')).equals(bytes));
        await fs.writeFile(`/.shortened-${(await fs.stat('/long')).ino}`, 'left by a crash');
        await handle.truncate(3_000_000);
        await handle.write('end', 2_999_997);
        await handle.sync();
        bytes.write('end', 2_999_997);
        assert.ok((await handle.readFile()).equals(bytes.subarray(0, 3_000_000)));
        assert.is((await handle.stat()).mode & 0o7777, 0o640);
        assert.equal(await fs.readdir('/'), ['lost+found', 'long']);
        await fs.link('/long', '/other');
        assert.is((await failure(handle.truncate(2_000_000))).code, 'EFBIG');
        await handle.truncate(100_000);
        assert.ok((await fs.readFile('/other')).equals(bytes.subarray(0, 100_000)));
        await handle.close();
      }),
    20_000,
  ),
);

test(
  'frozen or unmounted, nothing is to be recovered; in between the journal is to be looked at',
  within(async () => {
    const device = await freshDevice();
    const flag = Buffer.alloc(1);
    const needsRecovery = async () => {
      await device.readAt(flag, 1024n + 0x60n);
      return (flag[0]! & 4) !== 0;
    };
    const fs = await mountExt4(device);
    await fs.readdir('/');
    assert.is(await needsRecovery(), false);
    await fs.writeFile('/f', 'one');
    assert.is(await needsRecovery(), true);
    await fs.freeze();
    assert.is(await needsRecovery(), false);
    await assertClean(device, 'frozen');
    fs.thaw();
    await fs.writeFile('/f', 'two');
    await fs.sync();
    assert.is(await needsRecovery(), true);
    fs.abandon();
    const again = await mountExt4(device);
    assert.is(await again.readFile('/f', 'utf8'), 'two');
    await again.unmount();
    assert.is(await needsRecovery(), false);
    await assertClean(device, 'unmounted');
  }),
);

test(
  'random operations agree with a model, clean at every sync',
  within(
    () =>
      seeded(async (random) => {
        const device = await freshDevice();
        const fs = await mountExt4(device);
        const model: Model = { files: new Map(), folders: new Set(['/']) };
        for (let step = 1; step <= 400; step++) {
          if (random.below(9) === 0) await fs.sync();
          else await randomStep(fs, model, random);
          if (step % 100 !== 0) continue;
          await fs.sync();
          await assertClean(device, `after step ${step}`);
          const other = await mountExt4(await copyOf(device), { readOnly: true });
          for (const [path, data] of model.files) {
            assert.ok((await other.readFile(path)).equals(data), `${path} after step ${step}`);
          }
          await other.unmount();
        }
        await fs.unmount();
        await assertClean(device, 'at the end');
      }),
    20_000,
  ),
);

async function copyOf(device: Device): Promise<MemoryStore> {
  const copy = new MemoryStore(device.size);
  const bytes = Buffer.alloc(Number(device.size));
  await device.readAt(bytes, 0n);
  await copy.writeAt(bytes, 0n);
  return copy;
}

test.run();
