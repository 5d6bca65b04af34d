import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { TcpConfig } from '../../../../src/netstack/transport/tcp/index.ts';
import { within } from '../../../support/index.ts';
import type { SceneOptions } from './support/index.ts';
import { ACK, established, establishedPassive, FIN, flagsOf, Network, RST, SYN } from './support/index.ts';

const state = suite('netstack/transport/tcp/established');

function start(options: SceneOptions = {}, config: Partial<TcpConfig> = {}) {
  const network = new Network();
  const host = network.host('10.0.0.11', config);
  return { network, host, ...establishedPassive(network, host, options) };
}

state(
  'text in order is delivered; the ACK is delayed, at once for every second full segment',
  within(() => {
    const { peer, endpoint, seq, ack } = start();
    peer.send({ seq, ack, flags: ACK, data: 'abc' });
    assert.is(endpoint.text, 'abc');
    assert.ok(peer.silent, 'not at once');
    peer.settle(45);
    assert.is(peer.take('the delayed ACK').ack, seq + 3);
    const full = 'x'.repeat(1460);
    peer.send({ seq: seq + 3, ack, flags: ACK, data: full });
    assert.ok(peer.silent);
    peer.send({ seq: seq + 1463, ack, flags: ACK, data: full });
    assert.is(peer.take().ack, seq + 2923);
  }),
);

state(
  'text ahead of a gap is kept and acknowledged at once with SACK; what fills the gap delivers both',
  within(() => {
    const { peer, endpoint, seq, ack } = start({ syn: { sackPermitted: true } });
    peer.send({ seq: seq + 3, ack, flags: ACK, data: 'def' });
    const duplicate = peer.take();
    assert.is(duplicate.ack, seq);
    assert.is(duplicate.options.sackCount, 1);
    assert.is(duplicate.options.sackLeft[0], seq + 3);
    assert.is(duplicate.options.sackRight[0], seq + 6);
    peer.send({ seq: seq + 9, ack, flags: ACK, data: 'jkl' });
    const second = peer.take();
    assert.is(second.options.sackLeft[0], seq + 9, 'the latest block comes first');
    assert.is(second.options.sackLeft[1], seq + 3);
    peer.send({ seq, ack, flags: ACK, data: 'abc' });
    assert.is(peer.take().ack, seq + 6);
    peer.send({ seq: seq + 4, ack, flags: ACK, data: 'efghij' });
    assert.is(endpoint.text, 'abcdefghijkl', 'overlaps count once');
    assert.is(peer.take().ack, seq + 12);
  }),
);

state(
  'old text is acknowledged again and not delivered; text beyond the window is cut off',
  within(() => {
    const { peer, endpoint, seq, ack } = start();
    peer.send({ seq, ack, flags: ACK, data: 'abc' });
    peer.settle(45);
    peer.clear();
    peer.send({ seq, ack, flags: ACK, data: 'abc' });
    assert.is(peer.take().ack, seq + 3);
    assert.is(endpoint.text, 'abc');
    peer.send({ seq: seq + 3 + 0x10_0000, ack, flags: ACK, data: 'far' });
    assert.is(peer.take().ack, seq + 3);
  }),
);

state(
  'RST: only at exactly RCV.NXT; elsewhere in the window a challenge ACK, outside nothing (RFC 5961)',
  within(() => {
    const { peer, endpoint, seq, ack } = start();
    peer.send({ seq: seq + 100, flags: RST });
    const challenge = peer.take();
    assert.is(flagsOf(challenge), 'ACK');
    assert.is(challenge.seq, ack);
    assert.is(challenge.ack, seq);
    peer.send({ seq: seq - 1, flags: RST });
    assert.ok(peer.silent);
    assert.not.ok(endpoint.isClosed);
    peer.send({ seq, flags: RST });
    assert.is(endpoint.error?.code, 'ECONNRESET');
    assert.ok(peer.silent, 'a reset is not answered');
  }),
);

