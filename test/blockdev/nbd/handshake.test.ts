import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { MemoryStore } from '../../../src/blockdev/index.ts';
import * as o from '../../../src/blockdev/nbd/options.ts';
import * as nbd from '../../../src/blockdev/nbd/protocol.ts';
import type { ExportTable } from '../../../src/blockdev/nbd/server-export.ts';
import { OPTION_COUNT_LIMIT, ServerHandshake } from '../../../src/blockdev/nbd/server-handshake.ts';
import { within } from '../../support/index.ts';
import { hex, withServer } from './peer.ts';

const test = suite('blockdev/nbd/handshake');

const device = new MemoryStore(0x10_0000);

function tableOf(names: string[]): ExportTable {
  return {
    names: () => names,
    find: (name) => (names.includes(name) ? { name, device } : undefined),
  };
}

function handshake(names = ['disk']) {
  const sent: Buffer[] = [];
  const machine = new ServerHandshake(tableOf(names), (bytes) => sent.push(bytes));
  return { machine, output: () => Buffer.concat(sent), sent };
}

const GREETING = hex('4e42444d41474943 49484156454f5054 0003');
const CLIENT_FLAGS = hex('00000003');
const GO_DISK = hex(`
  49484156454f5054 00000007 0000000c   # option header: NBD_OPT_GO, 12 bytes
  00000004 6469736b                    # "disk"
  0001 0003                            # one information: NBD_INFO_BLOCK_SIZE
`);
const GO_REPLY = hex(`
  0003e889045565a9 00000007 00000003 0000000c   # NBD_REP_INFO
  0000 0000000000100000 0d6d                    # NBD_INFO_EXPORT, 1 MiB, flags
  0003e889045565a9 00000007 00000003 0000000e   # NBD_REP_INFO
  0003 00000001 00001000 02000000               # NBD_INFO_BLOCK_SIZE 1, 4096, 32 MiB
`);
const ACK_GO = hex('0003e889045565a9 00000007 00000001 00000000');

test('greeting, flags and NBD_OPT_GO, byte for byte', () => {
  const { machine, output } = handshake();
  machine.greet();
  assert.is(machine.push(CLIENT_FLAGS).state, 'more');
  const outcome = machine.push(GO_DISK);
  assert.is(outcome.state, 'transmission');
  assert.equal(output().toString('hex'), Buffer.concat([GREETING, GO_REPLY]).toString('hex'));
  assert.equal(outcome.state === 'transmission' && outcome.answer.toString('hex'), ACK_GO.toString('hex'));
});

test('cut at every byte the handshake waits; given the rest it comes to the same end', () => {
  const whole = Buffer.concat([CLIENT_FLAGS, hex('49484156454f5054 00000008 00000000'), GO_DISK]);
  for (let cut = 0; cut < whole.length; cut++) {
    const { machine } = handshake();
    machine.greet();
    assert.is(machine.push(whole.subarray(0, cut)).state, 'more', `cut at ${cut}`);
    const outcome = machine.push(whole.subarray(cut));
    assert.is(
      outcome.state === 'transmission' && outcome.negotiated.structuredReplies,
      true,
      `cut at ${cut}`,
    );
  }
});

test('requests behind the last option are handed over', () => {
  const { machine } = handshake();
  machine.greet();
  const outcome = machine.push(Buffer.concat([CLIENT_FLAGS, GO_DISK, hex('25609513')]));
  assert.is(outcome.state === 'transmission' && outcome.rest.toString('hex'), '25609513');
});

test('NBD_OPT_EXPORT_NAME with and without NBD_FLAG_C_NO_ZEROES', () => {
  const option = o.emitOption(nbd.NBD_OPT_EXPORT_NAME, Buffer.from('disk'));
  for (const [flags, zeroes] of [
    ['00000001', 124],
    ['00000003', 0],
  ] as const) {
    const { machine } = handshake();
    machine.push(hex(flags));
    const outcome = machine.push(option);
    if (outcome.state !== 'transmission') throw new Error(outcome.state);
    assert.is(
      outcome.answer.toString('hex'),
      `00000000001000000d6d${'00'.repeat(zeroes)}`,
      'size, transmission flags, zeroes',
    );
  }
});

test('NBD_OPT_EXPORT_NAME of an unknown export closes', () => {
  const { machine } = handshake();
  machine.push(CLIENT_FLAGS);
  const outcome = machine.push(o.emitOption(nbd.NBD_OPT_EXPORT_NAME, Buffer.from('nothing')));
  assert.equal(outcome, { state: 'closed', reason: 'unknown-export' });
});

test('unknown client flags close', () => {
  const { machine } = handshake();
  assert.equal(machine.push(hex('00000005')), { state: 'closed', reason: 'unknown-client-flags' });
});

