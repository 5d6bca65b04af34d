import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { metricsText, Network } from '../../../src/daemon/control/network.ts';
import { MUX_DROPS, MuxServer } from '../../../src/hypervisor/index.ts';
import { stackFigures } from '../../../src/netstack/index.ts';
import { bench, CLIENT, FLAG, fromClient, toClient, udp } from '../../hypervisor/mux/harness.ts';
import { talkingStacks } from '../../netstack/iface/two-stacks.ts';
import { within } from '../../support/index.ts';

const test = suite('daemon/control/network');

/** Samples by name and labels; checks that every line has the form that Prometheus reads. */
function samples(text: string): Map<string, number> {
  assert.ok(text.endsWith('\n'));
  const found = new Map<string, number>();
  const typed = new Set<string>();
  for (const line of text.trimEnd().split('\n')) {
    const comment = /^# (HELP|TYPE) (changeover_(?:mux|partition)_[a-z_]+) (.+)$/.exec(line);
    if (comment !== null) {
      if (comment[1] === 'TYPE') assert.ok(!typed.has(comment[2]!), line);
      if (comment[1] === 'TYPE') typed.add(comment[2]!);
      continue;
    }
    const sample = /^([a-z_]+)(\{([a-z]+="([^"\\\n]|\\["\\n])*",?)+\})? (\d+)$/.exec(line);
    assert.ok(sample !== null, line);
    assert.ok(typed.has(sample![1]!), `${line} without TYPE`);
    found.set(line.slice(0, line.lastIndexOf(' ')), Number(sample![5]));
  }
  return found;
}

test(
  'metrics: every port, every drop by reason, the flows and what a changeover did',
  within(() => {
    const b = bench();
    b.up.deliver(fromClient(4000, FLAG.SYN), fromClient(4001, FLAG.SYN));
    b.a.deliver(toClient(4000, FLAG.SYN | FLAG.ACK));
    b.a.deliver(udp({ fromMac: '02:00:00:00:66:66', from: CLIENT, to: CLIENT, sport: 1, dport: 2 }));
    const text = metricsText({ ports: b.mux.ports(), counters: b.mux.counters({}) });
    const found = samples(text);
    assert.is(found.get('changeover_mux_port_received_packets_total{port="up",role="uplink",kind="tap"}'), 2);
    assert.is(
      found.get('changeover_mux_port_transmitted_packets_total{port="a",role="partition",kind="stream"}'),
      2,
    );
    assert.is(found.get('changeover_mux_port_received_bytes_total{port="up",role="uplink",kind="tap"}'), 120);
    assert.is(found.get('changeover_mux_port_up{port="b",role="partition",kind="stream"}'), 0);
    assert.is(found.get('changeover_mux_port_drops_total{port="a",reason="spoofed-mac"}'), 1);
    assert.is(found.get('changeover_mux_flows'), 2);
    for (const key of found.keys()) {
      const reason = /reason="([^"]+)"/.exec(key)?.[1];
      if (reason !== undefined) assert.ok((MUX_DROPS as readonly string[]).includes(reason), reason);
    }
  }),
);

test(
  'names are quoted as the format wants it',
  within(() => {
    const [port] = bench().mux.ports();
    const ports = [{ ...port!, name: 'a"b\\c\nd' }];
    const counters = bench().mux.counters({});
    assert.match(metricsText({ ports, counters }), /port_up\{port="a\\"b\\\\c\\nd",/);
    samples(metricsText({ ports, counters }));
  }),
);

test(
  'limits go to the mux, and the view shows them; metrics have the stacks of partitions, too',
  within(async () => {
    const server = new MuxServer();
    const handlers = server.handlers();
    const execute = async (name: string, args: object) => handlers[name as 'ports']!(args as never) as never;
    const { b } = talkingStacks();
    const network = new Network({ execute }, async () => [{ partition: 'A', ...stackFigures(b) }]);
    try {
      await network.limit('none', null).then(
        () => assert.unreachable(),
        (error: { code?: string }) => assert.is(error.code, 'unknown-port'),
      );
      assert.equal((await network.view()).ports, []);
      const found = samples(await network.metrics());
      assert.is(found.get('changeover_mux_flows'), 0);
      assert.is(found.get('changeover_partition_connections{partition="A",state="ESTABLISHED"}'), 2);
      assert.is(found.get('changeover_partition_tcp_total{partition="A",counter="passiveOpens"}'), 2);
      assert.is(
        found.get('changeover_partition_received_packets_total{partition="A"}'),
        found.get('changeover_partition_accepted_packets_total{partition="A"}'),
      );
    } finally {
      await server.close();
    }
  }),
);

test.run();