state(
  'SYN in the window, and ACKs of what was never sent or is too old: challenge, nothing changes (RFC 5961)',
  within(() => {
    const { network, host, peer, endpoint, seq, ack } = start();
    peer.send({ seq: seq + 5, flags: SYN });
    assert.is(flagsOf(peer.take()), 'ACK');
    network.clock.advance(600);
    peer.send({ seq, ack: ack + 1000, flags: ACK, data: 'evil' });
    assert.is(flagsOf(peer.take()), 'ACK');
    network.clock.advance(600);
    peer.send({ seq, ack: ack - 0x100_0000, flags: ACK, data: 'evil' });
    assert.is(flagsOf(peer.take()), 'ACK');
    assert.is(endpoint.text, '');
    assert.is(host.tcp.counters.challengeAcks, 3);
  }),
);

state(
  'blind attacks: a thousand guesses at SYN, RST and data cost no more than a bounded number of challenges',
  within(() => {
    const { host, peer, endpoint, seq, ack } = start();
    for (let i = 0; i < 1000; i++) {
      const guess = (seq + i * 0x40_0001 + 17) >>> 0;
      for (const flags of [SYN, RST, ACK]) peer.send({ seq: guess, ack: ack + 1 + i, flags });
    }
    assert.is(endpoint.connection.state, 'ESTABLISHED');
    // The virtual clock moved 15 s meanwhile: two per second per connection.
    assert.ok(host.tcp.counters.challengeAcks <= 31, String(host.tcp.counters.challengeAcks));
    peer.clear();
    peer.send({ seq, ack, flags: ACK, data: 'still here' });
    assert.is(endpoint.text, 'still here');
  }),
);

state(
  'PAWS: a segment with an older timestamp is dropped and answered; one without timestamps is dropped (RFC 7323)',
  within(() => {
    const { host, peer, endpoint, seq, ack } = start({ syn: { timestamps: [1000, 0] } });
    peer.send({ seq, ack, flags: ACK, timestamps: [2000, 0], data: 'new' });
    peer.settle(45);
    peer.clear();
    peer.send({ seq: seq + 3, ack, flags: ACK, timestamps: [1999, 0], data: 'old' });
    assert.is(peer.take().ack, seq + 3);
    peer.send({ seq: seq + 3, ack, flags: ACK, data: 'none' });
    assert.is(endpoint.text, 'new');
    assert.is(host.tcp.counters.pawsDropped, 1);
    assert.is(host.tcp.counters.timestampMissing, 1);
    peer.send({ seq: seq + 3, ack, flags: ACK, timestamps: [2001, 0], data: '!' });
    assert.is(endpoint.text, 'new!');
  }),
);

state(
  'the window scale of both sides is applied',
  within(() => {
    const { peer, connection, seq, ack } = start({ syn: { windowScale: 3 }, wnd: 1000 });
    assert.is(connection.status.sndWnd, 8000);
    peer.send({ seq, ack, flags: ACK, data: 'x', wnd: 1000 });
    peer.settle(45);
    const got = peer.take();
    assert.ok(got.wnd * 128 > 0xffff, 'more than 64 KiB are offered');
  }),
);

state(
  'a lost segment is sent again after the retransmission timeout, which doubles; silence ends in ETIMEDOUT',
  within(() => {
    const { network, peer, endpoint, connection } = start({}, { dataRetries: 4 });
    connection.write(Buffer.from('hello?'));
    network.clock.advance(100_000);
    const times = peer.inbox.map((got) => got.atMs - peer.inbox[0]!.atMs);
    assert.is(peer.inbox.length, 5);
    assert.ok(peer.inbox.every((got) => got.data.toString() === 'hello?'));
    for (let i = 2; i < times.length; i++) {
      const ratio = (times[i]! - times[i - 1]!) / (times[i - 1]! - times[i - 2]!);
      assert.ok(Math.abs(ratio - 2) < 0.05, `doubles: ${ratio}`);
    }
    assert.is(endpoint.error?.code, 'ETIMEDOUT');
  }),
);

