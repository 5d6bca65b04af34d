/** Neighbour discovery: RFC 4861, duplicate address detection of RFC 4862. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  ChangeNotice,
  cidr,
  InterfaceError,
  type Ipv6Address,
  ipAddress,
  linkLocalAddress,
  macAddress,
  solicitedNodeAddress,
} from '../../../src/netstack/index.ts';
import { hex } from '../packets.ts';
import {
  advertisement,
  checksum6Right,
  icmp6,
  ip6,
  ipv6,
  type NdpFields,
  packet6,
  solicitation,
} from '../packets6.ts';
import { HOST_MAC, PEER_MAC, RawPeer } from './raw-peer.ts';
import {
  ALL_NODES,
  ALL_NODES_MAC,
  askFromPeer,
  GATEWAY6,
  HOST_GROUP,
  HOST_GROUP_MAC,
  HOST_LINK_LOCAL,
  HOST6,
  introduce6,
  PEER6,
  rawPeer6,
} from './raw-peer6.ts';

const ndp = suite('netstack/iface/ndp');
const address = (text: string) => ipAddress(text) as Ipv6Address;
const PEER_GROUP = 'ff02::1:ff00:2';
const PEER_GROUP_MAC = '3333ff000002';
const OTHER_MAC = '0200000000aa';

function emptyDatagram(peer: RawPeer, to = PEER6): string {
  return peer.stack.udp.open().send(new Uint8Array([1, 2, 3]), address(to), 9);
}

function stateOf(peer: RawPeer, of = PEER6): string | undefined {
  return peer.stack.ip.neighbours.entries().find((entry) => entry.address === address(of))?.state;
}

/** What the peer says of itself. */
function tells(fields: Partial<NdpFields> = {}): Buffer {
  return advertisement({
    source: PEER6,
    destination: HOST6,
    target: PEER6,
    mac: PEER_MAC,
    flags: 0x60,
    ...fields,
  });
}

/** Kind and Ethernet destination of what the stack has sent. */
function sent(peer: RawPeer): string[] {
  return peer.take().map((bytes) => {
    const to = bytes.subarray(10, 16).toString('hex');
    if (bytes[30] !== 58) return `data ${to}`;
    return `${bytes[64] === 135 ? 'solicitation' : bytes[64] === 136 ? 'advertisement' : 'data'} ${to}`;
  });
}

ndp('addresses that follow from others: link-local, solicited-node', () => {
  assert.is(linkLocalAddress(macAddress('02:00:00:00:00:01')), address(HOST_LINK_LOCAL));
  assert.is(linkLocalAddress(macAddress('00:11:22:33:44:55')), address('fe80::211:22ff:fe33:4455'));
  assert.is(solicitedNodeAddress(address('fd00::12:3456:789a')), address('ff02::1:ff56:789a'));
});

ndp('section 7.2.4: a solicitation is answered by a unicast advertisement, byte for byte', () => {
  const peer = rawPeer6();
  const expected = advertisement({
    source: HOST6,
    destination: PEER6,
    target: HOST6,
    mac: HOST_MAC,
    flags: 0x60,
    to: PEER_MAC,
    from: HOST_MAC,
  });
  assert.equal(peer.exchange(askFromPeer()), [expected]);
  assert.equal(peer.stack.ip.neighbours.entries(), [
    { address: address(PEER6), mac: macAddress('02:00:00:00:00:02'), state: 'STALE' },
  ]);
});

ndp('a known advertisement in hex', () => {
  const peer = rawPeer6();
  const [reply] = peer.exchange(askFromPeer());
  assert.equal(
    reply,
    hex(`00000000000000000000 020000000002 020000000001 86dd
      6000000000203aff fd000000000000000000000000000001 fd000000000000000000000000000002
      8800 ${reply!.subarray(66, 68).toString('hex')} 60000000 fd000000000000000000000000000001 0201020000000001`),
  );
  assert.ok(checksum6Right(reply!));
});

ndp('the link-local address is answered for, and is the source towards link-local peers', () => {
  const peer = rawPeer6();
  const question = solicitation({
    source: 'fe80::2',
    destination: HOST_LINK_LOCAL,
    target: HOST_LINK_LOCAL,
    mac: PEER_MAC,
  });
  const [reply] = peer.exchange(question);
  assert.equal(reply?.subarray(32, 48), ip6(HOST_LINK_LOCAL));
  assert.is(peer.stack.ip.sourceFor(address('fe80::2')), address(HOST_LINK_LOCAL));
  assert.is(peer.stack.ip.sourceFor(address(ALL_NODES)), address(HOST_LINK_LOCAL));
  assert.is(peer.stack.ip.sourceFor(address(PEER6)), address(HOST6));
  assert.is(peer.stack.ip.sourceFor(address('2001:db8::1')), address(HOST6), 'by the gateway');
});

