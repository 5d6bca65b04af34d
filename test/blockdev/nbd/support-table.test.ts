/**
 * The table in docs/nbd.md against server and client: every name of protocol.ts has one row with its number, and the first
 * word of each cell is what a probe finds.
 */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Device } from '../../../src/blockdev/index.ts';
import {
  DEVICE_ERRNOS,
  FilterDevice,
  listNbdExports,
  MemoryStore,
  NbdClient,
  NbdClientError,
  ReadOnlyFilter,
} from '../../../src/blockdev/index.ts';
import { deviceErrnoOf } from '../../../src/blockdev/nbd/errno.ts';
import * as o from '../../../src/blockdev/nbd/options.ts';
import * as nbd from '../../../src/blockdev/nbd/protocol.ts';
import { within } from '../../support/index.ts';
import type { Peer } from './peer.ts';
import { withServer } from './peer.ts';
import type { Asked, Script } from './script.ts';
import { chunkOf, scripted } from './script.ts';
import { failure, SlowDevice } from './slow-device.ts';

const test = suite('blockdev/nbd/support-table');
const MIB = 1024 * 1024;
const text = readFileSync(resolve(import.meta.dirname, '../../../docs/nbd.md'), 'utf8');

interface Row {
  readonly name: string;
  readonly number: string;
  readonly server: boolean;
  readonly client: boolean;
}
const rows: Row[] = [
  ...text.matchAll(/^\| `(\w+)` \| ([^|]+) \| (yes|no)\b[^|]* \| (yes|no)\b[^|]* \| [^|]+ \|$/gm),
].map(([, name, number, server, client]) => ({
  name: name!,
  number: number!,
  server: server === 'yes',
  client: client === 'yes',
}));

/** Constants that are names of the specification, not sizes, magics or limits. */
const KINDS =
  /^(NBD_FLAG_|NBD_OPT_|NBD_REP_(?!MAGIC|FLAG)|NBD_INFO_|NBD_CMD_|NBD_REPLY_(?!TYPE_ERROR_BIT)|NBD_E(?!XT)|NBD_STATE_|WRITTEN_SINCE|BASE_)/;
const constants = Object.entries(nbd).filter(([name]) => KINDS.test(name));

/** The names of `prefix` (that do not match `but`) whose number is in `found`. */
const namesOf = (prefix: string, found: Iterable<number>, but?: RegExp): string[] => {
  const numbers = new Set(found);
  return constants
    .filter(([name, value]) => name.startsWith(prefix) && !but?.test(name) && numbers.has(value as number))
    .map(([name]) => name)
    .sort();
};
const saidOf = (side: 'server' | 'client', prefix: string, but?: RegExp): string[] =>
  rows
    .filter((row) => row.name.startsWith(prefix) && !but?.test(row.name) && row[side])
    .map(({ name }) => name)
    .sort();
const bits = (flags: number): number[] =>
  Array.from({ length: 16 }, (_, i) => flags & (1 << i)).filter(Boolean);

test('has one row for each name of the specification, with its number', () => {
  assert.ok(constants.length > 80, `${constants.length} names`);
  assert.equal(rows.map(({ name }) => name).sort(), constants.map(([name]) => name).sort());
  for (const { name, number } of rows) {
    const [, bit] = /^bit (\d+)$/.exec(number) ?? [];
    const [, power, plus] = /^2\^(\d+) \+ (\d+)$/.exec(number) ?? [];
    const value =
      bit !== undefined
        ? 2 ** Number(bit)
        : power !== undefined
          ? 2 ** Number(power) + Number(plus)
          : /^\d+$/.test(number)
            ? Number(number)
            : number;
    assert.is(value, (nbd as Record<string, unknown>)[name], name);
  }
});

const both = (): Device =>
  Object.assign(new FilterDevice(new MemoryStore(MIB)), {
    writtenSince: async (offset: bigint, length: bigint) => [{ offset, length, written: true }],
  });
