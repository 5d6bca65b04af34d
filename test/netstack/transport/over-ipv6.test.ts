/** UDP and TCP between two stacks over IPv6: sizes, offload, loss, path MTU, alteration, hand-over, both families at one port. */
import { createHash } from 'node:crypto';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { IpAddress, LinkDevice, Stack, TcpConnection } from '../../../src/netstack/index.ts';
import {
  ChangeNotice,
  cidr,
  ETHERTYPE,
  impair,
  ipAddress,
  LinkWrapper,
  readU16,
  type UdpIcmpError,
  VNET_GSO,
  vnetGsoType,
} from '../../../src/netstack/index.ts';
import { seeded, within } from '../../support/index.ts';
import { IP_A, IP_B, IP6_A, IP6_B, twoStacks } from '../iface/two-stacks.ts';
import { packet } from '../packets.ts';
import { icmp6, ipv6 } from '../packets6.ts';

const over = suite('netstack/transport/over-ipv6');
const sha = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

/** Everything sent by the stack under it, by Ethernet type, and the largest of them. */
class Watch extends LinkWrapper {
  readonly types: number[] = [];
  readonly gso: number[] = [];
  largest = 0;
  override transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    this.types.push(readU16(buffer, offset + 22));
    this.gso.push(vnetGsoType(buffer, offset));
    this.largest = Math.max(this.largest, length - 24);
    return super.transmit(buffer, offset, length);
  }
}

for (const offload of [false, true]) {
  over(`UDP: datagrams of every size class arrive whole, checksum offload ${offload}`, () =>
    seeded((random) => {
      const { clock, a, b } = twoStacks({ checksum: offload, dual: true });
      const server = b.udp.open({ port: 7 });
      server.onDatagram = ({ payload, source, sourcePort }) => {
        assert.is(server.send(payload, source, sourcePort), 'sent');
      };
      const client = a.udp.open();
      client.connect(IP6_B, 7);
      for (const size of [0, 1, 2, 511, 1451, 1452, 1453, 3000, 20_001, 65_527]) {
        const payload = random.fill(new Uint8Array(size));
        assert.is(client.send(payload), 'sent');
        clock.advance(10);
        assert.ok(
          Buffer.compare(client.receive()?.payload ?? Buffer.from('none'), payload) === 0,
          `${size} bytes`,
        );
      }
      assert.is(client.send(new Uint8Array(65_528)), 'too-big');
      assert.is(a.ip.drops.total + b.ip.drops.total, 0);
    }),
  );
}

over('UDP: no listener, no neighbour, no route; both families at one socket, one bound to an address', () => {
  const { clock, a, b } = twoStacks({ dual: true });
  const client = a.udp.open();
  const errors: UdpIcmpError[] = [];
  client.onError = (error) => errors.push(error);
  client.send(new Uint8Array(3), IP6_B, 9);
  clock.advance(10);
  assert.equal(errors, [{ kind: 'port-unreachable', destination: IP6_B, destinationPort: 9 }]);
  assert.is(client.send(new Uint8Array(3), ipAddress('2001:db8::1'), 9), 'no-route');
  const any = b.udp.open({ address: ipAddress('::'), port: 7 });
  const bound = b.udp.open({ address: IP6_B, port: 7 });
  client.send(new Uint8Array(4), IP_B, 7);
  client.send(new Uint8Array(6), IP6_B, 7);
  clock.advance(10);
  assert.is(any.receive()?.payload.length, 4);
  assert.is(bound.receive()?.payload.length, 6);
  assert.is(bound.send(new Uint8Array(1), IP_A, 7), 'no-route', 'never across families');
});

/** One connection with an echoing server; returns what the client has got. */
function echo(
  a: Stack,
  b: Stack,
  remoteAddress: IpAddress,
): { client: TcpConnection; got: () => Buffer; errors: unknown[] } {
  const errors: unknown[] = [];
  b.tcp.listen({ port: 80 }, (connection) => {
    connection.setHandler({
      connected: () => {},
      readable: () => {
        for (let data = connection.read(); data !== undefined; data = connection.read())
          connection.write(data);
      },
      writable: () => {},
      closed: (error) => errors.push(error),
    });
  });
  const chunks: Buffer[] = [];
  const client: TcpConnection = a.tcp.connect(
    { remoteAddress, remotePort: 80 },
    {
      connected: () => {},
      readable: () => {
        for (let data = client.read(); data !== undefined; data = client.read())
          chunks.push(Buffer.from(data));
      },
      writable: () => {},
      closed: (error) => errors.push(error),
    },
  );
  return { client, got: () => Buffer.concat(chunks), errors };
}

