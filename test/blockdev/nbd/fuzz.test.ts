/** S11, seeded fuzz of both sides. 200 000 cases, 500 M with SOAK=1 or FUZZ=1, or NBD_FUZZ; SEED repeats a run. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { MemoryStore, NbdClient, NbdClientError } from '../../../src/blockdev/index.ts';
import { ClientHandshake } from '../../../src/blockdev/nbd/client-handshake.ts';
import type { ClientRequest } from '../../../src/blockdev/nbd/client-request.ts';
import * as o from '../../../src/blockdev/nbd/options.ts';
import * as nbd from '../../../src/blockdev/nbd/protocol.ts';
import { ReplyParser } from '../../../src/blockdev/nbd/reply-parser.ts';
import { ServerHandshake } from '../../../src/blockdev/nbd/server-handshake.ts';
import type { SeededRandom } from '../../../src/common/index.ts';
import { eventually, limitMs, SOAK, seeded, Trials, within } from '../../support/index.ts';
import type { Peer } from './peer.ts';
import { withServer } from './peer.ts';

const test = suite('blockdev/nbd/fuzz');

const IN_TEST = Number(process.env['NBD_FUZZ'] ?? 200_000);
const LIMIT_MS = limitMs(Math.max(60_000, IN_TEST * 10));
/** A part of all cases. */
const cases = (what: string, part: number) =>
  new Trials(`S11: ${what}`, Math.ceil(IN_TEST * part), SOAK ? 500_000_000 * part : 0);
const MIB = 1024 * 1024;

const pick = <T>(random: SeededRandom, from: readonly T[]): T => from[random.below(from.length)]!;

/** Numbers at which things go wrong. */
const EDGES = [
  0, 1, 2, 3, 7, 8, 27, 28, 0xff, 0x100, 0xffff, 0x1_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff,
];

/** A few bits, bytes or edge numbers changed, cut, doubled or torn out. */
function mutate(random: SeededRandom, bytes: Buffer): Buffer {
  let out = Buffer.from(bytes);
  for (let changes = random.below(4); changes > 0 && out.length > 0; changes--) {
    const at = random.below(out.length);
    switch (random.below(6)) {
      case 0:
        out[at] = out[at]! ^ (1 << random.below(8));
        break;
      case 1:
        out[at] = random.below(256);
        break;
      case 2:
        if (at + 4 <= out.length) out.writeUInt32BE(pick(random, EDGES), at);
        break;
      case 3:
        out = out.subarray(0, at);
        break;
      case 4:
        out = Buffer.concat([out.subarray(0, at), out.subarray(random.below(out.length))]);
        break;
      default:
        out = Buffer.concat([out, out.subarray(at)]);
    }
  }
  return out;
}

function randomOption(random: SeededRandom): Buffer {
  const name = pick(random, ['disk', '', 'nothing', 'x'.repeat(5000), 'd\0sk']);
  const queries = Array.from({ length: random.below(4) }, () =>
    pick(random, ['base:allocation', 'base:', '', ':', 'changeover:', 'x'.repeat(5000)]),
  );
  const option = random.below(14);
  switch (option) {
    case nbd.NBD_OPT_EXPORT_NAME:
      return o.emitOption(option, Buffer.from(name));
    case nbd.NBD_OPT_INFO:
    case nbd.NBD_OPT_GO: {
      const wanted = Array.from({ length: random.below(6) }, () => random.below(6));
      return o.emitOption(option, o.emitInfoRequest({ exportName: name, wanted }));
    }
    case nbd.NBD_OPT_LIST_META_CONTEXT:
    case nbd.NBD_OPT_SET_META_CONTEXT:
      return o.emitOption(option, o.emitMetaContextRequest({ exportName: name, queries }));
    default:
      return o.emitOption(option, random.fill(Buffer.alloc(random.below(3) * 40)));
  }
}

function randomHandshake(random: SeededRandom): Buffer {
  const flags = pick(random, [3, 3, 3, 1, 0, random.u32()]);
  const options = Array.from({ length: random.below(8) }, () => randomOption(random));
  return mutate(random, Buffer.concat([o.emitClientFlags(flags), ...options]));
}

