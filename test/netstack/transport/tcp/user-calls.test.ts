/** OPEN, STATUS and asynchronous reports (RFC 9293 3.9.1): ports, addresses, soft errors. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { TcpConfig, TcpErrorCode } from '../../../../src/netstack/transport/tcp/index.ts';
import { ipAddress } from '../../../../src/netstack/wire/index.ts';
import { within } from '../../../support/index.ts';
import type { SceneOptions } from './support/index.ts';
import {
  ACK,
  buildSegment,
  Endpoint,
  establishedPassive,
  Network,
  ScriptedPeer,
  serve,
} from './support/index.ts';

const must = suite('netstack/transport/tcp/user-calls');

function start(options: SceneOptions = {}, config: Partial<TcpConfig> = {}) {
  const network = new Network();
  const host = network.host('10.0.0.11', config);
  return { network, host, ...establishedPassive(network, host, options) };
}

const codeOf = (action: () => unknown): TcpErrorCode | undefined => {
  try {
    action();
  } catch (error) {
    return (error as { code: TcpErrorCode }).code;
  }
  return undefined;
};

must(
  'MUST-41, MUST-42: listening again fails and leaves the listener alone; a port may be listened on while it opens a connection',
  within(() => {
    const network = new Network();
    const host = network.host('10.0.0.11');
    const client = network.host('10.0.0.1');
    const accepted = serve(host, 80);
    assert.is(
      codeOf(() => host.tcp.listen({ port: 80 }, () => {})),
      'EADDRINUSE',
    );
    const opening = new Endpoint();
    const peer = new ScriptedPeer(network, host, 9000);
    opening.connection = host.tcp.connect(
      { remoteAddress: peer.address, remotePort: peer.port, localPort: 9000 },
      opening,
    );
    assert.is(opening.connection.state, 'SYN-SENT');
    const second = serve(host, 9000);
    const endpoint = new Endpoint();
    endpoint.connection = client.tcp.connect({ remoteAddress: host.address, remotePort: 9000 }, endpoint);
    assert.ok(network.until(() => endpoint.isConnected && second.length === 1, 1000));
    const first = new Endpoint();
    first.connection = client.tcp.connect({ remoteAddress: host.address, remotePort: 80 }, first);
    assert.ok(network.until(() => accepted.length === 1, 1000));
  }),
);

must(
  'MUST-43, MUST-44, MUST-45: the local address may be given; otherwise IP chooses it before the SYN, and it stays',
  within(() => {
    const network = new Network();
    const host = network.host('10.0.0.11');
    const second = ipAddress('10.0.0.12');
    host.addresses.add(second);
    network.hosts.set(second, host);
    const server = network.host('10.0.0.2');
    serve(server, 80, (endpoint) => endpoint.send('hello').end());
    const sources = new Set<unknown>();
    network.filter = ({ from, to }) => {
      if (to === server.address) sources.add(from);
      return true;
    };
    const open = (localAddress?: typeof second) => {
      sources.clear();
      const endpoint = new Endpoint();
      endpoint.connection = host.tcp.connect(
        { remoteAddress: server.address, remotePort: 80, localAddress },
        endpoint,
      );
      assert.ok(network.until(() => endpoint.isEnded, 2000));
      return [...sources];
    };
    assert.equal(open(), [host.address]);
    assert.equal(open(second), [second]);
    assert.is(
      codeOf(() => open(ipAddress('10.0.0.77'))),
      'EADDRNOTAVAIL',
    );
  }),
);

must(
  'MUST-46: nobody connects to a group, to everybody or to nobody',
  within(() => {
    const { host } = start();
    const gone = ['224.0.0.1', '239.1.2.3', '255.255.255.255', '0.0.0.0', 'ff02::1', '::'];
    for (const address of gone) {
      const open = () =>
        host.tcp.connect({ remoteAddress: ipAddress(address), remotePort: 80 }, new Endpoint());
      assert.is(codeOf(open), 'ENETUNREACH', address);
    }
  }),
);

must(
  'MUST-47, MUST-54, MUST-56: an ICMP error goes to its connection, is told in its status, and ends none that is open',
  within(() => {
    const { network, host, peer, endpoint, connection } = start();
    connection.write(Buffer.from('data'));
    peer.settle(1);
    const quote = buildSegment(80, peer.port, { seq: peer.take().seq, flags: ACK });
    const kinds = [
      ['network-unreachable', 'network is unreachable'],
      ['host-unreachable', 'no route to host'],
      ['source-route-failed', 'no route to host'],
      ['time-exceeded', 'no route to host'],
      ['parameter-problem', 'no route to host'],
      ['port-unreachable', 'connection refused'],
    ] as const;
    for (const [kind, told] of kinds) {
      const reason = host.tcp.icmpError(kind, host.address, peer.address, quote, 0, 8);
      assert.is(reason, undefined);
      assert.match(connection.status.softError ?? '', told);
      assert.is(connection.state, 'ESTABLISHED', kind);
    }
    network.clock.advance(10_000);
    assert.not.ok(endpoint.isClosed);
    const stranger = buildSegment(81, peer.port, { seq: 0, flags: ACK });
    assert.is(
      host.tcp.icmpError('host-unreachable', host.address, peer.address, stranger, 0, 8),
      'icmp-unrelated-error',
    );
  }),
);

must.run();
