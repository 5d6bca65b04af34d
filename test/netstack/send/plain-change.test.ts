/** Two ways that a packet gets another address without the general path of the change program: each against that path. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { SeededRandom, VirtualClock } from '../../../src/common/index.ts';
import type { IpAddress, LinkDevice } from '../../../src/netstack/index.ts';
import {
  addAddress,
  ChangeNotice,
  cidr,
  emitTcp,
  emitUdp,
  ethernetHeaderLength,
  HEADROOM,
  Interface,
  ipAddress,
  macAddress,
  PROTOCOL,
  readU16,
  sumDelta,
  TCP,
  UDP,
} from '../../../src/netstack/index.ts';
import { rewriteIpv4 } from '../../../src/netstack/send/rewrite-ipv4.ts';
import { rewriteIpv6 } from '../../../src/netstack/send/rewrite-ipv6.ts';
import { PlainChange } from '../../../src/netstack/send/rewrite-plain.ts';
import { seeded } from '../../support/index.ts';
import { hex, icmp, ipv4, packet, tcp, udp } from '../packets.ts';

const test = suite('netstack/send/plain-change');

const FAMILIES = [
  { from: '10.77.0.12', to: '10.77.0.11', other: '10.77.0.1' },
  { from: 'fd00:77::12', to: 'fd00:77::11', other: 'fd00:77::1' },
] as const;
type Family = (typeof FAMILIES)[number];
const bytesOf = (address: IpAddress) => (typeof address === 'string' ? hex(address) : undefined);

/** The general path for one packet; its result. */
function general(it: Buffer, from: IpAddress, to: IpAddress, ofSource: boolean): number {
  const delta = sumDelta(addAddress(0, from), addAddress(0, to));
  const change = { from, to, delta, fromBytes: bytesOf(from), toBytes: bytesOf(to) };
  const rewrite = typeof from === 'number' ? rewriteIpv4 : rewriteIpv6;
  return rewrite(it, 0, 24, it.length, ofSource, change);
}

const ends = { source: '10.0.0.1', destination: '10.0.0.2' };

function transport(random: SeededRandom): { protocol: number; bytes: Buffer } {
  const payload = Buffer.from(random.fill(new Uint8Array(random.below(40))));
  const ports = { ...ends, sourcePort: random.below(65536), destinationPort: 80, payload };
  const kind = random.below(8);
  if (kind === 0)
    return { protocol: 1, bytes: icmp(random.below(2) === 0 ? 3 : 8, 0, random.u32(), payload) };
  if (kind === 1) return { protocol: 58, bytes: icmp(random.below(140), 0, random.u32(), payload) };
  if (kind === 2) return { protocol: 132, bytes: payload };
  if (kind < 5) return { protocol: 17, bytes: udp({ ...ports, noChecksum: random.below(4) === 0 }) };
  return { protocol: 6, bytes: tcp({ ...ports, seq: random.u32() }) };
}

/** A packet in which the address stands, or nearly: sums are whatever they are, an incremental update does not mind. */
function randomPacket(random: SeededRandom, family: Family, ofSource: boolean): Buffer {
  const { protocol, bytes } = transport(random);
  const own = random.below(12) === 0 ? family.other : family.from;
  const [source, destination] = ofSource ? [own, family.other] : [family.other, own];
  const isIpv4 = family === FAMILIES[0];
  const header = isIpv4
    ? ipv4({
        source,
        destination,
        protocol,
        payload: bytes,
        options: random.below(6) === 0 ? hex('94040000') : Buffer.alloc(0),
        fragment: [0, 0, 0, 0x4000, 0x2000, 7][random.below(6)]!,
      })
    : Buffer.concat([
        hex('6000 0000'),
        Buffer.from([bytes.length >> 8, bytes.length & 0xff, protocol, 64]),
        hex(String(ipAddress(source))),
        hex(String(ipAddress(destination))),
        bytes,
      ]);
  const it = packet(header, { padTo: 60, type: isIpv4 ? 0x0800 : 0x86dd });
  if (random.below(3) === 0) {
    const start = isIpv4 ? 34 : 54;
    it[0] = 1;
    it.writeUInt16LE(random.below(8) === 0 ? random.below(80) : start, 6);
    it.writeUInt16LE(random.below(8) === 0 ? random.below(80) : protocol === 6 ? 16 : 6, 8);
  }
  if (random.below(4) === 0) it[random.below(it.length)]! ^= 1 << random.below(8);
  // Sums that end in one of the two zeros.
  if (random.below(10) === 0 && it.length >= 24 + 60) it.writeUInt16BE(random.below(2) * 0xffff, 24 + 20 + 6);
  return random.below(10) === 0 ? it.subarray(0, 24 + random.below(it.length - 23)) : it;
}

