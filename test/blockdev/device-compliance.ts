/** What every Device must do, run against every store, every filter and stacks of them; the caller runs it. */
import type { Test } from 'uvu';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Device } from '../../src/blockdev/index.ts';
import { walkExtents } from '../../src/blockdev/index.ts';
import type { SeededRandom } from '../../src/common/index.ts';
import { codeOf } from '../../src/common/index.ts';
import { seeded, within } from '../support/index.ts';

export interface Subject {
  readonly device: Device;
  readonly dispose: () => Promise<void>;
}

/** Size of the devices under test: no multiple of any block size. */
export const SUBJECT_SIZE = 3 * 1024 * 1024 + 512;

export async function errnoOf(work: () => Promise<unknown> | unknown): Promise<string | undefined> {
  try {
    await work();
    return undefined;
  } catch (error) {
    return codeOf(error) ?? 'no code';
  }
}

async function readBack(device: Device, offset: number, length: number): Promise<Buffer> {
  const out = Buffer.alloc(length, 0xee);
  await device.readAt(out, BigInt(offset));
  return out;
}

/** `pastEnd`: what a write past the end fails with; a server of NBD says ENOSPC, as its specification asks. */
export function complianceSuite(name: string, make: () => Promise<Subject>, pastEnd = 'EINVAL'): Test {
  const compliance = suite(`blockdev/compliance: ${name}`);
  const on = (title: string, body: (device: Device) => Promise<void>) =>
    compliance(
      title,
      within(async () => {
        const { device, dispose } = await make();
        try {
          assert.is(device.size, BigInt(SUBJECT_SIZE));
          await body(device);
        } finally {
          await dispose();
        }
      }),
    );

  on('a new device reads as zero to its last byte', async (device) => {
    assert.ok((await readBack(device, SUBJECT_SIZE - 700, 700)).equals(Buffer.alloc(700)));
  });

  on('what was written is read, at odd offsets and over block borders', async (device) => {
    const data = Buffer.from('changeover'.repeat(900));
    await device.writeAt(data, 65_531n);
    assert.ok((await readBack(device, 65_531, data.length)).equals(data));
    assert.is((await readBack(device, 65_530, 1))[0], 0);
    assert.is((await readBack(device, 65_531 + data.length, 1))[0], 0);
  });

  on('the first and the last byte can be written', async (device) => {
    await device.writeAt(Buffer.from([1]), 0n);
    await device.writeAt(Buffer.from([2]), BigInt(SUBJECT_SIZE - 1));
    assert.is((await readBack(device, 0, 1))[0], 1);
    assert.is((await readBack(device, SUBJECT_SIZE - 1, 1))[0], 2);
  });

  on('a range that is not inside fails and changes nothing', async (device) => {
    const end = BigInt(SUBJECT_SIZE);
    const byte = Buffer.from([7]);
    assert.is(await errnoOf(() => device.writeAt(byte, end)), pastEnd);
    assert.is(await errnoOf(() => device.writeAt(Buffer.alloc(2, 7), end - 1n)), pastEnd);
    assert.is(await errnoOf(() => device.readAt(byte, end)), 'EINVAL');
    assert.is(await errnoOf(() => device.writeAt(byte, -1n)), pastEnd);
    assert.is(await errnoOf(() => device.writeZeroes(end - 1n, 2n)), pastEnd);
    assert.is(await errnoOf(() => device.trim(0n, end + 1n)), pastEnd);
    assert.is(await errnoOf(() => device.extents(0n, end + 1n)), 'EINVAL');
    assert.is((await readBack(device, SUBJECT_SIZE - 1, 1))[0], 0);
  });

  on('transfers of no bytes succeed, at the end too', async (device) => {
    await device.writeAt(Buffer.alloc(0), device.size);
    await device.readAt(Buffer.alloc(0), device.size);
    await device.writeZeroes(0n, 0n);
    await device.trim(device.size, 0n);
  });

  on('the buffer of a write is the caller’s again when it returns', async (device) => {
    const buffer = Buffer.alloc(8192, 1);
    await device.writeAt(buffer, 4096n);
    buffer.fill(2);
    assert.is((await readBack(device, 4096, 8192))[8191], 1);
  });

  on('zeroes read as zero, next to them nothing changes', async (device) => {
    for (const options of [{}, { noHole: true }, { fua: true }]) {
      await device.writeAt(Buffer.alloc(300_000, 5), 1000n);
      await device.writeZeroes(5001n, 200_001n, options);
      const all = await readBack(device, 1000, 300_000);
      assert.is(all[4000], 5);
      assert.is(all[4001], 0);
      assert.is(all[204_001], 0);
      assert.is(all[204_002], 5);
    }
  });

  on('fast zeroes are zeroes or ENOTSUP', async (device) => {
    await device.writeAt(Buffer.alloc(65_536, 5), 0n);
    const errno = await errnoOf(() => device.writeZeroes(0n, 65_536n, { fast: true }));
    assert.ok(errno === undefined || errno === 'ENOTSUP');
    assert.is((await readBack(device, 100, 1))[0], errno === undefined ? 0 : 5);
  });

  on('a trimmed range reads as it was or as zero', async (device) => {
    await device.writeAt(Buffer.alloc(262_144, 5), 0n);
    await device.trim(65_536n, 131_072n);
    const all = await readBack(device, 0, 262_144);
    assert.is(all[65_535], 5);
    assert.is(all[196_608], 5);
    assert.ok(all.subarray(65_536, 196_608).every((byte) => byte === 0 || byte === 5));
  });

  on('extents are adjacent, in order, and what they call zero is zero', async (device) => {
    await device.writeAt(Buffer.alloc(100_000, 1), 700_000n);
    await device.writeAt(Buffer.alloc(10, 1), 2_000_000n);
    let at = 0n;
    let data = 0n;
    for await (const extent of walkExtents(device, 0n, device.size)) {
      assert.is(extent.offset, at);
      assert.ok(extent.length > 0n);
      at += extent.length;
      if (!extent.zero) {
        data += extent.length;
        continue;
      }
      const bytes = await readBack(device, Number(extent.offset), Number(extent.length));
      assert.ok(bytes.every((byte) => byte === 0));
    }
    assert.is(at, device.size);
    assert.ok(data >= 100_010n);
  });

  on('flush and forced unit access end', async (device) => {
    await device.writeAt(Buffer.alloc(4096, 1), 0n, { fua: true });
    await Promise.all([device.flush(), device.writeAt(Buffer.alloc(4096, 2), 4096n), device.flush()]);
    await device.flush();
  });

  on('the path without promises does the same or declines', async (device) => {
    const data = Buffer.alloc(4096, 9);
    if (device.writeAtSync?.(data, 8192n) !== true) await device.writeAt(data, 8192n);
    const out = Buffer.alloc(4096);
    if (device.readAtSync?.(out, 8192n) !== true) await device.readAt(out, 8192n);
    assert.ok(out.equals(data));
    let outside: unknown = false;
    const errno = await errnoOf(() => {
      outside = device.readAtSync?.(out, device.size) ?? false;
    });
    assert.ok(errno === 'EINVAL' || outside === false);
  });

  on('many writes at once to different places all land', async (device) => {
    const blocks = Array.from({ length: 200 }, (_, i) => Buffer.alloc(4096, i + 1));
    await Promise.all(blocks.map((block, i) => device.writeAt(block, BigInt(i * 8192))));
    for (const [i, block] of blocks.entries())
      assert.ok((await readBack(device, i * 8192, 4096)).equals(block));
  });

  compliance(
    'random operations agree with a model in memory',
    within(() =>
      seeded(async (random) => {
        const { device, dispose } = await make();
        try {
          await modelCheck(device, random);
        } finally {
          await dispose();
        }
      }),
    ),
  );

  on('a closed device fails with ESHUTDOWN', async (device) => {
    await device.close();
    assert.is(await errnoOf(() => device.readAt(Buffer.alloc(1), 0n)), 'ESHUTDOWN');
    assert.is(await errnoOf(() => device.writeAt(Buffer.alloc(1), 0n)), 'ESHUTDOWN');
    assert.is(await errnoOf(() => device.flush()), 'ESHUTDOWN');
    await device.close();
  });

  return compliance;
}

