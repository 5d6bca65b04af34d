import type { Socket } from 'node:net';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Device, DeviceError, NbdClientOptions } from '../../../src/blockdev/index.ts';
import {
  FilterDevice,
  listNbdExports,
  MemoryStore,
  NbdClient,
  NbdClientError,
  ReadOnlyFilter,
} from '../../../src/blockdev/index.ts';
import * as nbd from '../../../src/blockdev/nbd/protocol.ts';
import { eventually, seeded, within } from '../../support/index.ts';
import { withServer } from './peer.ts';
import { scripted } from './script.ts';
import { failure, SlowDevice } from './slow-device.ts';

const test = suite('blockdev/nbd/client');

const MIB = 1024 * 1024;

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return 'none';
  } catch (error) {
    return (error as DeviceError).code;
  }
}

/** A client of a server that serves `device`; both are closed afterwards. */
async function withClient(
  device: Device,
  body: (client: NbdClient) => Promise<void>,
  options: NbdClientOptions = {},
): Promise<void> {
  await withServer({ disk: device }, async ({ path }) => {
    const client = await NbdClient.connect(path, 'disk', options);
    try {
      await body(client);
    } finally {
      await client.close();
    }
  });
}

for (const extendedHeaders of [false, true])
  test(
    `a device over NBD holds what the device holds: random operations against a model, ${extendedHeaders ? 'extended' : 'compact'} headers`,
    within(
      () =>
        seeded(async (random) => {
          const store = new MemoryStore(2 * MIB);
          await withClient(store, async (client) => {
            assert.is(client.size, 2n * BigInt(MIB));
            const model = Buffer.alloc(2 * MIB);
            for (let round = 0; round < 400; round++) {
              const length = 1 + random.below(random.below(4) === 0 ? 300_000 : 5_000);
              const at = random.below(2 * MIB - length);
              const range = model.subarray(at, at + length);
              switch (random.below(6)) {
                case 0:
                case 1: {
                  const bytes = random.fill(Buffer.alloc(length));
                  await client.writeAt(bytes, BigInt(at), { fua: random.below(2) === 0 });
                  range.set(bytes);
                  break;
                }
                case 2:
                  await client.writeZeroes(BigInt(at), BigInt(length), { noHole: random.below(2) === 0 });
                  range.fill(0);
                  break;
                case 3: {
                  const from = BigInt(at) & ~0xffffn;
                  await client.trim(from, 65536n);
                  model.fill(0, Number(from), Number(from) + 65536);
                  break;
                }
                case 4: {
                  const extents = await client.extents(BigInt(at), BigInt(length));
                  let next = BigInt(at);
                  for (const extent of extents) {
                    assert.is(extent.offset, next);
                    next += extent.length;
                    const bytes = model.subarray(Number(extent.offset), Number(next));
                    if (extent.zero)
                      assert.ok(
                        bytes.every((byte) => byte === 0),
                        'zero extents are zero',
                      );
                  }
                  assert.ok(next > BigInt(at) && next <= BigInt(at + length));
                  break;
                }
                default: {
                  const target = Buffer.alloc(length, 0xee);
                  await client.readAt(target, BigInt(at));
                  assert.ok(target.equals(range), `read of ${length} bytes at ${at} in round ${round}`);
                }
              }
            }
            await client.flush();
            const whole = Buffer.alloc(2 * MIB);
            await store.readAt(whole, 0n);
            assert.ok(whole.equals(model));
          });
        }),
      20_000,
    ),
  );

test(
  'transfers larger than a request may be are cut and joined',
  within(async () => {
    await withClient(new MemoryStore(80 * MIB), async (client) => {
      const bytes = Buffer.alloc(70 * MIB);
      for (let at = 0; at < bytes.length; at += 4096) bytes.writeUInt32BE(at, at);
      await client.writeAt(bytes, 12345n);
      const back = Buffer.alloc(bytes.length);
      await client.readAt(back, 12345n);
      assert.ok(back.equals(bytes));
    });
  }),
);

