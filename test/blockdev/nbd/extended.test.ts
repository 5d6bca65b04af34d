/** NBD_OPT_EXTENDED_HEADERS at the server, byte for byte: no other client here speaks it. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Device } from '../../../src/blockdev/index.ts';
import { FilterDevice, MemoryStore } from '../../../src/blockdev/index.ts';
import * as o from '../../../src/blockdev/nbd/options.ts';
import * as nbd from '../../../src/blockdev/nbd/protocol.ts';
import { within } from '../../support/index.ts';
import type { Peer } from './peer.ts';
import { hex, withServer } from './peer.ts';
import { failure, SlowDevice } from './slow-device.ts';

const test = suite('blockdev/nbd/extended');

const MIB = 1024 * 1024;
const CONTEXTS = [nbd.BASE_ALLOCATION, nbd.WRITTEN_SINCE];

/** A disk with both contexts; `written` answers that the second half of what is asked was written. */
const withContexts = (store: Device): Device =>
  Object.assign(new FilterDevice(store), {
    writtenSince: async (offset: bigint, length: bigint) => [
      { offset, length: length / 2n, written: false },
      { offset: offset + length / 2n, length: length - length / 2n, written: true },
    ],
  });

/** Size 2^45, all zero, remembers what it was asked. */
class Vast extends FilterDevice {
  readonly calls: string[] = [];
  override get size() {
    return 1n << 45n;
  }
  override async trim(offset: bigint, length: bigint) {
    this.calls.push(`trim ${offset} ${length}`);
  }
  override async writeZeroes(offset: bigint, length: bigint) {
    this.calls.push(`zeroes ${offset} ${length}`);
  }
  override async extents(offset: bigint, length: bigint) {
    return [{ offset, length, zero: true, hole: true }];
  }
}

async function errorOf(client: Peer): Promise<number> {
  const chunk = await client.extendedChunk();
  assert.is(chunk.type, nbd.NBD_REPLY_TYPE_ERROR);
  assert.is(chunk.flags, nbd.NBD_REPLY_FLAG_DONE);
  return chunk.payload.readUInt32BE(0);
}

test(
  'NBD_OPT_EXTENDED_HEADERS: acknowledged, goes before structured replies, allows metadata contexts, forbids NBD_OPT_EXPORT_NAME',
  within(() =>
    withServer({ disk: new MemoryStore(MIB) }, async ({ peer, server }) => {
      const client = await peer();
      await client.greet();
      const types = async (option: number, data?: Uint8Array) =>
        (await client.option(option, data)).map((reply) => reply.type);
      assert.equal(await types(nbd.NBD_OPT_EXTENDED_HEADERS, Buffer.alloc(1)), [nbd.NBD_REP_ERR_INVALID]);
      assert.equal(await types(nbd.NBD_OPT_STRUCTURED_REPLY), [nbd.NBD_REP_ACK], 'not agreed by that');
      assert.equal(await types(nbd.NBD_OPT_EXTENDED_HEADERS), [nbd.NBD_REP_ACK]);
      assert.equal(await types(nbd.NBD_OPT_STRUCTURED_REPLY), [nbd.NBD_REP_ERR_EXT_HEADER_REQD]);
      const set = o.emitMetaContextRequest({ exportName: 'disk', queries: [nbd.BASE_ALLOCATION] });
      assert.equal(await types(nbd.NBD_OPT_SET_META_CONTEXT, set), [
        nbd.NBD_REP_META_CONTEXT,
        nbd.NBD_REP_ACK,
      ]);
      client.send(o.emitOption(nbd.NBD_OPT_EXPORT_NAME, Buffer.from('disk')));
      assert.is((await client.closed()).length, 0);
      assert.is(server.counters()['ended-export-name-refused'], 1);
    }),
  ),
);

test(
  'NBD_FLAG_BLOCK_STATUS_PAYLOAD is set with extended headers and contexts only',
  within(() =>
    withServer({ disk: new MemoryStore(MIB) }, async ({ peer }) => {
      for (const [structured, contexts, offered] of [
        ['extended', [nbd.BASE_ALLOCATION], true],
        ['extended', [], false],
        [true, [nbd.BASE_ALLOCATION], false],
        [false, [], false],
      ] as const) {
        const flags = await (await peer()).go('disk', structured, contexts);
        assert.is((flags & nbd.NBD_FLAG_BLOCK_STATUS_PAYLOAD) !== 0, offered);
        assert.is((flags & nbd.NBD_FLAG_SEND_DF) !== 0, structured !== false);
      }
    }),
  ),
);