const PACKETS = 200_000;

test('the straight line does to a packet what the general path does, or leaves it untouched', () =>
  seeded((random) => {
    let taken = 0;
    for (let i = 0; i < PACKETS; i++) {
      const family = FAMILIES[random.below(2)]!;
      const ofSource = random.below(2) === 0;
      const [from, to] = [ipAddress(family.from), ipAddress(family.to)];
      const before = randomPacket(random as SeededRandom, family, ofSource);
      const [plain, expected] = [Buffer.from(before), Buffer.from(before)];
      if (new PlainChange(from, to, ofSource).rewrite(plain, 0, plain.length)) {
        taken++;
        assert.is(ethernetHeaderLength(before, 10, before.length - 10), 14);
        assert.is(readU16(before, 22), typeof from === 'number' ? 0x0800 : 0x86dd);
        assert.is(general(expected, from, to, ofSource), 1, before.toString('hex'));
      }
      if (!plain.equals(expected))
        assert.is(plain.toString('hex'), expected.toString('hex'), before.toString('hex'));
    }
    console.log(`${PACKETS} packets, ${taken} changed in a straight line`);
    assert.ok(taken > PACKETS / 4 && taken < (PACKETS * 3) / 4, `${taken} of ${PACKETS}`);
  }));

test('plain TCP and UDP always take it: complete, to be completed, to be segmented, as a first fragment', () => {
  for (const { from, to, other } of FAMILIES.slice(0, 1)) {
    const change = new PlainChange(ipAddress(from), ipAddress(to), true);
    const ports = { source: from, destination: other, sourcePort: 1, destinationPort: 2 };
    for (const [protocol, payload] of [
      [6, tcp(ports)],
      [17, udp(ports)],
    ] as const) {
      const it = () => packet(ipv4({ source: from, destination: other, protocol, payload }));
      const offloaded = it();
      offloaded.set([1, protocol === 6 ? 1 : 0, 54, 0, 100, 0, 34, 0, protocol === 6 ? 16 : 6, 0]);
      const first = packet(ipv4({ source: from, destination: other, protocol, payload, fragment: 0x2000 }));
      for (const each of [it(), offloaded, first]) assert.ok(change.rewrite(each, 0, each.length));
    }
  }
});

/** An interface on a link that keeps what is transmitted; two of the same seed make the same packets. */
function stack(offload: boolean, notice: ChangeNotice | undefined) {
  const sent: Buffer[] = [];
  const link: LinkDevice = {
    name: 'kept',
    mtu: 1500,
    offload: { checksum: offload, tcp4Segmentation: offload, tcp6Segmentation: offload, maxPacket: 65_549 },
    attach: () => {},
    transmit: (buffer, offset, length) => {
      sent.push(Buffer.from(buffer.subarray(offset, offset + length)));
      return true;
    },
    flush: () => {},
    close: () => {},
  };
  const ip = new Interface({
    clock: new VirtualClock(),
    random: new SeededRandom(7),
    link,
    mac: macAddress('02:00:00:00:00:0b'),
    addresses: FAMILIES.map(({ from }) => cidr(from === FAMILIES[0].from ? `${from}/24` : `${from}/64`)),
    detectDuplicates: false,
  });
  if (notice !== undefined) ip.send.setNotice(notice);
  return { ip, sent };
}

/** 0000 and ffff are the same sum; which of them an update leaves depends on its way there. */
function withOneZero(it: Buffer): string {
  const copy = Buffer.from(it);
  const isIpv4 = copy[24]! >> 4 === 4;
  const upper = isIpv4 ? 44 : 64;
  const protocol = isIpv4 ? copy[33] : copy[30];
  const fields = [isIpv4 ? 34 : -1, protocol === 6 ? upper + 16 : protocol === 17 ? upper + 6 : -1];
  for (const at of fields) {
    if (at > 0 && at + 2 <= copy.length && copy.readUInt16BE(at) === 0xffff) copy.writeUInt16BE(0, at);
  }
  return copy.toString('hex');
}

