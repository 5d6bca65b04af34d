import { randomBytes } from 'node:crypto';
import { closeSync, ftruncateSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 as zlibCrc32 } from 'node:zlib';
import {
  AllocateMode,
  allocate,
  cloneFile,
  copyRange,
  crc32,
  dropCached,
  errnoName,
  isPastData,
  isUnsupported,
  nativeAvailable,
  readNow,
  seekData,
  seekHole,
  wouldWait,
  writeBack,
  writeNow,
} from 'block-io';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

const io = suite('block-io');

async function withFile(body: (fd: number, directory: string) => Promise<void> | void): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'block-io-'));
  const fd = openSync(join(directory, 'file'), 'wx+');
  try {
    ftruncateSync(fd, 1024 * 1024);
    await body(fd, directory);
  } finally {
    closeSync(fd);
    rmSync(directory, { recursive: true });
  }
}

io('the addon is built', () => {
  assert.ok(nativeAvailable || process.env['BLOCK_IO'] === 'off', 'run: npm run build -w block-io');
});

io('data and holes are found, and punched', () =>
  withFile(async (fd) => {
    if (!nativeAvailable) return assert.is(errnoName(seekData(fd, 0)), 'EOPNOTSUPP');
    assert.ok(isPastData(seekData(fd, 0)));
    writeSync(fd, Buffer.alloc(65_536, 1), 0, 65_536, 131_072);
    assert.is(seekData(fd, 0), 131_072);
    assert.is(seekHole(fd, 131_072), 196_608);
    const punched = await allocate(fd, AllocateMode.punchHole, 131_072, 65_536);
    if (isUnsupported(punched)) return;
    assert.is(punched, 0);
    assert.ok(isPastData(seekData(fd, 0)));
  }),
);

io('reads and writes that do not wait', () =>
  withFile((fd) => {
    if (!nativeAvailable) return assert.is(errnoName(readNow(fd, Buffer.alloc(1), 0, 1, 0)), 'EOPNOTSUPP');
    writeSync(fd, Buffer.from('changeover'), 0, 10, 100);
    const out = Buffer.alloc(12);
    const count = readNow(fd, out, 1, 10, 100);
    if (count >= 0) assert.is(out.toString('latin1', 1, 11), 'changeover');
    else assert.ok(isUnsupported(count) || wouldWait(count));
    const written = writeNow(fd, Buffer.from('xyz'), 0, 3, 0);
    assert.ok(written === 3 || isUnsupported(written) || wouldWait(written));
  }),
);

io('ranges that leave the buffer throw, bad descriptors answer EBADF', async () => {
  if (!nativeAvailable) return;
  for (const [start, length] of [
    [0, 9],
    [8, 1],
    [-1, 2],
    [0, -1],
    [2 ** 40, 1],
  ])
    assert.throws(() => readNow(0, Buffer.alloc(8), start!, length!, 0));
  assert.throws(() => readNow(0, 'no buffer' as unknown as Buffer, 0, 1, 0));
  assert.is(errnoName(readNow(9999, Buffer.alloc(8), 0, 8, 0)), 'EBADF');
  assert.is(errnoName(await allocate(9999, 0, 0, 1)), 'EBADF');
  assert.is(errnoName(seekData(9999, 0)), 'EBADF');
});

io('copies inside the kernel', () =>
  withFile(async (fd, directory) => {
    writeSync(fd, Buffer.from('changeover'), 0, 10, 0);
    const to = openSync(join(directory, 'copy'), 'wx+');
    try {
      const copied = await copyRange(fd, 4, to, 0, 6);
      assert.ok(copied === 6 || isUnsupported(copied));
      const cloned = await cloneFile(fd, to);
      assert.ok(cloned === 0 || isUnsupported(cloned), errnoName(cloned || -1));
    } finally {
      closeSync(to);
    }
  }),
);

io('written back and forgotten, a file reads the same', () =>
  withFile(async (fd) => {
    const bytes = randomBytes(64 * 1024);
    writeSync(fd, bytes, 0, bytes.length, 0);
    const begun = await writeBack(fd, 0, bytes.length);
    assert.ok(begun === 0 || isUnsupported(begun), errnoName(begun || -1));
    const dropped = await dropCached(fd, 0, bytes.length);
    assert.ok(dropped === 0 || isUnsupported(dropped), errnoName(dropped || -1));
    const again = Buffer.alloc(bytes.length);
    readSync(fd, again, 0, again.length, 0);
    assert.ok(again.equals(bytes));
    if (nativeAvailable) {
      assert.is(errnoName(await writeBack(9999, 0, 1)), 'EBADF');
      assert.is(errnoName(await dropCached(9999, 0, 1)), 'EBADF');
    }
  }),
);

io('crc32 is the one of zlib, whatever length, alignment and beginning', () => {
  const bytes = randomBytes(9000);
  assert.is(crc32(Buffer.from('123456789')), 0xcbf43926);
  for (let length = 0; length <= 300; length++)
    for (const start of [0, 1, 7, 13]) {
      const part = bytes.subarray(start, start + length);
      assert.is(crc32(part, length * 0x00d23456), zlibCrc32(part, length * 0x00d23456));
    }
  for (let length = 301; length < 8900; length += 37)
    assert.is(crc32(bytes.subarray(3, 3 + length)), zlibCrc32(bytes.subarray(3, 3 + length)));
  const whole = crc32(bytes.subarray(4000), crc32(bytes.subarray(0, 4000)));
  assert.is(whole, zlibCrc32(bytes));
  assert.throws(() => crc32('no bytes' as unknown as Buffer));
});

io.run();
