import { createHash } from 'node:crypto';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { FrameParser, FrameWriter, MAX_PACKET_LEN } from '../../../src/netstack/index.ts';
import { seeded, within } from '../../support/index.ts';

const test = suite('netstack/link/stream-framing');

/** A packet: ten bytes of header (`mark` in flags' neighbourhood only when `vnet`), then a frame filled with `fill`. */
function packet(frameLength: number, fill: number, vnet: boolean): Uint8Array {
  const p = new Uint8Array(10 + frameLength).fill(fill);
  p.fill(0, 0, 10);
  if (vnet) p[6] = fill;
  return p;
}

/** Length and content in short, so that a difference can be read. */
function digest(p: Uint8Array): string {
  return `${p.length} ${createHash('sha1').update(p).digest('hex').slice(0, 12)}`;
}

/** The stream that carries the packets, made byte by byte. */
function stream(packets: readonly Uint8Array[], vnet: boolean): Uint8Array {
  const parts = packets.map((p) => {
    const body = Buffer.from(vnet ? p : p.subarray(10));
    const length = Buffer.alloc(4);
    length.writeUInt32BE(body.length);
    return Buffer.concat(vnet ? [length, Buffer.from([0, 0, 0, 10]), body] : [length, body]);
  });
  return Uint8Array.from(Buffer.concat(parts));
}

function parser(vnet: boolean, maxPacket = MAX_PACKET_LEN) {
  const got: string[] = [];
  const p = new FrameParser(vnet, maxPacket, (buffer, offset, length) => {
    got.push(digest(buffer.subarray(offset, offset + length)));
  });
  return { p, got };
}

