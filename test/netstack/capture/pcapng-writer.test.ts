import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VirtualClock } from '../../../src/common/index.ts';
import type { CaptureSink, CaptureStop } from '../../../src/netstack/capture/index.ts';
import { CaptureError, PcapngWriter, StreamSink } from '../../../src/netstack/capture/index.ts';
import { emitVnet } from '../../../src/netstack/index.ts';
import { eventually, seeded, within } from '../../support/index.ts';
import { ipv4, packet, plainChecksum, pseudo4, tcp, udp } from '../packets.ts';
import { blocksOf, readPcapng } from './read-pcapng.ts';

const capture = suite('netstack/capture/pcapng-writer');

/** Keeps what is written; `hold` makes it as slow as a full disk queue, `failAfter` makes it fail. */
class MemorySink implements CaptureSink {
  readonly chunks: Buffer[] = [];
  closed = 0;
  held: (() => void)[] | undefined;
  failAfter = Number.POSITIVE_INFINITY;

  async write(chunk: Uint8Array): Promise<void> {
    if (this.chunks.length >= this.failAfter)
      throw new CaptureError('ENOSPC', 'capture file x cannot be written');
    const { held } = this;
    if (held !== undefined) await new Promise<void>((resolve) => held.push(resolve));
    this.chunks.push(Buffer.from(chunk));
  }

  async close(): Promise<void> {
    this.closed++;
  }

  release(): void {
    const held = this.held ?? [];
    this.held = undefined;
    for (const resolve of held) resolve();
  }

  get file(): Buffer {
    return Buffer.concat(this.chunks);
  }
}

const A = '10.77.0.1';
const B = '10.77.0.11';

/** A TCP packet as an offloading sender gives it: the checksum field holds the folded pseudo-header sum. */
function unfinishedTcp(payload: Uint8Array, gsoSize = 0): Buffer {
  const segment = tcp({ source: A, destination: B, sourcePort: 1024, destinationPort: 80, payload });
  segment.writeUInt16BE(~plainChecksum(pseudo4(A, B, 6, segment.length)) & 0xffff, 16);
  const bytes = packet(ipv4({ source: A, destination: B, protocol: 6, payload: segment }));
  emitVnet(bytes, 0, gsoSize > 0 ? 1 : 0, gsoSize > 0 ? 54 : 0, gsoSize, 34, 16);
  return bytes;
}

const tcpSumRight = (frame: Buffer) =>
  plainChecksum(pseudo4(A, B, 6, frame.length - 34), frame.subarray(34)) === 0;

capture(
  'a file has section, interfaces, packets with direction, time and comment, and statistics',
  within(async () => {
    const clock = new VirtualClock(1_700_000_000_123_456_789n);
    const sink = new MemorySink();
    const writer = PcapngWriter.create(sink, { comment: 'run 7: Übergabe', clock });
    const port = writer.addInterface({ name: 'port a', description: 'active', hardware: 'unix stream' });
    const uplink = writer.addInterface({ name: 'up0', snapLength: 20 });
    const bytes = packet(Buffer.from('payload'));
    writer.writePacket(uplink, 'inbound', 1_700_000_000_999_999_999n, bytes, 0, bytes.length);
    const shifted = Buffer.concat([Buffer.alloc(5), bytes, Buffer.alloc(3)]);
    writer.writePacket(port, 'outbound', 5n, shifted, 5, bytes.length, 'held 3 ms → über B');
    clock.advance(1000);
    const summary = await writer.close();
    const read = readPcapng(sink.file);
    assert.is(read.comment, 'run 7: Übergabe');
    assert.equal(read.interfaces, [
      {
        linkType: 1,
        snapLength: 20,
        name: 'up0',
        description: undefined,
        hardware: undefined,
        resolution: 9,
      },
      {
        linkType: 1,
        snapLength: 262_144,
        name: 'port a',
        description: 'active',
        hardware: 'unix stream',
        resolution: 9,
      },
    ]);
    assert.equal(read.packets, [
      {
        interfaceId: 0,
        timestampNs: 1_700_000_000_999_999_999n,
        data: bytes.subarray(10, 30),
        originalLength: 21,
        direction: 1,
        comment: undefined,
      },
      {
        interfaceId: 1,
        timestampNs: 5n,
        data: bytes.subarray(10),
        originalLength: 21,
        direction: 2,
        comment: 'held 3 ms → über B',
      },
    ]);
    const times = { startNs: 1_700_000_000_123_456_789n, endNs: 1_700_000_001_123_456_789n };
    assert.equal(read.statistics, [
      { interfaceId: 1, received: 1n, dropped: 0n, ...times },
      { interfaceId: 0, received: 1n, dropped: 0n, ...times },
    ]);
    assert.equal(summary, { packets: 2, bytes: sink.file.length, dropped: 0 });
    assert.is(sink.closed, 1);
    assert.equal(await writer.close(), summary);
    assert.is(sink.closed, 1);
  }),
);