const CONTEXTS = [nbd.BASE_ALLOCATION, nbd.WRITTEN_SINCE];
const TRANSMISSION = /^NBD_FLAG_(C_|FIXED_NEWSTYLE|NO_ZEROES)/;

test(
  'server: handshake, options, replies and information are what the table says',
  within(() =>
    withServer({ disk: both() }, async ({ peer, server }) => {
      const options = new Set<number>();
      const replies = new Set<number>();
      const infos = new Set<number>();
      const info = o.emitInfoRequest({ exportName: 'disk', wanted: [0, 1, 2, 3, 4, 5] });
      const contexts = o.emitMetaContextRequest({ exportName: 'disk', queries: CONTEXTS });
      const dataOf = (option: number): Buffer => {
        if (option === nbd.NBD_OPT_INFO || option === nbd.NBD_OPT_GO) return info;
        if (option === nbd.NBD_OPT_LIST_META_CONTEXT || option === nbd.NBD_OPT_SET_META_CONTEXT)
          return contexts;
        return Buffer.alloc(0);
      };
      const ask = async (client: Peer, option: number, data: Buffer) => {
        for (const reply of await client.option(option, data)) {
          replies.add(reply.type);
          if (reply.type === nbd.NBD_REP_INFO) infos.add(reply.data.readUInt16BE(0));
          if (reply.type !== nbd.NBD_REP_ERR_UNSUP) options.add(option);
        }
      };
      let flags = 0;
      for (let option = 2; option < 20; option++) {
        const client = await peer();
        flags = (await client.take(nbd.GREETING_SIZE)).readUInt16BE(16);
        client.send(o.emitClientFlags(3));
        await client.option(nbd.NBD_OPT_STRUCTURED_REPLY);
        await ask(client, option, dataOf(option));
      }
      assert.equal(namesOf('NBD_FLAG_', bits(flags), /^NBD_FLAG_(?!FIXED|NO_ZEROES)/), [
        'NBD_FLAG_FIXED_NEWSTYLE',
        'NBD_FLAG_NO_ZEROES',
      ]);
      const old = await peer();
      await old.greet(3);
      old.send(o.emitOption(nbd.NBD_OPT_EXPORT_NAME, Buffer.from('disk')));
      if ((await old.take(10)).readBigUInt64BE(0) === BigInt(MIB)) options.add(nbd.NBD_OPT_EXPORT_NAME);
      const odd = await peer();
      await odd.greet();
      await ask(odd, nbd.NBD_OPT_LIST, Buffer.alloc(1));
      await ask(odd, nbd.NBD_OPT_INFO, Buffer.alloc(70_000));
      await ask(odd, nbd.NBD_OPT_INFO, o.emitInfoRequest({ exportName: 'nothing', wanted: [] }));
      await ask(odd, nbd.NBD_OPT_EXTENDED_HEADERS, Buffer.alloc(0));
      await ask(odd, nbd.NBD_OPT_STRUCTURED_REPLY, Buffer.alloc(0));
      const closed = server.close();
      await ask(odd, nbd.NBD_OPT_INFO, info);
      await closed;
      assert.equal(saidOf('server', 'NBD_OPT_'), namesOf('NBD_OPT_', options));
      assert.equal(saidOf('server', 'NBD_REP_'), namesOf('NBD_REP_', replies));
      assert.equal(saidOf('server', 'NBD_INFO_'), namesOf('NBD_INFO_', infos));
      for (const name of ['FIXED_NEWSTYLE', 'NO_ZEROES', 'C_FIXED_NEWSTYLE', 'C_NO_ZEROES']) {
        assert.ok(saidOf('server', `NBD_FLAG_${name}`).length === 1, name);
      }
    }),
  ),
);

