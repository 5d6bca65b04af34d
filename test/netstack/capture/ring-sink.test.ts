import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VirtualClock } from '../../../src/common/index.ts';
import { PcapngWriter, RingSink, VNET_HDR_LEN } from '../../../src/netstack/index.ts';
import { readPcapng } from './read-pcapng.ts';

const ring = suite('netstack/capture/ring-sink');

/** A ring of `limit` bytes, and what puts numbered packets of two interfaces into it. */
function scene(limit: number) {
  const clock = new VirtualClock();
  const sink = new RingSink(limit);
  const writer = PcapngWriter.create(sink, { clock, comment: 'ring' });
  const ids = ['left', 'right'].map((name) => writer.addInterface({ name }));
  let n = 0;
  const put = (count: number, size = 1000) => {
    for (let i = 0; i < count; i++, n++) {
      const packet = new Uint8Array(VNET_HDR_LEN + size);
      new DataView(packet.buffer).setUint32(VNET_HDR_LEN, n);
      writer.writePacket(ids[n % 2]!, 'inbound', BigInt(n) * 1_000_000n, packet, 0, packet.length);
    }
  };
  const read = async (filter: Parameters<RingSink['dump']>[0] = {}) => {
    await writer.flush();
    const { chunks, packets } = sink.dump(filter);
    const file = readPcapng(Buffer.concat(chunks));
    assert.is(file.packets.length, packets);
    return { ...file, numbers: file.packets.map(({ data }) => data.readUInt32BE(0)) };
  };
  return { writer, sink, put, read };
}

ring('everything is there until the limit is reached, and can be read as a file', async () => {
  const { put, read, sink } = scene(1024 * 1024);
  put(10);
  const first = await read();
  assert.equal(first.numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  assert.is(first.comment, 'ring');
  assert.equal(
    first.interfaces.map(({ name }) => name),
    ['left', 'right'],
  );
  assert.ok(sink.bytes > 10_000 && sink.bytes < 12_000, String(sink.bytes));
});

ring('beyond it the oldest go, the latest stay without a gap, memory is bounded', async () => {
  const { put, read, sink, writer } = scene(1024 * 1024);
  for (let i = 0; i < 50; i++) {
    put(200);
    await writer.flush();
    assert.ok(sink.bytes <= 1024 * 1024, String(sink.bytes));
  }
  const { numbers } = await read();
  assert.is(numbers.at(-1), 9_999);
  assert.ok(numbers.length > 700, `only ${numbers.length} are left`);
  assert.equal(
    numbers,
    Array.from({ length: numbers.length }, (_, i) => 10_000 - numbers.length + i),
  );
});

ring('only some interfaces, only the last while', async () => {
  const { put, read } = scene(1024 * 1024);
  put(20, 100);
  assert.equal((await read({ interfaces: new Set(['right']) })).numbers, [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]);
  assert.equal((await read({ sinceNs: 17_000_000n })).numbers, [17, 18, 19]);
  assert.equal((await read({ interfaces: new Set(['left']), sinceNs: 17_000_000n })).numbers, [18]);
  assert.equal((await read({ interfaces: new Set(['nobody']) })).numbers, []);
});

ring('a packet larger than what is left of the limit is kept alone', async () => {
  const { put, read } = scene(0);
  put(1, 60_000);
  put(20, 65_000);
  const { numbers } = await read();
  assert.is(numbers.at(-1), 20);
});

ring('after its end nothing is left in memory', async () => {
  const { put, writer, sink } = scene(1024 * 1024);
  put(100);
  await writer.close();
  assert.is(sink.bytes, 0);
  assert.is(sink.dump().packets, 0);
});

ring.run();