capture(
  'what was captured is what is read, whatever its length and comment',
  within(() =>
    seeded(async (random) => {
      const sink = new MemorySink();
      const writer = PcapngWriter.create(sink);
      const id = writer.addInterface({ name: 'x' });
      const expected: { data: Buffer; comment: string | undefined }[] = [];
      for (let i = 0; i < 500; i++) {
        const bytes = packet(
          random.fill(new Uint8Array(random.below(random.below(10) === 0 ? 65_000 : 300))),
        );
        const comment = random.below(3) === 0 ? 'ä€😀x'.repeat(random.below(50)) : undefined;
        writer.writePacket(id, 'inbound', BigInt(i), bytes, 0, bytes.length, comment);
        expected.push({ data: bytes.subarray(10), comment: comment === '' ? undefined : comment });
        if (random.below(50) === 0) await writer.flush();
      }
      const { dropped } = await writer.close();
      assert.is(dropped, 0);
      assert.equal(
        readPcapng(sink.file).packets.map(({ data, comment }) => ({ data, comment })),
        expected,
      );
    }),
  ),
);

capture(
  'an unfinished checksum is finished in the captured copy, not in the packet',
  within(async () => {
    const sink = new MemorySink();
    const writer = PcapngWriter.create(sink);
    const whole = writer.addInterface({ name: 'whole' });
    const cut = writer.addInterface({ name: 'cut', snapLength: 60 });
    const headers = writer.addInterface({ name: 'cut before the field', snapLength: 48 });
    const payload = Buffer.from(Array.from({ length: 3001 }, (_, i) => (i * 7) & 255));
    const bytes = unfinishedTcp(payload);
    const before = Buffer.from(bytes);
    for (const id of [whole, cut, headers]) writer.writePacket(id, 'outbound', 0n, bytes, 0, bytes.length);
    await writer.close();
    assert.equal(bytes, before);
    const [first, second, third] = readPcapng(sink.file).packets.map(({ data }) => data) as [
      Buffer,
      Buffer,
      Buffer,
    ];
    assert.ok(tcpSumRight(first));
    assert.equal(second, first.subarray(0, 60));
    assert.equal(third, before.subarray(10, 58));
  }),
);

capture(
  'a large segment keeps its length in the IP header, or gets it',
  within(async () => {
    const sink = new MemorySink();
    const writer = PcapngWriter.create(sink);
    const id = writer.addInterface({ name: 'x' });
    const right = unfinishedTcp(Buffer.alloc(40_000, 7), 1448);
    const zero = Buffer.from(right);
    zero.writeUInt16BE(0, 10 + 14 + 2);
    for (const bytes of [right, zero]) writer.writePacket(id, 'outbound', 0n, bytes, 0, bytes.length);
    await writer.close();
    for (const { data } of readPcapng(sink.file).packets) {
      assert.is(data.readUInt16BE(16), data.length - 14);
      assert.is(plainChecksum(data.subarray(14, 34)), 0);
      assert.ok(tcpSumRight(data));
    }
  }),
);

