import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { formatIpv4, formatMac, type Ipv4Address, type MacAddress } from '../../../src/netstack/index.ts';
import { seeded, within } from '../../support/index.ts';
import { arp, bench, CLIENT, dropsOf, echo, FLAG, frame, MAC, SECOND, SERVICE, tcp, udp } from './harness.ts';

const test = suite('hypervisor/mux/anti-spoof');
const TRIALS = 2_000;

test(
  'a partition sends with its own MAC only',
  within(() =>
    seeded((random) => {
      const b = bench();
      for (let i = 0; i < TRIALS; i++) {
        const mac = formatMac((random.u32() * 0x1_0000 + random.below(0x1_0000)) as MacAddress);
        if (mac === MAC.a) continue;
        b.a.deliver(udp({ fromMac: mac, toMac: MAC.client, from: SERVICE, to: CLIENT, sport: 1, dport: 2 }));
      }
      assert.is(b.up.take().length, 0);
      const { 'spoofed-mac': spoofed = 0, 'bad-source-mac': group = 0 } = dropsOf(b, 'a');
      assert.is(spoofed + group, TRIALS);
    }),
  ),
);

test(
  'and with its own IPv4 addresses only',
  within(() =>
    seeded((random) => {
      const b = bench();
      let sent = 0;
      for (let i = 0; i < TRIALS; i++) {
        const from = formatIpv4(random.u32() as Ipv4Address);
        if (from === SERVICE || from === SECOND) continue;
        sent++;
        const ends = { fromMac: MAC.a, toMac: MAC.client, from, to: CLIENT };
        b.a.deliver(
          i % 3 === 0
            ? udp({ ...ends, sport: 1, dport: 2 })
            : i % 3 === 1
              ? tcp({ ...ends, sport: 1, dport: 2, flags: FLAG.SYN })
              : echo({ ...ends, id: 1 }),
        );
      }
      assert.is(b.up.take().length, 0);
      assert.is(dropsOf(b, 'a')['spoofed-source'], sent);
      b.a.deliver(udp({ fromMac: MAC.a, toMac: MAC.client, from: SECOND, to: CLIENT, sport: 1, dport: 2 }));
      assert.is(b.up.take().length, 1, 'its own address passes');
    }),
  ),
);

test(
  'ARP: sender MAC and address must be its own; a probe with no address is allowed, a reply with none is not',
  within(() =>
    seeded((random) => {
      const b = bench();
      for (let i = 0; i < TRIALS; i++) {
        const sender = formatIpv4((random.u32() | 1) as Ipv4Address);
        const operation = random.below(2) === 0 ? 'request' : 'reply';
        b.a.deliver(arp({ operation, fromMac: MAC.a, sender, target: CLIENT }));
        b.a.deliver(arp({ operation, fromMac: MAC.a, senderMac: MAC.b, sender: SECOND, target: CLIENT }));
      }
      assert.is(b.up.take().length, 0);
      assert.is(dropsOf(b, 'a')['spoofed-arp'], 2 * TRIALS);
      b.a.deliver(arp({ operation: 'reply', fromMac: MAC.a, sender: '0.0.0.0', target: CLIENT }));
      assert.is(b.up.take().length, 0);
      b.a.deliver(arp({ fromMac: MAC.a, sender: '0.0.0.0', target: SECOND }));
      b.a.deliver(arp({ fromMac: MAC.a, sender: SECOND, target: SECOND }));
      assert.is(b.up.take().length, 2);
    }),
  ),
);

test(
  'who does not have the path neither announces a service address nor answers for it nor sends from it',
  within(() => {
    const b = bench();
    b.mux.portState('b', 'attached');
    b.b.deliver(
      arp({ fromMac: MAC.b, sender: SERVICE, target: SERVICE }),
      arp({ operation: 'reply', fromMac: MAC.b, toMac: MAC.client, sender: SERVICE, target: CLIENT }),
      arp({ fromMac: MAC.b, sender: SERVICE, target: CLIENT }),
    );
    assert.is(dropsOf(b, 'b')['arp-not-path-holder'], 3);
    b.b.deliver(udp({ fromMac: MAC.b, toMac: MAC.client, from: SERVICE, to: CLIENT, sport: 1, dport: 2 }));
    assert.is(dropsOf(b, 'b')['not-path-holder'], 1);
    assert.is(b.up.take().length, 0);
    b.a.deliver(arp({ fromMac: MAC.a, sender: SERVICE, target: SERVICE }));
    assert.equal(b.up.texts(), [`arp request ${SERVICE} at ${MAC.a} > ${SERVICE}`]);
    assert.is(b.b.take().length, 0, 'the standby that has the address sees no intruder');
  }),
);

test(
  'of everything else nothing leaves a partition: IPv6, tags, unknown types, spanning tree, a DHCP server',
  within(() => {
    const b = bench();
    b.a.deliver(
      frame(MAC.a, MAC.client, 0x86dd),
      frame(MAC.a, '33:33:00:00:00:01', 0x86dd),
      frame(MAC.a, MAC.client, 0x8100),
      frame(MAC.a, MAC.client, 0x88a8),
      frame(MAC.a, MAC.client, 0x88b5),
      frame(MAC.a, MAC.client, 0x0026),
      frame(MAC.a, '01:80:c2:00:00:00', 0x0026),
      udp({ fromMac: MAC.a, toMac: MAC.client, from: SECOND, to: CLIENT, sport: 67, dport: 68 }),
    );
    assert.is(b.up.take().length, 0);
    assert.equal(dropsOf(b, 'a'), {
      'link-local-group': 1,
      'vlan-from-partition': 2,
      ethertype: 2,
      'malformed-ipv6': 2,
      'dhcp-server': 1,
    });
  }),
);

test(
  'a probe without declared addresses may use any, with its own MAC, and is no holder of a path',
  within(() => {
    const b = bench();
    b.mux.portState('probe', 'attached');
    b.probe.deliver(
      udp({ fromMac: MAC.probe, toMac: MAC.client, from: '10.77.0.200', to: CLIENT, sport: 1, dport: 2 }),
      udp({ fromMac: MAC.probe, toMac: MAC.client, from: SERVICE, to: CLIENT, sport: 1, dport: 2 }),
      udp({ fromMac: MAC.b, toMac: MAC.client, from: '10.77.0.200', to: CLIENT, sport: 1, dport: 2 }),
    );
    assert.equal(b.up.texts(), [`udp 10.77.0.200:1 > ${CLIENT}:2`]);
    assert.equal(dropsOf(b, 'probe'), { 'spoofed-mac': 1, 'not-path-holder': 1 });
  }),
);

test(
  'port-addresses takes effect with the next packet',
  within(() => {
    const b = bench();
    const packet = udp({
      fromMac: MAC.a,
      toMac: MAC.client,
      from: '10.77.0.77',
      to: CLIENT,
      sport: 1,
      dport: 2,
    });
    b.a.deliver(packet);
    b.mux.portAddresses('a', ['10.77.0.77']);
    b.a.deliver(packet);
    assert.is(b.up.take().length, 1);
    assert.throws(() => b.mux.portAddresses('a', ['10.77.0.777']), /no IP address/);
  }),
);

test.run();
