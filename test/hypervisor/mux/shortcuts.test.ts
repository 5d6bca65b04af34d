import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { SeededRandom, VirtualClock } from '../../../src/common/index.ts';
import { Mux } from '../../../src/hypervisor/mux/index.ts';
import type { LinkDevice, ShortcutCounters, ShortcutDevice } from '../../../src/netstack/index.ts';
import { ipv4Address, macAddress } from '../../../src/netstack/index.ts';
import {
  carriedOn,
  joinedUdp,
  pseudoHeaderSum,
  type ReferenceTerms,
  seeded,
  segmentedUdp,
  shortcutKey,
  within,
} from '../../support/index.ts';
import { arp, CLIENT, echo, FLAG, frame, MAC, SERVICE, TestDevice, tcp, udp } from './harness.ts';

const test = suite('hypervisor/mux/shortcuts');
const VNET = 10;

/** Shortcuts as a device has them, between devices of this kind; UDP datagrams of one flow leave in trains. */
class ShortDevice extends TestDevice implements ShortcutDevice {
  readonly shortcuts = new Map<string, ShortDevice>();
  /** Packets that left as one with others. */
  inTrains = 0;
  readonly shortcutCounters = { received: 0, receivedBytes: 0, transmitted: 0, transmittedBytes: 0 };
  readonly #terms: ReferenceTerms;

  constructor(name: string, offload = true) {
    super(name, offload);
    this.#terms = { longest: 1518, checksum: offload, tso4: offload, tso6: offload };
  }

  addShortcut(to: LinkDevice, buffer: Uint8Array, offset: number, length: number): boolean {
    const key = shortcutKey(buffer.subarray(offset, offset + length));
    if (key === undefined || !(to instanceof ShortDevice)) return false;
    this.shortcuts.set(key, to);
    return true;
  }

  forgetShortcuts(): void {
    this.shortcuts.clear();
  }

  override deliver(...packets: Uint8Array[]): void {
    const rest = [...packets];
    let train: Uint8Array[] = [];
    let trainTo: ShortDevice | undefined;
    const leave = () => {
      if (train.length === 0) return;
      trainTo!.sent.push(train.length === 1 ? train[0]! : joinedUdp(train)!);
      if (train.length > 1) this.inTrains += train.length;
      train = [];
    };
    for (;;) {
      const key = rest[0] === undefined ? undefined : shortcutKey(rest[0]);
      const to = key === undefined ? undefined : this.shortcuts.get(key);
      if (to === undefined || to.room <= 0 || !carriedOn(to.#terms, rest[0]!)) break;
      const packet = rest.shift()!;
      to.room--;
      if (trainTo !== to || joinedUdp([...train, packet]) === undefined) leave();
      trainTo = to;
      train.push(packet);
      add(this.shortcutCounters, 'received', packet.length - VNET);
      add(to.shortcutCounters, 'transmitted', packet.length - VNET);
    }
    leave();
    if (rest.length > 0) super.deliver(...rest);
  }
}

function add(
  counters: { -readonly [K in keyof ShortcutCounters]: number },
  way: 'received' | 'transmitted',
  bytes: number,
) {
  counters[way]++;
  counters[`${way}Bytes`] += bytes;
}

/** Two joined uplinks and two partitions. */
class World {
  readonly clock = new VirtualClock();
  readonly mux: Mux;
  readonly devices = new Map<string, TestDevice>();
  readonly #make: (name: string, offload: boolean) => TestDevice;

  constructor(make: (name: string, offload: boolean) => TestDevice) {
    this.#make = make;
    this.mux = new Mux({ clock: this.clock, random: new SeededRandom(1) });
    this.addUplink('up');
    this.addUplink('down', 'up');
    for (const [name, addresses] of [
      ['a', [SERVICE, '10.77.0.12']],
      ['b', [SERVICE, '10.77.0.13']],
    ] as const) {
      this.mux.addPort({
        name,
        kind: 'stream',
        role: 'partition',
        device: this.#device(name, true),
        mac: macAddress(MAC[name]),
        addresses: addresses.map(ipv4Address),
      });
      this.mux.portState(name, 'attached');
    }
  }

  addUplink(name: string, joins?: string, offload = true): void {
    const device = this.#device(name, offload);
    this.mux.addPort({
      name,
      kind: 'tap',
      role: 'uplink',
      device,
      ...(joins === undefined ? {} : { joins }),
    });
  }

  #device(name: string, offload: boolean): TestDevice {
    const device = this.#make(name, offload);
    this.devices.set(name, device);
    return device;
  }

  /** Every packet that left since the last call, by device. */
  left(): string {
    return [...this.devices]
      .map(
        ([name, device]) =>
          `${name}: ${device
            .take()
            .flatMap(segmentedUdp)
            .map((p) => Buffer.from(p).toString('hex'))
            .join(' ')}`,
      )
      .join('\n');
  }

  passed(): number {
    return this.#sum((device) => device.shortcutCounters.received);
  }

  inTrains(): number {
    return this.#sum((device) => device.inTrains);
  }

  #sum(of: (device: ShortDevice) => number): number {
    let sum = 0;
    for (const device of this.devices.values()) if (device instanceof ShortDevice) sum += of(device);
    return sum;
  }
}

