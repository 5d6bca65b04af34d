/** Duplicate address detection (RFC 4862 section 5.4), and asking whether an address is free. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { cidr, ipAddress } from '../../../src/netstack/index.ts';
import { within } from '../../support/index.ts';
import { advertisement, ip6, type NdpFields, solicitation } from '../packets6.ts';
import { HOST_MAC, PEER_MAC } from './raw-peer.ts';
import {
  ALL_NODES,
  ALL_NODES_MAC,
  askFromPeer,
  HOST_GROUP,
  HOST_GROUP_MAC,
  HOST_LINK_LOCAL,
  HOST6,
  PEER6,
  rawPeer6,
} from './raw-peer6.ts';

const detection = suite('netstack/iface/duplicate-detection');
const address = ipAddress;

/** The peer says to everybody that it has an address. */
function claims(target: string): Buffer {
  const fields: NdpFields = { source: target, destination: ALL_NODES, target, mac: PEER_MAC, flags: 0x20 };
  return advertisement({ ...fields, to: ALL_NODES_MAC });
}

detection('RFC 4862 section 5.4: a second without an answer, then the address is ours and announced', () => {
  const peer = rawPeer6({ host: { detectDuplicates: true } });
  const { ip } = peer.stack;
  ip.announce();
  peer.clock.advance(1);
  const probes = peer.take();
  assert.equal(
    probes.map((bytes) => [bytes.length, bytes.subarray(32, 48), bytes.subarray(72, 88)]),
    [
      [10 + 14 + 40 + 24, ip6('::'), ip6(HOST_LINK_LOCAL)],
      [10 + 14 + 40 + 24, ip6('::'), ip6(HOST6)],
    ],
  );
  assert.is(ip.addresses.stateOf(address(HOST6)), 'tentative');
  assert.equal(peer.exchange(askFromPeer()), [], 'not answered for');
  assert.is(peer.stack.udp.open().send(new Uint8Array(3), address(PEER6), 9), 'no-route');
  assert.throws(() => peer.stack.udp.open({ address: address(HOST6) }));
  peer.clock.advance(1_100);
  assert.equal(peer.take(), [
    advertisement({
      source: HOST6,
      destination: ALL_NODES,
      target: HOST6,
      mac: HOST_MAC,
      flags: 0x20,
      to: ALL_NODES_MAC,
      from: HOST_MAC,
    }),
  ]);
  assert.is(ip.addresses.stateOf(address(HOST6)), 'own');
  assert.is(peer.exchange(askFromPeer()).length, 1);
});

detection(
  'RFC 4862: somebody has it, or asks for it at the same time: it stays unused, and the holder is named',
  () => {
    const others = [
      claims(HOST6),
      solicitation({ source: '::', destination: HOST_GROUP, target: HOST6, to: HOST_GROUP_MAC }),
    ];
    for (const other of others) {
      const holders: number[] = [];
      const peer = rawPeer6({
        host: { detectDuplicates: true, onDuplicate: (_address, holder) => holders.push(holder) },
      });
      peer.exchange(other);
      peer.clock.advance(5_000);
      assert.equal(holders, [0x020000000002]);
      assert.is(peer.stack.ip.addresses.stateOf(address(HOST6)), 'duplicate');
      assert.equal(peer.stack.ip.addresses.own, []);
      assert.equal(peer.exchange(askFromPeer()), []);
      peer.stack.ip.addAddress(cidr(`${HOST6}/64`));
      assert.is(peer.stack.ip.addresses.stateOf(address(HOST6)), 'tentative', 'added again, asked again');
      peer.exchange(other);
      assert.is(holders.length, 2);
      peer.stack.ip.removeAddress(address(HOST6));
      peer.stack.ip.addAddress(cidr(`${HOST6}/64`), false);
      assert.is(peer.exchange(askFromPeer()).length, 1, 'a hand-over does not ask');
    }
  },
);

detection('RFC 4862 section 5.4.3: who asks for an address of ours is told by all nodes', () => {
  const peer = rawPeer6();
  const [reply] = peer.exchange(
    solicitation({ source: '::', destination: HOST_GROUP, target: HOST6, to: HOST_GROUP_MAC }),
  );
  assert.equal(
    reply,
    advertisement({
      source: HOST6,
      destination: ALL_NODES,
      target: HOST6,
      mac: HOST_MAC,
      flags: 0x20,
      to: ALL_NODES_MAC,
      from: HOST_MAC,
    }),
  );
});

detection(
  'probe: free, held, and two callers',
  within(async () => {
    const peer = rawPeer6();
    const first = peer.stack.ip.probe(address('fd00::5'), 2, 500);
    const second = peer.stack.ip.probe(address('fd00::5'), 2, 500);
    peer.clock.advance(400);
    assert.is(peer.take().length, 1);
    peer.exchange(claims('fd00::5'));
    assert.equal(await Promise.all([first, second]), [0x020000000002, 0x020000000002]);
    const free = peer.stack.ip.probe(address('fd00::6'), 2, 500);
    peer.clock.advance(1_001);
    assert.is(await free, undefined);
  }),
);

detection.run();
