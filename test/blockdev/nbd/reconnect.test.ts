import { spawn } from 'node:child_process';
import { mkdtempSync, openSync, readSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import type { Server, Socket } from 'node:net';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Device, DeviceError } from '../../../src/blockdev/index.ts';
import { MemoryStore, NbdClient, NbdServer } from '../../../src/blockdev/index.ts';
import * as o from '../../../src/blockdev/nbd/options.ts';
import * as nbd from '../../../src/blockdev/nbd/protocol.ts';
import { eventually, seeded, within } from '../../support/index.ts';
import { hex } from './peer.ts';
import { SlowDevice } from './slow-device.ts';

const test = suite('blockdev/nbd/reconnect');

const MIB = 1024 * 1024;

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return 'none';
  } catch (error) {
    return (error as DeviceError).code;
  }
}

async function inFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'nbd-test-'));
  try {
    await body(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A server whose connections can be cut without a word, as the kernel does when a process is killed. */
async function brittle(path: string, device: Device) {
  const server = new NbdServer();
  await server.setExports(new Map([['disk', device]]));
  const sockets = new Set<Socket>();
  const listener: Server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    server.accept(socket);
  });
  await new Promise<void>((resolve) => listener.listen(path, resolve));
  return {
    server,
    cut: () => {
      for (const socket of sockets) socket.destroy();
    },
    stop: async () => {
      const closed = new Promise((resolve) => listener.close(resolve));
      for (const socket of sockets) socket.destroy();
      await server.close();
      await closed;
    },
  };
}

test(
  'a cut connection is renewed; what was not acknowledged is sent again, in order, and nothing else',
  within(() =>
    inFolder(async (folder) => {
      const slow = new SlowDevice(new MemoryStore(MIB));
      const path = join(folder, 'socket');
      const served = await brittle(path, slow);
      const states: string[] = [];
      const client = await NbdClient.connect(path, 'disk', { onStateChange: (state) => states.push(state) });
      await client.writeAt(Buffer.alloc(512, 1), 0n);
      slow.gated = true;
      const pending = [
        client.writeAt(Buffer.alloc(512, 2), 512n),
        client.readAt(Buffer.alloc(512), 0n),
        client.flush(),
        client.writeAt(Buffer.alloc(512, 3), 512n),
      ];
      await eventually('three of them', () => slow.inFlight === 3);
      served.cut();
      await eventually('the cut', () => states.includes('reconnecting'));
      // The old requests are still in the device; only when they are through is the new connection served.
      slow.open();
      await Promise.all(pending);
      assert.equal(states, ['reconnecting', 'connected']);
      assert.equal(slow.began, [
        ...['write 0', 'write 512', 'read 0', 'flush 0'],
        ...['write 512', 'read 0', 'flush 0', 'write 512'],
      ]);
      const found = Buffer.alloc(1);
      await client.readAt(found, 512n);
      assert.is(found[0], 3);
      assert.is(client.reconnects, 1);
      await client.close();
      await served.stop();
    }),
  ),
);

test(
  'the server may be away for a while, and have no export for another',
  within(() =>
    inFolder(async (folder) => {
      const store = new MemoryStore(MIB);
      const path = join(folder, 'socket');
      const first = await brittle(path, store);
      const client = await NbdClient.connect(path, 'disk');
      await first.stop();
      const write = client.writeAt(Buffer.alloc(512, 7), 0n);
      await eventually('the loss', () => client.state === 'reconnecting');
      const second = await brittle(path, store);
      await second.server.setExports(new Map());
      await eventually('an attempt in vain', () => (second.server.counters()['accepted'] ?? 0) > 0);
      await second.server.setExports(new Map([['disk', store]]));
      await write;
      const found = Buffer.alloc(1);
      await client.readAt(found, 0n);
      assert.is(found[0], 7);
      await client.close();
      await second.stop();
    }),
  ),
);

test(
  'a server that stays away fails the device after reconnectTimeoutMs; close ends the waiting',
  within(() =>
    inFolder(async (folder) => {
      const path = join(folder, 'socket');
      const served = await brittle(path, new MemoryStore(MIB));
      const brief = await NbdClient.connect(path, 'disk', { reconnectTimeoutMs: 80 });
      const never = await NbdClient.connect(path, 'disk', { reconnectTimeoutMs: 0 });
      const patient = await NbdClient.connect(path, 'disk');
      await served.stop();
      assert.is(await codeOf(brief.flush()), 'EIO');
      assert.is(brief.state, 'failed');
      assert.is(await codeOf(brief.readAt(Buffer.alloc(1), 0n)), 'EIO');
      assert.is(await codeOf(never.flush()), 'EIO');
      await eventually('the loss', () => patient.state === 'reconnecting');
      const waiting = codeOf(patient.flush());
      await patient.close();
      assert.is(await waiting, 'ESHUTDOWN');
      await Promise.all([brief.close(), never.close()]);
    }),
  ),
);