/** What a device that takes no writes must do; its bytes are 3 from 4096 to 8191, zero elsewhere. */
export function refusingSuite(name: string, make: () => Promise<Subject>): Test {
  const refusing = suite(`blockdev/compliance: ${name}`);
  const on = (title: string, body: (device: Device) => Promise<void>) =>
    refusing(
      title,
      within(async () => {
        const { device, dispose } = await make();
        try {
          await body(device);
        } finally {
          await dispose();
        }
      }),
    );

  on('it is read like any other', async (device) => {
    assert.is(device.size, BigInt(SUBJECT_SIZE));
    const all = await readBack(device, 0, SUBJECT_SIZE);
    const expected = Buffer.alloc(SUBJECT_SIZE);
    expected.fill(3, 4096, 8192);
    assert.ok(all.equals(expected));
    const out = Buffer.alloc(4096);
    if (device.readAtSync?.(out, 4096n) === true) assert.is(out[0], 3);
    assert.is(await errnoOf(() => device.readAt(out, device.size)), 'EINVAL');
  });

  on('every way of writing is refused and changes nothing', async (device) => {
    const data = Buffer.alloc(512, 9);
    const errnos = [
      await errnoOf(() => device.writeAt(data, 4096n)),
      await errnoOf(() => device.writeAt(data, 0n, { fua: true })),
      await errnoOf(() => device.writeZeroes(4096n, 512n)),
      await errnoOf(() => device.writeZeroes(4096n, 512n, { fast: true, noHole: true })),
      await errnoOf(() => device.trim(4096n, 4096n)),
    ];
    for (const errno of errnos) assert.ok(errno === 'EROFS' || errno === 'EPERM', `${errnos}`);
    let done: unknown = false;
    await errnoOf(() => {
      done = device.writeAtSync?.(data, 4096n) ?? false;
    });
    assert.is(done, false);
    await device.flush();
    assert.ok((await readBack(device, 4096, 4096)).equals(Buffer.alloc(4096, 3)));
    assert.is((await readBack(device, 0, 1))[0], 0);
  });

  on('extents tell what is there, and a closed device fails with ESHUTDOWN', async (device) => {
    let at = 0n;
    for await (const extent of walkExtents(device, 0n, device.size)) {
      if (extent.zero) assert.ok(extent.offset >= 8192n || extent.offset + extent.length <= 4096n);
      at += extent.length;
    }
    assert.is(at, device.size);
    await device.close();
    assert.is(await errnoOf(() => device.readAt(Buffer.alloc(1), 0n)), 'ESHUTDOWN');
  });

  return refusing;
}

