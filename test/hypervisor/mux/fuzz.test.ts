import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { advertisement, solicitation } from '../../netstack/packets6.ts';
import { seeded, within } from '../../support/index.ts';
import {
  arp,
  CLIENT,
  dropsOf,
  echo,
  established,
  FLAG,
  flowName,
  fromClient,
  icmpError,
  MAC,
  SECOND,
  SERVICE,
  toClient,
  udp,
} from './harness.ts';
import {
  bench6,
  CLIENT6,
  echo6,
  error6,
  established6,
  flowName6,
  fragments6,
  fromClient6,
  macHex,
  SECOND6,
  SERVICE6,
  toClient6,
} from './harness6.ts';

const test = suite('hypervisor/mux/fuzz');
const TRIALS = 60_000;

test(
  'mutated packets on every port, through every state: nothing throws, nothing grows, every packet is accounted for',
  within(
    () =>
      seeded((random) => {
        const b = bench6({ flows: { capacity: 512 } });
        b.mux.portState('b', 'attached');
        const seeds = [
          fromClient(4000, FLAG.SYN),
          fromClient(4000, FLAG.ACK, { payload: 'abc' }),
          toClient(4000, FLAG.FIN | FLAG.ACK),
          toClient(4000, FLAG.ACK, 'a', { from: SECOND }),
          udp({ from: CLIENT, to: SERVICE, sport: 1, dport: 2, fragment: 0x2000 }),
          udp({ from: CLIENT, to: SERVICE, sport: 1, dport: 2, fragment: 5 }),
          echo({ from: CLIENT, to: SERVICE, id: 1 }),
          icmpError({ from: CLIENT, to: SERVICE, about: toClient(4000, FLAG.ACK) }),
          icmpError({
            fromMac: MAC.a,
            toMac: MAC.client,
            from: SECOND,
            to: CLIENT,
            about: fromClient(4000, FLAG.ACK),
          }),
          arp({ fromMac: MAC.client, sender: CLIENT, target: SERVICE }),
          arp({ fromMac: MAC.a, sender: SERVICE, target: SERVICE }),
          fromClient6(4000, FLAG.SYN),
          fromClient6(4000, FLAG.ACK, 'abc'),
          toClient6(4000, FLAG.FIN | FLAG.ACK),
          toClient6(4000, FLAG.ACK, 'a', SECOND6),
          ...fragments6({ from: CLIENT6, to: SERVICE6, sport: 1, dport: 2 }, 9),
          echo6({ from: CLIENT6, to: SERVICE6 }, 1),
          error6({ from: CLIENT6, to: SERVICE6 }, toClient6(4000, FLAG.ACK)),
          error6(
            { fromMac: MAC.a, toMac: MAC.client, from: SECOND6, to: CLIENT6 },
            fromClient6(4000, FLAG.ACK),
          ),
          solicitation({
            source: CLIENT6,
            destination: 'ff02::1:ff00:11',
            target: SERVICE6,
            from: macHex(MAC.client),
          }),
          advertisement({ source: SERVICE6, destination: 'ff02::1', target: SERVICE6, from: macHex(MAC.a) }),
        ];
        const devices = [b.up, b.a, b.b, b.probe];
        let path: 'a' | 'b' = 'a';
        for (let i = 0; i < TRIALS; i++) {
          const packet = seeds[random.below(seeds.length)]!.slice();
          for (let n = random.below(4); n > 0; n--) packet[random.below(packet.length)] = random.below(256);
          const cut = random.below(8) === 0 ? random.below(packet.length) : packet.length;
          devices[random.below(4)]!.deliver(packet.subarray(0, cut));
          for (const device of devices) device.take();
          const what = random.below(400);
          if (what === 0) b.mux.holdStart({ address: SERVICE, scope: 'all', barrier: i });
          if (what === 1) b.mux.holdRelease({ address: SERVICE });
          if (what === 2) {
            const to: 'a' | 'b' = path === 'a' ? 'b' : 'a';
            const second = path === 'a' ? SECOND : '10.77.0.13';
            const second6 = path === 'a' ? SECOND6 : 'fd00::13';
            const also = [{ address: SERVICE6, notice: { second: second6 } }];
            b.mux.switch({ address: SERVICE, from: path, to, notice: { second, immediately: true }, also });
            path = to;
          }
          if (what === 3) b.mux.noticeCancel({ address: SERVICE, force: true });
          if (what === 7) b.mux.noticeCancel({ address: SERVICE6, force: true });
          if (what === 8) b.mux.holdStart({ address: SERVICE6, scope: 'all', barrier: i });
          if (what === 9) b.mux.holdRelease({ address: SERVICE6 });
          if (what === 10) b.mux.flowsMoved({ address: SERVICE6, flows: [flowName6(4000)] });
          if (what === 4) b.mux.flowsMoved({ address: SERVICE, flows: [flowName(4000)] });
          if (what === 5) b.clock.advance(random.below(20_000));
          if (what === 6) b.mux.holdStart({ address: SERVICE, scope: 'flows', flows: [flowName(4000)] });
        }
        assert.ok(b.mux.counters({}).flows <= 512);
        b.mux.holdRelease({ address: SERVICE });
        b.mux.noticeCancel({ address: SERVICE, force: true });
        for (const device of devices) device.take();
        established(b, 5000, path);
        b.up.deliver(fromClient(5000, FLAG.ACK));
        assert.is(b[path].take().length, 1, 'afterwards it works as before');
        for (const port of b.mux.ports()) {
          for (const count of Object.values(dropsOf(b, port.name))) assert.ok(Number.isInteger(count));
        }
      }),
    15_000,
  ),
);

test(
  'the steady state allocates nothing per packet',
  within(() => {
    const b = bench6();
    established(b, 4000);
    established6(b, 4000);
    const packets = [
      fromClient(4000, FLAG.ACK, { payload: 'x'.repeat(100) }),
      fromClient6(4000, FLAG.ACK, 'x'.repeat(100)),
    ];
    b.a.transmit = () => true;
    const receiver = b.up.receiver!;
    const burst = (count: number) => {
      for (let i = 0; i < count; i++) receiver.receive(packets[i & 1]!, 0, packets[i & 1]!.length);
      receiver.endOfBatch();
    };
    burst(50_000);
    const before = process.memoryUsage().heapUsed;
    for (let i = 0; i < 20; i++) burst(10_000);
    const bytes = (process.memoryUsage().heapUsed - before) / 200_000;
    assert.ok(bytes < 8, `${bytes.toFixed(2)} bytes of heap per packet`);
  }),
);

test.run();
