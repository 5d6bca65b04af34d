/** A port of the mux and a partition's link, over both kinds of carrier: what holds for one holds for the other. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Turns, VirtualClock } from '../../../../src/common/index.ts';
import { readInto } from '../../../../src/hypervisor/mux/port/accepted.ts';
import { StreamPort, type StreamPortOptions } from '../../../../src/hypervisor/mux/port/stream-port.ts';
import { StreamLink } from '../../../../src/netstack/index.ts';
import { RING_HELLO, Ring } from '../../../../tap-tun/src/index.ts';
import {
  descriptorOf,
  eventually,
  LONGEST,
  mappings,
  RingMemory,
  seeded,
  within,
} from '../../../support/index.ts';

const test = suite('hypervisor/mux/port/stream-port');
const directory = mkdtempSync(join(tmpdir(), 'stream-port-'));
test.after(() => rmSync(directory, { recursive: true }));
const CARRIERS = ['stream', 'ring'] as const;
/** Of a port's rings, as StreamPort has them. */
const RING_BYTES = 2 * 1024 * 1024;
const CORRUPTIONS = 200;

let ports = 0;

/** A port that gives rings decides only with the first thing it hears; most tests of streams need not wait for that. */
const only = (carrier: 'stream' | 'ring') => ({ rings: carrier === 'ring' });

async function listening(
  receive: (packet: Uint8Array, index: number) => void = () => {},
  options: Partial<StreamPortOptions> = {},
) {
  const path = join(directory, `port-${ports++}`);
  const states: string[] = [];
  const faults: string[] = [];
  let received = 0;
  let writable = 0;
  const port: StreamPort = new StreamPort({
    name: path,
    path,
    vnetHeader: true,
    turns: new Turns(),
    onConnected: (connected, reason) => states.push(connected ? port.carrier! : (reason ?? '')),
    onFault: (fault) => faults.push(fault),
    onOversize: (count) => assert.unreachable(`${count} oversize`),
    ...options,
  });
  port.attach({
    receive: (buffer, offset, length) => receive(buffer.slice(offset, offset + length), received++),
    endOfBatch: () => {},
    writable: () => writable++,
  });
  await port.listen();
  return { port, path, states, faults, received: () => received, writable: () => writable };
}

const quiet = { receive: () => {}, endOfBatch: () => {}, writable: () => {} };

async function joined(path: string, carrier: 'stream' | 'ring') {
  const link = new StreamLink({ path, rings: carrier === 'ring' });
  link.attach(quiet);
  await link.ready();
  assert.is(link.carrier, carrier);
  return link;
}

