/** What a client does about a server that is slow, odd, going, or against it. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { DeviceError } from '../../../src/blockdev/index.ts';
import { NbdClient } from '../../../src/blockdev/index.ts';
import * as o from '../../../src/blockdev/nbd/options.ts';
import * as nbd from '../../../src/blockdev/nbd/protocol.ts';
import { ReadCoverage } from '../../../src/blockdev/nbd/read-coverage.ts';
import { eventually, seeded, within } from '../../support/index.ts';
import { hex } from './peer.ts';
import type { Asked } from './script.ts';
import { chunkOf, dataChunk, errorChunk, scripted } from './script.ts';

const test = suite('blockdev/nbd/hostile-server');

const MIB = 1024 * 1024;

async function failureOf(work: Promise<unknown>): Promise<DeviceError> {
  try {
    await work;
  } catch (error) {
    return error as DeviceError;
  }
  throw new Error('nothing failed');
}
const codeOf = async (work: Promise<unknown>): Promise<string> => (await failureOf(work)).code;

const pattern = (offset: bigint, length: number) =>
  Buffer.from(Array.from({ length }, (_, i) => (Number(offset) + i) * 7));

test(
  'chunks of a read in any order and of any size are put together',
  within(() =>
    seeded((random) =>
      scripted(
        {
          request: (socket, asked) => {
            const cuts = [0, Number(asked.length)];
            for (let i = random.below(9); i > 0; i--) cuts.push(random.below(Number(asked.length)));
            const ends = [...new Set(cuts)].sort((a, b) => a - b);
            const chunks = ends.slice(1).map((end, i) => [ends[i]!, end] as const);
            for (let i = chunks.length - 1; i > 0; i--) {
              const j = random.below(i + 1);
              [chunks[i], chunks[j]] = [chunks[j]!, chunks[i]!];
            }
            for (const [start, end] of chunks) {
              const at = asked.offset + BigInt(start);
              socket.write(dataChunk(asked, at, pattern(at, end - start), false));
            }
            socket.write(chunkOf(asked, nbd.NBD_REPLY_TYPE_NONE, Buffer.alloc(0)));
          },
        },
        async (path) => {
          const client = await NbdClient.connect(path, 'disk');
          for (let round = 0; round < 200; round++) {
            const length = 1 + random.below(4000);
            const offset = BigInt(random.below(MIB - length));
            const target = Buffer.alloc(length, 0xee);
            await client.readAt(target, offset);
            assert.ok(target.equals(pattern(offset, length)), `${length} bytes at ${offset}`);
          }
          assert.is(client.reconnects, 0);
          await client.close();
        },
      ),
    ),
  ),
);

test('coverage of a read: every byte once, against a model; too many runs are refused', () =>
  seeded((random) => {
    for (let round = 0; round < 300; round++) {
      const first = random.below(3) * 10;
      const coverage = new ReadCoverage(first);
      const model = new Uint8Array(200).fill(1, 0, first);
      for (let i = 0; i < 60; i++) {
        const start = random.below(200);
        const end = start + 1 + random.below(Math.min(30, 200 - start));
        const free = !model.subarray(start, end).includes(1);
        assert.is(coverage.add(start, end), free, `[${start}, ${end}) in round ${round}`);
        if (free) model.fill(1, start, end);
      }
    }
    const scattered = new ReadCoverage(0);
    let runs = 0;
    while (scattered.add(2 * runs, 2 * runs + 1)) runs++;
    assert.is(runs, 16_384);
    assert.ok(scattered.add(1, 2), 'what joins two is still taken');
  }));

/** Answers to a read of 512 bytes at 1024 (or a block status of it) that no correct server sends. */
const BREACHES: Readonly<Record<string, (asked: Asked) => Buffer>> = {
  'one half twice, as many bytes as were asked': (asked) =>
    Buffer.concat([
      dataChunk(asked, 1024n, Buffer.alloc(256, 1), false),
      dataChunk(asked, 1024n, Buffer.alloc(256, 2), true),
    ]),
  'a chunk over the end of an earlier one': (asked) =>
    Buffer.concat([
      dataChunk(asked, 1280n, Buffer.alloc(256, 1), false),
      dataChunk(asked, 1152n, Buffer.alloc(256, 2), true),
    ]),
  'a chunk before its request': (asked) => dataChunk(asked, 1023n, Buffer.alloc(512), true),
  'a chunk behind its request': (asked) => dataChunk(asked, 1025n, Buffer.alloc(512), true),
  'data without a byte': (asked) => dataChunk(asked, 1024n, Buffer.alloc(0), true),
  'a hole of no bytes': (asked) =>
    chunkOf(asked, nbd.NBD_REPLY_TYPE_OFFSET_HOLE, hex('0000000000000400 00000000')),
  'a truncated chunk that claims success': (asked) => dataChunk(asked, 1024n, Buffer.alloc(100), true),
  'another cookie': (asked) =>
    dataChunk({ ...asked, cookie: asked.cookie + 1n }, 1024n, Buffer.alloc(512), true),
  'a reply twice': (asked) => {
    const reply = dataChunk(asked, 1024n, Buffer.alloc(512), true);
    return Buffer.concat([
      reply.subarray(0, 20),
      hex('0000000000000400'),
      Buffer.alloc(511),
      hex('00'),
      reply,
    ]);
  },
  'a simple reply with data': (asked) => {
    const cookie = Buffer.alloc(8);
    cookie.writeBigUInt64BE(asked.cookie);
    return Buffer.concat([hex('67446698 00000000'), cookie, Buffer.alloc(512)]);
  },
  'an extended reply that was not agreed': (asked) =>
    chunkOf(asked, nbd.NBD_REPLY_TYPE_NONE, Buffer.alloc(0), { extended: true }),
  'an error of 1 MiB': (asked) => chunkOf(asked, nbd.NBD_REPLY_TYPE_ERROR, Buffer.alloc(MIB, 1)),
  'an error without its fields': (asked) => chunkOf(asked, nbd.NBD_REPLY_TYPE_ERROR, Buffer.alloc(0)),
  'an error offset whose text reaches into the offset': (asked) =>
    chunkOf(asked, nbd.NBD_REPLY_TYPE_ERROR_OFFSET, hex('00000005 0001 0000000000000400')),
  'an error offset outside its request': (asked) =>
    chunkOf(asked, nbd.NBD_REPLY_TYPE_ERROR_OFFSET, hex('00000005 0000 0000000000000600')),
  'a chunk type without meaning': (asked) => chunkOf(asked, 0x66, Buffer.alloc(8)),
  'status to a read': (asked) =>
    chunkOf(asked, nbd.NBD_REPLY_TYPE_BLOCK_STATUS, hex('00000009 00000200 00000000')),
};

