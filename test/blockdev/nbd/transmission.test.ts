import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Device } from '../../../src/blockdev/index.ts';
import { DEVICE_ERRNOS, FilterDevice, MemoryStore } from '../../../src/blockdev/index.ts';
import { deviceErrnoOf, nbdErrorOf } from '../../../src/blockdev/nbd/errno.ts';
import * as nbd from '../../../src/blockdev/nbd/protocol.ts';
import { eventually, within } from '../../support/index.ts';
import { hex, withServer } from './peer.ts';
import { failure, SlowDevice } from './slow-device.ts';

const test = suite('blockdev/nbd/transmission');

const MIB = 1024 * 1024;
const pattern = (length: number, seed = 1) => {
  const bytes = Buffer.alloc(length);
  for (let i = 0; i < length; i++) bytes[i] = (i * 31 + seed * 7 + (i >> 8)) & 0xff;
  return bytes;
};

class Restricted extends FilterDevice {
  readonly #changes: Partial<Device['capabilities']>;
  constructor(next: Device, changes: Partial<Device['capabilities']>) {
    super(next);
    this.#changes = changes;
  }
  override get capabilities() {
    return { ...this.next.capabilities, ...this.#changes };
  }
}

test(
  'NBD_CMD_READ and NBD_CMD_WRITE with simple replies, byte for byte',
  within(() =>
    withServer({ disk: new MemoryStore(MIB) }, async ({ peer }) => {
      const client = await peer();
      await client.go('disk');
      client.send(hex('25609513 0000 0001 1122334455667788 0000000000000200 00000004 deadbeef'));
      assert.is((await client.take(16)).toString('hex'), '67446698000000001122334455667788');
      client.send(hex('25609513 0000 0000 8877665544332211 0000000000000200 00000004'));
      assert.is((await client.take(20)).toString('hex'), '67446698000000008877665544332211deadbeef');
    }),
  ),
);

test(
  'NBD_CMD_READ with structured replies, byte for byte',
  within(() =>
    withServer({ disk: new MemoryStore(MIB) }, async ({ peer }) => {
      const client = await peer();
      await client.go('disk', true);
      client.request(nbd.NBD_CMD_WRITE, 0x200n, 4, 0, 7n, hex('deadbeef'));
      assert.equal(await client.simple(), { error: 0, cookie: 7n, data: Buffer.alloc(0) });
      client.send(hex('25609513 0000 0000 8877665544332211 0000000000000200 00000004'));
      assert.is(
        (await client.take(32)).toString('hex'),
        '668e33ef000100018877665544332211' + '0000000c' + '0000000000000200' + 'deadbeef',
      );
      client.request(nbd.NBD_CMD_READ, 0n, 0, 0, 3n);
      assert.is((await client.take(20)).toString('hex'), '668e33ef00010000000000000000000300000000');
    }),
  ),
);

test(
  'writes of every way a payload can lie in the chunks arrive whole',
  within(() =>
    withServer({ disk: new MemoryStore(MIB) }, async ({ peer }) => {
      const client = await peer();
      await client.go('disk');
      const request = (length: number) => {
        const out = Buffer.alloc(28);
        out.writeUInt32BE(nbd.NBD_REQUEST_MAGIC, 0);
        out.writeUInt16BE(nbd.NBD_CMD_WRITE, 6);
        out.writeUInt32BE(length, 24);
        return out;
      };
      const payload = pattern(64);
      const whole = Buffer.concat([request(64), payload]);
      for (let cut = 1; cut < whole.length; cut++) {
        client.send(whole.subarray(0, cut));
        await new Promise((resolve) => setImmediate(resolve));
        client.send(whole.subarray(cut));
        assert.is((await client.simple()).error, 0, `cut at ${cut}`);
      }
      const big = pattern(300_000, 3);
      client.send(Buffer.concat([request(big.length), big]));
      assert.is((await client.simple()).error, 0);
      client.request(nbd.NBD_CMD_READ, 0n, big.length);
      assert.ok((await client.simple(big.length)).data.equals(big));
    }),
  ),
);

test(
  'a client that is cut off at any byte of a request harms nobody',
  within(() =>
    withServer({ disk: new MemoryStore(MIB) }, async ({ peer, server }) => {
      const good = await peer();
      await good.go('disk');
      const request = hex('25609513 0000 0001 0000000000000001 0000000000000000 00000004 deadbeef');
      for (let cut = 0; cut < request.length; cut++) {
        const client = await peer();
        await client.go('disk');
        client.send(request.subarray(0, cut));
        client.end();
        assert.is((await client.closed()).length, 0, `cut at ${cut}`);
        good.request(nbd.NBD_CMD_READ, 0n, 4);
        assert.is((await good.simple(4)).data.readUInt32BE(0), 0, 'the half write was not carried out');
      }
      assert.is(server.counters()['ended-peer-closed'], request.length);
    }),
  ),
);

test(
  'runs of zeroes travel as NBD_REPLY_TYPE_OFFSET_HOLE, with NBD_CMD_FLAG_DF as data',
  within(() =>
    withServer({ disk: new MemoryStore(MIB) }, async ({ peer }) => {
      const client = await peer();
      await client.go('disk', true);
      const data = pattern(128 * 1024);
      client.request(nbd.NBD_CMD_WRITE, 256n * 1024n, data.length, 0, 1n, data);
      await client.simple();
      client.request(nbd.NBD_CMD_READ, 0n, MIB);
      const [before, middle, behind] = [await client.chunk(), await client.chunk(), await client.chunk()];
      assert.equal([before.type, before.flags], [nbd.NBD_REPLY_TYPE_OFFSET_HOLE, 0]);
      assert.is(before.payload.toString('hex'), '000000000000000000040000');
      assert.equal([middle.type, middle.flags], [nbd.NBD_REPLY_TYPE_OFFSET_DATA, 0]);
      assert.is(middle.payload.readBigUInt64BE(0), 256n * 1024n);
      assert.ok(middle.payload.subarray(8).equals(data));
      assert.equal([behind.type, behind.flags], [nbd.NBD_REPLY_TYPE_OFFSET_HOLE, nbd.NBD_REPLY_FLAG_DONE]);
      assert.is(behind.payload.toString('hex'), '0000000000060000000a0000');
      client.request(nbd.NBD_CMD_READ, 0n, MIB, nbd.NBD_CMD_FLAG_DF);
      const whole = await client.chunk();
      assert.equal([whole.type, whole.flags], [nbd.NBD_REPLY_TYPE_OFFSET_DATA, nbd.NBD_REPLY_FLAG_DONE]);
      assert.is(whole.payload.length, 8 + MIB);
    }),
  ),
);

test(
  'NBD_CMD_BLOCK_STATUS of two contexts, with NBD_CMD_FLAG_REQ_ONE, and past the last byte',
  within(async () => {
    const store = new MemoryStore(MIB);
    await store.writeAt(pattern(64 * 1024), 128n * 1024n);
    const dirty: Device = Object.assign(new FilterDevice(store), {
      writtenSince: async (offset: bigint, length: bigint) => [
        { offset, length: length / 2n, written: false },
        { offset: offset + length / 2n, length: length - length / 2n, written: true },
      ],
    });
    await withServer({ disk: dirty }, async ({ peer }) => {
      const client = await peer();
      await client.go('disk', true, [nbd.BASE_ALLOCATION, nbd.WRITTEN_SINCE]);
      client.request(nbd.NBD_CMD_BLOCK_STATUS, 0n, MIB);
      const base = await client.chunk();
      assert.is(base.flags, 0);
      assert.is(
        base.payload.toString('hex'),
        '00000001 00020000 00000003 00010000 00000000 000d0000 00000003'.replaceAll(' ', ''),
      );
      const written = await client.chunk();
      assert.is(written.flags, nbd.NBD_REPLY_FLAG_DONE);
      assert.is(
        written.payload.toString('hex'),
        '00000002 00080000 00000000 00080000 00000001'.replaceAll(' ', ''),
      );
      client.request(nbd.NBD_CMD_BLOCK_STATUS, 0n, MIB, nbd.NBD_CMD_FLAG_REQ_ONE);
      assert.is((await client.chunk()).payload.toString('hex'), '000000010002000000000003');
      assert.is((await client.chunk()).payload.toString('hex'), '000000020008000000000000');
      client.request(nbd.NBD_CMD_BLOCK_STATUS, 1n, MIB);
      assert.is(await client.error(), nbd.NBD_EINVAL);
      client.request(nbd.NBD_CMD_BLOCK_STATUS, 1n, 0);
      assert.is(await client.error(), nbd.NBD_EINVAL);
    });
  }),
);

test(
  'NBD_CMD_WRITE_ZEROES, NBD_CMD_TRIM, NBD_CMD_CACHE, NBD_CMD_FLUSH and FUA',
  within(async () => {
    const store = new MemoryStore(MIB);
    await withServer({ disk: store }, async ({ peer, server }) => {
      const client = await peer();
      await client.go('disk');
      const ok = async (type: number, offset: bigint, length: number, flags = 0, payload?: Buffer) => {
        client.request(type, offset, length, flags, 1n, payload);
        assert.is((await client.simple()).error, 0, `command ${type} flags ${flags}`);
      };
      const at = async (offset: bigint) => {
        client.request(nbd.NBD_CMD_READ, offset, 1);
        return (await client.simple(1)).data[0];
      };
      await ok(nbd.NBD_CMD_WRITE, 0n, MIB, nbd.NBD_CMD_FLAG_FUA, Buffer.alloc(MIB, 9));
      assert.is(store.flushes, 1, 'FUA reached the device');
      await ok(nbd.NBD_CMD_WRITE_ZEROES, 0n, 65536);
      await ok(nbd.NBD_CMD_WRITE_ZEROES, 65536n, 65536, nbd.NBD_CMD_FLAG_NO_HOLE | nbd.NBD_CMD_FLAG_FUA);
      await ok(nbd.NBD_CMD_WRITE_ZEROES, 131072n, 65536, nbd.NBD_CMD_FLAG_FAST_ZERO);
      assert.equal([await at(65535n), await at(131071n), await at(196607n)], [0, 0, 0]);
      assert.is(await at(196608n), 9);
      await ok(nbd.NBD_CMD_TRIM, 196608n, 65536, nbd.NBD_CMD_FLAG_FUA);
      await ok(nbd.NBD_CMD_CACHE, 0n, MIB);
      await ok(nbd.NBD_CMD_FLUSH, 0n, 0);
      await ok(nbd.NBD_CMD_WRITE, 5n, 0, 0, Buffer.alloc(0));
      assert.is(store.flushes, 4);
      const counters = server.counters();
      assert.equal(
        [
          counters['writes'],
          counters['writeZeroes'],
          counters['trims'],
          counters['caches'],
          counters['flushes'],
        ],
        [2, 3, 1, 1, 1],
      );
    });
  }),
);

test(
  'requests against the protocol or the limits of the export get their error and the connection goes on',
  within(() =>
    withServer(
      {
        disk: new MemoryStore(MIB),
        fixed: new Restricted(new MemoryStore(MIB), { readOnly: true }),
        plain: new Restricted(new MemoryStore(MIB), { trim: false, writeZeroes: false }),
        slow: new Restricted(new MemoryStore(MIB), { fastZero: false }),
      },
      async ({ peer, server }) => {
        const clients = new Map<string, Awaited<ReturnType<typeof peer>>>();
        for (const name of ['disk', 'fixed', 'plain', 'slow']) {
          const client = await peer();
          await client.go(name);
          clients.set(name, client);
        }
        const { NBD_EINVAL: EINVAL, NBD_ENOSPC: ENOSPC, NBD_EPERM: EPERM } = nbd;
        const end = BigInt(MIB);
        const last = 0xffff_ffff_ffff_ffffn;
        const rows: [string, number, number, number, bigint, number][] = [
          ['disk', EINVAL, nbd.NBD_CMD_READ, 0, end, 1],
          ['disk', EINVAL, nbd.NBD_CMD_READ, 0, last, 0xffff],
          ['disk', EINVAL, nbd.NBD_CMD_READ, 0, 0n, nbd.NBD_MAX_PAYLOAD + 1],
          ['disk', EINVAL, nbd.NBD_CMD_READ, 0, 0n, 0xffff_ffff],
          ['disk', EINVAL, nbd.NBD_CMD_READ, nbd.NBD_CMD_FLAG_DF, 0n, 1],
          ['disk', EINVAL, nbd.NBD_CMD_READ, nbd.NBD_CMD_FLAG_NO_HOLE, 0n, 1],
          ['disk', EINVAL, nbd.NBD_CMD_READ, 0x8000, 0n, 1],
          ['disk', ENOSPC, nbd.NBD_CMD_WRITE, 0, end, 1],
          ['disk', ENOSPC, nbd.NBD_CMD_WRITE, 0, last, 1],
          ['disk', EINVAL, nbd.NBD_CMD_WRITE, 0, 0n, nbd.NBD_MAX_PAYLOAD + 1],
          ['disk', EINVAL, nbd.NBD_CMD_WRITE, nbd.NBD_CMD_FLAG_REQ_ONE, 0n, 100],
          ['disk', EINVAL, nbd.NBD_CMD_TRIM, 0, end, 1],
          ['disk', EINVAL, nbd.NBD_CMD_CACHE, 0, end, 1],
          ['disk', ENOSPC, nbd.NBD_CMD_WRITE_ZEROES, 0, 1n, MIB],
          ['disk', EINVAL, nbd.NBD_CMD_BLOCK_STATUS, 0, 0n, 512],
          ['disk', EINVAL, nbd.NBD_CMD_RESIZE, 0, 0n, 512],
          ['disk', EINVAL, 0xffff, 0, 0n, 0],
          ['fixed', EPERM, nbd.NBD_CMD_WRITE, 0, 0n, 300_000],
          ['fixed', EPERM, nbd.NBD_CMD_TRIM, 0, 0n, 1],
          ['fixed', EPERM, nbd.NBD_CMD_WRITE_ZEROES, 0, 0n, 1],
          ['plain', EINVAL, nbd.NBD_CMD_TRIM, 0, 0n, 1],
          ['plain', EINVAL, nbd.NBD_CMD_WRITE_ZEROES, 0, 0n, 1],
          ['slow', EINVAL, nbd.NBD_CMD_WRITE_ZEROES, nbd.NBD_CMD_FLAG_FAST_ZERO, 0n, 1],
        ];
        for (const [name, error, type, flags, offset, length] of rows) {
          const client = clients.get(name)!;
          const payload = type === nbd.NBD_CMD_WRITE ? Buffer.alloc(length, 1) : undefined;
          client.request(type, offset, length, flags, 5n, payload);
          const reply = await client.simple();
          assert.equal([reply.error, reply.cookie], [error, 5n], `${name} command ${type} at ${offset}`);
          client.request(nbd.NBD_CMD_READ, 0n, 1);
          assert.is((await client.simple(1)).data[0], 0, 'nothing was written');
        }
        assert.is(server.counters()['refusedRequests'], rows.length);
        assert.is(server.counters()['connections'], 4);
      },
    ),
  ),
);

test(
  'a wrong request magic and a payload beyond all bounds close the connection',
  within(() =>
    withServer({ disk: new MemoryStore(MIB) }, async ({ peer, server }) => {
      const wrong = await peer();
      await wrong.go('disk');
      wrong.send(hex('25609514'));
      await wrong.closed();
      const huge = await peer();
      await huge.go('disk');
      huge.request(nbd.NBD_CMD_WRITE, 0n, 0xffff_ffff);
      await huge.closed();
      assert.is(server.counters()['ended-bad-request-magic'], 1);
      assert.is(server.counters()['ended-payload-too-long'], 1);
    }),
  ),
);

test(
  'every device error arrives as its number; what is no device error is NBD_EIO; nothing ends the connection',
  within(async () => {
    const slow = new SlowDevice(new MemoryStore(MIB));
    await withServer({ disk: slow }, async ({ peer }) => {
      const client = await peer();
      await client.go('disk', true, [nbd.BASE_ALLOCATION]);
      for (const code of DEVICE_ERRNOS) {
        slow.failWith = failure(code);
        for (const type of [
          nbd.NBD_CMD_READ,
          nbd.NBD_CMD_WRITE,
          nbd.NBD_CMD_TRIM,
          nbd.NBD_CMD_WRITE_ZEROES,
          nbd.NBD_CMD_BLOCK_STATUS,
          nbd.NBD_CMD_CACHE,
          nbd.NBD_CMD_FLUSH,
        ]) {
          const length = type === nbd.NBD_CMD_FLUSH ? 0 : 512;
          client.request(type, 0n, length, 0, 1n, type === nbd.NBD_CMD_WRITE ? Buffer.alloc(512) : undefined);
          assert.is(await client.error(), nbdErrorOf(slow.failWith), `${code} of command ${type}`);
        }
      }
      // A read that looks for holes fails like any other.
      client.request(nbd.NBD_CMD_READ, 0n, 512 * 1024);
      assert.is(await client.error(), nbd.NBD_ESHUTDOWN);
      slow.failWith = new TypeError('a mistake of ours');
      client.request(nbd.NBD_CMD_READ, 0n, 512);
      const chunk = await client.chunk();
      assert.is(chunk.payload.readUInt32BE(0), nbd.NBD_EIO);
      assert.not.match(chunk.payload.toString(), 'mistake', 'inner matters are not told');
    });
  }),
);

test('errno map', () => {
  assert.is(nbdErrorOf(failure('EROFS')), nbd.NBD_EPERM, 'the protocol has no EROFS');
  assert.is(deviceErrnoOf(nbd.NBD_EPERM, true), 'EROFS');
  assert.is(deviceErrnoOf(nbd.NBD_EPERM, false), 'EPERM');
  assert.is(deviceErrnoOf(4711, false), 'EINVAL', 'an unexpected value is taken for NBD_EINVAL');
  assert.is(nbdErrorOf(undefined), nbd.NBD_EIO);
  assert.is(nbdErrorOf({ code: 'EDQUOT' }), nbd.NBD_ENOSPC);
  assert.is(nbdErrorOf({ code: 'EFBIG' }), nbd.NBD_ENOSPC);
  assert.is(nbdErrorOf(failure('ENOTSUP')), nbd.NBD_EINVAL, 'only of a fast zeroing');
  assert.is(nbdErrorOf(failure('ENOTSUP'), true), nbd.NBD_ENOTSUP);
  assert.is(nbdErrorOf(failure('EOVERFLOW')), nbd.NBD_EINVAL);
  assert.is(deviceErrnoOf(nbd.NBD_ENOTSUP, true), 'ENOTSUP');
  assert.is(deviceErrnoOf(nbd.NBD_EOVERFLOW, false), 'EOVERFLOW');
  assert.is(nbdErrorOf({ code: 'toString' }), nbd.NBD_EIO);
  for (const code of DEVICE_ERRNOS) {
    if (!['EROFS', 'EPERM', 'ENOTSUP', 'EOVERFLOW'].includes(code))
      assert.is(deviceErrnoOf(nbdErrorOf(failure(code)), true), code);
  }
});

test(
  'requests of a connection run at the same time and are answered as they complete',
  within(async () => {
    const slow = new SlowDevice(new MemoryStore(MIB));
    slow.gated = true;
    await withServer({ disk: slow }, async ({ peer }) => {
      const client = await peer();
      await client.go('disk');
      for (let i = 0n; i < 8n; i++) client.request(nbd.NBD_CMD_READ, i * 512n, 512, 0, i);
      await eventually('eight reads at once', () => slow.inFlight === 8);
      slow.openBackwards();
      const order: bigint[] = [];
      for (let i = 0; i < 8; i++) order.push((await client.simple(512)).cookie);
      assert.equal(order, [7n, 6n, 5n, 4n, 3n, 2n, 1n, 0n]);
    });
  }),
);

test(
  'in-flight requests are bounded by count and bytes, and go on when some complete',
  within(async () => {
    for (const limits of [{ inFlightRequests: 4 }, { inFlightBytes: 4 * 4096 }]) {
      const slow = new SlowDevice(new MemoryStore(MIB));
      slow.gated = true;
      await withServer(
        { disk: slow },
        async ({ peer }) => {
          const client = await peer();
          await client.go('disk');
          for (let i = 0n; i < 100n; i++) {
            client.request(nbd.NBD_CMD_WRITE, i * 4096n, 4096, 0, i, pattern(4096, Number(i)));
          }
          await eventually('the bound', () => slow.inFlight === 4);
          assert.is(slow.began.length, 4);
          slow.open();
          for (let i = 0n; i < 100n; i++) assert.is((await client.simple()).cookie, i);
          for (let i = 0n; i < 100n; i++) client.request(nbd.NBD_CMD_READ, i * 4096n, 4096, 0, i);
          for (let i = 0; i < 100; i++) {
            const reply = await client.simple(4096);
            assert.ok(reply.data.equals(pattern(4096, Number(reply.cookie))), `read ${reply.cookie}`);
          }
        },
        { limits },
      );
    }
  }),
);

test(
  'a client that does not take its replies is not read from, and loses nothing',
  within(() =>
    withServer(
      { disk: new MemoryStore(8 * MIB) },
      async ({ peer, server }) => {
        const client = await peer();
        await client.go('disk');
        client.pause();
        for (let i = 0n; i < 500n; i++) client.request(nbd.NBD_CMD_READ, 0n, 65536, 0, i);
        await eventually('the first replies', () => server.counters()['reads']! > 2);
        const reads = await new Promise<number>((resolve) =>
          setTimeout(() => resolve(server.counters()['reads']!), 50),
        );
        assert.ok(reads < 100, `${reads} reads were carried out for a client that takes none`);
        client.resume();
        for (let i = 0n; i < 500n; i++) assert.is((await client.simple(65536)).cookie, i);
      },
      { limits: { replyBacklog: MIB } },
    ),
  ),
);

test(
  'NBD_CMD_DISC: what is in flight is answered, then the connection is closed',
  within(async () => {
    const slow = new SlowDevice(new MemoryStore(MIB));
    slow.gated = true;
    await withServer({ disk: slow }, async ({ peer, server }) => {
      const client = await peer();
      await client.go('disk');
      client.request(nbd.NBD_CMD_WRITE, 0n, 512, 0, 1n, pattern(512));
      client.request(nbd.NBD_CMD_DISC, 0n, 0, 0, 2n);
      client.request(nbd.NBD_CMD_READ, 0n, 512, 0, 3n);
      await eventually('the write', () => slow.inFlight === 1);
      slow.open();
      const rest = await client.closed();
      assert.is(rest.length, 16, 'one reply, and none to what came after DISC');
      assert.equal(slow.began, ['write 0']);
      assert.is(server.counters()['ended-disconnected'], 1);
    });
  }),
);

test(
  'a half-closed client still gets its answers',
  within(async () => {
    const slow = new SlowDevice(new MemoryStore(MIB));
    slow.gated = true;
    await withServer({ disk: slow }, async ({ peer }) => {
      const client = await peer();
      await client.go('disk');
      for (let i = 0n; i < 5n; i++) client.request(nbd.NBD_CMD_READ, 0n, 100, 0, i);
      client.end();
      await eventually('the reads', () => slow.inFlight === 5);
      slow.open();
      assert.is((await client.closed()).length, 5 * 116);
    });
  }),
);

test(
  'setExports: a removed export closes its connections after their requests, others go on',
  within(async () => {
    const slow = new SlowDevice(new MemoryStore(MIB));
    const other = new MemoryStore(MIB);
    await withServer({ going: slow, staying: other }, async ({ peer, server }) => {
      const [leaving, staying] = [await peer(), await peer()];
      await leaving.go('going');
      await staying.go('staying');
      slow.gated = true;
      leaving.request(nbd.NBD_CMD_WRITE, 0n, 512, 0, 1n, pattern(512));
      await eventually('the write', () => slow.inFlight === 1);
      let settled = false;
      const removed = server.setExports(new Map([['staying', other]])).then(() => {
        settled = true;
      });
      leaving.request(nbd.NBD_CMD_READ, 0n, 512, 0, 2n);
      staying.request(nbd.NBD_CMD_READ, 0n, 512);
      await staying.simple(512);
      assert.is(settled, false, 'not before the write is through');
      slow.open();
      await removed;
      assert.is((await leaving.closed()).length, 16, 'the write was answered, the late read was not');
      assert.equal(slow.began, ['write 0']);
      staying.request(nbd.NBD_CMD_READ, 0n, 512);
      assert.is((await staying.simple(512)).error, 0);
      const late = await peer();
      await late.greet();
      late.send(hex('49484156454f5054 00000001 00000005 676f696e67'));
      await late.closed();
    });
  }),
);

test(
  'a client that comes back waits for the requests of its broken connection',
  within(async () => {
    const slow = new SlowDevice(new MemoryStore(MIB));
    await withServer({ disk: slow }, async ({ peer, server }) => {
      const first = await peer();
      await first.go('disk');
      slow.gated = true;
      first.request(nbd.NBD_CMD_WRITE, 0n, 512, 0, 1n, Buffer.alloc(512, 1));
      await eventually('the write', () => slow.inFlight === 1);
      first.destroy();
      const second = await peer();
      const ready = second.go('disk').then(() => {
        second.request(nbd.NBD_CMD_WRITE, 0n, 512, 0, 2n, Buffer.alloc(512, 2));
        return second.simple();
      });
      await new Promise((resolve) => setTimeout(resolve, 20));
      assert.equal(slow.began, ['write 0'], 'the old write is not overtaken');
      slow.open();
      assert.is((await ready).error, 0);
      second.request(nbd.NBD_CMD_READ, 0n, 1);
      assert.is((await second.simple(1)).data[0], 2);
      assert.is(server.counters()['ended-peer-closed'], 1);
    });
  }),
);

test(
  'close answers what is in flight',
  within(async () => {
    const slow = new SlowDevice(new MemoryStore(MIB));
    await withServer({ disk: slow }, async ({ peer, server }) => {
      const client = await peer();
      await client.go('disk');
      slow.gated = true;
      client.request(nbd.NBD_CMD_READ, 0n, 512);
      await eventually('the read', () => slow.inFlight === 1);
      const closed = server.close();
      slow.open();
      await closed;
      assert.is((await client.closed()).length, 16 + 512);
    });
  }),
);

test(
  'close ends although the device never answers, and says how much was given up',
  within(async () => {
    const slow = new SlowDevice(new MemoryStore(MIB));
    await withServer(
      { disk: slow },
      async ({ peer, server }) => {
        const client = await peer();
        await client.go('disk');
        slow.gated = true;
        client.request(nbd.NBD_CMD_READ, 0n, 512);
        client.request(nbd.NBD_CMD_FLUSH, 0n, 0);
        await eventually('both', () => slow.inFlight === 2);
        assert.is(await server.close(), 2);
        assert.is((await client.closed()).length, 0);
        slow.open();
        await eventually('the device is through', () => slow.inFlight === 0);
      },
      { closeTimeoutMs: 50 },
    );
  }),
);

test.run();
