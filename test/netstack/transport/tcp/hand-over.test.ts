import { createHash } from 'node:crypto';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { TcpConnectionState } from '../../../../src/netstack/transport/tcp/index.ts';
import { HandOverError } from '../../../../src/netstack/transport/tcp/index.ts';
import { seeded, within } from '../../../support/index.ts';
import type { Host } from './support/index.ts';
import {
  ACK,
  adopt,
  established,
  establishedPassive,
  FIN,
  flagsOf,
  Network,
  ScriptedPeer,
} from './support/index.ts';

const handOver = suite('netstack/transport/tcp/hand-over');

const sha = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

/** As the mux does at a cut: from now on packets to the service address reach `to`. */
function steer(network: Network, from: Host, to: Host): void {
  to.addresses.add(from.address);
  to.aliases.set(from.address, from.address);
  network.hosts.set(from.address, { deliver: (segment) => to.deliver(segment) });
}

handOver(
  'a connection moves in mid-transfer, under loss, byte-exact in both directions',
  within(
    () =>
      seeded((random, seed) => {
        for (const [loss, gso] of [
          [0, false],
          [0.03, false],
          [0.03, true],
          [0.1, false],
        ] as const) {
          const network = new Network(seed);
          network.gso = gso;
          const client = network.host('10.0.0.1');
          const old = network.host('10.0.0.11');
          const next = network.host('10.0.0.12');
          const [c, s] = established(client, old);
          network.impairment.loss = loss;
          network.impairment.reorder = loss;
          network.impairment.duplicate = loss;
          const up = random.fill(new Uint8Array(400_000));
          const down = random.fill(new Uint8Array(300_000));
          const half = 150_000;
          c.send(up).end();
          s.send(down.subarray(0, half));
          network.until(() => s.bytes.length > 100_000, 600_000);
          const before = s.bytes;
          s.connection.freeze();
          network.clock.advance(40);
          assert.is(s.bytes.length, before.length, 'frozen: nothing is delivered any more');
          const state = JSON.parse(JSON.stringify(s.connection.exportState())) as TcpConnectionState;
          // Unwritten application data moves by the application; here the rest of `down`.
          const written = s.connection.bytesWritten;
          network.clock.advance(30);
          steer(network, old, next);
          const moved = adopt(next.tcp.importState(state));
          moved.send(down.subarray(written)).end();
          assert.ok(
            network.until(() => c.isClosed && moved.isClosed, 3_600_000),
            `both ends close (loss ${loss})`,
          );
          assert.is(c.error, undefined);
          assert.is(moved.error, undefined);
          assert.is(sha(Buffer.concat([before, moved.bytes])), sha(up));
          assert.is(c.hash, sha(down));
          assert.is(old.tcp.counters.resetsOut, 0);
        }
      }),
    20_000,
  ),
);

handOver(
  'the tombstone swallows everything, never answers, and is freed after its time',
  within(() => {
    const network = new Network();
    const host = network.host('10.0.0.11', { tombstoneMs: 60_000 });
    const { peer, connection, seq, ack } = establishedPassive(network, host);
    connection.exportState();
    for (const flags of [ACK, ACK | FIN]) peer.send({ seq, ack, flags, data: 'late' });
    assert.ok(peer.silent);
    assert.is(host.tcp.counters.swallowedByTombstone, 2);
    assert.is(host.tcp.stateCounts()['TOMBSTONE'], 1);
    network.clock.advance(60_001);
    assert.equal(host.tcp.stateCounts(), {});
  }),
);

handOver(
  'received and unread, unacknowledged and out-of-order bytes travel along',
  within(() => {
    const network = new Network();
    const host = network.host('10.0.0.11');
    const next = network.host('10.0.0.12');
    const scene = establishedPassive(network, host);
    const { peer, endpoint, connection } = scene;
    endpoint.reading = false;
    peer.send({ seq: scene.seq, ack: scene.ack, flags: ACK, data: 'abc' });
    peer.send({ seq: scene.seq + 5, ack: scene.ack, flags: ACK, data: 'fg' });
    connection.write(Buffer.from('answer'));
    peer.settle();
    peer.clear();
    const state = connection.exportState(Buffer.from('pre-'));
    assert.is(Buffer.from(state.receiveData, 'base64').toString(), 'pre-abc');
    assert.is(Buffer.from(state.sendData, 'base64').toString(), 'answer');
    assert.equal(state.outOfOrder, [{ seq: scene.seq + 5, data: Buffer.from('fg').toString('base64') }]);

    steer(network, host, next);
    const moved = adopt(next.tcp.importState(state));
    const back = new ScriptedPeer(network, next, 80);
    next.address = host.address;
    back.settle(300);
    assert.ok(
      back.inbox.some((got) => got.data.toString() === 'answer' && got.seq === scene.ack),
      'what was not acknowledged is sent again',
    );
    back.send({ seq: scene.seq + 3, ack: scene.ack + 6, flags: ACK, data: 'de' });
    assert.is(moved.text, 'pre-abcdefg');
  }),
);