for (const vnet of [false, true]) {
  const form = vnet ? 'with vnet header' : 'plain';
  const packets = [packet(14, 1, vnet), packet(60, 2, vnet), packet(1514, 3, vnet), packet(15, 4, vnet)];
  const bytes = stream(packets, vnet);
  const digests = packets.map(digest);

  test(
    `${form}: no more frames at once than asked for, wherever the chunk is cut; the rest later`,
    within(() => {
      for (let cut = 0; cut <= bytes.length; cut++) {
        for (const most of [1, 2, 3]) {
          const { p, got } = parser(vnet);
          for (const chunk of [bytes.slice(0, cut), bytes.slice(cut)]) {
            for (let at = 0; at < chunk.length; at = p.position) {
              const before = got.length;
              assert.is(p.push(chunk, at, chunk.length, most), undefined);
              assert.ok(got.length - before <= most);
              assert.ok(
                p.position === chunk.length || got.length - before === most,
                'it stops early for nothing',
              );
            }
          }
          assert.equal(got, digests, `cut at ${cut}, ${most} at once`);
        }
      }
    }),
  );

  test(
    `${form}: packets of one chunk, of two cut at every byte, and byte by byte`,
    within(() => {
      for (let cut = 0; cut <= bytes.length; cut++) {
        const { p, got } = parser(vnet);
        const [first, second] = [bytes.slice(0, cut), bytes.slice(cut)];
        assert.is(p.push(first, 0, first.length), undefined);
        assert.is(p.push(second, 0, second.length), undefined);
        assert.equal(got, digests, `cut at ${cut}`);
        assert.is(p.pending, 0);
      }
      const { p, got } = parser(vnet);
      for (const byte of bytes) p.push(Uint8Array.of(byte), 0, 1);
      assert.equal(got, digests);
    }),
  );

  test(
    `${form}: a stream that ends anywhere gives the whole packets only, and starts anew after reset`,
    within(() => {
      for (let end = 0; end < bytes.length; end++) {
        const { p, got } = parser(vnet);
        const head = bytes.slice(0, end);
        assert.is(p.push(head, 0, end), undefined);
        assert.equal(got, digests.slice(0, got.length));
        assert.ok(got.length < packets.length);
        p.reset();
        const again = bytes.slice();
        p.push(again, 0, again.length);
        assert.equal(got.slice(-4), digests);
      }
    }),
  );

  test(
    `${form}: a chunk within a larger buffer is left alone outside its range`,
    within(() => {
      const { p, got } = parser(vnet);
      const buffer = new Uint8Array(bytes.length + 64).fill(0xee);
      buffer.set(bytes, 32);
      p.push(buffer, 32, 32 + bytes.length);
      assert.equal(got, digests);
      assert.ok(buffer.subarray(0, 32).every((b) => b === 0xee));
      assert.ok(buffer.subarray(32 + bytes.length).every((b) => b === 0xee));
    }),
  );

  test(
    `${form}: random chunks of random packets`,
    within(() =>
      seeded((random) => {
        for (let run = 0; run < 100; run++) {
          const many = Array.from({ length: random.below(30) }, () =>
            packet(14 + random.below(random.below(4) === 0 ? 65_000 : 200), 1 + random.below(255), vnet),
          );
          const all = stream(many, vnet);
          const { p, got } = parser(vnet);
          for (let at = 0; at < all.length; ) {
            const size = 1 + random.below(random.below(3) === 0 ? 65_536 : 40);
            const chunk = all.slice(at, at + size);
            assert.is(p.push(chunk, 0, chunk.length), undefined);
            at += size;
          }
          assert.equal(got, many.map(digest));
        }
      }),
    ),
  );

  test(
    `${form}: impossible lengths are faults, also when they arrive byte by byte`,
    within(() => {
      const head = (length: number, vnetLength = 10) =>
        Uint8Array.from([length >>> 24, length >>> 16, length >>> 8, length, 0, 0, 0, vnetLength]);
      const least = vnet ? 24 : 14;
      for (const [bad, fault] of [
        [head(0), 'frame-too-short'],
        [head(least - 1), 'frame-too-short'],
        [head(69_633), 'frame-too-long'],
        [head(0xffffffff), 'frame-too-long'],
        [Buffer.from('GET / HTTP/1.1\r\n'), 'frame-too-long'],
        ...(vnet ? [[head(100, 12), 'vnet-header-length'] as const] : []),
      ] as const) {
        assert.is(parser(vnet).p.push(Uint8Array.from(bad), 0, bad.length), fault);
        const { p } = parser(vnet);
        const faults = [...bad].map((byte) => p.push(Uint8Array.of(byte), 0, 1)).filter(Boolean);
        assert.is(faults[0], fault);
      }
    }),
  );

  test(
    `${form}: a frame above the port’s limit is stepped over and counted, the next one arrives`,
    within(() => {
      const limited = [packet(60, 1, vnet), packet(3000, 2, vnet), packet(60, 3, vnet)];
      const all = stream(limited, vnet);
      for (const size of [1, 7, 1000, 100_000]) {
        const { p, got } = parser(vnet, 1600);
        for (let at = 0; at < all.length; at += size) {
          const chunk = all.slice(at, at + size);
          p.push(chunk, 0, chunk.length);
        }
        assert.equal(got, [digest(limited[0]!), digest(limited[2]!)]);
        assert.is(p.oversize, 1);
      }
    }),
  );

  test(
    `${form}: any garbage ends as a fault or as frames, without throwing`,
    within(() =>
      seeded((random) => {
        for (let run = 0; run < 2_000; run++) {
          const { p } = parser(vnet);
          const garbage = random.fill(new Uint8Array(random.below(300)));
          if (random.below(2) === 0 && garbage.length > 4) garbage.fill(0, 0, 3);
          p.push(garbage, 0, garbage.length);
        }
      }),
    ),
  );

  test(
    `${form}: what the writer writes the parser reads; one write per flush`,
    within(() =>
      seeded((random) => {
        const { p, got } = parser(vnet);
        let writes = 0;
        const writer = new FrameWriter(
          { vnetHeader: vnet },
          (chunk, done) => {
            writes++;
            const copy = chunk.slice();
            assert.is(p.push(copy, 0, copy.length), undefined);
            done();
          },
          () => {},
        );
        const sent: Uint8Array[] = [];
        for (let batch = 0; batch < 50; batch++) {
          for (let i = random.below(20); i >= 0; i--) {
            const one = packet(14 + random.below(1500), 1 + random.below(255), vnet);
            const within = new Uint8Array(one.length + 9);
            within.set(one, 9);
            assert.ok(writer.put(within, 9, one.length));
            sent.push(one);
          }
          writer.flush();
        }
        writer.flush();
        assert.equal(got, sent.map(digest));
        assert.is(writes, 50);
      }),
    ),
  );
}

test(
  'the writer is bounded: full of writes under way it refuses, and tells when there is room',
  within(() => {
    const waiting: (() => void)[] = [];
    let room = 0;
    const writer = new FrameWriter(
      { vnetHeader: true, batches: 2 },
      (_chunk, done) => void waiting.push(done),
      () => room++,
    );
    const one = packet(60_000, 1, true);
    let taken = 0;
    while (writer.put(one, 0, one.length)) {
      taken++;
      writer.flush();
      assert.ok(taken < 10);
    }
    assert.is(taken, 2);
    assert.is(room, 0);
    waiting.shift()!();
    assert.is(room, 1);
    assert.ok(writer.put(one, 0, one.length));
    writer.reset();
    waiting.shift()!();
    assert.is(room, 1, 'a write of the stream before says nothing');
  }),
);

test.run();
