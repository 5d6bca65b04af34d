/** UDP datagrams that shortcuts send on in trains: what a receiver makes of them is what came in (src/native/join.c). */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { SeededRandom } from '../../src/common/index.ts';
import { eventually, seeded, segmentedUdp, within } from '../../test/support/index.ts';
import { datagram, hex, joined, setByte, TERMS, through, VNET } from './datagrams.ts';

const test = suite('tap-tun/trains');
const filled = (length: number, value: number) => new Uint8Array(length).fill(value);
const sizes = (...lengths: number[]) => lengths.map((length, i) => filled(length, i + 1));

const SHAPES: readonly (readonly [what: string, packets: Uint8Array[], pieces: number[]])[] = [
  [
    'the first goes at once, the others together',
    sizes(18, 18, 18, 18).map((payload, id) => datagram({ payload, id })),
    [1, 3],
  ],
  ['IPv6', sizes(1, 1, 1, 1).map((payload) => datagram({ payload, ipv4: false })), [1, 3]],
  [
    'identifications that do not grow: each alone, though fragmenting is forbidden',
    sizes(9, 9, 9).map((payload) => datagram({ payload, dontFragment: true })),
    [1, 1, 1],
  ],
  [
    'identifications wrap around',
    sizes(9, 9, 9, 9).map((payload, i) => datagram({ payload, id: (65_534 + i) % 65_536 })),
    [1, 3],
  ],
  [
    'a shorter one is the last',
    sizes(5, 30, 30, 29, 29).map((payload, id) => datagram({ payload, id })),
    [1, 3, 1],
  ],
  [
    'a longer one begins anew',
    sizes(5, 30, 30, 31, 31).map((payload, id) => datagram({ payload, id })),
    [1, 2, 2],
  ],
  [
    '64 at most',
    sizes(...Array<number>(67).fill(3)).map((payload, id) => datagram({ payload, id })),
    [1, 64, 2],
  ],
  [
    'another flow in between',
    sizes(9, 9, 9, 9, 9).map((payload, id) => datagram({ payload, id, port: id === 2 ? 8 : 9 })),
    [1, 1, 1, 2],
  ],
  ['nothing to carry', sizes(0, 0, 0, 0).map((payload, id) => datagram({ payload, id })), [1, 1, 1, 1]],
  [
    'as many as can be unpacked again',
    sizes(...Array<number>(50).fill(1_472)).map((payload, id) => datagram({ payload, id })),
    [1, 42, 7],
  ],
];

for (const [what, packets, pieces] of SHAPES) {
  test(
    `trains: ${what}`,
    within(async () => {
      const got = await through(packets);
      assert.equal(got.pieces.slice(0, pieces.length), pieces);
      assert.equal(got.out, hex(packets));
    }),
  );
}

const ALONE: readonly (readonly [what: string, change: (packet: Buffer) => void])[] = [
  ['its checksum is complete', (p) => p.fill(0, 0, 10)],
  ['its checksum is known to be good', (p) => void p.fill(0, 0, 10).writeUInt8(2, 0)],
  ['it has no checksum', (p) => void p.fill(0, 0, 10).writeUInt16BE(0, VNET + 40)],
  ['the field to be completed is another', (p) => void p.writeUInt16LE(4, 8)],
  ['more fragments follow', (p) => setByte(p, 0x20, VNET + 20)],
  ['it is a later fragment', (p) => setByte(p, 1, VNET + 21)],
  ['a reserved bit is set', (p) => setByte(p, 0x80, VNET + 20)],
  ['its header checksum is damaged', (p) => void p.writeUInt8(p.readUInt8(VNET + 24) ^ 1, VNET + 24)],
  ['its lifetime differs', (p) => setByte(p, 63, VNET + 22)],
  ['its type of service differs', (p) => setByte(p, 4, VNET + 15)],
  ['its lengths disagree', (p) => void p.writeUInt16BE(p.readUInt16BE(VNET + 38) - 1, VNET + 38)],
  ['its sum is another', (p) => void p.writeUInt16BE(p.readUInt16BE(VNET + 40) ^ 0x100, VNET + 40)],
  ['it is from another port', (p) => void p.writeUInt16BE(8, VNET + 34)],
  ['it is from another address', (p) => setByte(p, 3, VNET + 29)],
];

