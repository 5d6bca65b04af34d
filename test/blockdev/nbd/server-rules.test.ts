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
  'NBD_OPT_ABORT: acknowledged, also with data; a client that does not wait for the answer does no harm',
  within(() =>
    withServer({ disk: new MemoryStore(MIB) }, async ({ peer, server }) => {
      for (const data of [Buffer.alloc(0), Buffer.alloc(100)]) {
        const client = await peer();
        await client.greet();
        const [reply] = await client.option(nbd.NBD_OPT_ABORT, data);
        assert.equal(
          [reply!.option, reply!.type, reply!.data.length],
          [nbd.NBD_OPT_ABORT, nbd.NBD_REP_ACK, 0],
        );
        assert.is((await client.closed()).length, 0);
      }
      const hasty = await peer();
      await hasty.greet();
      hasty.send(o.emitOption(nbd.NBD_OPT_ABORT));
      hasty.destroy();
      await eventually('three ends', () => server.connections === 0);
      const next = await peer();
      assert.is(await next.go('disk').then((flags) => flags & nbd.NBD_FLAG_HAS_FLAGS), 1);
    }),
  ),
);

test(
  'an option that is not known, or not offered, is answered and skipped with its data; the next one is understood',
  within(() =>
    withServer({ disk: new MemoryStore(MIB) }, async ({ peer }) => {
      const client = await peer();
      await client.greet();
      for (const option of [0, nbd.NBD_OPT_PEEK_EXPORT, nbd.NBD_OPT_STARTTLS, 12, 99, 0xffff_ffff]) {
        for (const length of [0, 1, 5000]) {
          const [reply] = await client.option(option, Buffer.alloc(length, 0x49));
          assert.equal([reply!.option, reply!.type], [option, nbd.NBD_REP_ERR_UNSUP]);
          assert.ok(
            o.parseString(reply!.data) !== undefined && reply!.data.length > 0,
            'a message for people',
          );
        }
      }
      assert.equal(await typesOf(client, nbd.NBD_OPT_LIST), [nbd.NBD_REP_SERVER, nbd.NBD_REP_ACK]);
    }),
  ),
);

test(
  'without TLS nothing is answered with NBD_REP_ERR_TLS_REQD',
  within(() =>
    withServer({ disk: new MemoryStore(MIB) }, async ({ peer }) => {
      const client = await peer();
      await client.greet();
      for (let option = 3; option < 16; option++) {
        if (option === nbd.NBD_OPT_GO) continue;
        for (const exportName of ['disk', 'nothing']) {
          const data = o.emitInfoRequest({ exportName, wanted: [] });
          for (const reply of await client.option(option, data)) {
            assert.is.not(reply.type, nbd.NBD_REP_ERR_TLS_REQD);
          }
        }
      }
    }),
  ),
);

test(
  'NBD_OPT_INFO and NBD_OPT_GO: unknown information is ignored, what is asked twice comes once, both tell the same, no padding',
  within(() =>
    withServer({ disk: new MemoryStore(MIB) }, async ({ peer }) => {
      const client = await peer();
      await client.greet(nbd.NBD_FLAG_C_FIXED_NEWSTYLE);
      const wanted = [0x4242, nbd.NBD_INFO_BLOCK_SIZE, nbd.NBD_INFO_NAME, nbd.NBD_INFO_BLOCK_SIZE, 9];
      const data = o.emitInfoRequest({ exportName: '', wanted });
      const info = await client.option(nbd.NBD_OPT_INFO, data);
      const go = await client.option(nbd.NBD_OPT_GO, data);
      const told = (replies: typeof info) => replies.map(({ type, data }) => [type, data.toString('hex')]);
      assert.equal(told(go), told(info));
      const kinds = info.slice(0, -1).map(({ data }) => data.readUInt16BE(0));
      assert.equal(kinds, [nbd.NBD_INFO_EXPORT, nbd.NBD_INFO_BLOCK_SIZE, nbd.NBD_INFO_NAME]);
      assert.equal(
        info.slice(0, -1).map(({ data }) => data.length),
        [12, 14, 2 + 4],
      );
      assert.is(info[2]!.data.toString('utf8', 2), 'disk', 'the name in the list, not the one asked');
      const sizes = info[1]!.data;
      assert.equal(
        [sizes.readUInt32BE(2), sizes.readUInt32BE(6), sizes.readUInt32BE(10)],
        [1, 4096, 2 ** 25],
      );
      // No 124 zeroes behind the acknowledgement of NBD_OPT_GO, although they were not waived.
      client.request(nbd.NBD_CMD_READ, 0n, 1);
      assert.is((await client.simple(1)).error, 0);
    }),
  ),
);

