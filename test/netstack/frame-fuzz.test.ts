/**
 * N5: structure-aware frames for each parser, with lengths and checksums mended after most mutations so that they get past the first look.
 * Every frame is accepted or one named drop, nothing throws, and the stack serves afterwards. SOAK=1: 50 million for each, or what
 * SECONDS (600, shared by the parsers) allow; the count is printed.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { SeededRandom, VirtualClock } from '../../src/common/index.ts';
import { cidr, MemoryLink, macAddress, Stack } from '../../src/netstack/index.ts';
import { seeded, within } from '../support/index.ts';
import { arp, hex, icmp, ipv4, packet, tcp, udp } from './packets.ts';
import {
  advertisement,
  fragmentHeader,
  icmp6,
  ipv6,
  optionsHeader,
  packet6,
  solicitation,
  tcp6,
  udp6,
} from './packets6.ts';
import { adopt } from './transport/tcp/support/index.ts';

const fuzz = suite('netstack/frame-fuzz');
const long = process.env['SOAK'] === '1' || process.env['FUZZ'] === '1';
const COUNT = long ? 50_000_000 : 200_000;
const SECONDS = Number(process.env['SECONDS'] ?? 600) || 3600;

const HOST = '10.77.0.1';
const PEER = '10.77.0.2';
const HOST6 = 'fd77::1';
const PEER6 = 'fd77::2';
const PEER_MAC = '020000000002';
const both = { source: PEER, destination: HOST };
const both6 = { source: PEER6, destination: HOST6 };
const ports = { ...both, sourcePort: 5000, destinationPort: 7, payload: Buffer.from('payload') };
const ports6 = { ...both6, sourcePort: 5000, destinationPort: 7, payload: Buffer.from('payload') };
const quote = ipv4({
  source: HOST,
  destination: PEER,
  protocol: 17,
  payload: udp({ ...ports, source: HOST, destination: PEER }),
});
const quote6 = ipv6({
  source: HOST6,
  destination: PEER6,
  protocol: 17,
  payload: udp6({ ...ports6, source: HOST6, destination: PEER6 }),
});
const tcpTo80 = { ...ports, destinationPort: 80 };
const synOptions = hex('020405b4 0402 080a 00000001 00000000 0303 07 01');
const ip4 = (protocol: number, payload: Uint8Array, more: object = {}) =>
  packet(ipv4({ ...both, protocol, payload, ...more }));
const ip6 = (protocol: number, payload: Uint8Array, more: object = {}) =>
  packet6(ipv6({ ...both6, protocol, payload, ...more }));

/** Good frames by parser: what a mutation starts from. */
const PARSERS: Readonly<Record<string, readonly Buffer[]>> = {
  'offload header and Ethernet': [
    ip4(17, udp(ports)),
    packet(ipv4({ ...both, protocol: 17, payload: udp(ports) }), { tags: [0] }),
    Buffer.concat([
      hex('01 01 3600 b405 2200 1000'),
      ip4(6, tcp({ ...tcpTo80, payload: Buffer.alloc(3000) })).subarray(10),
    ]),
  ],
  ARP: [1, 2].map((operation) =>
    packet(arp(operation, PEER_MAC, PEER, '020000000001', HOST), { type: 0x0806 }),
  ),
  IPv4: [ip4(17, udp(ports)), ip4(17, udp(ports), { options: hex('94040000 07070400000000 00') })],
  'IPv4 fragments': [0, 1, 2].map((n) =>
    ip4(17, Buffer.alloc(24, n), { fragment: (n < 2 ? 0x2000 : 0) | (n * 3), identification: n }),
  ),
  ICMP: [
    ip4(1, icmp(8, 0, 1, Buffer.from('abcdefgh'))),
    ip4(1, icmp(3, 4, 1000, quote)),
    ip4(1, icmp(3, 3, 0, quote)),
    ip4(1, icmp(11, 0, 0, quote)),
  ],
  UDP: [ip4(17, udp(ports)), ip4(17, udp({ ...ports, noChecksum: true })), ip6(17, udp6(ports6))],
  'TCP and its options': [
    ip4(6, tcp({ ...tcpTo80, flags: 2, options: synOptions })),
    ip4(
      6,
      tcp({ ...tcpTo80, flags: 0x10, options: hex('0101080a 00000002 00000001 0101050a 00000001 00000009') }),
    ),
    ip4(6, tcp({ ...tcpTo80, flags: 0x18, seq: 1001 })),
    ip6(6, tcp6({ ...ports6, destinationPort: 80, flags: 2 })),
  ],
  'IPv6 and its headers': [
    ip6(17, udp6(ports6)),
    ip6(17, udp6(ports6), {
      extensions: [
        [0, optionsHeader(5, 2, 0, 0)],
        [60, optionsHeader(0x1e, 2, 1, 2)],
        [43, hex('0000000000000000')],
      ],
    }),
  ],
  'IPv6 fragments': [0, 1, 2].map((n) =>
    ip6(17, Buffer.alloc(24, n), { extensions: [[44, fragmentHeader(n * 24, n < 2, n)]] }),
  ),
  ICMPv6: [
    ip6(58, icmp6(both6, 128, 0, 1, Buffer.from('abcdefgh'))),
    ip6(58, icmp6(both6, 1, 4, 0, quote6)),
    ip6(58, icmp6(both6, 2, 0, 1280, quote6)),
    ip6(58, icmp6(both6, 4, 1, 6, quote6)),
  ],
  'neighbour discovery': [
    solicitation({ ...both6, target: HOST6, mac: PEER_MAC }),
    advertisement({ ...both6, target: PEER6, mac: PEER_MAC, flags: 0x60 }),
    ip6(58, icmp6(both6, 134, 0, 0x40000708, Buffer.alloc(24)), { hopLimit: 255 }),
    ip6(58, icmp6(both6, 137, 0, 0, Buffer.alloc(48)), { hopLimit: 255 }),
  ],
};

