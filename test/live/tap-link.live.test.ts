import { execFileSync, spawn } from 'node:child_process';
import { PacketSocket } from 'tap-tun';
import * as assert from 'uvu/assert';
import type { LinkDevice, LinkReceiver, TapLinkOptions } from '../../src/netstack/link/index.ts';
import { TapLink, TapLinkError, VNET_HDR_LEN } from '../../src/netstack/link/index.ts';
import { eventually, holdNamespace, liveSuite, within } from '../support/index.ts';

const live = liveSuite('netstack/link/tap-link (live)');

const opened: { close(): void }[] = [];
function open<T extends { close(): void }>(thing: T): T {
  opened.push(thing);
  return thing;
}
const linkOf = (options: TapLinkOptions) => open(new TapLink(options));
live.after.each(() => {
  for (const thing of opened.splice(0).reverse()) thing.close();
});

const ip = (...args: string[]) =>
  execFileSync('ip', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

function receiver(more: Partial<LinkReceiver>): LinkReceiver {
  return { receive: () => {}, endOfBatch: () => {}, writable: () => {}, ...more };
}

function forward(from: LinkDevice, to: LinkDevice): void {
  from.attach(
    receiver({
      receive: (buffer, offset, length) => void to.transmit(buffer, offset, length),
      endOfBatch: () => to.flush(),
    }),
  );
}

/** A numbered frame of the local experimental ethertype, to nobody's unicast address, behind a vnet header of zeros. */
function numbered(number: number, length: number): Uint8Array {
  const bytes = new Uint8Array(VNET_HDR_LEN + length);
  bytes.set([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5], VNET_HDR_LEN);
  new DataView(bytes.buffer).setUint32(VNET_HDR_LEN + 14, number);
  return bytes;
}

async function lines(argv: readonly string[]): Promise<string> {
  const child = spawn(argv[0]!, argv.slice(1), { stdio: ['ignore', 'pipe', 'inherit'] });
  open({ close: () => void child.kill() });
  let output = '';
  child.stdout.on('data', (chunk) => {
    output += chunk;
  });
  await new Promise((resolve) => child.on('close', resolve));
  return output;
}

const SERVER = `const s = require('node:net').createServer((c) => c.pipe(c)).listen(7000, () => console.log('up'));`;
/** Sends `total` bytes of a pattern, expects them back, prints how many came back right. */
const CLIENT = `
  const total = 8 << 20; const data = Buffer.alloc(total, 'changeover'); let n = 0, right = 0;
  const c = require('node:net').connect(7000, '10.77.4.2', () => c.write(data));
  c.on('data', (d) => { if (d.equals(data.subarray(n, n + d.length))) right += d.length; n += d.length; if (n === total) { console.log(right); c.destroy(); } });
`;

for (const offload of [true, false]) {
  live(
    `kernel TCP runs through two links joined back to back, offload ${offload}`,
    within(async () => {
      const [left, right] = [open(await holdNamespace()), open(await holdNamespace())];
      const a = linkOf({ name: 'tt0', netns: left.path, ipv4: '10.77.4.1/24', offload });
      const b = linkOf({ name: 'tt1', netns: right.path, ipv4: '10.77.4.2/24', offload });
      assert.equal(
        [a.offload.checksum, a.offload.tcp4Segmentation, a.offload.tcp6Segmentation],
        [offload, offload, offload],
      );
      forward(a, b);
      forward(b, a);
      const server = spawn(right.enter[0]!, [...right.enter.slice(1), process.execPath, '-e', SERVER], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      open({ close: () => void server.kill() });
      await new Promise((resolve) => server.stdout.once('data', resolve));
      const output = await lines([...left.enter, process.execPath, '-e', CLIENT]);
      assert.is(output.trim(), String(8 << 20));
      const mean = a.device.counters().rxBytes / a.counters.received;
      assert.ok(offload ? mean > 3000 : mean < 1540, `mean packet ${mean} bytes`);
      assert.equal([a.counters.droppedSize, a.counters.droppedKernel, a.counters.droppedRejected], [0, 0, 0]);
    }, 20_000),
  );
}

live(
  'when the kernel has no room, transmit refuses, writable follows, and nothing is lost',
  within(async () => {
    // A bridge whose other port sends at 200 Mbit/s: packets wait there, charged to the TAP's send buffer. (Of a broadcast
    // a copy would wait, charged to nobody.)
    ip('link', 'add', 'tv0', 'type', 'veth', 'peer', 'name', 'tv1');
    ip('link', 'add', 'tb0', 'type', 'bridge');
    execFileSync('tc', 'qdisc add dev tv0 root tbf rate 200mbit burst 20000 limit 10000000'.split(' '));
    const link = linkOf({ name: 'tt0', sendBufferBytes: 60_000 });
    for (const name of ['tt0', 'tv0']) ip('link', 'set', name, 'master', 'tb0');
    for (const name of ['tv0', 'tv1', 'tb0']) ip('link', 'set', name, 'up');
    const socket = open(new PacketSocket({ name: 'tv1', receiveBufferBytes: 64 << 20 }));
    let expected = 0;
    let wrong = 0;
    socket.start((buffer, index, count) => {
      const view = new DataView(buffer.buffer);
      for (let i = 0; i < count; i++) {
        const frame = index[2 * i]!;
        if (buffer[frame + 12] !== 0x88 || buffer[frame + 13] !== 0xb5) continue;
        const number = view.getUint32(frame + 14);
        if (number === 0xffffffff) expected = Math.max(expected, 1);
        else if (number !== expected++) wrong++;
      }
    });
    // The bridge forwards once both ports are up.
    await eventually('a first frame', () => {
      const probe = numbered(0xffffffff, 60);
      link.transmit(probe, 0, probe.length);
      link.flush();
      return expected === 1;
    });
    const total = 3000;
    let next = 1;
    let refusals = 0;
    const send = () => {
      for (; next < total; next++) {
        const bytes = numbered(next, next % 100 === 0 ? 1514 : 1000);
        if (!link.transmit(bytes, 0, bytes.length)) {
          refusals++;
          return;
        }
      }
      link.flush();
    };
    link.attach(receiver({ writable: send }));
    send();
    await eventually('all frames', () => expected === total, 8_000);
    assert.is(wrong, 0);
    assert.ok(refusals > 0, 'the queue was never full');
    assert.is(link.counters.refused, refusals);
    assert.ok(link.device.counters().txWaits > 0);
    assert.equal([link.counters.droppedKernel, link.counters.droppedRejected], [0, 0]);
    ip('link', 'del', 'tb0');
    ip('link', 'del', 'tv0');
  }),
);

live(
  'a small and a large packet keep their order',
  within(async () => {
    const link = linkOf({ name: 'tt0' });
    const socket = open(new PacketSocket({ name: 'tt0', receiveBufferBytes: 8 << 20 }));
    const numbers: number[] = [];
    socket.start((buffer, index, count) => {
      for (let i = 0; i < count; i++) {
        const frame = index[2 * i]!;
        if (buffer[frame + 12] === 0x88) numbers.push(new DataView(buffer.buffer).getUint32(frame + 14));
      }
    });
    const wanted: number[] = [];
    for (let i = 0; i < 200; i++) {
      const bytes = numbered(i, i % 7 === 3 ? 20_000 : 60);
      assert.ok(link.transmit(bytes, 0, bytes.length));
      wanted.push(i);
    }
    link.flush();
    await eventually('all', () => numbers.length === 200);
    assert.equal(numbers, wanted);
  }),
);

live('packets of impossible size are counted and dropped', () => {
  const link = linkOf({ name: 'tt0', offload: false, mtu: 1400 });
  assert.is(link.mtu, 1400);
  assert.ok(link.transmit(new Uint8Array(23), 0, 23));
  assert.ok(link.transmit(new Uint8Array(1429), 0, 1429));
  assert.is(link.counters.droppedSize, 2);
});

live(
  'an interface that is deleted is told once; transmitting goes on into nothing',
  within(async () => {
    const told: TapLinkError[] = [];
    const link = linkOf({ name: 'tt0', onGone: (error) => told.push(error) });
    link.attach(receiver({}));
    ip('link', 'del', 'tt0');
    await eventually('the news', () => told.length === 1);
    assert.instance(told[0], TapLinkError);
    assert.is(told[0]!.code, 'EBADFD');
    const bytes = numbered(1, 60);
    assert.ok(link.transmit(bytes, 0, bytes.length));
    link.flush();
    assert.is(link.counters.droppedGone, 1);
    assert.is(told.length, 1);
    link.close();
  }),
);

live('errors of opening carry code and remedy', () => {
  linkOf({ name: 'tt0' });
  try {
    linkOf({ name: 'tt0' });
    assert.unreachable();
  } catch (error) {
    assert.instance(error, TapLinkError);
    assert.is((error as TapLinkError).code, 'EBUSY');
    assert.match((error as TapLinkError).remedy!, /another name/);
  }
});

live(
  'close hands over what is queued, and the receiver may close in a batch',
  within(async () => {
    const link = linkOf({ name: 'tt0', persist: true });
    const socket = open(new PacketSocket({ name: 'tt0' }));
    let seen = 0;
    socket.start((buffer, index, count) => {
      for (let i = 0; i < count; i++) if (buffer[index[2 * i]! + 12] === 0x88) seen++;
    });
    const bytes = numbered(1, 60);
    link.transmit(bytes, 0, bytes.length);
    link.close();
    link.close();
    await eventually('the frame', () => seen === 1);
    const again = linkOf({ name: 'tt0' });
    again.device.setPersist(false);
    let received = 0;
    again.attach(
      receiver({
        receive: () => {
          received++;
          again.close();
        },
      }),
    );
    const writer = open(new PacketSocket({ name: 'tt0' }));
    for (let i = 0; i < 5; i++) writer.writeOne(bytes, VNET_HDR_LEN);
    await eventually('closed', () => again.device.closed);
    assert.is(received, 1);
  }),
);

live.run();
