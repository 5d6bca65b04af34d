/** A NIC as uplink: one end of a veth pair stands for it, the host's stack in another namespace for the network behind it. */
import type { ChildProcess } from 'node:child_process';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PacketSocket } from 'tap-tun';
import * as assert from 'uvu/assert';
import { systemClock, systemRandom } from '../../src/common/index.ts';
import { MuxServer } from '../../src/hypervisor/mux/index.ts';
import {
  cidr,
  macAddress,
  NetFace,
  NicLink,
  Stack,
  StackServer,
  StreamLink,
} from '../../src/netstack/index.ts';
import type { HeldNamespace } from '../support/index.ts';
import { eventually, holdNamespace, liveSuite, run, within } from '../support/index.ts';

const live = liveSuite('live/nic-uplink');

const opened: { close(): unknown }[] = [];
function open<T extends { close(): unknown }>(thing: T): T {
  opened.push(thing);
  return thing;
}
live.after.each(async () => {
  for (const thing of opened.splice(0).reverse()) await thing.close();
});

const ip = (...args: string[]) => execFileSync('ip', args, { encoding: 'utf8' });

/** `nic0` here, its other end `peer0` in a namespace with 10.94.0.1 and fd94::1. */
async function network(options: { mtu?: number; offload?: boolean } = {}): Promise<HeldNamespace> {
  const outside = open(await holdNamespace());
  wire(outside, options);
  open({ close: () => void spawnQuietly('ip', 'link', 'del', 'nic0') });
  return outside;
}

function wire(outside: HeldNamespace, { mtu = 1500, offload = true } = {}): void {
  ip('link', 'add', 'nic0', 'mtu', String(mtu), 'type', 'veth', 'peer', 'name', 'peer0', 'mtu', String(mtu));
  ip('link', 'set', 'peer0', 'netns', outside.path);
  outside.run('ip', 'addr', 'add', '10.94.0.1/24', 'dev', 'peer0');
  outside.run('ip', 'addr', 'add', 'fd94::1/64', 'dev', 'peer0', 'nodad');
  outside.run('ip', 'link', 'set', 'peer0', 'up');
  ip('link', 'set', 'nic0', 'up');
  if (offload) return;
  const off = ['-K', 'peer0', 'tx', 'off', 'tso', 'off', 'gso', 'off', 'gro', 'off'];
  outside.run('ethtool', ...off);
  execFileSync('ethtool', ['-K', 'nic0', 'tx', 'off', 'tso', 'off', 'gso', 'off', 'gro', 'off'], {
    stdio: 'ignore',
  });
}

function spawnQuietly(...argv: string[]): void {
  try {
    execFileSync(argv[0]!, argv.slice(1), { stdio: 'ignore' });
  } catch {
    // It is gone already.
  }
}

function muxOf() {
  const events: string[] = [];
  const server = open(
    new MuxServer({ onEvent: (name, data) => void events.push(`${name} ${JSON.stringify(data)}`) }),
  );
  return { server, events };
}

/** A stack of ours behind a partition port, with an echo server on port 7000. */
async function partition(server: MuxServer, name: string, last: number): Promise<Stack> {
  const socket = join(open(scratch()).path, name);
  const mac = `02:00:00:00:94:${last.toString(16).padStart(2, '0')}`;
  const addresses = [`10.94.0.${last}`, `fd94::${last.toString(16)}`];
  await server.addPort({ name, socket, mac, addresses, vnetHeader: true });
  const link = open(new StreamLink({ path: socket }));
  const stack = new Stack({
    clock: systemClock,
    random: systemRandom,
    link,
    mac: macAddress(mac),
    addresses: [cidr(`${addresses[0]}/24`), cidr(`${addresses[1]}/64`)],
  });
  await link.ready();
  server.mux.portState(name, 'attached');
  // Who says nothing counts as connected after a moment: it may still ask for rings.
  const connected = () => server.mux.ports().find((port) => port.name === name)?.state === 'attached';
  await eventually('the port is connected', connected);
  for (const address of addresses) server.mux.pathSet({ address, port: name });
  const echo = new StackServer(new NetFace(stack), {}, (socket) => {
    socket.on('error', () => {});
    socket.pipe(socket);
  });
  open({ close: () => void echo.close() });
  echo.listenOn({ port: 7000 });
  await once(echo, 'listening');
  return stack;
}

function scratch(): { path: string; close(): void } {
  const path = mkdtempSync(join(tmpdir(), 'changeover-nic-'));
  return { path, close: () => rmSync(path, { recursive: true, force: true }) };
}

const CLIENT = `
  const total = 8 << 20; const data = Buffer.alloc(total, 'changeover'); let n = 0, right = 0;
  const c = require('node:net').connect(7000, process.argv[1], () => c.write(data));
  c.on('data', (d) => { if (d.equals(data.subarray(n, n + d.length))) right += d.length; n += d.length; if (n === total) { console.log(right); c.destroy(); } });
  c.on('error', (e) => { console.log(e.code); });
`;

