import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ChangeNotice, cidr, InterfaceError, ipAddress, ipv4Address } from '../../../src/netstack/index.ts';
import { arp, hex, packet } from '../packets.ts';
import { HOST, HOST_MAC, isArp, PEER, PEER_MAC, RawPeer } from './raw-peer.ts';

const suiteArp = suite('netstack/iface/arp');
const BROADCAST = 'ffffffffffff';
const NOBODY = '000000000000';
const PEER_IP = ipv4Address(PEER);

function request(senderIp: string, targetIp: string, to = BROADCAST): Buffer {
  return packet(arp(1, PEER_MAC, senderIp, NOBODY, targetIp), { to, type: 0x0806, padTo: 60 });
}

function emptyDatagram(peer: RawPeer, to = PEER_IP): string {
  return peer.stack.udp.open().send(new Uint8Array([1, 2, 3]), to, 9);
}

suiteArp('RFC 826: a request for our address is answered by unicast, padded to 60 bytes', () => {
  const peer = new RawPeer();
  const reply = packet(arp(2, HOST_MAC, HOST, PEER_MAC, PEER), {
    to: PEER_MAC,
    from: HOST_MAC,
    type: 0x0806,
    padTo: 60,
  });
  assert.equal(peer.exchange(request(PEER, HOST)), [reply]);
  assert.equal(peer.stack.ip.arp.entries(), [{ address: PEER_IP, mac: 0x020000000002, state: 'fresh' }]);
});

suiteArp('requests for others and gratuitous ARP of strangers make no entry', () => {
  const peer = new RawPeer();
  assert.equal(peer.exchange(request(PEER, '10.77.0.3'), request('10.77.0.9', '10.77.0.9')), []);
  assert.is(peer.stack.ip.arp.size, 0);
  assert.is(peer.stack.ip.drops.of('arp-not-for-us'), 2);
});

suiteArp('a gratuitous ARP of a known neighbour moves it at once', () => {
  const peer = new RawPeer();
  peer.introduce();
  peer.exchange(packet(arp(1, '0200000000aa', PEER, NOBODY, PEER), { to: BROADCAST, type: 0x0806 }));
  emptyDatagram(peer);
  peer.clock.advance(1);
  assert.equal(peer.take()[0]?.subarray(10, 16), hex('0200000000aa'));
});

suiteArp(
  'RFC 5227: a probe is answered and not remembered; addresses from elsewhere are not remembered',
  () => {
    const peer = new RawPeer();
    assert.is(peer.exchange(request('0.0.0.0', HOST)).length, 1);
    assert.is(peer.exchange(request('192.0.2.7', HOST)).length, 1);
    assert.is(peer.exchange(request('10.77.0.255', HOST)).length, 1);
    assert.is(peer.stack.ip.arp.size, 0);
  },
);

suiteArp('another sender with our address is a conflict, counted and not defended', () => {
  const peer = new RawPeer();
  assert.equal(peer.exchange(request(HOST, HOST)), []);
  assert.is(peer.stack.ip.drops.of('arp-conflict'), 1);
});

suiteArp('a packet waits for its neighbour and leaves when the reply comes', () => {
  const peer = new RawPeer();
  assert.is(emptyDatagram(peer), 'sent');
  peer.clock.advance(1);
  const [question, ...more] = peer.take();
  assert.is(more.length, 0);
  assert.equal(question?.subarray(24, 52), arp(1, HOST_MAC, HOST, NOBODY, PEER));
  const [datagram] = peer.exchange(packet(arp(2, PEER_MAC, PEER, HOST_MAC, HOST), { type: 0x0806 }));
  assert.equal(datagram?.subarray(10, 22), hex(PEER_MAC + HOST_MAC));
  assert.is(peer.stack.ip.arp.pendingBytes, 0);
});

suiteArp(
  'RFC 1122 section 2.3.2.1: one request per second, three in all, then the packets are given up',
  () => {
    const peer = new RawPeer();
    emptyDatagram(peer);
    emptyDatagram(peer);
    const at: number[] = [];
    for (let ms = 100; ms <= 5_000; ms += 100) {
      peer.clock.advance(100);
      for (const bytes of peer.take()) if (isArp(bytes)) at.push(Math.floor((ms + 50) / 1_000));
    }
    assert.equal(at, [0, 1, 2]);
    assert.is(peer.stack.ip.discards.of('send-unresolved'), 2);
    assert.is(peer.stack.ip.arp.size, 0);
  },
);

suiteArp('an old entry is asked again by unicast, used meanwhile, and forgotten when nobody answers', () => {
  const peer = new RawPeer();
  peer.introduce();
  peer.clock.advance(60_001);
  peer.take();
  emptyDatagram(peer);
  peer.clock.advance(1);
  const [first, second] = peer.take();
  assert.ok(first && isArp(first) && !isArp(second!));
  assert.equal(first.subarray(10, 16), hex(PEER_MAC), 'unicast');
  peer.clock.advance(2_500);
  assert.equal(peer.take().at(-1)?.subarray(10, 16), hex(BROADCAST), 'the last one to everybody');
  peer.clock.advance(1_000);
  assert.is(peer.stack.ip.arp.size, 0);
});

