import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { TCP } from '../../../../src/netstack/wire/index.ts';
import { within } from '../../../support/index.ts';
import type { Spec } from './support/index.ts';
import {
  ACK,
  buildSegment,
  dial,
  Endpoint,
  established,
  establishedPassive,
  flagsOf,
  Network,
  RST,
  ScriptedPeer,
  SYN,
  serve,
  synReceived,
  synSent,
} from './support/index.ts';

const opening = suite('netstack/transport/tcp/opening');

function scene(seed = 1) {
  const network = new Network(seed);
  return { network, host: network.host('10.0.0.11') };
}

opening(
  'LISTEN: a SYN is answered by SYN-ACK with MSS, SACK-permitted, timestamps and window scale only when offered',
  within(() => {
    const { network, host } = scene();
    host.tcp.listen({ port: 80 }, () => {});
    const peer = new ScriptedPeer(network, host, 80);
    peer.send({ seq: 7, flags: SYN, mss: 1400, sackPermitted: true, timestamps: [99, 0], windowScale: 5 });
    const full = peer.take();
    assert.is(flagsOf(full), 'SYN ACK');
    assert.is(full.ack, 8);
    assert.is(full.options.mss, 1460);
    assert.ok(full.options.sackPermitted);
    assert.is(full.options.tsEcr, 99);
    assert.is(full.options.windowScale, 7);
    const plain = new ScriptedPeer(network, host, 80, '10.0.0.8');
    plain.send({ seq: 7, flags: SYN });
    const bare = plain.take();
    assert.not.ok(bare.options.sackPermitted);
    assert.not.ok(bare.options.hasTimestamps);
    assert.is(bare.options.windowScale, -1);
  }),
);

opening(
  'LISTEN: RST is ignored, ACK is answered by RST with its number, SYN+FIN opens nothing that hangs',
  within(() => {
    const { network, host } = scene();
    host.tcp.listen({ port: 80 }, () => {});
    const peer = new ScriptedPeer(network, host, 80);
    peer.send({ seq: 7, flags: RST });
    assert.ok(peer.silent);
    peer.send({ seq: 7, ack: 555, flags: ACK });
    const reset = peer.take();
    assert.is(flagsOf(reset), 'RST');
    assert.is(reset.seq, 555);
    assert.equal(host.tcp.stateCounts(), {});
  }),
);

opening(
  'CLOSED: a SYN to a port without listener gets RST-ACK of its length; a RST gets nothing',
  within(() => {
    const { network, host } = scene();
    const peer = new ScriptedPeer(network, host, 81);
    peer.send({ seq: 100, flags: SYN, data: 'abc' });
    const reset = peer.take();
    assert.is(flagsOf(reset), 'RST ACK');
    assert.is(reset.seq, 0);
    assert.is(reset.ack, 104);
    peer.send({ seq: 100, flags: RST | ACK, ack: 1 });
    assert.ok(peer.silent);
  }),
);

opening(
  'SYN-RECEIVED: a repeated SYN gets the same SYN-ACK; the SYN-ACK is repeated by timer and given up',
  within(() => {
    const { network, host } = scene();
    const { peer, seq, ack } = synReceived(network, host);
    peer.send({ seq: seq - 1, flags: SYN, mss: 1460 });
    const again = peer.take();
    assert.is(flagsOf(again), 'SYN ACK');
    assert.is(again.seq, ack - 1);
    network.clock.advance(1100);
    assert.is(flagsOf(peer.take('the SYN-ACK again')), 'SYN ACK');
    network.clock.advance(200_000);
    assert.equal(host.tcp.stateCounts(), {}, 'given up');
  }),
);

opening(
  'SYN-RECEIVED: an ACK outside of SND.UNA … SND.NXT is answered by RST and changes nothing',
  within(() => {
    const { network, host } = scene();
    const { peer, seq, ack, accepted } = synReceived(network, host);
    peer.send({ seq, ack: ack + 5, flags: ACK });
    const reset = peer.take();
    assert.is(flagsOf(reset), 'RST');
    assert.is(reset.seq, ack + 5);
    peer.send({ seq, ack, flags: ACK, data: 'hi' });
    assert.is(accepted.length, 1);
    assert.is(accepted[0]!.text, 'hi', 'data on the handshake’s last segment is taken');
  }),
);

opening(
  'SYN-RECEIVED: RST at RCV.NXT returns to LISTEN silently',
  within(() => {
    const { network, host } = scene();
    const { peer, seq } = synReceived(network, host);
    peer.send({ seq, flags: RST });
    assert.ok(peer.silent);
    assert.equal(host.tcp.stateCounts(), {});
  }),
);

opening(
  'SYN-SENT: SYN-ACK establishes and is acknowledged; RST-ACK refuses; a wrong ACK is answered by RST',
  within(() => {
    const { network, host } = scene();
    const first = synSent(network, host);
    first.peer.send({ seq: 50, ack: first.iss + 77, flags: SYN | ACK });
    assert.is(flagsOf(first.peer.take()), 'RST');
    assert.not.ok(first.endpoint.isConnected);
    first.peer.send({ seq: 50, ack: first.iss + 1, flags: SYN | ACK, mss: 1000 });
    const ackSegment = first.peer.take();
    assert.is(flagsOf(ackSegment), 'ACK');
    assert.is(ackSegment.ack, 51);
    assert.ok(first.endpoint.isConnected);
    assert.is(first.endpoint.connection.status.effMss, 1000);

    const other = scene();
    const refused = synSent(other.network, other.host);
    refused.peer.send({ seq: 0, flags: RST });
    assert.not.ok(refused.endpoint.isClosed, 'a RST without ACK is not believed');
    refused.peer.send({ seq: 0, ack: refused.iss + 1, flags: RST | ACK });
    assert.is(refused.endpoint.error?.code, 'ECONNREFUSED');
  }),
);

