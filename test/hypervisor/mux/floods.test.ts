/** V1: what the mux remembers is bounded, whatever arrives: a million flows and fragments of forged addresses, both families. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { collectGarbage, SeededRandom } from '../../../src/common/index.ts';
import { writeU16, writeU32 } from '../../../src/netstack/index.ts';
import { limitMs, SOAK, within } from '../../support/index.ts';
import {
  type Bench,
  CLIENT,
  established,
  FLAG,
  flowName,
  fromClient,
  SERVICE,
  type TestDevice,
  udp,
} from './harness.ts';
import { bench6, CLIENT6, datagram6, SERVICE6, segment6 } from './harness6.ts';

const test = suite('hypervisor/mux/floods');

const FLOWS = SOAK ? 10_000_000 : 1_000_000;
const SEED = Number(process.env['SEED'] ?? 1);
const BATCH = 1_000;
/** Of everything together: flow table, IPv6 addresses, fragments, MACs. */
const MEMORY_BYTES = 32 * 1024 * 1024;
const TABLE = 65_536;
const IP = 24;
const L4 = 44;
const L4_IPV6 = 64;

/** Puts the packet in again and again, changed by `forge`; what comes out is thrown away. */
function flood(b: Bench, packet: Uint8Array, forge: (packet: Uint8Array) => void): number {
  const { receiver } = b.up;
  const fromMs = performance.now();
  for (let i = 0; i < FLOWS; i++) {
    forge(packet);
    receiver!.receive(packet, 0, packet.length);
    if (i % BATCH !== BATCH - 1) continue;
    receiver!.endOfBatch();
    for (const device of [b.up, b.a, b.b]) device.sent.length = 0;
    // 30 000 a second.
    b.clock.advance(BATCH / 30);
  }
  return ((performance.now() - fromMs) * 1000) / FLOWS;
}

function quiet(...devices: TestDevice[]): void {
  for (const device of devices) {
    device.transmit = () => true;
  }
}

/** Without garbage: earlier tests have left theirs. */
function usedBytes(): number {
  collectGarbage('all');
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

const random = new SeededRandom(SEED);
const KINDS: Readonly<Record<string, { packet: () => Uint8Array; forge: (packet: Uint8Array) => void }>> = {
  'SYNs over IPv4': {
    packet: () => fromClient(1, FLAG.SYN),
    forge: (packet) => {
      writeU32(packet, IP + 12, 0x0b00_0000 | (random.u32() & 0xff_ffff));
      writeU16(packet, L4, random.u32() & 0xffff);
    },
  },
  'datagrams over IPv4': {
    packet: () => udp({ from: CLIENT, to: SERVICE, sport: 1, dport: 2 }),
    forge: (packet) => {
      writeU32(packet, IP + 12, 0x0b00_0000 | (random.u32() & 0xff_ffff));
      writeU16(packet, L4, random.u32() & 0xffff);
    },
  },
  'first and later fragments over IPv4': {
    packet: () => udp({ from: CLIENT, to: SERVICE, sport: 1, dport: 2, fragment: 0x2000 }),
    forge: (packet) => {
      writeU32(packet, IP + 12, 0x0b00_0000 | (random.u32() & 0xff_ffff));
      writeU16(packet, IP + 4, random.u32() & 0xffff);
      writeU16(packet, IP + 6, random.below(2) === 0 ? 0x2000 : 1 + random.below(1_000));
    },
  },
  'SYNs over IPv6': {
    packet: () => segment6({ from: CLIENT6, to: SERVICE6, sport: 1, dport: 80 }, FLAG.SYN),
    forge: (packet) => {
      for (let at = IP + 12; at < IP + 24; at += 4) writeU32(packet, at, random.u32());
      writeU16(packet, L4_IPV6, random.u32() & 0xffff);
    },
  },
  'datagrams over IPv6': {
    packet: () => datagram6({ from: CLIENT6, to: SERVICE6, sport: 1, dport: 2 }),
    forge: (packet) => {
      for (let at = IP + 12; at < IP + 24; at += 4) writeU32(packet, at, random.u32());
      writeU16(packet, L4_IPV6, random.u32() & 0xffff);
    },
  },
};

for (const [name, { packet, forge }] of Object.entries(KINDS)) {
  test(
    `${FLOWS} ${name} from forged addresses: memory is bounded, the established connection stays known`,
    within(() => {
      const b = bench6();
      established(b, 4000);
      quiet(b.up, b.a, b.b, b.probe);
      const before = usedBytes();
      const micros = flood(b, packet(), forge);
      const grown = usedBytes() - before;
      const { flows } = b.mux.counters({});
      console.log(
        `seed ${SEED}, ${FLOWS} ${name}: ${micros.toFixed(2)} µs each, ${(grown / 1024 / 1024).toFixed(1)} MiB more, ${flows} flows kept`,
      );
      assert.ok(flows <= TABLE, `${flows} flows`);
      assert.ok(grown <= MEMORY_BYTES, `${grown} bytes more`);
      const known = b.mux.flows({ address: SERVICE }).map(({ flow }) => flow.remotePort);
      assert.ok(known.includes(flowName(4000).remotePort), 'the established connection');
    }, limitMs(60_000)),
  );
}

test.run();
