import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { formatIpv4, readIpv4 } from '../../../src/netstack/index.ts';
import { seeded, within } from '../../support/index.ts';
import {
  arp,
  bench,
  CLIENT,
  checksumsValid,
  destinationMac,
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
  tcp,
  textOf,
  toClient,
  udp,
} from './harness.ts';

const test = suite('hypervisor/mux/switch');
const CUT = { address: SERVICE, from: 'a', to: 'b' } as const;
const SA = FLAG.SYN | FLAG.ACK;
const FA = FLAG.FIN | FLAG.ACK;

function fromSecond(port: number, flags: number, more = {}): Uint8Array {
  return toClient(port, flags, 'a', { from: SECOND, ...more });
}

test(
  'after the cut old flows go to the old partition and new ones to the new one',
  within(() => {
    const b = bench();
    established(b, 4000);
    assert.equal(b.mux.switch(CUT), { steered: 1 });
    b.up.deliver(fromClient(4000, FLAG.ACK), fromClient(4001, FLAG.SYN));
    assert.equal(b.a.texts(), [`tcp ${CLIENT}:4000 > ${SERVICE}:80 A`]);
    const toB = b.b.take();
    assert.equal(toB.map(textOf), [`tcp ${CLIENT}:4001 > ${SERVICE}:80 S`]);
    assert.is(destinationMac(toB[0]!), MAC.b);
    b.b.deliver(toClient(4001, SA, 'b'));
    b.a.deliver(toClient(4000, FLAG.ACK));
    assert.is(b.up.take().length, 2);
    assert.is(b.mux.counters({ address: SERVICE }).sinceSwitch.steered, 1);
  }),
);

test(
  'a connection that was only half open at the cut is finished by the old partition',
  within(() => {
    const b = bench();
    b.up.deliver(fromClient(4000, FLAG.SYN));
    b.mux.switch(CUT);
    b.a.take();
    b.a.deliver(toClient(4000, SA));
    b.up.deliver(fromClient(4000, FLAG.ACK));
    assert.equal(b.a.texts(), [`tcp ${CLIENT}:4000 > ${SERVICE}:80 A`]);
    assert.is(b.b.take().length, 0);
  }),
);

test(
  'change notice: the second address leaves as the first with valid checksums, and comes in as the second once seen',
  within(() => {
    const b = bench();
    established(b, 4000);
    const { notice } = b.mux.switch({ ...CUT, notice: { second: SECOND } });
    assert.is(notice, 1);
    b.up.deliver(fromClient(4000, FLAG.ACK, { payload: 'before' }));
    const before = b.a.take();
    assert.equal(before.map(textOf), [`tcp ${CLIENT}:4000 > ${SERVICE}:80 A`]);
    b.a.deliver(fromSecond(4000, FLAG.ACK, { payload: 'answer' }));
    const left = b.up.take();
    assert.equal(left.map(textOf), [`tcp ${SERVICE}:80 > ${CLIENT}:4000 A`]);
    assert.ok(checksumsValid(left[0]!));
    b.up.deliver(fromClient(4000, FLAG.ACK, { payload: 'after' }));
    const after = b.a.take();
    assert.equal(after.map(textOf), [`tcp ${CLIENT}:4000 > ${SECOND}:80 A`]);
    assert.ok(checksumsValid(after[0]!));
    assert.is(b.mux.counters({}).sinceSwitch.rewritten, 1);
  }),
);

test(
  'change notice with `immediately`: inbound packets are translated from the first one on',
  within(() => {
    const b = bench();
    established(b, 4000);
    b.mux.switch({ ...CUT, notice: { second: SECOND, immediately: true } });
    b.up.deliver(fromClient(4000, FLAG.ACK));
    assert.equal(b.a.texts(), [`tcp ${CLIENT}:4000 > ${SECOND}:80 A`]);
  }),
);

