/**
 * The path of a packet through the mux makes no garbage: bytes of heap per packet, by kind, over two millions of them.
 *
 * Packets come in batches out of one buffer and are taken by devices that keep nothing. What is counted is how far the top of the
 * heap moves in 10 000 packets; where the collector has run in between the number is negative. The median passes over that, and over
 * what the compiler does beside.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { writeU16, writeU32 } from '../../../src/netstack/index.ts';
import { SOAK, within } from '../../support/index.ts';
import type { Bench } from './harness.ts';
import {
  CLIENT,
  echo,
  established,
  FLAG,
  fromClient,
  MAC,
  SECOND,
  SERVICE,
  TestDevice,
  tcp,
  toClient,
  udp,
} from './harness.ts';
import { bench6, CLIENT6, datagram6, established6, fromClient6, SERVICE6, toClient6 } from './harness6.ts';

const test = suite('hypervisor/mux/allocation');

/** Of each kind. */
const PACKETS = SOAK ? 10_000_000 : 150_000;
const WARM_UP = 100_000;
const CHUNK = 10_000;
const BATCH = 50;
/** What asking for it takes, spread over a chunk. */
const MOST_BYTES = 0.5;
const IP = 24;
const L4 = 44;

interface Kind {
  /** What there is before the first packet. */
  readonly before?: (b: Bench) => void;
  readonly from: 'up' | 'a' | 'b';
  readonly packet: Uint8Array;
  /** The packet as it is when it comes in: the mux writes into it. */
  readonly again: (packet: Uint8Array, i: number) => void;
}

const same = (original: Uint8Array) => {
  const kept = original.slice();
  return (packet: Uint8Array) => packet.set(kept);
};
const plain = (from: Kind['from'], packet: Uint8Array, before?: Kind['before']): Kind => ({
  from,
  packet,
  again: same(packet),
  ...(before === undefined ? {} : { before }),
});

const ACK = FLAG.ACK;
/** Old flows stay with a, which has altered to its second address. */
const noticed = (b: Bench) => {
  established(b, 4000);
  b.mux.portState('b', 'attached');
  b.mux.switch({ address: SERVICE, from: 'a', to: 'b', notice: { second: SECOND } });
};
const atPort = (packet: Uint8Array, i: number) => {
  writeU32(packet, IP + 12, 0x0b00_0000 + i);
  writeU16(packet, L4, i & 0xffff);
};

const KINDS: Readonly<Record<string, Kind>> = {
  'TCP to a service address, a known flow': plain('up', fromClient(4000, ACK), (b) => established(b, 4000)),
  'TCP from its partition': plain('a', toClient(4000, ACK), (b) => established(b, 4000)),
  'the same over IPv6, in': plain('up', fromClient6(4000, ACK), (b) => established6(b, 4000)),
  'the same over IPv6, out': plain('a', toClient6(4000, ACK), (b) => established6(b, 4000)),
  'a steered flow, in': plain('up', fromClient(4000, ACK), noticed),
  'a steered flow, out, under a change notice': plain(
    'a',
    tcp({ fromMac: MAC.a, toMac: MAC.client, from: SECOND, to: CLIENT, sport: 80, dport: 4000, flags: ACK }),
    noticed,
  ),
  'SYNs of new flows': { from: 'up', packet: fromClient(1, FLAG.SYN), again: atPort },
  'datagrams of new flows': {
    from: 'up',
    packet: udp({ from: CLIENT, to: SERVICE, sport: 1, dport: 53 }),
    again: atPort,
  },
  'first fragments': {
    from: 'up',
    packet: udp({ from: CLIENT, to: SERVICE, sport: 1, dport: 53, fragment: 0x2000 }),
    again: (packet, i) => {
      writeU32(packet, IP + 12, 0x0b00_0000 + i);
      writeU16(packet, IP + 4, i & 0xffff);
    },
  },
  'later fragments': {
    from: 'up',
    packet: udp({ from: CLIENT, to: SERVICE, sport: 1, dport: 53, fragment: 2 }),
    again: (packet, i) => writeU16(packet, IP + 4, i & 0xffff),
  },
  'echo requests': plain('up', echo({ from: CLIENT, to: SERVICE, id: 7 })),
  'datagrams over IPv6': plain('up', datagram6({ from: CLIENT6, to: SERVICE6, sport: 1, dport: 53 })),
  'a partition with a source that is not its own': plain(
    'a',
    tcp({
      fromMac: MAC.a,
      toMac: MAC.client,
      from: '10.77.0.99',
      to: CLIENT,
      sport: 1,
      dport: 2,
      flags: ACK,
    }),
  ),
  'by MAC address, between uplinks': plain(
    'up',
    tcp({ toMac: MAC.other, from: CLIENT, to: '10.77.0.60', sport: 1, dport: 2, flags: ACK }),
    (b) => {
      const down = new TestDevice('down');
      b.mux.addPort({ name: 'down', kind: 'tap', role: 'uplink', device: down, joins: 'up' });
      down.transmit = () => true;
      const back = tcp({
        fromMac: MAC.other,
        toMac: MAC.client,
        from: '10.77.0.60',
        to: CLIENT,
        sport: 2,
        dport: 1,
        flags: ACK,
      });
      down.deliver(back);
    },
  ),
};

/** Bytes of heap per packet; `take` is what devices do with one. */
function garbage({ before, from, packet, again }: Kind, take: TestDevice['transmit'] = () => true): number {
  const b = bench6();
  before?.(b);
  for (const device of [b.up, b.a, b.b, b.probe]) device.transmit = take;
  const receiver = b[from].receiver!;
  let i = 0;
  const packets = (count: number) => {
    for (const end = i + count; i < end; i++) {
      again(packet, i);
      receiver.receive(packet, 0, packet.length);
      if (i % BATCH === BATCH - 1) receiver.endOfBatch();
    }
  };
  packets(WARM_UP);
  const moved: number[] = [];
  for (let chunk = 0; chunk < PACKETS / CHUNK; chunk++) {
    const heapBefore = process.memoryUsage().heapUsed;
    packets(CHUNK);
    moved.push((process.memoryUsage().heapUsed - heapBefore) / CHUNK);
  }
  const received = b.mux.ports().find((port) => port.name === from)!.received;
  assert.ok(received >= PACKETS + WARM_UP, `${received} received`);
  b.mux.close();
  return moved.sort((one, other) => one - other)[moved.length >> 1]!;
}

for (const [name, kind] of Object.entries(KINDS)) {
  test(
    `no garbage: ${name}`,
    within(
      () => {
        const bytes = garbage(kind);
        console.log(`${name}: ${bytes.toFixed(2)} bytes each`);
        assert.ok(bytes <= MOST_BYTES, `${bytes} bytes each`);
      },
      SOAK ? 300_000 : 30_000,
    ),
  );
}

test(
  'an object for each packet would be seen',
  within(
    () => {
      const kept: { length: number }[] = [{ length: 0 }];
      const bytes = garbage(KINDS['TCP from its partition']!, (_buffer, _offset, length) => {
        kept[0] = { length };
        return true;
      });
      assert.ok(bytes > MOST_BYTES && bytes < 100, `${bytes} bytes each`);
    },
    SOAK ? 300_000 : 30_000,
  ),
);

test.run();