suiteArp('bounded: packets per neighbour, bytes over all, entries', () => {
  const peer = new RawPeer({ host: { arp: { pendingPacketsPerEntry: 4, pendingBytes: 1000, entries: 8 } } });
  const results: string[] = [];
  for (let i = 0; i < 5; i++) results.push(emptyDatagram(peer));
  assert.equal(results, ['sent', 'sent', 'sent', 'sent', 'full']);
  const big = peer.stack.udp.open();
  const other = ipv4Address('10.77.0.9');
  assert.is(big.send(new Uint8Array(700), other, 9), 'sent');
  assert.is(big.send(new Uint8Array(700), other, 9), 'full');
  assert.ok(peer.stack.ip.arp.pendingBytes <= 1000);
  for (let i = 20; i < 120; i++) emptyDatagram(peer, ipv4Address(`10.77.0.${i}`));
  assert.is(peer.stack.ip.arp.size, 8);
  peer.clock.advance(10_000);
  assert.is(peer.stack.ip.arp.pendingBytes, 0);
});

suiteArp('RFC 5227 section 2.3: an announcement is a broadcast request with our address twice', () => {
  const peer = new RawPeer();
  peer.stack.ip.announce(undefined, 2);
  const expected = packet(arp(1, HOST_MAC, HOST, NOBODY, HOST), {
    to: BROADCAST,
    from: HOST_MAC,
    type: 0x0806,
    padTo: 60,
  });
  peer.clock.advance(1_999);
  assert.equal(peer.take(), [expected]);
  peer.clock.advance(2);
  assert.equal(peer.take(), [expected]);
  peer.clock.advance(60_000);
  assert.equal(peer.take(), []);
});

suiteArp(
  'RFC 5227 section 2.1: three probes without sender, then the address is free; an answer or another probe says it is taken',
  async () => {
    const peer = new RawPeer();
    const wanted = ipAddress('10.77.0.50');
    const probe = packet(arp(1, HOST_MAC, '0.0.0.0', NOBODY, '10.77.0.50'), {
      to: BROADCAST,
      from: HOST_MAC,
      type: 0x0806,
      padTo: 60,
    });
    const free = peer.stack.ip.probe(wanted);
    peer.clock.advance(3_001);
    assert.equal(peer.take(), [probe, probe, probe]);
    assert.is(await free, undefined);
    for (const sender of ['10.77.0.50', '0.0.0.0']) {
      const taken = peer.stack.ip.probe(wanted);
      peer.exchange(request(sender, '10.77.0.50'));
      assert.is(await taken, 0x020000000002, sender);
      peer.take();
      peer.clock.advance(5_000);
      assert.equal(peer.take(), [], 'no more probes');
    }
  },
);

suiteArp('around an alteration: prepared answers, left neither answers nor announces', () => {
  const peer = new RawPeer();
  const [from, to] = [ipAddress(HOST), ipAddress('10.77.0.12')];
  const answers = (ip: string) => peer.exchange(request(PEER, ip)).length === 1;
  peer.stack.ip.prepareAlter(from, to);
  assert.ok(answers(HOST) && answers('10.77.0.12'));
  peer.take();
  peer.stack.ip.announce(from, 2);
  peer.clock.advance(1);
  assert.is(peer.take().length, 1);
  peer.stack.ip.alter(from, to);
  assert.not.ok(answers(HOST));
  assert.ok(answers('10.77.0.12'));
  peer.take();
  peer.clock.advance(5_000);
  assert.equal(peer.take(), [], 'the second announcement is not sent any more');
  assert.throws(
    () => peer.stack.ip.announce(from),
    (error: unknown) => error instanceof InterfaceError && error.code === 'ADDRESS_NOT_OWN',
  );
  peer.stack.ip.alter(to, from);
  assert.ok(answers(HOST), 'and back');
  assert.not.ok(answers('10.77.0.12'));
  peer.stack.ip.removeAddress(to);
  assert.is(peer.stack.ip.isLocal(to), false);
});

suiteArp('the send program swallows an announcement of the first address while a notice is set', () => {
  const peer = new RawPeer();
  const notice = new ChangeNotice({ first: ipAddress(HOST), second: ipAddress('10.77.0.12') });
  peer.stack.ip.send.setNotice(notice);
  peer.stack.ip.announce();
  peer.clock.advance(1);
  assert.equal(peer.take(), []);
  assert.is(notice.counters.announcementsRefused, 1);
  peer.stack.ip.send.cancelNotice();
  peer.stack.ip.announce();
  peer.clock.advance(1);
  assert.is(peer.take().length, 1);
});

suiteArp('Fig 26 inside one stack: source second leaves as first while the notice is set', () => {
  const peer = new RawPeer();
  peer.introduce();
  const [from, to] = [ipAddress(HOST), ipAddress('10.77.0.12')];
  peer.stack.ip.prepareAlter(from, to);
  peer.stack.ip.alter(from, to);
  const source = () => {
    emptyDatagram(peer);
    peer.clock.advance(1);
    return peer.take()[0]?.subarray(36, 40).join('.');
  };
  assert.is(source(), '10.77.0.12');
  peer.stack.ip.send.setNotice(new ChangeNotice({ first: from, second: to }));
  assert.is(source(), HOST);
  peer.stack.ip.send.cancelNotice();
  assert.is(source(), '10.77.0.12');
});

suiteArp('the gateway is asked for destinations elsewhere; without it there is no route', () => {
  const peer = new RawPeer();
  const far = ipv4Address('192.0.2.1');
  assert.is(emptyDatagram(peer, far), 'sent');
  peer.clock.advance(1);
  assert.equal(peer.take()[0]?.subarray(48, 52), Buffer.from([10, 77, 0, 254]));
  peer.stack.ip.setGateway(undefined);
  assert.is(emptyDatagram(peer, far), 'no-route');
  peer.stack.ip.addAddress(cidr('192.0.2.9/24'));
  assert.is(peer.stack.ip.sourceFor(far), ipv4Address('192.0.2.9'));
});

suiteArp.run();