test(
  'block sizes: the preferred one is a power of two of at least 512 bytes, whatever the device says',
  within(async () => {
    class Odd extends FilterDevice {
      preferred = 0;
      override get capabilities() {
        return { ...this.next.capabilities, preferredBlock: this.preferred };
      }
    }
    const odd = new Odd(new MemoryStore(MIB));
    await withServer({ disk: odd }, async ({ peer }) => {
      const client = await peer();
      await client.greet();
      const data = o.emitInfoRequest({ exportName: 'disk', wanted: [nbd.NBD_INFO_BLOCK_SIZE] });
      for (const [said, told] of [
        [0, 512],
        [1000, 512],
        [4096, 4096],
        [100_000, 65_536],
        [2 ** 40, 2 ** 25],
      ] as const) {
        odd.preferred = said;
        const [, sizes] = await client.option(nbd.NBD_OPT_INFO, data);
        assert.equal([sizes!.data.readUInt32BE(2), sizes!.data.readUInt32BE(6)], [1, told]);
      }
    });
  }),
);

test(
  'transmission flags follow the device and what was negotiated; NBD_FLAG_SEND_FAST_ZERO never without NBD_FLAG_SEND_WRITE_ZEROES',
  within(async () => {
    class With extends FilterDevice {
      readonly #changes: Partial<Device['capabilities']>;
      constructor(changes: Partial<Device['capabilities']>) {
        super(new MemoryStore(MIB));
        this.#changes = changes;
      }
      override get capabilities() {
        return { ...this.next.capabilities, ...this.#changes };
      }
    }
    const exports = {
      all: new With({}),
      fixed: new With({ readOnly: true }),
      noZeroes: new With({ writeZeroes: false, fastZero: true }),
      slow: new With({ fastZero: false }),
      noTrim: new With({ trim: false, multiConn: false }),
    };
    const always =
      nbd.NBD_FLAG_HAS_FLAGS | nbd.NBD_FLAG_SEND_FLUSH | nbd.NBD_FLAG_SEND_FUA | nbd.NBD_FLAG_SEND_CACHE;
    const [TRIM, MULTI] = [nbd.NBD_FLAG_SEND_TRIM, nbd.NBD_FLAG_CAN_MULTI_CONN];
    const [ZEROES, FAST] = [nbd.NBD_FLAG_SEND_WRITE_ZEROES, nbd.NBD_FLAG_SEND_FAST_ZERO];
    await withServer(exports, async ({ peer }) => {
      for (const [name, expected] of [
        ['all', always | TRIM | MULTI | ZEROES | FAST],
        ['fixed', always | MULTI | nbd.NBD_FLAG_READ_ONLY],
        ['noZeroes', always | TRIM | MULTI],
        ['slow', always | TRIM | MULTI | ZEROES],
        ['noTrim', always | ZEROES | FAST],
      ] as const) {
        assert.is(await (await peer()).go(name), expected, name);
        assert.is(await (await peer()).go(name, true), expected | nbd.NBD_FLAG_SEND_DF, name);
      }
    });
  }),
);

test(
  'metadata contexts: lists with no query, exact ones, wildcards and foreign ones; selections by name only, each with an id of its own',
  within(() =>
    withServer({ disk: withBoth() }, async ({ peer }) => {
      const client = await peer();
      await client.greet();
      await client.option(nbd.NBD_OPT_STRUCTURED_REPLY);
      const ask = async (option: number, ...queries: string[]) => {
        const replies = await client.option(
          option,
          o.emitMetaContextRequest({ exportName: 'disk', queries }),
        );
        assert.is(replies.at(-1)!.type, nbd.NBD_REP_ACK, queries.join());
        return replies.slice(0, -1).map(({ data }) => o.parseMetaContext(data)!);
      };
      const names = async (...queries: string[]) => {
        const contexts = await ask(nbd.NBD_OPT_LIST_META_CONTEXT, ...queries);
        for (const { id } of contexts) assert.is(id, 0);
        return contexts.map(({ name }) => name).sort();
      };
      const both = [nbd.BASE_ALLOCATION, nbd.WRITTEN_SINCE];
      assert.equal(await names(), both);
      assert.equal(await names('base:'), [nbd.BASE_ALLOCATION]);
      assert.equal(await names('changeover:'), [nbd.WRITTEN_SINCE]);
      assert.equal(await names('base:', 'changeover:', nbd.BASE_ALLOCATION), both);
      assert.equal(await names(nbd.WRITTEN_SINCE), [nbd.WRITTEN_SINCE]);
      assert.equal(await names('base:other', 'qemu:', 'x-mine:thing', 'base', '', ':', 'changeover'), []);
      const set = async (...queries: string[]) => {
        const contexts = await ask(nbd.NBD_OPT_SET_META_CONTEXT, ...queries);
        assert.is(new Set(contexts.map(({ id }) => id)).size, contexts.length, 'identifiers are unique');
        return contexts.map(({ name }) => name).sort();
      };
      assert.equal(await set(), [], 'no query selects nothing');
      assert.equal(await set('base:', 'changeover:'), [], 'wildcards select nothing');
      assert.equal(await set(...both, nbd.BASE_ALLOCATION, 'qemu:x', 'base:other'), both, 'each once');
    }),
  ),
);

test(
  'NBD_OPT_SET_META_CONTEXT replaces the selection, also when it fails; other options keep it',
  within(async () => {
    const request = (exportName: string, ...queries: string[]) =>
      o.emitMetaContextRequest({ exportName, queries });
    await withServer({ disk: withBoth() }, async ({ peer }) => {
      const status = async (between: (client: Peer) => Promise<unknown>) => {
        const client = await peer();
        await client.greet();
        await client.option(nbd.NBD_OPT_STRUCTURED_REPLY);
        await client.option(nbd.NBD_OPT_SET_META_CONTEXT, request('disk', nbd.BASE_ALLOCATION));
        await between(client);
        await client.option(nbd.NBD_OPT_GO, o.emitInfoRequest({ exportName: 'disk', wanted: [] }));
        client.request(nbd.NBD_CMD_BLOCK_STATUS, 0n, 512);
        const { type, payload } = await client.chunk();
        return type === nbd.NBD_REPLY_TYPE_BLOCK_STATUS ? payload.readUInt32BE(0) : -payload.readUInt32BE(0);
      };
      const set = nbd.NBD_OPT_SET_META_CONTEXT;
      assert.is(await status(async () => {}), 1);
      assert.is(await status((client) => client.option(set, request('disk', nbd.WRITTEN_SINCE))), 2);
      for (const failing of [request('nothing', nbd.BASE_ALLOCATION), Buffer.alloc(3), request('disk')]) {
        assert.is(await status((client) => client.option(set, failing)), -nbd.NBD_EINVAL);
      }
      assert.is(
        await status(async (client) => {
          await client.option(nbd.NBD_OPT_LIST_META_CONTEXT, request('disk'));
          await client.option(nbd.NBD_OPT_LIST);
        }),
        1,
      );
    });
  }),
);

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