const STATUS_BREACHES: Readonly<Record<string, (asked: Asked) => Buffer>> = {
  'data to a block status': (asked) => dataChunk(asked, 1024n, Buffer.alloc(512), true),
  'success without a chunk': (asked) => chunkOf(asked, nbd.NBD_REPLY_TYPE_NONE, Buffer.alloc(0)),
  'a descriptor of no bytes': (asked) =>
    chunkOf(asked, nbd.NBD_REPLY_TYPE_BLOCK_STATUS, hex('00000009 00000000 00000000')),
  'half a descriptor': (asked) => chunkOf(asked, nbd.NBD_REPLY_TYPE_BLOCK_STATUS, hex('00000009 00000200')),
  'a descriptor behind what was asked': (asked) =>
    chunkOf(asked, nbd.NBD_REPLY_TYPE_BLOCK_STATUS, hex('00000009 00000200 00000000 00000200 00000001')),
  'one context twice': (asked) => {
    const payload = hex('00000009 00000200 00000000');
    const type = nbd.NBD_REPLY_TYPE_BLOCK_STATUS;
    return Buffer.concat([chunkOf(asked, type, payload, { done: false }), chunkOf(asked, type, payload)]);
  },
  'extended descriptors that were not agreed': (asked) =>
    chunkOf(
      asked,
      nbd.NBD_REPLY_TYPE_BLOCK_STATUS_EXT,
      hex('00000009 00000001 0000000000000200 0000000000000000'),
    ),
};

