import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { showStats, statsTable } from '../../../src/daemon/standalone/stack-stats.ts';
import { stackFigures } from '../../../src/netstack/index.ts';
import { talkingStacks } from '../../netstack/iface/two-stacks.ts';
import { eventually, within } from '../../support/index.ts';

const stats = suite('daemon/standalone/stack-stats');

stats('figures: each connection with its names, times, windows and bytes; counters and drops', () => {
  const { b } = talkingStacks();
  const { connections, states, tcp, ip, drops } = stackFigures(b);
  assert.is(connections.length, 2);
  assert.equal(connections.map(({ local }) => local).sort(), ['10.77.0.2:80', '[fd00::2]:80']);
  for (const one of connections) {
    assert.is(one.state, 'ESTABLISHED');
    assert.is(one.bytesSent, 5000);
    assert.is(one.flight, 0);
    assert.is(one.ssthresh, null);
    assert.is(one.softError, null);
    assert.ok(one.cwnd >= 10 * one.mss && one.rtoMs >= 200 && one.sndWnd > 0 && one.rcvWnd > 0);
  }
  assert.equal(states, { ESTABLISHED: 2 });
  assert.is(tcp['passiveOpens'], 2);
  assert.is(ip.received, ip.accepted);
  assert.equal(drops, {});
});

stats('table: one line per connection under aligned titles, bounded; zero counters are left out', () => {
  const figures = stackFigures(talkingStacks().b);
  const [first, titles, ...rest] = statsTable(figures);
  assert.match(first!, '2 connections (ESTABLISHED 2)');
  assert.match(titles!, /^local +remote +state +rtt ms +rto ms +cwnd/);
  assert.is(rest.length, 4);
  assert.is(rest[0]!.length, titles!.length);
  assert.match(rest[2]!, /^tcp: .*passiveOpens 2/);
  assert.not.match(rest[2]!, 'timeouts');
  assert.match(rest[3]!, 'dropped: none');
  const connections = Array.from({ length: 100 }, () => figures.connections[0]!);
  const many = statsTable({ ...figures, connections });
  assert.ok(many.includes('… and 60 more'));
});

stats(
  'SIGUSR1 prints once, --stats again and again, JSON is one object per line; nothing is left behind',
  within(async () => {
    const { b } = talkingStacks();
    const lines: string[] = [];
    const listeners = process.listenerCount('SIGUSR1');
    const end = showStats(b, { print: (line) => lines.push(line), json: true });
    process.kill(process.pid, 'SIGUSR1');
    await eventually('the figures', () => lines.length === 1);
    const told = JSON.parse(lines[0]!) as { connections: unknown[]; time: string };
    assert.is(told.connections.length, 2);
    assert.match(told.time, /^\d{4}-\d\d-\d\dT/);
    end();
    assert.is(process.listenerCount('SIGUSR1'), listeners);
    const keepAlive = setTimeout(() => {}, 9000);
    const endTable = showStats(b, { print: (line) => lines.push(line), json: false, everyMs: 20 });
    await eventually('three tables', () => lines.filter((line) => line.startsWith('tcp: ')).length >= 3);
    endTable();
    clearTimeout(keepAlive);
  }),
);

stats.run();