ndp('source: the own address whose prefix holds the destination, the longest first; else the first', () => {
  const { stack } = rawPeer6();
  stack.ip.addAddress(cidr('fd00:0:0:1::1/64'));
  stack.ip.addAddress(cidr('fd00:0:0:1:1::1/80'));
  assert.is(stack.ip.sourceFor(address('fd00:0:0:1:1::9')), address('fd00:0:0:1:1::1'));
  assert.is(stack.ip.sourceFor(address('fd00:0:0:1:2::9')), address('fd00:0:0:1::1'));
  assert.is(stack.ip.sourceFor(address('2001:db8::9')), address(HOST6));
});

ndp('without an IPv6 address nothing of IPv6 is there', () => {
  const peer = new RawPeer();
  assert.equal(peer.exchange(askFromPeer()), []);
  assert.is(peer.stack.ip.drops.of('ethernet-not-for-us'), 1);
  assert.is(peer.stack.ip.addresses.linkLocal, undefined);
});

ndp('section 7.1: what is invalid is dropped and remembered nowhere', () => {
  const peer = rawPeer6();
  const solicit = {
    source: PEER6,
    destination: HOST_GROUP,
    target: HOST6,
    mac: PEER_MAC,
    to: HOST_GROUP_MAC,
  };
  const message = (body: Buffer, code = 0) => {
    const ends = { source: PEER6, destination: HOST6 };
    return packet6(ipv6({ ...ends, protocol: 58, hopLimit: 255, payload: icmp6(ends, 135, code, 0, body) }));
  };
  const bad = [
    solicitation({ ...solicit, hopLimit: 254 }),
    solicitation({ ...solicit, target: 'ff02::5' }),
    solicitation({ ...solicit, source: '::' }),
    solicitation({ source: '::', destination: HOST6, target: HOST6 }),
    message(ip6(HOST6), 1),
    message(ip6(HOST6).subarray(0, 15)),
    message(Buffer.concat([ip6(HOST6), hex('0100 000000000000')])),
    message(Buffer.concat([ip6(HOST6), hex('0102 000000000000')])),
    message(Buffer.concat([ip6(HOST6), hex('01')])),
    tells({ hopLimit: 64 }),
    tells({ destination: ALL_NODES, to: ALL_NODES_MAC }),
    tells({ mac: '333300000001' }),
    tells({ source: '::' }),
  ];
  for (const bytes of bad) assert.equal(peer.exchange(bytes), []);
  assert.is(peer.stack.ip.drops.of('ndp-malformed'), bad.length);
  assert.is(peer.stack.ip.neighbours.size, 0);
});

ndp('router advertisements and redirects are ignored, and counted', () => {
  const peer = rawPeer6();
  for (const [type, length] of [
    [134, 8],
    [137, 32],
  ] as const) {
    const ends = { source: 'fe80::fe', destination: ALL_NODES };
    const payload = icmp6(ends, type, 0, 0, Buffer.alloc(length));
    peer.exchange(packet6(ipv6({ ...ends, protocol: 58, hopLimit: 255, payload }), { to: ALL_NODES_MAC }));
  }
  assert.is(peer.stack.ip.drops.of('ndp-router-ignored'), 1);
  assert.is(peer.stack.ip.drops.of('ndp-redirect-ignored'), 1);
});

ndp(
  'a question for somebody else in the same group; a sender from elsewhere is answered, not remembered',
  () => {
    const peer = rawPeer6();
    const other = 'fd00::5:0:0:1';
    assert.equal(
      peer.exchange(
        solicitation({
          source: PEER6,
          destination: HOST_GROUP,
          target: other,
          mac: PEER_MAC,
          to: HOST_GROUP_MAC,
        }),
      ),
      [],
    );
    assert.is(peer.stack.ip.drops.of('ndp-not-for-us'), 1);
    assert.is(peer.exchange(askFromPeer('2001:db8::9')).length, 1);
    assert.is(peer.stack.ip.neighbours.size, 0);
  },
);

