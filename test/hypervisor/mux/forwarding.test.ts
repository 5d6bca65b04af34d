import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { macAddress, VNET_HDR_LEN } from '../../../src/netstack/index.ts';
import { within } from '../../support/index.ts';
import {
  arp,
  bench,
  CLIENT,
  destinationMac,
  dropsOf,
  FLAG,
  frame,
  fromClient,
  MAC,
  SERVICE,
  TestDevice,
  udp,
} from './harness.ts';

const test = suite('hypervisor/mux/forwarding');

/** Three uplinks and nothing else. */
function switchBench() {
  const b = bench();
  const more = ['two', 'three'].map((name) => {
    const device = new TestDevice(name);
    b.mux.addPort({ name, kind: 'tap', role: 'uplink', device, joins: 'up' });
    return device;
  });
  return { ...b, two: more[0]!, three: more[1]! };
}

test(
  'an unknown unicast goes to every other uplink and to no partition; after learning to one uplink',
  within(() => {
    const { up, two, three, a } = switchBench();
    up.deliver(frame(MAC.client, MAC.other, 0x1234));
    assert.equal([two.take().length, three.take().length, a.take().length, up.take().length], [1, 1, 0, 0]);
    three.deliver(frame(MAC.other, MAC.client, 0x1234));
    assert.equal([up.take().length, two.take().length], [1, 0]);
    up.deliver(frame(MAC.client, MAC.other, 0x1234));
    assert.equal([two.take().length, three.take().length], [0, 1]);
  }),
);

test(
  'a learned address is forgotten after 300 s',
  within(() => {
    const { up, two, three, clock } = switchBench();
    three.deliver(frame(MAC.other, MAC.client, 0x1234));
    up.take();
    two.take();
    clock.advance(301_000);
    up.deliver(frame(MAC.client, MAC.other, 0x1234));
    assert.equal([two.take().length, three.take().length], [1, 1]);
  }),
);

test(
  'a frame is never sent back where it came from',
  within(() => {
    const b = switchBench();
    b.up.deliver(frame(MAC.client, MAC.other, 0x1234));
    b.up.deliver(frame(MAC.other, MAC.client, 0x1234));
    assert.is(b.up.take().length, 0);
    assert.is(dropsOf(b, 'up')['own-address'], 1);
  }),
);

test(
  'a MAC that jumps between uplinks faster than 5 times a second is a loop: dropped, and the network calms down',
  within(() => {
    const b = switchBench();
    for (let i = 0; i < 50; i++) {
      b.up.deliver(frame(MAC.client, 'ff:ff:ff:ff:ff:ff', 0x1234));
      b.two.deliver(frame(MAC.client, 'ff:ff:ff:ff:ff:ff', 0x1234));
    }
    assert.ok(dropsOf(b, 'up')['mac-flapping']! + (dropsOf(b, 'two')['mac-flapping'] ?? 0) >= 45);
    b.clock.advance(2_000);
    const before = dropsOf(b, 'up')['mac-flapping'] ?? 0;
    b.up.deliver(frame(MAC.client, MAC.other, 0x1234));
    assert.is(dropsOf(b, 'up')['mac-flapping'] ?? 0, before);
  }),
);

test(
  'a partition’s MAC as source on an uplink is dropped',
  within(() => {
    const b = bench();
    b.up.deliver(frame(MAC.a, MAC.b, 0x0800));
    assert.is(dropsOf(b, 'up')['mac-of-a-port'], 1);
  }),
);

test(
  'floods of many source MACs leave the table bounded and a busy address known',
  within(() => {
    const b = switchBench();
    for (let i = 0; i < 20_000; i++) {
      const low = i
        .toString(16)
        .padStart(6, '0')
        .replace(/..(?!$)/g, '$&:');
      b.up.deliver(frame(`02:11:22:${low}`, MAC.other, 0x1234));
      b.clock.advance(1);
      b.three.deliver(frame(MAC.other, MAC.client, 0x1234));
    }
    b.up.take();
    b.two.take();
    b.up.deliver(frame(MAC.client, MAC.other, 0x1234));
    assert.is(b.two.take().length, 0);
  }),
);