test(
  'an announcement of the second address counts as having been seen; the partition that goes back is believed, too',
  within(() => {
    const b = bench();
    established(b, 4000);
    b.mux.switch({ ...CUT, notice: { second: SECOND } });
    b.a.deliver(arp({ fromMac: MAC.a, sender: SECOND, target: SECOND }));
    b.up.deliver(fromClient(4000, FLAG.ACK));
    assert.equal(b.a.texts(), [`tcp ${CLIENT}:4000 > ${SECOND}:80 A`]);
    b.a.deliver(toClient(4000, FLAG.ACK));
    b.up.deliver(fromClient(4000, FLAG.ACK));
    assert.equal(b.a.texts(), [`tcp ${CLIENT}:4000 > ${SERVICE}:80 A`]);
  }),
);

test(
  'under a notice only packets with the second address as source are changed; new flows from it come back to it',
  within(() => {
    const b = bench();
    b.mux.switch({ ...CUT, notice: { second: SECOND }, addresses: { a: [SECOND, '10.77.0.14'] } });
    b.a.deliver(
      udp({ fromMac: MAC.a, toMac: MAC.client, from: '10.77.0.14', to: CLIENT, sport: 5, dport: 53 }),
      udp({ fromMac: MAC.a, toMac: MAC.client, from: SECOND, to: CLIENT, sport: 6, dport: 53 }),
    );
    assert.equal(b.up.texts(), [`udp 10.77.0.14:5 > ${CLIENT}:53`, `udp ${SERVICE}:6 > ${CLIENT}:53`]);
    b.up.deliver(udp({ from: CLIENT, to: SERVICE, sport: 53, dport: 6 }));
    assert.equal(b.a.texts(), [`udp ${CLIENT}:53 > ${SECOND}:6`]);
  }),
);

test(
  'ICMP errors about a steered flow go to the old partition, with the quoted packet put right',
  within(() => {
    const b = bench();
    established(b, 4000);
    b.mux.switch({ ...CUT, notice: { second: SECOND, immediately: true } });
    const about = toClient(4000, FLAG.ACK);
    b.up.deliver(icmpError({ from: '10.77.0.1', to: SERVICE, about, code: 4 }));
    const got = b.a.take();
    assert.equal(got.map(textOf), [`icmp-error 10.77.0.1 > ${SECOND}`]);
    assert.ok(checksumsValid(got[0]!));
    // Outer IPv4 header at 24, ICMP at 44, quoted IPv4 header at 52.
    assert.is(formatIpv4(readIpv4(got[0]!, 52 + 12)), SECOND);
    assert.is(b.b.take().length, 0);
  }),
);

test(
  'never a RST out for a flow the mux has seen, unless its own port sends it',
  within(() => {
    const b = bench();
    established(b, 4000);
    established(b, 4001);
    b.mux.switch({ ...CUT, moved: [flowName(4001)] });
    b.b.deliver(toClient(4000, FLAG.RST, 'b'), toClient(4000, FLAG.RST | FLAG.ACK, 'b'));
    assert.is(b.up.take().length, 0);
    assert.equal(dropsOf(b, 'b'), { 'rst-suppressed': 2 });
    b.b.deliver(toClient(4000, FLAG.ACK, 'b'));
    assert.is(dropsOf(b, 'b')['not-flow-owner'], 1);
    b.a.deliver(toClient(4001, FLAG.RST));
    assert.is(dropsOf(b, 'a')['rst-suppressed'], 1);
    assert.is(b.mux.counters({ address: SERVICE }).sinceSwitch.rstSuppressed, 3);
    b.a.deliver(toClient(4000, FLAG.RST));
    b.b.deliver(toClient(4001, FLAG.RST, 'b'));
    assert.is(b.up.take().length, 2);
  }),
);

test(
  'an ended flow stays with its partition for repeated FINs; a client that uses the port again gets the new one',
  within(() => {
    const b = bench();
    established(b, 4000);
    b.mux.switch(CUT);
    b.a.deliver(toClient(4000, FA, 'a', { seq: 100, ack: 50 }));
    b.up.deliver(fromClient(4000, FA, { seq: 50, ack: 101 }));
    b.a.deliver(toClient(4000, FLAG.ACK, 'a', { seq: 101, ack: 51 }));
    b.a.take();
    b.up.deliver(fromClient(4000, FA, { seq: 50, ack: 101 }));
    assert.is(b.a.take().length, 1);
    b.up.deliver(fromClient(4000, FLAG.SYN, { seq: 9000 }));
    assert.equal([b.a.take().length, b.b.texts()], [0, [`tcp ${CLIENT}:4000 > ${SERVICE}:80 S`]]);
    b.b.deliver(toClient(4000, SA, 'b'));
    assert.is(b.up.texts().at(-1), `tcp ${SERVICE}:80 > ${CLIENT}:4000 SA`);
  }),
);

