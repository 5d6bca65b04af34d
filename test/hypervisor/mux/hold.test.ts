import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { seeded, within } from '../../support/index.ts';
import {
  arp,
  bench,
  CLIENT,
  dropsOf,
  established,
  FLAG,
  flowName,
  fromClient,
  MAC,
  payloadOf,
  SECOND,
  SERVICE,
  textOf,
  udp,
} from './harness.ts';

const test = suite('hypervisor/mux/hold');

test(
  'new flows wait, known ones pass; released they go out in order',
  within(() => {
    const b = bench();
    established(b, 4000);
    assert.equal(b.mux.holdStart({ address: SERVICE, scope: 'new-flows' }), { held: 0 });
    b.up.deliver(fromClient(4001, FLAG.SYN), fromClient(4000, FLAG.ACK), fromClient(4002, FLAG.SYN));
    assert.equal(b.a.texts(), [`tcp ${CLIENT}:4000 > ${SERVICE}:80 A`]);
    b.clock.advance(20);
    b.up.deliver(fromClient(4001, FLAG.SYN));
    b.clock.advance(5);
    assert.equal(b.mux.holdRelease({ address: SERVICE }), { released: 3, longestHoldMs: 25 });
    assert.equal(
      b.a.texts(),
      [4001, 4002, 4001].map((port) => `tcp ${CLIENT}:${port} > ${SERVICE}:80 S`),
    );
    assert.equal(b.mux.holdRelease({ address: SERVICE }), { released: 0, longestHoldMs: 25 }, 'idempotent');
    const { sinceSwitch } = b.mux.counters({ address: SERVICE });
    assert.equal([sinceSwitch.held, sinceSwitch.longestHoldMs], [3, 25]);
  }),
);

test(
  'scope all: every packet waits, ARP requests too, except named flows; the barrier follows what went before',
  within(() => {
    const b = bench();
    established(b, 4000);
    established(b, 4001);
    b.mux.holdStart({ address: SERVICE, scope: 'new-flows' });
    b.up.deliver(fromClient(4002, FLAG.SYN), fromClient(4000, FLAG.ACK));
    const { held } = b.mux.holdStart({
      address: SERVICE,
      scope: 'all',
      except: [flowName(4001)],
      barrier: 0xcafe0001,
    });
    assert.is(held, 1);
    b.up.deliver(
      fromClient(4000, FLAG.ACK),
      fromClient(4001, FLAG.ACK),
      arp({ fromMac: MAC.client, sender: CLIENT, target: SERVICE }),
      udp({ from: CLIENT, to: SERVICE, sport: 1, dport: 2 }),
    );
    assert.equal(b.a.texts(), [
      `tcp ${CLIENT}:4000 > ${SERVICE}:80 A`,
      `88b5 ${0xcafe0001}`,
      `tcp ${CLIENT}:4001 > ${SERVICE}:80 A`,
    ]);
    b.mux.holdStart({ address: SERVICE, scope: 'new-flows' });
    b.up.deliver(fromClient(4000, FLAG.ACK));
    assert.is(b.a.take().length, 0, 'a narrower hold does not take back the wider one');
    b.mux.switch({ address: SERVICE, from: 'a', to: 'b', moved: [flowName(4000)] });
    assert.equal(b.mux.holdRelease({ address: SERVICE }).released, 5);
    assert.equal(b.b.texts(), [
      `tcp ${CLIENT}:4002 > ${SERVICE}:80 S`,
      `tcp ${CLIENT}:4000 > ${SERVICE}:80 A`,
      `arp request ${CLIENT} at ${MAC.client} > ${SERVICE}`,
      `udp ${CLIENT}:1 > ${SERVICE}:2`,
      `tcp ${CLIENT}:4000 > ${SERVICE}:80 A`,
    ]);
    b.up.deliver(fromClient(4001, FLAG.ACK));
    assert.is(b.a.take().length, 1);
  }),
);

test(
  'scope flows: named steered flows wait while they are handed over, the barrier goes to where they went',
  within(() => {
    const b = bench();
    established(b, 4000);
    established(b, 4001);
    b.mux.switch({ address: SERVICE, from: 'a', to: 'b', notice: { second: SECOND, immediately: true } });
    b.mux.holdStart({ address: SERVICE, scope: 'flows', flows: [flowName(4001)], barrier: 7 });
    b.up.deliver(fromClient(4000, FLAG.ACK), fromClient(4001, FLAG.ACK), fromClient(4002, FLAG.SYN));
    assert.equal(b.a.texts(), ['88b5 7', `tcp ${CLIENT}:4000 > ${SECOND}:80 A`]);
    assert.equal(b.b.texts(), [`tcp ${CLIENT}:4002 > ${SERVICE}:80 S`]);
    b.mux.flowsMoved({ address: SERVICE, flows: [flowName(4001)] });
    b.mux.holdRelease({ address: SERVICE });
    assert.equal(b.b.texts(), [`tcp ${CLIENT}:4001 > ${SERVICE}:80 A`]);
    b.up.deliver(fromClient(4001, FLAG.ACK));
    assert.is(b.b.take().length, 1);
  }),
);

