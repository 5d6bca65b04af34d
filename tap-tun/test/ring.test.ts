import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  descriptorOf,
  eventually,
  inScratch,
  LONGEST,
  mappings,
  ringPair,
  SMALL_RING,
  seeded,
  socketPair,
  within,
} from '../../test/support/index.ts';
import { RING_FAULTS, RING_HELLO, Ring, type RingAnswer, TapError } from '../src/index.ts';

const test = suite('tap-tun/ring');
const source = fileURLToPath(new URL('../src/index.ts', import.meta.url));
const CASES = 30_000;

const into = new Uint8Array(256 * 1024);
const index = new Uint32Array(2 * 256);

/** What `read` finds, as copies; stops at a fault. */
function readAll(ring: Ring): Uint8Array[] {
  const packets: Uint8Array[] = [];
  for (;;) {
    const count = ring.read(into, index);
    if (typeof count !== 'number') throw new Error(count);
    if (count === 0) return packets;
    for (let i = 0; i < count; i++) {
      packets.push(into.slice(index[2 * i]!, index[2 * i]! + index[2 * i + 1]!));
    }
  }
}

/** The same where the packets are. */
function lookAll(ring: Ring): Uint8Array[] {
  const packets: Uint8Array[] = [];
  for (;;) {
    const count = ring.look(index, 64 * 1024);
    if (typeof count !== 'number') throw new Error(count);
    if (count === 0) return packets;
    for (let i = 0; i < count; i++) {
      packets.push(ring.received.slice(index[2 * i]!, index[2 * i]! + index[2 * i + 1]!));
    }
    ring.giveBack();
  }
}

const packet = (length: number, fill: number): Uint8Array => new Uint8Array(length).fill(fill);

test(
  'packets of all lengths arrive whole and in order, both ways, many times around the ring',
  within(
    () =>
      seeded(async (random) => {
        const pair = await ringPair();
        for (const [from, to, take] of [
          [pair.maker, pair.joiner, lookAll],
          [pair.joiner, pair.maker, readAll],
        ] as const) {
          let sentBytes = 0;
          let sent = 0;
          let received = 0;
          while (sentBytes < 40 * SMALL_RING) {
            const lengths: number[] = [];
            for (let burst = random.below(40); burst >= 0; burst--) {
              const length = 24 + random.below(random.below(5) === 0 ? LONGEST - 23 : 1_600);
              if (!from.put(packet(length, (sent + lengths.length) & 0xff), 0, length)) break;
              lengths.push(length);
              sentBytes += length;
            }
            from.flush();
            const packets = take(to);
            assert.equal(
              packets.map((one) => one.length),
              lengths,
            );
            for (const [i, one] of packets.entries()) {
              assert.ok(one.every((byte) => byte === ((received + i) & 0xff)));
            }
            sent += lengths.length;
            received += packets.length;
          }
        }
        pair.close();
      }),
    20_000,
  ),
);

test(
  'nothing is seen before the flush; who sleeps is rung, who is awake is not',
  within(async () => {
    const { maker, joiner, close } = await ringPair();
    let bells = 0;
    joiner.onBell = () => bells++;
    assert.equal(lookAll(joiner), []);
    maker.put(packet(60, 1), 0, 60);
    assert.equal(lookAll(joiner), [], 'not flushed');
    maker.flush();
    await eventually('a bell', () => bells === 1);
    // Not read to the end: it is awake, and no bell is needed.
    for (let i = 0; i < 10; i++) {
      maker.put(packet(60, 2), 0, 60);
      maker.flush();
    }
    assert.ok(joiner.waiting);
    assert.is(lookAll(joiner).length, 11);
    assert.is(joiner.waiting, false);
    maker.put(packet(60, 3), 0, 60);
    maker.flush();
    await eventually('one more bell', () => bells >= 2);
    assert.is(bells, 2);
    assert.is(lookAll(joiner).length, 1);
    close();
  }),
);

test(
  'a full ring refuses, loses nothing, and says when half of it is free',
  within(async () => {
    const { maker, joiner, close } = await ringPair();
    let bells = 0;
    joiner.onBell = () => {};
    maker.onBell = () => bells++;
    let sent = 0;
    while (maker.put(packet(1_000, sent & 0xff), 0, 1_000)) sent++;
    assert.ok(sent > 200 && sent * 1_000 <= SMALL_RING, `${sent} packets`);
    assert.is(maker.put(packet(1_000, 0), 0, 1_000), false, 'still');
    assert.ok(2 * maker.queuedBytes > SMALL_RING);
    let received = 0;
    // Less than half of it: no bell.
    for (let i = 0; i < 3; i++) {
      received += joiner.look(index.subarray(0, 60), 1_000_000) as number;
      joiner.giveBack();
    }
    await new Promise((resolve) => setImmediate(resolve));
    assert.is(bells, 0);
    received += lookAll(joiner).length;
    await eventually('room', () => bells > 0);
    maker.refresh();
    assert.is(maker.queuedBytes, 0);
    assert.is(received, sent);
    assert.ok(maker.put(packet(LONGEST, 9), 0, LONGEST));
    maker.flush();
    assert.is(lookAll(joiner)[0]!.length, LONGEST);
    close();
  }),
);

