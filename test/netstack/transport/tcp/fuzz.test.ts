/**
 * N5 for TCP: raw and structure-aware segments against listeners and connections in every state. Nothing throws, nothing
 * grows without bound, connections of other peers go on. FUZZ=1 or SOAK=1: the long counts; SEED repeats a run.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { SeededRandom } from '../../../../src/common/index.ts';
import { writeU16, writeU32 } from '../../../../src/netstack/wire/index.ts';
import { seeded, within } from '../../../support/index.ts';
import { ACK, adopt, dial, Endpoint, established, Network, ScriptedPeer, SYN } from './support/index.ts';

const fuzz = suite('netstack/transport/tcp/fuzz');
const long = process.env['FUZZ'] === '1' || process.env['SOAK'] === '1';
const COUNT = long ? 1_000_000 : 50_000;
const LIMIT_MS = long ? 600_000 : 60_000;

/** A server with a listener on port 80 and a witness that must not notice anything. */
function scene(seed: number) {
  const network = new Network(seed);
  const server = network.host('10.0.0.2', { receiveBuffer: 20_000, receiveBufferMax: 20_000 });
  const client = network.host('10.0.0.1');
  const [witness, far] = established(client, server, 7);
  const living = new Set<Endpoint>();
  server.tcp.listen({ port: 80, backlog: 16 }, (connection) => living.add(adopt(connection)));
  return { network, server, client, witness, far, living };
}

const OPTION_KINDS = [0, 1, 2, 3, 4, 5, 8, 5, 8, 253, 255];

/** A field of options of a multiple of four bytes: mostly well-formed ones, with lengths that lie now and then. */
function randomOptions(random: SeededRandom): Buffer {
  const parts: number[] = [];
  const lengths: Record<number, number> = { 2: 4, 3: 3, 4: 2, 5: 10, 8: 10 };
  for (let n = random.below(4); n > 0; n--) {
    const kind = OPTION_KINDS[random.below(OPTION_KINDS.length)]!;
    parts.push(kind);
    if (kind < 2) continue;
    const length = lengths[kind] ?? 2 + random.below(6);
    parts.push(random.below(20) === 0 ? random.below(256) : length);
    for (let i = 2; i < length; i++) parts.push(random.below(256));
  }
  const field = Buffer.alloc(Math.min(40, Math.ceil(parts.length / 4) * 4));
  field.set(parts.slice(0, field.length));
  return field;
}

/** A number at, around or far from one that matters. */
function near(random: SeededRandom, number: number): number {
  const spread = [0, 1, 3, 1460, 20_000, 70_000, 0x8000_0000][random.below(7)]!;
  return (number + random.below(2 * spread + 1) - spread) >>> 0;
}

function segment(random: SeededRandom, seq: number, ack: number, from: number, to: number): Uint8Array {
  const options = randomOptions(random);
  const payload = random.below(3) === 0 ? random.below(1461) : random.below(4);
  const bytes = Buffer.alloc(20 + options.length + payload, 0x66);
  writeU16(bytes, 0, from);
  writeU16(bytes, 2, to);
  writeU32(bytes, 4, near(random, seq));
  writeU32(bytes, 8, near(random, ack));
  bytes[12] = random.below(50) === 0 ? random.below(256) : ((20 + options.length) / 4) << 4;
  // Mostly with ACK, as otherwise nothing gets far.
  bytes[13] = random.below(256) | (random.below(3) > 0 ? ACK : 0);
  if (random.below(2) === 0) bytes[13] &= ~(SYN | 4);
  writeU16(bytes, 14, random.below(4) === 0 ? 0 : random.below(0x1_0000));
  writeU16(bytes, 18, random.below(0x1_0000));
  bytes.set(options, 20);
  return bytes;
}

function noBrokenWitness(all: ReturnType<typeof scene>): void {
  const { network, server, client, witness, far } = all;
  const before = far.bytes.length;
  witness.send('still here');
  assert.ok(
    network.until(() => far.bytes.length === before + 10, 60_000),
    'the witness goes on',
  );
  network.clock.advance(10_000);
  const honest = dial(client, server, 80);
  assert.ok(
    network.until(() => honest.isConnected, 300_000),
    'a new client gets in',
  );
}

