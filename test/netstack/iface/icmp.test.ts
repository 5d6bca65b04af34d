import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { DropReason, IcmpErrorKind, Transport } from '../../../src/netstack/index.ts';
import {
  CHECKSUM_COMPLETE,
  HEADROOM,
  ipv4Address,
  MIN_PATH_MTU,
  OUTPUT,
  PingError,
} from '../../../src/netstack/index.ts';
import { within } from '../../support/index.ts';
import { checksumsRight, icmp, ipv4, packet, tcp, udp } from '../packets.ts';
import { HOST, PEER, RawPeer } from './raw-peer.ts';
import { IP_A, IP_B, twoStacks } from './two-stacks.ts';

const suiteIcmp = suite('netstack/iface/icmp');
const FAR = '192.0.2.1';

function toHost(protocol: number, payload: Uint8Array, more: object = {}): Buffer {
  return packet(ipv4({ source: PEER, destination: HOST, protocol, payload, ...more }), { padTo: 60 });
}

suiteIcmp('an echo request is answered with the same identifier, sequence and data', () => {
  const peer = new RawPeer();
  peer.introduce();
  const data = Buffer.from('changeover');
  const [reply] = peer.exchange(toHost(1, icmp(8, 0, 0x12340007, data)));
  assert.ok(checksumsRight(reply!));
  assert.equal(reply!.subarray(44), icmp(0, 0, 0x12340007, data));
});

suiteIcmp('ping, of every size up to the largest, and of itself', async () => {
  const { clock, a } = twoStacks();
  for (const size of [0, 56, 1472, 1473, 20_000, 65_507]) {
    const answer = a.ip.icmp.ping(IP_B, size);
    clock.advance(5);
    assert.ok((await answer).rttMs <= 5);
  }
  const self = a.ip.icmp.ping(IP_A);
  clock.advance(1);
  await self;
});

suiteIcmp(
  'ping: timeout, unreachable neighbour, no route are told apart',
  within(async () => {
    const { clock, a } = twoStacks();
    const code = async (destination: string, timeoutMs: number) => {
      const answer = a.ip.icmp.ping(ipv4Address(destination), 8, timeoutMs);
      const outcome = answer.then(
        () => 'answered',
        (error: unknown) => (error instanceof PingError ? error.code : String(error)),
      );
      clock.advance(10_000);
      return outcome;
    };
    assert.is(await code('10.77.0.99', 1_000), 'PING_TIMEOUT');
    assert.is(await code('10.77.0.98', 5_000), 'PING_UNREACHABLE');
    assert.is(await code(FAR, 1_000), 'PING_NO_ROUTE');
  }),
);

suiteIcmp(
  'RFC 1122 section 3.2.2: no error about errors, broadcasts, later fragments, impossible sources',
  () => {
    const peer = new RawPeer();
    peer.introduce();
    const datagram = udp({ source: PEER, destination: HOST, sourcePort: 1, destinationPort: 2 });
    assert.is(peer.exchange(toHost(17, datagram)).length, 1, 'the ordinary case is answered');
    assert.is(peer.exchange(toHost(99, Buffer.alloc(8))).length, 1, 'protocol unreachable');
    assert.equal(peer.exchange(toHost(1, icmp(3, 3, 0, toHost(17, datagram).subarray(24)))), []);
    assert.equal(
      peer.exchange(toHost(1, icmp(8, 0, 1, Buffer.alloc(4)), { destination: '10.77.0.255' })),
      [],
    );
    assert.equal(peer.exchange(toHost(17, datagram, { destination: '10.77.0.255' })), []);
    assert.equal(peer.exchange(toHost(17, datagram, { source: '224.0.0.1' })), []);
    assert.equal(peer.exchange(toHost(17, datagram, { source: '127.0.0.1' })), []);
    assert.equal(peer.exchange(toHost(17, datagram, { source: HOST })), []);
    assert.is(peer.stack.ip.drops.of('ipv4-bad-source'), 3);
  },
);

suiteIcmp('errors quote at most 576 bytes, the IP header included', () => {
  const peer = new RawPeer();
  peer.introduce();
  const payload = Buffer.alloc(1400, 7);
  const original = toHost(
    17,
    udp({ source: PEER, destination: HOST, sourcePort: 1, destinationPort: 2, payload }),
  );
  const [error] = peer.exchange(original);
  assert.is(error!.length, 24 + 576);
  assert.ok(checksumsRight(error!));
  assert.equal(error!.subarray(44, 46), Buffer.from([3, 3]));
  assert.equal(error!.subarray(52), original.subarray(24, 24 + 548));
});