for (const [kind, breaches] of [
  ['read', BREACHES],
  ['block status', STATUS_BREACHES],
] as const) {
  test(
    `breaches in the answer to a ${kind}: five in a row fail the device, nothing is handed out`,
    within(async () => {
      for (const [name, breach] of Object.entries(breaches)) {
        await scripted({ request: (socket, asked) => socket.write(breach(asked)) }, async (path, said) => {
          const client = await NbdClient.connect(path, 'disk');
          if (name === 'a reply twice') {
            // The first of the two is a good answer; the second costs the connection.
            await client.readAt(Buffer.alloc(512), 1024n);
            await eventually('the loss', () => client.state !== 'connected');
          } else {
            const target = Buffer.alloc(512, 0xee);
            const work = kind === 'read' ? client.readAt(target, 1024n) : client.extents(1024n, 512n);
            assert.is(await codeOf(work), 'EIO', name);
            assert.is(client.state, 'failed', name);
            assert.is(said.connections, 5, name);
          }
          await client.close();
        });
      }
    }, 20_000),
  );
}

test(
  'extended replies: another offset, a simple or structured reply, wrong counts are breaches; good ones are taken',
  within(async () => {
    const extended = { extended: true } as const;
    const status = nbd.NBD_REPLY_TYPE_BLOCK_STATUS_EXT;
    const answers: Record<string, (asked: Asked) => Buffer> = {
      'another offset': (asked) => chunkOf(asked, status, Buffer.alloc(24), { extended: true, offset: 0n }),
      structured: (asked) =>
        chunkOf(asked, status, hex('00000009 00000001 0000000000000200 0000000000000000')),
      'a wrong count': (asked) =>
        chunkOf(asked, status, hex('00000009 00000002 0000000000000200 0000000000000000'), extended),
      'the compact type': (asked) =>
        chunkOf(asked, nbd.NBD_REPLY_TYPE_BLOCK_STATUS, hex('00000009 00000200 00000000'), extended),
      'a payload of 2^40 bytes': (asked) => {
        const chunk = chunkOf(asked, status, Buffer.alloc(0), extended);
        chunk.writeUInt32BE(256, 24);
        return chunk;
      },
    };
    for (const [name, answer] of Object.entries(answers)) {
      await scripted({ request: (socket, asked) => socket.write(answer(asked)) }, async (path, said) => {
        const client = await NbdClient.connect(path, 'disk', { extendedHeaders: true });
        assert.is(await codeOf(client.extents(1024n, 512n)), 'EIO', name);
        assert.is(said.connections, 5, name);
        await client.close();
      });
    }
    await scripted(
      {
        size: 1n << 45n,
        request: (socket, asked) =>
          socket.write(
            chunkOf(asked, status, hex('00000009 00000001 0000200000000000 ffffffff00000003'), extended),
          ),
      },
      async (path, said) => {
        const client = await NbdClient.connect(path, 'disk', { extendedHeaders: true });
        const extents = await client.extents(0n, 1n << 45n);
        assert.equal(extents, [{ offset: 0n, length: 1n << 45n, zero: true, hole: true }]);
        assert.is(said.requests[0]!.length, 1n << 45n);
        await client.close();
      },
    );
  }, 20_000),
);

test(
  'a connection that closes anywhere in a reply: the client connects again and the read is right',
  within(() =>
    seeded(async (random) => {
      let cut = 0;
      await scripted(
        {
          request: (socket, asked) => {
            const at = asked.offset;
            const reply = Buffer.concat([
              dataChunk(asked, at, pattern(at, 256), false),
              dataChunk(asked, at + 256n, pattern(at + 256n, 256), true),
            ]);
            if (cut === 0) socket.write(reply);
            else socket.end(reply.subarray(0, cut));
            cut = 0;
          },
        },
        async (path) => {
          const client = await NbdClient.connect(path, 'disk');
          const cuts = [1, 4, 15, 16, 19, 20, 27, 28, 29, 283, 284, 285, 303, 304, 312, 567];
          for (const [index, where] of cuts.entries()) {
            cut = where;
            const offset = BigInt(random.below(1000) * 512);
            const target = Buffer.alloc(512, 0xee);
            await client.readAt(target, offset);
            assert.ok(target.equals(pattern(offset, 512)), `cut at ${where}`);
            assert.is(client.reconnects, index + 1);
          }
          await client.close();
        },
      );
    }),
  ),
);