test(
  'DRAINED: when the last steered flow has both FINs acknowledged, not before',
  within(() => {
    const b = bench();
    established(b, 4000);
    established(b, 4001);
    b.mux.switch({ ...CUT, notice: { second: SECOND } });
    b.up.deliver(fromClient(4001, FLAG.RST));
    b.a.deliver(fromSecond(4000, FA, { seq: 100, ack: 50, payload: 'bye' }));
    b.up.deliver(fromClient(4000, FA, { seq: 50, ack: 103 }));
    b.a.deliver(fromSecond(4000, FLAG.ACK, { seq: 104, ack: 51 }));
    b.clock.advance(1);
    assert.is(
      b.events.filter((e) => e.name === 'DRAINED').length,
      0,
      'the FIN of the partition is not acknowledged',
    );
    assert.throws(() => b.mux.noticeCancel({ address: SERVICE }), /1 flows/);
    b.up.deliver(fromClient(4000, FLAG.ACK, { seq: 51, ack: 104 }));
    b.clock.advance(1);
    assert.equal(
      b.events.filter((e) => e.name === 'DRAINED').map((e) => e.data),
      [{ address: SERVICE, notice: 1 }],
    );
    assert.equal(b.mux.noticeCancel({ address: SERVICE }), { abandoned: [] });
    assert.equal(b.mux.noticeCancel({ address: SERVICE }), { abandoned: [] }, 'idempotent');
    b.a.deliver(fromSecond(4005, FLAG.SYN));
    assert.is(b.up.texts().at(-1), `tcp ${SECOND}:80 > ${CLIENT}:4005 S`, 'not changed any more');
  }),
);

test(
  'DRAINED comes at once when there was nothing to drain, and after ageing when flows fall silent',
  within(() => {
    const b = bench();
    b.mux.switch(CUT);
    b.clock.advance(0);
    assert.is(b.events.filter((e) => e.name === 'DRAINED').length, 1);
    const c = bench();
    c.up.deliver(udp({ from: CLIENT, to: SERVICE, sport: 1, dport: 9 }));
    c.mux.switch(CUT);
    c.clock.advance(29_000);
    assert.is(c.events.filter((e) => e.name === 'DRAINED').length, 0);
    c.clock.advance(3_000);
    assert.is(c.events.filter((e) => e.name === 'DRAINED').length, 1);
  }),
);

test(
  'notice-cancel by force names who is cut off',
  within(() => {
    const b = bench();
    established(b, 4000);
    b.mux.switch({ ...CUT, notice: { second: SECOND } });
    assert.equal(b.mux.noticeCancel({ address: SERVICE, force: true }), { abandoned: [flowName(4000)] });
    b.up.deliver(fromClient(4000, FLAG.ACK));
    assert.is(b.b.take().length, 1, 'whose packets then follow the path');
  }),
);

test(
  'switch is idempotent: repeated, it does not steer the new partition’s flows away',
  within(() => {
    const b = bench();
    established(b, 4000);
    const cut = { ...CUT, notice: { second: SECOND } };
    const first = b.mux.switch(cut);
    established(b, 4001, 'b');
    assert.equal(b.mux.switch(cut), first);
    b.up.deliver(fromClient(4001, FLAG.ACK));
    assert.is(b.b.take().length, 1);
  }),
);

