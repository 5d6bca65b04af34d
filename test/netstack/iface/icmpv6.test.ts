/** ICMPv6 (RFC 4443) and the path MTU of IPv6 (RFC 8201). */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { DropReason, IcmpErrorKind, Transport } from '../../../src/netstack/index.ts';
import { CHECKSUM_COMPLETE, HEADROOM, ipAddress, OUTPUT, PingError } from '../../../src/netstack/index.ts';
import { within } from '../../support/index.ts';
import { checksum6Right, icmp6, ip6, ipv6, packet6, tcp6, udp6 } from '../packets6.ts';
import { ALL_NODES, ALL_NODES_MAC, GATEWAY6, HOST6, introduce6, PEER6, rawPeer6 } from './raw-peer6.ts';
import { IP6_A, IP6_B, twoStacks } from './two-stacks.ts';

const suiteIcmp = suite('netstack/iface/icmpv6');
const FAR = '2001:db8::7';
const ENDS = { source: PEER6, destination: HOST6 };
const PORTS = { ...ENDS, sourcePort: 1, destinationPort: 2 };

function toHost(protocol: number, payload: Uint8Array, more: object = {}): Buffer {
  return packet6(ipv6({ ...ENDS, protocol, payload, ...more }));
}

suiteIcmp('an echo request is answered with the same identifier, sequence and data', () => {
  const peer = rawPeer6();
  introduce6(peer);
  const data = Buffer.from('changeover');
  const [reply] = peer.exchange(toHost(58, icmp6(ENDS, 128, 0, 0x12340007, data)));
  const back = { source: HOST6, destination: PEER6 };
  assert.equal(
    reply!.subarray(24),
    ipv6({ ...back, protocol: 58, payload: icmp6(back, 129, 0, 0x12340007, data) }),
  );
});

suiteIcmp('section 4.2: asked in a group, an own address answers', () => {
  const peer = rawPeer6();
  introduce6(peer);
  const ends = { source: PEER6, destination: ALL_NODES };
  const payload = icmp6(ends, 128, 0, 1, Buffer.alloc(4));
  const [reply] = peer.exchange(packet6(ipv6({ ...ends, protocol: 58, payload }), { to: ALL_NODES_MAC }));
  assert.equal(reply!.subarray(32, 48), ip6(HOST6));
});

for (const checksum of [false, true]) {
  suiteIcmp(
    `ping, of every size up to the largest, and of itself, checksum offload ${checksum}`,
    async () => {
      const { clock, a, b } = twoStacks({ dual: true, checksum });
      for (const size of [0, 56, 1452, 1453, 20_000, 65_527]) {
        const answer = a.ip.ping(IP6_B, size);
        clock.advance(5);
        assert.ok((await answer).rttMs <= 5);
      }
      const linkLocal = a.ip.ping(b.ip.addresses.linkLocal!);
      clock.advance(5);
      await linkLocal;
      for (const self of [IP6_A, ipAddress('::1')]) {
        const answer = a.ip.ping(self);
        clock.advance(1);
        await answer;
      }
      assert.is(a.ip.drops.total + b.ip.drops.total, 0, JSON.stringify(b.ip.drops.snapshot()));
    },
  );
}

suiteIcmp(
  'ping: timeout, unreachable neighbour, no route are told apart',
  within(async () => {
    const { clock, a } = twoStacks({ dual: true });
    const code = async (destination: string, timeoutMs: number) => {
      const outcome = a.ip.ping(ipAddress(destination), 8, timeoutMs).then(
        () => 'answered',
        (error: unknown) => (error instanceof PingError ? error.code : String(error)),
      );
      clock.advance(10_000);
      return outcome;
    };
    assert.is(await code('fd00::99', 1_000), 'PING_TIMEOUT');
    assert.is(await code('fd00::98', 5_000), 'PING_UNREACHABLE');
    assert.is(await code(FAR, 1_000), 'PING_NO_ROUTE');
  }),
);