capture(
  'a UDP checksum that comes out as zero is written as all ones',
  within(async () => {
    const sink = new MemorySink();
    const writer = PcapngWriter.create(sink);
    const id = writer.addInterface({ name: 'x' });
    const ports = { source: A, destination: B, sourcePort: 1, destinationPort: 2 };
    // The payload word that makes the sum all ones: the checksum of the same datagram with a zero word there.
    const word = udp({ ...ports, payload: Buffer.alloc(2) }).readUInt16BE(6);
    const datagram = udp({ ...ports, payload: Buffer.from([word >> 8, word & 255]) });
    assert.is(datagram.readUInt16BE(6), 0xffff);
    datagram.writeUInt16BE(~plainChecksum(pseudo4(A, B, 17, 10)) & 0xffff, 6);
    const bytes = packet(ipv4({ source: A, destination: B, protocol: 17, payload: datagram }));
    emitVnet(bytes, 0, 0, 0, 0, 34, 6);
    writer.writePacket(id, 'inbound', 0n, bytes, 0, bytes.length);
    await writer.close();
    assert.is(readPcapng(sink.file).packets[0]!.data.readUInt16BE(40), 0xffff);
  }),
);

capture(
  'a TCP checksum that comes out as zero is written as zero',
  within(async () => {
    const sink = new MemorySink();
    const writer = PcapngWriter.create(sink);
    const id = writer.addInterface({ name: 'x' });
    const ports = { source: A, destination: B, sourcePort: 1024, destinationPort: 80 };
    const word = tcp({ ...ports, payload: Buffer.alloc(2) }).readUInt16BE(16);
    const bytes = unfinishedTcp(Buffer.from([word >> 8, word & 255]));
    writer.writePacket(id, 'inbound', 0n, bytes, 0, bytes.length);
    await writer.close();
    assert.is(readPcapng(sink.file).packets[0]!.data.readUInt16BE(14 + 20 + 16), 0);
  }),
);

capture(
  'a vnet header that makes no sense leaves the copy as it was',
  within(() =>
    seeded(async (random) => {
      const sink = new MemorySink();
      const writer = PcapngWriter.create(sink);
      const id = writer.addInterface({ name: 'x' });
      const frames: Buffer[] = [];
      for (let i = 0; i < 300; i++) {
        const bytes = packet(random.fill(new Uint8Array(random.below(80))), { type: random.u32() & 0xffff });
        emitVnet(bytes, 0, 0, 0, 0, 60_000 + random.below(5000), random.below(65_536));
        frames.push(bytes.subarray(10));
        writer.writePacket(id, 'inbound', 0n, bytes, 0, bytes.length);
        random.fill(bytes.subarray(0, 10));
        writer.writePacket(id, 'inbound', 0n, bytes, 0, bytes.length);
      }
      await writer.close();
      const packets = readPcapng(sink.file).packets;
      for (const [i, frame] of frames.entries()) assert.equal(packets[2 * i]!.data, frame);
    }),
  ),
);

capture(
  'the file consists of whole blocks after every write, and grows without being asked',
  within(async () => {
    const clock = new VirtualClock();
    const sink = new MemorySink();
    const writer = PcapngWriter.create(sink, { clock, flushMs: 250 });
    const id = writer.addInterface({ name: 'x' });
    await writer.flush();
    assert.is(blocksOf(sink.file).length, 1, 'the section header is there at once');
    const bytes = packet(Buffer.alloc(100));
    writer.writePacket(id, 'inbound', 0n, bytes, 0, bytes.length);
    clock.advance(249);
    assert.is(sink.chunks.length, 1);
    clock.advance(1);
    await eventually('the write', () => sink.chunks.length === 2);
    assert.is(readPcapng(sink.file).packets.length, 1);
    for (let i = 0; i < 5000; i++) writer.writePacket(id, 'inbound', 0n, bytes, 0, bytes.length);
    await eventually('a write at the threshold', () => sink.chunks.length > 2);
    blocksOf(sink.file);
    await writer.close();
    assert.is(readPcapng(sink.file).packets.length, 5001);
  }),
);

