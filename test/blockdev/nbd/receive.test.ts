/** Writes of every size as they come off the socket: into memory of our own, and by way of a stream. */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Device } from '../../../src/blockdev/index.ts';
import { MemoryStore, NbdServer } from '../../../src/blockdev/index.ts';
import * as nbd from '../../../src/blockdev/nbd/protocol.ts';
import { seeded, within } from '../../support/index.ts';
import { Peer } from './peer.ts';
import { SlowDevice } from './slow-device.ts';

const test = suite('blockdev/nbd/receive');

const MIB = 1024 * 1024;
const SIZE = 8 * MIB;
const LENGTHS = [1, 512, 4096, 65_535, 65_536, 200_000, MIB, 2 * MIB + 7];

/** Serves `device` at a socket of the server, or at a carrier that hands over plain streams. */
async function serving(device: Device, own: boolean, body: (path: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'nbd-test-'));
  const path = join(folder, 'socket');
  const server = new NbdServer();
  const carrier = createServer({ allowHalfOpen: true }, (socket) => server.accept(socket));
  try {
    await server.setExports(new Map([['disk', device]]));
    if (own) await server.listen(path);
    else await new Promise<void>((resolve) => carrier.listen(path, resolve));
    await body(path);
  } finally {
    await server.close();
    if (!own) carrier.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

for (const own of [true, false])
  for (const waits of [true, false])
    test(
      `pipelined writes of all sizes land byte for byte: ${own ? 'read into place' : 'by way of a stream'}, ${waits ? 'a device that waits' : 'one that does not'}`,
      within(
        () =>
          seeded(async (random) => {
            const memory = new MemoryStore(SIZE);
            const model = Buffer.alloc(SIZE);
            await serving(waits ? new SlowDevice(memory) : memory, own, async (path) => {
              const client = await Peer.connect(path);
              await client.go('disk');
              let cookie = 0n;
              for (let round = 0; round < 6; round++) {
                // Disjoint places: requests in flight may land in any order.
                let at = random.below(4096);
                let sent = 0;
                for (;;) {
                  const length = LENGTHS[random.below(LENGTHS.length)]!;
                  if (at + length > SIZE) break;
                  const bytes = random.fill(Buffer.alloc(length));
                  model.set(bytes, at);
                  client.request(nbd.NBD_CMD_WRITE, BigInt(at), length, 0, cookie++, bytes);
                  at += length + random.below(3);
                  sent++;
                }
                for (let i = 0; i < sent; i++) assert.is((await client.simple()).error, 0);
              }
              client.end();
              await client.closed();
            });
            const found = Buffer.alloc(SIZE);
            await memory.readAt(found, 0n);
            assert.ok(found.equals(model), 'the device holds what was sent');
          }),
        30_000,
      ),
    );

test(
  'a client that is gone in the middle of a payload leaves nothing, and the next one is served',
  within(async () => {
    const memory = new MemoryStore(SIZE);
    await serving(memory, true, async (path) => {
      for (const cut of [0, 1, 100, 70_000, MIB - 1]) {
        const client = await Peer.connect(path);
        await client.go('disk');
        client.request(nbd.NBD_CMD_WRITE, 0n, MIB, 0, 1n, Buffer.alloc(cut, 0xff));
        client.end();
        await client.closed();
      }
      const next = await Peer.connect(path);
      await next.go('disk');
      next.request(nbd.NBD_CMD_READ, 0n, MIB);
      assert.ok((await next.simple(MIB)).data.equals(Buffer.alloc(MIB)));
      next.destroy();
    });
  }),
);

test.run();
