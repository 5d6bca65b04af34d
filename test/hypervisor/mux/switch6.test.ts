import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { advertisement, checksum6Right, solicitation } from '../../netstack/packets6.ts';
import { seeded, within } from '../../support/index.ts';
import {
  type Bench,
  checksumsValid,
  destinationMac,
  dropsOf,
  established,
  FLAG,
  flowName,
  fromClient,
  MAC,
  SECOND,
  SERVICE,
  toClient,
} from './harness.ts';
import {
  bench6,
  CLIENT6,
  datagram6,
  echo6,
  error6,
  established6,
  flowName6,
  fragments6,
  fromClient6,
  macHex,
  SECOND6,
  SERVICE6,
  text6,
  texts6,
  toClient6,
} from './harness6.ts';

const test = suite('hypervisor/mux/switch6');
const CUT6 = { address: SERVICE6, from: 'a', to: 'b' } as const;
const GROUP = 'ff02::1:ff00:11';
const GROUP_MAC = '3333ff000011';

function ask(): Uint8Array {
  return solicitation({
    source: CLIENT6,
    destination: GROUP,
    target: SERVICE6,
    mac: macHex(MAC.client),
    from: macHex(MAC.client),
    to: GROUP_MAC,
  });
}

test(
  'one switch moves the addresses of both families; old flows stay with the old partition, new ones go to the new one',
  within(() => {
    const b = bench6();
    established(b, 4000);
    established6(b, 4000);
    const cut = { ...CUT6, address: SERVICE, also: [{ address: SERVICE6, notice: { second: SECOND6 } }] };
    const answer = b.mux.switch({ ...cut, notice: { second: SECOND } });
    assert.equal(answer, {
      notice: 1,
      steered: 1,
      also: [{ address: SERVICE6, notice: 2, steered: 1 }],
    });
    assert.equal(b.mux.switch({ ...cut, notice: { second: SECOND } }), answer, 'repeated: the first answer');
    b.up.deliver(fromClient6(4000, FLAG.ACK), fromClient6(4001, FLAG.SYN), fromClient(4001, FLAG.SYN));
    assert.equal(texts6(b.a), [`tcp ${CLIENT6}.4000 > ${SERVICE6}.80`]);
    const got = b.b.take();
    assert.equal(got.map(text6), [
      `tcp ${CLIENT6}.4001 > ${SERVICE6}.80`,
      'tcp 10.77.0.50:4001 > 10.77.0.11:80 S',
    ]);
    assert.is(destinationMac(got[0]!), MAC.b);
    assert.equal(
      b.mux.flows({ address: SERVICE6, steered: true }).map((f) => [f.flow, f.port]),
      [[flowName6(4000), 'a']],
    );
  }),
);

test(
  'a switch of several addresses that fails for one of them changes none',
  within(() => {
    const b = bench6();
    established(b, 4000);
    const cut = { ...CUT6, address: SERVICE };
    for (const [also, why] of [
      [[{ address: 'fd00::99' }], /has no path/],
      [[{ address: SERVICE6, notice: { second: SECOND } }], /cannot stand for/],
      [[{ address: SERVICE }], /named twice/],
    ] as const) {
      assert.throws(() => b.mux.switch({ ...cut, also: [...also] }), why);
    }
    b.up.deliver(fromClient(4001, FLAG.SYN));
    assert.is(b.a.take().length, 1);
    assert.is(b.mux.ports().find((p) => p.name === 'b')!.state, 'isolated');
    assert.throws(() => b.mux.pathSet({ address: 'fe80::1', port: 'a' }), /cannot be a service/);
    assert.throws(() => b.mux.pathSet({ address: '0.0.0.5', port: 'a' }), /cannot be a service/);
  }),
);

