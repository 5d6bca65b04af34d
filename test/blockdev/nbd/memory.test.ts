/** Memory of server and client under peers that take nothing. The figures are printed. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { MemoryStore, NbdClient } from '../../../src/blockdev/index.ts';
import * as nbd from '../../../src/blockdev/nbd/protocol.ts';
import { eventually, within } from '../../support/index.ts';
import type { Peer } from './peer.ts';
import { withServer } from './peer.ts';
import type { Asked } from './script.ts';
import { scripted } from './script.ts';

const test = suite('blockdev/nbd/memory');

const KIB = 1024;
const MIB = 1024 * KIB;
const CLIENTS = 64;
const REQUESTS = 10_000;

const mib = (bytes: number): string => `${(bytes / MIB).toFixed(1)} MiB`;

/** `REQUESTS` headers of `type` and `length`, without payload. */
function headers(type: number, length: number): Buffer {
  const out = Buffer.alloc(REQUESTS * nbd.REQUEST_SIZE);
  for (let i = 0; i < REQUESTS; i++) {
    const at = i * nbd.REQUEST_SIZE;
    out.writeUInt32BE(nbd.NBD_REQUEST_MAGIC, at);
    out.writeUInt16BE(type, at + 6);
    out.writeBigUInt64BE(BigInt(i), at + 8);
    out.writeUInt32BE(length, at + 24);
  }
  return out;
}

for (const [what, length, structured] of [
  ['reads of 64 KiB', 64 * KIB, true],
  ['reads of 4 KiB', 4 * KIB, false],
  ['reads of 1 MiB', MIB, false],
] as const)
  test(
    `${CLIENTS} clients that queue ${REQUESTS} ${what} each and take no reply: bounded, and another client is served`,
    within(
      () =>
        withServer({ disk: new MemoryStore(2 * MIB) }, async ({ peer, path, server }) => {
          const good = await NbdClient.connect(path, 'disk');
          const peers: Peer[] = [];
          for (let i = 0; i < CLIENTS; i++) {
            const client = await peer();
            await client.go('disk', structured);
            client.pause();
            peers.push(client);
          }
          const before = process.memoryUsage.rss();
          let most = 0;
          const look = () => {
            most = Math.max(most, process.memoryUsage.rss() - before);
          };
          const queue = headers(nbd.NBD_CMD_READ, length);
          for (const [i, client] of peers.entries()) {
            client.send(queue);
            const block = Buffer.alloc(4096, i);
            await good.writeAt(block, 4096n * BigInt(i));
            const back = Buffer.alloc(4096);
            await good.readAt(back, 4096n * BigInt(i));
            assert.ok(back.equals(block), 'the good client is served');
            look();
          }
          let reads = 0;
          await eventually('nothing more is read for them', async () => {
            const now = server.counters()['reads']!;
            const still = now === reads;
            reads = now;
            look();
            await new Promise((resolve) => setTimeout(resolve, 20));
            return still;
          });
          console.log(
            `nbd memory: ${CLIENTS} clients × ${REQUESTS} ${what}: ${mib(most)}; ${reads} of ${CLIENTS * REQUESTS} carried out`,
          );
          assert.ok(reads < CLIENTS * REQUESTS, 'the server has stopped taking requests');
          // The share of each, and what it may exceed that by: a batch, and the reply that fills it.
          const bound = CLIENTS * ((64 * MIB) / CLIENTS + MIB + 2 * length) + 64 * MIB;
          assert.ok(most < bound, `${mib(most)}, more than ${mib(bound)}`);
          for (const client of peers) client.destroy();
          await eventually('they are gone', () => server.connections === 1);
          await good.close();
        }),
      60_000,
    ),
  );

test(
  `a client with ${REQUESTS} writes queued at a server that takes nothing: no more than maxInFlightBytes is on its way`,
  within(async () => {
    const held: Asked[] = [];
    let open = false;
    let release = () => {};
    await scripted(
      {
        request: (socket, asked) => {
          const reply = Buffer.alloc(nbd.SIMPLE_REPLY_SIZE);
          reply.writeUInt32BE(nbd.NBD_SIMPLE_REPLY_MAGIC, 0);
          reply.writeBigUInt64BE(asked.cookie, 8);
          if (open) socket.write(reply);
          else {
            held.push({ ...asked, payload: Buffer.alloc(0) });
            socket.pause();
            release = () => {
              socket.write(reply);
              socket.resume();
            };
          }
        },
      },
      async (path) => {
        const client = await NbdClient.connect(path, 'disk', { maxInFlightBytes: 4 * MIB });
        const before = process.memoryUsage();
        const payload = Buffer.alloc(64 * KIB, 1);
        const all = Promise.all(Array.from({ length: REQUESTS }, () => client.writeAt(payload, 0n)));
        await eventually('the first', () => held.length === 1);
        assert.is(client.pending, REQUESTS);
        const now = process.memoryUsage();
        const grown = now.arrayBuffers - before.arrayBuffers + Math.max(0, now.heapUsed - before.heapUsed);
        console.log(`nbd memory: ${REQUESTS} writes of 64 KiB queued at our client: ${mib(grown)}`);
        assert.ok(grown < 64 * MIB, mib(grown));
        open = true;
        release();
        await all;
        assert.is(client.pending, 0);
        await client.close();
      },
    );
  }, 60_000),
);

test.run();
