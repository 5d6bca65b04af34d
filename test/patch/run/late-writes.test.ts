/** What the old partition wrote after the cut is refused or set aside, counted, and told in the report. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { LogReader, NbdClient } from '../../../src/blockdev/index.ts';
import { codeOf } from '../../../src/common/index.ts';
import { DiskService } from '../../../src/hypervisor/index.ts';
import type { RunEnvironment } from '../../../src/patch/index.ts';
import { lateWriteNotice } from '../../../src/patch/run/late-writes.ts';
import { inScratch, within } from '../../support/index.ts';

const late = suite('patch/run/late-writes');
const DISK = 'A-application';

for (const mode of ['refuse', 'set-aside'] as const)
  late(
    `${mode}: the report says how many and how much; what was set aside can be read`,
    within(() =>
      inScratch(async (directory) => {
        const service = new DiskService();
        try {
          const env = {
            disks: { execute: async (_name: string, args: { id: string }) => service.status(args) },
          } as unknown as RunEnvironment;
          await service.add({ id: DISK, path: join(directory, 'a.img'), create: '1048576' });
          await service.serve({ socket: join(directory, 's'), exports: { a: DISK } });
          const client = await NbdClient.connect(join(directory, 's'), 'a');
          await client.writeAt(Buffer.alloc(4096, 1), 0n);
          assert.is(await lateWriteNotice(env, DISK), undefined);
          await service.fence({ id: DISK, mode });
          assert.is(await lateWriteNotice(env, DISK), undefined);
          const codes: (string | undefined)[] = [];
          for (let i = 0; i < 3; i++)
            codes.push(
              await client.writeAt(Buffer.alloc(4096, 2), BigInt(i * 8192)).then(() => 'ok', codeOf),
            );
          assert.ok(
            codes.every((code) => (mode === 'refuse' ? code === 'EROFS' || code === 'EPERM' : code === 'ok')),
          );
          const notice = (await lateWriteNotice(env, DISK)) ?? '';
          assert.match(notice, `3 writes of 12288 bytes came to ${DISK} after the cut`);
          assert.match(notice, mode === 'refuse' ? /refused$/ : /a\.img\.aside\.released-\*, a write log$/);
          await client.close();
          await service.fence({ id: DISK, mode: 'none' });
          const released = readdirSync(directory).filter((name) => name.startsWith('a.img.aside.released-'));
          assert.is(released.length, mode === 'refuse' ? 0 : 1);
          if (mode === 'refuse') return;
          const seen: number[] = [];
          for await (const { kind, address } of (
            await LogReader.open(join(directory, released[0]!))
          ).records())
            if (kind === 'data') seen.push(address);
          assert.equal(seen, [0, 8192, 16_384]);
        } finally {
          await service.close();
        }
      }),
    ),
  );

late('a block process that is away, or a disk that it does not know, says nothing', async () => {
  const away = { disks: { execute: () => Promise.reject(new Error('away')) } } as unknown as RunEnvironment;
  assert.is(await lateWriteNotice(away, DISK), undefined);
  const without = { disks: { execute: async () => [] } } as unknown as RunEnvironment;
  assert.is(await lateWriteNotice(without, DISK), undefined);
});

late.run();