test(
  'change notice: the second address leaves as the first, comes in as the second; errors are put right; checksums hold',
  within(() => {
    const b = bench6();
    established6(b, 4000);
    b.mux.switch({ ...CUT6, notice: { second: SECOND6 } });
    b.up.deliver(fromClient6(4000, FLAG.ACK, 'before'));
    assert.equal(texts6(b.a), [`tcp ${CLIENT6}.4000 > ${SERVICE6}.80`], 'not before it was seen');
    b.a.deliver(toClient6(4000, FLAG.ACK, 'a', SECOND6, 'answer'));
    const left = b.up.take();
    assert.equal(left.map(text6), [`tcp ${SERVICE6}.80 > ${CLIENT6}.4000`]);
    assert.ok(checksum6Right(left[0]!));
    const about = toClient6(4000, FLAG.ACK);
    b.up.deliver(fromClient6(4000, FLAG.ACK, 'after'), error6({ from: 'fd00::1', to: SERVICE6 }, about));
    const after = b.a.take();
    assert.equal(after.map(text6), [`tcp ${CLIENT6}.4000 > ${SECOND6}.80`, `icmp2 fd00::1 > ${SECOND6}`]);
    for (const packet of after) assert.ok(checksum6Right(packet));
    assert.equal(
      text6(Buffer.concat([after[1]!.subarray(0, 24), after[1]!.subarray(24 + 48)])),
      `tcp ${SECOND6}.80 > ${CLIENT6}.4000`,
    );
    assert.is(b.mux.counters({ address: SERVICE6 }).sinceSwitch.rewritten, 1);
  }),
);

test(
  'no RST leaves for a flow the mux knows but from its own port; DRAINED when the last one has ended',
  within(() => {
    const b = bench6();
    established6(b, 4000);
    b.mux.switch(CUT6);
    b.b.deliver(toClient6(4000, FLAG.RST, 'b'), toClient6(4000, FLAG.ACK, 'b'));
    assert.is(b.up.take().length, 0);
    assert.equal(dropsOf(b, 'b'), { 'rst-suppressed': 1, 'not-flow-owner': 1 });
    assert.throws(() => b.mux.noticeCancel({ address: SERVICE6 }), /have not ended/);
    b.a.deliver(toClient6(4000, FLAG.FIN | FLAG.ACK));
    b.up.deliver(fromClient6(4000, FLAG.FIN | FLAG.ACK));
    b.a.deliver(toClient6(4000, FLAG.ACK));
    b.clock.advance(1);
    assert.equal(b.events.at(-1), { name: 'DRAINED', data: { address: SERVICE6 } });
  }),
);

test(
  'fragments follow their flow, in both directions and through a notice',
  within(() => {
    const b = bench6();
    const way = { from: CLIENT6, to: SERVICE6, sport: 1, dport: 9 };
    b.up.deliver(datagram6(way));
    b.mux.switch({ ...CUT6, notice: { second: SECOND6, immediately: true } });
    b.a.take();
    b.up.deliver(...fragments6(way, 77));
    assert.equal(texts6(b.a), Array(2).fill(`fragment ${CLIENT6} > ${SECOND6}`));
    b.up.deliver(...fragments6({ ...way, sport: 2 }, 78));
    assert.equal(texts6(b.b), Array(2).fill(`fragment ${CLIENT6} > ${SERVICE6}`), 'a new flow');
    const back = { from: SECOND6, to: CLIENT6, sport: 9, dport: 1, fromMac: MAC.a, toMac: MAC.client };
    b.a.deliver(...fragments6(back, 5));
    assert.equal(texts6(b.up), Array(2).fill(`fragment ${SERVICE6} > ${CLIENT6}`));
  }),
);

test(
  'echo requests follow the path, answers to the old partition’s own come back to it',
  within(() => {
    const b = bench6();
    b.up.deliver(echo6({ from: CLIENT6, to: SERVICE6 }, 5));
    b.a.deliver(echo6({ fromMac: MAC.a, toMac: MAC.client, from: SERVICE6, to: CLIENT6 }, 6));
    b.mux.switch(CUT6);
    b.a.take();
    b.up.deliver(echo6({ from: CLIENT6, to: SERVICE6 }, 5), echo6({ from: CLIENT6, to: SERVICE6 }, 6, true));
    assert.equal(
      [texts6(b.b), texts6(b.a)],
      [[`icmp128 ${CLIENT6} > ${SERVICE6}`], [`icmp129 ${CLIENT6} > ${SERVICE6}`]],
    );
  }),
);

