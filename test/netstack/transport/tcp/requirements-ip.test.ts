/** RFC 9293's MUSTs that a whole stack holds: checksums, addresses, ICMP, options of IP. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ipAddress } from '../../../../src/netstack/index.ts';
import { within } from '../../../support/index.ts';
import { HOST, PEER, RawPeer } from '../../iface/raw-peer.ts';
import { hex, icmp, ipv4, packet, plainChecksum, pseudo4, tcp } from '../../packets.ts';

const must = suite('netstack/transport/tcp/requirements-ip');

const SYN = 0x02;
const IP_AT = 24;
const flow = { source: PEER, destination: HOST, sourcePort: 5000, destinationPort: 80 };

function listening(options: ConstructorParameters<typeof RawPeer>[0] = {}) {
  const peer = new RawPeer(options);
  const accepted: unknown[] = [];
  peer.stack.tcp.listen({ port: 80 }, (connection) => accepted.push(connection));
  peer.introduce();
  return { peer, accepted };
}

const syn = (over: Partial<typeof flow> = {}, ip: { ttl?: number; options?: Uint8Array } = {}) => {
  const fields = { ...flow, ...over };
  return packet(ipv4({ ...fields, ...ip, protocol: 6, payload: tcp({ ...fields, flags: SYN }) }));
};

/** TCP segments among the packets, from the TCP header on. */
const segments = (packets: Buffer[]) =>
  packets
    .filter((bytes) => bytes.readUInt16BE(22) === 0x0800 && bytes[IP_AT + 9] === 6)
    .map((bytes) => bytes.subarray(IP_AT + 20));

must(
  'MUST-2, MUST-3: what is sent has the right checksum; what comes with a wrong one is dropped and counted, whichever bit is wrong',
  within(() => {
    const { peer } = listening();
    const [answer] = segments(peer.exchange(syn()));
    assert.ok(answer);
    assert.is(plainChecksum(pseudo4(HOST, PEER, 6, answer.length), answer), 0);
    const good = syn({ sourcePort: 5001 });
    const before = peer.stack.ip.drops.snapshot()['tcp-bad-checksum'] ?? 0;
    let flipped = 0;
    for (let at = IP_AT + 20; at < good.length; at++) {
      // The header length, when wrong, is noticed first.
      if (at === IP_AT + 32) continue;
      for (let bit = 0; bit < 8; bit++) {
        const bytes = Buffer.from(good);
        bytes[at]! ^= 1 << bit;
        assert.is(segments(peer.exchange(bytes)).length, 0);
        flipped++;
      }
    }
    assert.is((peer.stack.ip.drops.snapshot()['tcp-bad-checksum'] ?? 0) - before, flipped);
  }),
);

must(
  'MUST-49: the time to live is configured',
  within(() => {
    const ttlOf = (options: ConstructorParameters<typeof RawPeer>[0]) => {
      const { peer } = listening(options);
      const [answer] = peer.exchange(syn());
      return answer![IP_AT + 8];
    };
    assert.is(ttlOf({}), 64);
    assert.is(ttlOf({ host: { tcp: { ttl: 7 } } as object }), 7);
  }),
);

must(
  'MUST-50: IP options are stepped over, a source route is refused',
  within(() => {
    const { peer } = listening();
    assert.is(segments(peer.exchange(syn({}, { options: hex('94040000 01010100') }))).length, 1);
    const routed = syn({ sourcePort: 5002 }, { options: hex('8307040a4d000200') });
    assert.is(segments(peer.exchange(routed)).length, 0);
    assert.is(peer.stack.ip.drops.snapshot()['ipv4-source-route'], 1);
  }),
);

must(
  'MUST-55: source quench is discarded in silence',
  within(() => {
    const { peer } = listening();
    peer.exchange(syn());
    const quote = ipv4({
      source: HOST,
      destination: PEER,
      protocol: 6,
      payload: tcp({ source: HOST, destination: PEER, sourcePort: 80, destinationPort: 5000 }),
    });
    const before = peer.stack.tcp.stateCounts();
    assert.equal(
      peer.exchange(
        packet(ipv4({ source: PEER, destination: HOST, protocol: 1, payload: icmp(4, 0, 0, quote) })),
      ),
      [],
    );
    assert.equal(peer.stack.tcp.stateCounts(), before);
    assert.is(peer.stack.ip.drops.snapshot()['icmp-unknown-type'], 1);
  }),
);

must(
  'MUST-57, MUST-63: a SYN to a broadcast or group address, or from an impossible source, is dropped in silence',
  within(() => {
    const { peer } = listening();
    for (const destination of ['10.77.0.255', '255.255.255.255', '224.0.0.1'])
      assert.equal(segments(peer.exchange(syn({ destination }))), [], destination);
    for (const source of ['0.0.0.0', '255.255.255.255', '10.77.0.255', '224.0.0.5', '127.0.0.1', HOST])
      assert.equal(segments(peer.exchange(syn({ source }))), [], source);
    assert.equal(peer.stack.tcp.stateCounts(), {});
  }),
);

must(
  'MUST-46: the broadcast address of a network of ours cannot be connected to',
  within(() => {
    const { peer } = listening();
    const nobody = {
      connected: () => {},
      readable: () => {},
      writable: () => {},
      closed: () => {},
    };
    const open = () =>
      peer.stack.tcp.connect({ remoteAddress: ipAddress('10.77.0.255'), remotePort: 80 }, nobody);
    assert.throws(open, (error: { code: string }) => error.code === 'ENETUNREACH');
  }),
);

must(
  'MUST-67: the MSS we announce is what the link takes less 40, whatever options come on top',
  within(() => {
    for (const mtu of [1500, 9000, 600]) {
      const { peer } = listening({ mtu });
      const [answer] = segments(peer.exchange(syn()));
      assert.ok(answer);
      assert.is(answer[20], 2);
      assert.is(answer.readUInt16BE(22), mtu - 40);
    }
  }),
);

must.run();