const HOSTS = [
  { mac: MAC.client, ip: CLIENT },
  { mac: MAC.other, ip: '10.77.0.60' },
  { mac: '02:00:00:00:01:03', ip: '10.77.0.61' },
];
const PLACES = ['up', 'down'];

function randomPacket(random: SeededRandom): Uint8Array {
  const pick = <T>(list: readonly T[]): T => list[random.below(list.length)]!;
  const from = pick(HOSTS);
  const to = pick([...HOSTS, { mac: MAC.a, ip: SERVICE }, { mac: MAC.b, ip: '10.77.0.13' }]);
  const ends = {
    fromMac: from.mac,
    toMac: random.below(12) === 0 ? 'ff:ff:ff:ff:ff:ff' : to.mac,
    from: from.ip,
    to: random.below(6) === 0 ? pick([SERVICE, CLIENT, '10.77.0.60']) : to.ip,
  };
  const ports = { sport: 1000 + random.below(3), dport: 80 };
  let packet: Uint8Array;
  switch (random.below(8)) {
    case 0:
      packet = arp({ fromMac: from.mac, sender: from.ip, target: to.ip });
      break;
    case 1:
      packet = echo({ ...ends, id: random.below(3) });
      break;
    case 2:
      packet = udp({ ...ends, ...ports, fragment: pick([0, 0x2000, 2]) });
      break;
    case 3:
      packet = frame(from.mac, to.mac, pick([0x86dd, 0x8100, 0x88b5]));
      break;
    default:
      packet = tcp({
        ...ends,
        ...ports,
        flags: pick([FLAG.SYN, FLAG.ACK, FLAG.ACK, FLAG.FIN | FLAG.ACK, FLAG.RST]),
      });
  }
  if (random.below(10) === 0)
    packet.set(
      pick([
        [1, 0, 0, 0, 0, 0, 34, 0, 16, 0],
        [1, 1, 54, 0, 100, 0, 34, 0, 16, 0],
        [9, 0],
        [0, 7],
      ]),
    );
  if (random.below(20) === 0) packet[VNET + 14 + random.below(8)]! ^= 1 << random.below(8);
  return packet;
}

/** Datagrams of one flow as a kernel hands them over, their checksums left to the receiver. */
function randomTrain(random: SeededRandom): Uint8Array[] {
  const [from, to] = random.below(2) === 0 ? [HOSTS[0]!, HOSTS[1]!] : [HOSTS[1]!, HOSTS[0]!];
  const ends = { fromMac: from.mac, toMac: to.mac, from: from.ip, to: to.ip, sport: 1000, dport: 53 };
  const length = 18 + random.below(20);
  return Array.from({ length: 2 + random.below(6) }, (_, i) => {
    const payload = String(i).repeat(random.below(6) === 0 ? 18 + random.below(length - 17) : length);
    const id = 500 + (random.below(12) === 0 ? 0 : i);
    const packet = udp({ ...ends, id, payload, fragment: random.below(20) === 0 ? 0x2000 : 0 });
    if (random.below(12) === 0) return packet;
    packet.set([1, 0, 0, 0, 0, 0, 34, 0, 6, 0]);
    const sum = pseudoHeaderSum(packet, true, 8 + payload.length);
    packet.set([sum >> 8, sum & 0xff], VNET + 40);
    return packet;
  });
}