test(
  'server: transmission flags, commands, their flags, chunks, errors and contexts are what the table says',
  within(async () => {
    const slow = new SlowDevice(new MemoryStore(MIB));
    const disks = { disk: both(), fixed: new ReadOnlyFilter(new MemoryStore(MIB)), slow };
    await withServer(disks, async ({ peer }) => {
      let transmission = 0;
      for (const name of Object.keys(disks)) {
        for (const headers of [false, true, 'extended'] as const) {
          transmission |= await (await peer()).go(name, headers, headers === false ? [] : CONTEXTS);
        }
      }
      assert.equal(
        saidOf('server', 'NBD_FLAG_', TRANSMISSION),
        namesOf('NBD_FLAG_', bits(transmission), TRANSMISSION),
      );
      const types = new Set<number>();
      const errors = new Set<number>();
      const states = new Map<number, number>();
      let done = false;
      const client = await peer();
      await client.go('disk', 'extended', CONTEXTS);
      const answer = async (from = client): Promise<number> => {
        for (;;) {
          const chunk = await from.extendedChunk();
          types.add(chunk.type);
          if (chunk.type === nbd.NBD_REPLY_TYPE_BLOCK_STATUS_EXT) {
            const id = chunk.payload.readUInt32BE(0);
            for (let at = 20; at < chunk.payload.length; at += 16) {
              states.set(id, (states.get(id) ?? 0) | chunk.payload.readUInt32BE(at));
            }
          }
          if ((chunk.flags & nbd.NBD_REPLY_FLAG_DONE) === 0) continue;
          done = true;
          const error = (chunk.type & nbd.NBD_REPLY_TYPE_ERROR_BIT) === 0 ? 0 : chunk.payload.readUInt32BE(0);
          if (error !== 0) errors.add(error);
          return error;
        }
      };
      const ask = (type: number, flags = 0, length = 512, from = client): Promise<number> => {
        const carries = type === nbd.NBD_CMD_WRITE || (flags & nbd.NBD_CMD_FLAG_PAYLOAD_LEN) !== 0;
        const payload = carries ? Buffer.alloc(length) : undefined;
        from.extended(type, 0n, BigInt(type === nbd.NBD_CMD_FLUSH ? 0 : length), flags, 1n, payload);
        return answer(from);
      };
      const commands: number[] = [];
      for (let type = 0; type < 16; type++) {
        if (type !== nbd.NBD_CMD_DISC && (await ask(type, 0, 300_000)) === 0) commands.push(type);
      }
      const carriers = [0, 1, 6, 7].flatMap((type) =>
        [0, 1, 2, 3, 4, 5].map((bit) => [type, 1 << bit] as const),
      );
      const accepted = new Set<number>();
      for (const [type, flag] of carriers) if ((await ask(type, flag)) === 0) accepted.add(flag);
      // Of the contexts, what is known to be zero and what was written.
      assert.equal(
        [...states],
        [
          [1, nbd.NBD_STATE_HOLE | nbd.NBD_STATE_ZERO],
          [2, nbd.WRITTEN_SINCE_WRITTEN],
        ],
      );
      await ask(nbd.NBD_CMD_READ, 0, 0);
      await ask(nbd.NBD_CMD_WRITE, 0, 2 * MIB);
      const broken = await peer();
      await broken.go('slow', 'extended');
      for (const code of DEVICE_ERRNOS) {
        slow.failWith = failure(code);
        for (const type of [
          nbd.NBD_CMD_READ,
          nbd.NBD_CMD_WRITE_ZEROES,
          nbd.NBD_CMD_TRIM,
          nbd.NBD_CMD_FLUSH,
        ]) {
          await ask(type, 0, 512, broken);
        }
        await ask(nbd.NBD_CMD_WRITE_ZEROES, nbd.NBD_CMD_FLAG_FAST_ZERO, 512, broken);
      }
      const structured = await peer();
      await structured.go('disk', true, CONTEXTS);
      structured.request(nbd.NBD_CMD_BLOCK_STATUS, 0n, 512);
      types.add((await structured.chunk()).type);
      client.extended(nbd.NBD_CMD_DISC, 0n, 0n);
      await client.closed();
      commands.push(nbd.NBD_CMD_DISC);
      assert.equal(saidOf('server', 'NBD_CMD_', /FLAG/), namesOf('NBD_CMD_', commands, /FLAG/));
      assert.equal(saidOf('server', 'NBD_CMD_FLAG_'), namesOf('NBD_CMD_FLAG_', accepted));
      assert.equal(saidOf('server', 'NBD_REPLY_TYPE_'), namesOf('NBD_REPLY_TYPE_', types));
      assert.equal(saidOf('server', 'NBD_E'), namesOf('NBD_E', errors));
      assert.equal(saidOf('server', 'NBD_REPLY_FLAG_').length, done ? 1 : 0);
      assert.equal([saidOf('server', 'NBD_STATE_').length, saidOf('server', 'WRITTEN').length], [2, 2]);
      assert.is(saidOf('server', 'BASE_').length, 1);
    });
  }, 20_000),
);