fuzz(
  `${COUNT} raw segments: dropped or answered, nothing throws`,
  within(
    () =>
      seeded((random, seed) => {
        const all = scene(seed);
        const { network, server } = all;
        const peer = new ScriptedPeer(network, server, 80);
        for (let i = 0; i < COUNT; i++) {
          const bytes = random.fill(new Uint8Array(random.below(90)));
          if (bytes.length > 4 && i & 1) writeU16(bytes, 2, 80);
          server.deliver({ atMs: 0, from: peer.address, to: server.address, bytes, gsoSize: 0 });
          if (i % 1000 === 0) network.clock.advance(50);
        }
        noBrokenWitness(all);
      }),
    LIMIT_MS,
  ),
);

fuzz(
  `${COUNT} structure-aware segments in every state: invariants hold, connections stay bounded`,
  within(
    () =>
      seeded((random, seed) => {
        const all = scene(seed);
        const { network, server, living } = all;
        const seen = new Set<string>();
        let sent = 0;
        for (let round = 0; sent < COUNT; round++) {
          const port = 1024 + (round % 60_000);
          const active = random.below(4) === 0;
          const peer = new ScriptedPeer(network, server, active ? port : 80, '10.0.0.9', port);
          let seq = random.u32();
          let ack = 0;
          let endpoint: Endpoint | undefined;
          if (active) {
            endpoint = new Endpoint();
            const options = { remoteAddress: peer.address, remotePort: port, localPort: port };
            endpoint.connection = server.tcp.connect(options, endpoint);
          } else {
            peer.send({ seq: seq - 1, flags: SYN, mss: 1460, windowScale: 3, sackPermitted: true });
          }
          peer.settle();
          ack = (peer.inbox.at(-1)?.seq ?? 0) + 1;
          if (active && random.below(2) === 0) peer.send({ seq: seq - 1, ack, flags: SYN | ACK });
          else if (!active && random.below(8) > 0) peer.send({ seq, ack, flags: ACK });
          const mine = endpoint ?? [...living].at(-1);
          for (let step = random.below(60); step >= 0 && sent < COUNT; step--) {
            const bytes = segment(random, seq, ack, port, peer.hostPort);
            server.deliver({ atMs: 0, from: peer.address, to: server.address, bytes, gsoSize: 0 });
            sent++;
            // TIME-WAIT is told as closed.
            if (mine !== undefined) seen.add(mine.connection.state);
            if (mine !== undefined && !mine.isClosed) {
              const { status } = mine.connection;
              assert.ok(status.cwnd >= 0 && status.flight >= 0 && status.rcvWnd >= 0, JSON.stringify(status));
              assert.ok(mine.connection.readableBytes <= 20_000 + 1460);
              act(random, mine);
            }
            const last = peer.inbox.at(-1);
            if (last !== undefined) {
              // Follow what the stack says, so that the next segments come near its windows.
              if (last.ack !== 0) seq = last.ack;
              ack = (last.seq + last.data.length) >>> 0;
              peer.clear();
            }
            if (random.below(10) === 0) network.clock.advance(random.below(400));
          }
          for (const one of living) {
            if (one.isClosed || living.size > 50) {
              if (!one.isClosed) one.connection.abort();
              living.delete(one);
            }
          }
          if (active && random.below(2) === 0) endpoint?.connection.abort();
          network.hosts.delete(peer.address);
          if (round % 500 === 0) network.clock.advance(200_000);
        }
        assert.is(sent, COUNT);
        const wanted = ['SYN-SENT', 'ESTABLISHED', 'FIN-WAIT-1', 'CLOSE-WAIT', 'LAST-ACK', 'TIME-WAIT'];
        for (const state of wanted) assert.ok(seen.has(state), `${state} was reached: ${[...seen].join()}`);
        network.clock.advance(2_000_000);
        const counts = server.tcp.stateCounts();
        const total = Object.values(counts).reduce((sum, n) => sum + n, 0);
        assert.ok(total < 500, JSON.stringify(counts));
        noBrokenWitness(all);
      }),
    LIMIT_MS,
  ),
);

/** What an application may do at any time. */
function act(random: SeededRandom, endpoint: Endpoint): void {
  const { connection } = endpoint;
  switch (random.below(24)) {
    case 0:
      if (connection.state === 'ESTABLISHED') connection.write(Buffer.alloc(random.below(5000), 'w'));
      break;
    case 1:
      connection.shutdown();
      break;
    case 2:
      endpoint.reading = !endpoint.reading;
      break;
    case 3:
      connection.setNoDelay(true);
      break;
    case 4:
      connection.setKeepAlive(random.below(2) === 0 ? null : { idleMs: 1000 });
      break;
  }
}

fuzz.run();
