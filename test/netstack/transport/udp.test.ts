import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ipv4Address, UdpError, type UdpIcmpError } from '../../../src/netstack/index.ts';
import { seeded } from '../../support/index.ts';
import { IP_A, IP_B, twoStacks } from '../iface/two-stacks.ts';

const udp = suite('netstack/transport/udp');

for (const offload of [false, true]) {
  udp(`datagrams of every size class arrive whole, checksum offload ${offload}`, () =>
    seeded((random) => {
      const { clock, a, b } = twoStacks({ checksum: offload });
      const server = b.udp.open({ port: 7 });
      server.onDatagram = ({ payload, source, sourcePort }) => {
        assert.is(server.send(payload, source, sourcePort), 'sent');
      };
      const client = a.udp.open();
      client.connect(IP_B, 7);
      for (const size of [0, 1, 2, 511, 1471, 1472, 1473, 3000, 20_001, 65_507]) {
        const payload = random.fill(new Uint8Array(size));
        assert.is(client.send(payload), 'sent');
        clock.advance(10);
        const answer = client.receive();
        assert.is(answer?.payload.length, size);
        assert.equal(answer?.payload, payload);
      }
      assert.is(a.ip.drops.total + b.ip.drops.total, 0);
    }),
  );
}

udp('65508 bytes are refused', () => {
  const { a } = twoStacks();
  assert.is(a.udp.open().send(new Uint8Array(65_508), IP_B, 7), 'too-big');
});

udp('no listener: port unreachable reaches the sender', () => {
  const { clock, a, b } = twoStacks();
  const client = a.udp.open({ port: 5000 });
  const errors: UdpIcmpError[] = [];
  client.onError = (error) => errors.push(error);
  client.send(new Uint8Array(3), IP_B, 9);
  clock.advance(10);
  assert.equal(errors, [{ kind: 'port-unreachable', destination: IP_B, destinationPort: 9 }]);
  assert.is(b.ip.drops.of('udp-port-closed'), 1);
});

udp('a neighbour that does not exist: host unreachable after three requests', () => {
  const { clock, a } = twoStacks();
  const client = a.udp.open();
  const kinds: string[] = [];
  client.onError = ({ kind }) => kinds.push(kind);
  client.send(new Uint8Array(3), ipv4Address('10.77.0.99'), 9);
  clock.advance(2_900);
  assert.equal(kinds, []);
  clock.advance(200);
  assert.equal(kinds, ['host-unreachable']);
});

udp('no route', () => {
  const { a } = twoStacks();
  assert.is(a.udp.open().send(new Uint8Array(3), ipv4Address('192.0.2.1'), 9), 'no-route');
});

udp('the receive queue is bounded and counts what it lost', () => {
  const { clock, a, b } = twoStacks();
  const server = b.udp.open({ port: 7, limits: { datagrams: 4 } });
  const client = a.udp.open();
  for (let i = 0; i < 10; i++) client.send(new Uint8Array([i]), IP_B, 7);
  clock.advance(10);
  assert.is(server.queued, 4);
  assert.is(server.overflowed, 6);
  assert.is(b.ip.drops.of('udp-queue-full'), 6);
  assert.equal(server.receive()?.payload, new Uint8Array([0]));
});

udp('a connected socket hears its peer only, and goes before the unconnected one', () => {
  const { clock, a, b } = twoStacks();
  const any = b.udp.open({ port: 7 });
  any.connect(IP_A, 1111);
  const open = b.udp.open({ port: 7 });
  const from = (port: number) => a.udp.open({ port }).send(new Uint8Array([1]), IP_B, 7);
  from(1111);
  from(2222);
  clock.advance(10);
  assert.is(any.receive()?.sourcePort, 1111);
  assert.is(any.receive(), undefined);
  assert.is(open.receive()?.sourcePort, 2222);
});

udp('broadcasts are received, and never answered with ICMP', () => {
  const { clock, a, b } = twoStacks();
  const server = b.udp.open({ port: 7 });
  const broadcast = ipv4Address('10.77.0.255');
  const client = a.udp.open();
  client.onError = () => assert.unreachable('no error may be sent about a broadcast');
  assert.is(client.send(new Uint8Array([1]), broadcast, 7), 'sent');
  client.send(new Uint8Array([1]), ipv4Address('255.255.255.255'), 8);
  clock.advance(10);
  assert.is(server.receive()?.destination, broadcast);
});

udp('to itself, by its own address and by 127.0.0.1', () => {
  const { clock, a } = twoStacks({ checksum: false });
  const server = a.udp.open({ port: 7 });
  a.udp.open().send(new Uint8Array([1]), IP_A, 7);
  a.udp.open().send(new Uint8Array([2]), ipv4Address('127.0.0.1'), 7);
  clock.advance(1);
  assert.is(server.receive()?.source, IP_A);
  assert.is(server.receive()?.source, ipv4Address('127.0.0.1'));
  assert.is(a.ip.received, 0);
});

udp('a full link says so and becomes writable again', () => {
  const { clock, a, b } = twoStacks({ queuePackets: 8 });
  const server = b.udp.open({ port: 7 });
  const client = a.udp.open();
  client.send(new Uint8Array([0]), IP_B, 7);
  clock.advance(10);
  let writable = 0;
  client.onWritable = () => writable++;
  let sent = 1;
  while (client.send(new Uint8Array([sent]), IP_B, 7) === 'sent') sent++;
  assert.is(sent, 9);
  clock.advance(1);
  assert.is(writable, 1);
  assert.is(client.send(new Uint8Array([sent]), IP_B, 7), 'sent');
  clock.advance(1);
  assert.is(server.queued, 10);
});

udp('a port has one owner per address; closing gives it back', () => {
  const { a } = twoStacks();
  const first = a.udp.open({ port: 53 });
  const taken = (error: unknown) => (error as UdpError).code === 'UDP_PORT_IN_USE';
  assert.throws(() => a.udp.open({ port: 53 }), taken);
  first.close();
  first.close();
  assert.is(first.send(new Uint8Array(1), IP_B, 1), 'closed');
  assert.ok(a.udp.open({ port: 53 }));
  assert.throws(
    () => a.udp.open({ address: ipv4Address('10.9.9.9') }),
    (error: unknown) => error instanceof UdpError && error.code === 'UDP_ADDRESS_NOT_OWN',
  );
});

udp('sockets move with an altered address and end with a removed one', () => {
  const { clock, a, b } = twoStacks();
  const to = ipv4Address('10.77.0.12');
  const server = b.udp.open({ port: 7, address: IP_B });
  const client = a.udp.open();
  client.send(new Uint8Array([0]), IP_B, 7);
  clock.advance(10);
  assert.is(server.receive()?.destination, IP_B);
  b.ip.prepareAlter(IP_B, to);
  client.send(new Uint8Array([1]), to, 7);
  clock.advance(10);
  assert.is(server.receive()?.destination, IP_B, 'prepared: known as the old address');
  b.ip.alter(IP_B, to);
  assert.is(server.localAddress, to);
  client.send(new Uint8Array([2]), IP_B, 7);
  clock.advance(10);
  assert.is(server.receive()?.destination, to, 'left: known as the new address');
  b.ip.removeAddress(to);
  assert.ok(server.closed);
});

udp.run();