for (const [what, change] of ALONE) {
  test(
    `a datagram leaves alone when ${what}`,
    within(async () => {
      const packets = sizes(20, 20, 20, 20, 20).map((payload, id) => datagram({ payload, id }));
      const altered = Buffer.from(packets[3]!);
      change(altered);
      packets[3] = new Uint8Array(altered);
      const { out, pieces } = await through(packets);
      assert.equal(out, hex(packets));
      assert.equal(pieces, [1, 2, 1, 1]);
    }),
  );
}

test(
  'padding makes it one that leaves alone',
  within(async () => {
    const packets = sizes(4, 4, 4, 4).map(
      (payload, id) => new Uint8Array(Buffer.concat([datagram({ payload, id }), Buffer.alloc(14)])),
    );
    const { out, pieces } = await through(packets);
    assert.equal([out, pieces], [hex(packets), [1, 1, 1, 1]]);
  }),
);

test(
  'a receiver that does not take trains gets none',
  within(async () => {
    const packets = sizes(20, 20, 20).map((payload, id) => datagram({ payload, id }));
    const { out, pieces } = await through(packets, { ...TERMS, uso: false });
    assert.equal([out, pieces], [hex(packets), [1, 1, 1]]);
  }),
);

/** Flows, sizes and identifications that mostly go on and sometimes do not, now and then something damaged, padded or cut off. */
function randomPackets(random: SeededRandom): Uint8Array[] {
  let flow = { ipv4: true, port: 9, dontFragment: false };
  let size = 20;
  let id = random.below(65_536);
  return Array.from({ length: 2 + random.below(70) }, () => {
    if (random.below(8) === 0)
      flow = { ipv4: random.below(3) > 0, port: 8 + random.below(2), dontFragment: random.below(2) === 0 };
    if (random.below(8) === 0) size = random.below(4) === 0 ? random.below(1_473) : random.below(60);
    if (random.below(10) > 0 && !(flow.dontFragment && flow.port === 8)) id = (id + 1) % 65_536;
    const payload = random.fill(new Uint8Array(random.below(12) === 0 ? random.below(size + 1) : size));
    let packet = datagram({ ...flow, id, payload });
    const odd = random.below(40);
    if (odd === 0) packet[random.below(VNET + 42)]! ^= 1 << random.below(8);
    if (odd === 1) packet = packet.slice(0, VNET + 14 + random.below(packet.length - VNET - 14));
    if (odd === 2) packet = new Uint8Array(Buffer.concat([packet, new Uint8Array(1 + random.below(9))]));
    return packet;
  });
}

const RUNS = 400;

test(
  'whatever stands in the queue comes out byte for byte, in order, through trains or past them',
  within(
    () =>
      seeded(async (random) => {
        let [count, trains, inTrains] = [0, 0, 0];
        for (let run = 0; run < RUNS; run++) {
          const packets = randomPackets(random);
          const { out, pieces } = await through(packets);
          assert.ok(out.join() === hex(packets).join(), `run ${run}`);
          count += packets.length;
          for (const piece of pieces) {
            if (piece === 1) continue;
            trains++;
            inTrains += piece;
          }
        }
        console.log(`${count} datagrams, ${inTrains} of them in ${trains} trains`);
        assert.ok(trains > RUNS && inTrains > count / 4, `${inTrains} of ${count} in trains`);
      }),
    60_000,
  ),
);

