/** RFC 8985's tail loss probe and reordering window: what the last segments of an answer cost when they are lost. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { seeded, within } from '../../../support/index.ts';
import { ACK, established, establishedPassive, Network } from './support/index.ts';

const tail = suite('netstack/transport/tcp/tail-loss');
const MSS = 1460;

/** An answer of `segments` full segments has left; the round trip was measured as 20 ms. */
function answered(segments: number) {
  const network = new Network();
  network.impairment.delayMs = 10;
  const host = network.host('10.0.0.11');
  const scene = establishedPassive(network, host, { syn: { sackPermitted: true } });
  const { peer, connection, seq } = scene;
  connection.setNoDelay(true);
  connection.write(Buffer.from('x'));
  peer.settle(10);
  peer.send({ seq, ack: scene.ack + 1, flags: ACK });
  peer.clear();
  const first = scene.ack + 1;
  connection.write(Buffer.alloc(segments * MSS, 'a'));
  peer.settle(0);
  assert.is(peer.inbox.length, segments);
  peer.clear();
  const at = (n: number) => first + n * MSS;
  const again = () => peer.inbox.filter((got) => got.data.length > 0).map((got) => (got.seq - first) / MSS);
  return { network, host, peer, connection, seq, at, again, counters: host.tcp.counters };
}

tail(
  'an answer of which nothing is heard: its last segment leaves again after two round trips, once; then the timeout',
  within(() => {
    const { network, peer, again, counters } = answered(4);
    const sentMs = network.clock.nowMs();
    assert.ok(
      network.until(() => !peer.silent, 190),
      'before the timeout',
    );
    assert.ok(network.clock.nowMs() - sentMs < 100);
    assert.equal(again(), [3]);
    assert.is(counters.tailLossProbes, 1);
    network.clock.advance(100);
    assert.equal(again(), [3], 'one probe');
    assert.is(counters.timeouts, 0);
    network.clock.advance(500);
    assert.ok(counters.timeouts >= 1);
    assert.is(counters.tailLossProbes, 1);
  }),
);

tail(
  'the SACK of the probe shows that everything below is lost: it comes back without a timeout',
  within(() => {
    const { network, peer, seq, at, again, counters } = answered(3);
    network.until(() => !peer.silent, 190);
    peer.clear();
    peer.send({ seq, ack: at(0), flags: ACK, sack: [[at(2), at(3)]] });
    peer.settle(15);
    assert.equal(again(), [0, 1]);
    assert.is(counters.tailRecoveries, 1);
    assert.is(counters.timeouts, 0);
  }),
);

tail(
  'two SACKs are too few for RFC 6675: what is missing is lost when the reordering window ends, not before',
  within(() => {
    const { peer, seq, at, again, counters } = answered(3);
    peer.send({ seq, ack: at(0), flags: ACK, sack: [[at(1), at(3)]] });
    assert.is(counters.tailRecoveries, 1, '10 ms later, beyond a quarter of the round trip');
    peer.settle(10);
    assert.equal(again(), [0]);
    const late = answered(3);
    late.network.impairment.delayMs = 1;
    late.peer.send({ seq: late.seq, ack: late.at(0), flags: ACK, sack: [[late.at(1), late.at(3)]] });
    assert.is(late.counters.tailRecoveries, 0, 'a millisecond later nothing is lost yet');
    late.peer.send({ seq: late.seq, ack: late.at(3), flags: ACK });
    late.network.clock.advance(150);
    assert.is(late.counters.tailRecoveries + late.counters.retransmits, 0, 'it was only late');
  }),
);