test('a wrong option magic closes as soon as it is there', () => {
  const { machine } = handshake();
  machine.push(CLIENT_FLAGS);
  assert.equal(machine.push(hex('49484156454f5055')), { state: 'closed', reason: 'bad-option-magic' });
});

test('an option that is too long is skipped and answered, a huge one closes', () => {
  const { machine, sent } = handshake();
  machine.push(CLIENT_FLAGS);
  const long = o.emitOption(nbd.NBD_OPT_INFO, Buffer.alloc(100_000));
  assert.is(machine.push(long.subarray(0, 20)).state, 'more');
  assert.is(machine.push(Buffer.concat([long.subarray(20), GO_DISK])).state, 'transmission');
  assert.is(sent[0]!.readUInt32BE(12), nbd.NBD_REP_ERR_TOO_BIG);
  const other = handshake().machine;
  other.push(CLIENT_FLAGS);
  assert.equal(other.push(hex('49484156454f5054 00000006 ffffffff')), {
    state: 'closed',
    reason: 'option-too-long',
  });
});

test('an endless series of options ends', () => {
  const { machine } = handshake();
  machine.push(CLIENT_FLAGS);
  const list = o.emitOption(nbd.NBD_OPT_LIST);
  for (let i = 0; i < OPTION_COUNT_LIMIT; i++) assert.is(machine.push(list).state, 'more');
  assert.equal(machine.push(list), { state: 'closed', reason: 'too-many-options' });
});

test('malformed NBD_OPT_GO and NBD_OPT_SET_META_CONTEXT data is refused with NBD_REP_ERR_INVALID', () => {
  const go = o.emitInfoRequest({ exportName: 'disk', wanted: [3] });
  const meta = o.emitMetaContextRequest({ exportName: 'disk', queries: ['base:allocation'] });
  for (const [option, data] of [
    [nbd.NBD_OPT_GO, go],
    [nbd.NBD_OPT_INFO, go],
    [nbd.NBD_OPT_SET_META_CONTEXT, meta],
    [nbd.NBD_OPT_LIST_META_CONTEXT, meta],
  ] as const) {
    for (let cut = 0; cut < data.length; cut++) {
      const { machine, sent } = handshake();
      machine.push(CLIENT_FLAGS);
      machine.push(o.emitOption(nbd.NBD_OPT_STRUCTURED_REPLY));
      sent.length = 0;
      assert.is(machine.push(o.emitOption(option, data.subarray(0, cut))).state, 'more', `cut at ${cut}`);
      assert.is(sent[0]!.readUInt32BE(12), nbd.NBD_REP_ERR_INVALID, `option ${option} cut at ${cut}`);
    }
  }
  // More queries promised than there can be.
  assert.is(o.parseMetaContextRequest(hex('00000000 ffffffff')), undefined);
  assert.is(o.parseInfoRequest(Buffer.concat([go, Buffer.alloc(2)])), undefined, 'longer than it says');
  assert.is(o.parseInfoRequest(hex('00000001 ff 0000')), undefined, 'a name that is no UTF-8');
  assert.is(o.parseInfoRequest(hex('00000001 00 0000')), undefined, 'a name with NUL');
});