const VNET = 10;
const IP_AT = VNET + 14;
/** Where mutations are worth most: behind the Ethernet addresses. */
const FIRST = VNET + 12;

/** One frame that is changed in place: no allocation per case. */
class Mutant {
  readonly bytes = new Uint8Array(8192);
  readonly #random: SeededRandom;
  length = 0;

  constructor(random: SeededRandom) {
    this.#random = random;
  }

  make(from: Buffer, header: boolean): void {
    const random = this.#random;
    this.bytes.set(from, 0);
    this.length = from.length;
    for (let times = random.below(4); times > 0; times--) {
      const first = header && random.below(2) === 0 ? 0 : FIRST;
      const at = first + random.below(Math.max(1, Math.min(this.length, 140) - first));
      const how = random.below(8);
      if (how < 3) this.bytes[at] = random.below(256);
      else if (how < 5) this.bytes[at]! ^= 1 << random.below(8);
      else if (how === 5) this.bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)]!;
      else if (how === 6) this.length = random.below(this.length + 1);
      else {
        const more = random.below(40);
        for (let i = 0; i < more; i++) this.bytes[this.length + i] = random.below(256);
        this.length += more;
      }
    }
    if (random.below(4) > 0) this.#mend();
  }

  /** Makes lengths and checksums what they say they are, as far as the headers can be found. */
  #mend(): void {
    const { bytes, length } = this;
    if (length < IP_AT + 20) return;
    const type = (bytes[IP_AT - 2]! << 8) | bytes[IP_AT - 1]!;
    if (type === 0x0800) {
      const header = (bytes[IP_AT]! & 15) * 4;
      if (header < 20 || IP_AT + header > length) return;
      if (this.#random.below(8) > 0) this.#put16(IP_AT + 2, length - IP_AT);
      this.#put16(IP_AT + 10, 0);
      this.#put16(IP_AT + 10, this.#sum(IP_AT, header, 0));
      const fragment = ((bytes[IP_AT + 6]! & 0x3f) << 8) | bytes[IP_AT + 7]!;
      if (fragment === 0) this.#transport(bytes[IP_AT + 9]!, IP_AT + header, IP_AT + 12, 8);
    } else if (type === 0x86dd && length >= IP_AT + 40) {
      if (this.#random.below(8) > 0) this.#put16(IP_AT + 4, length - IP_AT - 40);
      this.#transport(bytes[IP_AT + 6]!, IP_AT + 40, IP_AT + 8, 32);
    }
  }

  #transport(protocol: number, at: number, addresses: number, addressBytes: number): void {
    const field = protocol === 6 ? 16 : protocol === 17 ? 6 : protocol === 1 || protocol === 58 ? 2 : -1;
    const size = this.length - at;
    if (field < 0 || size < field + 2) return;
    if (protocol === 17 && this.#random.below(8) > 0) this.#put16(at + 4, size);
    this.#put16(at + field, 0);
    const pseudo = protocol === 1 ? 0 : this.#add(addresses, addressBytes) + protocol + size;
    this.#put16(at + field, this.#sum(at, size, pseudo) || 0xffff);
  }

  #add(at: number, length: number): number {
    let sum = 0;
    for (let i = 0; i < length; i += 2) {
      sum += (this.bytes[at + i]! << 8) | (i + 1 < length ? this.bytes[at + i + 1]! : 0);
    }
    return sum;
  }

  #sum(at: number, length: number, start: number): number {
    let sum = start + this.#add(at, length);
    while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
    return ~sum & 0xffff;
  }

  #put16(at: number, value: number): void {
    this.bytes[at] = value >>> 8;
    this.bytes[at + 1] = value & 0xff;
  }
}