suiteIcmp('errors are rate-limited', () => {
  const peer = new RawPeer();
  peer.introduce();
  const one = toHost(17, udp({ source: PEER, destination: HOST, sourcePort: 1, destinationPort: 2 }));
  const answered = peer.exchange(...Array.from({ length: 200 }, () => one)).length;
  assert.is(answered, 50);
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

function about(
  sourcePort: number,
  type: number,
  code: number,
  rest: number,
  quoteBytes = 28,
  length = 1480,
): Buffer {
  const segment = tcp({
    source: HOST,
    destination: FAR,
    sourcePort,
    destinationPort: 4000,
    payload: Buffer.alloc(length - 20),
  });
  const quote = ipv4({ source: HOST, destination: FAR, protocol: 6, payload: segment }).subarray(
    0,
    quoteBytes,
  );
  return toHost(1, icmp(type, code, rest, quote));
}

suiteIcmp('errors reach the transport by kind', () => {
  const peer = new RawPeer();
  const listener = new Listener();
  peer.stack.ip.registerTransport(6, listener);
  const cases: [number, number, IcmpErrorKind][] = [
    [3, 0, 'network-unreachable'],
    [3, 1, 'host-unreachable'],
    [3, 2, 'protocol-unreachable'],
    [3, 3, 'port-unreachable'],
    [3, 5, 'source-route-failed'],
    [3, 13, 'prohibited'],
    [11, 0, 'time-exceeded'],
    [12, 0, 'parameter-problem'],
  ];
  for (const [type, code] of cases) peer.exchange(about(80, type, code, 0));
  assert.equal(
    listener.errors.map(([kind]) => kind),
    cases.map(([, , kind]) => kind),
  );
  peer.exchange(about(81, 3, 1, 0));
  assert.is(peer.stack.ip.drops.of('icmp-unrelated-error'), 1);
  for (let bytes = 0; bytes < 28; bytes++) peer.exchange(about(80, 3, 1, 0, bytes));
  assert.is(peer.stack.ip.drops.of('icmp-bad-quote'), 28);
  peer.exchange(about(80, 4, 0, 0), about(80, 5, 1, 0), about(80, 13, 0, 0));
  assert.is(peer.stack.ip.drops.of('icmp-unknown-type'), 3);
});

suiteIcmp(
  'RFC 1191: the path MTU is lowered, clamped, guessed by plateaus, forgotten after ten minutes',
  () => {
    const peer = new RawPeer();
    const listener = new Listener();
    peer.stack.ip.registerTransport(6, listener);
    const far = ipv4Address(FAR);
    const mtu = () => peer.stack.ip.pathMtu(far);
    assert.is(mtu(), 1500);
    peer.exchange(about(80, 3, 4, 1400));
    assert.is(mtu(), 1400);
    peer.exchange(about(80, 3, 4, 1450));
    assert.is(mtu(), 1400, 'never raised by a report');
    peer.exchange(about(80, 3, 4, 0, 28, 1380));
    assert.is(mtu(), 1006, 'plateau below 1400');
    peer.exchange(about(80, 3, 4, 68));
    assert.is(mtu(), MIN_PATH_MTU);
    assert.equal(
      listener.errors,
      [1400, 1400, 1006, 552].map((value) => ['fragmentation-needed', value]),
    );
    assert.is(peer.stack.ip.pathMtu(ipv4Address(PEER)), 1500, 'others are not affected');
    peer.clock.advance(600_000);
    assert.is(mtu(), 1500);
  },
);

suiteIcmp('a report about a packet that no transport knows does not change the path MTU', () => {
  const peer = new RawPeer();
  peer.stack.ip.registerTransport(6, new Listener());
  peer.exchange(about(81, 3, 4, 600));
  assert.is(peer.stack.ip.pathMtu(ipv4Address(FAR)), 1500);
});

suiteIcmp('output respects the path MTU: DF is refused, the rest is fragmented to it', () => {
  const peer = new RawPeer();
  peer.introduce();
  peer.introduce('10.77.0.254');
  peer.stack.ip.registerTransport(6, new Listener());
  peer.exchange(about(80, 3, 4, 1000));
  const far = ipv4Address(FAR);
  const buffer = new Uint8Array(HEADROOM + 2000);
  const output = (length: number, dontFragment: boolean) =>
    peer.stack.ip.output(
      buffer,
      HEADROOM,
      length,
      99,
      ipv4Address(HOST),
      far,
      CHECKSUM_COMPLETE,
      0,
      dontFragment,
      0,
    );
  assert.is(output(981, true), OUTPUT.TOO_BIG);
  assert.is(output(980, true), OUTPUT.SENT);
  assert.is(output(1960, false), OUTPUT.SENT);
  peer.stack.ip.flush();
  peer.clock.advance(1);
  assert.equal(
    peer.take().map((bytes) => bytes.readUInt16BE(26)),
    [1000, 996, 996, 28],
  );
});

suiteIcmp.run();
