/** A host with two network devices (RFC 1122 section 3.3.4, strong end system model): clients on either side, one set of transports. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { SeededRandom, VirtualClock } from '../../../src/common/index.ts';
import type { IpAddress } from '../../../src/netstack/index.ts';
import { cidr, ipAddress, LinkWrapper, MemoryLink, macAddress, Stack } from '../../../src/netstack/index.ts';
import { seeded } from '../../support/index.ts';
import { adopt, Endpoint } from '../transport/tcp/support/index.ts';

const multihomed = suite('netstack/iface/multihomed');

/** Counts the packets that its stack sends. */
class Counting extends LinkWrapper {
  sent = 0;
  override transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    this.sent++;
    return super.transmit(buffer, offset, length);
  }
}

const ONE = ipAddress('10.1.0.1');
const TWO = ipAddress('10.2.0.1');
const TWO6 = ipAddress('fd02::1');

function scene(seed = 1) {
  const clock = new VirtualClock();
  const random = new SeededRandom(seed);
  const [near1, far1] = MemoryLink.pair(clock, { mtu: 1500 });
  const [near2, far2] = MemoryLink.pair(clock, { mtu: 1300 });
  const links = [new Counting(near1), new Counting(near2)] as const;
  const host = new Stack({
    clock,
    random,
    link: links[0],
    mac: macAddress('02:00:00:00:01:01'),
    addresses: [cidr('10.1.0.1/24')],
    gateway: ipAddress('10.1.0.254'),
    detectDuplicates: false,
    further: [
      {
        link: links[1],
        mac: macAddress('02:00:00:00:02:01'),
        addresses: [cidr('10.2.0.1/24'), cidr('fd02::1/64')],
        gateway: [ipAddress('10.2.0.254'), ipAddress('fd02::254')],
        detectDuplicates: false,
      },
    ],
  });
  const client = (link: MemoryLink, mac: string, addresses: string[], gateway: string) =>
    new Stack({
      clock,
      random,
      link,
      mac: macAddress(mac),
      addresses: addresses.map((text) => cidr(text)),
      gateway: ipAddress(gateway),
      detectDuplicates: false,
    });
  const one = client(far1, '02:00:00:00:01:02', ['10.1.0.2/24'], '10.1.0.1');
  const two = client(far2, '02:00:00:00:02:02', ['10.2.0.2/24', 'fd02::2/64'], '10.2.0.1');
  return { clock, host, one, two, links };
}

/** The endpoints of accepted connections. */
function serve(stack: Stack, port: number): Endpoint[] {
  const accepted: Endpoint[] = [];
  stack.tcp.listen({ port }, (connection) => accepted.push(adopt(connection)));
  return accepted;
}

function dial(stack: Stack, remoteAddress: IpAddress, localAddress?: IpAddress): Endpoint {
  const endpoint = new Endpoint();
  endpoint.connection = stack.tcp.connect({ remoteAddress, remotePort: 7, localAddress }, endpoint);
  return endpoint;
}

multihomed('one listener serves clients of both links; each connection keeps to its own', () =>
  seeded((random, seed) => {
    const { clock, host, one, two, links } = scene(seed);
    const accepted = serve(host, 7);
    const ways = [
      { from: one, to: ONE, link: 0 },
      { from: two, to: TWO, link: 1 },
      { from: two, to: TWO6, link: 1 },
    ] as const;
    for (const { from, to, link } of ways) {
      const before = links.map(({ sent }) => sent);
      const [there, back] = [random.fill(new Uint8Array(20_000)), random.fill(new Uint8Array(30_000))];
      const client = dial(from, to).send(there);
      clock.advance(200);
      const server = accepted.at(-1)!.send(back);
      clock.advance(2_000);
      assert.ok(server.bytes.equals(there) && client.bytes.equals(back), String(to));
      assert.is(server.connection.localAddress, to);
      const sent = links.map((l, i) => l.sent - before[i]!);
      assert.ok(sent[link]! > 10, 'by its link');
      assert.is(sent[1 - link]!, 0, 'nothing by the other');
    }
  }),
);

multihomed('segments fit the MTU of the link that the connection is on', () => {
  const { clock, host, one, two } = scene();
  const accepted = serve(host, 7);
  dial(one, ONE);
  dial(two, TWO);
  clock.advance(100);
  assert.equal(
    accepted.map(({ connection }) => connection.status.effMss),
    [1500 - 40 - 12, 1300 - 40 - 12],
  );
});

multihomed('an address is served on its own link only', () => {
  const { clock, host, one } = scene();
  const accepted = serve(host, 7);
  // The client's gateway is the host, which neither forwards nor answers for its other address.
  dial(one, TWO);
  clock.advance(5_000);
  assert.is(accepted.length, 0);
  assert.ok(host.ip.drops.total > 0);
});

multihomed(
  'the source is one of the link that the destination is on; beyond the links, of the first with a gateway',
  () => {
    const { host } = scene();
    assert.is(host.host.sourceFor(ipAddress('10.2.0.77')), TWO);
    assert.is(host.host.sourceFor(ipAddress('10.1.0.77')), ONE);
    assert.is(host.host.sourceFor(ipAddress('192.0.2.1')), ONE);
    assert.is(host.host.sourceFor(ipAddress('2001:db8::1')), TWO6);
    assert.ok(host.host.isLocal(TWO) && host.host.isLocal(ONE) && !host.host.isLocal(ipAddress('10.2.0.2')));
  },
);

multihomed('from one of its addresses to another no link is taken', () => {
  const { clock, host, links } = scene();
  const server = host.udp.open({ port: 53 });
  server.onDatagram = ({ payload, source, sourcePort }) => void server.send(payload, source, sourcePort);
  for (const [address, to] of [
    [ONE, TWO],
    [TWO, ONE],
  ] as const) {
    const client = host.udp.open({ address });
    assert.is(client.send(Buffer.from('here'), to, 53), 'sent');
    clock.advance(10);
    const answer = client.receive();
    assert.is(Buffer.from(answer?.payload ?? []).toString(), 'here');
  }
  const accepted = serve(host, 7);
  dial(host, TWO, ONE);
  clock.advance(100);
  assert.is(accepted.length, 1);
  assert.is(links[0].sent + links[1].sent, 0);
});

multihomed(
  'an address of the second device is altered under its connections; those of the first go on',
  () => {
    const { clock, host, one, two } = scene();
    const accepted = serve(host, 7);
    const first = dial(one, ONE);
    const second = dial(two, TWO);
    clock.advance(100);
    host.interfaceOf(TWO)!.alter(TWO, ipAddress('10.2.0.9'));
    assert.equal(
      accepted.map(({ connection }) => connection.localAddress),
      [ONE, ipAddress('10.2.0.9')],
    );
    first.send('first');
    // What comes for the address that was left belongs to the connection still.
    second.send('second');
    clock.advance(100);
    assert.equal(
      accepted.map(({ text }) => text),
      ['first', 'second'],
    );
    assert.equal(
      host.addresses.map(({ address }) => address),
      [ONE, ipAddress('10.2.0.9'), TWO6],
    );
  },
);

multihomed.run();
