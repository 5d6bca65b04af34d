/** N9: attackers that do not see a connection cannot end it, alter it or make it noisy (RFC 5961). */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { emitTcp, TCP } from '../../../../src/netstack/wire/index.ts';
import { seeded, within } from '../../../support/index.ts';
import { ACK, established, FIN, Network, PSH, RST, ScriptedPeer, SYN } from './support/index.ts';

const blind = suite('netstack/transport/tcp/blind-attacks');
const COUNT = process.env['SOAK'] === '1' ? 1_000_000 : 100_000;

blind(
  `N9: ${COUNT} blind RST, SYN and data segments against a live flow: it ends byte-exact, challenges stay bounded`,
  within(
    () =>
      seeded((random, seed) => {
        const network = new Network(seed);
        const client = network.host('10.0.0.1', { timestamps: false });
        const server = network.host('10.0.0.2', { timestamps: false });
        const [c, s] = established(client, server);
        const startMs = network.clock.nowMs();
        const bytes = new Uint8Array(TCP.MIN_HEADER + 16).fill(0x65);
        const kinds = [RST, RST | ACK, SYN, SYN | ACK, ACK, ACK | PSH, FIN | ACK];
        const sent: Buffer[] = [];
        const { localPort, remotePort } = c.connection;
        // Both names are known to the attacker, the numbers are not: it draws them at random, and hits the windows in between.
        const before = server.tcp.counters.segmentsIn + client.tcp.counters.segmentsIn;
        for (let i = 0; i < COUNT; i++) {
          const flags = kinds[i % kinds.length]!;
          const hasData = (flags & (RST | SYN | FIN)) === 0;
          const length = TCP.MIN_HEADER + (hasData ? 16 : 0);
          const toServer = (i & 1) === 0;
          const seq = random.u32();
          const ack = random.u32();
          emitTcp(
            bytes,
            0,
            toServer ? localPort : remotePort,
            toServer ? remotePort : localPort,
            seq,
            ack,
            TCP.MIN_HEADER,
            flags,
            random.below(0x1_0000),
          );
          const [from, to] = toServer ? [client, server] : [server, client];
          to.deliver({
            atMs: 0,
            from: from.address,
            to: to.address,
            bytes: bytes.subarray(0, length),
            gsoSize: 0,
          });
          if (i % 500 === 0) {
            const piece = Buffer.from(random.fill(new Uint8Array(700)));
            sent.push(piece);
            c.send(piece);
            network.clock.advance(3);
          }
        }
        assert.ok(server.tcp.counters.segmentsIn + client.tcp.counters.segmentsIn - before >= COUNT);
        c.end();
        assert.ok(
          network.until(() => s.isEnded, 60_000),
          'the flow ends in order',
        );
        assert.ok(s.bytes.equals(Buffer.concat(sent)), 'byte-exact');
        const seconds = (network.clock.nowMs() - startMs) / 1000;
        for (const host of [client, server]) {
          const { challengeAcks, resetsIn } = host.tcp.counters;
          assert.is(resetsIn, 0);
          assert.ok(challengeAcks <= 2 * seconds + 2, `${challengeAcks} challenges in ${seconds} s`);
        }
      }),
    60_000,
  ),
);

blind(
  'an attacker that knows the window and walks through it with RST and SYN ends nothing unless it meets RCV.NXT',
  within(() => {
    const network = new Network();
    const client = network.host('10.0.0.1');
    const server = network.host('10.0.0.2');
    const [c, s] = established(client, server);
    const attacker = new ScriptedPeer(network, server, 80, '10.0.0.1', c.connection.localPort);
    network.hosts.set(client.address, client);
    c.send('x');
    network.clock.advance(100);
    const wnd = s.connection.status.rcvWnd;
    const probe: number[] = [];
    network.filter = (segment) => {
      if (segment.from === server.address)
        probe.push(new DataView(segment.bytes.buffer, segment.bytes.byteOffset).getUint32(8));
      return true;
    };
    c.send('y');
    network.clock.advance(100);
    const rcvNxt = probe.at(-1)!;
    for (let offset = 1; offset < wnd; offset += 97) {
      const flags = offset & 1 ? RST : SYN;
      attacker.sendBytes(attackerSegment(c.connection.localPort, rcvNxt + offset, flags));
    }
    assert.is(s.connection.state, 'ESTABLISHED');
    c.send('z').end();
    assert.ok(network.until(() => s.isEnded));
    assert.is(s.text, 'xyz');
  }),
);

function attackerSegment(port: number, seq: number, flags: number): Uint8Array {
  const bytes = new Uint8Array(TCP.MIN_HEADER);
  emitTcp(bytes, 0, port, 80, seq >>> 0, 0, TCP.MIN_HEADER, flags, 0);
  return bytes;
}

blind.run();