/** Hands `bytes` over in pieces of random size. */
function inPieces(random: SeededRandom, bytes: Buffer, take: (piece: Buffer) => boolean): void {
  for (let at = 0; at < bytes.length; ) {
    const length = 1 + random.below(random.below(2) === 0 ? 8 : bytes.length);
    if (!take(bytes.subarray(at, at + length))) return;
    at += length;
  }
}

test(
  'server handshake: whatever comes, every answer is a whole option reply and the end is one of three',
  within(
    () =>
      seeded((random, seed) => {
        const device = new MemoryStore(MIB);
        const table = {
          names: () => ['disk'],
          find: (name: string) => (name === 'disk' || name === '' ? { name: 'disk', device } : undefined),
        };
        const states = { more: 0, closed: 0, transmission: 0 };
        const trials = cases('handshakes at the server', 0.4);
        for (; trials.more; trials.count++) {
          const sent: Buffer[] = [];
          const machine = new ServerHandshake(table, (bytes) => sent.push(bytes));
          let state: keyof typeof states = 'more';
          inPieces(random, randomHandshake(random), (piece) => {
            const outcome = machine.push(piece);
            state = outcome.state;
            if (outcome.state === 'transmission') assert.is(outcome.negotiated.device, device);
            return state === 'more';
          });
          states[state]++;
          const output = Buffer.concat(sent);
          for (let at = 0; at < output.length; ) {
            assert.is(output.readBigUInt64BE(at), nbd.NBD_REP_MAGIC);
            at += 20 + output.readUInt32BE(at + 16);
            assert.ok(at <= output.length, 'a whole reply');
          }
        }
        for (const [state, count] of Object.entries(states)) assert.ok(count > 0, `never ended in ${state}`);
        trials.report(seed);
      }),
    LIMIT_MS,
  ),
);

const FLAGS = [0, 0, 0, 1, 2, 4, 8, 16, 0x1f, 0xffff];

function randomRequest(random: SeededRandom, extended: boolean): Buffer {
  const type = random.below(10) === 0 ? random.below(0x1_0000) : random.below(9);
  const length = pick(random, [...EDGES, 512, 4096, 65_536, 300_000]);
  const offset =
    random.below(4) === 0
      ? (BigInt(random.u32()) << 32n) | BigInt(random.u32())
      : BigInt(random.below(2 * MIB));
  const out = Buffer.alloc(extended ? nbd.EXTENDED_REQUEST_SIZE : nbd.REQUEST_SIZE);
  out.writeUInt32BE(extended ? nbd.NBD_EXTENDED_REQUEST_MAGIC : nbd.NBD_REQUEST_MAGIC, 0);
  const carries = extended ? random.below(3) > 0 : type === nbd.NBD_CMD_WRITE;
  out.writeUInt16BE(pick(random, FLAGS) | (extended && carries ? nbd.NBD_CMD_FLAG_PAYLOAD_LEN : 0), 4);
  out.writeUInt16BE(type, 6);
  out.writeBigUInt64BE(BigInt(random.u32()), 8);
  out.writeBigUInt64BE(offset, 16);
  out.writeUInt32BE(length, extended ? 28 : 24);
  if (extended && random.below(30) === 0) out.writeUInt32BE(random.u32(), 24);
  if (!carries || length > 400_000) return out;
  return Buffer.concat([out, Buffer.alloc(length, random.below(256))]);
}

