/**
 * M7: what the change hook costs. The packet send program without a notice against the link called directly, and with a
 * notice set against without, for full-size and for 64 KiB packets; the stack's output path around it for scale. The link
 * copies each packet, as a real one must. Prints nanoseconds per packet, best of several interleaved rounds.
 * Run: `$(tools/find-node) bench/change-hook.ts`
 */
import { systemClock, systemRandom } from '../src/common/index.ts';
import type { LinkDevice } from '../src/netstack/index.ts';
import {
  ChangeNotice,
  cidr,
  emitTcp,
  HEADROOM,
  Interface,
  ipv4Address,
  macAddress,
  PacketSendProgram,
  PROTOCOL,
  TCP,
} from '../src/netstack/index.ts';

const ROUNDS = 12;
const PACKETS = 60_000;
const sink = new Uint8Array(66_000);
const link: LinkDevice = {
  name: 'null',
  mtu: 1500,
  offload: { checksum: true, tcp4Segmentation: true, tcp6Segmentation: true, maxPacket: 65_549 },
  attach: () => {},
  transmit: (buffer, offset, length) => {
    sink.set(buffer.subarray(offset, offset + length));
    return true;
  },
  flush: () => {},
  close: () => {},
};

const first = ipv4Address('10.77.0.11');
const second = ipv4Address('10.77.0.12');
const peer = ipv4Address('10.77.0.1');

function interfaceWithNeighbour(): Interface {
  const ip = new Interface({
    clock: systemClock,
    random: systemRandom,
    link,
    mac: macAddress('02:00:00:00:00:0b'),
    addresses: [cidr('10.77.0.12/24')],
  });
  ip.arp.learn(peer, macAddress('02:00:00:00:00:01'), true);
  return ip;
}

function measure(body: () => void): number {
  const startedMs = performance.now();
  for (let i = 0; i < PACKETS; i++) body();
  return ((performance.now() - startedMs) * 1e6) / PACKETS;
}

for (const payload of [1_448, 64_000]) {
  const buffer = new Uint8Array(HEADROOM + 66_000);
  emitTcp(buffer, HEADROOM, 80, 4000, 1, 2, TCP.MIN_HEADER, 0x10, 65_535);
  const length = TCP.MIN_HEADER + payload;
  const gso = payload > 1_460 ? 1_460 : 0;
  const through = (ip: Interface) => () =>
    void ip.output(buffer, HEADROOM, length, PROTOCOL.TCP, second, peer, TCP.CHECKSUM, gso, true, 0);
  const plain = interfaceWithNeighbour();
  const noticed = interfaceWithNeighbour();
  noticed.send.setNotice(new ChangeNotice({ first, second }));
  through(plain)();
  const program = new PacketSendProgram(link);
  const start = HEADROOM - 44;
  const variants: [string, () => void][] = [
    ['link alone', () => void link.transmit(buffer, start, 44 + length)],
    ['send program, no notice', () => void program.send(buffer, start, 44 + length)],
    ['stack output, no notice', through(plain)],
    ['stack output, notice set', through(noticed)],
  ];
  const best = variants.map(() => Number.POSITIVE_INFINITY);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [i, [, body]] of variants.entries()) best[i] = Math.min(best[i]!, measure(body));
  }
  console.log(`TCP payload ${payload} bytes${gso > 0 ? ', one GSO packet' : ''}`);
  for (const [i, [name]] of variants.entries()) console.log(`  ${name.padEnd(26)} ${best[i]!.toFixed(1)} ns`);
}
