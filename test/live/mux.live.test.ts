import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import type { Socket } from 'node:net';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { ChannelClient } from '../../src/channel/index.ts';
import { systemClock } from '../../src/common/index.ts';
import { runMux } from '../../src/daemon/standalone/mux.ts';
import type { MuxCommands, MuxEvents } from '../../src/hypervisor/index.ts';
import { StreamLink } from '../../src/netstack/index.ts';
import { arp, CLIENT, echo, FLAG, MAC, SERVICE, tcp, textOf } from '../hypervisor/mux/harness.ts';
import { eventually, liveSuite, run, within } from '../support/index.ts';

const test = liveSuite('live/mux');
const directory = mkdtempSync(join(tmpdir(), 'mux-live-'));
const children: { kill(signal: NodeJS.Signals): unknown }[] = [];

/** What a test that failed has left. */
const cleanUp: (() => unknown)[] = [];

test.after(() => {
  for (const clean of cleanUp) clean();
  for (const child of children) child.kill('SIGKILL');
  rmSync(directory, { recursive: true });
});

const ip = (...args: string[]) => run('ip', args);

/** A network namespace that lives as long as its child. */
async function namespace(): Promise<{ pid: number; run: (...argv: string[]) => Promise<string> }> {
  const child = spawn('unshare', ['--net', 'sleep', '120'], { stdio: 'ignore' });
  children.push(child);
  const pid = child.pid!;
  const own = async (p: number | 'self') => (await run('readlink', [`/proc/${p}/ns/net`])).stdout;
  const ours = await own('self');
  await eventually('a namespace of its own', async () => (await own(pid)) !== ours);
  return {
    pid,
    run: async (...argv) =>
      (await run('nsenter', ['-t', String(pid), '-n', ...argv], { timeout: 20_000 })).stdout,
  };
}

/** Two namespaces whose only connection is `changeover mux`. */
async function joined(pcap?: string) {
  const ending = new AbortController();
  const lines: string[] = [];
  const done = runMux({
    taps: ['mxl0', 'mxl1'],
    signal: ending.signal,
    print: (line) => lines.push(line),
    complain: (line) => lines.push(line),
    ...(pcap === undefined ? {} : { pcap }),
  });
  cleanUp.push(() => ending.abort());
  const [left, right] = [await namespace(), await namespace()];
  for (const [side, name, address] of [
    [left, 'mxl0', '10.9.0.1/24'],
    [right, 'mxl1', '10.9.0.2/24'],
  ] as const) {
    await ip('link', 'set', name, 'netns', String(side.pid));
    await side.run('ip', 'addr', 'add', address, 'dev', name);
    await side.run('ip', 'link', 'set', name, 'up');
    await side.run('ip', 'link', 'set', 'lo', 'up');
  }
  return {
    left,
    right,
    lines,
    end: () => {
      ending.abort();
      return done;
    },
  };
}

