import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { MemoryStore, NbdServer, NbdServerError } from '../../../src/blockdev/index.ts';
import { BufferPool } from '../../../src/blockdev/nbd/buffer-pool.ts';
import { within } from '../../support/index.ts';
import { Peer } from './peer.ts';

const test = suite('blockdev/nbd/server');

async function inFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'nbd-test-'));
  try {
    await body(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function codeOfListen(path: string): Promise<string> {
  const server = new NbdServer();
  try {
    await server.listen(path);
    await server.close();
    return 'none';
  } catch (error) {
    assert.instance(error, NbdServerError);
    return (error as NbdServerError).code;
  }
}

test(
  'listen: a served socket is in use, a dead one is replaced, a file is left alone',
  within(() =>
    inFolder(async (folder) => {
      const path = join(folder, 'socket');
      const server = new NbdServer();
      await server.listen(path);
      assert.is(statSync(path).mode & 0o777, 0o600);
      assert.is(await codeOfListen(path), 'EADDRINUSE');
      await server.close();

      // A socket whose owner was killed: bound, and nobody listens.
      const { spawnSync } = await import('node:child_process');
      const dead = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
      spawnSync(process.execPath, ['-e', dead]);
      assert.ok(statSync(path).isSocket());
      assert.is(await codeOfListen(path), 'none');

      writeFileSync(path, 'precious');
      assert.is(await codeOfListen(path), 'EADDRINUSE');
      assert.is(statSync(path).size, 8);
      assert.is(await codeOfListen(join(folder, 'no', 'such', 'folder')), 'ELISTEN');
      assert.is(await codeOfListen(join(folder, 'x'.repeat(200))), 'ELISTEN');
    }),
  ),
);

test(
  'export names must be able to travel',
  within(async () => {
    const server = new NbdServer();
    for (const name of ['a\0b', 'x'.repeat(4097), '\ud800']) {
      try {
        await server.setExports(new Map([[name, new MemoryStore(512)]]));
        assert.unreachable();
      } catch (error) {
        assert.is((error as NbdServerError).code, 'EINVAL');
      }
    }
    await server.setExports(new Map([['Größe', new MemoryStore(512)]]));
  }),
);

test(
  'accept serves a stream that something else has connected',
  within(() =>
    inFolder(async (folder) => {
      const server = new NbdServer();
      await server.setExports(new Map([['disk', new MemoryStore(4096)]]));
      const carrier = createServer((socket) => server.accept(socket));
      const path = join(folder, 'socket');
      await new Promise<void>((resolve) => carrier.listen(path, resolve));
      const peer = await Peer.connect(path);
      await peer.go('disk');
      await server.close();
      await peer.closed();
      carrier.close();
    }),
  ),
);

test('the buffer pool hands out what came back, up to its bound', () => {
  const pool = new BufferPool(3 * 8448);
  const first = pool.acquire(5000);
  assert.is(first.length, 8448, 'a power of two and room for a header');
  pool.release(first);
  assert.is(pool.acquire(8448), first);
  const many = Array.from({ length: 5 }, () => pool.acquire(8000));
  for (const buffer of many) pool.release(buffer);
  assert.is(pool.retainedBytes, 3 * 8448);
  assert.is(pool.acquire(0).length, 4352);
});

test.run();