test(
  'flows that are steered elsewhere do not wait for the path’s hold',
  within(() => {
    const b = bench();
    established(b, 4000);
    b.mux.switch({ address: SERVICE, from: 'a', to: 'b' });
    b.mux.holdStart({ address: SERVICE, scope: 'all' });
    b.up.deliver(fromClient(4000, FLAG.ACK));
    assert.is(b.a.take().length, 1);
  }),
);

test(
  'limits of packets and bytes: what exceeds them is dropped and counted',
  within(() => {
    const b = bench();
    b.mux.holdStart({ address: SERVICE, scope: 'all', limits: { packets: 2 } });
    b.up.deliver(...[1, 2, 3, 4].map((port) => fromClient(port, FLAG.SYN)));
    assert.is(
      b.mux.holdStart({ address: SERVICE, scope: 'all', limits: { packets: 99, bytes: 200 } }).held,
      2,
    );
    b.up.deliver(fromClient(5, FLAG.SYN));
    assert.is(dropsOf(b, 'up')['hold-full'], 3);
    assert.is(b.mux.counters({ address: SERVICE }).sinceSwitch.heldDropped, 3);
    assert.is(b.mux.holdRelease({ address: SERVICE }).released, 2);
  }),
);

test(
  'after the time limit the hold is released to the path, with an event',
  within(() => {
    const b = bench();
    b.mux.holdStart({ address: SERVICE, scope: 'all', limits: { timeoutMs: 300 } });
    b.up.deliver(fromClient(1, FLAG.SYN));
    b.clock.advance(299);
    assert.is(b.a.take().length, 0);
    b.clock.advance(2);
    assert.is(b.a.take().length, 1);
    assert.equal(
      b.events.filter((e) => e.name === 'HOLD_TIMEOUT').map((e) => e.data),
      [{ address: SERVICE, released: 1 }],
    );
  }),
);

test(
  'a receiver without room gets the rest when it has some; what arrives meanwhile stays behind',
  within(() => {
    const b = bench();
    b.mux.holdStart({ address: SERVICE, scope: 'all', barrier: 9 });
    b.a.take();
    const send = (...ports: number[]) =>
      b.up.deliver(...ports.map((port) => fromClient(port, FLAG.SYN, { payload: String(port) })));
    send(1, 2, 3, 4);
    b.a.room = 2;
    b.mux.holdRelease({ address: SERVICE });
    send(5);
    assert.is(b.a.sent.length, 2);
    b.a.room = 1;
    b.a.receiver?.writable();
    b.a.room = Number.POSITIVE_INFINITY;
    b.a.receiver?.writable();
    send(6);
    assert.equal(b.a.take().map(payloadOf), ['1', '2', '3', '4', '5', '6']);
    assert.equal(dropsOf(b, 'a'), {});
  }),
);

test(
  'a barrier that finds no room is sent when there is some',
  within(() => {
    const b = bench();
    b.a.room = 0;
    b.mux.holdStart({ address: SERVICE, scope: 'all', barrier: 9 });
    assert.is(b.a.take().length, 0);
    b.a.room = 5;
    b.a.receiver?.writable();
    assert.equal(b.a.texts(), ['88b5 9']);
  }),
);

test(
  'hold and release with random traffic and limits keep the order of every flow and lose nothing',
  within(() =>
    seeded((random) => {
      for (let run = 0; run < 60; run++) {
        const b = bench();
        b.mux.portState('b', 'attached');
        let path: 'a' | 'b' = 'a';
        let serial = 0;
        const got: string[] = [];
        const collect = () => {
          for (const device of [b.a, b.b]) got.push(...device.take().map(payloadOf));
        };
        for (let step = 0; step < 60; step++) {
          const what = random.below(6);
          if (what === 0) b.mux.holdStart({ address: SERVICE, scope: 'all', limits: { timeoutMs: 1e6 } });
          else if (what === 1) b.mux.holdRelease({ address: SERVICE });
          else if (what === 2) {
            const to: 'a' | 'b' = path === 'a' ? 'b' : 'a';
            b.mux.switch({ address: SERVICE, from: path, to, moved: 'all' });
            path = to;
          } else {
            b.up.deliver(
              ...Array.from({ length: random.below(8) }, () =>
                fromClient(1 + random.below(5), FLAG.ACK, { payload: `${serial++}` }),
              ),
            );
          }
          collect();
          b.clock.advance(random.below(50));
        }
        b.mux.holdRelease({ address: SERVICE });
        collect();
        assert.equal(
          got,
          Array.from({ length: serial }, (_, i) => `${i}`),
          `run ${run}`,
        );
      }
    }),
  ),
);

test(
  'text of a held packet is what was sent',
  within(() => {
    const b = bench();
    b.mux.holdStart({ address: SERVICE, scope: 'all' });
    const long = fromClient(1, FLAG.ACK, { payload: 'y'.repeat(1400) });
    b.up.deliver(long);
    b.mux.holdRelease({ address: SERVICE });
    const [got] = b.a.take();
    assert.is(textOf(got!), `tcp ${CLIENT}:1 > ${SERVICE}:80 A`);
    assert.equal(got, long);
  }),
);

test.run();