for (const carrier of CARRIERS) {
  test(
    `${carrier}: packets arrive whole and in order, although portions share one buffer and turns end in between`,
    within(() =>
      seeded(async (random) => {
        const expected: number[] = [];
        let wrong = 0;
        const { port, path, received } = await listening((packet, i) => {
          // Longer than a turn at times, so that what arrives meanwhile waits.
          const untilMs = performance.now() + (i % 64 === 0 ? 1 : 0);
          while (performance.now() < untilMs);
          const right =
            packet.length === expected[i] && packet.every((byte, at) => at < 10 || byte === (i & 0xff));
          if (!right) wrong++;
        }, only(carrier));
        const link = await joined(path, carrier);
        let blocked = false;
        link.attach({ ...quiet, writable: () => (blocked = false) });
        const packet = new Uint8Array(65_563);
        while (expected.length < 1_500) {
          const length = 24 + random.below(random.below(4) === 0 ? 65_000 : 1_500);
          packet.fill(expected.length & 0xff, 10, length);
          if (link.transmit(packet, 0, length)) expected.push(length);
          else {
            blocked = true;
            link.flush();
            await eventually('room', () => !blocked);
          }
        }
        link.flush();
        await eventually('every packet', () => received() === expected.length);
        assert.is(wrong, 0);
        link.close();
        port.close();
      }),
    ),
  );

  test(
    `${carrier}: a partition that does not read: the queue is bounded, refuses, and goes on when there is room`,
    within(async () => {
      const { port, path, writable } = await listening(undefined, only(carrier));
      const link = new StreamLink({ path, rings: carrier === 'ring' });
      let stuck = true;
      let got = 0;
      // Both ends are in this process: it reads nothing as long as the loop below runs.
      link.attach({ ...quiet, receive: () => got++ });
      await link.ready();
      await eventually('connected', () => port.connected);
      assert.ok(port.fill < 0.5);
      const before = writable();
      const packet = new Uint8Array(60_000);
      let taken = 0;
      while (stuck && taken < 1_000) {
        if (port.transmit(packet, 0, packet.length)) taken++;
        else stuck = false;
        port.flush();
      }
      assert.ok(taken >= 16 && taken < 100, `${taken} packets of 60 000 bytes taken`);
      assert.ok(port.fill >= 0.5 && port.fill <= 1, `${port.fill}`);
      assert.ok(port.queuedBytes > 900_000 && port.queuedBytes <= RING_BYTES, `${port.queuedBytes} queued`);
      await eventually('room again', () => writable() > before);
      await eventually('all of them', () => got === taken);
      assert.ok(port.fill < 0.5);
      assert.ok(port.transmit(packet, 0, packet.length));
      port.flush();
      await eventually('one more', () => got === taken + 1);
      link.close();
      port.close();
    }),
  );

  test(
    `${carrier}: a sender in debt is left unread, loses nothing, and is stopped when its queue is full`,
    within(async () => {
      const clock = new VirtualClock();
      let debtMs = 0;
      const { port, path, received } = await listening(() => {}, {
        debtMs: () => debtMs,
        clock,
        ...only(carrier),
      });
      const connecting = joined(path, carrier);
      // The question's time limit is on the virtual clock, too.
      const asked = setInterval(() => clock.advance(10), 5);
      const link = await connecting;
      clearInterval(asked);
      const packet = new Uint8Array(1_000);
      debtMs = 50;
      link.transmit(packet, 0, packet.length);
      link.flush();
      await eventually('the first', () => received() === 1);
      let sent = 1;
      while (sent < 20_000 && link.transmit(packet, 0, packet.length)) {
        sent++;
        if (sent % 50 === 0) {
          link.flush();
          await new Promise((resolve) => setImmediate(resolve));
        }
      }
      assert.ok(sent < 20_000, 'it was stopped');
      assert.is(received(), 1, 'nothing is taken in debt');
      debtMs = 0;
      clock.advance(50);
      link.flush();
      await eventually('all the rest', () => received() === sent);
      link.close();
      port.close();
    }),
  );

  test(
    `${carrier}: what was sent before the end still arrives, in both directions`,
    within(async () => {
      const { port, path, received, states } = await listening(undefined, only(carrier));
      const link = await joined(path, carrier);
      const packet = new Uint8Array(1_000);
      for (let i = 0; i < 100; i++) assert.ok(link.transmit(packet, 0, packet.length));
      link.flush();
      link.close();
      await eventually('all of it', () => received() === 100);
      await eventually('the end', () => states.length === 2);
      const again = await joined(path, carrier);
      let got = 0;
      again.attach({ ...quiet, receive: () => got++ });
      await eventually('connected', () => port.connected);
      for (let i = 0; i < 100; i++) assert.ok(port.transmit(packet, 0, packet.length));
      port.close();
      await eventually('all of that', () => got === 100);
      again.close();
    }),
  );

  test(
    `${carrier}: connections come and go, and leave no descriptor`,
    within(async () => {
      const { port, path, states } = await listening(undefined, only(carrier));
      const open = () => readdirSync('/proc/self/fd').length;
      const before = open();
      for (let i = 0; i < 50; i++) {
        const link = await joined(path, carrier);
        await eventually('accepted', () => states.at(-1) === carrier);
        link.close();
        await eventually('gone', () => states.length === 2 * (i + 1));
      }
      await eventually('the same descriptors', () => open() <= before);
      port.close();
    }),
  );

  test(
    `${carrier}: a newer connection replaces the older one, which connects again when that is gone`,
    within(async () => {
      const { port, path, states } = await listening(undefined, only(carrier));
      const first = new StreamLink({ path, rings: carrier === 'ring', retryMs: 300 });
      first.attach(quiet);
      await first.ready();
      await eventually('accepted', () => states.length === 1);
      const second = await joined(path, carrier);
      await eventually('replaced', () => states.length >= 3);
      assert.equal(states.slice(0, 3), [carrier, 'replaced by a newer connection', carrier]);
      // Which the second does in its turn: a moment later it is the first that is gone.
      await eventually('the first is back', () => first.counters.connections === 2);
      assert.equal(states.slice(3, 5), ['replaced by a newer connection', carrier]);
      first.close();
      second.close();
      port.close();
    }),
  );
}