test(
  'requestTimeoutMs: a server that is there and silent is left and asked again; after five times the device fails',
  within(() =>
    inFolder(async (folder) => {
      const server = new NbdServer();
      const memory = new MemoryStore(MIB);
      await server.setExports(new Map([['disk', memory]]));
      await server.listen(join(folder, 'server'));
      // Between them: handshakes pass, requests are swallowed as often as wanted.
      let swallow = 0;
      let connections = 0;
      const between = createServer((client) => {
        connections++;
        const onward = connect(join(folder, 'server'));
        const mute = swallow > 0;
        if (mute) swallow--;
        let silent = false;
        client.on('data', (chunk: Buffer) => {
          silent ||= mute && chunk.length >= 4 && chunk.readUInt32BE(0) === nbd.NBD_REQUEST_MAGIC;
          if (!silent) onward.write(chunk);
        });
        onward.pipe(client);
        for (const end of [client, onward]) {
          end.on('error', () => {});
          end.on('close', () => [client, onward].map((other) => other.destroy()));
        }
      });
      const path = join(folder, 'between');
      await new Promise<void>((resolve) => between.listen(path, resolve));
      swallow = 2;
      const reasons: string[] = [];
      const disk = await NbdClient.connect(path, 'disk', {
        requestTimeoutMs: 100,
        onStateChange: (state, reason) => state === 'reconnecting' && reasons.push(reason!),
      });
      await disk.writeAt(Buffer.alloc(512, 9), 512n);
      assert.ok(disk.reconnects >= 2);
      assert.match(reasons[0]!, /did not answer a request within 100 ms/);
      const found = Buffer.alloc(512);
      await memory.readAt(found, 512n);
      assert.is(found[0], 9);
      await disk.close();

      swallow = Number.POSITIVE_INFINITY;
      connections = 0;
      const never = await NbdClient.connect(path, 'disk', { requestTimeoutMs: 30 });
      assert.is(await codeOf(never.flush()), 'EIO');
      assert.is(never.state, 'failed');
      assert.is(connections, 5);
      await never.close();
      await server.close();
      await new Promise((resolve) => between.close(resolve));
    }),
  ),
);

test(
  'an export that comes back with another size is another disk: the device fails',
  within(() =>
    inFolder(async (folder) => {
      const path = join(folder, 'socket');
      const first = await brittle(path, new MemoryStore(MIB));
      const client = await NbdClient.connect(path, 'disk');
      await first.stop();
      const second = await brittle(path, new MemoryStore(2 * MIB));
      assert.is(await codeOf(client.flush()), 'EIO');
      assert.is(client.state, 'failed');
      await client.close();
      await second.stop();
    }),
  ),
);

/** What a hand-written server answers to structured replies, contexts and GO, then to each request. */
async function withScript(
  answer: (socket: Socket, request: Buffer) => void,
  body: (path: string, connections: () => number) => Promise<void>,
): Promise<void> {
  await inFolder(async (folder) => {
    const path = join(folder, 'socket');
    let connections = 0;
    const listener = createServer((socket) => {
      connections++;
      let input = Buffer.alloc(0);
      let ready = false;
      socket.on('error', () => {});
      socket.write(o.emitGreeting(3));
      socket.on('data', (chunk: Buffer) => {
        input = Buffer.concat([input, chunk]);
        if (input.length >= 4 && input.readUInt32BE(0) === 3) input = input.subarray(4);
        while (!ready && input.length >= 16 && input.length >= 16 + input.readUInt32BE(12)) {
          const option = input.readUInt32BE(8);
          input = input.subarray(16 + input.readUInt32BE(12));
          if (option === nbd.NBD_OPT_GO) {
            const info = o.emitInfoExport(BigInt(MIB), nbd.NBD_FLAG_HAS_FLAGS | nbd.NBD_FLAG_SEND_FLUSH);
            socket.write(o.emitOptionReply(option, nbd.NBD_REP_INFO, info));
            ready = true;
          }
          if (option === nbd.NBD_OPT_SET_META_CONTEXT) {
            const context = o.emitMetaContext(9, nbd.BASE_ALLOCATION);
            socket.write(o.emitOptionReply(option, nbd.NBD_REP_META_CONTEXT, context));
          }
          socket.write(o.emitOptionReply(option, nbd.NBD_REP_ACK));
        }
        while (ready && input.length >= 28) {
          if (input.readUInt16BE(6) !== nbd.NBD_CMD_DISC) answer(socket, input.subarray(0, 28));
          input = input.subarray(28);
        }
      });
    });
    await new Promise<void>((resolve) => listener.listen(path, resolve));
    await body(path, () => connections);
    await new Promise((resolve) => listener.close(resolve));
  });
}