test(
  'a switch that cannot be done changes nothing and says why',
  within(() => {
    const b = bench();
    established(b, 4000);
    assert.throws(
      () => b.mux.switch({ ...CUT, from: 'b', to: 'a' }),
      /the path of 10\.77\.0\.11 is at a, not at b/,
    );
    assert.throws(() => b.mux.switch({ ...CUT, to: 'c' }), /no port c/);
    assert.throws(() => b.mux.switch({ ...CUT, address: '10.77.0.99' }), /has no path/);
    assert.throws(() => b.mux.switch({ ...CUT, notice: { second: SERVICE } }), /no change notice/);
    assert.throws(() => b.mux.switch({ ...CUT, addresses: { b: ['nonsense'] } }), /no IP address/);
    assert.throws(
      () => b.mux.switch({ ...CUT, moved: [{ ...flowName(4000), localAddress: '10.77.0.99' }] }),
      /is none of/,
    );
    b.up.deliver(fromClient(4000, FLAG.ACK));
    assert.is(b.a.take().length, 1);
    assert.is(b.mux.flows({ address: SERVICE, steered: true }).length, 0);
  }),
);

test(
  'the way back: flows of the first partition stay with it, those of the second are steered, each under its own notice',
  within(() => {
    const b = bench();
    established(b, 4000);
    b.mux.switch({ ...CUT, notice: { second: SECOND, immediately: true } });
    established(b, 4001, 'b');
    b.mux.portAddresses('b', [SERVICE, '10.77.0.13']);
    const back = b.mux.switch({
      address: SERVICE,
      from: 'b',
      to: 'a',
      notice: { second: '10.77.0.13', immediately: true },
    });
    assert.equal(back, { notice: 2, steered: 1 });
    b.up.deliver(fromClient(4000, FLAG.ACK), fromClient(4001, FLAG.ACK), fromClient(4002, FLAG.SYN));
    assert.equal(b.a.texts(), [
      `tcp ${CLIENT}:4000 > ${SECOND}:80 A`,
      `tcp ${CLIENT}:4002 > ${SERVICE}:80 S`,
    ]);
    assert.equal(b.b.texts(), [`tcp ${CLIENT}:4001 > 10.77.0.13:80 A`]);
    b.b.deliver(toClient(4001, FLAG.ACK, 'b', { from: '10.77.0.13' }));
    assert.equal(b.up.texts(), [`tcp ${SERVICE}:80 > ${CLIENT}:4001 A`]);
    b.a.deliver(toClient(4000, FLAG.ACK));
    assert.equal(
      b.mux.noticeCancel({ address: SERVICE, notice: 1 }),
      { abandoned: [] },
      'a has the path again',
    );
    b.up.take();
    b.up.deliver(fromClient(4000, FLAG.ACK));
    assert.equal(b.a.texts(), [`tcp ${CLIENT}:4000 > ${SERVICE}:80 A`]);
  }),
);

test(
  'a switch that is taken back leaves nothing steered',
  within(() => {
    const b = bench();
    established(b, 4000);
    established(b, 4001);
    b.mux.switch({ ...CUT, moved: [flowName(4001)] });
    b.mux.switch({ address: SERVICE, from: 'b', to: 'a', moved: 'all' });
    assert.equal(b.mux.flows({ address: SERVICE, steered: true }), []);
    b.up.deliver(fromClient(4000, FLAG.ACK), fromClient(4001, FLAG.ACK));
    assert.equal([b.a.take().length, b.b.take().length], [2, 0]);
    assert.equal(b.mux.switch({ ...CUT, moved: [flowName(4001)] }).steered, 1, 'the cut can be made again');
  }),
);

test(
  'the second address may have a path of its own while the notice is set',
  within(() => {
    const b = bench();
    established(b, 4000);
    b.mux.switch({ ...CUT, notice: { second: SECOND }, addresses: { a: [SECOND], b: [SERVICE] } });
    b.mux.pathSet({ address: SECOND, port: 'a' });
    b.a.deliver(fromSecond(4000, FLAG.ACK));
    assert.equal(b.up.texts(), [`tcp ${SERVICE}:80 > ${CLIENT}:4000 A`]);
    b.up.deliver(
      fromClient(4000, FLAG.ACK),
      udp({ from: CLIENT, to: SECOND, toMac: MAC.b, sport: 1, dport: 2 }),
    );
    assert.equal(b.a.texts(), [`tcp ${CLIENT}:4000 > ${SECOND}:80 A`, `udp ${CLIENT}:1 > ${SECOND}:2`]);
  }),
);