/** Random operations on a new device of SUBJECT_SIZE bytes, compared with a model in memory. */
export async function modelCheck(device: Device, random: SeededRandom): Promise<void> {
  const model = Buffer.alloc(SUBJECT_SIZE);
  for (let i = 0; i < 400; i++) {
    const length = random.below(random.below(8) === 0 ? 300_000 : 9000);
    const offset = random.below(SUBJECT_SIZE - length + 1);
    const what = random.below(8);
    if (what === 0) {
      await device.writeZeroes(BigInt(offset), BigInt(length), { noHole: random.below(2) === 0 });
      model.fill(0, offset, offset + length);
    } else if (what === 1) {
      await device.trim(BigInt(offset), BigInt(length));
      const now = await readBack(device, offset, length);
      for (let at = 0; at < length; at++)
        if (now[at] !== 0 && now[at] !== model[offset + at])
          throw new Error(`byte ${offset + at} is ${now[at]} after a trim`);
      now.copy(model, offset);
    } else if (what === 2) {
      assert.ok((await readBack(device, offset, length)).equals(model.subarray(offset, offset + length)));
    } else if (what === 3) {
      await device.flush();
    } else {
      const data = Buffer.alloc(length, 1 + random.below(255));
      await device.writeAt(data, BigInt(offset), { fua: random.below(50) === 0 });
      data.copy(model, offset);
    }
  }
  assert.ok((await readBack(device, 0, SUBJECT_SIZE)).equals(model));
}
