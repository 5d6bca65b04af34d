import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { carriedOn, eventually, seeded, shortcutKey, within } from '../../test/support/index.ts';
import { PacketDevice, type ShortcutTerms } from '../src/index.ts';

const test = suite('tap-tun/shortcuts');
const VNET = 10;
const ALL: ShortcutTerms = { longest: 1518, checksum: true, tso4: true, tso6: true, uso: false };

/** Header and frame: IPv4 and UDP from host 1 to host 2, or to `last`. */
function ipv4(last = 2, length = 60): Uint8Array {
  const packet = new Uint8Array(VNET + length);
  packet.set([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00, 0x45, 0], VNET);
  packet.set([(length - 14) >> 8, (length - 14) & 0xff], VNET + 16);
  packet.set([64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, last], VNET + 22);
  return packet;
}

function ipv6(next: number, type: number, length = 80): Uint8Array {
  const packet = new Uint8Array(VNET + length);
  packet.set([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60], VNET);
  packet.set([(length - 54) >> 8, (length - 54) & 0xff, next, 64], VNET + 18);
  packet.set([0xfd, 0], VNET + 38);
  packet[VNET + 53] = 9;
  packet[VNET + 54] = type;
  return packet;
}

/** host → [from … JavaScript or shortcut … to] → peer; what JavaScript and the peer have got. */
function joined() {
  const [host, from] = PacketDevice.pair();
  const [to, peer] = PacketDevice.pair();
  const received: Uint8Array[] = [];
  const arrived: Uint8Array[] = [];
  const into = (list: Uint8Array[]) => (buffer: Uint8Array, index: Uint32Array, count: number) => {
    for (let i = 0; i < count; i++) list.push(buffer.slice(index[2 * i]!, index[2 * i]! + index[2 * i + 1]!));
  };
  peer.onError = () => {};
  peer.start(into(arrived));
  const add = (packet: Uint8Array, terms = ALL) => from.addShortcut(to, packet, 0, packet.length, terms);
  const close = () => {
    for (const device of [host, from, to, peer]) device.close();
  };
  return { host, from, to, peer, received, arrived, add, close, listen: () => from.start(into(received)) };
}

test(
  'frames like the one a shortcut was made of pass; they and their bytes are counted at both devices',
  within(async () => {
    const j = joined();
    assert.ok(j.add(ipv4()));
    j.listen();
    j.host.writeOne(ipv4());
    j.host.writeOne(ipv4(2, 100));
    await eventually('both frames', () => j.arrived.length === 2);
    assert.equal(j.arrived[1], ipv4(2, 100));
    j.host.writeOne(ipv4(3));
    await eventually('a frame to somebody else is received', () => j.received.length === 1);
    const { rxFrames, rxShortcut, rxShortcutBytes } = j.from.counters();
    assert.equal([rxFrames, rxShortcut, rxShortcutBytes], [3, 2, 180]);
    const { txFrames, txShortcut, txShortcutBytes } = j.to.counters();
    assert.equal([txFrames, txShortcut, txShortcutBytes], [2, 2, 180]);
    j.close();
  }),
);

test(
  'whether a frame passes is what an independent reading of it says, for whole, mutated and truncated frames',
  within(
    () =>
      seeded(async (random) => {
        const terms = [
          ALL,
          { longest: 70, checksum: false, tso4: true, tso6: false, uso: false },
          { longest: 1518, checksum: true, tso4: false, tso6: true, uso: true },
        ];
        const bases = [
          () => ipv4(2, 60 + random.below(40)),
          () => ipv6(6, 0),
          () => ipv6(17, 0),
          () => ipv6(58, 128 + random.below(8)),
        ];
        const headers = [
          [],
          [1, 0, 54, 0, 0, 0, 34, 0, 6, 0],
          [1, 1, 54, 0, 180, 5, 34, 0, 16, 0],
          [0, 4, 0, 0, 1],
          [3, 0x81, 0, 0, 1],
        ];
        let count = 0;
        let passed = 0;
        for (const each of terms) {
          const j = joined();
          const keys = new Set<string | undefined>();
          for (const base of [ipv4(), ipv6(6, 0), ipv6(17, 0), ipv6(58, 128), ipv6(58, 129)]) {
            assert.ok(j.add(base, each));
            keys.add(shortcutKey(base));
          }
          j.listen();
          for (let i = 0; i < 1_000; i++) {
            let packet = bases[random.below(bases.length)]!();
            packet.set(headers[random.below(headers.length)]!);
            if (random.below(3) > 0) packet[random.below(VNET + 60)]! ^= 1 << random.below(8);
            if (random.below(8) === 0) packet = packet.slice(0, VNET + 14 + random.below(60));
            const before = j.received.length + j.arrived.length;
            j.host.writeOne(packet);
            await eventually('the frame', () => j.received.length + j.arrived.length > before);
            const key = shortcutKey(packet);
            const expected = key !== undefined && keys.has(key) && carriedOn(each, packet);
            const did = j.arrived.length > 0;
            assert.is(did, expected, Buffer.from(packet).toString('hex'));
            assert.equal((did ? j.arrived : j.received)[0], packet);
            j.arrived.length = j.received.length = 0;
            count++;
            if (did) passed++;
          }
          j.close();
        }
        console.log(`${count} frames, ${passed} by shortcuts`);
        assert.ok(passed > 300 && passed < count - 300);
      }),
    60_000,
  ),
);

