import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { SeededRandom } from '../../../src/common/index.ts';
import { ipv4Address, macAddress } from '../../../src/netstack/index.ts';
import { within } from '../../support/index.ts';
import {
  arp,
  bench,
  CLIENT,
  destinationMac,
  dropsOf,
  established,
  FLAG,
  frame,
  fromClient,
  MAC,
  SERVICE,
  TestDevice,
  tcp,
  textOf,
  toClient,
  udp,
} from './harness.ts';
import { bench6, SERVICE6 } from './harness6.ts';

const test = suite('hypervisor/mux/uplinks');

const BROADCAST = 'ff:ff:ff:ff:ff:ff';
const MAC_C = '02:00:00:00:00:0c';
const SERVICE_C = '10.88.0.13';

/** `bench`, a second uplink that joins nobody, and partition c with its service behind it. */
function twoUplinks(b = bench()) {
  const up2 = new TestDevice('up2');
  const c = new TestDevice('c');
  b.mux.addPort({ name: 'up2', kind: 'tap', role: 'uplink', device: up2 });
  b.mux.addPort({
    name: 'c',
    kind: 'stream',
    role: 'partition',
    device: c,
    mac: macAddress(MAC_C),
    addresses: [SERVICE_C, SERVICE].map(ipv4Address),
    uplink: 'up2',
    state: 'attached',
  });
  b.mux.pathSet({ address: SERVICE_C, port: 'c', uplink: 'up2' });
  return { ...b, up2, c };
}

/**
 * A network outside that both uplinks lead to, as a hub: what leaves by one comes in by the other, and the client hears it.
 * Counts every frame, and stops one that goes round.
 */
function hub(b: { up: TestDevice; up2: TestDevice }) {
  const heard: string[] = [];
  let frames = 0;
  const spread = (from: TestDevice | undefined, packet: Uint8Array) => {
    assert.ok(++frames < 1_000, 'frames go round');
    if (from !== undefined) heard.push(textOf(packet));
    for (const uplink of [b.up, b.up2]) if (uplink !== from) uplink.deliver(packet);
    settle();
  };
  const settle = () => {
    for (const uplink of [b.up, b.up2]) for (const packet of uplink.take()) spread(uplink, packet);
  };
  return {
    /** The client sends. */
    send: (packet: Uint8Array) => spread(undefined, packet),
    settle,
    heard: () => heard.splice(0),
  };
}

test(
  'frames of one uplink do not leave by another that does not join it, nor reach the ports behind it',
  within(() => {
    const b = twoUplinks();
    const kinds = [
      frame(MAC.client, MAC.other, 0x1234),
      frame(MAC.client, BROADCAST, 0x1234),
      frame(MAC.client, '01:80:c2:00:00:00', 0x0026),
      arp({ fromMac: MAC.client, sender: CLIENT, target: '10.77.0.99' }),
      arp({ fromMac: MAC.client, sender: '10.77.0.99', target: '10.77.0.99' }),
      udp({ from: CLIENT, to: '10.77.0.99', toMac: MAC.other, sport: 1, dport: 2 }),
      udp({ from: CLIENT, to: '10.77.0.255', toMac: BROADCAST, sport: 1, dport: 2 }),
      udp({ from: CLIENT, to: SERVICE_C, toMac: MAC_C, sport: 1, dport: 2 }),
      arp({ fromMac: MAC.client, sender: CLIENT, target: SERVICE_C }),
    ];
    b.up.deliver(...kinds);
    assert.equal([b.up2.texts(), b.c.texts()], [[], []]);
    assert.is(dropsOf(b, 'up')['unknown-unicast'], 3);
    b.up2.deliver(...kinds.map((packet) => packet));
    assert.equal([b.up.texts(), b.b.texts()], [[], []]);
    assert.ok(b.c.take().length >= 2, 'what is for the ports behind the second uplink comes to them');
  }),
);