opening(
  'SYN-SENT: unanswered SYNs are repeated with back-off for more than three minutes and end in ETIMEDOUT',
  within(() => {
    const { network, host } = scene();
    const { peer, endpoint } = synSent(network, host);
    network.clock.advance(180_000);
    assert.not.ok(endpoint.isClosed, 'R2 of a SYN is at least three minutes');
    network.clock.advance(120_000);
    assert.is(peer.inbox.length, 7);
    const gaps = peer.inbox.map((got) => Math.round(got.atMs / 1000));
    assert.equal(gaps, [1, 3, 7, 15, 31, 63, 127]);
    assert.is(endpoint.error?.code, 'ETIMEDOUT');
  }),
);

opening(
  'simultaneous open: both sides send SYN, both end in ESTABLISHED',
  within(() => {
    const network = new Network();
    const a = network.host('10.0.0.1');
    const b = network.host('10.0.0.2');
    const [x, y] = [new Endpoint(), new Endpoint()];
    x.connection = a.tcp.connect({ remoteAddress: b.address, remotePort: 1002, localPort: 1001 }, x);
    y.connection = b.tcp.connect({ remoteAddress: a.address, remotePort: 1001, localPort: 1002 }, y);
    assert.ok(network.until(() => x.isConnected && y.isConnected));
    x.send('from x').end();
    y.send('from y').end();
    network.until(() => x.isClosed && y.isClosed);
    assert.is(y.text, 'from x');
    assert.is(x.text, 'from y');
    assert.is(a.tcp.counters.resetsOut + b.tcp.counters.resetsOut, 0);
  }),
);

opening(
  'without cookies a SYN flood stays within the backlog, the oldest makes room, and an honest client still gets in',
  within(() => {
    const network = new Network();
    const host = network.host('10.0.0.11', { synCookies: false });
    const client = network.host('10.0.0.1');
    const [c] = established(client, host, 80);
    const accepted = serve(host, 81);
    for (let i = 0; i < 2000; i++) {
      const flood: Spec = { seq: i, flags: SYN, mss: 1460 };
      new ScriptedPeer(network, host, 81, `10.9.${i >> 8}.${i & 255}`).send(flood);
    }
    assert.is(host.tcp.stateCounts()['SYN-RECEIVED'], 511);
    const honest = dial(client, host, 81);
    assert.ok(network.until(() => honest.isConnected && accepted.length === 1, 10_000));
    assert.is(c.connection.state, 'ESTABLISHED');
    assert.ok(host.tcp.counters.halfOpenEvicted >= 1489);
  }),
);

opening(
  'initial sequence numbers differ between connections and advance with the clock (RFC 6528)',
  within(() => {
    const { network, host } = scene();
    host.tcp.listen({ port: 80 }, () => {});
    const numbers = new Set<number>();
    for (let i = 0; i < 50; i++) {
      const peer = new ScriptedPeer(network, host, 80, '10.0.0.9', 6000 + i);
      peer.send({ seq: 1, flags: SYN });
      numbers.add(peer.take().seq);
    }
    assert.is(numbers.size, 50);
    const spread = Math.max(...numbers) - Math.min(...numbers);
    assert.ok(spread > 0x1000_0000, 'not a mere counter');
  }),
);

opening(
  'a port in use is EADDRINUSE, a foreign address EADDRNOTAVAIL, port 0 finds a free one',
  within(() => {
    const { host, network } = scene();
    const listener = host.tcp.listen({ port: 80 }, () => {});
    const codeOf = (action: () => unknown): unknown => {
      try {
        action();
      } catch (error) {
        return (error as { code: string }).code;
      }
      return undefined;
    };
    assert.is(
      codeOf(() => host.tcp.listen({ port: 80, address: host.address }, () => {})),
      'EADDRINUSE',
    );
    const foreign = network.host('10.0.0.77').address;
    assert.is(
      codeOf(() => host.tcp.listen({ port: 82, address: foreign }, () => {})),
      'EADDRNOTAVAIL',
    );
    listener.close();
    assert.is(
      codeOf(() => host.tcp.listen({ port: 80 }, () => {})),
      undefined,
    );
    assert.ok(host.tcp.listen({ port: 0 }, () => {}).port >= 1024);
  }),
);

opening(
  'truncated at every byte a segment is dropped with a reason or harmless, and nothing throws',
  within(() => {
    const { network, host } = scene();
    const { peer, seq, ack, endpoint } = establishedPassive(network, host, {
      syn: { sackPermitted: true, timestamps: [5, 0] },
    });
    const whole = buildSegment(peer.port, 80, {
      seq,
      ack,
      flags: ACK,
      timestamps: [6, 0],
      sack: [[1, 2]],
      data: 'payload',
    });
    for (let length = 0; length <= whole.length; length++) {
      peer.sendBytes(whole.slice(0, length));
      for (const words of [0, 4, 5, 8, 15]) {
        // The same with a header length that lies.
        const lying = whole.slice(0, length);
        if (length > TCP.DATA_OFFSET) lying[TCP.DATA_OFFSET] = words << 4;
        if (length < TCP.MIN_HEADER || words < 5) peer.sendBytes(lying);
      }
    }
    assert.is(endpoint.text, 'payload');
  }),
);

opening.run();
