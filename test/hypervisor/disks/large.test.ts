/** Disks beyond 2^32 sectors, sparse: written over NBD, copied, mirrored, resynchronised. */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { FileStore, firstDifference, NbdClient } from '../../../src/blockdev/index.ts';
import { DiskService } from '../../../src/hypervisor/disks/index.ts';
import { eventually, inScratch, within } from '../../support/index.ts';

const large = suite('hypervisor/disks/large');
const TIB = 1024n ** 4n;
const SIZE = 5n * TIB + 512n;
/** Around 2^32 sectors of 512 bytes, 2^42 bytes, and the end. */
const PLACES = [0n, 2n * TIB - 4096n, 2n * TIB + 8192n, 4n * TIB - 2048n, 5n * TIB - 3584n];

async function write(socket: string, byte: number): Promise<void> {
  const client = await NbdClient.connect(socket, 'a');
  assert.is(client.size, SIZE);
  for (const [i, place] of PLACES.entries()) await client.writeAt(Buffer.alloc(4096, byte + i), place);
  await client.close();
}

async function converged(service: DiskService): Promise<void> {
  await eventually('converged', () => service.copyStatus({ copy: 'c' }).phase === 'converged', 20_000);
}

/** Both images hold the same; places were written with `byte` and on. */
async function check(a: string, b: string, byte: number): Promise<void> {
  const open = (path: string) => FileStore.open(path, { readOnly: true, exclusive: false });
  const [one, two] = [open(a), open(b)];
  assert.is(await firstDifference(one, two), undefined);
  const block = Buffer.alloc(4096);
  for (const [i, place] of PLACES.entries()) {
    await two.readAt(block, place);
    assert.ok(
      block.every((value) => value === byte + i),
      `at ${place}`,
    );
  }
  await one.close();
  await two.close();
  assert.ok(statSync(b).blocks * 512 < 16 * 1024 * 1024, 'still sparse');
}

large(
  'a sparse disk of 5 TiB is copied under its log, then mirrored and brought up to date',
  within(
    () =>
      inScratch(async (directory) => {
        const path = (name: string) => join(directory, name);
        const service = new DiskService();
        try {
          for (const id of ['a', 'b'])
            await service.add({ id, path: path(`${id}.img`), create: String(SIZE) });
          await service.serve({ socket: path('s'), exports: { a: 'a' } });
          await write(path('s'), 1);
          const pairs = [{ from: 'a', to: 'b' }];
          await service.copyStart({ copy: 'c', pairs, logDirectory: path('log') });
          await write(path('s'), 20);
          await converged(service);
          assert.is((await service.copyCut({ copy: 'c', verify: true })).disks[0]?.proof?.unproven, '0');
          await check(path('a.img'), path('b.img'), 20);
          const { 'mirror-start': start, 'mirror-resync': resync } = service.handlers();
          await start({ mirror: 'm', pairs });
          await eventually('whole', () => service.copyStatus({ copy: 'm' }).phase === 'converged', 30_000);
          await service.copyCut({ copy: 'm' });
          await write(path('s'), 60);
          await resync({ mirror: 'm', pairs });
          assert.ok(Number(service.copyStatus({ copy: 'm' }).total) <= 20 * 65_536);
          await eventually('whole', () => service.copyStatus({ copy: 'm' }).phase === 'converged', 30_000);
          await service.copyCut({ copy: 'm', fence: 'refuse' });
          await check(path('a.img'), path('b.img'), 60);
        } finally {
          await service.close();
        }
      }),
    60_000,
  ),
);

large.run();