function target(): { stack: Stack; link: MemoryLink; clock: VirtualClock; served(): number } {
  const clock = new VirtualClock();
  const [hostLink, link] = MemoryLink.pair(clock, { segmentation: true });
  let answers = 0;
  link.attach({
    receive: (buffer, offset, length) => {
      // Echo replies of either family.
      if (length > 54 && buffer[offset + 33] === 1 && buffer[offset + 44] === 0) answers++;
    },
    endOfBatch: () => {},
    writable: () => {},
  });
  const stack = new Stack({
    clock,
    random: new SeededRandom(5),
    link: hostLink,
    mac: macAddress('02:00:00:00:00:01'),
    addresses: [cidr(`${HOST}/24`), cidr(`${HOST6}/64`)],
    detectDuplicates: false,
  });
  stack.udp.open({ port: 7 }).onDatagram = () => {};
  stack.tcp.listen({ port: 80, backlog: 16 }, (connection) => adopt(connection));
  return { stack, link, clock, served: () => answers };
}

const names = Object.keys(PARSERS);
for (const [name, good] of Object.entries(PARSERS)) {
  fuzz(
    `${name}: ${COUNT} frames`,
    within(
      () =>
        seeded((random, seed) => {
          const { stack, link, clock, served } = target();
          const mutant = new Mutant(random);
          const untilMs = long
            ? performance.now() + (SECONDS * 1000) / names.length
            : Number.POSITIVE_INFINITY;
          const introduction = packet(arp(1, PEER_MAC, PEER, '000000000000', HOST), {
            to: 'ffffffffffff',
            type: 0x0806,
          });
          let sent = 0;
          const exchange = () => {
            link.flush();
            clock.advance(1);
          };
          for (; sent < COUNT && performance.now() < untilMs; sent++) {
            mutant.make(good[random.below(good.length)]!, name.startsWith('offload'));
            link.transmit(mutant.bytes, 0, mutant.length);
            if (sent % 64 === 63) exchange();
            if (sent % 20_000 === 0) clock.advance(61_000);
          }
          exchange();
          const { received, accepted, drops } = stack.ip;
          const reasons = Object.keys(drops.snapshot()).filter((reason) => drops.of(reason as never) > 0);
          assert.is(accepted + drops.total, received);
          assert.ok(received >= sent, 'every frame was looked at');
          assert.ok(reasons.length >= 3, `only ${reasons.join()}`);
          assert.ok(Object.values(stack.tcp.stateCounts()).reduce((sum, n) => sum + n, 0) < 70_000);
          if (!long) assert.is(sent, COUNT);
          clock.advance(200_000);
          link.transmit(introduction, 0, introduction.length);
          const echo = ip4(1, icmp(8, 0, 7, Buffer.from('still here')));
          const before = served();
          link.transmit(echo, 0, echo.length);
          exchange();
          clock.advance(10);
          assert.is(served() - before, 1, 'it still answers');
          console.log(
            `${name}: ${sent} frames, seed ${seed}, ${accepted} accepted, ${reasons.length} reasons`,
          );
        }),
      long ? SECONDS * 1000 + 120_000 : 60_000,
    ),
  );
}

fuzz.run();
