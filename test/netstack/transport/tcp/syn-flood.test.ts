/** SYN cookies, and N7: a flood of SYNs costs honest clients nothing and no memory. SOAK=1 runs the long flood. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { collectGarbage } from '../../../../src/common/index.ts';
import type { TcpConnection } from '../../../../src/netstack/transport/tcp/index.ts';
import { emitTcp, writeU32 } from '../../../../src/netstack/wire/index.ts';
import { seeded, within } from '../../../support/index.ts';
import type { Endpoint, Spec } from './support/index.ts';
import {
  ACK,
  buildSegment,
  dial,
  established,
  flagsOf,
  Network,
  ScriptedPeer,
  SYN,
  serve,
} from './support/index.ts';

const flood = suite('netstack/transport/tcp/syn-flood');
const soak = process.env['SOAK'] === '1';

/** A listener on port 80 whose backlog of one is taken. */
function full() {
  const network = new Network();
  const host = network.host('10.0.0.11');
  const opened: TcpConnection[] = [];
  host.tcp.listen({ port: 80, backlog: 1 }, (connection) => opened.push(connection));
  host.tcp.listen({ port: 81 }, (connection) => opened.push(connection));
  new ScriptedPeer(network, host, 80, '10.0.0.66').send({ seq: 1, flags: SYN });
  return { network, host, opened };
}

function answered(offer: Partial<Spec>) {
  const scene = full();
  const peer = new ScriptedPeer(scene.network, scene.host, 80);
  peer.send({ seq: 1000, flags: SYN, ...offer });
  return { ...scene, peer, synAck: peer.take('a SYN-ACK') };
}

flood(
  'a full backlog is answered without keeping anything; the ACK opens the connection with MSS, scale and SACK',
  within(() => {
    const { host, peer, synAck, opened } = answered({
      mss: 1400,
      windowScale: 6,
      sackPermitted: true,
      timestamps: [77, 0],
    });
    assert.is(flagsOf(synAck), 'SYN ACK');
    assert.is(host.tcp.stateCounts()['SYN-RECEIVED'], 1, 'only the one that fills the backlog');
    assert.is(synAck.options.mss, 1460);
    assert.ok(synAck.options.sackPermitted);
    assert.is(synAck.options.windowScale, 7);
    assert.is(synAck.options.tsEcr, 77);
    const timestamps: [number, number] = [78, synAck.options.tsVal];
    peer.send({ seq: 1001, ack: synAck.seq + 1, flags: ACK, wnd: 100, timestamps, data: 'first' });
    assert.is(opened.length, 1);
    const connection = opened[0]!;
    assert.is(connection.read()?.toString(), 'first');
    assert.is(connection.status.effMss, 1400 - 12);
    assert.is(connection.status.sndWnd, 6400);
    assert.ok(connection.status.sackPermitted);
    assert.ok(connection.status.timestamps);
    connection.write(Buffer.from('answer'));
    peer.settle(1);
    const answer = peer.inbox.find((got) => got.data.length > 0)!;
    assert.is(answer.data.toString(), 'answer');
    assert.is(answer.seq, synAck.seq + 1);
    assert.ok(((answer.options.tsVal - synAck.options.tsVal) | 0) >= 0, 'timestamps never go back');
  }),
);

flood(
  'without timestamps a cookie carries the MSS alone; a peer without MSS option gets 536',
  within(() => {
    const plain = answered({ mss: 9000, windowScale: 6, sackPermitted: true });
    assert.not.ok(plain.synAck.options.sackPermitted);
    assert.is(plain.synAck.options.windowScale, -1);
    plain.peer.send({ seq: 1001, ack: plain.synAck.seq + 1, flags: ACK });
    assert.is(plain.opened[0]?.status.effMss, 1460);
    const bare = answered({});
    bare.peer.send({ seq: 1001, ack: bare.synAck.seq + 1, flags: ACK });
    assert.is(bare.opened[0]?.status.effMss, 536);
  }),
);

