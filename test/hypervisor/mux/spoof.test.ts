import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { SeededRandom } from '../../../src/common/index.ts';
import {
  formatIpv4,
  formatIpv6,
  formatMac,
  type Ipv4Address,
  type Ipv6Address,
  linkLocalAddress,
  type MacAddress,
  macAddress,
} from '../../../src/netstack/index.ts';
import {
  advertisement,
  fragmentHeader,
  icmp6,
  ip6,
  optionsHeader,
  solicitation,
} from '../../netstack/packets6.ts';
import { limitMs, SOAK, seeded, within } from '../../support/index.ts';
import { arp, CLIENT, dropsOf, echo, FLAG, frame, MAC, SECOND, SERVICE, tcp, udp } from './harness.ts';
import {
  bench6,
  CLIENT6,
  carry,
  datagram6,
  echo6,
  macHex,
  SECOND6,
  SERVICE6,
  segment6,
  texts6,
} from './harness6.ts';

const test = suite('hypervisor/mux/spoof');
const TRIALS = SOAK ? 100_000 : 400;
const OUT = { fromMac: MAC.a, toMac: MAC.client };
const NODES = { to: '333300000001', from: macHex(MAC.a) };

function anyMac(random: SeededRandom): string {
  const mac = (random.u32() & 0xfeff_ffff) >>> 0;
  return formatMac((mac * 0x1_0000 + 1 + random.below(0xffff)) as MacAddress);
}

function anyIpv4(random: SeededRandom): string {
  return formatIpv4(((random.u32() & 0xff_ffff) | 0x0b00_0000) as Ipv4Address);
}

/** Global, or link-local of another MAC. */
function anyIpv6(random: SeededRandom): string {
  const digits = Array.from({ length: 24 }, () => random.below(16).toString(16)).join('');
  return formatIpv6(`${random.below(2) === 0 ? 'fe800000' : 'fd000000'}${digits}` as Ipv6Address);
}

function icmpFrom(source: string, type: number, body: Uint8Array, more: object = {}): Uint8Array {
  const ends = { source, destination: 'ff02::1' };
  const way = { from: source, to: 'ff02::1', fromMac: MAC.a, toMac: '33:33:00:00:00:01' };
  return carry(way, 58, icmp6(ends, type, 0, 0, body), { hopLimit: 255, ...more });
}

const option = (type: number, mac: string) =>
  Buffer.concat([Buffer.from([type, 1]), Buffer.from(macHex(mac), 'hex')]);

/** What a partition must not say, one maker per kind, and the reasons it is dropped for. */
const KINDS: Readonly<
  Record<string, { readonly make: (random: SeededRandom) => Uint8Array; readonly why: readonly string[] }>