/** Answers whatever is asked with success, in chunks. */
const answering =
  (extended: boolean): NonNullable<Script['request']> =>
  (socket, asked) => {
    const number = (value: bigint, length: number) => {
      const out = Buffer.alloc(length);
      out.writeBigUInt64BE(value, length - 8);
      return out;
    };
    const id = Buffer.from([0, 0, 0, 9]);
    const reply = (type: number, ...parts: Buffer[]) =>
      socket.write(chunkOf(asked, type, Buffer.concat(parts), { extended }));
    if (asked.type === nbd.NBD_CMD_READ) {
      reply(nbd.NBD_REPLY_TYPE_OFFSET_DATA, number(asked.offset, 8), Buffer.alloc(Number(asked.length)));
    } else if (asked.type === nbd.NBD_CMD_BLOCK_STATUS) {
      if (extended) {
        const head = Buffer.concat([id, Buffer.from([0, 0, 0, 1])]);
        reply(nbd.NBD_REPLY_TYPE_BLOCK_STATUS_EXT, head, number(asked.length, 8), number(3n, 8));
      } else {
        const run = number(asked.length << 32n, 8);
        run.writeUInt32BE(3, 4);
        reply(nbd.NBD_REPLY_TYPE_BLOCK_STATUS, id, run);
      }
    } else reply(nbd.NBD_REPLY_TYPE_NONE);
  };

/** Does with a client all that a device can do; failures are results, too. */
async function exercise(client: NbdClient): Promise<string[]> {
  const results = [JSON.stringify(client.capabilities), `${client.connections} connections`];
  for (const work of [
    () => client.readAt(Buffer.alloc(512), 0n),
    () => client.writeAt(Buffer.alloc(512), 0n, { fua: true }),
    () => client.writeZeroes(0n, 512n, { fua: true, noHole: true }),
    () => client.writeZeroes(0n, 512n, { fast: true }),
    () => client.trim(0n, 512n, { fua: true }),
    () => client.flush(),
    () => client.extents(0n, 512n),
  ]) {
    results.push(
      await work().then(
        (value) => JSON.stringify(value, (_, v) => (typeof v === 'bigint' ? `${v}` : v)) ?? 'done',
        (error: Error) => error.message.replace(/ at \S+/, ''),
      ),
    );
  }
  await client.close();
  return results;
}

const ALL_FLAGS = 0x1fff & ~nbd.NBD_FLAG_READ_ONLY;

