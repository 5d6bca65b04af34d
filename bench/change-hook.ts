/**
 * M7: what the change hook costs, in this process. Idle: the packet send program, as the stack's output calls it for a segment, against
 * the same without the hook. With a notice set: the stack's whole output of a segment against the same without a notice. For
 * full-size and for 64 KiB packets; both as a share of the stack's output path. The link copies each packet, as a real one must.
 *
 * Differences of a few nanoseconds are looked for, on a machine that does other things, too. So the two sides of each comparison
 * take turns in slices of a tenth of a millisecond, each of them going first as often as second, and what counts is the
 * median of the differences of neighbours: whatever is slow for longer than a slice is slow for both, and what is not
 * (garbage, a tick, another process) spoils a few pairs of thousands.
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

const SLICE_NS = 100_000;
/** Pairs of slices that count, and those before, until everything is compiled. */
const PAIRS = 4_000;
const WARM_UP_PAIRS = 1_000;
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

/** Where the stack writes the source into the packet. */
let leavesFrom: number = second;

/** The packet send program without 2402 and 2403. */
class HooklessSendProgram {
  #sent = 0;
  #refused = 0;

  get counters() {
    return { sent: this.#sent, refused: this.#refused };
  }

  transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    if (link.transmit(buffer, offset, length)) {
      this.#sent++;
      return true;
    }
    this.#refused++;
    return false;
  }
}

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

/** Nanoseconds per packet of the one, and what the other takes more. */
function compare(one: () => void, other: () => void): { readonly base: number; readonly more: number } {
  let packets = 100;
  const base: number[] = [];
  const more: number[] = [];
  for (let pair = -WARM_UP_PAIRS; pair < PAIRS; pair++) {
    const otherFirst = (pair & 1) === 0;
    const before = otherFirst ? measure(other, packets) : 0;
    const time = measure(one, packets);
    const difference = (otherFirst ? before : measure(other, packets)) - time;
    if (pair < 0) packets = Math.max(1, Math.round(SLICE_NS / time));
    else {
      base.push(time);
      more.push(difference);
    }
  }
  return { base: median(base), more: median(more) };
}

export const changeHookSubject: Subject = {
  ids: ['M7'],
  async run(bench) {
    if (bench.wants('M7')) for (const payload of [1_448, 64_000]) await cost(bench, payload);
  },
};

async function cost(bench: Bench, payload: number): Promise<void> {
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
  const [hooked, bare] = [new PacketSendProgram(link), new HooklessSendProgram()];
  const start = HEADROOM - 44;
  const hook = compare(
    () => {
      leavesFrom = second;
      bare.transmit(buffer, start, 44 + length);
    },
    () => {
      leavesFrom = hooked.sourceOf(second);
      hooked.transmit(buffer, start, 44 + length);
    },
  );
  const notice = compare(through(plain), through(noticed));
  const { rewritten } = noticed.send.notice!.counters;
  if (leavesFrom !== second || rewritten === 0 || bare.counters.sent !== hooked.counters.sent) {
    throw new Error('the two sides did not do what they are to be compared for');
  }
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
      sample: async () => [(100 * hook.more) / notice.base, (100 * notice.more) / notice.base],
    },
  });
}