test(
  'a train for which the receiver has no room is unpacked for the batch handler, and nothing is lost, doubled or out of order',
  within(
    () =>
      seeded(async (random) => {
        for (const frames of [256, 7]) {
          const j = joined();
          j.listen(frames);
          const sent: Uint8Array[] = [];
          const burst = () => {
            for (let i = 0; i < 40; i++) {
              const packet = datagram({
                id: sent.length % 65_536,
                payload: random.fill(new Uint8Array(700 - ((i % 3) >> 1))),
              });
              if (j.host.writeOne(packet)) sent.push(packet);
            }
          };
          await eventually('the receiver is full', () => {
            burst();
            return j.received.length > 0;
          });
          await eventually('every datagram is somewhere', () => j.from.counters().rxFrames === sent.length);
          assert.is(j.from.counters().rxShortcut + j.received.length, sent.length);
          j.hear();
          await eventually(
            'the others arrive',
            () => j.arrived.flatMap(segmentedUdp).length + j.received.length === sent.length,
          );
          assert.ok(j.arrived.some((packet) => packet[1] === 5));
          assert.equal(hex([...j.arrived.flatMap(segmentedUdp), ...j.received]), hex(sent));
          j.close();
        }
      }),
    20_000,
  ),
);

/** A kernel that does not know UDP segmentation: it refuses what asks for it (virtio_net_hdr_to_skb before 6.2). */
const OLD_KERNEL = `
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <unistd.h>
ssize_t write(int fd, const void *data, size_t length) {
  const unsigned char *bytes = data;
  ssize_t (*real)(int, const void *, size_t) = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
  if (length > 52 && bytes[0] == 1 && bytes[1] == 5) {
    errno = EINVAL;
    return -1;
  }
  return real(fd, data, length);
}`;

const ON_OLD_KERNEL = `
import { datagram, hex, joined } from ${JSON.stringify(join(import.meta.dirname, 'datagrams.ts'))};
import { eventually } from ${JSON.stringify(join(import.meta.dirname, '../../test/support/index.ts'))};
const j = joined();
j.hear();
const packets = Array.from({ length: 8 }, (_, id) => datagram({ payload: new Uint8Array(20).fill(id), id }));
for (const packet of packets.slice(0, 4)) j.host.writeOne(packet);
j.listen();
await eventually('the first four', () => j.arrived.length + j.received.length === 4);
const counts = [j.arrived.length, j.received.length];
j.from.stop();
for (const packet of packets.slice(4)) j.host.writeOne(packet);
j.listen();
await eventually('all', () => j.arrived.length + j.received.length === 8);
const order = [...j.arrived.slice(0, 1), ...j.received, ...j.arrived.slice(1)];
const { rxShortcut } = j.from.counters();
const { txFrames, txRejected } = j.to.counters();
console.log(JSON.stringify({ counts, same: hex(order).join() === hex(packets).join(), rxShortcut, txFrames, txRejected }));
j.close();
`;

test(
  'a kernel that does not know trains refuses one, whose datagrams are unpacked, and gets no other',
  within(() => {
    const directory = mkdtempSync(join(tmpdir(), 'changeover-trains-'));
    try {
      const [source, library] = [join(directory, 'old.c'), join(directory, 'old.so')];
      writeFileSync(source, OLD_KERNEL);
      execFileSync('cc', ['-shared', '-fPIC', '-o', library, source, '-ldl'], { stdio: 'pipe' });
      const script = join(directory, 'script.mts');
      writeFileSync(script, ON_OLD_KERNEL);
      const argv = ['--disable-warning=ExperimentalWarning', '--import', import.meta.resolve('tsx'), script];
      const env = { ...process.env, LD_PRELOAD: library };
      const told = execFileSync(process.execPath, argv, { env, encoding: 'utf8' });
      const expected = { counts: [1, 3], same: true, rxShortcut: 5, txFrames: 5, txRejected: 0 };
      assert.equal(JSON.parse(told), expected);
    } finally {
      rmSync(directory, { recursive: true });
    }
  }, 30_000),
);

test.run();