test(
  'hold: new flows, then everything and solicitations wait, and go on in order to the new holder',
  within(() => {
    const b = bench6();
    established6(b, 4000);
    b.mux.holdStart({ address: SERVICE6, scope: 'new-flows' });
    b.up.deliver(fromClient6(4000, FLAG.ACK), fromClient6(4001, FLAG.SYN), ask());
    assert.equal(texts6(b.a), [`tcp ${CLIENT6}.4000 > ${SERVICE6}.80`, `icmp135 ${CLIENT6} > ${GROUP}`]);
    b.mux.holdStart({ address: SERVICE6, scope: 'all', except: [flowName6(4000)], barrier: 7 });
    assert.is(b.a.take().length, 1, 'the barrier');
    b.up.deliver(fromClient6(4000, FLAG.ACK), ask());
    assert.equal(texts6(b.a), [`tcp ${CLIENT6}.4000 > ${SERVICE6}.80`]);
    b.mux.switch({ ...CUT6, moved: [flowName6(4000)] });
    b.mux.holdRelease({ address: SERVICE6 });
    assert.equal(texts6(b.b), [`tcp ${CLIENT6}.4001 > ${SERVICE6}.80`, `icmp135 ${CLIENT6} > ${GROUP}`]);
    b.up.deliver(fromClient6(4000, FLAG.ACK));
    assert.is(b.b.take().length, 1, 'moved');
  }),
);

test(
  'a flow that a partition names is known before its first packet; a hand-over of flows moves it',
  within(() => {
    const b = bench6();
    established6(b, 4000);
    b.mux.switch(CUT6);
    b.mux.holdStart({
      address: SERVICE6,
      scope: 'flows',
      flows: [flowName6(4000), flowName6(4001)],
      barrier: 1,
    });
    b.up.deliver(fromClient6(4000, FLAG.ACK), fromClient6(4001, FLAG.ACK));
    assert.equal([texts6(b.a).length, texts6(b.b).length], [1, 1], 'a barrier each, where they went');
    assert.equal(b.mux.flowsMoved({ address: SERVICE6, flows: [flowName6(4000)] }), { moved: 1 });
    b.mux.holdRelease({ address: SERVICE6 });
    assert.is(b.b.take().length, 2);
    const wrong = { ...flowName6(4000), remoteAddress: '10.0.0.1' };
    assert.throws(() => b.mux.flowsMoved({ address: SERVICE6, flows: [wrong] }), /cannot be a peer/);
  }),
);

test(
  'who asks for a service address reaches the holder of its path; answers go by their MAC; announcements override',
  within(() => {
    const b = bench6();
    b.mux.portState('b', 'attached');
    b.up.deliver(ask());
    assert.equal([texts6(b.a).length, texts6(b.b).length], [1, 0]);
    const answer = { from: macHex(MAC.a), to: macHex(MAC.client), mac: macHex(MAC.a), flags: 0x60 };
    b.a.deliver(advertisement({ source: SERVICE6, destination: CLIENT6, target: SERVICE6, ...answer }));
    assert.equal(texts6(b.up), [`icmp136 ${SERVICE6} > ${CLIENT6}`]);
    b.mux.switch(CUT6);
    b.up.deliver(ask());
    assert.equal([texts6(b.a).length, texts6(b.b).length], [0, 1]);
    b.mux.announce({ address: SERVICE6, port: 'b', count: 2, intervalMs: 100 });
    b.clock.advance(1_000);
    const announced = b.up.take();
    const expected = advertisement({
      source: SERVICE6,
      destination: 'ff02::1',
      target: SERVICE6,
      mac: macHex(MAC.b),
      flags: 0x20,
      from: macHex(MAC.b),
      to: '333300000001',
    });
    assert.equal(
      announced.map((p) => Buffer.from(p).toString('hex')),
      Array(2).fill(expected.toString('hex')),
    );
    // Nobody but the holder hears that: a has the address, too.
    assert.is(b.a.take().length, 0);
    b.b.deliver(expected);
    assert.equal([b.a.take().length, b.up.take().length], [0, 1]);
  }),
);

test(
  'solicitations in a group reach every partition when they are for no service address',
  within(() => {
    const b = bench6();
    b.mux.portState('b', 'attached');
    b.up.deliver(
      solicitation({
        source: CLIENT6,
        destination: 'ff02::1:ff00:13',
        target: 'fd00::13',
        from: macHex(MAC.client),
        to: '3333ff000013',
      }),
    );
    assert.equal([b.a.take().length, b.b.take().length], [1, 1]);
  }),
);