test(
  'no frame overtakes one that waits for the batch handler',
  within(async () => {
    const j = joined();
    j.add(ipv4());
    const order: number[] = [];
    j.from.start((_buffer, index, count) => {
      for (let i = 0; i < count; i++) order.push(index[2 * i + 1]!);
    });
    for (const packet of [ipv4(2, 61), ipv4(3, 62), ipv4(2, 63)]) j.host.writeOne(packet);
    await eventually('three frames', () => order.length + j.arrived.length === 3);
    assert.equal(
      j.arrived.map((packet) => packet.length),
      [VNET + 61],
    );
    assert.equal(order, [VNET + 62, VNET + 63]);
    j.close();
  }),
);

test(
  'a frame for which the receiver has no room goes to the batch handler, and those after it',
  within(async () => {
    const j = joined();
    j.peer.stop();
    j.add(ipv4());
    j.listen();
    let sent = 0;
    await eventually('the receiver is full', () => {
      if (j.host.writeOne(ipv4(2, 1000))) sent++;
      return j.received.length > 2;
    });
    await eventually('every frame is somewhere', () => j.from.counters().rxFrames === sent);
    assert.is(j.from.counters().rxShortcut + j.received.length, sent);
    j.close();
  }),
);

test(
  'shortcuts are forgotten on demand, and when either end is closed',
  within(async () => {
    const j = joined();
    j.add(ipv4());
    j.listen();
    j.from.forgetShortcuts();
    j.host.writeOne(ipv4());
    await eventually('received', () => j.received.length === 1);
    j.add(ipv4());
    j.to.close();
    j.host.writeOne(ipv4());
    await eventually('received', () => j.received.length === 2);
    assert.throws(() => j.add(ipv4()), /closed/);
    assert.is(j.from.counters().rxShortcut, 0);
    j.close();
    j.from.forgetShortcuts();
  }),
);

test('what can have no shortcut is refused', () => {
  const j = joined();
  const group = ipv4();
  group[VNET] = 1;
  const options = ipv4();
  options[VNET + 14] = 0x46;
  for (const packet of [group, options, ipv6(58, 135), new Uint8Array(20), new Uint8Array(5)]) {
    assert.is(j.add(packet), false);
  }
  assert.is(j.from.addShortcut(j.from, ipv4(), 0, 70, ALL), false);
  assert.throws(() => j.from.addShortcut(j.to, ipv4(), 0, 71, ALL), /outside the buffer/);
  j.close();
});

test(
  'a wake-up passes a bounded number of frames, so that others get their turn',
  within(async () => {
    const j = joined();
    for (let i = 0; i < 100; i++) assert.ok(j.host.writeOne(ipv4()));
    j.add(ipv4());
    const seen: number[] = [];
    j.from.start(() => {}, { frames: 16 });
    const turn = () => {
      seen.push(j.from.counters().rxShortcut);
      if (seen.length < 400 && seen.at(-1)! < 100) setImmediate(turn);
    };
    setImmediate(turn);
    await eventually('all passed', () => j.from.counters().rxShortcut === 100);
    let before = 0;
    for (const count of seen) {
      assert.ok(count - before <= 32, `${count - before} frames in one turn`);
      before = count;
    }
    j.close();
  }),
);

test.run();