test(
  'NBD_CMD_WRITE and NBD_CMD_READ with extended headers, byte for byte',
  within(() =>
    withServer({ disk: new MemoryStore(MIB) }, async ({ peer }) => {
      const client = await peer();
      await client.go('disk', 'extended');
      client.send(hex('21e41c71 0020 0001 1122334455667788 0000000000000200 0000000000000004 deadbeef'));
      assert.is(
        (await client.take(32)).toString('hex'),
        '6e8a278c00010000112233445566778800000000000002000000000000000000',
      );
      client.send(hex('21e41c71 0000 0000 8877665544332211 0000000000000200 0000000000000004'));
      assert.is(
        (await client.take(44)).toString('hex'),
        '6e8a278c000100018877665544332211' +
          '0000000000000200' +
          '000000000000000c' +
          '0000000000000200deadbeef',
      );
      client.send(hex('21e41c71 0000 0000 0000000000000003 0000000000100000 0000000000000001'));
      const error = await client.extendedChunk();
      assert.equal([error.type, error.cookie, error.offset], [nbd.NBD_REPLY_TYPE_ERROR, 3n, BigInt(MIB)]);
      assert.is(error.payload.readUInt32BE(0), nbd.NBD_EINVAL);
    }),
  ),
);

test(
  'extended requests cut at every byte, payloads of other commands skipped, lengths beyond all bounds',
  within(() =>
    withServer({ disk: new MemoryStore(MIB) }, async ({ peer, server }) => {
      const client = await peer();
      await client.go('disk', 'extended');
      const whole = hex('21e41c71 0020 0001 0000000000000001 0000000000000000 0000000000000004 deadbeef');
      for (let cut = 1; cut < whole.length; cut++) {
        client.send(whole.subarray(0, cut));
        await new Promise((resolve) => setImmediate(resolve));
        client.send(whole.subarray(cut));
        assert.is((await client.extendedChunk()).type, nbd.NBD_REPLY_TYPE_NONE, `cut at ${cut}`);
      }
      // A payload nobody asked for is consumed, whatever the command.
      for (const type of [nbd.NBD_CMD_READ, nbd.NBD_CMD_FLUSH, nbd.NBD_CMD_TRIM, nbd.NBD_CMD_CACHE, 77]) {
        client.extended(type, 0n, 300_000n, 0, 9n, Buffer.alloc(300_000, 1));
        assert.is(await errorOf(client), nbd.NBD_EINVAL, `payload of command ${type}`);
      }
      client.extended(nbd.NBD_CMD_WRITE, 0n, 4n);
      assert.is(
        await errorOf(client),
        nbd.NBD_EINVAL,
        'a write without NBD_CMD_FLAG_PAYLOAD_LEN has no payload',
      );
      for (const type of [nbd.NBD_CMD_READ, nbd.NBD_CMD_TRIM, nbd.NBD_CMD_CACHE]) {
        client.extended(type, 1n, 0xffff_ffff_ffff_ffffn);
        assert.is(await errorOf(client), nbd.NBD_EINVAL, `command ${type} of 2^64 - 1 bytes`);
      }
      client.extended(nbd.NBD_CMD_WRITE_ZEROES, 0n, 1n << 63n);
      assert.is(await errorOf(client), nbd.NBD_ENOSPC);
      client.extended(nbd.NBD_CMD_READ, 0n, 4n);
      assert.is((await client.extendedChunk()).payload.toString('hex'), '0000000000000000deadbeef');
      const compact = await peer();
      await compact.go('disk', 'extended');
      compact.request(nbd.NBD_CMD_READ, 0n, 4);
      await compact.closed();
      const huge = await peer();
      await huge.go('disk', 'extended');
      huge.extended(nbd.NBD_CMD_WRITE, 0n, BigInt(nbd.NBD_MAX_PAYLOAD) + 1n, 0, 1n, Buffer.alloc(0));
      await huge.closed();
      const counters = server.counters();
      assert.equal([counters['ended-bad-request-magic'], counters['ended-payload-too-long']], [1, 1]);
    }),
  ),
);

test(
  'effects of more than 4 GiB: NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES and NBD_CMD_BLOCK_STATUS with 64-bit lengths',
  within(async () => {
    const vast = new Vast(new MemoryStore(512));
    await withServer({ disk: vast }, async ({ peer }) => {
      const client = await peer();
      await client.go('disk', 'extended', [nbd.BASE_ALLOCATION]);
      for (const type of [nbd.NBD_CMD_TRIM, nbd.NBD_CMD_WRITE_ZEROES]) {
        client.extended(type, 4096n, (1n << 45n) - 4096n, 0, 2n);
        const reply = await client.extendedChunk();
        assert.equal([reply.type, reply.cookie, reply.offset], [nbd.NBD_REPLY_TYPE_NONE, 2n, 4096n]);
      }
      assert.equal(vast.calls, [`trim 4096 ${2 ** 45 - 4096}`, `zeroes 4096 ${2 ** 45 - 4096}`]);
      client.extended(nbd.NBD_CMD_BLOCK_STATUS, 512n, (1n << 45n) - 512n);
      const status = await client.extendedChunk();
      assert.equal(
        [status.type, status.flags],
        [nbd.NBD_REPLY_TYPE_BLOCK_STATUS_EXT, nbd.NBD_REPLY_FLAG_DONE],
      );
      assert.is(status.payload.toString('hex'), '0000000100000001' + '00001ffffffffe00' + '0000000000000003');
    });
  }),
);

