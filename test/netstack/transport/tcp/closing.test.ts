import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { within } from '../../../support/index.ts';
import {
  ACK,
  dial,
  established,
  establishedPassive,
  FIN,
  flagsOf,
  Network,
  RST,
  SYN,
  serve,
} from './support/index.ts';

const closing = suite('netstack/transport/tcp/closing');

function start() {
  const network = new Network();
  const host = network.host('10.0.0.11');
  return { network, host, ...establishedPassive(network, host) };
}

closing(
  'active close: FIN-WAIT-1, FIN-WAIT-2, TIME-WAIT, gone after 2 MSL',
  within(() => {
    const { network, host, peer, endpoint, connection, seq, ack } = start();
    connection.shutdown();
    peer.settle();
    const fin = peer.take();
    assert.is(flagsOf(fin), 'FIN ACK');
    assert.is(connection.state, 'FIN-WAIT-1');
    peer.send({ seq, ack: ack + 1, flags: ACK });
    assert.is(connection.state, 'FIN-WAIT-2');
    peer.send({ seq, ack: ack + 1, flags: ACK, data: 'more' });
    assert.is(endpoint.text, 'more', 'half-closed: the other direction goes on');
    peer.clear();
    peer.send({ seq: seq + 4, ack: ack + 1, flags: FIN | ACK });
    assert.is(peer.take().ack, seq + 5);
    assert.is(connection.state, 'TIME-WAIT');
    assert.ok(endpoint.isClosed);
    assert.is(endpoint.error, undefined);
    network.clock.advance(59_000);
    peer.send({ seq: seq + 4, ack: ack + 1, flags: FIN | ACK });
    assert.is(peer.take('the ACK again').ack, seq + 5);
    network.clock.advance(59_000);
    assert.is(connection.state, 'TIME-WAIT', 'a repeated FIN restarts the time');
    network.clock.advance(1100);
    assert.equal(host.tcp.stateCounts(), {});
  }),
);

closing(
  'passive close: CLOSE-WAIT until the application closes, LAST-ACK until acknowledged',
  within(() => {
    const { peer, endpoint, connection, seq, ack, host } = start();
    peer.send({ seq, ack, flags: FIN | ACK });
    assert.is(peer.take().ack, seq + 1);
    assert.is(connection.state, 'CLOSE-WAIT');
    assert.ok(endpoint.isEnded);
    connection.write(Buffer.from('still'));
    connection.shutdown();
    peer.settle();
    const last = peer.take();
    assert.is(last.data.toString(), 'still');
    assert.is(flagsOf(last), 'FIN ACK');
    assert.is(connection.state, 'LAST-ACK');
    peer.send({ seq: seq + 1, ack: ack + 6, flags: ACK });
    assert.ok(endpoint.isClosed);
    assert.equal(host.tcp.stateCounts(), {});
  }),
);

closing(
  'simultaneous close: CLOSING, then TIME-WAIT',
  within(() => {
    const { peer, connection, seq, ack } = start();
    connection.shutdown();
    peer.settle();
    peer.clear();
    peer.send({ seq, ack, flags: FIN | ACK });
    assert.is(connection.state, 'CLOSING');
    assert.is(peer.take().ack, seq + 1);
    peer.send({ seq: seq + 1, ack: ack + 1, flags: ACK });
    assert.is(connection.state, 'TIME-WAIT');
  }),
);

closing(
  'FIN with data and ACK of our FIN in one segment goes straight to TIME-WAIT',
  within(() => {
    const { peer, endpoint, connection, seq, ack } = start();
    connection.shutdown();
    peer.settle();
    peer.send({ seq, ack: ack + 1, flags: FIN | ACK, data: 'bye' });
    assert.is(connection.state, 'TIME-WAIT');
    assert.is(endpoint.text, 'bye');
  }),
);

closing(
  'a FIN ahead of a gap waits for the gap',
  within(() => {
    const { peer, endpoint, connection, seq, ack } = start();
    peer.send({ seq: seq + 3, ack, flags: FIN | ACK, data: 'def' });
    assert.is(connection.state, 'ESTABLISHED');
    peer.send({ seq, ack, flags: ACK, data: 'abc' });
    assert.is(endpoint.text, 'abcdef');
    assert.is(connection.state, 'CLOSE-WAIT');
    assert.is(peer.inbox.at(-1)?.ack, seq + 7);
  }),
);

