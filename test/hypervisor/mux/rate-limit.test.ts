import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { PortLimits } from '../../../src/hypervisor/mux/index.ts';
import { MuxServer } from '../../../src/hypervisor/mux/index.ts';
import { RateLimit, wirePackets } from '../../../src/hypervisor/mux/rate-limit.ts';
import { ipv4Address, macAddress } from '../../../src/netstack/index.ts';
import { within } from '../../support/index.ts';
import {
  bench,
  CLIENT,
  dropsOf,
  FLAG,
  fromClient,
  MAC,
  SERVICE,
  TestDevice,
  toClient,
  udp,
} from './harness.ts';

const test = suite('hypervisor/mux/rate-limit');

const SIZE = 1000;
const datagram = udp({ from: CLIENT, to: SERVICE, sport: 1, dport: 2, payload: 'x'.repeat(SIZE - 42) });

/** Delivers one 1000-byte datagram from the uplink each millisecond for `ms`; how many arrived at a. */
function offered(limits: { up?: PortLimits; a?: PortLimits }, ms: number, perMs = 1): number {
  const b = bench();
  b.mux.portLimits('up', limits.up);
  b.mux.portLimits('a', limits.a);
  for (let i = 0; i < ms; i++) {
    for (let j = 0; j < perMs; j++) b.up.deliver(datagram);
    b.clock.advance(1);
  }
  const arrived = b.a.take().length;
  const dropped = (dropsOf(b, 'up')['rate-limit'] ?? 0) + (dropsOf(b, 'a')['rate-limit'] ?? 0);
  assert.is(arrived + dropped, ms * perMs, 'nothing is lost without being counted');
  return arrived;
}

const close = (value: number, wanted: number) =>
  assert.ok(Math.abs(value - wanted) <= wanted * 0.02, `${value}, wanted ${wanted}`);

test(
  'an uplink’s packets: so many bytes or packets a second and a burst pass, the rest is dropped and counted',
  within(() => {
    // 100 000 bytes/s: 10 s let 1000 datagrams pass, and the burst 131 of them at once.
    close(offered({ up: { send: { bytesPerSecond: 100_000 } } }, 10_000), 1_131);
    close(offered({ up: { send: { bytesPerSecond: 100_000, burstBytes: 10_000 } } }, 10_000), 1_010);
    close(offered({ up: { send: { packetsPerSecond: 200, burstPackets: 20 } } }, 10_000, 3), 2_020);
    const both = { packetsPerSecond: 200, burstPackets: 20, bytesPerSecond: 100_000, burstBytes: 20_000 };
    close(offered({ up: { send: both } }, 10_000), 1_020);
  }),
);

test(
  'what a port may be sent: the same, dropped at the receiver',
  within(() => {
    close(offered({ a: { receive: { bytesPerSecond: 100_000, burstBytes: 10_000 } } }, 10_000), 1_010);
    const b = bench();
    b.mux.portLimits('a', { receive: { packetsPerSecond: 1, burstPackets: 2 } });
    for (let i = 0; i < 5; i++) b.up.deliver(datagram);
    assert.is(b.a.take().length, 2);
    assert.is(dropsOf(b, 'a')['rate-limit'], 3);
    b.mux.portLimits('a', undefined);
    b.up.deliver(datagram);
    assert.is(b.a.take().length, 1, 'without limits again');
  }),
);

test(
  'one port’s limit costs another one nothing',
  within(() => {
    const b = bench();
    b.mux.portLimits('up', { send: { packetsPerSecond: 1, burstPackets: 1 } });
    for (let i = 0; i < 100; i++) {
      b.up.deliver(datagram);
      b.a.deliver(toClient(4000, FLAG.ACK));
    }
    assert.equal([b.a.take().length, b.up.take().length], [1, 100]);
  }),
);