test(
  'a flood of invented addresses takes no room that established flows have, and leaves no keys behind',
  within(() =>
    seeded((random) => {
      const b = bench6({ flows: { capacity: 64 } });
      for (let port = 0; port < 32; port++) established6(b, 5000 + port);
      const address = () => `fd01::${random.below(65_536).toString(16)}:${random.below(65_536).toString(16)}`;
      for (let i = 0; i < 5_000; i++) {
        const way = { from: address(), to: SERVICE6, sport: random.below(65_536), dport: 80 };
        b.up.deliver(datagram6(way));
        b.up.deliver(datagram6({ ...way, to: 'fd00::99' }));
      }
      assert.is(b.mux.counters({ address: SERVICE6 }).flows, 64);
      b.mux.switch(CUT6);
      b.a.take();
      for (let port = 0; port < 32; port++) b.up.deliver(fromClient6(5000 + port, FLAG.ACK));
      assert.is(b.a.take().length, 32);
      b.clock.advance(300_000);
      assert.is(b.mux.counters({ address: SERVICE6 }).flows, 32);
    }),
  ),
);

interface Marked {
  readonly packet: Uint8Array;
  readonly key: string;
  readonly mark: string;
}

function payload6(packet: Uint8Array): string {
  const start = packet[22] === 0x86 ? 24 + 40 + 20 : 64;
  return new TextDecoder().decode(packet.slice(start)).replace(/\0+$/, '');
}

function traffic(random: { below(n: number): number }, b: Bench, runs: number): void {
  /** Family and client port → partition that has the flow. */
  const owner = new Map<string, 'a' | 'b'>();
  let path: 'a' | 'b' = 'a';
  let serial = 0;
  const name = (key: string) =>
    key.startsWith('6') ? flowName6(Number(key.slice(2))) : flowName(Number(key.slice(2)));
  for (let step = 0; step < runs; step++) {
    if (random.below(12) === 0) {
      const to: 'a' | 'b' = path === 'a' ? 'b' : 'a';
      const moving =
        random.below(3) === 0 ? [...owner].filter(([, at]) => at === path && random.below(2) === 0) : [];
      const part = (family: string, address: string, second: string) => ({
        address,
        moved: moving.filter(([key]) => key.startsWith(family)).map(([key]) => name(key)),
        ...(random.below(2) === 0 ? { notice: { second, immediately: random.below(2) === 0 } } : {}),
      });
      const four = part('4', SERVICE, path === 'a' ? SECOND : '10.77.0.13');
      const six = part('6', SERVICE6, path === 'a' ? SECOND6 : 'fd00::13');
      b.mux.switch({ from: path, to, ...four, also: [six] });
      for (const [key] of moving) owner.set(key, to);
      path = to;
      continue;
    }
    const batch: Marked[] = [];
    for (let i = random.below(6); i >= 0; i--) {
      const known = [...owner.keys()];
      const fresh = known.length === 0 || random.below(4) === 0;
      const key = fresh
        ? `${random.below(2) === 0 ? 4 : 6}:${10_000 + serial}`
        : known[random.below(known.length)]!;
      const mark = `m${serial++}`;
      if (fresh) owner.set(key, path);
      const flags = fresh ? FLAG.SYN : FLAG.ACK;
      const port = Number(key.slice(2));
      const packet = key.startsWith('6')
        ? fromClient6(port, flags, mark)
        : fromClient(port, flags, { payload: mark });
      batch.push({ packet, key, mark });
    }
    b.up.deliver(...batch.map((x) => x.packet));
    const got = { a: b.a.take(), b: b.b.take() };
    for (const partition of ['a', 'b'] as const) {
      const expected = batch.filter((x) => owner.get(x.key) === partition);
      assert.equal(
        got[partition].map(payload6),
        expected.map((x) => x.mark),
        `step ${step}: right partition, in order`,
      );
      for (const packet of got[partition]) {
        assert.ok(packet[22] === 0x86 ? checksum6Right(packet) : checksumsValid(packet));
      }
      const key = expected[0]?.key;
      if (key === undefined) continue;
      const port = Number(key.slice(2));
      const six = key.startsWith('6');
      b[partition].deliver(six ? toClient6(port, FLAG.ACK, partition) : toClient(port, FLAG.ACK, partition));
      const text = six
        ? `tcp ${SERVICE6}.80 > ${CLIENT6}.${port}`
        : `tcp ${SERVICE}:80 > 10.77.0.50:${port} A`;
      assert.equal(texts6(b.up), [text]);
    }
  }
}

test(
  'under random switches of both addresses no packet of either family is lost, duplicated, or given to the wrong partition',
  within(
    () =>
      seeded((random) => {
        for (let run = 0; run < 30; run++) {
          const b = bench6();
          b.mux.portState('b', 'attached');
          traffic(random, b, 200);
        }
      }),
    20_000,
  ),
);

test.run();