suiteIcmp('section 2.4 e: no error about errors, redirects, groups, impossible sources', () => {
  const peer = rawPeer6();
  introduce6(peer);
  const datagram = udp6(PORTS);
  const original = toHost(17, datagram).subarray(24);
  assert.is(peer.exchange(toHost(17, datagram)).length, 1, 'the ordinary case is answered');
  assert.equal(peer.exchange(toHost(58, icmp6(ENDS, 1, 4, 0, original))), []);
  assert.equal(peer.exchange(toHost(58, icmp6(ENDS, 99, 4, 0, original))), []);
  const group = { source: PEER6, destination: ALL_NODES };
  const toGroup = packet6(ipv6({ ...group, protocol: 17, payload: udp6({ ...PORTS, ...group }) }), {
    to: ALL_NODES_MAC,
  });
  assert.equal(peer.exchange(toGroup), []);
  assert.equal(peer.exchange(packet6(original, { to: ALL_NODES_MAC })), []);
  for (const source of ['ff02::9', '::1', '::ffff:a4d:2', '::', HOST6]) {
    assert.equal(peer.exchange(toHost(17, udp6({ ...PORTS, source }), { source })), []);
  }
  assert.is(peer.stack.ip.drops.of('ipv6-bad-source'), 5);
});

suiteIcmp('port unreachable; parameter problem for an unknown next header points at it', () => {
  const peer = rawPeer6();
  introduce6(peer);
  const [port] = peer.exchange(toHost(17, udp6(PORTS)));
  assert.ok(checksum6Right(port!));
  assert.equal(port!.subarray(64, 66), Buffer.from([1, 4]));
  const unknown = toHost(99, Buffer.alloc(8), { extensions: [[60, Buffer.from('0000010400000000', 'hex')]] });
  const [problem] = peer.exchange(unknown);
  assert.equal(problem!.subarray(64, 66), Buffer.from([4, 1]));
  assert.is(problem!.readUInt32BE(68), 40, 'the first byte of the destination options header');
  assert.equal(problem!.subarray(72), unknown.subarray(24));
});

suiteIcmp('errors quote as much as 1280 bytes hold', () => {
  const peer = rawPeer6();
  introduce6(peer);
  const original = toHost(17, udp6({ ...PORTS, payload: Buffer.alloc(1_400, 7) }));
  const [error] = peer.exchange(original);
  assert.is(error!.length, 24 + 1280);
  assert.ok(checksum6Right(error!));
  assert.equal(error!.subarray(72), original.subarray(24, 24 + 1232));
});

suiteIcmp('errors are rate-limited', () => {
  const peer = rawPeer6();
  introduce6(peer);
  const one = toHost(17, udp6(PORTS));
  assert.is(peer.exchange(...Array.from({ length: 200 }, () => one)).length, 50);
  assert.is(peer.stack.ip.discards.of('send-rate-limited'), 150);
  peer.clock.advance(100);
  assert.is(peer.exchange(one).length, 1);
});

/** A transport that knows one port and writes down what it is told. */
class Listener implements Transport {
  readonly errors: [IcmpErrorKind, number][] = [];
  input(): DropReason | undefined {
    return undefined;
  }
  icmpError(
    kind: IcmpErrorKind,
    _source: unknown,
    _destination: unknown,
    buffer: Uint8Array,
    offset: number,
    _length: number,
    mtu: number,
  ): DropReason | undefined {
    if (buffer[offset + 1] !== 80) return 'icmp-unrelated-error';
    this.errors.push([kind, mtu]);
    return undefined;
  }
  rehome(): void {}
  addressRemoved(): void {}
  endOfBatch(): void {}
  writable(): void {}
}

/** An error from the gateway about a segment of ours to FAR. */
function about(sourcePort: number, type: number, code: number, rest: number, quoteBytes = 1_000): Buffer {
  const ends = { source: HOST6, destination: FAR };
  const segment = tcp6({ ...ends, sourcePort, destinationPort: 4000, payload: Buffer.alloc(1_440) });
  const quote = ipv6({ ...ends, protocol: 6, payload: segment }).subarray(0, quoteBytes);
  const outer = { source: GATEWAY6, destination: HOST6 };
  return packet6(ipv6({ ...outer, protocol: 58, payload: icmp6(outer, type, code, rest, quote) }));
}

