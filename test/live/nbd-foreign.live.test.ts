/** Our client against foreign servers: nbdkit and qemu-nbd. */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { Device, DeviceError } from '../../src/blockdev/index.ts';
import { listNbdExports, NbdClient } from '../../src/blockdev/index.ts';
import { eventually, seeded, within } from '../support/index.ts';
import { foreign, inFolder, programSuite } from './nbd-programs.ts';

const test = programSuite('live/nbd-foreign', ['nbdkit', 'qemu-nbd']);

const MIB = 1024 * 1024;
const SIZE = 16 * MIB;

/** Random operations, compared with a model in memory. */
async function exercise(device: Device): Promise<Buffer> {
  const model = Buffer.alloc(SIZE);
  await seeded(async (random) => {
    const unit = 512;
    for (let round = 0; round < 150; round++) {
      const length = unit * (1 + random.below(random.below(5) === 0 ? 4000 : 64));
      const at = unit * random.below((SIZE - length) / unit);
      const range = model.subarray(at, at + length);
      switch (random.below(5)) {
        case 0:
        case 1: {
          const bytes = random.fill(Buffer.alloc(length));
          await device.writeAt(bytes, BigInt(at), { fua: random.below(4) === 0 });
          range.set(bytes);
          break;
        }
        case 2:
          await device.writeZeroes(BigInt(at), BigInt(length), { noHole: random.below(2) === 0 });
          range.fill(0);
          break;
        case 3: {
          let next = BigInt(at);
          for (const extent of await device.extents(BigInt(at), BigInt(length))) {
            assert.is(extent.offset, next);
            next += extent.length;
            const bytes = model.subarray(Number(extent.offset), Number(next));
            if (extent.zero)
              assert.ok(
                bytes.every((byte) => byte === 0),
                'what is told to be zero is zero',
              );
          }
          break;
        }
        default: {
          const target = Buffer.alloc(length, 0xee);
          await device.readAt(target, BigInt(at));
          assert.ok(target.equals(range), `${length} bytes at ${at} in round ${round}`);
        }
      }
    }
    await device.flush();
    const lanes = Array.from({ length: 64 }, async (_, i) => {
      const target = Buffer.alloc(SIZE / 64);
      await device.readAt(target, BigInt(i * target.length));
      assert.ok(target.equals(model.subarray(i * target.length, (i + 1) * target.length)));
    });
    await Promise.all(lanes);
  });
  return model;
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => 'none',
    (error: DeviceError) => error.code,
  );
}

test(
  'nbdkit memory, with every reply delayed and chunks in any order, over one connection and four',
  within(
    () =>
      inFolder(async (folder) => {
        const socket = join(folder, 'socket');
        for (const extra of [
          ['memory', '16M'],
          ['--filter=delay', 'memory', '16M', 'rdelay=1ms', 'wdelay=1ms'],
        ]) {
          await foreign('nbdkit', ['-f', '--exit-with-parent', '-U', socket, ...extra], socket, async () => {
            for (const connections of [1, 4]) {
              const client = await NbdClient.connect(socket, '', { connections });
              assert.equal([client.size, client.connections], [BigInt(SIZE), connections]);
              await client.writeZeroes(0n, BigInt(SIZE));
              await exercise(client);
              await client.close();
            }
          });
        }
      }),
    40_000,
  ),
);

