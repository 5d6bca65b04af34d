/** A client with several connections to one export. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { FilterDevice, MemoryStore, NbdClient } from '../../../src/blockdev/index.ts';
import { eventually, seeded, within } from '../../support/index.ts';
import { withServer } from './peer.ts';
import { SlowDevice } from './slow-device.ts';

const test = suite('blockdev/nbd/multi-conn');

const MIB = 1024 * 1024;

class Single extends FilterDevice {
  override get capabilities() {
    return { ...this.next.capabilities, multiConn: false };
  }
}

test(
  'as many connections as asked where the server promises NBD_FLAG_CAN_MULTI_CONN, else one',
  within(() =>
    withServer(
      { many: new MemoryStore(MIB), one: new Single(new MemoryStore(MIB)) },
      async ({ path, server }) => {
        const many = await NbdClient.connect(path, 'many', { connections: 4 });
        assert.equal([many.connections, server.connections], [4, 4]);
        const one = await NbdClient.connect(path, 'one', { connections: 4 });
        assert.equal([one.connections, server.connections], [1, 5]);
        await Promise.all([many.close(), one.close()]);
        await eventually('all gone', () => server.connections === 0);
      },
    ),
  ),
);

test(
  'requests in flight together, overlapping ones in order: the device holds what the model holds',
  within(() =>
    seeded((random) =>
      withServer({ disk: new SlowDevice(new MemoryStore(MIB)) }, async ({ path }) => {
        const disk = await NbdClient.connect(path, 'disk', { connections: 3 });
        const model = Buffer.alloc(MIB);
        for (let round = 0; round < 20; round++) {
          const running: Promise<void>[] = [];
          for (let i = 0; i < 24; i++) {
            const length = 512 * (1 + random.below(100));
            const at = random.below(MIB - length);
            const bytes = random.fill(Buffer.alloc(length));
            model.set(bytes, at);
            running.push(disk.writeAt(bytes, BigInt(at), { fua: random.below(8) === 0 }));
          }
          await Promise.all(running);
          await disk.flush();
          const found = Buffer.alloc(MIB);
          await disk.readAt(found, 0n);
          assert.ok(found.equals(model), `round ${round}`);
        }
        await disk.close();
      }),
    ),
  ),
);

test(
  'when the connections break, all are renewed and everything that was not acknowledged is sent again',
  within(async () => {
    const memory = new MemoryStore(MIB);
    const slow = new SlowDevice(memory);
    await withServer({ disk: slow }, async ({ path, server }) => {
      const disk = await NbdClient.connect(path, 'disk', { connections: 3 });
      slow.gated = true;
      const writes = Array.from({ length: 9 }, (_, i) =>
        disk.writeAt(Buffer.alloc(512, i + 1), BigInt(512 * i)),
      );
      await eventually('the device has them', () => slow.inFlight === 9);
      // The export goes away and comes back: the server answers what it has, ends the three, and takes new ones.
      const away = server.setExports(new Map());
      slow.open();
      await Promise.all(writes);
      await away;
      await eventually('the loss', () => disk.state === 'reconnecting');
      assert.is(disk.connections, 0);
      const late = disk.writeAt(Buffer.alloc(512, 99), 0n);
      await server.setExports(new Map([['disk', slow]]));
      await late;
      assert.equal([disk.reconnects, disk.connections, server.connections], [1, 3, 3]);
      const found = Buffer.alloc(9 * 512);
      await memory.readAt(found, 0n);
      assert.equal(
        Array.from({ length: 9 }, (_, i) => found[512 * i]),
        [99, 2, 3, 4, 5, 6, 7, 8, 9],
      );
      await disk.close();
    });
  }),
);

test.run();