test(
  'a server that breaks the protocol is given up after five times, with a typed error',
  within(async () => {
    const breaches: Record<string, (cookie: string) => string> = {
      'wrong magic': () => 'ffffffff 00000000 0000000000000000',
      'a cookie that is not outstanding': () => '67446698 00000000 00000000ffffffff',
      'a simple reply to a read': (cookie) => `67446698 00000000 ${cookie}`,
      'data outside the request': (cookie) =>
        `668e33ef 0001 0001 ${cookie} 0000000c 0000000000000400 00000000`,
      'a hole longer than the request': (cookie) =>
        `668e33ef 0001 0002 ${cookie} 0000000c 0000000000000000 00000201`,
      'an incomplete read': (cookie) => `668e33ef 0001 0002 ${cookie} 0000000c 0000000000000000 000001ff`,
      'overlapping chunks': (cookie) =>
        `668e33ef 0000 0002 ${cookie} 0000000c 0000000000000000 00000200
         668e33ef 0001 0002 ${cookie} 0000000c 0000000000000000 00000001`,
      'NONE without DONE': (cookie) => `668e33ef 0000 0000 ${cookie} 00000000`,
      'status to a read': (cookie) => `668e33ef 0001 0005 ${cookie} 0000000c 00000009 00000200 00000000`,
      'an error without a number': (cookie) => `668e33ef 0001 8001 ${cookie} 00000006 00000000 0000`,
      'an error text longer than its chunk': (cookie) =>
        `668e33ef 0001 8001 ${cookie} 00000006 00000005 0001`,
      'a chunk of unknown type': (cookie) => `668e33ef 0001 0042 ${cookie} 00000001 00`,
      'an endless chunk': (cookie) => `668e33ef 0001 0042 ${cookie} ffffffff`,
    };
    for (const [name, breach] of Object.entries(breaches)) {
      await withScript(
        (socket, request) => socket.write(hex(breach(request.subarray(8, 16).toString('hex')))),
        async (path, connections) => {
          const client = await NbdClient.connect(path, 'disk');
          assert.is(await codeOf(client.readAt(Buffer.alloc(512), 0n)), 'EIO', name);
          assert.is(client.state, 'failed', name);
          assert.is(connections(), 5, name);
          await client.close();
        },
      );
    }
  }),
);

test(
  'replies cut into single bytes, errors with text, unknown error types',
  within(async () => {
    const answers = [
      (cookie: string) => `668e33ef 0000 0002 ${cookie} 0000000c 0000000000000000 000001fc
                           668e33ef 0001 0001 ${cookie} 0000000c 00000000000001fc deadbeef`,
      (cookie: string) => `668e33ef 0001 8001 ${cookie} 0000000a 0000001c 0004 66756c6c`,
      (cookie: string) => `668e33ef 0000 8002 ${cookie} 0000000e 00000005 0000 0000000000000000
                           668e33ef 0001 0000 ${cookie} 00000000`,
      (cookie: string) => `668e33ef 0001 8077 ${cookie} 00000006 0000005f 0000`,
    ];
    let next = 0;
    await withScript(
      (socket, request) => {
        for (const byte of hex(answers[next++]!(request.subarray(8, 16).toString('hex')))) {
          socket.write(Buffer.of(byte));
        }
      },
      async (path) => {
        const client = await NbdClient.connect(path, 'disk');
        const target = Buffer.alloc(512, 0xff);
        await client.readAt(target, 0n);
        assert.is(target.toString('hex'), `${'00'.repeat(508)}deadbeef`);
        try {
          await client.readAt(target, 0n);
          assert.unreachable();
        } catch (error) {
          assert.is((error as DeviceError).code, 'ENOSPC');
          assert.match((error as DeviceError).message, '(full)');
        }
        assert.is(await codeOf(client.readAt(target, 0n)), 'EIO');
        assert.is(await codeOf(client.readAt(target, 0n)), 'ENOTSUP');
        assert.is(client.reconnects, 0);
        await client.close();
      },
    );
  }),
);