handOver(
  'timestamps go on above the old ones although the clocks differ',
  within(() => {
    const network = new Network();
    const host = network.host('10.0.0.11');
    network.clock.advance(5_000_000);
    const scene = establishedPassive(network, host, { syn: { timestamps: [77, 0] } });
    const { connection } = scene;
    connection.write(Buffer.from('x'));
    scene.peer.settle();
    const before = scene.peer.take().options.tsVal;
    const state = connection.exportState();
    // A stack whose clock started just now.
    const fresh = new Network();
    const next = fresh.host('10.0.0.11');
    const moved = adopt(next.tcp.importState(state));
    const peer = new ScriptedPeer(fresh, next, 80);
    moved.connection.write(Buffer.from('y'));
    peer.settle(1);
    for (const got of peer.inbox) assert.ok(((got.options.tsVal - before) | 0) > 0, 'never older');
    assert.ok(!peer.silent);
  }),
);

handOver(
  'only ESTABLISHED and CLOSE-WAIT are exportable',
  within(() => {
    const network = new Network();
    const host = network.host('10.0.0.11');
    const scene = establishedPassive(network, host);
    scene.connection.shutdown();
    scene.peer.settle();
    assert.match(scene.connection.exportObstacle ?? '', 'FIN-WAIT-1');
    try {
      scene.connection.exportState();
      assert.unreachable('must refuse');
    } catch (error) {
      assert.instance(error, HandOverError);
      assert.is((error as HandOverError).code, 'TCP_NOT_EXPORTABLE');
    }
    const other = new Network();
    assert.is(establishedPassive(other, other.host('10.0.0.13')).connection.exportObstacle, undefined);
  }),
);

handOver(
  'CLOSE-WAIT goes on as CLOSE-WAIT: the new application reads the end and may still write',
  within(() => {
    const network = new Network();
    const host = network.host('10.0.0.11');
    const scene = establishedPassive(network, host);
    scene.connection.freeze();
    scene.peer.send({ seq: scene.seq, ack: scene.ack, flags: ACK | FIN, data: 'bye' });
    const state = scene.connection.exportState();
    assert.is(state.state, 'CLOSE-WAIT');
    const next = network.host('10.0.0.12');
    steer(network, host, next);
    const moved = adopt(next.tcp.importState(state));
    moved.send('last words').end();
    network.clock.advance(1000);
    assert.is(moved.text, 'bye');
    assert.ok(moved.isEnded);
    const said = scene.peer.inbox.filter((got) => got.data.length > 0 || flagsOf(got).includes('FIN'));
    assert.is(said[0]?.data.toString(), 'last words');
    assert.ok(said.some((got) => flagsOf(got).includes('FIN')));
  }),
);

handOver(
  'what is malformed, foreign or present already is refused with a code',
  within(() => {
    const network = new Network();
    const host = network.host('10.0.0.11');
    const scene = establishedPassive(network, host);
    const state = scene.connection.exportState();
    const refusal = (value: unknown, at: Host = host): string => {
      try {
        at.tcp.importState(value);
      } catch (error) {
        return (error as HandOverError).code;
      }
      return 'taken';
    };
    assert.is(refusal(null), 'TCP_STATE_MALFORMED');
    for (const key of Object.keys(state)) {
      const { [key as keyof TcpConnectionState]: _gone, ...rest } = state;
      assert.is(refusal(rest), 'TCP_STATE_MALFORMED', `without ${key}`);
    }
    assert.is(refusal({ ...state, sndMax: state.sndUna + 7 }), 'TCP_STATE_MALFORMED');
    assert.is(refusal(state, network.host('10.0.0.12')), 'TCP_ADDRESS_NOT_LOCAL');
    assert.is(refusal(state), 'taken');
    assert.is(refusal(state), 'TCP_FLOW_EXISTS');
  }),
);

handOver(
  'suppressResets keeps the stack quiet about segments of an address that belong to nothing',
  within(() => {
    const network = new Network();
    const host = network.host('10.0.0.11');
    const stranger = new ScriptedPeer(network, host, 81);
    stranger.send({ seq: 1, ack: 1, flags: ACK });
    assert.is(flagsOf(stranger.take()), 'RST');
    host.tcp.suppressResets(host.address, true);
    stranger.send({ seq: 1, ack: 1, flags: ACK });
    assert.ok(stranger.silent);
    host.tcp.suppressResets(host.address, false);
    stranger.send({ seq: 1, ack: 1, flags: ACK });
    assert.is(flagsOf(stranger.take()), 'RST');
  }),
);

handOver(
  'rehome: open connections go on from the altered address',
  within(() => {
    const network = new Network();
    const client = network.host('10.0.0.1');
    const host = network.host('10.0.0.11');
    const [c, s] = established(client, host);
    const from = host.address;
    const to = network.host('10.0.0.99').address;
    host.addresses.add(to);
    host.aliases.set(from, to);
    host.tcp.rehome(from, to);
    // The mux's part: what leaves with the second address is rewritten, what arrives is steered.
    network.filter = (segment) => {
      if (segment.from === to) {
        network.carry({ ...segment, from });
        return false;
      }
      return true;
    };
    c.send('question').end();
    network.until(() => s.isEnded);
    assert.is(s.text, 'question');
    s.send('answer').end();
    network.until(() => c.isClosed);
    assert.is(c.text, 'answer');
    assert.is(s.connection.localAddress, to);
  }),
);

handOver.run();