suiteIcmp('errors reach the transport by kind; what quotes too little does not', () => {
  const peer = rawPeer6();
  const listener = new Listener();
  peer.stack.ip.registerTransport(6, listener);
  const cases: [number, number, IcmpErrorKind][] = [
    [1, 0, 'network-unreachable'],
    [1, 1, 'prohibited'],
    [1, 2, 'network-unreachable'],
    [1, 3, 'host-unreachable'],
    [1, 4, 'port-unreachable'],
    [1, 5, 'prohibited'],
    [1, 6, 'prohibited'],
    [3, 0, 'time-exceeded'],
    [4, 0, 'parameter-problem'],
    [4, 1, 'protocol-unreachable'],
  ];
  for (const [type, code] of cases) peer.exchange(about(80, type, code, 0));
  assert.equal(
    listener.errors.map(([kind]) => kind),
    cases.map(([, , kind]) => kind),
  );
  peer.exchange(about(81, 1, 3, 0));
  assert.is(peer.stack.ip.drops.of('icmp-unrelated-error'), 1);
  for (let bytes = 0; bytes < 48; bytes++) peer.exchange(about(80, 1, 3, 0, bytes));
  assert.is(peer.stack.ip.drops.of('icmp-bad-quote'), 48);
  peer.exchange(about(80, 5, 0, 0), about(80, 127, 0, 0), about(80, 130, 0, 0));
  assert.is(peer.stack.ip.drops.of('icmp-unknown-type'), 3);
});

suiteIcmp(
  'RFC 8201: packet too big lowers the path MTU, never below 1280, never raises, is forgotten',
  () => {
    const peer = rawPeer6();
    const listener = new Listener();
    peer.stack.ip.registerTransport(6, listener);
    const mtu = () => peer.stack.ip.pathMtu(ipAddress(FAR));
    assert.is(mtu(), 1500);
    peer.exchange(about(80, 2, 0, 1400));
    assert.is(mtu(), 1400);
    peer.exchange(about(80, 2, 0, 1450));
    assert.is(mtu(), 1400);
    peer.exchange(about(80, 2, 0, 1279), about(80, 2, 0, 0));
    assert.is(mtu(), 1400);
    assert.is(peer.stack.ip.drops.of('icmp-mtu-too-small'), 2);
    peer.exchange(about(80, 2, 0, 1280));
    assert.is(mtu(), 1280);
    assert.equal(
      listener.errors,
      [1400, 1400, 1280].map((value) => ['fragmentation-needed', value]),
    );
    assert.is(peer.stack.ip.pathMtu(ipAddress(PEER6)), 1500, 'others are not affected');
    peer.clock.advance(600_000);
    assert.is(mtu(), 1500);
    peer.exchange(about(81, 2, 0, 1300));
    assert.is(mtu(), 1500, 'a packet that no transport knows');
  },
);

suiteIcmp(
  'output respects the path MTU: a fragment header only when needed, and where the transport allows',
  () => {
    const peer = rawPeer6();
    introduce6(peer);
    introduce6(peer, GATEWAY6);
    peer.stack.ip.registerTransport(6, new Listener());
    peer.exchange(about(80, 2, 0, 1300));
    const buffer = new Uint8Array(HEADROOM + 4000);
    const output = (length: number, dontFragment: boolean) =>
      peer.stack.ip.output(
        buffer,
        HEADROOM,
        length,
        99,
        ipAddress(HOST6),
        ipAddress(FAR),
        CHECKSUM_COMPLETE,
        0,
        dontFragment,
        0,
      );
    assert.is(output(1261, true), OUTPUT.TOO_BIG);
    assert.is(output(1260, true), OUTPUT.SENT);
    assert.is(output(2600, false), OUTPUT.SENT);
    assert.is(output(2600, false), OUTPUT.SENT);
    peer.stack.ip.flush();
    peer.clock.advance(1);
    const sent = peer.take();
    assert.equal(
      sent.map((bytes) => [bytes[30], bytes.readUInt16BE(28)]),
      [
        [99, 1260],
        ...[0, 1].flatMap(() => [
          [44, 1256],
          [44, 1256],
          [44, 112],
        ]),
      ],
    );
    const fragments = sent.slice(1).map((bytes) => bytes.subarray(64, 72));
    assert.equal(
      fragments.map((header) => [header[0], header.readUInt16BE(2)]),
      [0, 1].flatMap(() => [
        [99, 1],
        [99, 1248 | 1],
        [99, 2496],
      ]),
    );
    assert.equal(fragments[0]!.subarray(4), fragments[2]!.subarray(4));
    assert.not.equal(
      fragments[0]!.subarray(4),
      fragments[3]!.subarray(4),
      'another datagram, another identification',
    );
  },
);

suiteIcmp.run();