> = {
  'source MAC, IPv4': {
    make: (r) => udp({ ...OUT, fromMac: anyMac(r), from: SERVICE, to: CLIENT, sport: 1, dport: 2 }),
    why: ['spoofed-mac'],
  },
  'source MAC, IPv6': {
    make: (r) => datagram6({ ...OUT, fromMac: anyMac(r), from: SERVICE6, to: CLIENT6 }),
    why: ['spoofed-mac'],
  },
  'IPv4 source': {
    make: (r) => {
      const ends = { ...OUT, from: anyIpv4(r), to: CLIENT };
      return [
        udp({ ...ends, sport: 1, dport: 2 }),
        tcp({ ...ends, sport: 1, dport: 2, flags: FLAG.SYN }),
        echo({ ...ends, id: 1 }),
      ][r.below(3)]!;
    },
    why: ['spoofed-source'],
  },
  'IPv4 source in 0/8': {
    make: (r) => udp({ ...OUT, from: `0.0.0.${r.below(256)}`, to: CLIENT, sport: 68, dport: 67 }),
    why: ['spoofed-source'],
  },
  'IPv6 source': {
    make: (r) => {
      const ends = { ...OUT, from: r.below(8) === 0 ? '::' : anyIpv6(r), to: CLIENT6, sport: 1, dport: 2 };
      return [datagram6(ends), segment6(ends, FLAG.SYN), echo6(ends, 1)][r.below(3)]!;
    },
    why: ['spoofed-source'],
  },
  'ARP sender': {
    make: (r) =>
      arp({
        operation: r.below(2) === 0 ? 'request' : 'reply',
        fromMac: MAC.a,
        ...(r.below(2) === 0 ? { senderMac: anyMac(r), sender: SECOND } : { sender: anyIpv4(r) }),
        target: CLIENT,
      }),
    why: ['spoofed-arp'],
  },
  'ARP for an address whose path is elsewhere': {
    make: () =>
      arp({ operation: 'reply', fromMac: MAC.a, toMac: MAC.client, sender: '10.77.0.21', target: CLIENT }),
    why: ['arp-not-path-holder'],
  },
  'neighbour advertisement of a foreign address': {
    make: (r) =>
      advertisement({
        ...NODES,
        source: r.below(2) === 0 ? SERVICE6 : anyIpv6(r),
        destination: 'ff02::1',
        target: anyIpv6(r),
        mac: macHex(MAC.a),
        flags: r.below(256) & 0xe0,
      }),
    why: ['spoofed-ndp'],
  },
  'neighbour advertisement with a foreign MAC, or for an address whose path is elsewhere': {
    make: (r) =>
      advertisement({
        ...NODES,
        source: SECOND6,
        destination: 'ff02::1',
        ...(r.below(2) === 0
          ? { target: SECOND6, mac: macHex(anyMac(r)) }
          : { target: 'fd00::21', mac: macHex(MAC.a) }),
      }),
    why: ['spoofed-ndp', 'ndp-not-path-holder'],
  },
  'neighbour solicitation from a foreign address or MAC': {
    make: (r) =>
      solicitation({
        ...NODES,
        destination: 'ff02::1:ff00:50',
        target: CLIENT6,
        ...(r.below(2) === 0
          ? { source: anyIpv6(r), mac: macHex(MAC.a) }
          : { source: SERVICE6, mac: macHex(anyMac(r)) }),
      }),
    why: ['spoofed-ndp'],
  },
  'duplicate detection of a foreign address, which would deny it to its owner': {
    make: (r) =>
      solicitation({
        ...NODES,
        source: '::',
        destination: 'ff02::1:ff00:50',
        target: r.below(2) === 0 ? CLIENT6 : anyIpv6(r),
      }),
    why: ['spoofed-ndp'],
  },
  'neighbour discovery from afar, with options that end nowhere, in fragments, twice the option': {
    make: (r) => {
      const target = ip6(SERVICE6);
      const own = option(2, MAC.a);
      return [
        icmpFrom(SERVICE6, 136, Buffer.concat([target, own]), { hopLimit: 254 }),
        icmpFrom(SERVICE6, 136, Buffer.concat([target, Buffer.from([2, 0, 0, 0, 0, 0, 0, 0])])),
        icmpFrom(SERVICE6, 136, Buffer.concat([target, own]), {
          extensions: [[44, fragmentHeader(0, true, 9)]],
        }),
        icmpFrom(SERVICE6, 136, Buffer.concat([target, own, option(2, anyMac(r))])),
        icmpFrom(SERVICE6, 136, Buffer.concat([target, own, option(1, anyMac(r))])),
        icmpFrom(SERVICE6, 136, target.subarray(0, 8)),
      ][r.below(6)]!;
    },
    why: ['malformed-ndp', 'spoofed-ndp'],
  },
  'router advertisement, redirect, listener query, also behind options or in a fragment': {
    make: (r) => {
      const type = [134, 137, 130, 138][r.below(4)]!;
      const more = [
        {},
        { extensions: [[60, optionsHeader()]] },
        { extensions: [[0, optionsHeader(5, 2, 0, 0)]] },
        { extensions: [[44, fragmentHeader(0, true, 3)]] },
        {
          extensions: [
            [60, optionsHeader()],
            [44, fragmentHeader(0, false, 3)],
          ],
        },
      ][r.below(5)]!;
      const own = formatIpv6(linkLocalAddress(macAddress(MAC.a)));
      return icmpFrom(
        r.below(2) === 0 ? own : SERVICE6,
        type,
        Buffer.concat([ip6('fd00::1'), option(1, MAC.a)]),
        more,
      );
    },
    why: ['router-only'],
  },
  'a header chain that hides what follows it': {
    make: (r) => {
      const chain: [number, Uint8Array][] = [];
      if (r.below(2) === 0) for (let i = 0; i < 10; i++) chain.push([60, optionsHeader()]);
      else chain.push([44, fragmentHeader(0, true, 4)], [60, Buffer.from([0, 200, 0, 0, 0, 0, 0, 0])]);
      return icmpFrom(SERVICE6, 134, new Uint8Array(8), { extensions: chain });
    },
    why: ['malformed-ipv6'],
  },
  'a first fragment that ends before the upper layer': {
    make: () =>
      carry({ ...OUT, from: SERVICE6, to: CLIENT6 }, 58, new Uint8Array(0), {
        extensions: [[44, fragmentHeader(0, true, 4)]],
      }),
    why: ['malformed-ipv6'],
  },
  'DHCP server': {
    make: (r) => udp({ ...OUT, from: SECOND, to: CLIENT, sport: 67, dport: r.below(2) === 0 ? 68 : 67 }),
    why: ['dhcp-server'],
  },
  'DHCPv6 server': {
    make: () => {
      const from = formatIpv6(linkLocalAddress(macAddress(MAC.a)));
      return datagram6({ ...OUT, from, to: CLIENT6, sport: 547, dport: 546 });
    },
    why: ['dhcp-server'],
  },
  'spanning tree and other frames of the link': {
    make: (r) => frame(MAC.a, `01:80:c2:00:00:0${r.below(16).toString(16)}`, 0x0026),
    why: ['link-local-group'],
  },
  'tags and other types': {
    make: (r) => frame(MAC.a, MAC.client, [0x8100, 0x88a8, 0x88b5, 0x8863, 0x88cc][r.below(5)]!),
    why: ['vlan-from-partition', 'ethertype'],
  },
};