test(
  'broadcast reaches attached partitions and uplinks, not isolated ones',
  within(() => {
    const b = switchBench();
    b.up.deliver(arp({ fromMac: MAC.client, sender: CLIENT, target: '10.77.0.99' }));
    assert.equal(
      [b.a.take().length, b.b.take().length, b.probe.take().length, b.two.take().length, b.up.take().length],
      [1, 0, 0, 1, 0],
    );
  }),
);

test(
  'frames that are neither ARP nor IP pass between uplinks only; a barrier cannot be forged from outside',
  within(() => {
    const b = switchBench();
    b.up.deliver(
      frame(MAC.client, 'ff:ff:ff:ff:ff:ff', 0x88b5),
      frame(MAC.client, 'ff:ff:ff:ff:ff:ff', 0x8100),
      frame(MAC.client, MAC.a, 0x88b5),
    );
    assert.is(b.a.take().length, 0);
    assert.is(b.two.take().length, 2);
    assert.equal(dropsOf(b, 'up'), { ethertype: 1 });
  }),
);

test(
  'link-local group addresses stay on their wire, except spanning tree between uplinks',
  within(() => {
    const b = switchBench();
    b.up.deliver(
      frame(MAC.client, '01:80:c2:00:00:00', 0x0026),
      frame(MAC.client, '01:80:c2:00:00:01', 0x8808),
      frame(MAC.client, '01:80:c2:00:00:0e', 0x88cc),
    );
    assert.is(b.two.take().length, 1);
    b.a.deliver(frame(MAC.a, '01:80:c2:00:00:00', 0x0026));
    assert.is(b.up.take().length, 0);
    assert.is(dropsOf(b, 'a')['link-local-group'], 1);
  }),
);

test(
  'packets to a service address go along its path whatever their destination MAC says, and get the port’s MAC',
  within(() => {
    const b = bench();
    b.up.deliver(fromClient(4000, FLAG.SYN, { toMac: MAC.other }));
    b.up.deliver(fromClient(4001, FLAG.SYN, { toMac: MAC.b }));
    assert.equal(b.a.take().map(destinationMac), [MAC.a, MAC.a]);
    b.mux.portState('b', 'attached');
    b.mux.pathSet({ address: SERVICE, port: 'b' });
    b.up.deliver(fromClient(4002, FLAG.SYN));
    assert.equal(b.b.take().map(destinationMac), [MAC.b]);
  }),
);

test(
  'an ARP request for a service address reaches the holder of the path only',
  within(() => {
    const b = switchBench();
    b.mux.portState('b', 'attached');
    b.up.deliver(arp({ fromMac: MAC.client, sender: CLIENT, target: SERVICE }));
    assert.equal([b.a.take().length, b.b.take().length, b.two.take().length], [1, 0, 0]);
  }),
);

test(
  'without a live holder of the path packets are dropped and counted',
  within(() => {
    const b = bench();
    b.mux.setConnected('a', false);
    b.up.deliver(fromClient(4000, FLAG.SYN));
    assert.is(dropsOf(b, 'a')['port-down'], 1);
    b.mux.removePort('a');
    b.up.deliver(fromClient(4000, FLAG.SYN));
    assert.is(dropsOf(b, 'up')['no-path'], 1);
    assert.is(b.mux.counters({}).drops['port-down'], 1, 'drops of a removed port stay counted');
  }),
);

