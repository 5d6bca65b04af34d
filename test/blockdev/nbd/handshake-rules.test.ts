/** Rules of the handshake that a client can observe of our server and that no other test here is about. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Device } from '../../../src/blockdev/index.ts';
import { FilterDevice, MemoryStore } from '../../../src/blockdev/index.ts';
import * as o from '../../../src/blockdev/nbd/options.ts';
import * as nbd from '../../../src/blockdev/nbd/protocol.ts';
import { eventually, within } from '../../support/index.ts';
import type { Peer } from './peer.ts';
import { withServer } from './peer.ts';

const test = suite('blockdev/nbd/handshake-rules');

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

test.run();