test(
  'client: options, information, commands and their flags are what the table says',
  within(async () => {
    const options = new Set<number>();
    const infos = new Set([nbd.NBD_INFO_EXPORT]);
    const requests: Asked[] = [];
    const noting = (script: Script): Script => ({
      ...script,
      option: (socket, option, data) => {
        options.add(option);
        if (option === nbd.NBD_OPT_GO || option === nbd.NBD_OPT_INFO) {
          for (const info of o.parseInfoRequest(data)!.wanted) infos.add(info);
        }
        return script.option?.(socket, option, data) ?? false;
      },
    });
    for (const extendedHeaders of [false, true]) {
      const script = { flags: ALL_FLAGS, request: answering(extendedHeaders) };
      await scripted(noting(script), async (path, said) => {
        await exercise(await NbdClient.connect(path, 'disk', { extendedHeaders }));
        requests.push(...said.requests);
        assert.equal(namesOf('NBD_FLAG_C_', bits(said.clientFlags)), saidOf('client', 'NBD_FLAG_C_'));
      });
    }
    const refusing = (refused: number): Script => ({
      option: (socket, option) => {
        if (option !== nbd.NBD_OPT_GO) return false;
        socket.write(o.emitOptionReply(option, refused));
        return true;
      },
    });
    await scripted(noting(refusing(nbd.NBD_REP_ERR_UNSUP)), async (path) => {
      await (await NbdClient.connect(path, 'disk')).close();
    });
    const listing: Script = {
      option: (socket, option) => {
        if (option !== nbd.NBD_OPT_LIST) return false;
        socket.write(o.emitOptionReply(option, nbd.NBD_REP_SERVER, o.emitServerEntry('disk')));
        return false;
      },
    };
    await scripted(noting(listing), async (path) => {
      assert.is((await listNbdExports(path)).length, 1);
    });
    assert.equal(saidOf('client', 'NBD_OPT_'), namesOf('NBD_OPT_', options));
    assert.equal(saidOf('client', 'NBD_INFO_'), namesOf('NBD_INFO_', infos));
    const commands = requests.map(({ type }) => type);
    const flags = requests.flatMap((request) => bits(request.flags));
    assert.equal(saidOf('client', 'NBD_CMD_', /FLAG/), namesOf('NBD_CMD_', commands, /FLAG/));
    assert.equal(saidOf('client', 'NBD_CMD_FLAG_'), namesOf('NBD_CMD_FLAG_', flags));
    // Replies of the handshake: those of success were used above, each error is a typed one.
    const known = [nbd.NBD_REP_ACK, nbd.NBD_REP_SERVER, nbd.NBD_REP_INFO, nbd.NBD_REP_META_CONTEXT];
    for (let error = nbd.NBD_REP_ERR_UNSUP; error <= nbd.NBD_REP_ERR_EXT_HEADER_REQD; error++) {
      await scripted(refusing(error), async (path) => {
        const outcome = await NbdClient.connect(path, 'disk').catch((thrown: unknown) => thrown);
        if (outcome instanceof NbdClient) await outcome.close();
        else assert.ok(outcome instanceof NbdClientError && outcome.code !== 'EPROTO');
        known.push(error);
      });
    }
    assert.equal(saidOf('client', 'NBD_REP_'), namesOf('NBD_REP_', known));
  }, 20_000),
);

test(
  'client: a transmission flag that the table says it uses makes a difference, the others make none',
  within(async () => {
    const used: number[] = [];
    const signature = async (flags: number): Promise<string> => {
      let found = '';
      await scripted({ flags, request: answering(false) }, async (path, said) => {
        const results = await exercise(await NbdClient.connect(path, 'disk', { connections: 2 }));
        found = JSON.stringify([results, said.requests.map(({ type, flags }) => [type, flags])]);
      });
      return found;
    };
    // FAST_ZERO goes with WRITE_ZEROES, so that both are offered to begin with.
    for (let bit = 0; bit < 13; bit++) {
      const flag = 1 << bit;
      const base = flag === nbd.NBD_FLAG_SEND_FAST_ZERO ? nbd.NBD_FLAG_SEND_WRITE_ZEROES : 0;
      if ((await signature(base)) !== (await signature(base | flag))) used.push(flag);
    }
    assert.equal(saidOf('client', 'NBD_FLAG_', TRANSMISSION), namesOf('NBD_FLAG_', used, TRANSMISSION));
    // Of the handshake: without fixed newstyle there is no connection; without NO_ZEROES the client does not set its own.
    await scripted({ handshakeFlags: 0 }, async (path) => {
      const outcome = await NbdClient.connect(path, 'disk').catch((error: NbdClientError) => error.code);
      assert.is(outcome, 'EPROTO');
    });
    await scripted({ handshakeFlags: nbd.NBD_FLAG_FIXED_NEWSTYLE }, async (path, said) => {
      await (await NbdClient.connect(path, 'disk')).close();
      assert.is(said.clientFlags, nbd.NBD_FLAG_C_FIXED_NEWSTYLE);
    });
    assert.equal(
      [saidOf('client', 'NBD_FLAG_FIXED').length, saidOf('client', 'NBD_FLAG_NO_ZEROES').length],
      [1, 1],
    );
  }, 20_000),
);

