/** RFC 9293's MUSTs that no other test holds, by number. docs/rfc9293.md is the ledger of all of them. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { TcpConfig } from '../../../../src/netstack/transport/tcp/index.ts';
import { DEFAULT_TCP_CONFIG } from '../../../../src/netstack/transport/tcp/index.ts';
import { TCP, TCP_FLAG } from '../../../../src/netstack/wire/index.ts';
import { within } from '../../../support/index.ts';
import type { SceneOptions, SeenSegment, Spec } from './support/index.ts';
import {
  ACK,
  buildSegment,
  established,
  establishedPassive,
  FIN,
  flagsOf,
  Network,
  PSH,
  RST,
  ScriptedPeer,
  SYN,
  serve,
  synReceived,
  synSent,
} from './support/index.ts';

const must = suite('netstack/transport/tcp/requirements');

function start(options: SceneOptions = {}, config: Partial<TcpConfig> = {}) {
  const network = new Network();
  const host = network.host('10.0.0.11', config);
  return { network, host, ...establishedPassive(network, host, options) };
}

must(
  'MUST-1: a window of 65535, and one of 65535 scaled by 2^14, is a large window and not a negative one',
  within(() => {
    const plain = start({ wnd: 0xffff });
    assert.is(plain.connection.status.sndWnd, 0xffff);
    const scaled = start({ syn: { windowScale: 14 }, wnd: 0xffff });
    assert.is(scaled.connection.status.sndWnd, 0xffff * 2 ** 14);
    scaled.connection.write(Buffer.alloc(3000));
    scaled.peer.settle(1);
    assert.ok(scaled.peer.inbox.length > 0);
  }),
);

must(
  'MUST-5, MUST-64: options are read in any segment, and wherever they begin',
  within(() => {
    const { peer, endpoint, seq, ack } = start({ syn: { timestamps: [5, 0] } });
    const shift = (bytes: Uint8Array, front: number[]): Uint8Array => {
      // The ten bytes of the timestamps at another alignment, padded to twelve.
      const out = bytes.slice();
      out.set([...front, ...bytes.slice(22, 32), ...[0, 0].slice(front.length)], 20);
      return out;
    };
    const spec = { seq, ack, flags: ACK, timestamps: [6, 0] as [number, number] };
    peer.sendBytes(shift(buildSegment(peer.port, 80, { ...spec, data: 'a' }), []));
    peer.sendBytes(shift(buildSegment(peer.port, 80, { ...spec, seq: seq + 1, data: 'b' }), [1]));
    peer.sendBytes(
      shift(buildSegment(peer.port, 80, { ...spec, seq: seq + 2, flags: FIN | ACK, data: 'c' }), []),
    );
    assert.is(endpoint.text, 'abc');
    assert.ok(endpoint.isEnded);
  }),
);

must(
  'MUST-6, MUST-7: unknown options and options with impossible lengths do no harm to a connection',
  within(() => {
    const { peer, endpoint, seq, ack } = start();
    const odd = [
      [253, 4, 1, 2],
      [2, 0, 0, 0],
      [3, 1, 0, 0],
      [8, 255, 0, 0],
      [255, 3, 9, 4],
    ];
    odd.forEach((option, i) => {
      const bytes = buildSegment(peer.port, 80, { seq: seq + i, ack, flags: ACK, mss: 1, data: String(i) });
      bytes.set(option, TCP.MIN_HEADER);
      peer.sendBytes(bytes);
    });
    assert.is(endpoint.text, '01234');
    assert.is(endpoint.connection.state, 'ESTABLISHED');
  }),
);

must(
  'MUST-65, MUST-68, MUST-69: MSS leaves in SYNs only; every option has a length; no octet stands behind an end of list',
  within(() => {
    const network = new Network();
    const seen: Uint8Array[] = [];
    network.filter = ({ bytes }: SeenSegment) => {
      seen.push(bytes);
      return network.random.unit() > 0.05;
    };
    const [c, s] = established(network.host('10.0.0.1'), network.host('10.0.0.2'));
    c.send(Buffer.alloc(100_000)).end();
    s.send(Buffer.alloc(100_000)).end();
    assert.ok(network.until(() => c.isClosed && s.isClosed, 600_000));
    const kinds = new Set<number>();
    for (const bytes of seen) {
      const end = (bytes[TCP.DATA_OFFSET]! >>> 4) * 4;
      for (let at: number = TCP.MIN_HEADER; at < end; ) {
        const kind = bytes[at]!;
        kinds.add(kind);
        if (kind === 0) {
          assert.ok(bytes.subarray(at, end).every((octet) => octet === 0));
          break;
        }
        if (kind === 2) assert.ok(bytes[TCP.FLAGS]! & SYN, 'MSS in a SYN only');
        const length = kind === 1 ? 1 : bytes[at + 1]!;
        assert.ok(kind === 1 || (length >= 2 && at + length <= end));
        at += length;
      }
    }
    assert.equal([...kinds].sort(), [1, 2, 3, 4, 5, 8]);
  }),
);

must(
  'MUST-11: a RST in SYN-RECEIVED is silent after a passive open and ECONNREFUSED after an active one',
  within(() => {
    const passive = new Network();
    const host = passive.host('10.0.0.11');
    const half = synReceived(passive, host);
    half.peer.send({ seq: half.seq, flags: RST });
    assert.is(half.accepted.length, 0);
    assert.equal(host.tcp.stateCounts(), {});
    const active = new Network();
    const other = active.host('10.0.0.11');
    const { peer, endpoint } = synSent(active, other);
    peer.send({ seq: 70, flags: SYN });
    assert.is(endpoint.connection.state, 'SYN-RECEIVED');
    peer.send({ seq: 71, flags: RST });
    assert.is(endpoint.error?.code, 'ECONNREFUSED');
  }),
);

must(
  'MUST-15, MUST-16: without MSS option 536 octets over IPv4, 1220 over IPv6; a small one counts; options are subtracted; the MTU is a limit, too',
  within(() => {
    const network = new Network();
    const host = network.host('10.0.0.11');
    host.tcp.listen({ port: 80 }, (connection) => opened.push(connection.status.effMss));
    const opened: number[] = [];
    const open = (spec: Partial<Spec>, port: number) => {
      const peer = new ScriptedPeer(network, host, 80, '10.0.0.9', port);
      peer.send({ seq: 1, flags: SYN, ...spec });
      const synAck = peer.take();
      peer.send({ seq: 2, ack: synAck.seq + 1, flags: ACK, ...timestampsOf(spec) });
    };
    const timestampsOf = ({ timestamps }: Partial<Spec>) => (timestamps === undefined ? {} : { timestamps });
    open({}, 1);
    open({ mss: 700 }, 2);
    open({ mss: 700, timestamps: [1, 0] }, 3);
    open({ mss: 9000 }, 4);
    assert.equal(opened, [536, 700, 688, 1460]);
    const six = network.host('fd00::11');
    six.tcp.listen({ port: 80 }, (connection) => opened.push(connection.status.effMss));
    const peer = new ScriptedPeer(network, six, 80, 'fd00::9');
    peer.send({ seq: 1, flags: SYN });
    peer.send({ seq: 2, ack: peer.take().seq + 1, flags: ACK });
    assert.is(opened.at(-1), 1220);
  }),
);

must(
  'MUST-18: a retransmitted segment gives no sample; RTO follows the round trip, doubles, and comes back with the next sample',
  within(() => {
    const { network, peer, connection, seq, ack } = start();
    const rtt = () => connection.status.srttMs;
    const first = rtt();
    connection.write(Buffer.from('a'));
    network.clock.advance(3000);
    const backedOff = connection.status.rtoMs;
    assert.ok(peer.inbox.length >= 3, 'repeated');
    peer.send({ seq, ack: ack + 1, flags: ACK });
    assert.is(rtt(), first, 'whose transmission was acknowledged nobody knows');
    assert.is(connection.status.rtoMs, backedOff, 'the back-off stays until a sample is taken');
    connection.write(Buffer.from('b'));
    network.clock.advance(400);
    peer.send({ seq, ack: ack + 2, flags: ACK });
    assert.ok(rtt() > first);
    const { srttMs, rtoMs } = connection.status;
    assert.ok(rtoMs >= srttMs && rtoMs < backedOff);
  }),
);

must(
  'MUST-19: slow start doubles, a loss reduces, congestion avoidance grows slowly, in CUBIC and in NewReno',
  within(() => {
    for (const congestion of ['cubic', 'newreno'] as const) {
      const network = new Network();
      network.impairment.delayMs = 50;
      const config = { congestion, receiveBuffer: 4 << 20 };
      const [c] = established(network.host('10.0.0.1', config), network.host('10.0.0.2', config));
      const { connection } = c;
      assert.is(connection.status.congestion, congestion);
      const first = connection.status.cwnd;
      assert.is(first, 10 * connection.status.effMss);
      c.send(Buffer.alloc(30_000_000));
      network.clock.advance(101);
      const second = connection.status.cwnd;
      assert.ok(second >= 1.5 * first && second <= 2.1 * first, `${congestion}: ${first} → ${second}`);
      network.clock.advance(200);
      let dropped = false;
      network.filter = ({ bytes }) => {
        if (dropped || bytes.length < 1000) return true;
        dropped = true;
        return false;
      };
      const before = connection.status.cwnd;
      network.clock.advance(300);
      const after = connection.status;
      assert.is(after.cwnd >= after.ssthresh && after.ssthresh < 0x7fffffff, true);
      assert.ok(after.retransmittedSegments >= 1);
      const slowFrom = connection.status.cwnd;
      network.clock.advance(100);
      assert.ok(connection.status.cwnd < 1.3 * slowFrom, 'not slow start any more');
      assert.ok(before > first);
    }
  }),
);

must(
  'MUST-24, MUST-25, MUST-27, MUST-28: keep-alive is off by default, on and off per connection, its interval is set, two hours by default',
  within(() => {
    const { network, peer, connection, seq, ack } = start();
    network.clock.advance(8 * 3_600_000);
    assert.ok(peer.silent, 'off by default');
    assert.ok(DEFAULT_TCP_CONFIG.keepAliveIdleMs >= 7_200_000);
    connection.setKeepAlive({});
    network.clock.advance(7_199_000);
    assert.ok(peer.silent);
    network.clock.advance(2000);
    assert.is(peer.take().seq, ack - 1);
    peer.send({ seq, ack, flags: ACK });
    connection.setKeepAlive(null);
    network.clock.advance(24 * 3_600_000);
    assert.ok(peer.silent, 'off again');
  }),
);

must(
  'MUST-26, MUST-29: no probe while data is outstanding; probes that were lost do not end a connection that then answers',
  within(() => {
    const { network, peer, endpoint, connection, seq, ack } = start({}, { keepAliveProbes: 4 });
    connection.setKeepAlive({ idleMs: 1000, intervalMs: 1000 });
    connection.write(Buffer.from('x'));
    network.clock.advance(10_000);
    assert.ok(
      peer.inbox.every((got) => got.data.length === 1),
      'retransmissions only',
    );
    peer.send({ seq, ack: ack + 1, flags: ACK });
    peer.clear();
    for (let round = 0; round < 5; round++) {
      network.clock.advance(3500);
      assert.ok(peer.inbox.length >= 2, 'unanswered probes');
      peer.clear();
      peer.send({ seq, ack: ack + 1, flags: ACK });
    }
    assert.not.ok(endpoint.isClosed);
  }),
);

must(
  'MUST-34: a peer that takes its window back stops us, is probed, loses nothing',
  within(() => {
    const { network, peer, connection, seq, ack } = start({ wnd: 5000 });
    connection.write(Buffer.alloc(10_000, 'w'));
    peer.settle(1);
    const sent = peer.inbox.reduce((sum, got) => sum + got.data.length, 0);
    assert.ok(sent > 2920);
    peer.clear();
    peer.send({ seq, ack: ack + 1460, flags: ACK, wnd: 100 });
    peer.settle(5);
    assert.ok(
      peer.inbox.every((got) => got.seq + got.data.length <= ack + 5000),
      'nothing beyond the old edge',
    );
    peer.clear();
    network.clock.advance(3000);
    assert.ok(peer.inbox.length > 0, 'still pursued');
    peer.send({ seq, ack: ack + sent, flags: ACK, wnd: 0xffff });
    for (let i = 0; i < 10 && connection.unacknowledgedBytes > 0; i++) {
      peer.settle(50);
      const edge = peer.inbox.reduce((most, got) => Math.max(most, got.seq + got.data.length), ack + sent);
      peer.send({ seq, ack: edge, flags: ACK, wnd: 0xffff });
    }
    assert.is(connection.unacknowledgedBytes, 0);
  }),
);

must(
  'MUST-38, MUST-39: small windows are neither used nor offered',
  within(() => {
    const sender = start({ wnd: 4000 });
    sender.connection.write(Buffer.alloc(20_000));
    sender.peer.settle(1);
    const flown = sender.peer.inbox.reduce((sum, got) => sum + got.data.length, 0);
    sender.peer.clear();
    // All acknowledged but ten octets of window beyond what is in flight.
    sender.peer.send({ seq: sender.seq, ack: sender.ack + 1460, flags: ACK, wnd: flown - 1460 + 10 });
    assert.ok(sender.peer.silent, 'ten octets are not worth a segment');
    const receiver = start({}, { receiveBuffer: 8000, receiveBufferMax: 8000 });
    receiver.endpoint.reading = false;
    let seq = receiver.seq;
    // A second connection takes a byte in between, so that what is read comes in pieces.
    const other = new ScriptedPeer(receiver.network, receiver.host, 80, '10.0.0.8');
    other.send({ seq: 1, flags: SYN });
    const otherAck = other.take().seq + 1;
    let otherSeq = 2;
    while (receiver.connection.readableBytes < 8000) {
      const data = 'x'.repeat(Math.min(1000, 8000 - receiver.connection.readableBytes));
      receiver.peer.send({ seq, ack: receiver.ack, flags: ACK, data });
      seq += data.length;
      other.send({ seq: otherSeq++, ack: otherAck, flags: ACK, data: '-' });
    }
    receiver.peer.settle(50);
    assert.is(receiver.peer.inbox.at(-1)?.wnd, 0);
    receiver.peer.clear();
    assert.is(receiver.connection.read()?.length, 1000);
    receiver.peer.settle(50);
    assert.ok(receiver.peer.silent, 'a thousand octets of 8000 are not worth an announcement');
    for (let i = 0; i < 4; i++) receiver.connection.read();
    receiver.peer.settle(50);
    assert.ok((receiver.peer.inbox.at(-1)?.wnd ?? 0) >= 2920);
  }),
);

must(
  'MUST-58, MUST-59: a batch of segments is processed whole, then acknowledged once',
  within(() => {
    const { network, host, peer, endpoint, seq, ack } = start();
    for (let i = 0; i < 8; i++) {
      const spec = { seq: seq + i * 1460, ack, flags: ACK, data: 'x'.repeat(1460) };
      const bytes = buildSegment(peer.port, 80, spec);
      const packet = new Uint8Array(20 + bytes.length);
      packet.set(bytes, 20);
      host.tcp.input(packet, 0, 20, packet.length, peer.address, host.address, true);
    }
    host.tcp.endOfBatch();
    network.clock.advance(100);
    assert.is(endpoint.bytes.length, 8 * 1460);
    assert.is(peer.inbox.length, 1);
    assert.is(peer.take().ack, seq + 8 * 1460);
  }),
);

must(
  'MUST-60, MUST-61: what is written leaves without being asked, PSH on its last segment',
  within(() => {
    const { peer, connection } = start();
    connection.write(Buffer.alloc(3000));
    peer.settle(1);
    const flags = peer.inbox.map((got) => [got.data.length, (got.flags & PSH) !== 0]);
    assert.equal(flags.slice(0, 2), [
      [1460, false],
      [1460, false],
    ]);
    peer.send({ seq: 1001, ack: peer.inbox[0]!.seq + 2920, flags: ACK });
    peer.settle(1);
    const last = peer.inbox.at(-1)!;
    assert.is(last.data.length, 80);
    assert.ok(last.flags & PSH);
  }),
);

must(
  'MUST-12: the application learns whether the peer closed in order or reset',
  within(() => {
    const closed = start();
    closed.peer.send({ seq: closed.seq, ack: closed.ack, flags: FIN | ACK });
    assert.ok(closed.endpoint.isEnded);
    closed.connection.shutdown();
    closed.peer.settle();
    closed.peer.send({ seq: closed.seq + 1, ack: closed.ack + 1, flags: ACK });
    assert.ok(closed.endpoint.isClosed);
    assert.is(closed.endpoint.error, undefined);
    const reset = start();
    reset.peer.send({ seq: reset.seq, flags: RST });
    assert.is(reset.endpoint.error?.code, 'ECONNRESET');
  }),
);

must(
  'tolerated: ECN is offered and not used, data on a SYN comes again, reserved bits say nothing',
  within(() => {
    const network = new Network();
    const host = network.host('10.0.0.11');
    const accepted = serve(host, 80);
    const peer = new ScriptedPeer(network, host, 80);
    peer.send({ seq: 1, flags: SYN | TCP_FLAG.ECE | TCP_FLAG.CWR, mss: 1460, data: 'early' });
    const synAck = peer.take();
    assert.is(synAck.flags, SYN | ACK, 'no ECE');
    assert.is(synAck.ack, 2, 'the data is not taken');
    const bytes = buildSegment(peer.port, 80, {
      seq: 2,
      ack: synAck.seq + 1,
      flags: ACK | TCP_FLAG.CWR,
      data: 'early',
    });
    bytes[TCP.DATA_OFFSET]! |= 0x0f;
    peer.sendBytes(bytes);
    assert.is(accepted[0]?.text, 'early');
    accepted[0]!.send('fine');
    peer.settle(1);
    assert.is(peer.inbox.at(-1)!.flags & (TCP_FLAG.ECE | TCP_FLAG.CWR), 0);
    assert.is(flagsOf(peer.inbox.at(-1)!), 'ACK');
  }),
);

must.run();