test(
  'server over sockets: handshakes and requests of any kind; a good client is served all the while',
  within(
    () =>
      seeded(async (random, seed) => {
        await withServer(
          { good: new MemoryStore(MIB), disk: new MemoryStore(MIB) },
          async ({ peer, path, server }) => {
            const good = await NbdClient.connect(path, 'good');
            const block = Buffer.alloc(4096);
            const served = async (round: number) => {
              block.writeUInt32BE(round, 0);
              const at = BigInt((round % 256) * 4096);
              await good.writeAt(block, at);
              const back = Buffer.alloc(4096);
              await good.readAt(back, at);
              assert.ok(back.equals(block), `the good client's block ${round}`);
            };
            const wild = async (bytes: Buffer, prepare: (client: Peer) => Promise<unknown>) => {
              const client = await peer();
              await prepare(client);
              inPieces(random, bytes, (piece) => {
                client.send(piece);
                return true;
              });
              client.end();
              await client.closed();
            };
            const requests = cases('requests over sockets', 0.35);
            const perConnection = 25;
            let round = 0;
            for (; requests.more; requests.count += 4 * perConnection) {
              const lanes = Array.from({ length: 4 }, () => {
                const structured = pick(random, [false, true, 'extended'] as const);
                const series = Array.from({ length: perConnection }, () => {
                  const request = randomRequest(random, structured === 'extended');
                  return random.below(60) === 0 ? mutate(random, request) : request;
                });
                return wild(Buffer.concat(series), (client) =>
                  client.go('disk', structured, structured === false ? [] : [nbd.BASE_ALLOCATION]),
                );
              });
              await Promise.all([...lanes, served(round++)]);
            }
            const handshakes = cases('handshakes over sockets', 0.05);
            for (; handshakes.more; handshakes.count += 4) {
              const lanes = Array.from({ length: 4 }, () => wild(randomHandshake(random), async () => {}));
              await Promise.all([...lanes, served(round++)]);
            }
            await eventually('all of them gone', () => server.connections === 1);
            const counters = server.counters();
            for (const kind of [
              'reads',
              'writes',
              'trims',
              'writeZeroes',
              'blockStatus',
              'caches',
              'flushes',
            ]) {
              assert.ok(counters[kind]! > 0, `${kind} were reached`);
            }
            assert.is(good.reconnects, 0);
            await good.close();
            requests.report(seed, `the good client served ${round} times`);
            handshakes.report(seed);
          },
        );
      }),
    LIMIT_MS,
  ),
);

test(
  'client: replies of any kind end in an answer or EPROTO',
  within(
    () =>
      seeded((random, seed) => {
        let broken = 0;
        let answered = 0;
        const trials = cases('replies at the client', 0.15);
        for (; trials.more; trials.count++) {
          const structured = random.below(4) > 0;
          const extended = structured && random.below(2) === 0;
          const request = {
            type: nbd.NBD_CMD_READ,
            flags: 0,
            offset: 4096n,
            length: 1024,
            payload: undefined,
            target: Buffer.alloc(1024),
            status: random.below(4) === 0 ? new Map() : undefined,
            answered: 0,
            error: 0,
            errorText: '',
          } as unknown as ClientRequest;
          const parser = new ReplyParser(
            {
              find: (cookie) => (cookie < 3n ? request : undefined),
              answered: () => {
                answered++;
                Object.assign(request, { answered: 0, coverage: undefined, error: 0 });
                request.status?.clear();
              },
            },
            { structuredReplies: structured, extendedHeaders: extended },
          );
          const bytes = mutate(
            random,
            Buffer.concat(Array.from({ length: 3 }, () => randomReply(random, structured, extended))),
          );
          try {
            inPieces(random, bytes, (piece) => {
              parser.push(piece);
              return true;
            });
          } catch (error) {
            if (!(error instanceof NbdClientError) || error.code !== 'EPROTO') throw error;
            broken++;
          }
        }
        assert.ok(broken > 0 && answered > 0, `${broken} broken, ${answered} answered`);
        trials.report(seed);
      }),
    LIMIT_MS,
  ),
);