test(
  'NBD_ESHUTDOWN: that request fails, the client says NBD_CMD_DISC, connects again and repeats what was not answered',
  within(async () => {
    let shuttingDown = true;
    const held: Asked[] = [];
    await scripted(
      {
        request: (socket, asked) => {
          if (!shuttingDown) socket.write(dataChunk(asked, asked.offset, pattern(asked.offset, 512), true));
          else if (held.push(asked) === 2) {
            shuttingDown = false;
            socket.write(errorChunk(asked, nbd.NBD_ESHUTDOWN, 'going down'));
          }
        },
      },
      async (path, said) => {
        const client = await NbdClient.connect(path, 'disk');
        const first = Buffer.alloc(512);
        const waiting = client.readAt(first, 0n);
        assert.is(await codeOf(client.readAt(Buffer.alloc(512), 512n)), 'ESHUTDOWN');
        await waiting;
        assert.ok(first.equals(pattern(0n, 512)));
        assert.is(client.reconnects, 1);
        assert.equal(said.ends, ['disc']);
        assert.is(said.behindGoodbye, 0);
        await client.close();
      },
    );
  }),
);

test(
  'a server that refuses is left with NBD_OPT_ABORT, whatever it refuses with',
  within(async () => {
    const rows = [
      [nbd.NBD_OPT_GO, nbd.NBD_REP_ERR_UNKNOWN, 'ENOENT'],
      [nbd.NBD_OPT_GO, nbd.NBD_REP_ERR_POLICY, 'EACCES'],
      [nbd.NBD_OPT_GO, nbd.NBD_REP_ERR_TLS_REQD, 'EACCES'],
      [nbd.NBD_OPT_GO, nbd.NBD_REP_ERR_BLOCK_SIZE_REQD, 'EACCES'],
      [nbd.NBD_OPT_GO, 0x8000_1234, 'EACCES'],
      [nbd.NBD_OPT_GO, nbd.NBD_REP_ERR_SHUTDOWN, 'ECONNREFUSED'],
      [nbd.NBD_OPT_STRUCTURED_REPLY, nbd.NBD_REP_ERR_SHUTDOWN, 'ECONNREFUSED'],
      [nbd.NBD_OPT_SET_META_CONTEXT, nbd.NBD_REP_ERR_SHUTDOWN, 'ECONNREFUSED'],
    ] as const;
    for (const [refusedOption, type, code] of rows) {
      await scripted(
        {
          option: (socket, option) => {
            if (option !== refusedOption) return false;
            socket.write(o.emitOptionReply(option, type, Buffer.from('no\u001b[31m')));
            return true;
          },
        },
        async (path, said) => {
          const error = await failureOf(NbdClient.connect(path, 'disk'));
          assert.is(error.code, code);
          assert.not.match(error.message, '\u001b', 'what it says controls no terminal');
          await eventually('the end', () => said.ends.length === 1);
          assert.equal(said.ends, ['abort']);
          assert.is(said.behindGoodbye, 0);
        },
      );
    }
  }),
);

test(
  'an export that is too large for this client is left with NBD_CMD_DISC',
  within(() =>
    scripted({ size: 1n << 60n }, async (path, said) => {
      assert.is(await codeOf(NbdClient.connect(path, 'disk')), 'EINVAL');
      await eventually('the end', () => said.ends.length === 1);
      assert.equal(said.ends, ['disc']);
    }),
  ),
);

test(
  'contexts of a selection that ended in an error are disregarded',
  within(() =>
    scripted(
      {
        option: (socket, option) => {
          if (option !== nbd.NBD_OPT_SET_META_CONTEXT) return false;
          const context = o.emitMetaContext(9, nbd.BASE_ALLOCATION);
          socket.write(o.emitOptionReply(option, nbd.NBD_REP_META_CONTEXT, context));
          socket.write(o.emitOptionReply(option, nbd.NBD_REP_ERR_TOO_BIG));
          return true;
        },
      },
      async (path, said) => {
        const client = await NbdClient.connect(path, 'disk');
        assert.equal(await client.extents(0n, 512n), [
          { offset: 0n, length: 512n, zero: false, hole: false },
        ]);
        assert.is(said.requests.length, 0, 'NBD_CMD_BLOCK_STATUS was not sent');
        await client.close();
      },
    ),
  ),
);

