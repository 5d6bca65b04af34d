import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { CaptureLink, PcapngWriter } from '../../src/netstack/capture/index.ts';
import type { LinkDevice } from '../../src/netstack/link/index.ts';
import { TapLink } from '../../src/netstack/link/index.ts';
import { blocksOf, readPcapng } from '../netstack/capture/read-pcapng.ts';
import { packet } from '../netstack/packets.ts';
import { eventually, type HeldNamespace, holdNamespace, liveSuite, within } from '../support/index.ts';

const live = liveSuite('netstack/capture (live)');

const folder = mkdtempSync(join(tmpdir(), 'capture-live-'));
const opened: { close(): void }[] = [];
function open<T extends { close(): void }>(thing: T): T {
  opened.push(thing);
  return thing;
}
live.after.each(() => {
  for (const thing of opened.splice(0).reverse()) thing.close();
});
live.after(() => rmSync(folder, { recursive: true }));

/** Every checksum verified, stderr kept: a warning is a failure. */
function tshark(file: string, ...args: string[]): Promise<string> {
  const child = spawn(
    'tshark',
    ['-r', file, ...['tcp', 'udp', 'ip'].flatMap((p) => ['-o', `${p}.check_checksum:TRUE`]), ...args],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let output = '';
  let complaints = '';
  child.stdout.on('data', (chunk) => {
    output += chunk;
  });
  child.stderr.on('data', (chunk) => {
    complaints += chunk;
  });
  return new Promise((resolve) =>
    child.on('close', (code) => {
      assert.is(code, 0, complaints);
      assert.is(complaints.replace(/^Running as user .*\n/m, '').trim(), '');
      resolve(output);
    }),
  );
}

function forward(from: LinkDevice, to: LinkDevice): void {
  from.attach({
    receive: (buffer, offset, length) => void to.transmit(buffer, offset, length),
    endOfBatch: () => to.flush(),
    writable: () => {},
  });
}

/** 3 MiB by TCP and one datagram each way between two namespaces. */
async function traffic(left: HeldNamespace, right: HeldNamespace, address = '10.77.5.2'): Promise<void> {
  const server = spawn(
    right.enter[0]!,
    [
      ...right.enter.slice(1),
      process.execPath,
      '-e',
      `require('node:net').createServer((c) => c.end(Buffer.alloc(3 << 20, 7))).listen(7000, () => console.log('up'));
       const u = require('node:dgram').createSocket('udp4', (m, r) => u.send(m, r.port, r.address)).bind(7001);`,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  open({ close: () => void server.kill() });
  await new Promise((resolve) => server.stdout.once('data', resolve));
  const client = spawn(
    left.enter[0]!,
    [
      ...left.enter.slice(1),
      process.execPath,
      '-e',
      `const u = require('node:dgram').createSocket('udp4', () => { u.close();
         require('node:net').connect(7000, '${address}').resume(); }); u.send('question', 7001, '${address}');`,
    ],
    { stdio: 'inherit' },
  );
  await new Promise((resolve) => client.on('close', resolve));
}

live(
  'tshark reads a capture of offloaded traffic without a warning, finds every checksum right and the marks in place',
  within(async () => {
    const file = join(folder, 'traffic.pcapng');
    const writer = PcapngWriter.create(file, { comment: 'live test' });
    const [left, right] = [open(await holdNamespace()), open(await holdNamespace())];
    const a = open(
      new CaptureLink(new TapLink({ name: 'tt0', netns: left.path, ipv4: '10.77.5.1/24' }), writer, {
        description: 'left side',
        hardware: 'TAP',
      }),
    );
    const b = open(new TapLink({ name: 'tt1', netns: right.path, ipv4: '10.77.5.2/24' }));
    forward(a, b);
    forward(b, a);
    writer.mark('before');
    await traffic(left, right);
    writer.mark('after: größer');
    await writer.flush();

    // The capture is still running here.
    const growing = await tshark(file, '-T', 'fields', '-e', 'frame.comment', '-Y', 'frame.comment');
    assert.equal(growing.trim().split('\n'), ['before', 'after: größer']);
    a.close();
    const summary = await writer.close();
    assert.is(summary.dropped, 0);

    const lengths = (await tshark(file, '-T', 'fields', '-e', 'ip.len', '-Y', 'tcp.srcport == 7000'))
      .trim()
      .split('\n')
      .map(Number);
    assert.ok(Math.max(...lengths) > 3000, 'large segments were captured');
    const unverified = 'tcp.checksum.status != 1 or udp.checksum.status != 1 or ip.checksum.status != 1';
    assert.is(await tshark(file, '-Y', unverified), '');
    assert.ok((await tshark(file, '-Y', 'tcp.checksum.status == 1 and tcp.len > 0')).length > 0);
    assert.is((await tshark(file, '-Y', 'udp.checksum.status == 1')).trim().split('\n').length, 2);
    const expert = await tshark(file, '-q', '-z', 'expert,warn');
    assert.not.match(expert, /Errors|Malformed|hecksum/, expert);
    const directions = await tshark(
      file,
      '-T',
      'fields',
      '-e',
      'frame.interface_name',
      '-e',
      'frame.packet_flags_direction',
      '-Y',
      'tcp.flags.syn == 1',
    );
    assert.equal(
      directions
        .trim()
        .split('\n')
        .map((line) => line.split('\t')[0]),
      ['tt0', 'tt0'],
    );
    const info = execFileSync('capinfos', ['-M', file], { encoding: 'utf8' });
    assert.match(info, /Capture comment:\s+live test/);
    assert.match(info, /Name = tt0/);
    assert.match(info, /Description = left side/);
    assert.match(info, /Time precision = nanoseconds/);
  }, 60_000),
);

live(
  'two points in one file: each by itself has nothing for Wireshark’s experts, also where both together look like retransmissions',
  within(async () => {
    const file = join(folder, 'points.pcapng');
    const writer = PcapngWriter.create(file, { bufferBytes: 16 << 20 });
    const [left, right] = [open(await holdNamespace()), open(await holdNamespace())];
    const end = (name: string, netns: string, ipv4: string) =>
      open(new CaptureLink(new TapLink({ name, netns, ipv4 }), writer, { description: name }));
    const a = end('tp0', left.path, '10.77.6.1/24');
    const b = end('tp1', right.path, '10.77.6.2/24');
    forward(a, b);
    forward(b, a);
    await traffic(left, right, '10.77.6.2');
    a.close();
    b.close();
    assert.is((await writer.close()).dropped, 0);
    for (const name of ['tp0', 'tp1']) {
      const one = join(folder, `${name}.pcapng`);
      await tshark(file, '-Y', `frame.interface_name == "${name}"`, '-w', one);
      const packets = (await tshark(one, '-T', 'fields', '-e', 'frame.interface_name')).trim().split('\n');
      assert.ok(
        packets.length > 10 && packets.every((of) => of === name),
        `${packets.length} packets of ${name}`,
      );
      const found = (await tshark(one, '-q', '-z', 'expert,warn')).split('\n');
      assert.equal(
        // A receiver that the machine keeps from reading has a full window: that is truly so.
        found.filter((line) => /^\s+\d+\s/.test(line) && !/D-SACK|[Ww]indow/.test(line)),
        [],
        name,
      );
    }
  }, 60_000),
);

live(
  'a full file system stops the capture; the file ends after a whole block and packets go on passing',
  within(async () => {
    const mount = join(folder, 'small');
    mkdirSync(mount);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', mount]);
    open({ close: () => void execFileSync('umount', [mount]) });
    const file = join(mount, 'full.pcapng');
    const stops: string[] = [];
    const writer = PcapngWriter.create(file, { onStop: ({ code }) => stops.push(code) });
    const id = writer.addInterface({ name: 'x' });
    const bytes = packet(Buffer.alloc(1400, 7), { type: 0x88b5 });
    await eventually('the stop', async () => {
      for (let i = 0; i < 100; i++) writer.writePacket(id, 'inbound', 0n, bytes, 0, bytes.length);
      await writer.flush();
      return stops.length > 0;
    });
    const summary = await writer.close();
    assert.equal(stops, ['ENOSPC']);
    assert.is(summary.stopped!.code, 'ENOSPC');
    assert.match(summary.stopped!.reason, /full\.pcapng cannot be written/);
    const content = readFileSync(file);
    assert.is(content.length, summary.bytes);
    assert.ok(blocksOf(content).length > 500);
    assert.ok(readPcapng(content).packets.length > 500);
    assert.is((await tshark(file, '-q')).trim(), '');
  }, 30_000),
);

live.run();
