import { mkdtempSync, rmSync } from 'node:fs';
import type { Server, Socket } from 'node:net';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VirtualClock } from '../../../src/common/index.ts';
import { StreamLink } from '../../../src/netstack/index.ts';
import { eventually, within } from '../../support/index.ts';

const test = suite<{ directory: string; path: string }>('netstack/link/stream-link');

test.before.each((context) => {
  context.directory = mkdtempSync(join(tmpdir(), 'stream-link-'));
  context.path = join(context.directory, 'port');
});
test.after.each((context) => rmSync(context.directory, { recursive: true }));

function listen(path: string): Promise<{ server: Server; sockets: Socket[]; bytes: () => Buffer }> {
  const sockets: Socket[] = [];
  const chunks: Buffer[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    socket.on('error', () => {});
  });
  return new Promise((resolve) =>
    server.listen(path, () => resolve({ server, sockets, bytes: () => Buffer.concat(chunks) })),
  );
}

function received(link: StreamLink) {
  const packets: Buffer[] = [];
  let batches = 0;
  link.attach({
    receive: (buffer, offset, length) =>
      void packets.push(Buffer.from(buffer.slice(offset, offset + length))),
    endOfBatch: () => batches++,
    writable: () => {},
  });
  return { packets, batches: () => batches };
}

test(
  'frames go out in one write per flush and come in with their header',
  within(async ({ path }: { path: string }) => {
    const far = await listen(path);
    const link = new StreamLink({ path });
    const got = received(link);
    await link.ready();
    const packet = Buffer.alloc(70, 5);
    assert.ok(link.transmit(packet, 0, 70));
    assert.ok(link.transmit(packet, 0, 70));
    link.flush();
    const expected = Buffer.concat([Buffer.from([0, 0, 0, 70, 0, 0, 0, 10]), packet]);
    await eventually('both frames', () => far.bytes().length === 156);
    assert.equal(far.bytes(), Buffer.concat([expected, expected]));
    far.sockets[0]!.write(Buffer.concat([expected, expected, expected]));
    await eventually('three packets', () => got.packets.length === 3);
    assert.equal(got.packets, [packet, packet, packet]);
    assert.is(got.batches(), 1);
    assert.equal(link.offload.tcp4Segmentation, true);
    link.close();
    far.server.close();
  }),
);

test(
  'the plain form carries no header and no offload',
  within(async ({ path }: { path: string }) => {
    const far = await listen(path);
    const link = new StreamLink({ path, vnetHeader: false });
    await link.ready();
    link.transmit(Buffer.alloc(70, 5), 0, 70);
    link.flush();
    await eventually('the frame', () => far.bytes().length === 64);
    assert.equal(far.bytes(), Buffer.concat([Buffer.from([0, 0, 0, 60]), Buffer.alloc(60, 5)]));
    assert.equal([link.offload.checksum, link.offload.tcp4Segmentation], [false, false]);
    link.close();
    far.server.close();
  }),
);

test(
  'it connects again when the other side was away; packets of that time are dropped and counted',
  within(async ({ path }: { path: string }) => {
    const states: boolean[] = [];
    const link = new StreamLink({ path, onState: (connected) => states.push(connected) });
    link.transmit(Buffer.alloc(70), 0, 70);
    assert.is(link.counters.droppedDisconnected, 1);
    const first = await listen(path);
    await link.ready();
    first.server.close();
    await eventually('accepted', () => first.sockets.length === 1);
    first.sockets[0]!.destroy();
    await eventually('lost', () => !link.connected);
    const second = await listen(path);
    await link.ready();
    assert.equal(states, [true, false, true]);
    assert.is(link.counters.connections, 2);
    link.transmit(Buffer.alloc(70), 0, 70);
    link.flush();
    await eventually('the frame', () => second.bytes().length === 78);
    link.close();
    second.server.close();
  }),
);

test(
  'the pauses between tries double up to the longest one',
  within(async ({ path }: { path: string }) => {
    const clock = new VirtualClock();
    const link = new StreamLink({ path, clock, retryMs: 10, retryMaxMs: 35 });
    const pauses: number[] = [];
    for (let i = 0; i < 4; i++) {
      const due = await eventually('a try has failed', () => clock.nextDueMs());
      pauses.push(due - clock.nowMs());
      clock.advance(pauses.at(-1)!);
    }
    assert.equal(pauses, [10, 20, 35, 35]);
    link.close();
  }),
);

test(
  'a side that sends no frames is disconnected and counted; ready says in time what is wrong',
  within(async ({ path }: { path: string }) => {
    const far = await listen(path);
    const link = new StreamLink({ path, retryMs: 1_000 });
    received(link);
    await link.ready();
    await eventually('accepted', () => far.sockets.length === 1);
    far.sockets[0]!.write('HTTP/1.1 400 Bad Request\r\n');
    await eventually('disconnected', () => !link.connected);
    assert.is(link.counters.faults, 1);
    try {
      await link.ready(20);
      assert.unreachable();
    } catch (error) {
      assert.is((error as { code: string }).code, 'timeout');
      assert.match((error as Error).message, /frame-too-long/);
    }
    link.close();
    far.server.close();
  }),
);

test(
  'a reader that does not read stops the writer within bounds, and lets it go on',
  within(async ({ path }: { path: string }) => {
    const far = await listen(path);
    const link = new StreamLink({ path });
    let writable = 0;
    link.attach({ receive: () => {}, endOfBatch: () => {}, writable: () => writable++ });
    await link.ready();
    await eventually('accepted', () => far.sockets.length === 1);
    far.sockets[0]!.pause();
    writable = 0;
    const packet = Buffer.alloc(60_000);
    let taken = 0;
    for (let i = 0; i < 200 && link.transmit(packet, 0, packet.length); i++) {
      taken++;
      link.flush();
    }
    assert.ok(taken >= 16 && taken < 100, `${taken} packets of 60 000 bytes taken`);
    far.sockets[0]!.resume();
    await eventually('room again', () => writable > 0);
    assert.ok(link.transmit(packet, 0, packet.length));
    link.close();
    far.server.close();
  }),
);

test.run();