over('TCP: the MSS is the MTU less 60, and no packet is larger than the MTU', () => {
  let watch: Watch | undefined;
  const wrap = (link: LinkDevice) => {
    const wrapped = new Watch(link);
    watch ??= wrapped;
    return wrapped;
  };
  const { clock, a, b } = twoStacks({ dual: true, wrap });
  const { client, got } = echo(a, b, IP6_B);
  client.write(Buffer.alloc(50_000, 1));
  assert.ok(clock.runUntil(() => got().length === 50_000, 20_000));
  assert.is(client.status.effMss, 1500 - 60 - 12);
  assert.is(watch!.largest, 1500);
  assert.ok(watch!.types.every((type) => type === ETHERTYPE.IPV6));
  assert.is(a.ip.drops.total + b.ip.drops.total, 0);
});

over('TCP: a link that segments gets packets of gso_type TCPv6', () => {
  let watch: Watch | undefined;
  const wrap = (link: LinkDevice) => {
    const wrapped = new Watch(link);
    watch ??= wrapped;
    return wrapped;
  };
  const { clock, a, b } = twoStacks({ dual: true, segmentation: true, wrap });
  const { client, got } = echo(a, b, IP6_B);
  client.write(Buffer.alloc(300_000, 1));
  assert.ok(clock.runUntil(() => got().length === 300_000, 20_000));
  assert.ok(watch!.gso.includes(VNET_GSO.TCPV6));
  assert.ok(watch!.largest > 10_000);
});

over(
  'TCP is byte-exact under loss, reordering and duplication',
  within(
    () =>
      seeded((random, seed) => {
        for (const segmentation of [false, true]) {
          const { clock, a, b } = twoStacks({
            dual: true,
            seed,
            segmentation,
            wrap: (link, virtual, chance) =>
              impair(link, virtual, chance, { loss: 0.05, reorder: 0.1, duplicate: 0.05, delayMs: 5 }),
          });
          const { client, got, errors } = echo(a, b, IP6_B);
          const data = random.fill(new Uint8Array(200_000));
          client.write(data);
          assert.ok(
            clock.runUntil(() => got().length === data.length, 3_600_000),
            `got ${got().length}`,
          );
          assert.is(sha(got()), sha(data));
          assert.equal(errors, []);
        }
      }),
    30_000,
  ),
);

over(
  'an hour of requests, one every seven seconds: neighbours are confirmed again and again, nothing is lost',
  () => {
    const { clock, a, b } = twoStacks({ dual: true });
    const { client, got, errors } = echo(a, b, IP6_B);
    const states = new Set<string>();
    let sent = 0;
    while (clock.nowMs() < 3_600_000) {
      client.write(Buffer.from('x'));
      sent++;
      clock.advance(7_000);
      for (const { state } of a.ip.neighbours.entries()) states.add(state);
    }
    assert.is(got().length, sent);
    assert.equal(errors, []);
    assert.is(a.tcp.counters.retransmits + b.tcp.counters.retransmits, 0);
    assert.ok(states.has('REACHABLE') && states.has('STALE'), [...states].join());
    assert.is(a.ip.neighbours.size, 1);
  },
);

over('TCP: packet too big makes segments smaller, and the connection goes on', () => {
  const limit = 1300;
  class Narrow extends LinkWrapper {
    override transmit(buffer: Uint8Array, offset: number, length: number): boolean {
      const ip = Buffer.from(buffer.subarray(offset + 24, offset + length));
      if (length - 24 <= limit || ip[0]! >>> 4 !== 6) return super.transmit(buffer, offset, length);
      const ends = { source: 'fd00::2', destination: 'fd00::1' };
      const payload = icmp6(ends, 2, 0, limit, ip.subarray(0, 1232));
      const error = packet(ipv6({ ...ends, protocol: 58, payload }), { type: ETHERTYPE.IPV6 });
      queue.push(error);
      return true;
    }
  }
  const queue: Buffer[] = [];
  const { clock, a, b } = twoStacks({
    dual: true,
    wrap: (link) => (link.name === 'memory-a' ? new Narrow(link) : link),
  });
  const { client, got } = echo(a, b, IP6_B);
  client.write(Buffer.alloc(40_000, 3));
  const done = clock.runUntil(() => {
    for (const error of queue.splice(0)) {
      a.ip.receive(error, 0, error.length);
      a.ip.endOfBatch();
    }
    return got().length === 40_000;
  }, 20_000);
  assert.ok(done);
  assert.is(a.ip.pathMtu(IP6_B), limit);
  assert.is(client.status.effMss, limit - 60 - 12);
});

