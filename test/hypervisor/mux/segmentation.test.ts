import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { completeChecksum, TcpSegmenter } from '../../../src/hypervisor/mux/segmentation.ts';
import {
  emitVnet,
  foldSum,
  ipv4PseudoHeaderSum,
  ipv6PseudoHeaderSum,
  readU16,
  readU32,
  VNET_GSO,
  writeU16,
} from '../../../src/netstack/index.ts';
import { checksum6Right } from '../../netstack/packets6.ts';
import { seeded, within } from '../../support/index.ts';
import {
  bench,
  CLIENT,
  checksumsValid,
  dropsOf,
  FLAG,
  fromClient,
  MAC,
  SERVICE,
  tcp,
  udp,
} from './harness.ts';
import { bench6, CLIENT6, fromClient6, SECOND6, SERVICE6, text6 } from './harness6.ts';

const test = suite('hypervisor/mux/segmentation');
const TCP_AT = 44;
const TCP6_AT = 64;

/** A large TCP packet as an offloading sender hands it over. */
function large(payload: string, flags: number, gsoSize: number, seq = 1000): Uint8Array {
  const packet = tcp({ from: CLIENT, to: SERVICE, sport: 4000, dport: 80, flags, seq, payload });
  const length = 20 + payload.length;
  writeU16(packet, TCP_AT + 16, foldSum(ipv4PseudoHeaderSum(packet, 24, length)));
  emitVnet(packet, 0, gsoSize > 0 ? VNET_GSO.TCPV4 : VNET_GSO.NONE, 54, gsoSize, 34, 16);
  return packet;
}

test(
  'a large packet is cut into segments with valid checksums, rising sequence numbers and identifications',
  within(() =>
    seeded((random) => {
      const segmenter = new TcpSegmenter();
      for (let run = 0; run < 200; run++) {
        const size = 1 + random.below(20_000);
        const mss = 500 + random.below(1000);
        const payload = Array.from({ length: size }, () => String.fromCharCode(97 + random.below(26))).join(
          '',
        );
        const seq = random.u32();
        const packet = large(payload, FLAG.ACK | FLAG.PSH | FLAG.FIN | 0x80, mss, seq);
        const segments: Uint8Array[] = [];
        assert.ok(
          segmenter.segment(
            packet,
            0,
            packet.length,
            (buffer, offset, length) => void segments.push(buffer.slice(offset, offset + length)),
          ),
        );
        assert.is(segments.length, Math.ceil(size / mss));
        let text = '';
        for (const [i, s] of segments.entries()) {
          assert.ok(checksumsValid(s), `run ${run}, segment ${i}`);
          assert.equal(s.subarray(0, 10), new Uint8Array(10), 'nothing is left to do');
          assert.is(readU32(s, TCP_AT + 4), (seq + i * mss) >>> 0);
          assert.is(readU16(s, 24 + 4), 1 + i);
          const last = i === segments.length - 1;
          const flags = s[TCP_AT + 13]!;
          assert.is((flags & FLAG.FIN) !== 0, last);
          assert.is((flags & FLAG.PSH) !== 0, last);
          assert.is((flags & 0x80) !== 0, i === 0, 'CWR on the first one only');
          text += new TextDecoder().decode(s.subarray(64));
        }
        assert.is(text, payload);
      }
    }),
  ),
);

test(
  'what cannot be cut is refused',
  within(() => {
    const segmenter = new TcpSegmenter();
    const never = () => assert.unreachable();
    const whole = large('x'.repeat(3000), FLAG.ACK, 1000);
    for (let length = 24; length < 3064; length += 13) {
      assert.is(segmenter.segment(whole, 0, length, never), false, `${length}`);
    }
    const notTcp = udp({ from: CLIENT, to: SERVICE, sport: 1, dport: 2, payload: 'x'.repeat(3000) });
    emitVnet(notTcp, 0, VNET_GSO.TCPV4, 54, 1000, 34, 6);
    assert.is(segmenter.segment(notTcp, 0, notTcp.length, never), false);
  }),
);

test(
  'a checksum that was left to the link is completed, Ethernet padding apart',
  within(() => {
    const packet = large('ab', FLAG.ACK, 0);
    packet.fill(0xff, 66);
    completeChecksum(packet, 0, packet.length);
    assert.ok(checksumsValid(packet));
    assert.equal(packet.subarray(0, 10), new Uint8Array(10));
  }),
);

test(
  'a UDP checksum that computes to zero is sent as ones',
  within(() => {
    for (let word = 0; word < 65_536; word++) {
      const packet = udp({ from: CLIENT, to: SERVICE, sport: 1, dport: 2, payload: 'xy' });
      writeU16(packet, 52, word);
      writeU16(packet, TCP_AT + 6, foldSum(ipv4PseudoHeaderSum(packet, 24, 10)));
      emitVnet(packet, 0, VNET_GSO.NONE, 0, 0, 34, 6);
      completeChecksum(packet, 0, packet.length);
      assert.ok(readU16(packet, TCP_AT + 6) !== 0, `payload ${word}`);
    }
  }),
);