ndp('another host with our address is a conflict, counted and not driven away', () => {
  const peer = rawPeer6();
  assert.equal(
    peer.exchange(
      tells({ source: HOST6, target: HOST6, destination: ALL_NODES, flags: 0x20, to: ALL_NODES_MAC }),
    ),
    [],
  );
  assert.equal(peer.exchange(askFromPeer(HOST6)), []);
  assert.is(peer.stack.ip.drops.of('ndp-conflict'), 2);
});

ndp('what we sent ourselves and a link echoes is nobody else', () => {
  const peer = rawPeer6({ host: { detectDuplicates: true } });
  peer.clock.advance(10);
  peer.exchange(...peer.take());
  peer.clock.advance(1_100);
  assert.is(peer.stack.ip.addresses.stateOf(address(HOST6)), 'own');
  assert.is(peer.stack.ip.drops.of('ndp-not-for-us'), 2);
});

ndp(
  'section 7.2.2: a packet waits for its neighbour, is asked for in its group, leaves with the answer',
  () => {
    const peer = rawPeer6();
    assert.is(emptyDatagram(peer), 'sent');
    peer.clock.advance(1);
    const [question, ...more] = peer.take();
    assert.is(more.length, 0);
    assert.equal(
      question,
      solicitation({
        source: HOST6,
        destination: PEER_GROUP,
        target: PEER6,
        mac: HOST_MAC,
        to: PEER_GROUP_MAC,
        from: HOST_MAC,
      }),
    );
    const [datagram] = peer.exchange(tells());
    assert.equal(datagram?.subarray(10, 24), hex(`${PEER_MAC}${HOST_MAC}86dd`));
    assert.is(stateOf(peer), 'REACHABLE');
    assert.is(peer.stack.ip.neighbours.pendingBytes, 0);
  },
);

ndp('one solicitation per second, three in all; then the packets are given up and their sender told', () => {
  const peer = rawPeer6();
  const kinds: string[] = [];
  const socket = peer.stack.udp.open();
  socket.onError = ({ kind }) => kinds.push(kind);
  socket.send(new Uint8Array(3), address(PEER6), 9);
  emptyDatagram(peer);
  const at: number[] = [];
  for (let ms = 100; ms <= 5_000; ms += 100) {
    peer.clock.advance(100);
    for (const what of sent(peer)) {
      assert.is(what, `solicitation ${PEER_GROUP_MAC}`);
      at.push(Math.floor((ms + 50) / 1_000));
    }
  }
  assert.equal(at, [0, 1, 2]);
  assert.is(peer.stack.ip.discards.of('send-unresolved'), 2);
  assert.equal(kinds, ['host-unreachable']);
  assert.is(peer.stack.ip.neighbours.size, 0);
});

ndp(
  'section 7.3: REACHABLE, STALE after the reachable time, DELAY on use, PROBE by unicast, forgotten',
  () => {
    const peer = rawPeer6({ host: { neighbours: { reachableMs: 30_000 } } });
    introduce6(peer);
    assert.is(stateOf(peer), 'REACHABLE');
    peer.clock.advance(14_000);
    assert.is(stateOf(peer), 'REACHABLE', 'never before half the time');
    peer.clock.advance(31_001);
    assert.is(stateOf(peer), 'STALE', 'never after one and a half of it');
    peer.clock.advance(600_000);
    assert.is(stateOf(peer), 'STALE', 'an unused one stays');
    emptyDatagram(peer);
    assert.is(stateOf(peer), 'DELAY');
    peer.clock.advance(1);
    assert.equal(sent(peer), [`data ${PEER_MAC}`], 'used as it is');
    peer.clock.advance(4_990);
    assert.equal(sent(peer), []);
    peer.clock.advance(20);
    assert.is(stateOf(peer), 'PROBE');
    assert.equal(sent(peer), [`solicitation ${PEER_MAC}`]);
    emptyDatagram(peer);
    peer.clock.advance(2_500);
    assert.equal(sent(peer), [`data ${PEER_MAC}`, `solicitation ${PEER_MAC}`, `solicitation ${PEER_MAC}`]);
    peer.clock.advance(1_000);
    assert.is(peer.stack.ip.neighbours.size, 0);
  },
);

ndp('an answer to a probe confirms', () => {
  const peer = rawPeer6();
  introduce6(peer);
  peer.clock.advance(50_000);
  emptyDatagram(peer);
  peer.clock.advance(5_010);
  peer.exchange(tells());
  assert.is(stateOf(peer), 'REACHABLE');
});