closing(
  'close with unread bytes resets; close before more bytes arrive resets when they do',
  within(() => {
    const first = start();
    first.endpoint.reading = false;
    first.peer.send({ seq: first.seq, ack: first.ack, flags: ACK, data: 'unread' });
    first.peer.clear();
    first.connection.close();
    first.peer.settle();
    assert.is(flagsOf(first.peer.take()), 'RST ACK');
    const second = start();
    second.connection.close();
    second.peer.settle();
    assert.is(flagsOf(second.peer.take()), 'FIN ACK');
    second.peer.send({ seq: second.seq, ack: second.ack + 1, flags: ACK, data: 'late' });
    assert.is(flagsOf(second.peer.take()), 'RST ACK');
    assert.equal(second.host.tcp.stateCounts(), {});
  }),
);

closing(
  'a closed application whose peer never closes does not hold FIN-WAIT-2 for ever',
  within(() => {
    const { network, host, peer, connection, seq, ack } = start();
    connection.close();
    peer.settle();
    peer.send({ seq, ack: ack + 1, flags: ACK });
    assert.is(host.tcp.stateCounts()['FIN-WAIT-2'], 1);
    network.clock.advance(61_000);
    assert.equal(host.tcp.stateCounts(), {});
  }),
);

closing(
  'TIME-WAIT: a newer SYN opens a new connection, an older one does not; RST does not end it (RFC 6191, RFC 1337)',
  within(() => {
    const { host, peer, connection, seq, ack } = start();
    connection.shutdown();
    peer.settle();
    peer.send({ seq, ack: ack + 1, flags: FIN | ACK });
    assert.is(connection.state, 'TIME-WAIT');
    peer.clear();
    peer.send({ seq: seq + 1, flags: RST });
    assert.is(connection.state, 'TIME-WAIT');
    peer.send({ seq: seq - 5000, flags: SYN });
    assert.is.not(peer.inbox.length > 0 && flagsOf(peer.inbox[0]!) === 'SYN ACK', true);
    peer.clear();
    peer.send({ seq: seq + 5000, flags: SYN, mss: 1460 });
    assert.is(flagsOf(peer.take()), 'SYN ACK');
    assert.is(host.tcp.counters.timeWaitRecycled, 1);
  }),
);

closing(
  'TIME-WAIT is bounded: the oldest goes',
  within(() => {
    const network = new Network();
    const server = network.host('10.0.0.2', { timeWaitLimit: 10 });
    const client = network.host('10.0.0.1');
    const accepted = serve(server, 80, (endpoint) => endpoint.end());
    for (let i = 0; i < 30; i++) {
      const one = dial(client, server, 80).end();
      network.until(() => one.isClosed);
    }
    network.clock.advance(500);
    assert.is(accepted.length, 30);
    assert.ok(
      (server.tcp.stateCounts()['TIME-WAIT'] ?? 0) + (client.tcp.stateCounts()['TIME-WAIT'] ?? 0) <= 40,
    );
    assert.ok((server.tcp.stateCounts()['TIME-WAIT'] ?? 0) <= 10);
  }),
);

closing(
  'abort sends RST with the next number; the peer sees ECONNRESET',
  within(() => {
    const network = new Network();
    const [c, s] = established(network.host('10.0.0.1'), network.host('10.0.0.2'));
    c.connection.abort();
    assert.ok(network.until(() => s.isClosed));
    assert.is(s.error?.code, 'ECONNRESET');
    network.clock.advance(1000);
    assert.not.ok(c.isClosed, 'who aborts is not told');
  }),
);

closing(
  'a removed address ends its connections with an error',
  within(() => {
    const { network, host, endpoint } = start();
    host.tcp.addressRemoved(host.address);
    network.clock.advance(1);
    assert.is(endpoint.error?.code, 'EADDRNOTAVAIL');
  }),
);

closing.run();