test(
  'two namespaces joined by `changeover mux`: ping, TCP with offloads both ways, IPv6; tshark reads the capture',
  within(async () => {
    const pcap = join(directory, 'joined.pcapng');
    const { left, right, lines, end } = await joined(pcap);
    const ping = await left.run('ping', '-c', '5', '-i', '0.05', '-W', '2', '10.9.0.2');
    assert.match(ping, /5 received/);
    const server = spawn('nsenter', ['-t', String(right.pid), '-n', 'iperf3', '-s'], { stdio: 'ignore' });
    children.push(server);
    for (const reverse of [[], ['-R']]) {
      const bytes = await eventually(
        'an iperf3 run',
        async () => {
          const report = await left
            .run('iperf3', '-c', '10.9.0.2', '-t', '1', '-J', ...reverse)
            .catch(() => '{}');
          const { end } = JSON.parse(report) as { end?: { sum_received?: { bytes: number } } };
          return end?.sum_received?.bytes;
        },
        30_000,
      );
      assert.ok(bytes > 20_000_000, `${bytes} bytes in a second`);
    }
    server.kill('SIGKILL');
    const large = await left.run('ping', '-c', '1', '-W', '2', '-s', '9000', '10.9.0.2');
    assert.match(large, /1 received/, 'fragments pass');
    const six = await left.run('sh', '-c', 'sleep 0; ping -6 -c 1 -W 5 ff02::1%mxl0');
    assert.match(six, /1 received|\+\d+ duplicates/);
    assert.is(await end(), 0);
    assert.ok(lines.some((line) => /^mxl0: \d+ packets in, \d+ out/.test(line)));
    const { stdout, stderr } = await run('tshark', [
      '-r',
      pcap,
      '-Y',
      'icmp',
      '-T',
      'fields',
      '-e',
      'frame.interface_name',
      '-e',
      'ip.src',
    ]);
    assert.not.match(stderr, /appears|corrupt|malformed|cut short|isn't/i);
    assert.match(stdout, /mxl0\t10\.9\.0\.1/);
    assert.match(stdout, /mxl1\t10\.9\.0\.2/);
    const interfaces = await run('capinfos', [pcap]).catch(() => undefined);
    if (interfaces !== undefined) assert.match(interfaces.stdout, /Number of interfaces in file: 2/);
  }, 90_000),
);

test(
  '`changeover mux` says what is wrong with its options and with a name that cannot be had',
  within(async () => {
    const complaints: string[] = [];
    const complain = (line: string) => void complaints.push(line);
    const print = () => {};
    assert.is(await runMux({ taps: ['one'], complain, print }), 2);
    assert.is(await runMux({ taps: ['one', 'one'], complain, print }), 2);
    assert.is(await runMux({ taps: ['one', 'two'], mtu: 20, complain, print }), 2);
    assert.is(await runMux({ taps: ['a-name-that-is-too-long', 'two'], complain, print }), 1);
    assert.is(complaints.length, 4);
    for (const line of complaints) assert.match(line, /^changeover mux: .{20,}/);
  }),
);

/** A partition as QEMU would attach it with `-netdev stream,addr.type=unix`: no more than the documented framing. */
class QemuClient {
  readonly frames: Uint8Array[] = [];
  readonly #socket: Socket;
  #bytes = Buffer.alloc(0);

  constructor(path: string) {
    this.#socket = connect(path);
    this.#socket.on('data', (chunk: Buffer) => {
      this.#bytes = Buffer.concat([this.#bytes, chunk]);
      while (this.#bytes.length >= 4) {
        const length = this.#bytes.readUInt32BE(0);
        if (this.#bytes.length < 4 + length) return;
        const packet = new Uint8Array(10 + length);
        packet.set(this.#bytes.subarray(4, 4 + length), 10);
        this.frames.push(packet);
        this.#bytes = this.#bytes.subarray(4 + length);
      }
    });
    this.#socket.on('error', () => {});
  }

  /** `packet` with its ten bytes of header, which stay here. */
  send(packet: Uint8Array): void {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(packet.length - 10);
    this.#socket.write(Buffer.concat([length, packet.subarray(10)]));
  }

  raw(bytes: Uint8Array): void {
    this.#socket.write(bytes);
  }

  get closed(): boolean {
    return this.#socket.destroyed;
  }

  close(): void {
    this.#socket.destroy();
  }
}

async function muxProcess(lifeline = false) {
  const control = join(directory, `control-${Math.random().toString(36).slice(2)}`);
  const child = spawn(
    process.execPath,
    [
      '--disable-warning=ExperimentalWarning',
      'src/daemon/processes/mux.ts',
      '--control',
      control,
      ...(lifeline ? ['--lifeline'] : []),
    ],
    { stdio: [lifeline ? 'pipe' : 'ignore', 'ignore', 'pipe'] },
  );
  children.push(child);
  let log = '';
  child.stderr!.on('data', (chunk: Buffer) => {
    log += chunk.toString();
  });
  const exited = new Promise<number | null>((resolve) => child.on('exit', resolve));
  const channel = await ChannelClient.connect<MuxCommands, MuxEvents>(control, 'the mux process', {
    waitMs: 25_000,
  });
  return { child, control, channel, exited, log: () => log };
}

test(
  'the mux process: uplink, a plain QEMU port and one with vnet header, a cut, captures, and a clean end on SIGTERM',
  within(async () => {
    const { child, control, channel, exited } = await muxProcess();
    const [socketA, socketB] = [join(directory, 'a'), join(directory, 'b')];
    const pcap = join(directory, 'cut.pcapng');
    const uplink = await channel.execute('uplink-add', { name: 'mxp0', mtu: 1500 });
    assert.is(uplink.state, 'attached');
    assert.is((await channel.execute('uplink-add', { name: 'mxp0', mtu: 1500 })).name, 'mxp0', 'again');
    await ip('addr', 'add', `${CLIENT}/24`, 'dev', 'mxp0');
    await ip('link', 'set', 'mxp0', 'up');
    const addresses = [SERVICE, '10.77.0.12'];
    await channel.execute('port-add', { name: 'a', socket: socketA, mac: MAC.a, addresses });
    await channel.execute('port-add', { name: 'a', socket: socketA, mac: MAC.a, addresses });
    const portB = { name: 'b', socket: socketB, mac: MAC.b, addresses: [SERVICE], vnetHeader: true };
    assert.is((await channel.execute('port-add', portB)).state, 'disconnected');
    const states: string[] = [];
    channel.on('PORT', ({ name, state }) => states.push(`${name} ${state}`));
    await channel.execute('capture-start', { file: pcap, comment: 'a cut' });
    const a = new QemuClient(socketA);
    await eventually('a is there', () => states.includes('a isolated'));
    await channel.execute('port-state', { name: 'a', state: 'attached' });
    await channel.execute('path-set', { address: SERVICE, port: 'a' });

    const pinged = run('ping', ['-c', '1', '-W', '5', SERVICE]);
    const question = await eventually('an ARP request', () =>
      a.frames.find((f) => textOf(f).startsWith('arp')),
    );
    assert.match(textOf(question), new RegExp(`^arp request ${CLIENT.replaceAll('.', '\\.')} at`));
    const clientMac = Buffer.from(question.subarray(16, 22))
      .toString('hex')
      .replace(/..(?!$)/g, '$&:');
    const toHost = { fromMac: MAC.a, toMac: clientMac };
    a.send(arp({ operation: 'reply', ...toHost, sender: SERVICE, target: CLIENT }));
    const request = await eventually('an echo request', () =>
      a.frames.find((f) => textOf(f).startsWith('echo')),
    );
    const id = (request[48]! << 8) | request[49]!;
    const reply = echo({ ...toHost, from: SERVICE, to: CLIENT, id, reply: true });
    const answer = new Uint8Array(request);
    answer.set(reply.subarray(10, 24), 10);
    answer.set(reply.subarray(36, 44), 36);
    answer[44] = 0;
    // Type 8 became 0: the checksum grows by 0x0800.
    const sum = ((answer[46]! << 8) | answer[47]!) + 0x0800;
    answer[46] = ((sum >>> 8) + (sum >>> 16)) & 0xff;
    answer[47] = sum & 0xff;
    a.send(answer);
    assert.match((await pinged).stdout, /1 received/);

    // The kernel's client connects to a; after the cut its flow stays there, under a change notice.
    const browser = connect(80, SERVICE);
    browser.on('error', () => {});
    const syn = await eventually('a SYN', () => a.frames.find((f) => / S$/.test(textOf(f))));
    const port = (syn[44]! << 8) | syn[45]!;
    const sequence = new DataView(syn.buffer, syn.byteOffset).getUint32(48);
    const segment = { ...toHost, from: SERVICE, to: CLIENT, sport: 80, dport: port };
    a.send(tcp({ ...segment, flags: FLAG.SYN | FLAG.ACK, seq: 100, ack: sequence + 1 }));
    await eventually('connected', () => browser.readyState === 'open');

    const b = new StreamLink({ path: socketB });
    const toB: string[] = [];
    b.attach({
      receive: (buffer, offset, length) => void toB.push(textOf(buffer.slice(offset, offset + length))),
      endOfBatch: () => {},
      writable: () => {},
    });
    await b.ready();
    const drained = new Promise((resolve) => channel.on('DRAINED', resolve));
    const cut = await channel.execute('switch', {
      address: SERVICE,
      from: 'a',
      to: 'b',
      notice: { second: '10.77.0.12', immediately: true },
    });
    assert.is(cut.notice, 1);
    assert.ok(cut.steered >= 1);
    await channel.execute('capture-mark', { comment: 'the cut' });
    const second = { ...segment, from: '10.77.0.12' };
    a.send(tcp({ ...second, flags: FLAG.ACK | FLAG.PSH, seq: 101, ack: sequence + 1, payload: 'hello' }));
    const heard = await new Promise<Buffer>((resolve) => browser.once('data', resolve));
    assert.is(heard.toString(), 'hello', 'the client accepts what was sent from the second address');
    const newcomer = connect(80, SERVICE);
    newcomer.on('error', () => {});
    await eventually('a SYN at b', () => toB.some((text) => / S$/.test(text)));
    browser.resetAndDestroy();
    await drained;
    newcomer.destroy();
    await channel.execute('notice-cancel', { address: SERVICE });
    const stopped = await channel.execute('capture-stop', { file: pcap });
    assert.is(stopped.dropped, 0);
    const { stdout, stderr } = await run('tshark', [
      '-r',
      pcap,
      '-Y',
      'frame.comment',
      '-T',
      'fields',
      '-e',
      'frame.interface_name',
      '-e',
      'ip.src',
      '-e',
      'frame.comment',
    ]);
    assert.not.match(stderr, /appears|corrupt|malformed|cut short|isn't/i);
    assert.match(stdout, new RegExp(`mxp0\t${SERVICE}\tchange notice 1: source 10.77.0.12 → ${SERVICE}`));
    assert.match(stdout, /a\t10\.77\.0\.50\tsteered to a; change notice 1: destination/);
    assert.match(stdout, /the cut/);
    const sent = await run('tshark', [
      '-r',
      pcap,
      '-Y',
      'frame.interface_name == "a" && ip.src == 10.77.0.12',
    ]);
    assert.match(sent.stdout, /10\.77\.0\.12/, 'at the port the packet is as the partition sent it');

    a.raw(Buffer.from('this is no frame at all'));
    await eventually('thrown out', () => a.closed);
    const ports = await channel.execute('ports', {});
    assert.is(ports.find((p) => p.name === 'a')!.drops['framing-fault'], 1);
    child.kill('SIGTERM');
    assert.is(await exited, 0);
    b.close();
    assert.equal([existsSync(control), existsSync(socketA), existsSync(socketB)], [false, false, false]);
    await ip('link', 'show', 'mxp0').then(
      () => assert.unreachable('the TAP is gone'),
      () => {},
    );
  }, 60_000),
);

test(
  'with --lifeline the mux process ends when its standard input does',
  within(async () => {
    const { child, exited, control } = await muxProcess(true);
    child.stdin!.end();
    assert.is(await exited, 0);
    assert.is(existsSync(control), false);
  }, 40_000),
);

test(
  'a port that floods does not starve another one',
  within(async () => {
    const { channel, child, exited } = await muxProcess();
    const sockets = ['flood', 'calm', 'sink'].map((name) => join(directory, name));
    const macs = ['02:00:00:00:02:01', '02:00:00:00:02:02', '02:00:00:00:02:03'];
    for (const [i, name] of ['flood', 'calm', 'sink'].entries()) {
      await channel.execute('port-add', {
        name,
        socket: sockets[i]!,
        mac: macs[i]!,
        addresses: [`10.78.0.${i + 1}`],
        vnetHeader: true,
      });
      await channel.execute('port-state', { name, state: 'attached' });
    }
    const [flood, calm, sink] = sockets.map((path) => new StreamLink({ path })) as [
      StreamLink,
      StreamLink,
      StreamLink,
    ];
    await Promise.all([flood.ready(), calm.ready(), sink.ready()]);
    const arrived = { flood: 0, calm: 0 };
    let waitingMs: number[] = [];
    sink.attach({
      receive: (buffer, offset) => {
        if (buffer[offset + 10 + 29] !== 2) {
          arrived.flood++;
          return;
        }
        arrived.calm++;
        waitingMs.push(systemClock.nowMs() - sentAtMs);
      },
      endOfBatch: () => {},
      writable: () => {},
    });
    const from = (i: number) =>
      tcp({
        fromMac: macs[i]!,
        toMac: macs[2]!,
        from: `10.78.0.${i + 1}`,
        to: '10.78.0.3',
        sport: 1,
        dport: 2,
        flags: FLAG.ACK,
      });
    const [flooding, calmly] = [from(0), from(1)];
    let sentAtMs = 0;
    let on = true;
    cleanUp.push(() => {
      on = false;
      for (const link of [flood, calm, sink]) link.close();
    });
    const pour = () => {
      if (!on) return;
      for (let i = 0; i < 500; i++) if (!flood.transmit(flooding, 0, flooding.length)) break;
      flood.flush();
      setImmediate(pour);
    };
    pour();
    await eventually('the flood', () => arrived.flood > 2_000);
    waitingMs = [];
    for (let i = 1; i <= 20; i++) {
      const before = arrived.calm;
      sentAtMs = systemClock.nowMs();
      calm.transmit(calmly, 0, calmly.length);
      calm.flush();
      await eventually('the calm packet', () => arrived.calm > before);
    }
    on = false;
    const { drops } = (await channel.execute('ports', {})).find((p) => p.name === 'calm')!;
    assert.equal(drops, {});
    waitingMs.sort((x, y) => x - y);
    assert.ok(waitingMs[10]! < 250, `median wait ${waitingMs[10]?.toFixed(1)} ms`);
    for (const link of [flood, calm, sink]) link.close();
    child.kill('SIGTERM');
    await exited;
  }, 60_000),
);

test.run();