test(
  'a partition is held back instead: its packets pass, and the debt says for how long it is to be left unread',
  within(() => {
    const b = bench();
    b.mux.portLimits('a', { send: { bytesPerSecond: 100_000, burstBytes: 10_000 } });
    const packet = toClient(4000, FLAG.ACK, 'a', { payload: 'y'.repeat(946) });
    assert.is(b.mux.debtMs('a'), 0);
    for (let i = 0; i < 30; i++) b.a.deliver(packet);
    assert.is(b.up.take().length, 30);
    assert.is(Math.round(b.mux.debtMs('a')), 200, '20 000 bytes of debt');
    b.clock.advance(150);
    b.a.receiver?.endOfBatch();
    assert.is(Math.round(b.mux.debtMs('a')), 50);
    b.clock.advance(50);
    b.a.receiver?.endOfBatch();
    assert.is(b.mux.debtMs('a'), 0);
    assert.is(b.mux.ports().find((p) => p.name === 'a')?.heldBack, 2);
  }),
);

test(
  'a partition that forges is held back: 10 000 forged packets at once and 20 000 a second; one that does not is left alone',
  within(() => {
    const b = bench();
    b.mux.portState('b', 'attached');
    const forged = toClient(4000, FLAG.ACK, 'a', { fromMac: '02:66:66:66:66:66' });
    for (let i = 0; i < 12_000; i++) b.a.deliver(forged);
    for (let i = 0; i < 12_000; i++) b.b.deliver(toClient(4000, FLAG.ACK, 'b'));
    assert.is(dropsOf(b, 'a')['spoofed-mac'], 12_000);
    assert.is(Math.round(b.mux.debtMs('a')), 100, '2 000 packets of debt');
    assert.equal(dropsOf(b, 'b'), { 'not-path-holder': 12_000 });
    assert.is(b.mux.debtMs('b'), 0, 'late packets after a switch are no forgery');
    b.clock.advance(100);
    b.a.receiver?.endOfBatch();
    assert.is(b.mux.debtMs('a'), 0);
    assert.is(b.mux.ports().find((p) => p.name === 'a')?.heldBack, 1);
  }),
);

test(
  'a packet that is to be cut costs what its segments are, whatever its header claims',
  within(() => {
    const unit = new Uint8Array(10 + 54 + 14_600);
    const view = new DataView(unit.buffer);
    assert.is(wirePackets(unit, 0, unit.length - 10), 1);
    unit[1] = 1;
    view.setUint16(2, 54, true);
    view.setUint16(4, 1460, true);
    assert.is(wirePackets(unit, 0, unit.length - 10), 10);
    view.setUint16(4, 0, true);
    assert.is(wirePackets(unit, 0, unit.length - 10), 1);
    view.setUint16(2, 65_535, true);
    view.setUint16(4, 1, true);
    assert.is(wirePackets(unit, 0, unit.length - 10), 1);
  }),
);

test(
  'the rate is exact over time, for packets larger than the burst, too',
  within(() => {
    const limit = new RateLimit({ bytesPerSecond: 1_000_000, burstBytes: 1_000 }, 0);
    let passed = 0;
    for (let ms = 1; ms <= 10_000; ms++) if (limit.admits(64_000, 45, ms)) passed += 64_000;
    close(passed, 10_000_000);
  }),
);

/** A partition that takes nothing out of its queue. */
class Queue extends TestDevice {
  queuedBytes = 0;
  readonly fill = 0;
  override transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    this.queuedBytes += length;
    return super.transmit(buffer, offset, length);
  }
}

/** It may have the service address. */
function slowPartition() {
  const b = bench();
  const slow = new Queue('slow');
  b.mux.addPort({
    name: 'slow',
    kind: 'stream',
    role: 'partition',
    device: slow,
    mac: macAddress('02:00:00:00:00:77'),
    addresses: [ipv4Address('10.77.0.77'), ipv4Address(SERVICE)],
    state: 'attached',
  });
  return { b, slow };
}