test(
  'random frames of 3 uplinks and 4 partitions in 2 segments: 20 000, none crosses',
  within(() => {
    const seed = 771;
    console.log(`seed ${seed}, 20 000 frames`);
    const random = new SeededRandom(seed);
    const b = twoUplinks();
    const up3 = new TestDevice('up3');
    const d = new TestDevice('d');
    b.mux.addPort({ name: 'up3', kind: 'tap', role: 'uplink', device: up3, joins: 'up2' });
    const MAC_D = '02:00:00:00:00:0d';
    const mac = macAddress(MAC_D);
    b.mux.addPort({
      name: 'd',
      kind: 'stream',
      role: 'partition',
      device: d,
      mac,
      addresses: [ipv4Address('10.88.0.14')],
      uplink: 'up3',
      state: 'attached',
    });
    b.mux.portState('b', 'attached');
    const one = [b.up, b.a, b.b];
    const two = [b.up2, up3, b.c, d];
    const outside = [MAC.client, MAC.other, '02:00:00:00:01:03'];
    const inside = [MAC.a, MAC.b, MAC_C, MAC_D];
    const addresses = [SERVICE, '10.77.0.13', SERVICE_C, '10.88.0.14', CLIENT, '10.88.0.50'];
    const pick = <T>(list: readonly T[]): T => list[random.u32() % list.length]!;
    const own = new Map([
      [b.a, [MAC.a, SERVICE]],
      [b.b, [MAC.b, '10.77.0.13']],
      [b.c, [MAC_C, SERVICE_C]],
      [d, [MAC_D, '10.88.0.14']],
    ] as const);
    let passed = 0;
    for (let i = 0; i < 20_000; i++) {
      const side = pick([one, two]);
      const device = pick(side);
      const [fromMac, from] = own.get(device as never) ?? [pick(outside), pick(addresses)];
      const toMac = pick([...outside, ...inside, BROADCAST]);
      const to = pick(addresses);
      const made = [
        () => frame(fromMac, toMac, 0x1234),
        () => arp({ fromMac, sender: from, target: to }),
        () => arp({ fromMac, toMac, sender: from, target: to, operation: 'reply' }),
        () => udp({ fromMac, toMac, from, to, sport: 1 + (i % 9), dport: 2 }),
        () => tcp({ fromMac, toMac, from, to, sport: 1 + (i % 9), dport: 80, flags: pick([2, 16, 17, 4]) }),
      ];
      device.deliver(pick(made)());
      const [crossed, stayed] = side === one ? [two, one] : [one, two];
      for (const other of crossed) assert.equal(other.texts(), [], `frame ${i} went to ${other.name}`);
      for (const other of stayed) passed += other.take().length;
    }
    assert.ok(passed > 5_000, `${passed} frames passed within their segment`);
  }),
);

test(
  'a MAC and its place are known per uplink: the same MAC behind two is no loop, and behind an own port of the other no theft',
  within(() => {
    const b = twoUplinks();
    for (let i = 0; i < 20; i++) {
      b.up.deliver(fromClient(4000, FLAG.ACK));
      b.up2.deliver(udp({ from: CLIENT, to: SERVICE_C, toMac: MAC_C, sport: 1, dport: 2 }));
    }
    assert.equal(dropsOf(b, 'up'), {});
    assert.equal(dropsOf(b, 'up2'), {});
    b.a.take();
    b.c.take();
    b.c.deliver(udp({ fromMac: MAC_C, toMac: MAC.client, from: SERVICE_C, to: CLIENT, sport: 2, dport: 1 }));
    b.a.deliver(toClient(4000, FLAG.ACK));
    assert.equal([b.up.take().length, b.up2.take().length], [1, 1]);
    b.up2.deliver(udp({ fromMac: MAC.a, from: SERVICE, to: SERVICE_C, toMac: MAC_C, sport: 1, dport: 2 }));
    assert.is(b.c.take().length, 1, 'a, which is behind the other uplink, is a neighbour outside');
    b.up.deliver(udp({ fromMac: MAC.a, from: SERVICE, to: CLIENT, toMac: MAC.client, sport: 1, dport: 2 }));
    assert.is(dropsOf(b, 'up')['mac-of-a-port'], 1);
  }),
);