ndp(
  'appendix C: what an advertisement changes, by state, solicited and override flag, same or other address',
  () => {
    const S = 0x40;
    const O = 0x20;
    type Row = [
      from: 'REACHABLE' | 'STALE',
      flags: number,
      mac: string | undefined,
      state: string,
      moved: boolean,
    ];
    const rows: Row[] = [
      ['REACHABLE', 0, OTHER_MAC, 'STALE', false],
      ['REACHABLE', S, OTHER_MAC, 'STALE', false],
      ['REACHABLE', O, OTHER_MAC, 'STALE', true],
      ['REACHABLE', S | O, OTHER_MAC, 'REACHABLE', true],
      ['REACHABLE', 0, PEER_MAC, 'REACHABLE', false],
      ['REACHABLE', 0, undefined, 'REACHABLE', false],
      ['STALE', 0, OTHER_MAC, 'STALE', false],
      ['STALE', S, OTHER_MAC, 'STALE', false],
      ['STALE', O, OTHER_MAC, 'STALE', true],
      ['STALE', S | O, OTHER_MAC, 'REACHABLE', true],
      ['STALE', S, PEER_MAC, 'REACHABLE', false],
      ['STALE', S, undefined, 'REACHABLE', false],
      ['STALE', O, PEER_MAC, 'STALE', false],
    ];
    for (const [from, flags, mac, state, moved] of rows) {
      const peer = rawPeer6();
      introduce6(peer);
      if (from === 'STALE') peer.clock.advance(50_000);
      const { mac: _, ...rest } = { source: PEER6, destination: HOST6, target: PEER6, mac: undefined, flags };
      peer.exchange(advertisement(mac === undefined ? rest : { ...rest, mac }));
      const label = `${from} ${flags.toString(16)} ${mac}`;
      assert.is(stateOf(peer), state, label);
      assert.is(
        peer.stack.ip.neighbours.entries()[0]?.mac,
        Number.parseInt(moved ? OTHER_MAC : PEER_MAC, 16),
        label,
      );
    }
    const peer = rawPeer6();
    emptyDatagram(peer);
    const { mac: _, ...without } = {
      source: PEER6,
      destination: HOST6,
      target: PEER6,
      mac: undefined,
      flags: 0x60,
    };
    peer.exchange(advertisement(without));
    assert.is(stateOf(peer), 'INCOMPLETE', 'no hardware address in it');
    assert.is(peer.stack.ip.drops.of('ndp-not-for-us'), 1);
    peer.exchange(tells({ flags: 0 }));
    assert.is(stateOf(peer), 'STALE');
    assert.is(peer.exchange(tells({ target: 'fd00::99' })).length, 0);
    assert.is(peer.stack.ip.neighbours.size, 1, 'unknown neighbours make no entry');
  },
);

ndp(
  'a move is followed at once: unsolicited with override, and a solicitation from a new hardware address',
  () => {
    const peer = rawPeer6();
    introduce6(peer);
    peer.exchange(
      tells({ destination: ALL_NODES, to: ALL_NODES_MAC, flags: 0x20, mac: OTHER_MAC, from: OTHER_MAC }),
    );
    emptyDatagram(peer);
    peer.clock.advance(1);
    assert.equal(sent(peer), [`data ${OTHER_MAC}`]);
    peer.exchange(askFromPeer(PEER6, '0200000000bb'));
    peer.take();
    emptyDatagram(peer);
    peer.clock.advance(1);
    assert.equal(sent(peer), ['data 0200000000bb']);
  },
);

ndp('beyond the link it goes to the gateway; without one there is no route', () => {
  const peer = rawPeer6();
  emptyDatagram(peer, '2001:db8::7');
  peer.clock.advance(1);
  const [question] = peer.take();
  assert.equal(question?.subarray(72, 88), ip6(GATEWAY6));
  peer.stack.ip.setGateway(undefined);
  assert.is(emptyDatagram(peer, '2001:db8::8'), 'no-route');
  peer.stack.ip.setGateway(address('fe80::fe'));
  assert.is(emptyDatagram(peer, '2001:db8::8'), 'sent');
});

ndp('groups need no neighbour', () => {
  const peer = rawPeer6();
  emptyDatagram(peer, ALL_NODES);
  peer.clock.advance(1);
  assert.equal(sent(peer), [`data ${ALL_NODES_MAC}`]);
});