test(
  'a server that ends or falls silent anywhere in the handshake is an error, not a hang',
  within(() =>
    inFolder(async (folder) => {
      const whole = Buffer.concat([
        o.emitGreeting(3),
        o.emitOptionReply(nbd.NBD_OPT_STRUCTURED_REPLY, nbd.NBD_REP_ACK),
        o.emitOptionReply(nbd.NBD_OPT_SET_META_CONTEXT, nbd.NBD_REP_ACK),
        o.emitOptionReply(nbd.NBD_OPT_GO, nbd.NBD_REP_INFO, o.emitInfoExport(512n, 1)),
        o.emitOptionReply(nbd.NBD_OPT_GO, nbd.NBD_REP_ACK),
      ]);
      let cut = 0;
      let silent = false;
      const path = join(folder, 'socket');
      const listener = createServer((socket) => {
        socket.on('error', () => {}).resume();
        if (silent) socket.write(whole.subarray(0, cut));
        else socket.end(whole.subarray(0, cut));
      });
      await new Promise<void>((resolve) => listener.listen(path, resolve));
      for (; cut < whole.length; cut++) {
        assert.is(await codeOf(NbdClient.connect(path, 'disk')), 'ECONNREFUSED', `cut at ${cut}`);
      }
      silent = true;
      for (cut = 0; cut < whole.length; cut += 20) {
        const connecting = NbdClient.connect(path, 'disk', { connectTimeoutMs: 15 });
        assert.is(await codeOf(connecting), 'ETIMEDOUT', `silent after ${cut}`);
      }
      cut = 18;
      whole.writeUInt16BE(0, 16);
      assert.is(await codeOf(NbdClient.connect(path, 'disk')), 'EPROTO', 'no fixed newstyle');
      whole.fill('HTTP/1.1');
      assert.is(await codeOf(NbdClient.connect(path, 'disk')), 'EPROTO', 'no NBD');
      await new Promise((resolve) => listener.close(resolve));
    }),
  ),
);

test(
  'kill -9 of the server with writes in flight: the client resumes and every acknowledged write is there',
  within(
    () =>
      seeded((random) =>
        inFolder(async (folder) => {
          const file = join(folder, 'disk.img');
          const path = join(folder, 'socket');
          const blocks = 512;
          writeFileSync(file, '');
          truncateSync(file, blocks * 4096);
          const script = new URL('serve-file.ts', import.meta.url).pathname;
          const start = () =>
            spawn(process.execPath, ['--disable-warning=ExperimentalWarning', script, file, path], {
              stdio: ['pipe', 'ignore', 'inherit'],
            });
          let child = start();
          const client = await eventually('the server', () =>
            NbdClient.connect(path, 'disk').catch(() => undefined),
          );
          const acknowledged = new Uint32Array(blocks);
          const sent = new Uint32Array(blocks);
          let writing = true;
          let count = 0;
          const writer = async (lane: number) => {
            const block = Buffer.alloc(4096);
            while (writing) {
              const at = random.below(blocks / 16) * 16 + lane;
              const version = ++sent[at]!;
              for (let i = 0; i < 4096; i += 4) block.writeUInt32LE(version, i);
              await client.writeAt(block, BigInt(at) * 4096n, { fua: random.below(50) === 0 });
              acknowledged[at] = version;
              count++;
            }
          };
          const writers = Promise.all(Array.from({ length: 16 }, (_, lane) => writer(lane)));
          const rounds = Number(process.env['NBD_KILLS'] ?? 5);
          for (let kill = 1; kill <= rounds; kill++) {
            const before = count;
            await eventually('writes', () => count > before + 50 + random.below(300));
            const gone = new Promise((resolve) => child.once('exit', resolve));
            child.kill('SIGKILL');
            await gone;
            child = start();
            await eventually('the new connection', () => client.reconnects === kill, 10_000);
          }
          writing = false;
          await writers;
          await client.flush();
          const fd = openSync(file, 'r');
          const found = Buffer.alloc(4096);
          for (let at = 0; at < blocks; at++) {
            readSync(fd, found, 0, 4096, at * 4096);
            for (let i = 0; i < 4096; i += 512) {
              assert.is(found.readUInt32LE(i), acknowledged[at], `block ${at}`);
            }
          }
          assert.equal(sent, acknowledged);
          await client.close();
          const gone = new Promise((resolve) => child.once('exit', resolve));
          child.stdin!.end();
          await gone;
        }),
      ),
    60_000,
  ),
);

test.run();