test(
  'who asks for rings where there are none gets a stream; so does who never asks, after a moment',
  within(async () => {
    const { port, path, states } = await listening(() => {}, { rings: false });
    const link = new StreamLink({ path, rings: true });
    link.attach(quiet);
    await eventually('accepted', () => states.length === 1);
    // Its first frame is the answer: no rings.
    const packet = new Uint8Array(60);
    assert.ok(port.transmit(packet, 0, 60));
    port.flush();
    await link.ready();
    assert.is(link.carrier, 'stream');
    link.close();
    port.close();

    const other = await listening();
    const silent = connect(other.path);
    await eventually('a stream', () => other.states.at(-1) === 'stream');
    silent.destroy();
    other.port.close();
  }),
);

test(
  'frames right away are a stream from the first byte on; half a question is no question',
  within(async () => {
    for (const begin of [RING_HELLO.subarray(0, 20), Buffer.from([0, 0, 0, 30, 0, 0, 0, 10])]) {
      const { port, path, states, received } = await listening();
      const socket = connect(path);
      socket.write(begin);
      await eventually('a stream', () => states.at(-1) === 'stream');
      // Completes the frame that was begun.
      socket.write(begin.length === 20 ? RING_HELLO.subarray(20) : new Uint8Array(30));
      await eventually('one packet', () => received() === 1);
      socket.destroy();
      port.close();
    }
  }),
);

/** A partition that has joined and does with the memory what it likes. */
async function hostile(path: string) {
  const known = new Set(mappings().map(({ inode }) => inode));
  const socket = connect(path).pause();
  await new Promise((resolve) => socket.once('connect', resolve));
  const ring = await new Promise<Ring>((resolve, reject) => {
    Ring.ask(descriptorOf(socket), LONGEST, (answer, made) => {
      if (made === undefined) reject(new Error(answer));
      else resolve(made);
    });
  });
  const memory = new RingMemory(
    mappings().filter(({ inode }) => !known.has(inode)),
    ring.bytes,
  );
  return { ring, memory, socket };
}

test(
  'a corrupted ring is a named fault that closes the port, counted once, and the next connection is served',
  within(() =>
    seeded(async (random) => {
      const { port, path, faults, states, received } = await listening();
      const seen = new Set<string>();
      for (let i = 0; i < CORRUPTIONS; i++) {
        const { ring, memory, socket } = await hostile(path);
        await eventually('connected', () => port.carrier === 'ring');
        assert.is(ring.bytes, RING_BYTES);
        const packet = new Uint8Array(60);
        ring.put(packet, 0, 60);
        const end = new Promise<void>((resolve) => {
          ring.onEnd = resolve;
        });
        const before = received();
        if (i % 4 === 3) {
          // The mux finds it when it sends, though nobody rings.
          memory.setLine(0, 'tail', 8 + random.below(RING_BYTES));
          port.transmit(packet, 0, 60);
          port.flush();
        } else {
          if (i % 4 === 1) memory.writeLength(1, 0, random.below(24));
          if (i % 4 === 2) memory.writeLength(1, 0, 69_633 + random.below(1_000_000));
          memory.setLine(1, 'head', i % 4 === 0 ? 8 + RING_BYTES + 8 * random.below(1_000) : 72);
          socket.write('a bell');
        }
        await end;
        seen.add(faults.at(-1)!);
        assert.is(faults.length, i + 1);
        assert.is(port.connected, false);
        assert.is(states.at(-1), faults.at(-1));
        assert.is(received(), before);
        socket.destroy();
        ring.close();
        memory.close();
      }
      assert.equal([...seen].sort(), ['frame-too-long', 'frame-too-short', 'ring-index']);
      const link = await joined(path, 'ring');
      const before = received();
      link.transmit(new Uint8Array(60), 0, 60);
      link.flush();
      await eventually('served', () => received() === before + 1);
      link.close();
      port.close();
    }),
  ),
);

test(
  'a server whose connections read into a buffer counts them, and ends',
  within(async () => {
    const path = join(directory, 'server');
    const sockets: Socket[] = [];
    let text = '';
    const server = createServer({ pauseOnConnect: true }, (accepted) => {
      sockets.push(
        readInto(Buffer.alloc(16), accepted, (_socket, chunk) => {
          text += chunk.toString();
        }),
      );
    });
    await new Promise<void>((resolve) => server.listen(path, resolve));
    const client = connect(path);
    client.end('more than the sixteen bytes of the buffer');
    let ended = false;
    client.on('end', () => {
      ended = true;
    });
    client.resume();
    await eventually('all of it', () => text === 'more than the sixteen bytes of the buffer');
    await eventually('the end, both ways', () => ended && sockets[0]!.destroyed);
    await new Promise<void>((resolve) => server.close(() => resolve()));
  }),
);

test.run();