for (const [kind, { make, why }] of Object.entries(KINDS)) {
  test(
    `nothing leaves: ${kind}`,
    within(
      () =>
        seeded((random) => {
          const b = bench6();
          b.mux.portState('b', 'attached');
          // Also this one's by its configuration, but directed to b.
          for (const [address, name] of [
            ['10.77.0.21', 'b'],
            ['fd00::21', 'b'],
          ] as const) {
            b.mux.pathSet({ address, port: name });
          }
          b.mux.portAddresses('a', [SERVICE, SECOND, '10.77.0.21', SERVICE6, SECOND6, 'fd00::21']);
          for (let i = 0; i < TRIALS; i++) b.a.deliver(make(random));
          assert.equal([texts6(b.up), texts6(b.b), texts6(b.probe)], [[], [], []]);
          const drops = dropsOf(b, 'a');
          assert.equal(
            Object.keys(drops).filter((reason) => !why.includes(reason)),
            [],
          );
          const sum = Object.values(drops).reduce((total, count) => total + count, 0);
          assert.is(sum, TRIALS, 'each one is counted');
        }),
      limitMs(20_000),
    ),
  );
}

test(
  'its own leaves: solicitations, advertisements, duplicate detection, reports of groups, router solicitations',
  within(() => {
    const b = bench6();
    const own = formatIpv6(linkLocalAddress(macAddress(MAC.a)));
    const mac = macHex(MAC.a);
    b.a.deliver(
      solicitation({ ...NODES, source: SERVICE6, destination: 'ff02::1:ff00:50', target: CLIENT6, mac }),
      solicitation({ ...NODES, source: own, destination: 'ff02::1:ff00:50', target: CLIENT6, mac }),
      solicitation({ ...NODES, source: '::', destination: 'ff02::1:ff00:12', target: SECOND6 }),
      solicitation({ ...NODES, source: '::', destination: 'ff02::1:ff00:a', target: own }),
      advertisement({ ...NODES, source: SECOND6, destination: 'ff02::1', target: SECOND6, mac, flags: 0x20 }),
      advertisement({ ...NODES, source: own, destination: CLIENT6, target: own, mac, flags: 0x40 }),
      icmpFrom('::', 143, new Uint8Array(20), { hopLimit: 1, extensions: [[0, optionsHeader(5, 2, 0, 0)]] }),
      icmpFrom(own, 133, option(1, MAC.a)),
      datagram6({ ...OUT, from: own, to: CLIENT6, sport: 546, dport: 547 }),
    );
    assert.equal(dropsOf(b, 'a'), {});
    assert.is(b.up.take().length, 9);
  }),
);

test.run();