const inside = (ns: HeldNamespace, ...argv: string[]) =>
  run(ns.enter[0]!, [...ns.enter.slice(1), ...argv], { timeout: 60_000 }).then(({ stdout }) => stdout);
const answers = (ns: HeldNamespace, address: string) =>
  inside(ns, 'ping', '-c', '1', '-W', '1', address).then(
    () => true,
    () => false,
  );

for (const offload of [true, false]) {
  live(
    `kernel behind the NIC ↔ two partitions, IPv4 and IPv6, 8 MiB each way byte-exact, offloads ${offload ? 'on' : 'off'}`,
    within(async () => {
      const outside = await network({ offload });
      const { server } = muxOf();
      assert.is(server.addUplink({ name: 'nic0', kind: 'nic' }).kind, 'nic');
      await partition(server, 'a', 11);
      await partition(server, 'b', 12);
      for (const address of ['10.94.0.11', '10.94.0.12', 'fd94::b', 'fd94::c']) {
        assert.match(
          await inside(outside, 'ping', '-c', '2', '-i', '0.05', '-W', '5', address),
          /2 received/,
        );
      }
      for (const address of ['10.94.0.11', 'fd94::c']) {
        const echoed = await inside(outside, process.execPath, '-e', CLIENT, address);
        assert.is(echoed.trim(), String(8 << 20), address);
      }
      const large = await inside(outside, 'ping', '-c', '1', '-W', '5', '-s', '9000', '10.94.0.11');
      assert.match(large, /1 received/, 'fragments pass');
      const drops = server.mux.ports().map((port) => port.drops);
      for (const of of drops) {
        for (const reason of ['too-big', 'bad-vnet-header', 'segmentation']) {
          assert.is(of[reason] ?? 0, 0, reason);
        }
        // The kernel's window may be larger than the port's queue: then a drop is what tells it.
        assert.ok((of['queue-full'] ?? 0) < 50, `${of['queue-full']} found the queue full`);
      }
    }, 90_000),
  );
}

live(
  'iperf3 through NIC and TAP both ways, at an MTU of 1400: 64 KiB packets with offloads; the NIC’s own MTU is left alone',
  within(async () => {
    const outside = await network({ mtu: 1400 });
    const { server } = muxOf();
    assert.throws(() => server.addUplink({ name: 'nic0', kind: 'nic', mtu: 1500 }), /has an MTU of 1400/);
    server.addUplink({ name: 'nic0', kind: 'nic', mtu: 1400 });
    server.addUplink({ name: 'tapn0', mtu: 1400, joins: 'nic0' });
    const behind = open(await holdNamespace());
    ip('link', 'set', 'tapn0', 'netns', behind.path);
    behind.run('ip', 'addr', 'add', '10.94.0.2/24', 'dev', 'tapn0');
    behind.run('ip', 'link', 'set', 'tapn0', 'up');
    const iperf: ChildProcess = spawn(behind.enter[0]!, [...behind.enter.slice(1), 'iperf3', '-s'], {
      stdio: 'ignore',
    });
    open({ close: () => void iperf.kill('SIGKILL') });
    for (const reverse of [[], ['-R']]) {
      const mbit = await eventually(
        'an iperf3 run',
        async () => {
          const report = await inside(
            outside,
            'iperf3',
            '-c',
            '10.94.0.2',
            '-t',
            '1',
            '-J',
            ...reverse,
          ).catch(() => '{}');
          const { end } = JSON.parse(report) as { end?: { sum_received?: { bits_per_second: number } } };
          return end?.sum_received && end.sum_received.bits_per_second / 1e6;
        },
        30_000,
      );
      console.log(`NIC ↔ mux ↔ TAP ${reverse.join('')}: ${mbit.toFixed(0)} Mbit/s`);
      assert.ok(mbit > 100, `${mbit} Mbit/s`);
    }
    assert.match(ip('link', 'show', 'nic0'), /mtu 1400/);
    for (const port of server.mux.ports()) assert.is(port.drops['too-big'] ?? 0, 0);
  }, 90_000),
);