test(
  'NBD_CMD_BLOCK_STATUS: all contexts, one, those of a payload; wrong payloads',
  within(async () => {
    const store = new MemoryStore(MIB);
    await withServer({ disk: withContexts(store) }, async ({ peer }) => {
      const client = await peer();
      await client.go('disk', 'extended', CONTEXTS);
      const zero = '0000000100000001' + '0000000000100000' + '0000000000000003';
      const written =
        '0000000200000002' +
        '0000000000080000' +
        '0000000000000000' +
        '0000000000080000' +
        '0000000000000001';
      const chunks = async (count: number) => {
        const found: string[] = [];
        for (let i = 0; i < count; i++) {
          const chunk = await client.extendedChunk();
          assert.is(chunk.type, nbd.NBD_REPLY_TYPE_BLOCK_STATUS_EXT);
          assert.is(chunk.flags, i === count - 1 ? nbd.NBD_REPLY_FLAG_DONE : 0);
          found.push(chunk.payload.toString('hex'));
        }
        return found;
      };
      client.extended(nbd.NBD_CMD_BLOCK_STATUS, 0n, BigInt(MIB));
      assert.equal(await chunks(2), [zero, written]);
      const asking = (text: string, flags = 0) => {
        const payload = hex(text);
        client.extended(nbd.NBD_CMD_BLOCK_STATUS, 0n, BigInt(payload.length), flags, 4n, payload);
      };
      asking('0000000000100000 00000002');
      assert.equal(await chunks(1), [written]);
      asking('0000000000100000 00000002 00000001');
      assert.equal(await chunks(2), [written, zero]);
      asking('0000000000100000 00000002', nbd.NBD_CMD_FLAG_REQ_ONE);
      assert.equal(await chunks(1), ['0000000200000001' + '0000000000080000' + '0000000000000000']);
      for (const wrong of [
        '0000000000100000', // no context
        '0000000000100000 00000003', // unknown
        '0000000000100000 00000001 00000001', // twice
        '0000000000100000 00000001 0000', // of a wrong length
        '00000000', // cut
        '0000000000100001 00000001', // beyond the end
        '0000000000000000 00000001', // of nothing
        'ffffffffffffffff 00000001',
      ]) {
        asking(wrong);
        assert.is(await errorOf(client), nbd.NBD_EINVAL, wrong);
      }
      client.extended(nbd.NBD_CMD_BLOCK_STATUS, 0n, 0n, nbd.NBD_CMD_FLAG_PAYLOAD_LEN);
      assert.is(await errorOf(client), nbd.NBD_EINVAL, 'an empty payload');
    });
  }),
);

test(
  'holes of a read, NBD_CMD_FLAG_DF, reads of nothing, errors of the device: each with the offset of its request',
  within(async () => {
    const store = new MemoryStore(MIB);
    await store.writeAt(Buffer.alloc(65_536, 7), 512n * 1024n);
    const slow = new SlowDevice(store);
    await withServer({ disk: slow }, async ({ peer }) => {
      const client = await peer();
      await client.go('disk', 'extended');
      const at = 65_536n;
      client.extended(nbd.NBD_CMD_READ, at, BigInt(MIB) - at, 0, 5n);
      const seen: [number, bigint, bigint, number][] = [];
      for (let i = 0; i < 3; i++) {
        const { type, offset, payload, flags } = await client.extendedChunk();
        seen.push([type, offset, payload.readBigUInt64BE(0), flags]);
      }
      assert.equal(seen, [
        [nbd.NBD_REPLY_TYPE_OFFSET_HOLE, at, at, 0],
        [nbd.NBD_REPLY_TYPE_OFFSET_DATA, at, 524_288n, 0],
        [nbd.NBD_REPLY_TYPE_OFFSET_HOLE, at, 589_824n, nbd.NBD_REPLY_FLAG_DONE],
      ]);
      client.extended(nbd.NBD_CMD_READ, at, BigInt(MIB) - at, nbd.NBD_CMD_FLAG_DF);
      const whole = await client.extendedChunk();
      assert.equal([whole.type, whole.payload.length], [nbd.NBD_REPLY_TYPE_OFFSET_DATA, MIB - 65_536 + 8]);
      client.extended(nbd.NBD_CMD_READ, at, 0n);
      assert.is((await client.extendedChunk()).type, nbd.NBD_REPLY_TYPE_NONE);
      slow.failWith = failure('EIO');
      for (const type of [nbd.NBD_CMD_READ, nbd.NBD_CMD_TRIM, nbd.NBD_CMD_FLUSH, nbd.NBD_CMD_CACHE]) {
        client.extended(type, at, 512n, 0, 6n);
        const error = await client.extendedChunk();
        assert.equal(
          [error.type, error.cookie, error.offset, error.payload.readUInt32BE(0)],
          [nbd.NBD_REPLY_TYPE_ERROR, 6n, at, nbd.NBD_EIO],
        );
      }
    });
  }),
);

test.run();