test(
  'ranges over 4 GiB: zeroes and trims in pieces, extents told in part',
  within(async () => {
    const calls: [bigint, bigint][] = [];
    class Huge extends FilterDevice {
      override get size() {
        return 1n << 40n;
      }
      override async writeZeroes(offset: bigint, length: bigint) {
        calls.push([offset, length]);
      }
      override async extents(offset: bigint, length: bigint) {
        return [{ offset, length, zero: true, hole: true }];
      }
    }
    await withClient(new Huge(new MemoryStore(512)), async (client) => {
      await client.writeZeroes(7n, 5n << 30n);
      assert.is(calls.length, 5);
      assert.is(calls.at(-1)![0] + calls.at(-1)![1], 7n + (5n << 30n));
      const [extent] = await client.extents(1n << 39n, 1n << 39n);
      assert.equal([extent!.offset, extent!.zero], [1n << 39n, true]);
    });
    calls.length = 0;
    await withClient(
      new Huge(new MemoryStore(512)),
      async (client) => {
        await client.writeZeroes(7n, 5n << 30n);
        assert.equal(calls, [[7n, 5n << 30n]], 'one request, with extended headers');
        const extents = await client.extents(1n << 39n, 1n << 39n);
        assert.equal(extents, [{ offset: 1n << 39n, length: 1n << 39n, zero: true, hole: true }]);
      },
      { extendedHeaders: true },
    );
  }),
);

test(
  'capabilities, writtenSince and read-only come from the server',
  within(async () => {
    const dirty: Device = Object.assign(new FilterDevice(new MemoryStore(MIB)), {
      writtenSince: async (offset: bigint, length: bigint) => [{ offset, length, written: true }],
    });
    await withClient(dirty, async (client) => {
      assert.equal(await client.writtenSince!(512n, 1024n), [{ offset: 512n, length: 1024n, written: true }]);
    });
    class Fixed extends FilterDevice {
      override get capabilities() {
        return { ...this.next.capabilities, readOnly: true, multiConn: false };
      }
    }
    await withClient(new Fixed(new MemoryStore(MIB)), async (client) => {
      assert.is(client.writtenSince, undefined);
      assert.equal([client.capabilities.readOnly, client.capabilities.multiConn], [true, false]);
      assert.is(await codeOf(client.writeAt(Buffer.alloc(1), 0n)), 'EROFS');
      assert.is(await codeOf(client.trim(0n, 1n)), 'EROFS');
    });
  }),
);

test(
  'errors are typed: of the range, of the device, of a fence that came later, after close',
  within(async () => {
    const slow = new SlowDevice(new MemoryStore(MIB));
    await withClient(slow, async (client) => {
      assert.is(await codeOf(client.readAt(Buffer.alloc(2), BigInt(MIB) - 1n)), 'EINVAL');
      assert.is(await codeOf(client.writeAt(Buffer.alloc(2), BigInt(MIB) - 1n)), 'ENOSPC');
      assert.is(await codeOf(client.readAt(Buffer.alloc(2), -1n)), 'EINVAL');
      slow.failWith = failure('EROFS');
      assert.is(await codeOf(client.writeAt(Buffer.alloc(2), 0n)), 'EROFS');
      slow.failWith = failure('ENOSPC');
      assert.is(await codeOf(client.writeAt(Buffer.alloc(2), 0n)), 'ENOSPC');
      slow.failWith = failure('EIO');
      assert.is(await codeOf(client.readAt(Buffer.alloc(2), 0n)), 'EIO');
      assert.is(await codeOf(client.flush()), 'EIO');
      assert.is(await codeOf(client.extents(0n, 512n)), 'EIO');
      slow.failWith = undefined;
      await client.readAt(Buffer.alloc(2), 0n);
      await client.close();
      assert.is(await codeOf(client.readAt(Buffer.alloc(2), 0n)), 'ESHUTDOWN');
      assert.is(await codeOf(client.flush()), 'ESHUTDOWN');
    });
  }),
);

test(
  'connect: nobody there, no such export, silence',
  within(async () => {
    await withServer({ disk: new MemoryStore(512) }, async ({ path }) => {
      assert.is(await codeOf(NbdClient.connect(`${path}-not`, 'disk')), 'ECONNREFUSED');
      try {
        await NbdClient.connect(path, 'nothing');
        assert.unreachable();
      } catch (error) {
        assert.instance(error, NbdClientError);
        assert.is((error as NbdClientError).code, 'ENOENT');
        assert.match((error as NbdClientError).message, '"nothing"');
      }
    });
  }),
);