test(
  'information in any order, of unknown kind, unknown flags of every sort: ignored',
  within(() =>
    scripted(
      {
        handshakeFlags: 0xfff3,
        option: (socket, option) => {
          if (option !== nbd.NBD_OPT_GO) return false;
          for (const data of [hex('0003 00000200 00001000 00010000'), hex('4242 cafe'), hex('0002 6869')]) {
            socket.write(o.emitOptionReply(option, nbd.NBD_REP_INFO, data));
          }
          return false;
        },
        flags: 0xe000,
        request: (socket, asked) => {
          const reply =
            asked.type === nbd.NBD_CMD_READ
              ? dataChunk(asked, asked.offset, pattern(asked.offset, 512), true)
              : chunkOf(asked, nbd.NBD_REPLY_TYPE_BLOCK_STATUS, hex('00000009 00000200 fffffffd'));
          reply.writeUInt16BE(0xffff, 4);
          socket.write(reply);
        },
      },
      async (path, said) => {
        const client = await NbdClient.connect(path, 'disk');
        assert.is(said.clientFlags, 3, 'only what the server offered, and what is known');
        assert.is(client.capabilities.maxTransfer, 65_536);
        const target = Buffer.alloc(512);
        await client.readAt(target, 512n);
        assert.ok(target.equals(pattern(512n, 512)));
        assert.equal(await client.extents(0n, 512n), [{ offset: 0n, length: 512n, zero: false, hole: true }]);
        assert.is(client.reconnects, 0);
        await client.close();
      },
    ),
  ),
);

test(
  'one option at a time, each once, the next only after the final reply',
  within(async () => {
    for (const extendedHeaders of [false, true]) {
      const seen: number[] = [];
      let waiting = 0;
      await scripted(
        {
          option: (socket, option, data) => {
            seen.push(option);
            waiting++;
            assert.is(waiting, 1, 'no option while another one waits');
            const late = (type: number, more?: Buffer) => socket.write(o.emitOptionReply(option, type, more));
            setTimeout(() => {
              waiting--;
              if (option === nbd.NBD_OPT_EXTENDED_HEADERS) late(nbd.NBD_REP_ERR_UNSUP);
              else if (option === nbd.NBD_OPT_GO) late(nbd.NBD_REP_ERR_UNSUP);
              else late(nbd.NBD_REP_ACK);
            }, 10);
            if (option === nbd.NBD_OPT_EXTENDED_HEADERS || option === nbd.NBD_OPT_STRUCTURED_REPLY) {
              assert.is(data.length, 0);
            }
            return option !== nbd.NBD_OPT_EXPORT_NAME;
          },
        },
        async (path) => {
          const client = await NbdClient.connect(path, 'disk', { extendedHeaders });
          assert.equal(seen, [
            ...(extendedHeaders ? [nbd.NBD_OPT_EXTENDED_HEADERS] : []),
            nbd.NBD_OPT_STRUCTURED_REPLY,
            nbd.NBD_OPT_SET_META_CONTEXT,
            nbd.NBD_OPT_GO,
            nbd.NBD_OPT_EXPORT_NAME,
          ]);
          await client.close();
        },
      );
    }
  }),
);

test(
  'with extended headers NBD_OPT_EXPORT_NAME is not fallen back to',
  within(() =>
    scripted(
      {
        option: (socket, option) => {
          if (option !== nbd.NBD_OPT_GO) return false;
          socket.write(o.emitOptionReply(option, nbd.NBD_REP_ERR_UNSUP));
          return true;
        },
      },
      async (path, said) => {
        assert.is(await codeOf(NbdClient.connect(path, 'disk', { extendedHeaders: true })), 'EACCES');
        assert.not.ok(said.options.includes(nbd.NBD_OPT_EXPORT_NAME));
      },
    ),
  ),
);