capture(
  'a mark is a frame with a comment, written at once',
  within(async () => {
    const sink = new MemorySink();
    const writer = PcapngWriter.create(sink, { clock: new VirtualClock(77n) });
    writer.mark('cut');
    writer.mark('notice 3 set', 99n);
    await eventually('the write', () => sink.chunks.length > 0);
    await writer.flush();
    const { interfaces, packets } = readPcapng(sink.file);
    assert.is(interfaces[0]!.name, 'marks');
    assert.equal(
      packets.map((p) => [p.timestampNs, p.comment, p.data.subarray(14).toString(), p.data.readUInt16BE(12)]),
      [
        [77n, 'cut', 'cut', 0x88b5],
        [99n, 'notice 3 set', 'notice 3 set', 0x88b5],
      ],
    );
    await writer.close();
  }),
);

capture(
  'a sink that is too slow costs packets, which are counted, and no memory',
  within(async () => {
    const sink = new MemorySink();
    sink.held = [];
    const writer = PcapngWriter.create(sink, { bufferBytes: 256 * 1024 });
    const id = writer.addInterface({ name: 'x' });
    const bytes = packet(Buffer.alloc(1000));
    for (let i = 0; i < 1000; i++) writer.writePacket(id, 'inbound', BigInt(i), bytes, 0, bytes.length);
    const { dropped } = writer.summary;
    assert.ok(dropped > 0 && dropped < 1000, `${dropped} dropped`);
    sink.release();
    await writer.flush();
    writer.writePacket(id, 'inbound', 1000n, bytes, 0, bytes.length);
    const summary = await writer.close();
    const { packets, statistics } = readPcapng(sink.file);
    assert.is(summary.dropped, dropped);
    assert.is(packets.length, 1001 - dropped);
    assert.is(packets.at(-1)!.timestampNs, 1000n);
    assert.equal([statistics[0]!.received, statistics[0]!.dropped], [1001n, BigInt(dropped)]);
  }),
);

capture(
  'a sink that fails stops the capture once, with its reason; capturing goes on as counted drops',
  within(async () => {
    const sink = new MemorySink();
    sink.failAfter = 1;
    const stops: CaptureStop[] = [];
    const writer = PcapngWriter.create(sink, { onStop: (stop) => stops.push(stop) });
    const id = writer.addInterface({ name: 'x' });
    await writer.flush();
    const bytes = packet(Buffer.alloc(1000));
    for (let i = 0; i < 300; i++) writer.writePacket(id, 'inbound', 0n, bytes, 0, bytes.length);
    await eventually('the stop', () => writer.summary.stopped);
    const before = writer.summary.dropped;
    writer.writePacket(id, 'inbound', 0n, bytes, 0, bytes.length);
    writer.mark('too late');
    assert.is(writer.summary.dropped, before + 2);
    const summary = await writer.close();
    const reason = { code: 'ENOSPC', reason: 'capture file x cannot be written' };
    assert.equal(summary.stopped, reason);
    assert.equal(stops, [reason]);
    assert.is(sink.chunks.length, 1);
    assert.is(sink.closed, 1);
  }),
);