state(
  'three duplicate ACKs bring the lost segment back without waiting for the timer',
  within(() => {
    const { network, host, peer, connection, seq, ack } = start();
    connection.setNoDelay(true);
    connection.write(Buffer.alloc(5 * 1460, 'a'));
    peer.settle();
    assert.is(peer.inbox.length, 5);
    peer.clear();
    for (let i = 0; i < 3; i++) peer.send({ seq, ack, flags: ACK });
    assert.is(host.tcp.counters.fastRecoveries, 1);
    assert.is(peer.take().seq, ack);
    assert.is(host.tcp.counters.timeouts, 0);
    void network;
  }),
);

state(
  'SACK: only the holes are sent again (RFC 6675)',
  within(() => {
    const { peer, connection, seq, ack } = start({ syn: { sackPermitted: true } });
    connection.setNoDelay(true);
    connection.write(Buffer.alloc(8 * 1460, 'a'));
    peer.settle();
    peer.clear();
    const at = (segment: number) => ack + segment * 1460;
    peer.send({ seq, ack, flags: ACK, sack: [[at(1), at(2)]] });
    peer.send({
      seq,
      ack,
      flags: ACK,
      sack: [
        [at(3), at(5)],
        [at(1), at(2)],
      ],
    });
    peer.send({
      seq,
      ack,
      flags: ACK,
      sack: [
        [at(5), at(8)],
        [at(3), at(5)],
        [at(1), at(2)],
      ],
    });
    peer.settle(1);
    const again = peer.inbox.filter((got) => got.data.length > 0).map((got) => (got.seq - ack) / 1460);
    assert.equal(again, [0, 2]);
  }),
);

state(
  'Nagle holds a small segment back while another is in flight; noDelay does not',
  within(() => {
    const { peer, connection, seq, ack } = start();
    connection.write(Buffer.from('1'));
    peer.settle();
    connection.write(Buffer.from('2'));
    connection.write(Buffer.from('3'));
    peer.settle();
    assert.is(peer.inbox.length, 1);
    peer.clear();
    peer.send({ seq, ack: ack + 1, flags: ACK });
    assert.is(peer.take().data.toString(), '23');
    connection.setNoDelay(true);
    connection.write(Buffer.from('4'));
    peer.settle();
    assert.is(peer.take().data.toString(), '4');
  }),
);

state(
  'writes of one turn leave as one segment',
  within(() => {
    const { peer, connection } = start();
    for (const word of ['one ', 'two ', 'three']) connection.write(Buffer.from(word));
    peer.settle();
    assert.is(peer.take().data.toString(), 'one two three');
    assert.ok(peer.silent);
  }),
);

state(
  'zero window: probed by one octet, rarer and rarer, never given up while answered; opens again with all bytes',
  within(() => {
    const { network, peer, endpoint, connection, seq, ack } = start({ wnd: 4 });
    connection.write(Buffer.from('abcdefgh'));
    peer.settle(300);
    assert.is(peer.take().data.toString(), 'abcd');
    peer.send({ seq, ack: ack + 4, flags: ACK, wnd: 0 });
    peer.clear();
    for (let i = 0; i < 12; i++) {
      assert.ok(
        network.until(() => !peer.silent, 200_000),
        'a probe',
      );
      assert.is(peer.take().data.toString(), 'e');
      peer.send({ seq, ack: ack + 4, flags: ACK, wnd: 0 });
    }
    assert.not.ok(endpoint.isClosed);
    peer.clear();
    peer.send({ seq, ack: ack + 4, flags: ACK, wnd: 1000 });
    peer.settle(1);
    assert.is(peer.take().data.toString(), 'efgh');
  }),
);

state(
  'a reader that does not read shuts the window, reading opens it, nothing is lost',
  within(() => {
    const network = new Network();
    const [c, s] = established(
      network.host('10.0.0.1'),
      network.host('10.0.0.2', { receiveBuffer: 65_536, receiveBufferMax: 65_536 }),
    );
    s.reading = false;
    c.send(Buffer.alloc(300_000, 'z')).end();
    network.clock.advance(20_000);
    assert.ok(s.connection.readableBytes <= 65_536 + 1460);
    assert.is(c.connection.status.sndWnd < 1460, true);
    s.resume();
    assert.ok(network.until(() => s.isEnded, 60_000));
    assert.is(s.bytes.length, 300_000);
  }),
);

