import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { FilterDevice, MemoryStore } from '../../../src/blockdev/index.ts';
import * as nbd from '../../../src/blockdev/nbd/protocol.ts';
import { eventually, within } from '../../support/index.ts';
import type { Chunk } from './peer.ts';
import { withServer } from './peer.ts';
import { failure } from './slow-device.ts';

const test = suite('blockdev/nbd/large-reads');

const MIB = 1024 * 1024;
const pattern = (length: number) =>
  Buffer.from(Array.from({ length }, (_, i) => (i * 31 + (i >> 8) + 7) & 0xff));

/** Answers large reads at once, up to an offset; counts them. */
class Cached extends FilterDevice {
  reads = 0;
  upTo = BigInt(2 ** 40);
  failAt: bigint | undefined;
  readAtSync(target: Uint8Array, offset: bigint): boolean {
    if (this.failAt !== undefined && offset >= this.failAt) throw failure('EIO');
    if (offset >= this.upTo) return false;
    this.reads++;
    return this.next.readAtSync!(target, offset);
  }
}

/** The chunks of one reply. */
async function chunksOf(client: { chunk(): Promise<Chunk> }): Promise<Chunk[]> {
  const chunks: Chunk[] = [];
  do chunks.push(await client.chunk());
  while (chunks.at(-1)!.flags === 0);
  return chunks;
}

test(
  'a large read is sent in portions; what the device cannot give at once comes together; an error ends the reply',
  within(async () => {
    const store = new MemoryStore(MIB);
    const data = pattern(MIB);
    await store.writeAt(data, 0n);
    const cached = new Cached(store);
    await withServer({ disk: cached }, async ({ peer }) => {
      const client = await peer();
      await client.go('disk', true);
      const PORTION = 256 * 1024;
      const read = async () => {
        client.request(nbd.NBD_CMD_READ, 0n, MIB);
        const chunks = await chunksOf(client);
        const got = Buffer.alloc(MIB);
        for (const { type, payload } of chunks) {
          if (type !== nbd.NBD_REPLY_TYPE_OFFSET_DATA) continue;
          payload.copy(got, Number(payload.readBigUInt64BE(0)), 8);
        }
        return { chunks, got };
      };
      const whole = await read();
      assert.equal(
        whole.chunks.map(({ payload }) => payload.length),
        [8 + PORTION, 8 + PORTION, 8 + PORTION, 8 + PORTION],
      );
      assert.ok(whole.got.equals(data));
      cached.reads = 0;
      cached.upTo = 300_000n;
      const cold = await read();
      assert.is(cached.reads, 2);
      assert.ok(cold.got.equals(data));
      cached.failAt = BigInt(2 * PORTION);
      const failed = await read();
      assert.is(failed.chunks.length, 3);
      assert.is(failed.chunks[2]!.type, nbd.NBD_REPLY_TYPE_ERROR);
      assert.ok(failed.got.subarray(0, 2 * PORTION).equals(data.subarray(0, 2 * PORTION)));
    });
  }),
);

test(
  'large reads whose client takes no replies are not read ahead, and end with it',
  within(async () => {
    const store = new MemoryStore(MIB);
    await store.writeAt(pattern(MIB), 0n);
    const cached = new Cached(store);
    await withServer({ disk: cached }, async ({ peer, server }) => {
      const client = await peer();
      await client.go('disk', true);
      client.pause();
      for (let n = 0n; n < 60n; n++) client.request(nbd.NBD_CMD_READ, 0n, MIB, 0, n);
      await eventually('the first are read', () => cached.reads > 8);
      await new Promise((resolve) => setTimeout(resolve, 100));
      assert.ok(cached.reads < 40, `${cached.reads} portions read`);
      client.resume();
      for (let n = 0; n < 30; n++) await chunksOf(client);
      client.pause();
      client.destroy();
      await eventually('its end', () => server.connections === 0);
      assert.is(await server.close(), 0, 'requests that nobody ended');
    });
  }),
);

test.run();
