import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { CLASS, FLOW_TIMEOUTS, FlowTable } from '../../../src/hypervisor/mux/flow-table.ts';
import { PROTOCOL, TCP_FLAG } from '../../../src/netstack/index.ts';
import { seeded, within } from '../../support/index.ts';

const test = suite('hypervisor/mux/flow-table');
const LOCAL = 0x0a4d000b;
const { SYN, ACK, FIN, RST } = TCP_FLAG;

function open(table: FlowTable, remote: number, port: number, nowMs = 0): number {
  const flow = table.insert(LOCAL, remote, (80 << 16) | port, PROTOCOL.TCP, false, nowMs);
  table.sawSegment(flow, false, SYN, 1, 0, 0, nowMs);
  table.sawSegment(flow, true, SYN | ACK, 1, 2, 0, nowMs);
  table.sawSegment(flow, false, ACK, 2, 2, 0, nowMs);
  return flow;
}

test(
  'agrees with a map under random insertions, lookups and removals',
  within(() =>
    seeded((random) => {
      const table = new FlowTable({ capacity: 256 }, random.u32());
      const known = new Map<string, number>();
      for (let i = 0; i < 20_000; i++) {
        const remote = random.below(64) | (random.below(2) << 31);
        const ports = (80 << 16) | random.below(8);
        const key = `${remote} ${ports}`;
        const flow = table.find(LOCAL, remote, ports, PROTOCOL.UDP);
        assert.is(flow >= 0, known.has(key));
        if (flow >= 0) {
          assert.is(known.get(key), flow);
          if (random.below(2) === 0) {
            table.remove(flow);
            known.delete(key);
          }
        } else if (known.size < 256) {
          known.set(key, table.insert(LOCAL, remote, ports, PROTOCOL.UDP, false, i));
        }
        assert.is(table.size, known.size);
      }
      assert.is(table.evicted, 0);
    }),
  ),
);

test(
  'TCP classes: embryonic, established, closing, closed',
  within(() => {
    const table = new FlowTable();
    const flow = table.insert(LOCAL, 1, 80 << 16, PROTOCOL.TCP, false, 0);
    const classes: number[] = [];
    const saw = (fromLocal: boolean, flags: number, seq: number, ack: number, payload = 0) => {
      table.sawSegment(flow, fromLocal, flags, seq, ack, payload, 0);
      classes.push(table.classOf(flow));
    };
    saw(false, SYN, 10, 0);
    saw(true, SYN | ACK, 20, 11);
    saw(false, ACK, 11, 21);
    saw(true, FIN | ACK, 21, 11, 5);
    saw(false, ACK, 11, 26);
    saw(false, ACK, 11, 27);
    saw(false, FIN | ACK, 11, 27);
    saw(true, ACK, 27, 12);
    assert.equal(classes, [
      CLASS.EMBRYONIC,
      CLASS.EMBRYONIC,
      CLASS.ESTABLISHED,
      CLASS.CLOSING,
      CLASS.CLOSING,
      CLASS.CLOSING,
      CLASS.CLOSING,
      CLASS.CLOSED,
    ]);
  }),
);

test(
  'a sequence number that wraps does not hide the end of a flow',
  within(() => {
    const table = new FlowTable();
    const flow = open(table, 1, 1);
    table.sawSegment(flow, true, FIN | ACK, -3, 2, 10, 0);
    table.sawSegment(flow, false, FIN | ACK, 2, 8, 0, 0);
    table.sawSegment(flow, true, ACK, 8, 3, 0, 0);
    assert.ok(table.hasEnded(flow));
  }),
);

test(
  'a RST of the remote side that goes on afterwards was forged: the flow lives; of the service’s side it is final',
  within(() => {
    const drained: number[] = [];
    const table = new FlowTable({ onDrained: (group) => drained.push(group) });
    const flow = open(table, 1, 1);
    table.setGroup(flow, 3);
    table.sawSegment(flow, false, RST, 999, 0, 0, 1);
    assert.equal([table.hasEnded(flow), table.live(3), drained], [true, 0, [3]]);
    table.sawSegment(flow, false, ACK, 2, 2, 10, 2);
    assert.equal([table.hasEnded(flow), table.live(3)], [false, 1]);
    table.sawSegment(flow, true, RST, 2, 0, 0, 3);
    table.sawSegment(flow, false, ACK, 2, 2, 10, 4);
    assert.equal([table.hasEnded(flow), table.live(3)], [true, 0]);
  }),
);