test(
  'client: chunks, errors and contexts are what the table says',
  within(async () => {
    const payloads: Record<number, [Buffer, boolean]> = {
      [nbd.NBD_REPLY_TYPE_NONE]: [Buffer.alloc(0), false],
      [nbd.NBD_REPLY_TYPE_OFFSET_DATA]: [Buffer.alloc(8 + 512), false],
      [nbd.NBD_REPLY_TYPE_OFFSET_HOLE]: [Buffer.from('000000000000000000000200', 'hex'), false],
      [nbd.NBD_REPLY_TYPE_BLOCK_STATUS]: [Buffer.from('000000090000020000000003', 'hex'), false],
      [nbd.NBD_REPLY_TYPE_BLOCK_STATUS_EXT]: [
        Buffer.from('000000090000000100000000000002000000000000000003', 'hex'),
        true,
      ],
      [nbd.NBD_REPLY_TYPE_ERROR]: [Buffer.from('000000050000', 'hex'), false],
      [nbd.NBD_REPLY_TYPE_ERROR_OFFSET]: [Buffer.from('0000000500000000000000000000', 'hex'), false],
    };
    const understood: number[] = [];
    for (const [type, [payload, extended]] of Object.entries(payloads)) {
      const request = (socket: { write(bytes: Buffer): unknown }, asked: Asked) =>
        socket.write(chunkOf(asked, Number(type), payload, { extended }));
      await scripted({ flags: nbd.NBD_FLAG_SEND_FLUSH, request }, async (path) => {
        const client = await NbdClient.connect(path, 'disk', { extendedHeaders: extended });
        const status = /BLOCK_STATUS/.test(namesOf('NBD_REPLY_TYPE_', [Number(type)]).join());
        const read = () => client.readAt(Buffer.alloc(512), 0n);
        const work =
          Number(type) === nbd.NBD_REPLY_TYPE_NONE
            ? client.flush()
            : status
              ? client.extents(0n, 512n)
              : read();
        await work.catch(() => {});
        if (client.state === 'connected' && client.reconnects === 0) understood.push(Number(type));
        await client.close();
      });
    }
    assert.equal(saidOf('client', 'NBD_REPLY_TYPE_'), namesOf('NBD_REPLY_TYPE_', understood));
    const errors = Array.from({ length: 200 }, (_, i) => i).filter(
      (number) => number === nbd.NBD_EINVAL || deviceErrnoOf(number, false) !== 'EINVAL',
    );
    assert.equal(saidOf('client', 'NBD_E'), namesOf('NBD_E', errors));
    await withServer({ disk: both() }, async ({ path }) => {
      const client = await NbdClient.connect(path, 'disk');
      const [extent] = await client.extents(0n, 512n);
      const [written] = await client.writtenSince!(0n, 512n);
      assert.equal([extent!.hole, extent!.zero, written!.written], [true, true, true]);
      await client.close();
    });
    assert.equal(
      [
        saidOf('client', 'NBD_STATE_').length,
        saidOf('client', 'WRITTEN').length,
        saidOf('client', 'BASE_').length,
      ],
      [2, 2, 1],
    );
    assert.is(saidOf('client', 'NBD_REPLY_FLAG_').length, 1);
  }, 20_000),
);

test.run();