live(
  'the interface goes down, is deleted, and comes back: the state says so, and packets pass again',
  within(async () => {
    const outside = await network();
    const { server, events } = muxOf();
    server.addUplink({ name: 'nic0', kind: 'nic' });
    await partition(server, 'a', 11);
    assert.ok(await answers(outside, '10.94.0.11'));
    const state = () => server.mux.ports().find((port) => port.name === 'nic0')!.state;

    ip('link', 'set', 'nic0', 'down');
    await eventually('down is seen', () => state() === 'disconnected');
    ip('link', 'set', 'nic0', 'up');
    await eventually('up is seen', () => state() === 'attached');
    await eventually('an answer', () => answers(outside, '10.94.0.11'), 15_000);

    outside.run('ip', 'link', 'set', 'peer0', 'down');
    await eventually('the lost carrier is seen', () => state() === 'disconnected');
    outside.run('ip', 'link', 'set', 'peer0', 'up');
    outside.run('ip', 'addr', 'replace', 'fd94::1/64', 'dev', 'peer0', 'nodad');
    await eventually('the carrier is seen', () => state() === 'attached');

    ip('link', 'del', 'nic0');
    await eventually('it is gone', () => state() === 'disconnected');
    server.mux.announce({ address: '10.94.0.11', port: 'a', count: 1 });
    wire(outside);
    await eventually('it is back', () => state() === 'attached');
    await eventually('an answer', () => answers(outside, '10.94.0.11'), 15_000);
    assert.is(events.filter((event) => event.includes('"nic0"')).length, 6, events.join('\n'));
  }, 90_000),
);

live(
  'an address that the host has itself is refused, with where it is; a NIC that does not exist, too',
  within(async () => {
    await network();
    ip('addr', 'add', '10.94.0.20/24', 'dev', 'nic0');
    ip('addr', 'add', 'fd94::20/64', 'dev', 'nic0', 'nodad');
    const { server } = muxOf();
    assert.throws(
      () => server.addUplink({ name: 'nic7', kind: 'nic' }),
      (error: { code?: string }) => error.code === 'ENODEV',
    );
    const socket = join(open(scratch()).path, 'a');
    await server.addPort({ name: 'a', socket, mac: '02:00:00:00:94:0b', addresses: ['10.94.0.20'] });
    const pathSet = server.handlers()['path-set']!;
    pathSet({ address: '10.94.0.20', port: 'a' });
    const refused = (error: { code?: string; message: string }) =>
      error.code === 'host-address' && error.message.endsWith('on nic0');
    assert.throws(() => server.addUplink({ name: 'nic0', kind: 'nic' }), refused);
    ip('addr', 'del', '10.94.0.20/24', 'dev', 'nic0');
    server.addUplink({ name: 'nic0', kind: 'nic' });
    assert.throws(() => pathSet({ address: 'fd94::20', port: 'a' }), refused);
  }),
);

live(
  'closing releases everything: no packet socket is left, and the interface is not promiscuous any more',
  within(async () => {
    await network();
    const promiscuity = () => Number(/promiscuity (\d+)/.exec(ip('-d', 'link', 'show', 'nic0'))?.[1]);
    const sockets = () => readFileSync('/proc/self/net/packet', 'utf8').trim().split('\n').length - 1;
    const before = sockets();
    const { server } = muxOf();
    server.addUplink({ name: 'nic0', kind: 'nic' });
    assert.equal([promiscuity(), sockets()], [1, before + 1]);
    server.removePort('nic0');
    assert.equal([promiscuity(), sockets()], [0, before]);
  }),
);

live(
  'a tag that the kernel took out of a frame is put back; a flood that nobody reads is dropped by the kernel, bounded and counted',
  within(async () => {
    const outside = await network({ offload: false });
    const link = open(new NicLink({ name: 'nic0', receiveBufferBytes: 256 * 1024 }));
    const tags = new Set<string>();
    let received = 0;
    link.attach({
      receive: (buffer, offset) => {
        received++;
        const view = new DataView(buffer.buffer, buffer.byteOffset + offset + 10);
        if (view.getUint16(12) === 0x8100) {
          tags.add(`${view.getUint16(14) & 0xfff} ${view.getUint16(16).toString(16)}`);
        }
      },
      endOfBatch: () => {},
      writable: () => {},
    });
    const sender = open(new PacketSocket({ name: 'peer0', netns: outside.path }));
    const tagged = Buffer.from('ffffffffffff0200000094ee8100002a88b5'.padEnd(128, '0'), 'hex');
    sender.writeOne(tagged);
    await eventually('a tagged frame', () => tags.has('42 88b5'));

    // While this loop runs nobody reads.
    const before = received;
    const frame = Buffer.from('020000009477020000009488b5'.padStart(28, '0').padEnd(2000, '0'), 'hex');
    for (let i = 0; i < 3_000; i++) assert.ok(sender.writeOne(frame));
    await eventually('what was kept', () => received > before);
    const { droppedQueue } = link.counters;
    console.log(
      `3000 packets to a process that does not read: ${received - before} kept, ${droppedQueue} dropped`,
    );
    assert.ok(droppedQueue > 1_000, `${droppedQueue} dropped`);
    assert.ok(received - before < 1_500, `${received - before} kept in 256 KiB`);
  }, 60_000),
);

live.run();