test(
  'flows-moved: named flows follow the path from then on',
  within(() => {
    const b = bench();
    established(b, 4000);
    established(b, 4001);
    b.mux.switch(CUT);
    assert.equal(b.mux.flowsMoved({ address: SERVICE, flows: [flowName(4001)] }), { moved: 1 });
    b.up.deliver(fromClient(4000, FLAG.ACK), fromClient(4001, FLAG.ACK));
    assert.equal([b.a.take().length, b.b.take().length], [1, 1]);
    assert.equal(
      b.mux
        .flows({ address: SERVICE })
        .map((f) => [f.flow.remotePort, f.port, f.steered, f.state])
        .sort(),
      [
        [4000, 'a', true, 'established'],
        [4001, 'b', false, 'established'],
      ],
    );
  }),
);

test(
  'fragments follow their flow, in both directions',
  within(() => {
    const b = bench();
    b.up.deliver(udp({ from: CLIENT, to: SERVICE, sport: 1, dport: 9 }));
    b.mux.switch({ ...CUT, notice: { second: SECOND, immediately: true } });
    b.a.take();
    const part = (from: string, to: string, fragment: number, more = {}) =>
      udp({ from, to, sport: 1, dport: 9, fragment, id: 77, payload: 'x'.repeat(64), ...more });
    b.up.deliver(part(CLIENT, SERVICE, 0x2000), part(CLIENT, SERVICE, 9));
    assert.equal(b.a.texts(), [`udp ${CLIENT}:1 > ${SECOND}:9`, `fragment ${CLIENT} > ${SECOND}`]);
    b.up.deliver(part(CLIENT, SERVICE, 0x2000, { sport: 2, id: 78 }), part(CLIENT, SERVICE, 9, { id: 78 }));
    assert.is(b.b.take().length, 2, 'of a new flow they go to the new partition');
    const out = { fromMac: MAC.a, toMac: MAC.client, sport: 9, dport: 1 };
    b.a.deliver(part(SECOND, CLIENT, 0x2000, out), part(SECOND, CLIENT, 9, out));
    assert.equal(b.up.texts(), [`udp ${SERVICE}:9 > ${CLIENT}:1`, `fragment ${SERVICE} > ${CLIENT}`]);
  }),
);

test(
  'echo requests follow the path, answers to the old partition’s own come back to it',
  within(() => {
    const b = bench();
    b.up.deliver(echo({ from: CLIENT, to: SERVICE, id: 5 }));
    b.a.deliver(echo({ fromMac: MAC.a, toMac: MAC.client, from: SERVICE, to: CLIENT, id: 6 }));
    b.mux.switch(CUT);
    b.a.take();
    b.up.deliver(
      echo({ from: CLIENT, to: SERVICE, id: 5 }),
      echo({ from: CLIENT, to: SERVICE, id: 6, reply: true }),
    );
    assert.equal(
      [b.b.texts(), b.a.texts()],
      [[`echo ${CLIENT} > ${SERVICE}`], [`echo-reply ${CLIENT} > ${SERVICE}`]],
    );
  }),
);

test(
  'a partition that is a client of the service reaches the new holder, the old one by its second address, too',
  within(() => {
    const b = bench();
    b.mux.switch({ ...CUT, notice: { second: SECOND } });
    b.a.deliver(
      tcp({ fromMac: MAC.a, toMac: MAC.b, from: SECOND, to: SERVICE, sport: 1, dport: 80, flags: FLAG.SYN }),
    );
    assert.equal(b.b.texts(), [`tcp ${SECOND}:1 > ${SERVICE}:80 S`]);
  }),
);