state(
  'keep-alive: probes an idle peer, goes on when answered, ETIMEDOUT when not',
  within(() => {
    const { network, peer, endpoint, connection, seq, ack } = start({}, { keepAliveProbes: 3 });
    connection.setKeepAlive({ idleMs: 10_000, intervalMs: 1000 });
    network.clock.advance(10_100);
    const probe = peer.take('a probe');
    assert.is(probe.seq, ack - 1);
    assert.is(probe.data.length, 0);
    peer.send({ seq, ack, flags: ACK });
    network.clock.advance(9000);
    assert.ok(peer.silent);
    network.clock.advance(20_000);
    assert.is(endpoint.error?.code, 'ETIMEDOUT');
  }),
);

state(
  'user timeout: unacknowledged for so long ends the connection',
  within(() => {
    const { network, endpoint, connection } = start();
    connection.setUserTimeout(3000);
    connection.write(Buffer.from('x'));
    network.clock.advance(2900);
    assert.not.ok(endpoint.isClosed);
    network.clock.advance(200);
    assert.is(endpoint.error?.code, 'ETIMEDOUT');
  }),
);

state(
  'path MTU: "fragmentation needed" for data in flight sends it again smaller; for other numbers it is ignored',
  within(() => {
    const { network, host, peer, connection, ack } = start();
    connection.write(Buffer.alloc(2800, 'm'));
    peer.settle();
    peer.clear();
    const quote = new Uint8Array(8);
    const view = new DataView(quote.buffer);
    view.setUint16(0, 80);
    view.setUint16(2, peer.port);
    view.setUint32(4, ack + 100_000);
    network.mtu = 1000;
    assert.is(
      host.tcp.icmpError('fragmentation-needed', host.address, peer.address, quote, 0, 8),
      'icmp-unrelated-error',
    );
    assert.is(connection.status.effMss, 1460);
    view.setUint32(4, ack);
    assert.is(host.tcp.icmpError('fragmentation-needed', host.address, peer.address, quote, 0, 8), undefined);
    assert.is(connection.status.effMss, 960);
    peer.settle();
    assert.is(peer.take().data.length, 960);
  }),
);

state(
  'a full link stops output without loss; it goes on when there is room',
  within(() => {
    const network = new Network();
    const a = network.host('10.0.0.1');
    const [c, s] = established(a, network.host('10.0.0.2'));
    a.linkRoom = 3;
    c.send(Buffer.alloc(14_000, 'l')).end();
    network.clock.advance(100);
    assert.ok(s.bytes.length < 14_000);
    assert.ok(a.tcp.counters.linkFull > 0);
    a.unblock();
    assert.ok(
      network.until(() => s.isEnded, 100),
      'without waiting for a timer',
    );
    assert.is(s.bytes.length, 14_000);
    assert.is(a.tcp.counters.timeouts, 0);
  }),
);

state(
  'GSO: a link that segments gets one packet with gso_size = MSS; received trains are taken whole',
  within(() => {
    const network = new Network();
    network.gso = true;
    const a = network.host('10.0.0.1');
    const [c, s] = established(a, network.host('10.0.0.2'));
    const sizes: number[] = [];
    network.filter = (segment) => {
      if (segment.from === a.address && segment.bytes.length > 100) sizes.push(segment.gsoSize);
      return true;
    };
    c.send(Buffer.alloc(14_480, 'g'));
    network.clock.advance(100);
    assert.equal(sizes, [1448]);
    assert.is(s.bytes.length, 14_480);
  }),
);

state(
  'a second write while frozen stays in the stack, acknowledged; thaw delivers it, FIN included',
  within(() => {
    const { peer, endpoint, connection, seq, ack } = start();
    connection.freeze();
    peer.send({ seq, ack, flags: ACK | FIN, data: 'kept' });
    assert.is(peer.take().ack, seq + 5);
    assert.is(endpoint.text, '');
    assert.not.ok(endpoint.isEnded);
    connection.thaw();
    peer.settle();
    assert.is(endpoint.text, 'kept');
    assert.ok(endpoint.isEnded);
  }),
);

state.run();