flood(
  'a cookie is good for its own peer, its own numbers and its time, and where none was made an ACK is just an ACK',
  within(() => {
    const { network, host, peer, synAck, opened } = answered({ mss: 1460 });
    const refused = (from: ScriptedPeer, spec: Spec, why: string) => {
      from.clear();
      from.send(spec);
      assert.is(flagsOf(from.take(why)), 'RST', why);
    };
    const good = { seq: 1001, ack: synAck.seq + 1, flags: ACK };
    refused(peer, { ...good, ack: good.ack + 1 }, 'another number');
    refused(peer, { ...good, seq: 1002 }, 'another ISN');
    refused(new ScriptedPeer(network, host, 80, '10.0.0.9', 5001), good, 'another port');
    refused(new ScriptedPeer(network, host, 81), good, 'another listener');
    network.hosts.set(peer.address, peer);
    network.clock.advance(130_000);
    refused(peer, good, 'too late');
    assert.is(opened.length, 0);
    assert.is(host.tcp.counters.cookiesTaken, 0);
  }),
);

flood(
  'of 100 000 guessed ACKs none opens a connection',
  within(
    () =>
      seeded((random) => {
        const { network, host, opened } = answered({ mss: 1460 });
        const bytes = buildSegment(5000, 80, { seq: 0, ack: 0, flags: ACK });
        const peer = new ScriptedPeer(network, host, 80);
        const segment = { atMs: 0, from: peer.address, to: host.address, bytes, gsoSize: 0 };
        for (let i = 0; i < 100_000; i++) {
          writeU32(bytes, 4, random.u32());
          writeU32(bytes, 8, random.u32());
          host.deliver(segment);
        }
        assert.is(opened.length, 0);
      }),
    60_000,
  ),
);

const memory = () => {
  collectGarbage('all');
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
};

flood(
  `N7: ${soak ? '120 000 SYNs/s for 60 s' : '30 000 SYNs/s for 5 s'}: every honest connect succeeds, an established flow goes on, memory stays`,
  within(
    () =>
      seeded((random, seed) => {
        const perSecond = soak ? 120_000 : 30_000;
        const seconds = soak ? 60 : 5;
        const network = new Network(seed);
        const host = network.host('10.0.0.11');
        const client = network.host('10.0.0.1');
        const [c, s] = established(client, host, 81);
        const accepted = serve(host, 80);
        // The flow writes 1 MB/s all the time.
        const chunk = Buffer.alloc(10_000, 'f');
        let written = 0;
        const untilMs = network.clock.nowMs() + seconds * 1000;
        const drip = () => {
          if (network.clock.nowMs() >= untilMs) return;
          c.send(chunk);
          written += chunk.length;
          network.clock.after(10, drip);
        };
        drip();
        const bytes = buildSegment(1, 80, { seq: 0, flags: SYN, mss: 1460 });
        const honest: Endpoint[] = [];
        const before = memory();
        for (let ms = 0; ms < seconds * 1000; ms++) {
          for (let i = 0; i < perSecond / 1000; i++) {
            const from = ((10 << 24) | (9 << 16) | random.below(0x1_0000)) as typeof host.address;
            emitTcp(bytes, 0, random.below(0xffff) + 1, 80, random.u32(), 0, bytes.length, SYN, 0xffff);
            host.deliver({ atMs: 0, from, to: host.address, bytes, gsoSize: 0 });
          }
          if (ms % 20 === 0) honest.push(dial(client, host, 80));
          network.clock.advance(1);
        }
        const growth = memory() - before;
        network.clock.advance(3000);
        const connected = honest.filter((one) => one.isConnected).length;
        const { cookiesSent, cookiesTaken, segmentsIn } = host.tcp.counters;
        console.log(
          `N7, seed ${seed}: ${perSecond * seconds} SYNs, ${connected} of ${honest.length} connects, ${(growth / 1048576).toFixed(1)} MiB`,
        );
        assert.ok(segmentsIn >= perSecond * seconds, 'the flood arrived');
        assert.ok(cookiesSent > perSecond * seconds * 0.9, `cookies: ${cookiesSent}`);
        assert.ok(connected >= honest.length * 0.99, `${connected} of ${honest.length} connected`);
        assert.ok(accepted.length >= honest.length * 0.99 && cookiesTaken > honest.length * 0.9);
        assert.is(s.bytes.length, written, 'the established flow lost nothing');
        assert.is(host.tcp.stateCounts()['SYN-RECEIVED'], 511);
        assert.ok(growth <= 32 * 1024 * 1024, `memory grew by ${(growth / 1048576).toFixed(1)} MiB`);
      }),
    soak ? 600_000 : 60_000,
  ),
);

flood.run();