tail(
  'a needless probe costs nothing: the duplicate is told, cwnd stays; a probe that repaired a loss reduces it',
  within(() => {
    for (const needless of [true, false]) {
      const { network, peer, connection, seq, at, counters } = answered(2);
      network.until(() => !peer.silent, 190);
      const { cwnd } = connection.status;
      peer.send({ seq, ack: at(2), flags: ACK });
      if (needless) peer.send({ seq, ack: at(2), flags: ACK, sack: [[at(1), at(2)]] });
      connection.write(Buffer.alloc(MSS));
      peer.settle(0);
      peer.send({ seq, ack: at(3), flags: ACK });
      assert.is(counters.needlessProbes, needless ? 1 : 0);
      if (needless) assert.ok(connection.status.cwnd >= cwnd);
      else assert.ok(connection.status.cwnd < cwnd, 'RFC 8985 section 7.4.2');
    }
  }),
);

tail(
  'without SACK, and when turned off, there are no probes',
  within(() => {
    for (const config of [{ sack: false }, { tailLossProbe: false }]) {
      const network = new Network();
      const client = network.host('10.0.0.1', config);
      const server = network.host('10.0.0.2', config);
      const [c] = established(client, server);
      network.impairment.loss = 1;
      c.send('lost');
      network.clock.advance(2000);
      assert.is(client.tcp.counters.tailLossProbes, 0);
      assert.ok(client.tcp.counters.timeouts > 0);
    }
  }),
);

/** Answers of 1 … 10 segments, one after the other, each timed from its first byte written to its last byte read. */
function answers(seed: number, tailLossProbe: boolean, count: number) {
  const network = new Network(seed);
  network.impairment.delayMs = 10;
  const server = network.host('10.0.0.2', { tailLossProbe });
  const [c, s] = established(network.host('10.0.0.1'), server);
  const times: number[] = [];
  let expected = 0;
  network.impairment.loss = 0.03;
  for (let i = 0; i < count; i++) {
    const bytes = (1 + (i % 10)) * (MSS - 12);
    const startMs = network.clock.nowMs();
    s.send(Buffer.alloc(bytes));
    expected += bytes;
    assert.ok(network.until(() => c.connection.bytesReceived >= expected, 600_000));
    times.push(network.clock.nowMs() - startMs);
    network.clock.advance(300);
  }
  times.sort((a, b) => a - b);
  const quantile = (q: number) => Math.round(times[Math.floor(q * (times.length - 1))]!);
  return {
    timeouts: server.tcp.counters.timeouts,
    p50: quantile(0.5),
    p95: quantile(0.95),
    p99: quantile(0.99),
  };
}

tail(
  'short answers at 3 % loss: fewer than a third of the timeouts, and the slowest twentieth in less than half the time',
  within(
    () =>
      seeded((_random, seed) => {
        const without = answers(seed, false, 2000);
        const with_ = answers(seed, true, 2000);
        console.log(`seed ${seed}: without ${JSON.stringify(without)}, with ${JSON.stringify(with_)}`);
        assert.ok(with_.timeouts * 3 < without.timeouts);
        assert.ok(with_.p95 * 2 < without.p95);
      }),
    60_000,
  ),
);

/** Milliseconds for one megabyte on a path that reorders a quarter of its packets and loses none. */
function reordered(seed: number, tailLossProbe: boolean): number {
  const network = new Network(seed);
  const [c, s] = established(
    network.host('10.0.0.1', { tailLossProbe }),
    network.host('10.0.0.2', { tailLossProbe }),
  );
  network.impairment.reorder = 0.25;
  const startMs = network.clock.nowMs();
  c.send(Buffer.alloc(1_000_000)).end();
  assert.ok(network.until(() => s.isEnded, 600_000));
  return Math.round(network.clock.nowMs() - startMs);
}

tail(
  'reordering without loss: at most a tenth slower than without probes',
  within(() =>
    seeded((_random, seed) => {
      let [with_, without] = [0, 0];
      for (let i = 0; i < 10; i++) {
        with_ += reordered(seed + i, true);
        without += reordered(seed + i, false);
      }
      console.log(`seed ${seed}: 10 MB reordered, ${without} ms without, ${with_} ms with`);
      assert.ok(with_ <= 1.1 * without, `${with_} and ${without} ms`);
    }),
  ),
);

tail.run();
