import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VirtualClock } from '../../../src/common/index.ts';
import type { CaptureSink } from '../../../src/netstack/capture/index.ts';
import { CaptureLink, PcapngWriter } from '../../../src/netstack/capture/index.ts';
import { MemoryLink } from '../../../src/netstack/link/index.ts';
import { within } from '../../support/index.ts';
import { packet } from '../packets.ts';
import { readPcapng } from './read-pcapng.ts';

const captured = suite('netstack/capture/capture-link');

captured(
  'both directions are captured at their time, and everything else passes through',
  within(async () => {
    const clock = new VirtualClock(1000n);
    const chunks: Buffer[] = [];
    const sink: CaptureSink = {
      write: async (chunk) => void chunks.push(Buffer.from(chunk)),
      close: async () => {},
    };
    const [near, far] = MemoryLink.pair(clock, { names: ['near', 'far'], queuePackets: 1, mtu: 1400 });
    const writer = PcapngWriter.create(sink, { clock });
    const link = new CaptureLink(near, writer, { clock, description: 'port of A' });
    assert.equal([link.name, link.mtu, link.offload], ['near', 1400, near.offload]);
    const events: string[] = [];
    const receiver = (name: string) => ({
      receive: (_buffer: Uint8Array, _offset: number, length: number) =>
        void events.push(`${name} ${length}`),
      endOfBatch: () => void events.push(`${name} end`),
      writable: () => void events.push(`${name} writable`),
    });
    link.attach(receiver('near'));
    far.attach(receiver('far'));
    const [out, back] = [packet(Buffer.alloc(30)), packet(Buffer.alloc(40))];
    assert.ok(link.transmit(out, 0, out.length));
    assert.not.ok(link.transmit(out, 0, out.length), 'the queue is full');
    link.flush();
    clock.advance(1);
    assert.ok(far.transmit(back, 0, back.length));
    far.flush();
    clock.advance(1);
    link.close();
    await writer.close();
    assert.ok(events.includes('far 54'));
    assert.ok(events.includes('near 64'));
    assert.ok(events.includes('near end'));
    assert.ok(events.includes('near writable'));
    const { interfaces, packets } = readPcapng(Buffer.concat(chunks));
    assert.equal([interfaces[0]!.name, interfaces[0]!.description], ['near', 'port of A']);
    assert.equal(
      packets.map((p) => [p.direction, p.data.length, p.timestampNs]),
      [
        [2, 44, 1000n],
        [1, 54, 1_001_000n],
      ],
    );
  }),
);

captured.run();
