/** The urgent mechanism (RFC 9293 3.8.5), and what is processed while the receive window is zero. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { TcpConfig } from '../../../../src/netstack/transport/tcp/index.ts';
import { TCP, TCP_FLAG, writeU16 } from '../../../../src/netstack/wire/index.ts';
import { within } from '../../../support/index.ts';
import type { SceneOptions, ScriptedPeer, Spec } from './support/index.ts';
import {
  ACK,
  buildSegment,
  Endpoint,
  established,
  establishedPassive,
  Network,
  RST,
} from './support/index.ts';

const must = suite('netstack/transport/tcp/urgent');

const { URG } = TCP_FLAG;

function start(options: SceneOptions = {}, config: Partial<TcpConfig> = {}) {
  const network = new Network();
  const host = network.host('10.0.0.11', config);
  return { network, host, ...establishedPassive(network, host, options) };
}

function withUrgent(peer: ScriptedPeer, spec: Spec, pointer: number): Uint8Array {
  const bytes = buildSegment(peer.port, peer.hostPort, { ...spec, flags: spec.flags | URG });
  writeU16(bytes, TCP.URGENT, pointer);
  return bytes;
}

/** Remembers when it was told of urgent data, and how much was left then. */
class Hurried extends Endpoint {
  readonly marks: number[] = [];
  urgent(): void {
    this.marks.push(this.connection.urgentBytes);
  }
}

function hurried() {
  const scene = start();
  const endpoint = new Hurried();
  endpoint.connection = scene.connection;
  endpoint.reading = false;
  scene.connection.setHandler(endpoint);
  return { ...scene, endpoint };
}

must(
  'MUST-30, MUST-32, MUST-33: urgent data is told when it is announced and when the mark moves on, not twice; how much is left is known; it stays in line',
  within(() => {
    const { peer, endpoint, connection, seq, ack } = hurried();
    peer.sendBytes(withUrgent(peer, { seq, ack, flags: ACK, data: 'abc' }, 2));
    assert.equal(endpoint.marks, [2]);
    peer.sendBytes(withUrgent(peer, { seq: seq + 3, ack, flags: ACK, data: 'd' }, 1));
    assert.equal(endpoint.marks, [2, 4], 'behind octet d');
    peer.sendBytes(withUrgent(peer, { seq: seq + 4, ack, flags: ACK, data: 'e' }, 0));
    assert.is(connection.urgentBytes, 4);
    peer.sendBytes(withUrgent(peer, { seq, ack, flags: ACK, data: 'abc' }, 2));
    assert.is(endpoint.marks.length, 2, 'an old mark says nothing');
    let read = '';
    for (let chunk = connection.read(); chunk !== undefined; chunk = connection.read()) read += chunk;
    assert.is(read, 'abcde');
    assert.is(connection.urgentBytes, 0);
    peer.sendBytes(withUrgent(peer, { seq: seq + 5, ack, flags: ACK, data: 'f' }, 9));
    assert.is(connection.urgentBytes, 9, 'announced ahead of its octets');
  }),
);

must(
  'MUST-31, MUST-62: urgent data of any length; the pointer of each segment leads behind the last urgent octet',
  within(() => {
    const network = new Network();
    network.gso = true;
    const [c, s] = established(network.host('10.0.0.1'), network.host('10.0.0.2'));
    const pointers: number[] = [];
    network.filter = ({ bytes, from, gsoSize }) => {
      const view = new DataView(bytes.buffer, bytes.byteOffset);
      if (from !== c.connection.localAddress || !(bytes[TCP.FLAGS]! & URG)) return true;
      assert.is(gsoSize, 0, 'each segment has a pointer of its own');
      pointers.push(view.getUint16(TCP.URGENT));
      return true;
    };
    const data = Buffer.alloc(200_000, 'u');
    c.connection.writeUrgent(data);
    c.connection.write(Buffer.from('calm'));
    assert.ok(network.until(() => s.bytes.length === data.length + 4, 60_000));
    assert.is(pointers[0], 0xffff, 'farther away than the field can tell');
    assert.ok(pointers.at(-1)! <= 1460);
    assert.is(s.connection.urgentBytes, 0);
    pointers.length = 0;
    c.connection.write(Buffer.from('calm'));
    network.clock.advance(1000);
    assert.equal(pointers, []);
  }),
);

must(
  'MUST-66: with a receive window of zero RST, URG and ACK are still processed',
  within(() => {
    const scene = () => {
      const all = start({}, { receiveBuffer: 3000, receiveBufferMax: 3000 });
      all.endpoint.reading = false;
      for (let i = 0; i < 3; i++)
        all.peer.send({ seq: all.seq + i * 1000, ack: all.ack, flags: ACK, data: 'x'.repeat(1000) });
      all.peer.settle(50);
      assert.is(all.peer.inbox.at(-1)?.wnd, 0);
      all.seq += 3000;
      all.peer.clear();
      return all;
    };
    const first = scene();
    first.connection.write(Buffer.from('out'));
    first.peer.settle(1);
    first.peer.send({ seq: first.seq, ack: first.ack + 3, flags: ACK, data: 'no room' });
    assert.is(first.connection.unacknowledgedBytes, 0, 'the ACK counted');
    assert.is(first.connection.readableBytes, 3000, 'the text did not');
    first.peer.sendBytes(
      withUrgent(first.peer, { seq: first.seq, ack: first.ack + 3, flags: ACK, data: '!' }, 1),
    );
    assert.is(first.connection.urgentBytes, 3001);
    const second = scene();
    second.peer.send({ seq: second.seq, flags: RST });
    assert.is(second.endpoint.error?.code, 'ECONNRESET');
  }),
);

must.run();