ndp('bounded: packets per neighbour, bytes over all, entries', () => {
  const peer = rawPeer6({
    host: { neighbours: { pendingPacketsPerEntry: 4, pendingBytes: 1000, entries: 8 } },
  });
  const results: string[] = [];
  for (let i = 0; i < 5; i++) results.push(emptyDatagram(peer));
  assert.equal(results, ['sent', 'sent', 'sent', 'sent', 'full']);
  const big = peer.stack.udp.open();
  assert.is(big.send(new Uint8Array(600), address('fd00::9'), 9), 'sent');
  assert.is(big.send(new Uint8Array(600), address('fd00::9'), 9), 'full');
  for (let i = 0x20; i < 0xa0; i++) emptyDatagram(peer, `fd00::${i.toString(16)}`);
  assert.is(peer.stack.ip.neighbours.size, 8);
  peer.clock.advance(5_000);
  assert.is(peer.stack.ip.neighbours.pendingBytes, 0);
  introduce6(peer);
  for (let i = 0; i < 50; i++) peer.exchange(askFromPeer(`fd00::1:${i.toString(16)}`));
  assert.is(peer.stack.ip.neighbours.size, 8);
  assert.is(stateOf(peer), 'REACHABLE', 'strangers displace each other');
});

ndp('1505: announcements are unsolicited advertisements to all nodes with override, repeated', () => {
  const peer = rawPeer6();
  peer.stack.ip.announce(address(HOST6), 3, 1_000);
  peer.clock.advance(10_000);
  const expected = advertisement({
    source: HOST6,
    destination: ALL_NODES,
    target: HOST6,
    mac: HOST_MAC,
    flags: 0x20,
    to: ALL_NODES_MAC,
    from: HOST_MAC,
  });
  assert.equal(peer.take(), [expected, expected, expected]);
});

ndp('2202: an altered address is answered for and announced; the left one is accepted and silent', () => {
  const peer = rawPeer6();
  introduce6(peer);
  const second = 'fd00::12';
  const group = solicitedNodeAddress(address(second));
  const ask = (target: string, to: string) =>
    peer.exchange(
      solicitation({
        source: PEER6,
        destination: `ff02::1:ff00:${target.slice(-2)}`,
        target,
        mac: PEER_MAC,
        to,
      }),
    ).length;
  assert.is(group, address('ff02::1:ff00:12'));
  assert.is(ask(second, '3333ff000012'), 0);
  peer.stack.ip.prepareAlter(address(HOST6), address(second));
  assert.is(ask(second, '3333ff000012'), 1, 'prepared');
  peer.stack.ip.alter(address(HOST6), address(second));
  assert.is(ask(second, '3333ff000012'), 1, 'own');
  assert.equal(peer.exchange(askFromPeer()), [], 'left');
  assert.throws(
    () => peer.stack.ip.announce(address(HOST6)),
    (error: unknown) => error instanceof InterfaceError,
  );
  assert.is(peer.stack.ip.sourceFor(address(PEER6)), address(second));
  const [reply] = peer.exchange(
    packet6(
      ipv6({
        source: PEER6,
        destination: HOST6,
        protocol: 58,
        payload: icmp6({ source: PEER6, destination: HOST6 }, 128, 0, 1, Buffer.alloc(4)),
      }),
    ),
  );
  assert.equal(reply?.subarray(32, 48), ip6(second), 'it answers by its new name');
  peer.stack.ip.removeAddress(address(HOST6));
  peer.stack.ip.alter(address(second), address(HOST6));
  assert.is(peer.exchange(askFromPeer()).length, 1, 'and back');
});

ndp('2403: with a change notice set, nothing tells the link that the first address is here', () => {
  const peer = rawPeer6();
  introduce6(peer);
  const second = address('fd00::12');
  peer.stack.ip.alter(address(HOST6), second);
  const notice = new ChangeNotice({ first: address(HOST6), second });
  peer.stack.ip.send.setNotice(notice);
  peer.stack.ip.announce();
  emptyDatagram(peer);
  emptyDatagram(peer, 'fd00::77');
  peer.clock.advance(1);
  const sources = peer.take().map((bytes) => [bytes[30] === 17, bytes.subarray(32, 48).toString('hex')]);
  assert.equal(sources, [
    [false, second],
    [true, address(HOST6)],
    [false, second],
  ]);
});

ndp('a link below 1280 bytes cannot carry it', () => {
  assert.throws(
    () => rawPeer6({ mtu: 1279 }),
    (error: unknown) => error instanceof InterfaceError && error.code === 'MTU_TOO_SMALL',
  );
});

ndp.run();
