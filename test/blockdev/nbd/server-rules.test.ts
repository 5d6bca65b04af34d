/** Rules of the specification that a client can observe of our server and that no other test here is about. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Device } from '../../../src/blockdev/index.ts';
import { DeviceError, FilterDevice, MemoryStore } from '../../../src/blockdev/index.ts';
import * as o from '../../../src/blockdev/nbd/options.ts';
import * as nbd from '../../../src/blockdev/nbd/protocol.ts';
import { VirtualClock } from '../../../src/common/index.ts';
import { eventually, within } from '../../support/index.ts';
import type { Peer } from './peer.ts';
import { hex, withServer } from './peer.ts';
import { failure, SlowDevice } from './slow-device.ts';

const test = suite('blockdev/nbd/server-rules');

const MIB = 1024 * 1024;

const withBoth = (): Device =>
  Object.assign(new FilterDevice(new MemoryStore(MIB)), {
    writtenSince: async (offset: bigint, length: bigint) => [{ offset, length, written: true }],
  });

const typesOf = async (client: Peer, option: number, data?: Uint8Array) =>
  (await client.option(option, data)).map((reply) => reply.type);

test(
  'NBD_CMD_BLOCK_STATUS without a context is refused, also without structured replies',
  within(() =>
    withServer({ disk: withBoth() }, async ({ peer }) => {
      const plain = await peer();
      await plain.go('disk');
      plain.request(nbd.NBD_CMD_BLOCK_STATUS, 0n, 512);
      assert.is((await plain.simple()).error, nbd.NBD_EINVAL);
      const structured = await peer();
      await structured.go('disk', true);
      structured.request(nbd.NBD_CMD_BLOCK_STATUS, 0n, 512);
      assert.is(await structured.error(), nbd.NBD_EINVAL);
    }),
  ),
);

test(
  'NBD_CMD_FLAG_FUA is accepted on every command; cookies come back as they were, whatever they are',
  within(async () => {
    const store = new MemoryStore(MIB);
    await withServer({ disk: store }, async ({ peer }) => {
      const client = await peer();
      await client.go('disk', true, [nbd.BASE_ALLOCATION]);
      for (const cookie of [0n, 1n, 1n, 0xffff_ffff_ffff_ffffn, 0x8000_0000_0000_0000n]) {
        for (const type of [
          nbd.NBD_CMD_READ,
          nbd.NBD_CMD_FLUSH,
          nbd.NBD_CMD_TRIM,
          nbd.NBD_CMD_CACHE,
          nbd.NBD_CMD_WRITE_ZEROES,
          nbd.NBD_CMD_BLOCK_STATUS,
        ]) {
          const length = type === nbd.NBD_CMD_FLUSH ? 0 : 512;
          client.request(type, 0n, length, nbd.NBD_CMD_FLAG_FUA, cookie);
          if (type === nbd.NBD_CMD_READ || type === nbd.NBD_CMD_BLOCK_STATUS) {
            const chunk = await client.chunk();
            assert.equal(
              [chunk.cookie, chunk.type & nbd.NBD_REPLY_TYPE_ERROR_BIT],
              [cookie, 0],
              `command ${type}`,
            );
          } else assert.equal(await client.simple(), { error: 0, cookie, data: Buffer.alloc(0) });
        }
        client.request(nbd.NBD_CMD_WRITE, 0n, 1, nbd.NBD_CMD_FLAG_FUA, cookie, Buffer.alloc(1));
        assert.is((await client.simple()).cookie, cookie);
      }
      client.request(nbd.NBD_CMD_DISC, 0n, 0, nbd.NBD_CMD_FLAG_FUA);
      assert.is((await client.closed()).length, 0, 'no reply to NBD_CMD_DISC');
    });
  }),
);

test(
  'a reply with NBD_CMD_FLAG_FUA, and one to NBD_CMD_FLUSH, waits for the device to say durable, of any connection',
  within(async () => {
    const slow = new SlowDevice(new MemoryStore(MIB));
    const durable: string[] = [];
    const noting: Device = Object.assign(new FilterDevice(slow), {
      writeAt: async (source: Uint8Array, offset: bigint, options: { fua?: boolean }) => {
        await slow.writeAt(source, offset, options);
        durable.push(options.fua === true ? 'fua' : 'write');
      },
      flush: async () => {
        await slow.flush();
        durable.push('flush');
      },
    });
    await withServer({ disk: noting }, async ({ peer }) => {
      const [writer, other] = [await peer(), await peer()];
      const flags = await writer.go('disk');
      await other.go('disk');
      assert.ok((flags & nbd.NBD_FLAG_CAN_MULTI_CONN) !== 0);
      writer.request(nbd.NBD_CMD_WRITE, 0n, 512, 0, 1n, Buffer.alloc(512, 1));
      await writer.simple();
      slow.gated = true;
      other.request(nbd.NBD_CMD_FLUSH, 0n, 0, 0, 2n);
      writer.request(nbd.NBD_CMD_WRITE, 512n, 512, nbd.NBD_CMD_FLAG_FUA, 3n, Buffer.alloc(512, 2));
      await eventually('both', () => slow.inFlight === 2);
      let answered = 0;
      const replies = [other.simple(), writer.simple()].map((reply) => reply.then(() => answered++));
      writer.request(nbd.NBD_CMD_DISC, 0n, 0);
      await new Promise((resolve) => setTimeout(resolve, 30));
      assert.equal([answered, durable], [0, ['write']]);
      slow.open();
      await Promise.all(replies);
      assert.equal(durable.sort(), ['flush', 'fua', 'write']);
    });
  }),
);

test(
  'requests of no bytes, and with reserved fields that are not zero, are answered and the connection goes on',
  within(() =>
    withServer({ disk: withBoth() }, async ({ peer }) => {
      for (const structured of [false, true]) {
        const client = await peer();
        await client.go('disk', structured);
        for (const type of [
          nbd.NBD_CMD_WRITE,
          nbd.NBD_CMD_TRIM,
          nbd.NBD_CMD_CACHE,
          nbd.NBD_CMD_WRITE_ZEROES,
        ]) {
          for (const offset of [0n, 77n, BigInt(MIB)]) {
            client.request(type, offset, 0, 0, 8n);
            assert.equal([(await client.simple()).cookie], [8n], `command ${type} at ${offset}`);
          }
        }
        client.request(nbd.NBD_CMD_FLUSH, 0xffff_ffff_0000_0000n, 0xffff_ffff, 0, 9n);
        assert.equal(await client.simple(), { error: 0, cookie: 9n, data: Buffer.alloc(0) });
        client.request(nbd.NBD_CMD_READ, 0n, 1, 0, 10n);
        if (structured) assert.is((await client.chunk()).payload.length, 9);
        else assert.is((await client.simple(1)).error, 0);
      }
    }),
  ),
);

test(
  'with structured replies every answer to NBD_CMD_READ is a chunk, errors too; without, none is',
  within(async () => {
    const slow = new SlowDevice(new MemoryStore(MIB));
    await withServer({ disk: slow }, async ({ peer }) => {
      const [plain, structured] = [await peer(), await peer()];
      assert.is((await plain.go('disk')) & nbd.NBD_FLAG_SEND_DF, 0);
      assert.is((await structured.go('disk', true)) & nbd.NBD_FLAG_SEND_DF, nbd.NBD_FLAG_SEND_DF);
      const rows: [bigint, number, number][] = [
        [BigInt(MIB), 1, 0],
        [0n, 2 ** 25 + 1, 0],
        [0n, 1, 0x4000],
        [0n, 1, nbd.NBD_CMD_FLAG_REQ_ONE],
      ];
      for (const [offset, length, flags] of rows) {
        plain.request(nbd.NBD_CMD_READ, offset, length, flags);
        assert.is((await plain.simple()).error, nbd.NBD_EINVAL);
        structured.request(nbd.NBD_CMD_READ, offset, length, flags);
        const chunk = await structured.chunk();
        assert.equal([chunk.type, chunk.flags], [nbd.NBD_REPLY_TYPE_ERROR, nbd.NBD_REPLY_FLAG_DONE]);
      }
      // A device that fails half-way: nothing but the error leaves.
      slow.failWith = failure('EIO');
      for (const length of [512, 300_000]) {
        plain.request(nbd.NBD_CMD_READ, 0n, length);
        assert.is((await plain.simple()).error, nbd.NBD_EIO);
        structured.request(nbd.NBD_CMD_READ, 0n, length);
        assert.is(await structured.error(), nbd.NBD_EIO);
      }
      slow.failWith = undefined;
      for (const length of [1, 65_536, MIB]) {
        structured.request(nbd.NBD_CMD_READ, 0n, length, nbd.NBD_CMD_FLAG_DF);
        const whole = await structured.chunk();
        assert.equal([whole.type, whole.payload.length], [nbd.NBD_REPLY_TYPE_OFFSET_DATA, 8 + length]);
      }
    });
  }),
);

test(
  'the answer to NBD_CMD_FLAG_FAST_ZERO: NBD_ENOTSUP quickly and nothing is written; without the flag never',
  within(async () => {
    class Slow extends FilterDevice {
      override async writeZeroes(_offset: bigint, _length: bigint, options: { fast?: boolean } = {}) {
        throw new DeviceError('ENOTSUP', options.fast === true ? 'not fast' : 'not at all');
      }
      override async trim() {
        throw new DeviceError('ENOTSUP', 'not at all');
      }
      override async flush() {
        throw new DeviceError('EOVERFLOW', 'too large');
      }
    }
    const store = new MemoryStore(MIB);
    await store.writeAt(Buffer.alloc(512, 5), 0n);
    await withServer({ disk: new Slow(store) }, async ({ peer }) => {
      const client = await peer();
      await client.go('disk');
      const rows: [number, number, number][] = [
        [nbd.NBD_CMD_WRITE_ZEROES, nbd.NBD_CMD_FLAG_FAST_ZERO, nbd.NBD_ENOTSUP],
        [nbd.NBD_CMD_WRITE_ZEROES, nbd.NBD_CMD_FLAG_FAST_ZERO | nbd.NBD_CMD_FLAG_NO_HOLE, nbd.NBD_ENOTSUP],
        [nbd.NBD_CMD_WRITE_ZEROES, 0, nbd.NBD_EINVAL],
        [nbd.NBD_CMD_TRIM, 0, nbd.NBD_EINVAL],
        [nbd.NBD_CMD_FLUSH, 0, nbd.NBD_EINVAL],
      ];
      for (const [type, flags, error] of rows) {
        client.request(type, 0n, type === nbd.NBD_CMD_FLUSH ? 0 : 512, flags);
        assert.is((await client.simple()).error, error, `command ${type} flags ${flags}`);
      }
      client.request(nbd.NBD_CMD_READ, 0n, 1);
      assert.is((await client.simple(1)).data[0], 5);
    });
  }),
);

test(
  'texts of errors are whole UTF-8 without NUL and of bounded length',
  within(async () => {
    const slow = new SlowDevice(new MemoryStore(MIB));
    await withServer({ disk: slow }, async ({ peer }) => {
      const client = await peer();
      await client.go('disk', true);
      for (const text of ['a'.repeat(100_000), '€'.repeat(600), `${'a'.repeat(511)}€`, 'nul\0here', '']) {
        slow.failWith = new DeviceError('EIO', text);
        client.request(nbd.NBD_CMD_READ, 0n, 512);
        const { payload } = await client.chunk();
        const length = payload.readUInt16BE(4);
        assert.is(payload.length, 6 + length);
        assert.ok(length <= 512);
        assert.ok(o.parseString(payload.subarray(6)) !== undefined, 'a string of the protocol');
      }
    });
  }),
);

test(
  'a server that closes answers options with NBD_REP_ERR_SHUTDOWN, NBD_OPT_ABORT with NBD_REP_ACK',
  within(async () => {
    const clock = new VirtualClock();
    await withServer(
      { disk: new MemoryStore(MIB) },
      async ({ peer, server }) => {
        const clients = [await peer(), await peer(), await peer()];
        for (const client of clients) await client.greet();
        for (const client of clients) await client.option(nbd.NBD_OPT_LIST);
        const closed = server.close();
        const [first, second, third] = clients;
        const go = o.emitInfoRequest({ exportName: 'disk', wanted: [] });
        assert.equal(await typesOf(first!, nbd.NBD_OPT_GO, go), [nbd.NBD_REP_ERR_SHUTDOWN]);
        assert.equal(await typesOf(first!, nbd.NBD_OPT_LIST), [nbd.NBD_REP_ERR_SHUTDOWN]);
        assert.equal(await typesOf(first!, nbd.NBD_OPT_ABORT), [nbd.NBD_REP_ACK]);
        second!.send(o.emitOption(nbd.NBD_OPT_EXPORT_NAME, Buffer.from('disk')));
        assert.is((await second!.closed()).length, 0);
        // One that says nothing is not waited for longer than a moment.
        await eventually('the others are gone', () => server.connections === 1);
        clock.advance(199);
        assert.is(server.connections, 1);
        clock.advance(1);
        assert.is((await third!.closed()).length, 0);
        assert.is(await closed, 0);
      },
      { clock },
    );
  }),
);

test(
  'strings: names of 4096 bytes work everywhere, longer ones, NUL and bad UTF-8 nowhere',
  within(async () => {
    const long = 'ä'.repeat(2048);
    await withServer({ [long]: new MemoryStore(MIB) }, async ({ peer }) => {
      const client = await peer();
      await client.greet();
      const [entry] = await client.option(nbd.NBD_OPT_LIST);
      assert.is(o.parseServerEntry(entry!.data), long);
      for (const wrong of [Buffer.from(`${long}a`), Buffer.from('a\0'), hex('c3')]) {
        const name = Buffer.alloc(4);
        name.writeUInt32BE(wrong.length, 0);
        const data = Buffer.concat([name, wrong, hex('0000')]);
        assert.equal(await typesOf(client, nbd.NBD_OPT_INFO, data), [nbd.NBD_REP_ERR_INVALID]);
        const closing = await peer();
        await closing.greet();
        closing.send(o.emitOption(nbd.NBD_OPT_EXPORT_NAME, wrong));
        assert.is((await closing.closed()).length, 0);
      }
      client.send(o.emitOption(nbd.NBD_OPT_EXPORT_NAME, Buffer.from(long)));
      assert.is((await client.take(10)).readBigUInt64BE(0), BigInt(MIB));
    });
  }),
);

test(
  'trims, zeroes, caches and status of up to 2^32 - 1 bytes are no request that is too large',
  within(async () => {
    class Large extends FilterDevice {
      override get size() {
        return 1n << 33n;
      }
      override async trim() {}
      override async writeZeroes() {}
      override async readAt() {}
      override async extents(offset: bigint, length: bigint) {
        return [{ offset, length, zero: true, hole: true }];
      }
    }
    await withServer({ disk: new Large(new MemoryStore(512)) }, async ({ peer }) => {
      const client = await peer();
      await client.go('disk', true, [nbd.BASE_ALLOCATION]);
      for (const type of [nbd.NBD_CMD_TRIM, nbd.NBD_CMD_WRITE_ZEROES, nbd.NBD_CMD_CACHE]) {
        client.request(type, 4096n, 0xffff_ffff);
        assert.is((await client.simple()).error, 0, `command ${type}`);
      }
      client.request(nbd.NBD_CMD_BLOCK_STATUS, 4096n, 0xffff_ffff);
      assert.is((await client.chunk()).payload.toString('hex'), '00000001ffffffff00000003');
    });
  }),
);

test(
  'a block status of thousands of runs is cut to 8192 of them, and the client asks on from there',
  within(async () => {
    class Striped extends FilterDevice {
      override get size() {
        return BigInt(20_000 * 512);
      }
      override async extents(offset: bigint, length: bigint) {
        const runs = [];
        for (let at = offset; at < offset + length; at += 512n) {
          const zero = (at / 512n) % 2n === 0n;
          runs.push({ offset: at, length: 512n, zero, hole: zero });
        }
        return runs;
      }
    }
    await withServer({ disk: new Striped(new MemoryStore(512)) }, async ({ peer }) => {
      const client = await peer();
      await client.go('disk', true, [nbd.BASE_ALLOCATION]);
      let at = 0n;
      const counts: number[] = [];
      while (at < 20_000n * 512n) {
        client.request(nbd.NBD_CMD_BLOCK_STATUS, at, Number(20_000n * 512n - at));
        const { payload } = await client.chunk();
        counts.push((payload.length - 4) / 8);
        for (let i = 4; i < payload.length; i += 8) {
          assert.is(payload.readUInt32BE(i), 512, 'neighbours differ, so none is longer');
          at += 512n;
        }
      }
      assert.equal(counts, [8192, 8192, 3616]);
    });
  }),
);

test(
  'clients that take no replies do not hold up a new connection; one of them that is gone is through before it is served',
  within(async () => {
    const store = new MemoryStore(MIB);
    await withServer(
      { disk: store },
      async ({ peer, server }) => {
        const stalled = [];
        for (let i = 0; i < 8; i++) {
          const client = await peer();
          await client.go('disk');
          client.pause();
          for (let n = 0n; n < 200n; n++) client.request(nbd.NBD_CMD_READ, 0n, 65_536, 0, n);
          client.request(nbd.NBD_CMD_WRITE, 0n, 1, 0, 999n, Buffer.of(i + 1));
          stalled.push(client);
        }
        await eventually('they are stalled', () => server.counters()['reads']! >= 8);
        const next = await peer();
        await next.go('disk');
        // Their writes behind the stall were never taken up, and are not when they are gone.
        for (const client of stalled) client.destroy();
        const last = await peer();
        await last.go('disk');
        last.request(nbd.NBD_CMD_WRITE, 0n, 1, 0, 1n, Buffer.of(77));
        await last.simple();
        await eventually('the others are gone', () => server.connections === 2);
        next.request(nbd.NBD_CMD_READ, 0n, 1);
        assert.is((await next.simple(1)).data[0], 77);
      },
      { limits: { lingerMs: 60_000, replyBacklog: 256 * 1024 } },
    );
  }),
);

test.run();