type Step = (world: World) => unknown;

function randomStep(random: SeededRandom): Step {
  const kind = random.below(40);
  if (kind < 34) {
    const place = PLACES[random.below(20) === 0 ? 1 : 0]!;
    const single = () => Array.from({ length: 1 + random.below(6) }, () => randomPacket(random));
    const batch = random.below(3) === 0 ? randomTrain(random) : single();
    // A host is where its MAC says, nearly always.
    return (w) => {
      let waiting: Uint8Array[] = [];
      let at: string | undefined;
      const deliver = () => {
        if (at !== undefined) w.devices.get(at)!.deliver(...waiting);
        waiting = [];
      };
      for (const packet of batch) {
        const home = packet[VNET + 11] === 1 ? place : place === 'up' ? 'down' : 'up';
        if (home !== at) deliver();
        at = home;
        waiting.push(packet.slice());
      }
      deliver();
    };
  }
  const address = [SERVICE, SERVICE, SERVICE, SERVICE, CLIENT, '10.77.0.60'][random.below(6)]!;
  const port = ['a', 'b', 'up', 'down'][random.below(4)]!;
  const partition = ['a', 'b'][random.below(2)]!;
  const on = random.below(2) === 0;
  const number = random.below(2500);
  const steps: Step[] = [
    (w) => w.clock.advance(number),
    (w) => w.mux.portState(port, on ? 'attached' : 'isolated'),
    (w) => w.mux.setConnected(port, on),
    // All is well again.
    ...[0, 1, 2, 3].map(() => (w: World) => {
      for (const name of ['up', 'down', 'a', 'b']) {
        w.mux.portState(name, 'attached');
        w.mux.setConnected(name, true);
        w.mux.portLimits(name, undefined);
        w.devices.get(name)!.room = Number.POSITIVE_INFINITY;
        w.devices.get(name)!.receiver?.writable();
      }
      w.mux.observer = undefined;
    }),
    (w) => w.mux.pathSet({ address, port: partition }),
    (w) => w.mux.holdStart({ address, scope: on ? 'all' : 'new-flows', limits: { timeoutMs: 400 } }),
    (w) => w.mux.holdRelease({ address }),
    (w) => w.mux.switch({ address, from: partition, to: partition === 'a' ? 'b' : 'a' }),
    (w) => w.mux.portLimits(port, on ? { send: { packetsPerSecond: 2, burstPackets: 1 } } : undefined),
    (w) => w.mux.portLimits(port, on ? { receive: { packetsPerSecond: 2, burstPackets: 1 } } : undefined),
    (w) => w.mux.portLimits(port, undefined),
    (w) => {
      w.mux.observer = on ? { packet: () => {} } : undefined;
    },
    (w) => {
      w.mux.removePort('down');
      w.addUplink('down', 'up', on);
    },
    (w) => {
      w.devices.get(port)!.room = on ? 2 : Number.POSITIVE_INFINITY;
      if (!on) w.devices.get(port)!.receiver?.writable();
    },
  ];
  return steps[random.below(steps.length)]!;
}

/** What a step answers or how it is refused. */
function outcome(step: Step, world: World): string {
  try {
    return JSON.stringify(step(world)) ?? 'done';
  } catch (error) {
    return String(error);
  }
}

const RUNS = 100;
const STEPS = 200;

test(
  'with shortcuts every packet goes where it goes without them, in the same order, whatever is commanded in between',
  within(
    () =>
      seeded((random) => {
        let [passed, inTrains] = [0, 0];
        for (let run = 0; run < RUNS; run++) {
          const slow = new World((name, offload) => new TestDevice(name, offload));
          const short = new World((name, offload) => new ShortDevice(name, offload));
          for (let i = 0; i < STEPS; i++) {
            const step = randomStep(random as SeededRandom);
            const [one, other] = [outcome(step, slow), outcome(step, short)];
            assert.is(other, one, `run ${run}, step ${i}`);
            assert.is(short.left(), slow.left(), `run ${run}, step ${i}`);
          }
          assert.equal(short.mux.ports(), slow.mux.ports(), `run ${run}`);
          passed += short.passed();
          inTrains += short.inTrains();
          slow.mux.close();
          short.mux.close();
        }
        console.log(`${RUNS} runs of ${STEPS} steps, ${passed} packets by shortcuts, ${inTrains} in trains`);
        assert.ok(passed > RUNS * 4, `only ${passed} packets took a shortcut`);
        assert.ok(inTrains > RUNS, `only ${inTrains} packets were in trains`);
      }),
    60_000,
  ),
);