test('what the stack makes for a notice is what the change program makes of its packet', () =>
  seeded((random) => {
    let [changed, made] = [0, 0];
    for (const offload of [true, false]) {
      for (const family of FAMILIES) {
        const named = { first: ipAddress(family.to), second: ipAddress(family.from) };
        const notice = new ChangeNotice(named);
        const reference = new ChangeNotice(named);
        const [plain, noticed] = [stack(offload, undefined), stack(offload, notice)];
        const peer = ipAddress(family.other);
        const sourceOf = noticed.ip.send.sourceOf.bind(noticed.ip.send);
        Object.assign(noticed.ip.send, {
          sourceOf: (source: IpAddress) => {
            made++;
            return sourceOf(source);
          },
        });
        const learn = ({ ip }: typeof plain) => {
          const mac = macAddress('02:00:00:00:00:01');
          if (typeof peer === 'number') ip.arp.learn(peer, mac, true);
          else {
            ip.neighbours.learn(peer, mac);
            ip.neighbours.advertised(peer, mac, true, true);
          }
        };
        for (let i = 0; i < 600; i++) {
          if (i === 20) for (const each of [plain, noticed]) learn(each);
          const isTcp = random.below(2) === 0;
          const dontFragment = isTcp;
          const segmented = isTcp && offload && random.below(3) === 0;
          const size = segmented ? 4_000 : random.below(isTcp ? 1_400 : 3_000);
          const length = (isTcp ? TCP.MIN_HEADER : UDP.HEADER) + size;
          const payload = random.fill(new Uint8Array(size));
          const sport = random.below(65_536);
          for (const { ip } of [plain, noticed]) {
            const buffer = new Uint8Array(HEADROOM + length);
            if (isTcp) emitTcp(buffer, HEADROOM, sport, 4000, i, 2, TCP.MIN_HEADER, 0x10, 65_535);
            else emitUdp(buffer, HEADROOM, sport, 4000, length);
            buffer.set(payload, HEADROOM + length - size);
            const protocol = isTcp ? PROTOCOL.TCP : PROTOCOL.UDP;
            const field = isTcp ? TCP.CHECKSUM : UDP.CHECKSUM;
            const source = ipAddress(family.from);
            const gso = segmented ? 1_400 : 0;
            ip.output(buffer, HEADROOM, length, protocol, source, peer, field, gso, dontFragment, 0);
          }
          const expected = plain.sent.splice(0);
          const got = noticed.sent.splice(0);
          for (const it of expected) if (reference.rewriteOutbound(it, 0, it.length)) changed++;
          assert.equal(got.map(withOneZero), expected.map(withOneZero), `${family.from}, packet ${i}`);
        }
        assert.equal(notice.counters, reference.counters);
      }
    }
    console.log(`${changed} changed, ${made} of them in the making`);
    assert.ok(changed > 2_000 && made > 1_000 && made < changed, `${made} of ${changed}`);
  }));

test('a notice that is set, replaced and cancelled between two packets holds for exactly those in between', () => {
  for (const { from, to, other } of FAMILIES) {
    const { ip, sent } = stack(true, undefined);
    const [source, peer] = [ipAddress(from), ipAddress(other)];
    if (typeof peer === 'number') ip.arp.learn(peer, macAddress('02:00:00:00:00:01'), true);
    else ip.neighbours.learn(peer, macAddress('02:00:00:00:00:01'));
    const send = () => {
      const buffer = new Uint8Array(HEADROOM + TCP.MIN_HEADER);
      emitTcp(buffer, HEADROOM, 80, 4000, 1, 2, TCP.MIN_HEADER, 0x10, 65_535);
      ip.output(buffer, HEADROOM, TCP.MIN_HEADER, PROTOCOL.TCP, source, peer, TCP.CHECKSUM, 0, true, 0);
      const it = sent.splice(0).at(-1)!;
      return typeof source === 'number' ? it.subarray(36, 40).join('.') : it.subarray(32, 48).toString('hex');
    };
    const text = (address: string) => (typeof source === 'number' ? address : String(ipAddress(address)));
    const third = typeof source === 'number' ? '10.77.0.13' : 'fd00:77::13';
    for (let i = 0; i < 3; i++) assert.is(send(), text(from));
    ip.send.setNotice(new ChangeNotice({ first: ipAddress(to), second: source }));
    for (let i = 0; i < 2; i++) assert.is(send(), text(to));
    ip.send.setNotice(new ChangeNotice({ first: ipAddress(third), second: source }));
    for (let i = 0; i < 2; i++) assert.is(send(), text(third));
    ip.send.setNotice(new ChangeNotice({ first: ipAddress(to), second: ipAddress(third) }));
    for (let i = 0; i < 2; i++) assert.is(send(), text(from));
    ip.send.cancelNotice();
    assert.is(send(), text(from));
  }
});

test.run();