test(
  'every option over a socket',
  within(() =>
    withServer({ disk: device, 'second disk': new MemoryStore(512) }, async ({ peer }) => {
      const client = await peer();
      await client.greet();
      const types = async (option: number, data?: Uint8Array) =>
        (await client.option(option, data)).map((reply) => reply.type);
      const listed = await client.option(nbd.NBD_OPT_LIST);
      assert.equal(
        listed.slice(0, -1).map((reply) => o.parseServerEntry(reply.data)),
        ['disk', 'second disk'],
      );
      assert.equal(await types(nbd.NBD_OPT_LIST, Buffer.alloc(1)), [nbd.NBD_REP_ERR_INVALID]);
      assert.equal(await types(nbd.NBD_OPT_STARTTLS), [nbd.NBD_REP_ERR_UNSUP]);
      assert.equal(await types(nbd.NBD_OPT_PEEK_EXPORT), [nbd.NBD_REP_ERR_UNSUP]);
      assert.equal(await types(0x7fff_ffff), [nbd.NBD_REP_ERR_UNSUP]);
      const all = o.emitMetaContextRequest({ exportName: 'disk', queries: [] });
      assert.equal(await types(nbd.NBD_OPT_LIST_META_CONTEXT, all), [nbd.NBD_REP_ERR_INVALID], 'too early');
      assert.equal(await types(nbd.NBD_OPT_STRUCTURED_REPLY, Buffer.alloc(1)), [nbd.NBD_REP_ERR_INVALID]);
      assert.equal(await types(nbd.NBD_OPT_STRUCTURED_REPLY), [nbd.NBD_REP_ACK]);
      const contexts = await client.option(nbd.NBD_OPT_LIST_META_CONTEXT, all);
      assert.equal(o.parseMetaContext(contexts[0]!.data), { id: 0, name: 'base:allocation' });
      const base = o.emitMetaContextRequest({ exportName: 'disk', queries: ['base:', 'x-other:thing'] });
      assert.equal(await types(nbd.NBD_OPT_LIST_META_CONTEXT, base), [
        nbd.NBD_REP_META_CONTEXT,
        nbd.NBD_REP_ACK,
      ]);
      assert.equal(await types(nbd.NBD_OPT_SET_META_CONTEXT, base), [nbd.NBD_REP_ACK], 'no wildcard in SET');
      const nowhere = o.emitMetaContextRequest({ exportName: 'nothing', queries: [] });
      assert.equal(await types(nbd.NBD_OPT_SET_META_CONTEXT, nowhere), [nbd.NBD_REP_ERR_UNKNOWN]);
      const unknown = o.emitInfoRequest({ exportName: 'nothing', wanted: [] });
      assert.equal(await types(nbd.NBD_OPT_INFO, unknown), [nbd.NBD_REP_ERR_UNKNOWN]);
      assert.equal(await types(nbd.NBD_OPT_GO, unknown), [nbd.NBD_REP_ERR_UNKNOWN]);
      const info = o.emitInfoRequest({
        exportName: 'second disk',
        wanted: [nbd.NBD_INFO_NAME, nbd.NBD_INFO_BLOCK_SIZE, nbd.NBD_INFO_DESCRIPTION],
      });
      const infos = await client.option(nbd.NBD_OPT_INFO, info);
      assert.equal(
        infos.map((reply) => (reply.type === nbd.NBD_REP_INFO ? reply.data.readUInt16BE(0) : -1)),
        [nbd.NBD_INFO_EXPORT, nbd.NBD_INFO_BLOCK_SIZE, nbd.NBD_INFO_NAME, -1],
      );
      assert.is(infos[2]!.data.subarray(2).toString(), 'second disk');
      assert.equal(await types(nbd.NBD_OPT_ABORT), [nbd.NBD_REP_ACK]);
      await client.closed();
    }),
  ),
);

test(
  'the empty name means the only export, and none when there are two',
  within(async () => {
    await withServer({ disk: device }, async ({ peer }) => {
      assert.is((await (await peer()).go('')) & nbd.NBD_FLAG_HAS_FLAGS, nbd.NBD_FLAG_HAS_FLAGS);
    });
    await withServer({ a: device, b: device }, async ({ peer }) => {
      const client = await peer();
      await client.greet();
      const info = o.emitInfoRequest({ exportName: '', wanted: [] });
      assert.is((await client.option(nbd.NBD_OPT_GO, info))[0]!.type, nbd.NBD_REP_ERR_UNKNOWN);
    });
  }),
);

test(
  'contexts that were set for another export are not used',
  within(() =>
    withServer({ a: device, b: device }, async ({ peer }) => {
      const client = await peer();
      await client.greet();
      await client.option(nbd.NBD_OPT_STRUCTURED_REPLY);
      const request = { exportName: 'a', queries: ['base:allocation'] };
      await client.option(nbd.NBD_OPT_SET_META_CONTEXT, o.emitMetaContextRequest(request));
      await client.option(nbd.NBD_OPT_GO, o.emitInfoRequest({ exportName: 'b', wanted: [] }));
      client.request(nbd.NBD_CMD_BLOCK_STATUS, 0n, 512);
      assert.is(await client.error(), nbd.NBD_EINVAL);
    }),
  ),
);

test(
  'a client that says nothing is closed when its time is over',
  within(() =>
    withServer(
      { disk: device },
      async ({ peer, server }) => {
        const silent = await peer();
        const half = await peer();
        await half.greet();
        half.send(hex('49484156454f50'));
        await Promise.all([silent.closed(), half.closed()]);
        assert.is(server.counters()['ended-handshake-timeout'], 2);
      },
      { limits: { handshakeTimeoutMs: 60 } },
    ),
  ),
);

test(
  'connections beyond the limit are closed',
  within(() =>
    withServer(
      { disk: device },
      async ({ peer, server }) => {
        const first = await peer();
        await first.greet();
        await (await peer()).closed();
        assert.is(server.counters()['ended-too-many-connections'], 1);
        assert.is((await first.option(nbd.NBD_OPT_ABORT))[0]!.type, nbd.NBD_REP_ACK);
      },
      { maxConnections: 1 },
    ),
  ),
);

test.run();