test(
  'an isolated port gives and gets nothing, except over the private path',
  within(() => {
    const b = bench();
    const ask = arp({ fromMac: MAC.b, sender: SERVICE, target: '10.77.0.99' });
    b.b.deliver(ask);
    b.up.deliver(udp({ from: CLIENT, to: '10.77.0.13', toMac: MAC.b, sport: 1, dport: 2 }));
    assert.is(dropsOf(b, 'b')['isolated'], 1);
    assert.is(dropsOf(b, 'up')['isolated'], 1);
    b.mux.privatePath({ probe: 'probe', port: 'b' });
    b.probe.deliver(arp({ fromMac: MAC.probe, sender: '10.77.0.99', target: SERVICE }));
    assert.equal(b.b.texts(), [`arp request 10.77.0.99 at ${MAC.probe} > ${SERVICE}`]);
    b.b.deliver(
      arp({ operation: 'reply', fromMac: MAC.b, toMac: MAC.probe, sender: SERVICE, target: '10.77.0.99' }),
    );
    assert.equal(b.probe.texts(), [`arp reply ${SERVICE} at ${MAC.b} > 10.77.0.99`]);
    assert.equal([b.up.take().length, b.a.take().length], [0, 0]);
    b.mux.privatePath({ probe: 'probe', port: null });
    b.probe.deliver(arp({ fromMac: MAC.probe, sender: '10.77.0.99', target: SERVICE }));
    assert.is(b.b.take().length, 0);
  }),
);

test(
  'a packet longer than the receiver’s MTU is dropped at the receiver, a full queue is counted there',
  within(() => {
    const b = bench();
    b.up.deliver(fromClient(4000, FLAG.ACK, { payload: 'x'.repeat(1600) }));
    assert.is(dropsOf(b, 'a')['too-big'], 1);
    b.a.room = 0;
    b.up.deliver(fromClient(4000, FLAG.ACK));
    assert.is(dropsOf(b, 'a')['queue-full'], 1);
  }),
);

test(
  'malformed packets end as named drops',
  within(() => {
    const b = bench();
    const whole = fromClient(4000, FLAG.SYN);
    for (let length = VNET_HDR_LEN; length < VNET_HDR_LEN + 54; length++)
      b.up.deliver(whole.slice(0, length));
    const named = dropsOf(b, 'up');
    assert.is(named['too-short'], 14);
    assert.is(named['malformed-ipv4'], 40);
    const badCsum = whole.slice();
    badCsum.set([1, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0]);
    b.up.deliver(badCsum);
    assert.is(dropsOf(b, 'up')['bad-vnet-header'], 1);
    assert.is(b.a.take().length, 0);
  }),
);

test(
  'a device that delivers while it is transmitted to does not disturb the packet at hand',
  within(() => {
    const b = bench();
    const answers: string[] = [];
    b.a.transmit = (buffer, offset, length) => {
      b.a.sent.push(buffer.slice(offset, offset + length));
      answers.push('got');
      b.a.deliver(
        udp({
          fromMac: MAC.a,
          toMac: MAC.client,
          from: SERVICE,
          to: CLIENT,
          sport: 9,
          dport: answers.length,
        }),
      );
      return true;
    };
    b.up.deliver(udp({ from: CLIENT, to: SERVICE, sport: 1, dport: 9 }), fromClient(5, FLAG.SYN));
    assert.equal(b.a.texts(), [`udp ${CLIENT}:1 > ${SERVICE}:9`, `tcp ${CLIENT}:5 > ${SERVICE}:80 S`]);
    assert.equal(b.up.texts(), [`udp ${SERVICE}:9 > ${CLIENT}:1`, `udp ${SERVICE}:9 > ${CLIENT}:2`]);
  }),
);

test(
  'each device is flushed once per batch',
  within(() => {
    const b = bench();
    b.up.deliver(...Array.from({ length: 20 }, (_, i) => fromClient(4000 + i, FLAG.SYN)));
    assert.is(b.a.flushes, 1);
  }),
);

test(
  'two ports cannot have one name or one MAC; a removed port’s device is closed and its name free',
  within(() => {
    const b = bench();
    const twin = (name: string, mac: string) =>
      b.mux.addPort({
        name,
        kind: 'stream',
        role: 'partition',
        device: new TestDevice(name),
        mac: macAddress(mac),
      });
    assert.throws(() => twin('a', MAC.other), /already/);
    assert.throws(() => twin('c', MAC.a), /already/);
    assert.throws(() => twin('c', '01:00:00:00:00:01'), /unicast/);
    b.mux.removePort('a');
    assert.ok(b.a.closed);
    twin('a', MAC.a);
  }),
);

test.run();