test(
  'between ports: carried where both understand it, done by the mux where the receiver does not',
  within(() => {
    const payload = 'z'.repeat(5000);
    const offloading = bench();
    offloading.up.deliver(large(payload, FLAG.ACK, 1460));
    const [carried] = offloading.a.take();
    assert.is(carried![1], VNET_GSO.TCPV4);
    const plain = bench({ offload: false });
    plain.up.deliver(large(payload, FLAG.ACK, 1460), large('short', FLAG.ACK, 0));
    const got = plain.a.take();
    assert.is(got.length, 5);
    for (const packet of got) {
      assert.ok(checksumsValid(packet));
      assert.ok(packet.length <= 10 + 1514);
    }
    plain.up.deliver(
      (() => {
        const bad = large('x'.repeat(3000), FLAG.ACK, 1000);
        bad[1] = VNET_GSO.UDP_L4;
        return bad;
      })(),
    );
    assert.is(dropsOf(plain, 'a')['segmentation'], 1);
  }),
);

test(
  'a notice changes a large packet before it is cut',
  within(() => {
    const b = bench({ offload: false });
    b.up.deliver(fromClient(4000, FLAG.SYN));
    b.mux.switch({ address: SERVICE, from: 'a', to: 'b', notice: { second: '10.77.0.12' } });
    const packet = tcp({
      fromMac: MAC.a,
      toMac: MAC.client,
      from: '10.77.0.12',
      to: CLIENT,
      sport: 80,
      dport: 4000,
      flags: FLAG.ACK,
      payload: 'q'.repeat(4000),
    });
    writeU16(packet, TCP_AT + 16, foldSum(ipv4PseudoHeaderSum(packet, 24, 4020)));
    emitVnet(packet, 0, VNET_GSO.TCPV4, 54, 1460, 34, 16);
    b.a.deliver(packet);
    const got = b.up.take();
    assert.is(got.length, 3);
    for (const segment of got) assert.ok(checksumsValid(segment));
  }),
);

/** An offloading sender's TCP over IPv6: the checksum field holds the pseudo header's sum. */
function large6(payload: string, flags: number, gsoSize: number): Uint8Array {
  const packet = fromClient6(4000, flags, payload);
  const length = 20 + payload.length;
  writeU16(packet, TCP6_AT + 16, foldSum(ipv6PseudoHeaderSum(packet, 24, 6, length)));
  emitVnet(packet, 0, gsoSize > 0 ? VNET_GSO.TCPV6 : VNET_GSO.NONE, 74, gsoSize, 54, 16);
  return packet;
}

test(
  'TCP over IPv6 is cut into segments with valid checksums and rising sequence numbers, its payload whole',
  within(() =>
    seeded((random) => {
      for (let run = 0; run < 100; run++) {
        const size = 1 + random.below(20_000);
        const mss = 500 + random.below(900);
        const payload = Array.from({ length: size }, () => String.fromCharCode(97 + random.below(26))).join(
          '',
        );
        const b = bench6({ offload: false });
        b.up.deliver(large6(payload, FLAG.ACK | FLAG.PSH | FLAG.FIN, mss));
        const got = b.a.take();
        assert.is(got.length, Math.ceil(size / mss));
        let whole = '';
        for (const [i, segment] of got.entries()) {
          assert.ok(checksum6Right(segment));
          assert.is(readU32(segment, TCP6_AT + 4), 1000 + whole.length);
          const last = i === got.length - 1;
          assert.is(segment[TCP6_AT + 13], last ? FLAG.ACK | FLAG.PSH | FLAG.FIN : FLAG.ACK);
          whole += new TextDecoder().decode(segment.subarray(TCP6_AT + 20));
        }
        assert.is(whole, payload);
      }
    }),
  ),
);

test(
  'over IPv6, too: carried where both understand it; else completed without the padding, after a notice has changed it',
  within(() => {
    const offloading = bench6();
    offloading.up.deliver(large6('z'.repeat(5000), FLAG.ACK, 1400));
    assert.is(offloading.a.take()[0]![1], VNET_GSO.TCPV6);
    const plain = bench6({ offload: false });
    const padded = new Uint8Array(200).fill(0xff);
    const short = large6('short', FLAG.ACK, 0);
    padded.set(short);
    plain.up.deliver(padded);
    const [completed] = plain.a.take();
    assert.ok(checksum6Right(completed!));
    plain.mux.switch({
      address: SERVICE6,
      from: 'a',
      to: 'b',
      notice: { second: SECOND6, immediately: true },
    });
    plain.up.deliver(large6('q'.repeat(4000), FLAG.ACK, 1400));
    const got = plain.a.take();
    assert.is(got.length, 3);
    for (const segment of got) {
      assert.is(text6(segment), `tcp ${CLIENT6}.4000 > ${SECOND6}.80`);
      assert.ok(checksum6Right(segment));
    }
  }),
);

test.run();