over('one listener on any address serves both families; an address of one family its own', () => {
  const { clock, a, b } = twoStacks({ dual: true });
  const accepted: string[] = [];
  const listen = (port: number, address: string | undefined) =>
    b.tcp.listen({ port, address: address === undefined ? undefined : ipAddress(address) }, (connection) =>
      accepted.push(`${port} ${typeof connection.remoteAddress === 'number' ? 'IPv4' : 'IPv6'}`),
    );
  const refused: string[] = [];
  const dial = (remoteAddress: IpAddress, remotePort: number) =>
    a.tcp.connect(
      { remoteAddress, remotePort },
      {
        connected() {},
        readable() {},
        writable() {},
        closed: (error) => refused.push(`${remotePort} ${error?.code}`),
      },
    );
  listen(1, '::');
  listen(2, undefined);
  listen(3, '0.0.0.0');
  listen(4, 'fd00::2');
  for (const port of [1, 2, 3, 4]) {
    dial(IP_B, port);
    dial(IP6_B, port);
    clock.advance(50);
  }
  assert.equal(accepted, ['1 IPv4', '1 IPv6', '2 IPv4', '2 IPv6', '3 IPv4', '4 IPv6']);
  assert.equal(refused, ['3 ECONNREFUSED', '4 ECONNREFUSED']);
  assert.throws(() => listen(3, '::'), 'taken for IPv4');
  listen(3, 'fd00::2');
});

over('::1 reaches our own listeners, without a link', () => {
  const { clock, a } = twoStacks({ dual: true });
  const { client, got } = echo(a, a, ipAddress('::1'));
  client.write(Buffer.from('hello'));
  assert.ok(clock.runUntil(() => got().toString() === 'hello', 1_000));
});

for (const offload of [false, true]) {
  over(`2202, 2204: an altered address under open connections, segmentation offload ${offload}`, () => {
    const { clock, a, b } = twoStacks({ dual: true, segmentation: offload });
    const second = ipAddress('fd00::12');
    const { client, got, errors } = echo(a, b, IP6_B);
    let total = 0;
    const exchange = () => {
      total += 100_000;
      client.write(Buffer.alloc(100_000, total / 100_000));
      assert.ok(
        clock.runUntil(() => got().length === total, 20_000),
        `${total}`,
      );
    };
    exchange();
    b.ip.prepareAlter(IP6_B, second);
    exchange();
    const notice = new ChangeNotice({ first: IP6_B, second });
    b.ip.send.setNotice(notice);
    b.ip.alter(IP6_B, second);
    exchange();
    assert.is.not(notice.counters.rewritten, 0);
    b.ip.alter(second, IP6_B);
    b.ip.send.cancelNotice();
    exchange();
    assert.equal(errors, []);
    assert.is(a.ip.drops.of('tcp-bad-checksum') + b.ip.drops.of('tcp-bad-checksum'), 0);
  });
}

over('hand-over: a connection goes on in another stack that has taken the address', () => {
  const { clock, a, b } = twoStacks({ dual: true });
  const { client, got, errors } = echo(a, b, IP6_B);
  client.write(Buffer.from('one '));
  assert.ok(clock.runUntil(() => got().length === 4, 5_000));
  const [open] = [...b.tcp.connections()];
  const state = JSON.parse(JSON.stringify(open!.exportState())) as { flow: Record<string, unknown> };
  assert.is(state.flow['localAddress'], 'fd00::2');
  assert.is(state.flow['remoteAddress'], 'fd00::1');
  b.ip.removeAddress(IP6_B);
  b.ip.addAddress(cidr('fd00::2/64'), false);
  const imported = b.tcp.importState(state);
  imported.setHandler({
    connected: () => {},
    readable: () => {
      for (let data = imported.read(); data !== undefined; data = imported.read()) imported.write(data);
    },
    writable: () => {},
    closed: (error) => errors.push(error),
  });
  client.write(Buffer.from('two'));
  assert.ok(
    clock.runUntil(() => got().toString() === 'one two', 5_000),
    got().toString(),
  );
  assert.equal(errors, []);
});

over('a removed address ends what is bound to it', () => {
  const { clock, a, b } = twoStacks({ dual: true });
  const { client, got, errors } = echo(a, b, IP6_B);
  client.write(Buffer.from('x'));
  assert.ok(clock.runUntil(() => got().length === 1, 5_000));
  a.ip.removeAddress(IP6_A);
  clock.advance(1);
  assert.is((errors[0] as { code?: string }).code, 'EADDRNOTAVAIL');
});

over.run();