test(
  'what the joiner put stays readable after it is closed, and the end is told once',
  within(async () => {
    const { maker, joiner, close } = await ringPair();
    let ends = 0;
    maker.onEnd = () => ends++;
    joiner.put(packet(700, 7), 0, 700);
    joiner.flush();
    joiner.close();
    assert.is(joiner.put(packet(60, 0), 0, 60), true, 'into nothing');
    joiner.flush();
    await eventually('the end', () => ends === 1);
    assert.equal(
      readAll(maker).map((one) => [one.length, one[0]]),
      [[700, 7]],
    );
    close();
  }),
);

test(
  `${CASES} corruptions of indices and lengths: a packet within bounds or a named fault, never more`,
  within(
    () =>
      seeded(async (random) => {
        const pair = await ringPair();
        const { maker, joiner, memory } = pair;
        const seen: Record<string, number> = {};
        const wild = () =>
          random.below(2) === 0 ? random.below(2 ** 32) : random.below(2 * SMALL_RING) - random.below(64);
        for (let i = 0; i < CASES; i++) {
          const tail = memory.line(1, 'tail');
          const head = (tail + 8 * random.below(SMALL_RING / 8 + 2)) >>> 0;
          switch (random.below(6)) {
            case 0:
              memory.setLine(1, 'head', wild());
              break;
            case 1:
              memory.setLine(1, 'head', (tail + wild()) >>> 0);
              break;
            case 2:
              memory.writeLength(1, tail, wild());
              memory.setLine(1, 'head', head);
              break;
            case 3: {
              // Some good ones, then one that is not.
              let at = tail;
              for (let good = random.below(5); good > 0; good--) {
                const length = 24 + random.below(100);
                memory.writeLength(1, at, length);
                at += (8 + length + 7) & ~7;
              }
              memory.writeLength(1, at, random.below(3) === 0 ? random.below(24) : random.below(70_000));
              memory.setLine(1, 'head', at + 8 * random.below(20));
              break;
            }
            case 4:
              memory.setLine(0, 'tail', wild());
              memory.setLine(0, 'wake', wild());
              memory.setLine(1, 'room', wild());
              memory.setLine(1, 'head', tail);
              break;
            default: {
              const noise = new Uint8Array(64 + random.below(512));
              for (let at = 0; at < noise.length; at++) noise[at] = random.below(256);
              memory.write(1, tail, noise);
              memory.setLine(1, 'head', head);
            }
          }
          const count = maker.read(into, index);
          const result = typeof count === 'number' ? (count > 0 ? 'packets' : 'nothing') : count;
          seen[result] = (seen[result] ?? 0) + 1;
          if (typeof count === 'number') {
            for (let one = 0; one < count; one++) {
              const [offset, length] = [index[2 * one]!, index[2 * one + 1]!];
              assert.ok(length >= 24 && length <= LONGEST && offset + length <= into.length);
            }
          } else assert.ok(RING_FAULTS.includes(count));
          // What it sends: refused and marked as broken, or taken.
          maker.put(packet(60, 1), 0, 60);
          maker.flush();
          if (maker.broken) {
            seen['tail'] = (seen['tail'] ?? 0) + 1;
            assert.ok(maker.queuedBytes <= SMALL_RING + 128);
          }
          // Sound again, for the next case: everything is where the two ends believe it to be.
          memory.setLine(1, 'head', memory.line(1, 'tail'));
          memory.setLine(0, 'tail', memory.line(0, 'head'));
          maker.refresh();
          maker.read(into, index);
        }
        for (const what of ['packets', 'nothing', 'tail', ...RING_FAULTS]) {
          assert.ok((seen[what] ?? 0) > 100, `${what}: ${seen[what]} of ${CASES}`);
        }
        joiner.close();
        pair.close();
      }),
    30_000,
  ),
);

test(
  'a length that changes after it was judged, and bytes that change after they were copied, change nothing',
  within(async () => {
    const { maker, joiner, memory, close } = await ringPair();
    joiner.put(packet(200, 5), 0, 200);
    joiner.flush();
    assert.is(maker.read(into, index), 1);
    memory.writeLength(1, 0, 60_000);
    memory.write(1, 8, packet(200, 6));
    assert.equal([index[1], into[index[0]!], into[index[0]! + 199]], [200, 5, 5]);
    assert.is(maker.read(into, index), 0);
    close();
  }),
);

