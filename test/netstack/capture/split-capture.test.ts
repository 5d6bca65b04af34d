import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { PcapngWriter, SplitError, splitCapture } from '../../../src/netstack/capture/index.ts';
import { inScratch, within } from '../../support/index.ts';
import { packet } from '../packets.ts';
import { blocksOf, readPcapng } from './read-pcapng.ts';

const test = suite('netstack/capture/split-capture');

/** Two uplinks, two ports, one of which sees nothing, and marks before and between. */
async function capture(file: string): Promise<void> {
  const writer = PcapngWriter.create(file, { comment: 'a run' });
  writer.mark('prepared');
  const ids = [
    writer.addInterface({ name: 'co0', description: 'uplink' }),
    writer.addInterface({ name: 'co1', description: 'uplink' }),
    writer.addInterface({ name: 'A-net1', description: 'partition 02:00:00:00:00:0a' }),
    writer.addInterface({ name: 'quiet', description: 'partition 02:00:00:00:00:0b' }),
  ];
  for (let i = 0; i < 9; i++) {
    if (i === 5) writer.mark('cut');
    const bytes = packet(Buffer.from([i, i, i]), { type: 0x88b6 });
    writer.writePacket(
      ids[i % 3]!,
      i % 2 === 0 ? 'inbound' : 'outbound',
      BigInt(i),
      bytes,
      0,
      bytes.length,
      `n${i}`,
    );
  }
  await writer.close();
}

const comments = (file: string) =>
  readPcapng(readFileSync(file)).packets.map(({ comment, interfaceId }) => `${interfaceId} ${comment}`);

test(
  'uplinks are one view, each port its own; interfaces are numbered anew, marks and statistics are with them, times stay',
  within(() =>
    inScratch(async (folder) => {
      const file = join(folder, 'cut.pcapng');
      await capture(file);
      const into = join(folder, 'views');
      mkdirSync(into);
      const views = splitCapture(file, into);
      assert.equal(
        views.map(({ view, packets }) => `${view} ${packets}`),
        ['clients 6', 'A-net1 3'],
      );
      assert.equal(readdirSync(into).sort(), ['cut.A-net1.pcapng', 'cut.clients.pcapng']);
      assert.equal(comments(join(into, 'cut.clients.pcapng')), [
        ...['0 prepared', '1 n0', '2 n1', '1 n3', '2 n4', '0 cut', '1 n6', '2 n7'],
      ]);
      assert.equal(comments(join(into, 'cut.A-net1.pcapng')), [
        '0 prepared',
        '1 n2',
        '0 cut',
        '1 n5',
        '1 n8',
      ]);
      const whole = readPcapng(readFileSync(file));
      const port = readPcapng(readFileSync(join(into, 'cut.A-net1.pcapng')));
      assert.is(port.comment, 'a run');
      assert.equal(
        port.interfaces.map(({ name }) => name),
        ['marks', 'A-net1'],
      );
      assert.equal(port.packets.slice(-1), [{ ...whole.packets.at(-1)!, interfaceId: 1 }]);
      assert.is(port.statistics.length, 2);
    }),
  ),
);

test(
  'cut around every end of a block, the whole blocks before it are taken apart, as of a file that grows',
  within(() =>
    inScratch(async (folder) => {
      const file = join(folder, 'cut.pcapng');
      await capture(file);
      const bytes = readFileSync(file);
      const packets = (views: { packets: number }[]) => views.reduce((sum, one) => sum + one.packets, 0);
      const section = blocksOf(bytes)[0]!.body.length + 12;
      let last = 0;
      const ends: number[] = [];
      for (const { body } of blocksOf(bytes)) ends.push((ends.at(-1) ?? 0) + body.length + 12);
      const lengths = ends.flatMap((end) => [
        end - 5,
        end - 4,
        end - 1,
        end,
        end + 1,
        end + 4,
        end + 11,
        end + 12,
      ]);
      for (const length of lengths) {
        if (length < section || length > bytes.length) continue;
        writeFileSync(file, bytes.subarray(0, length));
        const found = packets(splitCapture(file, folder));
        assert.ok(found >= last && found <= 9, `${found} packets of ${length} bytes`);
        last = found;
      }
      assert.is(last, 9);
    }),
  ),
);

test(
  'what is no capture is refused, and nothing is left',
  within(() =>
    inScratch(async (folder) => {
      const file = join(folder, 'x.pcapng');
      await capture(file);
      const bytes = readFileSync(file);
      const refuses = (content: Buffer, why: string) => {
        writeFileSync(file, content);
        assert.throws(
          () => splitCapture(file, folder),
          (error: Error) => error instanceof SplitError,
          why,
        );
        assert.equal(readdirSync(folder), ['x.pcapng'], why);
      };
      refuses(Buffer.alloc(0), 'empty');
      refuses(Buffer.from('not a capture at all, but a text'), 'text');
      refuses(Buffer.concat([bytes, bytes]), 'two sections');
      const swapped = Buffer.from(bytes);
      swapped.subarray(0, 28).swap32();
      refuses(swapped, 'big-endian');
      const [section, first] = blocksOf(bytes);
      const at = section!.body.length + 12 + first!.body.length + 12;
      const unknown = Buffer.from(bytes);
      unknown.writeUInt32LE(77, at + 8);
      refuses(unknown, 'a packet of an interface that was not described');
    }),
  ),
);

test.run();