capture(
  'a limit ends the capture with a complete file',
  within(async () => {
    const sink = new MemorySink();
    const stops: string[] = [];
    const writer = PcapngWriter.create(sink, { limitBytes: 20_000, onStop: ({ code }) => stops.push(code) });
    const id = writer.addInterface({ name: 'x' });
    const bytes = packet(Buffer.alloc(1000));
    for (let i = 0; i < 100; i++) writer.writePacket(id, 'inbound', 0n, bytes, 0, bytes.length);
    const summary = await writer.close();
    assert.equal(stops, ['limit']);
    assert.is(summary.stopped!.code, 'limit');
    const { packets, statistics } = readPcapng(sink.file);
    assert.is(packets.length, summary.packets);
    assert.is(statistics[0]!.dropped, BigInt(100 - packets.length));
    assert.ok(sink.file.length < 20_200);
  }),
);

capture(
  'packets without a frame and ids that were never given are counted, not written; after the end nothing is',
  within(async () => {
    const sink = new MemorySink();
    const writer = PcapngWriter.create(sink);
    const id = writer.addInterface({ name: 'x', snapLength: Number.NaN });
    writer.writePacket(id, 'inbound', 0n, new Uint8Array(9), 0, 9);
    writer.writePacket(id + 1, 'inbound', 0n, new Uint8Array(90), 0, 90);
    writer.writePacket(-1, 'inbound', 0n, new Uint8Array(90), 0, 90);
    const closing = writer.close();
    writer.writePacket(id, 'inbound', 0n, new Uint8Array(90), 0, 90);
    const summary = await closing;
    assert.equal([summary.packets, summary.dropped], [0, 3], 'after the end: neither');
    assert.is(readPcapng(sink.file).interfaces[0]!.snapLength, 262_144);
  }),
);

capture(
  'a comment longer than an option can be is cut between characters',
  within(async () => {
    const sink = new MemorySink();
    const writer = PcapngWriter.create(sink, { comment: '€'.repeat(30_000) });
    const id = writer.addInterface({ name: '€'.repeat(5000) });
    const bytes = packet(Buffer.alloc(10));
    writer.writePacket(id, 'inbound', 0n, bytes, 0, bytes.length, `x${'😀'.repeat(30_000)}`);
    await writer.close();
    const { comment, packets } = readPcapng(sink.file);
    assert.is(comment, '€'.repeat(21_844));
    assert.is(packets[0]!.comment, `x${'😀'.repeat(16_382)}`);
  }),
);

capture(
  'files: created, replaced, refused with a remedy; a full disk stops the capture',
  within(async () => {
    const folder = mkdtempSync(join(tmpdir(), 'capture-'));
    try {
      const path = join(folder, 'a.pcapng');
      for (const count of [3, 1]) {
        const writer = PcapngWriter.create(path);
        for (let i = 0; i < count; i++) writer.mark(`mark ${i}`);
        await writer.close();
        assert.is(readPcapng(readFileSync(path)).packets.length, count);
      }
      assert.throws(
        () => PcapngWriter.create(join(folder, 'missing', 'a.pcapng')),
        (error: unknown) =>
          error instanceof CaptureError &&
          error.code === 'ENOENT' &&
          error.remedy === 'create the folder first',
      );
      assert.throws(
        () => PcapngWriter.create(folder),
        (error: unknown) => error instanceof CaptureError && error.code === 'EISDIR',
      );
      const full = PcapngWriter.create('/dev/full');
      await eventually('the stop', () => full.summary.stopped);
      assert.is((await full.close()).stopped!.code, 'ENOSPC');
    } finally {
      rmSync(folder, { recursive: true });
    }
  }),
);

capture(
  'a stream is a sink; its end stops the capture',
  within(async () => {
    const stream = new PassThrough();
    const chunks: Buffer[] = [];
    stream.on('data', (chunk) => chunks.push(chunk));
    const writer = PcapngWriter.create(new StreamSink(stream));
    writer.mark('one');
    await writer.flush();
    assert.is(readPcapng(Buffer.concat(chunks)).packets.length, 1);
    stream.destroy();
    writer.mark('two');
    await eventually('the stop', () => writer.summary.stopped);
    assert.is((await writer.close()).stopped!.code, 'closed');
  }),
);

capture.run();