test(
  'the probe is reached from behind every uplink, and reaches services behind each, and partitions by their MAC',
  within(() => {
    const b = twoUplinks();
    const PROBE = '10.77.0.9';
    b.mux.portState('probe', 'attached');
    const probe = { fromMac: MAC.probe, from: PROBE };
    b.probe.deliver(
      arp({ fromMac: MAC.probe, sender: PROBE, target: SERVICE_C }),
      tcp({ ...probe, toMac: MAC_C, to: SERVICE_C, sport: 1, dport: 80, flags: FLAG.SYN }),
      udp({ ...probe, toMac: MAC_C, to: '10.88.0.99', sport: 1, dport: 2 }),
    );
    assert.is(b.c.take().length, 3);
    const c = { fromMac: MAC_C, from: SERVICE_C };
    b.c.deliver(
      arp({ fromMac: MAC_C, toMac: MAC.probe, sender: SERVICE_C, target: PROBE, operation: 'reply' }),
      arp({ fromMac: MAC_C, sender: SERVICE_C, target: PROBE }),
      tcp({ ...c, toMac: MAC.probe, to: PROBE, sport: 80, dport: 1, flags: FLAG.SYN | FLAG.ACK }),
    );
    assert.is(b.probe.take().length, 3);
    assert.equal([b.up.texts(), b.up2.take().length], [[], 1], 'the question was asked outside, too');
    b.up2.deliver(frame(MAC.probe, BROADCAST, 0x1234));
    assert.is(dropsOf(b, 'up2')['mac-of-a-port'], 1);
  }),
);

test(
  'an address is announced by the uplink that its port is behind and those that join it, IPv4 and IPv6',
  within(() => {
    const b = twoUplinks(bench6());
    const up3 = new TestDevice('up3');
    b.mux.addPort({ name: 'up3', kind: 'tap', role: 'uplink', device: up3, joins: 'up2' });
    b.mux.announce({ address: SERVICE, port: 'a', count: 1 });
    b.mux.announce({ address: SERVICE6, port: 'a', count: 1, uplink: 'up' });
    assert.equal([b.up.take().length, b.up2.take().length, up3.take().length], [2, 0, 0]);
    b.mux.announce({ address: SERVICE_C, port: 'c', count: 1, uplink: 'up3' });
    assert.equal([b.up.take().length, b.up2.take().length, up3.take().length], [0, 1, 1]);
  }),
);

test(
  'H7: the address goes to a partition behind the other uplink of the same network; old connections stay, no packet comes twice',
  within(() => {
    const b = twoUplinks();
    const net = hub(b);
    established(b, 4000);
    assert.throws(() => b.mux.switch({ address: SERVICE, from: 'a', to: 'c', uplink: 'up' }), /not behind/);
    assert.throws(() => b.mux.announce({ address: SERVICE, port: 'a', uplink: 'up2' }), /not behind/);
    const cut = b.mux.switch({ address: SERVICE, from: 'a', to: 'c', uplink: 'up2' });
    assert.is(cut.steered, 1);

    // Before the announcement: the client still sends to a's MAC; a hub carries it to both uplinks.
    net.send(fromClient(4001, FLAG.SYN, { toMac: MAC.a }));
    assert.equal(b.c.take().map(destinationMac), [MAC_C], 'a new connection, once');
    net.send(fromClient(4000, FLAG.ACK, { toMac: MAC.a }));
    assert.equal(b.a.take().map(destinationMac), [MAC.a], 'the old one, once');
    net.send(arp({ fromMac: MAC.client, toMac: MAC.a, sender: CLIENT, target: SERVICE }));
    assert.equal([b.a.texts(), b.c.take().length], [[], 1], 'who asks a for the address hears from c');

    b.mux.announce({ address: SERVICE, port: 'c', count: 2, intervalMs: 10 });
    b.clock.advance(100);
    net.settle();
    const announced = `arp request ${SERVICE} at ${MAC_C} > ${SERVICE}`;
    assert.equal(net.heard(), [announced, announced]);
    assert.equal([b.a.texts(), b.c.texts()], [[], []], 'nobody takes the other for an intruder');

    net.send(fromClient(4000, FLAG.ACK, { toMac: MAC_C }));
    assert.equal([b.a.take().length, b.c.take().length], [1, 0]);
    net.send(fromClient(4002, FLAG.SYN, { toMac: MAC_C }));
    assert.equal([b.a.take().length, b.c.take().length], [0, 1]);
    net.send(arp({ fromMac: MAC.client, sender: CLIENT, target: SERVICE }));
    assert.equal([b.a.texts(), b.c.take().length], [[], 1]);
    b.a.deliver(toClient(4000, FLAG.ACK));
    b.c.deliver(toClient(4002, FLAG.SYN | FLAG.ACK, 'b', { fromMac: MAC_C }));
    net.settle();
    assert.equal(net.heard(), [
      `tcp ${SERVICE}:80 > ${CLIENT}:4000 A`,
      `tcp ${SERVICE}:80 > ${CLIENT}:4002 SA`,
    ]);
    b.a.deliver(toClient(4003, FLAG.RST));
    net.settle();
    assert.equal(net.heard(), [], 'a is not the holder any more');
    // Back, in reverse.
    b.mux.switch({ address: SERVICE, from: 'c', to: 'a', uplink: 'up' });
    net.send(fromClient(4004, FLAG.SYN, { toMac: MAC_C }));
    assert.equal([b.a.take().length, b.c.take().length], [1, 0]);
  }),
);