test(
  'whoever answers with frames, or without memory, gets a stream of which nothing was read; who ends has ended',
  within(async () => {
    for (const [answer, expected] of [
      [Buffer.from([0, 0, 0, 70, 0, 0, 0, 10, 1, 2, 3]), 'stream'],
      [Buffer.from(RING_HELLO), 'stream'],
      [undefined, 'ended'],
    ] as const) {
      const [accepted, client] = await socketPair();
      const answered = new Promise<RingAnswer>((resolve) => {
        Ring.ask(descriptorOf(client), LONGEST, (heard, ring) => {
          assert.is(ring, undefined);
          resolve(heard);
        });
      });
      if (answer === undefined) accepted.destroy();
      else accepted.write(answer);
      assert.is(await answered, expected);
      if (answer !== undefined && answer.length < RING_HELLO.length) {
        assert.equal(await new Promise((resolve) => client.once('data', resolve).resume()), answer);
      }
      accepted.destroy();
      client.destroy();
    }
  }),
);

test(
  'descriptors are closed and memory is unmapped, whether it is joined, refused, taken back or only offered',
  within(async () => {
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    const open = () => readdirSync('/proc/self/fd').length;
    const unmapped = () =>
      eventually('nothing mapped', () => {
        collect();
        return mappings().length === 0;
      });
    await ringPair().then((pair) => pair.close());
    await unmapped();
    const before = open();
    // A function of its own, so that nothing of it is left on the stack.
    const once = async () => {
      const pair = await ringPair();
      pair.joiner.put(packet(60, 1), 0, 60);
      pair.joiner.flush();
      assert.ok(mappings().length > 0);
      assert.is(readAll(pair.maker).length, 1);
      pair.close();
      const [accepted, client] = await socketPair();
      Ring.ask(descriptorOf(client), LONGEST, () => assert.unreachable('taken back')).cancel();
      Ring.offer(descriptorOf(accepted), { longest: LONGEST }).close();
      accepted.destroy();
      client.destroy();
    };
    for (let i = 0; i < 30; i++) await once();
    await eventually('the same descriptors', () => open() <= before);
    await unmapped();
  }, 20_000),
);

test(
  'kill -9 of a joined process: its end is told, and what it had flushed is there',
  within(() =>
    inScratch(async (directory) => {
      const path = join(directory, 'port');
      const child = `
        import { connect } from 'node:net';
        import { Ring } from ${JSON.stringify(source)};
        const socket = connect(${JSON.stringify(path)}).pause();
        socket.on('connect', () => {
          Ring.ask(socket._handle.fd, ${LONGEST}, (answer, ring) => {
            socket.destroy();
            for (let i = 0; i < 100; i++) ring.put(new Uint8Array(900).fill(i), 0, 900);
            ring.flush();
            ring.put(new Uint8Array(900).fill(200), 0, 900);
            process.kill(process.pid, 'SIGKILL');
          });
        });
      `;
      let maker: Ring | undefined;
      let ended = false;
      const server = createServer({ pauseOnConnect: true }, (accepted) => {
        maker = Ring.offer(descriptorOf(accepted), { longest: LONGEST });
        maker.onEnd = () => {
          ended = true;
        };
        accepted.destroy();
      });
      await new Promise<void>((resolve) => server.listen(path, resolve));
      const { NODE_OPTIONS: _options, ...env } = process.env;
      const run = spawn(process.execPath, ['--input-type=module', '-e', child], { env, stdio: 'inherit' });
      const [, signal] = await new Promise<[number | null, string | null]>((resolve) =>
        run.once('exit', (code, killed) => resolve([code, killed])),
      );
      assert.is(signal, 'SIGKILL');
      await eventually('the end', () => ended);
      const packets = readAll(maker!);
      assert.equal(
        packets.map((one) => one[0]),
        Array.from({ length: 100 }, (_, i) => i),
      );
      maker!.close();
      server.close();
    }),
  ),
);

test(
  'a process with open rings ends when it wants to',
  within(async () => {
    const program = `
    import { connect, createServer } from 'node:net';
    import { Ring } from ${JSON.stringify(source)};
    const path = '\\0ring-exit-' + process.pid;
    createServer({ pauseOnConnect: true }, (accepted) => Ring.offer(accepted._handle.fd, { longest: 2000 })).listen(path, () => {
      const socket = connect(path).pause();
      socket.on('connect', () => Ring.ask(socket._handle.fd, 2000, (answer) => process.exit(answer === 'joined' ? 7 : 8)));
    });
  `;
    const { NODE_OPTIONS: _options, ...env } = process.env;
    const run = spawn(process.execPath, ['--input-type=module', '-e', program], { env, stdio: 'inherit' });
    assert.is(await new Promise((resolve) => run.once('exit', resolve)), 7);
  }),
);

test('an impossible size is refused, a closed socket is an error with a name', async () => {
  const [accepted, client] = await socketPair();
  for (const bytes of [0, 4096, 300_000, 2 ** 27]) {
    assert.throws(() => Ring.offer(descriptorOf(accepted), { bytes, longest: LONGEST }), /size/);
  }
  client.destroy();
  await eventually('gone', () => {
    try {
      Ring.offer(descriptorOf(accepted), { longest: LONGEST }).close();
      return false;
    } catch (error) {
      return error instanceof TapError && error.code === 'EPIPE';
    }
  });
  accepted.destroy();
});

test.run();