test(
  'announce: gratuitous ARP with the port’s MAC on the uplink, count times, as long as the port has the path',
  within(() => {
    const b = bench();
    b.mux.switch(CUT);
    assert.throws(() => b.mux.announce({ address: SERVICE, port: 'a' }), /does not have the path/);
    b.mux.announce({ address: SERVICE, port: 'b', count: 3, intervalMs: 100 });
    b.clock.advance(1_000);
    const announcement = `arp request ${SERVICE} at ${MAC.b} > ${SERVICE}`;
    assert.equal(b.up.texts(), [announcement, announcement, announcement]);
    assert.equal([b.a.take().length, b.b.take().length], [0, 0]);
    b.mux.announce({ address: SERVICE, port: 'b', count: 3, intervalMs: 100 });
    b.mux.switch({ address: SERVICE, from: 'b', to: 'a' });
    b.clock.advance(1_000);
    assert.is(b.up.take().length, 1);
  }),
);

test(
  'a draining partition may still ask for its neighbours',
  within(() => {
    const b = bench();
    established(b, 4000);
    b.mux.switch(CUT);
    b.a.deliver(arp({ fromMac: MAC.a, sender: SERVICE, target: CLIENT }));
    assert.is(b.up.take().length, 1);
    b.up.deliver(fromClient(4000, FLAG.RST));
    b.a.deliver(arp({ fromMac: MAC.a, sender: SERVICE, target: CLIENT }));
    assert.is(b.up.take().length, 0);
  }),
);

test(
  'under random switches with traffic no packet is lost, duplicated, or given to the wrong partition',
  within(
    () =>
      seeded((random) => {
        for (let run = 0; run < 40; run++) {
          const b = bench();
          b.mux.portAddresses('a', [SERVICE, SECOND]);
          b.mux.portAddresses('b', [SERVICE, '10.77.0.13']);
          b.mux.portState('b', 'attached');
          /** Client port → partition that has the flow. */
          const owner = new Map<number, 'a' | 'b'>();
          let path: 'a' | 'b' = 'a';
          let serial = 0;
          for (let step = 0; step < 200; step++) {
            const what = random.below(12);
            if (what === 0) {
              const to: 'a' | 'b' = path === 'a' ? 'b' : 'a';
              const second = path === 'a' ? SECOND : '10.77.0.13';
              const moved = [...owner.entries()].filter(([, at]) => at === path && random.below(2) === 0);
              const moving = random.below(3) === 0 ? moved : [];
              b.mux.switch({
                address: SERVICE,
                from: path,
                to,
                moved: moving.map(([port]) => flowName(port)),
                ...(random.below(2) === 0 ? { notice: { second, immediately: random.below(2) === 0 } } : {}),
              });
              for (const [port] of moving) owner.set(port, to);
              path = to;
              continue;
            }
            const batch: { packet: Uint8Array; port: number; mark: string }[] = [];
            for (let i = random.below(6); i >= 0; i--) {
              const known = [...owner.keys()];
              const fresh = known.length === 0 || random.below(4) === 0;
              const port = fresh ? 10_000 + serial : known[random.below(known.length)]!;
              const mark = `m${serial++}`;
              if (fresh) owner.set(port, path);
              const flags = fresh ? FLAG.SYN : FLAG.ACK;
              batch.push({ packet: fromClient(port, flags, { payload: mark }), port, mark });
            }
            b.up.deliver(...batch.map((x) => x.packet));
            const got = { a: b.a.take(), b: b.b.take() };
            assert.is(got.a.length + got.b.length, batch.length, 'none lost, none twice');
            for (const partition of ['a', 'b'] as const) {
              const expected = batch.filter((x) => owner.get(x.port) === partition);
              assert.equal(
                got[partition].map((packet) =>
                  new TextDecoder().decode(packet.slice(64)).replace(/\0+$/, ''),
                ),
                expected.map((x) => x.mark),
                `run ${run}, step ${step}: right partition, in order`,
              );
              for (const packet of got[partition]) assert.ok(checksumsValid(packet));
              if (expected[0] !== undefined) {
                const port = expected[0].port;
                b[partition].deliver(toClient(port, FLAG.ACK, partition));
                assert.equal(b.up.texts(), [`tcp ${SERVICE}:80 > ${CLIENT}:${port} A`]);
              }
            }
          }
        }
      }),
    15_000,
  ),
);

test.run();