test(
  'ages by class: each kind is gone after its limit and not before',
  within(() => {
    const cases: [string, number, (table: FlowTable) => number][] = [
      ['embryonic', FLOW_TIMEOUTS.embryonicMs, (t) => t.insert(LOCAL, 1, 1, PROTOCOL.TCP, false, 0)],
      ['established', FLOW_TIMEOUTS.establishedMs, (t) => open(t, 1, 1)],
      [
        'closing',
        FLOW_TIMEOUTS.closingMs,
        (t) => {
          const flow = open(t, 1, 1);
          t.sawSegment(flow, false, FIN | ACK, 2, 2, 0, 0);
          return flow;
        },
      ],
      [
        'closed',
        FLOW_TIMEOUTS.closedMs,
        (t) => {
          const flow = open(t, 1, 1);
          t.sawSegment(flow, true, RST, 2, 2, 0, 0);
          return flow;
        },
      ],
      ['udp', FLOW_TIMEOUTS.datagramMs, (t) => t.insert(LOCAL, 1, 1, PROTOCOL.UDP, false, 0)],
      [
        'udp answered',
        FLOW_TIMEOUTS.datagramAnsweredMs,
        (t) => {
          const flow = t.insert(LOCAL, 1, 1, PROTOCOL.UDP, false, 0);
          t.sawDatagram(flow, false, 0);
          t.sawDatagram(flow, true, 0);
          return flow;
        },
      ],
      ['echo', FLOW_TIMEOUTS.echoMs, (t) => t.insert(LOCAL, 1, 1, PROTOCOL.ICMP, false, 0)],
    ];
    for (const [name, limitMs, make] of cases) {
      const table = new FlowTable();
      make(table);
      table.age(limitMs);
      assert.is(table.size, 1, name);
      table.age(limitMs + 1);
      assert.is(table.size, 0, name);
      assert.is(table.aged, 1);
    }
  }),
);

test(
  'a packet renews a flow’s time',
  within(() => {
    const table = new FlowTable();
    const flow = open(table, 1, 1);
    open(table, 2, 2);
    table.sawSegment(flow, false, ACK, 2, 2, 0, 5_000_000);
    table.age(FLOW_TIMEOUTS.establishedMs + 1_000);
    assert.is(table.size, 1);
    assert.is(table.find(LOCAL, 1, (80 << 16) | 1, PROTOCOL.TCP), flow);
  }),
);

test(
  'a SYN flood evicts embryonic flows, never an established one; memory does not grow',
  within(() =>
    seeded((random) => {
      const table = new FlowTable({ capacity: 1024 });
      for (let i = 0; i < 500; i++) open(table, 0x0a000000 + i, i, i);
      for (let i = 0; i < 200_000; i++) {
        const remote = random.u32() | 0;
        const ports = (80 << 16) | random.below(65_536);
        if (table.find(LOCAL, remote, ports, PROTOCOL.TCP) >= 0) continue;
        const flow = table.insert(LOCAL, remote, ports, PROTOCOL.TCP, false, 1_000 + i / 30);
        table.sawSegment(flow, false, SYN, 1, 0, 0, 1_000 + i / 30);
      }
      assert.is(table.size, 1024);
      for (let i = 0; i < 500; i++) {
        assert.ok(table.find(LOCAL, 0x0a000000 + i, (80 << 16) | i, PROTOCOL.TCP) >= 0, `flow ${i}`);
      }
    }),
  ),
);

test(
  'a handshake completes during a SYN flood of 30 000 per second with a round trip of one second',
  within(() => {
    const table = new FlowTable();
    const flow = table.insert(LOCAL, 1, (80 << 16) | 1, PROTOCOL.TCP, false, 0);
    table.sawSegment(flow, false, SYN, 1, 0, 0, 0);
    for (let i = 0; i < 30_000; i++) table.insert(LOCAL, i + 10, 80 << 16, PROTOCOL.TCP, false, i / 30);
    table.sawSegment(flow, true, SYN | ACK, 1, 2, 0, 1_000);
    table.sawSegment(flow, false, ACK, 2, 2, 0, 1_000);
    assert.is(table.find(LOCAL, 1, (80 << 16) | 1, PROTOCOL.TCP), flow);
    assert.is(table.classOf(flow), CLASS.ESTABLISHED);
  }),
);

test(
  'full of established flows it takes no other and says so',
  within(() => {
    const table = new FlowTable({ capacity: 16 });
    for (let i = 0; i < 16; i++) open(table, i, i);
    assert.is(table.insert(LOCAL, 99, 99, PROTOCOL.TCP, false, 0), -1);
    assert.is(table.refused, 1);
  }),
);

test(
  'groups: live members are counted, the last one to go is told, once',
  within(() => {
    const drained: number[] = [];
    const table = new FlowTable({ onDrained: (group) => drained.push(group) });
    const [a, b] = [open(table, 1, 1), open(table, 2, 2)];
    table.setGroup(a, 5);
    table.setGroup(b, 5);
    table.setGroup(b, 5);
    assert.is(table.live(5), 2);
    table.setGroup(a, 0);
    assert.equal([table.live(5), drained], [1, []]);
    table.remove(b);
    assert.equal([table.live(5), drained], [0, [5]]);
  }),
);

test.run();