/** Host 1 behind `up`, host 2 behind `down`, known to the mux; a shortcut between them. */
function warm(): { world: World; send: () => void; up: ShortDevice; passed: () => number } {
  const world = new World((name) => new ShortDevice(name));
  const up = world.devices.get('up') as ShortDevice;
  const packet = tcp({
    fromMac: MAC.client,
    toMac: MAC.other,
    from: CLIENT,
    to: '10.77.0.60',
    sport: 1,
    dport: 2,
    flags: FLAG.ACK,
  });
  world.devices.get('down')!.deliver(arp({ fromMac: MAC.other, sender: '10.77.0.60', target: CLIENT }));
  const send = () => up.deliver(packet.slice());
  send();
  return { world, send, up, passed: () => up.shortcutCounters.received };
}

test(
  'between uplinks the second packet of a kind takes a shortcut, and counts at both ports',
  within(() => {
    const { world, send, passed } = warm();
    assert.is(passed(), 0);
    send();
    assert.is(passed(), 1);
    const status = (name: string) => world.mux.ports().find((port) => port.name === name)!;
    assert.is(status('up').received, 2);
    assert.is(status('down').transmitted, 2);
    world.mux.close();
  }),
);

const ONCE = [
  ['a second has passed', (w: World) => w.clock.advance(1_000)],
  ['a port is isolated', (w: World) => w.mux.portState('b', 'isolated')],
  ['a port is disconnected', (w: World) => w.mux.setConnected('a', false)],
  [
    'a MAC has moved',
    (w: World) =>
      w.devices.get('up')!.deliver(arp({ fromMac: MAC.other, sender: '10.77.0.60', target: CLIENT })),
  ],
] as const;

/** As long as it is so, there are no others. */
const AS_LONG_AS = [
  [
    'somebody captures',
    (w: World) => {
      w.mux.observer = { packet: () => {} };
    },
  ],
  ['the destination is a service address', (w: World) => w.mux.pathSet({ address: '10.77.0.60', port: 'a' })],
  ['the sender has a limit', (w: World) => w.mux.portLimits('up', { send: { packetsPerSecond: 1 } })],
  ['the receiver has a limit', (w: World) => w.mux.portLimits('down', { receive: { packetsPerSecond: 1 } })],
  ['the receiver is gone', (w: World) => w.mux.removePort('down')],
] as const;

for (const [what, change] of [...ONCE, ...AS_LONG_AS]) {
  test(
    `all shortcuts are forgotten when ${what}`,
    within(() => {
      const { world, send, passed, up } = warm();
      send();
      assert.is(passed(), 1);
      change(world);
      assert.is(up.shortcuts.size, 0);
      send();
      assert.is(passed(), 1);
      if (AS_LONG_AS.some(([other]) => other === what)) {
        send();
        assert.is(passed(), 1);
      }
      world.mux.close();
    }),
  );
}

test(
  'packets from and to partitions never take one',
  within(() => {
    const world = new World((name) => new ShortDevice(name));
    const own = {
      fromMac: MAC.a,
      toMac: MAC.client,
      from: '10.77.0.12',
      to: CLIENT,
      sport: 1,
      dport: 2,
      flags: FLAG.ACK,
    };
    world.devices.get('up')!.deliver(arp({ fromMac: MAC.client, sender: CLIENT, target: '10.77.0.12' }));
    for (let i = 0; i < 3; i++) {
      world.devices.get('a')!.deliver(tcp(own));
      world.devices
        .get('up')!
        .deliver(tcp({ ...own, fromMac: MAC.client, toMac: MAC.a, from: CLIENT, to: '10.77.0.12' }));
    }
    assert.is(world.passed(), 0);
    world.mux.close();
  }),
);

test.run();
