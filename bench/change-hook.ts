/**
 * M7: what the change hook costs, in this process. The packet send program without a notice against the link called directly, and
 * with a notice set against without, for full-size and for 64 KiB packets; both as a share of the stack's output path around it.
 * The link copies each packet, as a real one must.
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

import type { Bench, Subject } from './framework/index.ts';
import { median } from './framework/index.ts';

/** More, and shorter, rounds than elsewhere: differences of a few nanoseconds are looked for. */
const ROUNDS = 15;
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

/** Nanoseconds per packet. */
function measure(body: () => void, packets: number): number {
  const startedMs = performance.now();
  for (let i = 0; i < packets; i++) body();
  return ((performance.now() - startedMs) * 1e6) / packets;
}

export const changeHookSubject: Subject = {
  ids: ['M7'],
  async run(bench) {
    if (bench.wants('M7')) for (const payload of [1_448, 64_000]) await hook(bench, payload);
  },
};

async function hook(bench: Bench, payload: number): Promise<void> {
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
  const variants: readonly (() => void)[] = [
    () => void link.transmit(buffer, start, 44 + length),
    () => void program.send(buffer, start, 44 + length),
    through(plain),
    through(noticed),
  ];
  const times = variants.map((): number[] => []);
  for (let round = -2; round < ROUNDS; round++) {
    for (const [i, body] of variants.entries()) {
      const time = measure(body, gso > 0 ? 3_000 : 20_000);
      if (round >= 0) times[i]!.push(time);
    }
  }
  const [bare, idle, stack, set] = times.map(median) as [number, number, number, number];
  const size = gso > 0 ? '64 KiB packets' : 'full-size packets';
  await bench.race({
    id: 'M7',
    rounds: 1,
    figures: [
      { what: `idle hook, ${size}, of the stack's output`, unit: 'percent', better: 'less', limit: 1 },
      { what: `notice set, ${size}, of the stack's output`, unit: 'percent', better: 'less', limit: 5 },
    ],
    ours: {
      name: 'packet send program',
      sample: async () => [(100 * (idle - bare)) / stack, (100 * (set - stack)) / stack],
    },
  });
}