test(
  'what the server did not offer is never asked, what it did is asked with its flag; NBD_CMD_DISC last, of zeroes',
  within(async () => {
    const answer = (socket: { write(bytes: Uint8Array): unknown }, asked: Asked) => {
      const cookie = Buffer.alloc(8);
      cookie.writeBigUInt64BE(asked.cookie);
      socket.write(Buffer.concat([hex('67446698 00000000'), cookie]));
    };
    const use = async (client: NbdClient) => {
      await client.writeAt(Buffer.alloc(512, 1), 0n, { fua: true });
      await client.writeZeroes(0n, 4096n, { fua: true, noHole: true });
      await client.writeZeroes(0n, 4096n, { fast: true }).catch((error: DeviceError) => {
        assert.is(error.code, 'ENOTSUP');
      });
      await client.trim(0n, 4096n, { fua: true }).catch((error: DeviceError) => {
        assert.is(error.code, 'ENOTSUP');
      });
      await client.flush();
      // Requests of nothing are not sent.
      await client.readAt(Buffer.alloc(0), 0n);
      await client.writeAt(Buffer.alloc(0), 0n);
      await client.writeZeroes(0n, 0n);
      assert.equal(await client.extents(0n, 0n), []);
      await client.close();
    };
    await scripted({ request: answer }, async (path, said) => {
      await use(await NbdClient.connect(path, 'disk'));
      assert.equal(
        [...new Set(said.requests.map(({ type }) => type))],
        [nbd.NBD_CMD_WRITE, nbd.NBD_CMD_DISC],
      );
      assert.ok(said.requests.every(({ flags }) => flags === 0));
    });
    const flags =
      nbd.NBD_FLAG_SEND_FLUSH |
      nbd.NBD_FLAG_SEND_FUA |
      nbd.NBD_FLAG_SEND_TRIM |
      nbd.NBD_FLAG_SEND_WRITE_ZEROES |
      nbd.NBD_FLAG_SEND_FAST_ZERO;
    await scripted({ request: answer, flags }, async (path, said) => {
      await use(await NbdClient.connect(path, 'disk'));
      assert.equal(
        said.requests.map(({ type, flags }) => [type, flags]),
        [
          [nbd.NBD_CMD_WRITE, nbd.NBD_CMD_FLAG_FUA],
          [nbd.NBD_CMD_WRITE_ZEROES, nbd.NBD_CMD_FLAG_FUA | nbd.NBD_CMD_FLAG_NO_HOLE],
          [nbd.NBD_CMD_WRITE_ZEROES, nbd.NBD_CMD_FLAG_FAST_ZERO],
          [nbd.NBD_CMD_TRIM, nbd.NBD_CMD_FLAG_FUA],
          [nbd.NBD_CMD_FLUSH, 0],
          [nbd.NBD_CMD_DISC, 0],
        ],
      );
      assert.is(new Set(said.requests.map(({ cookie }) => cookie)).size, said.requests.length);
      const last = said.requests.at(-1)!;
      assert.equal([last.offset, last.length], [0n, 0n]);
      const flush = said.requests.at(-2)!;
      assert.equal([flush.offset, flush.length], [0n, 0n]);
      await eventually('the end', () => said.ends.length === 1);
      assert.equal([said.ends, said.behindGoodbye], [['disc'], 0]);
    });
  }),
);

test(
  'errors of any value and text: the request fails with a typed error, the connection stays',
  within(async () => {
    const errors: [number, string, string][] = [
      [4711, '', 'EINVAL'],
      [0xffff_ffff, 'x'.repeat(65_535), 'EINVAL'],
      [nbd.NBD_EIO, 'a\u0000b\u001b[2J', 'EIO'],
      [nbd.NBD_ENOMEM, '\ud83d\ude00', 'ENOMEM'],
    ];
    let next = 0;
    await scripted(
      { request: (socket, asked) => socket.write(errorChunk(asked, errors[next]![0], errors[next]![1])) },
      async (path) => {
        const client = await NbdClient.connect(path, 'disk');
        for (const [, , code] of errors) {
          const error = await failureOf(client.readAt(Buffer.alloc(512), 0n));
          assert.is(error.code, code);
          assert.ok(error.message.length < 5000, 'the text is bounded');
          assert.not.match(error.message, /\p{Cc}/u, 'the text controls nothing');
          next++;
        }
        assert.is(client.reconnects, 0);
        await client.close();
      },
    );
  }),
);

test.run();