test(
  'at most maxInFlightRequests are on their way, the rest waits its turn',
  within(async () => {
    const slow = new SlowDevice(new MemoryStore(MIB));
    slow.gated = true;
    const limit = { maxInFlightRequests: 4 };
    await withClient(
      slow,
      async (client) => {
        const all = Promise.all(
          Array.from({ length: 50 }, (_, i) => client.readAt(Buffer.alloc(512), BigInt(i * 512))),
        );
        await eventually('four reads', () => slow.inFlight === 4);
        assert.is(client.pending, 50);
        assert.is(slow.began.length, 4);
        slow.open();
        await all;
        assert.is(client.pending, 0);
      },
      limit,
    );
  }),
);

test(
  'overlapping writes land in the order in which they were asked, others do not wait',
  within(async () => {
    const store = new MemoryStore(MIB);
    const slow = new SlowDevice(store);
    slow.gated = true;
    await withClient(slow, async (client) => {
      const all = Promise.all([
        client.writeAt(Buffer.alloc(1024, 1), 0n),
        client.writeAt(Buffer.alloc(1024, 2), 512n),
        client.writeZeroes(1024n, 1024n),
        client.writeAt(Buffer.alloc(512, 4), 4096n),
      ]);
      await eventually('the two that do not overlap', () => slow.inFlight === 2);
      assert.equal(slow.began, ['write 0', 'write 4096']);
      slow.openBackwards();
      await all;
      assert.equal(slow.began, ['write 0', 'write 4096', 'write 512', 'zeroes 1024']);
      const found = Buffer.alloc(2048);
      await store.readAt(found, 0n);
      assert.equal([found[0], found[512], found[1023], found[1024], found[2047]], [1, 2, 2, 0, 0]);
    });
  }),
);

test(
  'close waits for what is in flight',
  within(async () => {
    const slow = new SlowDevice(new MemoryStore(MIB));
    await withClient(slow, async (client) => {
      slow.gated = true;
      const write = client.writeAt(Buffer.alloc(512, 1), 0n);
      await eventually('the write', () => slow.inFlight === 1);
      const closed = client.close();
      slow.open();
      await write;
      await closed;
      assert.is(client.state, 'closed');
    });
  }),
);

test(
  'listNbdExports: names, sizes and read-only by NBD_OPT_LIST and NBD_OPT_INFO, then NBD_OPT_ABORT; typed errors',
  within(async () => {
    const exports = { disk: new MemoryStore(MIB), fixed: new ReadOnlyFilter(new MemoryStore(512)) };
    await withServer(exports, async ({ path, server }) => {
      assert.equal(await listNbdExports(path), [
        { name: 'disk', description: '', size: BigInt(MIB), readOnly: false },
        { name: 'fixed', description: '', size: 512n, readOnly: true },
      ]);
      await eventually('the end', () => server.counters()['ended-aborted'] === 1);
      assert.is(await codeOf(listNbdExports(`${path}-not`)), 'ECONNREFUSED');
    });
    // A server that closes instead of acknowledging NBD_OPT_ABORT.
    const closing = (socket: Socket, option: number) =>
      option === nbd.NBD_OPT_ABORT && socket.destroy() !== undefined;
    await scripted({ option: closing }, async (path) => {
      assert.equal(await listNbdExports(path), []);
    });
    await scripted({ option: () => true }, async (path) => {
      assert.is(await codeOf(listNbdExports(path, 50)), 'ETIMEDOUT');
    });
    await scripted({ option: (socket) => socket.write('no option reply of any kind') }, async (path) => {
      assert.is(await codeOf(listNbdExports(path)), 'EPROTO');
    });
    await scripted({ option: (socket) => socket.destroy() !== undefined }, async (path) => {
      assert.is(await codeOf(listNbdExports(path)), 'ECONNREFUSED');
    });
  }),
);

test.run();