test(
  'nbdkit file: what was written stands in the file; trim; read-only; errors by their number',
  within(
    () =>
      inFolder(async (folder) => {
        const file = join(folder, 'disk.img');
        writeFileSync(file, '');
        truncateSync(file, SIZE);
        const socket = join(folder, 'socket');
        const args = ['-f', '--exit-with-parent', '-U', socket];
        await foreign('nbdkit', [...args, 'file', file], socket, async () => {
          const client = await NbdClient.connect(socket, '');
          const model = await exercise(client);
          await client.trim(0n, BigInt(MIB));
          model.fill(0, 0, MIB);
          await client.flush();
          assert.ok(readFileSync(file).equals(model));
          await client.close();
        });
        await foreign('nbdkit', [...args, '-r', 'file', file], socket, async () => {
          const client = await NbdClient.connect(socket, '');
          assert.is(client.capabilities.readOnly, true);
          assert.is(await codeOf(client.writeAt(Buffer.alloc(512), 0n)), 'EROFS');
          await client.close();
        });
        for (const [error, code] of [
          ['EIO', 'EIO'],
          ['ENOSPC', 'ENOSPC'],
          ['EPERM', 'EROFS'],
          ['ENOMEM', 'ENOMEM'],
          ['EINVAL', 'EINVAL'],
          ['ESHUTDOWN', 'ESHUTDOWN'],
        ]) {
          const filter = ['--filter=error', 'memory', '1M', `error=${error}`, 'error-pwrite-rate=100%'];
          await foreign('nbdkit', [...args, ...filter], socket, async () => {
            const client = await NbdClient.connect(socket, '');
            assert.is(await codeOf(client.writeAt(Buffer.alloc(512), 0n)), code);
            await client.readAt(Buffer.alloc(512), 0n);
            await client.close();
          });
        }
      }),
    40_000,
  ),
);

test(
  'nbdkit without structured replies, without zeroes, without flush and FUA, with 512-byte blocks',
  within(
    () =>
      inFolder(async (folder) => {
        const socket = join(folder, 'socket');
        const args = ['-f', '--exit-with-parent', '-U', socket];
        for (const extra of [
          ['--no-sr', 'memory', '16M'],
          ['--filter=nozero', 'memory', '16M', 'zeromode=none'],
          ['--filter=fua', 'memory', '16M'],
          ['--filter=noextents', 'memory', '16M'],
        ]) {
          await foreign('nbdkit', [...args, ...extra], socket, async () => {
            const client = await NbdClient.connect(socket, '');
            await exercise(client);
            await client.close();
          });
        }
        const blocks = ['--filter=blocksize-policy', 'memory', '16M', 'blocksize-minimum=512'];
        const policy = ['blocksize-maximum=64k', 'blocksize-preferred=4k', 'blocksize-error-policy=error'];
        await foreign('nbdkit', [...args, ...blocks, ...policy], socket, async () => {
          const client = await NbdClient.connect(socket, '');
          assert.is(client.capabilities.maxTransfer, 65536);
          assert.is(await codeOf(client.readAt(Buffer.alloc(100), 0n)), 'EINVAL');
          await exercise(client);
          await client.close();
        });
      }),
    60_000,
  ),
);

test(
  'qemu-nbd serves us, and again after a kill -9',
  within(
    () =>
      inFolder(async (folder) => {
        const file = join(folder, 'disk.img');
        writeFileSync(file, '');
        truncateSync(file, SIZE);
        const socket = join(folder, 'socket');
        const args = [
          '-f',
          'raw',
          '-k',
          socket,
          '-x',
          'disk',
          '-D',
          'of a test',
          '--persistent',
          '--shared=4',
          '--discard=unmap',
          file,
        ];
        let client: NbdClient | undefined;
        let model: Buffer = Buffer.alloc(0);
        await foreign('qemu-nbd', args, socket, async (child) => {
          client = await NbdClient.connect(socket, 'disk');
          assert.equal(await listNbdExports(socket), [
            { name: 'disk', description: 'of a test', size: BigInt(SIZE), readOnly: false },
          ]);
          model = await exercise(client);
          child.kill('SIGKILL');
          await eventually('the loss', () => client!.state === 'reconnecting');
        });
        const bytes = Buffer.alloc(100_000, 3);
        const writing = client!.writeAt(bytes, 4096n, { fua: true });
        await foreign('qemu-nbd', args, socket, async () => {
          await writing;
          assert.is(client!.reconnects, 1);
          bytes.copy(model, 4096);
          const all = Buffer.alloc(SIZE);
          await client!.readAt(all, 0n);
          assert.ok(all.equals(model));
          await client!.close();
        });
      }),
    40_000,
  ),
);

test.run();