test(
  'an address of one uplink is not to be had by another, even addressed to a port there; after path-set neither',
  within(() => {
    const b = twoUplinks();
    b.up2.deliver(fromClient(4000, FLAG.SYN, { toMac: MAC_C }));
    assert.equal([b.a.texts(), b.c.take().length], [[], 1], 'to c, who refuses it as any host would');
    b.mux.switch({ address: SERVICE, from: 'a', to: 'c' });
    b.mux.pathSet({ address: SERVICE, port: 'c' });
    b.c.take();
    b.up.deliver(fromClient(4001, FLAG.SYN, { toMac: MAC.a }));
    assert.equal([b.a.take().length, b.c.texts()], [1, []]);
  }),
);

test(
  'what was held at the old uplink goes to the new holder behind the other one',
  within(() => {
    const b = twoUplinks();
    b.mux.holdStart({ address: SERVICE, scope: 'all' });
    b.up.deliver(
      fromClient(4000, FLAG.SYN, { toMac: MAC.a }),
      arp({ fromMac: MAC.client, sender: CLIENT, target: SERVICE }),
    );
    b.mux.switch({ address: SERVICE, from: 'a', to: 'c' });
    b.mux.holdRelease({ address: SERVICE });
    assert.equal([b.a.texts(), b.c.take().length], [[], 2]);
  }),
);

test(
  'uplinks that do not exist, options of the wrong kind of port, and an uplink that went and came back',
  within(() => {
    const b = twoUplinks();
    const port = { kind: 'tap', device: new TestDevice('x') } as const;
    const refused = (options: object, code: string) => {
      try {
        b.mux.addPort({ ...port, name: 'x', role: 'uplink', ...options });
        assert.unreachable();
      } catch (error) {
        assert.is((error as { code?: string }).code, code);
      }
    };
    refused({ joins: 'nothing' }, 'unknown-uplink');
    refused({ joins: 'a' }, 'unknown-uplink');
    refused({ uplink: 'up' }, 'bad-argument');
    const mac = macAddress('02:00:00:00:00:77');
    refused({ role: 'partition', mac, joins: 'up' }, 'bad-argument');
    refused({ role: 'partition', mac, uplink: 'nothing' }, 'unknown-uplink');
    assert.throws(() => b.mux.pathSet({ address: '10.77.0.77', port: 'a', uplink: 'up2' }), /not behind/);
    assert.is(b.mux.ports().find((p) => p.name === 'c')?.uplink, 'up2');

    b.mux.removePort('up2');
    const again = new TestDevice('up2');
    b.mux.addPort({ name: 'third', kind: 'tap', role: 'uplink', device: new TestDevice('third') });
    b.mux.addPort({ name: 'up2', kind: 'tap', role: 'uplink', device: again });
    again.deliver(udp({ from: CLIENT, to: SERVICE_C, toMac: MAC_C, sport: 1, dport: 2 }));
    assert.is(b.c.take().length, 1);
  }),
);

test.run();