test(
  'a queue limit: what waits for a port never exceeds it, and a second sender finds his half',
  within(() => {
    const { b, slow } = slowPartition();
    b.mux.portLimits('slow', { queueBytes: 131_072 });
    const to = { to: '10.77.0.77', toMac: '02:00:00:00:00:77', sport: 1, dport: 2, payload: 'z'.repeat(900) };
    for (let i = 0; i < 1_000; i++) b.up.deliver(udp({ from: CLIENT, ...to }));
    assert.ok(slow.queuedBytes <= 131_072, `${slow.queuedBytes} bytes`);
    const before = slow.take().length;
    assert.ok(before >= 60, `${before} packets`);
    b.mux.portState('b', 'attached');
    for (let i = 0; i < 1_000; i++) b.b.deliver(udp({ fromMac: MAC.b, from: '10.77.0.13', ...to }));
    assert.ok(slow.queuedBytes <= 131_072, `${slow.queuedBytes} bytes`);
    assert.is(dropsOf(b, 'slow')['queue-full']! + before + slow.take().length, 2_000);
  }),
);

test(
  'a flood of new flows takes half of a queue; the other half is for flows that are known, silent ones too',
  within(() => {
    const { b, slow } = slowPartition();
    b.mux.portLimits('slow', { queueBytes: 131_072 });
    b.mux.pathSet({ address: SERVICE, port: 'slow' });
    b.up.deliver(fromClient(4000, FLAG.ACK));
    b.clock.advance(10_000);
    for (let port = 5_000; port < 9_000; port++) b.up.deliver(fromClient(port, FLAG.SYN));
    assert.ok(slow.queuedBytes <= 65_536 + 100, `${slow.queuedBytes} bytes`);
    const dropped = dropsOf(b, 'slow')['queue-full']!;
    assert.is(slow.take().length + dropped, 4_001);
    for (let i = 0; i < 10; i++) b.up.deliver(fromClient(4000, FLAG.ACK, { payload: 'x'.repeat(1_000) }));
    assert.is(slow.take().length, 10);
    assert.is(dropsOf(b, 'slow')['queue-full'], dropped);
  }),
);

test(
  'however many bytes known flows carry, a new one finds room in the queue that they fill',
  within(() => {
    const { b, slow } = slowPartition();
    b.mux.portLimits('slow', { queueBytes: 131_072 });
    b.mux.pathSet({ address: SERVICE, port: 'slow' });
    for (let i = 0; i < 120; i++) b.up.deliver(fromClient(4000, FLAG.ACK, { payload: 'x'.repeat(1_000) }));
    assert.ok(slow.queuedBytes > 65_000, `${slow.queuedBytes} bytes`);
    slow.take();
    b.up.deliver(fromClient(4001, FLAG.SYN));
    assert.is(slow.take().length, 1);
  }),
);

test(
  'limits that cannot be are refused and change nothing; a port with such limits is not made',
  within(() => {
    const b = bench();
    b.mux.portLimits('a', { send: { packetsPerSecond: 7 } });
    for (const limits of [
      { send: { bytesPerSecond: 0 } },
      { receive: { packetsPerSecond: -1 } },
      { receive: { burstBytes: Number.NaN } },
      { queueBytes: 200_000 },
    ] satisfies PortLimits[]) {
      assert.throws(() => b.mux.portLimits('a', limits), /limits of port a: /);
    }
    assert.equal(b.mux.ports().find((p) => p.name === 'a')?.limits, { send: { packetsPerSecond: 7 } });
    const server = new MuxServer({ openTap: ({ name }) => new TestDevice(name) });
    const tap = { name: 't', limits: { queueBytes: 1 } };
    assert.throws(() => server.addUplink(tap), /queueBytes is for ports of partitions/);
    assert.equal(server.mux.ports(), []);
    const limits = { send: { packetsPerSecond: 5 } };
    assert.equal(server.addUplink({ name: 't', limits }).limits, limits);
    assert.is(server.addUplink({ name: 't' }).limits, undefined, 'as asked for last');
    void server.close();
  }),
);

test(
  'packets and bytes are counted at both ports',
  within(() => {
    const b = bench();
    b.up.deliver(fromClient(4000, FLAG.SYN), datagram);
    const of = (name: string) => b.mux.ports().find((p) => p.name === name)!;
    assert.equal([of('up').received, of('up').receivedBytes], [2, 60 + SIZE]);
    assert.equal([of('a').transmitted, of('a').transmittedBytes], [2, 60 + SIZE]);
  }),
);

test.run();