function randomReply(random: SeededRandom, structured: boolean, extended: boolean): Buffer {
  const cookie = Buffer.alloc(8);
  cookie[7] = random.below(4);
  if (!structured || random.below(8) === 0) {
    const head = Buffer.alloc(8);
    head.writeUInt32BE(nbd.NBD_SIMPLE_REPLY_MAGIC, 0);
    const error = random.below(3) === 0 ? nbd.NBD_EIO : 0;
    head.writeUInt32BE(error, 4);
    return Buffer.concat([head, cookie, Buffer.alloc(error === 0 ? 1024 : 0)]);
  }
  const offset = Buffer.alloc(8);
  offset.writeBigUInt64BE(4096n + BigInt(random.below(2) * 512), 0);
  const number = (value: number) => {
    const out = Buffer.alloc(4);
    out.writeUInt32BE(value, 0);
    return out;
  };
  const [type, payload] = pick(random, [
    [nbd.NBD_REPLY_TYPE_NONE, Buffer.alloc(0)],
    [nbd.NBD_REPLY_TYPE_OFFSET_DATA, Buffer.concat([offset, Buffer.alloc(1024, 1)])],
    [nbd.NBD_REPLY_TYPE_OFFSET_DATA, Buffer.concat([offset, Buffer.alloc(512, 1)])],
    [nbd.NBD_REPLY_TYPE_OFFSET_HOLE, Buffer.concat([offset, number(1024)])],
    [nbd.NBD_REPLY_TYPE_BLOCK_STATUS, Buffer.concat([number(1), number(1024), number(3)])],
    [
      nbd.NBD_REPLY_TYPE_BLOCK_STATUS_EXT,
      Buffer.concat([number(1), number(1), number(0), number(1024), number(0), number(3)]),
    ],
    [nbd.NBD_REPLY_TYPE_ERROR_OFFSET, Buffer.concat([number(5), Buffer.alloc(2), offset])],
    [nbd.NBD_REPLY_TYPE_ERROR, Buffer.concat([number(5), Buffer.from([0, 2, 0x6e, 0x6f])])],
  ] as const);
  const head = Buffer.alloc(8);
  head.writeUInt32BE(extended ? nbd.NBD_EXTENDED_REPLY_MAGIC : nbd.NBD_STRUCTURED_REPLY_MAGIC, 0);
  head.writeUInt16BE(random.below(4) > 0 ? nbd.NBD_REPLY_FLAG_DONE : 0, 4);
  head.writeUInt16BE(type, 6);
  const wide = extended ? [number(0), number(4096), number(0)] : [];
  return Buffer.concat([head, cookie, ...wide, number(payload.length), payload]);
}

test(
  'client handshake: a server that says anything ends it or waits, with a typed error at worst',
  within(
    () =>
      seeded((random, seed) => {
        const whole = Buffer.concat([
          o.emitGreeting(3),
          o.emitOptionReply(nbd.NBD_OPT_STRUCTURED_REPLY, nbd.NBD_REP_ACK),
          o.emitOptionReply(
            nbd.NBD_OPT_SET_META_CONTEXT,
            nbd.NBD_REP_META_CONTEXT,
            o.emitMetaContext(1, nbd.BASE_ALLOCATION),
          ),
          o.emitOptionReply(nbd.NBD_OPT_SET_META_CONTEXT, nbd.NBD_REP_ACK),
          o.emitOptionReply(nbd.NBD_OPT_GO, nbd.NBD_REP_INFO, o.emitInfoExport(512n, 1)),
          o.emitOptionReply(nbd.NBD_OPT_GO, nbd.NBD_REP_ACK),
        ]);
        const ends = new Map<string, number>();
        const trials = cases('handshakes at the client', 0.05);
        for (; trials.more; trials.count++) {
          const machine = new ClientHandshake('disk', [nbd.BASE_ALLOCATION], () => {});
          let end = 'waiting';
          try {
            inPieces(random, mutate(random, whole), (piece) => {
              if (machine.push(Buffer.from(piece)) === undefined) return true;
              end = 'done';
              return false;
            });
          } catch (error) {
            if (!(error instanceof NbdClientError)) throw error;
            end = error.code;
          }
          ends.set(end, (ends.get(end) ?? 0) + 1);
        }
        for (const end of ends.keys())
          assert.ok(['waiting', 'done', 'EPROTO', 'EACCES', 'ENOENT', 'ECONNREFUSED'].includes(end), end);
        assert.ok(ends.has('done') && ends.has('EPROTO'));
        trials.report(seed);
      }),
    LIMIT_MS,
  ),
);

test.run();
