import { execFileSync, spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { createServer } from 'node:net';
import { fileURLToPath } from 'node:url';
import * as assert from 'uvu/assert';
import { eventually, liveSuite, within } from '../../test/support/index.ts';
import {
  checkTapSupport,
  PacketSocket,
  type PacketSocketOptions,
  TapDevice,
  TapError,
  type TapOptions,
} from '../src/index.ts';

const live = liveSuite('tap-tun/tap (live)');
const source = fileURLToPath(new URL('../src/index.ts', import.meta.url));

/** Devices of the running test; a failed one must not leave any behind that keeps the process alive. */
const opened: { close(): void }[] = [];
function tapOf(options: TapOptions): TapDevice {
  const tap = new TapDevice(options);
  opened.push(tap);
  return tap;
}
function socketOf(options: PacketSocketOptions): PacketSocket {
  const socket = new PacketSocket(options);
  opened.push(socket);
  return socket;
}
live.after.each(() => {
  for (const device of opened.splice(0)) device.close();
});

const ip = (...args: string[]) =>
  execFileSync('ip', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
const shown = (name: string) => JSON.parse(ip('-d', '-j', 'link', 'show', 'dev', name))[0];
const exists = (name: string) => ip('-j', 'link').includes(`"${name}"`);

/** Ethernet broadcast of the local experimental ethertype, so that frames of the kernel's own (MLD, ARP) can be told apart. */
const HEADER = Buffer.from('ffffffffffff02000000000188b5', 'hex');
const isOurs = (buffer: Uint8Array, frame: number) =>
  buffer[frame + 12] === 0x88 && buffer[frame + 13] === 0xb5;

function numberedFrames(count: number, length: number) {
  const buffer = new Uint8Array(count * length);
  const index = new Uint32Array(2 * count);
  const view = new DataView(buffer.buffer);
  for (let i = 0; i < count; i++) {
    buffer.set(HEADER, i * length);
    view.setUint32(i * length + 14, i);
    index[2 * i] = i * length;
    index[2 * i + 1] = length;
  }
  return { buffer, index };
}

function refusal(body: () => { close(): void }): TapError {
  try {
    body().close();
  } catch (error) {
    assert.instance(error, TapError);
    return error as TapError;
  }
  throw new Error('nothing was refused');
}

live('support is found', () => {
  assert.equal(checkTapSupport(), { usable: true, multiQueue: true, vnetHeader: true });
});

live('an interface is made with the settings asked for, and disappears with close', () => {
  const tap = tapOf({
    name: 'tt0',
    mtu: 9000,
    mac: '02:00:00:00:77:01',
    txQueueLength: 4321,
    ipv4: '10.77.1.1/20',
    up: true,
  });
  const link = shown('tt0');
  assert.is(link.ifindex, tap.index);
  assert.is(link.mtu, 9000);
  assert.is(link.address, '02:00:00:00:77:01');
  assert.is(link.txqlen, 4321);
  assert.ok(link.flags.includes('UP'));
  assert.is(link.linkinfo.info_data.type, 'tap');
  assert.is(link.linkinfo.info_data.pi, false);
  assert.is(link.linkinfo.info_data.persist, false);
  assert.match(ip('-4', 'addr', 'show', 'dev', 'tt0'), /inet 10\.77\.1\.1\/20 /);
  assert.equal(
    [tap.name, tap.mtu, tap.mac, tap.txQueueLength, tap.up, tap.running],
    ['tt0', 9000, '02:00:00:00:77:01', 4321, true, true],
  );
  tap.configure({ up: false, mtu: 1400 });
  assert.equal([tap.up, tap.mtu, shown('tt0').mtu], [false, 1400, 1400]);
  tap.close();
  tap.close();
  assert.not.ok(exists('tt0'));
});

live('names are numbered by the kernel, and followed when they change', () => {
  const tun = tapOf({ kind: 'tun', name: 'numbered%d' });
  assert.is(tun.name, 'numbered0');
  assert.is(shown('numbered0').linkinfo.info_data.type, 'tun');
  ip('link', 'set', 'numbered0', 'name', 'other');
  assert.is(tun.name, 'other');
  tun.configure({ mtu: 1280 });
  assert.is(shown('other').mtu, 1280);
  tun.close();
});

live('each way in which opening fails has its code', () => {
  const tap = tapOf({ name: 'tt0' });
  assert.is(refusal(() => new TapDevice({ name: 'tt0' })).code, 'EBUSY');
  assert.is(refusal(() => new TapDevice({ name: 'tt0', existence: 'new' })).code, 'EBUSY');
  assert.is(refusal(() => new TapDevice({ name: 'lo' })).code, 'EINVAL');
  assert.is(refusal(() => new TapDevice({ name: 'tt1', existence: 'existing' })).code, 'ENODEV');
  assert.is(refusal(() => new TapDevice({ name: 'tt1', netns: 'no-such-namespace' })).code, 'ENOENT');
  assert.is(refusal(() => new TapDevice({ name: 'tt1', netns: '/proc/self/ns/mnt' })).code, 'EINVAL');
  assert.is(refusal(() => new TapDevice({ name: 'tt1', mtu: 65_534 })).code, 'EINVAL');
  assert.is(refusal(() => new TapDevice({ name: 'tt1', mac: '01:00:00:00:00:01' })).code, 'EADDRNOTAVAIL');
  assert.is(refusal(() => new TapDevice({ name: 'tt1', ipv4: '10.0.0.256/24' })).code, 'BAD_OPTION');
  assert.is(refusal(() => new PacketSocket({ name: 'tt1' })).code, 'ENODEV');
  assert.not.ok(exists('tt1'), 'a refused setting leaves no interface behind');
  tap.close();
});

live(
  'without privilege: EPERM, and the check says why',
  within(async () => {
    const program = `
    import { checkTapSupport, TapDevice } from ${JSON.stringify(source)};
    console.log(JSON.stringify(checkTapSupport()));
    try { new TapDevice({ name: 'tt0' }); } catch (error) { console.log(error.code, error.remedy); }
  `;
    const child = spawn(
      'setpriv',
      [
        '--bounding-set=-net_admin',
        '--inh-caps=-net_admin',
        process.execPath,
        '--input-type=module-typescript',
        '-e',
        program,
      ],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    let output = '';
    child.stdout.on('data', (chunk) => {
      output += chunk;
    });
    await new Promise((resolve) => child.on('close', resolve));
    const [check, opening] = output.split('\n');
    assert.equal(JSON.parse(check!), {
      usable: false,
      code: 'EPERM',
      reason: 'this process may not create network interfaces',
      remedy: 'run as root or with CAP_NET_ADMIN',
    });
    assert.match(opening!, /^EPERM .*CAP_NET_ADMIN/);
  }),
);

live('a persistent interface outlives its device and is taken up again', () => {
  tapOf({ name: 'tt0', persist: true }).close();
  assert.ok(exists('tt0'));
  const again = tapOf({ name: 'tt0', existence: 'existing' });
  again.setPersist(false);
  again.close();
  assert.not.ok(exists('tt0'));
});

live('several queues of one interface', () => {
  const first = tapOf({ name: 'tt0', multiQueue: true });
  const second = tapOf({ name: 'tt0', multiQueue: true });
  assert.is(second.index, first.index);
  assert.is(refusal(() => new TapDevice({ name: 'tt0' })).code, 'EINVAL');
  first.close();
  assert.ok(exists('tt0'));
  second.close();
  assert.not.ok(exists('tt0'));
});

live(
  'an interface is made in another network namespace, this process stays in its own',
  within(async () => {
    const other = spawn('unshare', ['--net', 'sleep', '60'], { stdio: 'ignore' });
    try {
      const netns = `/proc/${other.pid}/ns/net`;
      const inside = (...args: string[]) =>
        execFileSync('nsenter', [`--net=${netns}`, 'ip', ...args], { encoding: 'utf8' });
      await eventually('the namespace', () => !inside('-j', 'link').includes('tt-here'));
      const here = tapOf({ name: 'tt-here' });
      await eventually('the namespace', () => !inside('-j', 'link').includes('tt-here'));
      const tap = tapOf({ name: 'tt0', netns, ipv4: '10.77.2.1/24', up: true });
      assert.match(inside('-4', 'addr'), /tt0.*UP[\s\S]*10\.77\.2\.1\/24/);
      assert.not.ok(exists('tt0'));
      assert.ok(exists('tt-here'));
      assert.is(tap.mtu, 1500);
      const socket = socketOf({ name: 'tt0', netns });
      let received = 0;
      tap.start((buffer, index, count) => {
        for (let i = 0; i < count; i++) if (isOurs(buffer, index[2 * i]!)) received++;
      });
      const { buffer, index } = numberedFrames(10, 60);
      assert.is(socket.write(buffer, index, 0, 10), 10);
      await eventually('frames from the namespace', () => received === 10);
      for (const device of [tap, socket, here]) device.close();
    } finally {
      other.kill('SIGKILL');
    }
  }),
);

live(
  'a burst of 200 000 small frames arrives complete and in order',
  within(async () => {
    const count = 200_000;
    const tap = tapOf({ name: 'tt0', vnetHeader: true, txQueueLength: 262_144, up: true });
    const generator = socketOf({ name: 'tt0' });
    const { buffer, index } = numberedFrames(count, 60);
    // All of it before the event loop turns once: the kernel's queue must hold it.
    assert.is(generator.write(buffer, index, 0, count), count);
    let received = 0;
    let wrong = 0;
    let ticks = 0;
    const ticker = setInterval(() => ticks++, 1);
    const startedMs = performance.now();
    tap.start((batch, at, n) => {
      const view = new DataView(batch.buffer);
      for (let i = 0; i < n; i++) {
        const frame = at[2 * i]! + 10;
        if (!isOurs(batch, frame)) continue;
        if (at[2 * i + 1] !== 70 || view.getUint32(frame + 14) !== received) wrong++;
        received++;
      }
    });
    await eventually('all frames', () => received === count);
    const ms = performance.now() - startedMs;
    clearInterval(ticker);
    console.error(
      `${Math.round((count / ms) * 1000)} frames/s in ${tap.counters().rxBatches} batches, ${ticks} timer ticks`,
    );
    assert.is(wrong, 0);
    assert.ok(ticks > 10, `timers ran ${ticks} times in ${ms} ms`);
    assert.ok(tap.counters().rxBatches >= count / 256);
    generator.close();
    tap.close();
  }),
);

live(
  'the kernel hands over unfinished checksums and large segments only where they were asked for',
  within(async () => {
    for (const offload of [{}, { checksum: true, tso4: true }]) {
      const [left, right] = ['tt0', 'tt1'].map((name) =>
        tapOf({ name, vnetHeader: true, offload, up: true }),
      ) as [TapDevice, TapDevice];
      // Two interfaces of one namespace, joined back to back; a listener bound to one would be reached over loopback, so tt1 moves out.
      const other = spawn('unshare', ['--net', process.execPath, '-e', 'setTimeout(() => {}, 60000)'], {
        stdio: 'ignore',
      });
      try {
        await eventually('the namespace', () => {
          try {
            ip('link', 'set', 'tt1', 'netns', String(other.pid));
            return !exists('tt1');
          } catch {
            return false;
          }
        });
        const nsenter = (...args: string[]) =>
          execFileSync('nsenter', [`--net=/proc/${other.pid}/ns/net`, ...args]);
        nsenter('ip', 'addr', 'add', '10.77.3.2/24', 'dev', 'tt1');
        nsenter('ip', 'link', 'set', 'tt1', 'up');
        left.configure({ ipv4: '10.77.3.1/24' });
        let largest = 0;
        let unfinished = 0;
        const join = (from: TapDevice, to: TapDevice) =>
          from.start((buffer, index, count) => {
            for (let i = 0; i < count; i++) {
              largest = Math.max(largest, index[2 * i + 1]!);
              if ((buffer[index[2 * i]!]! & 1) !== 0) unfinished++;
            }
            assert.is(to.write(buffer, index, 0, count), count);
          });
        join(left, right);
        join(right, left);
        const server = createServer((socket) => socket.end(Buffer.alloc(1 << 20, 7)));
        await new Promise<void>((resolve) => server.listen(0, '10.77.3.1', resolve));
        const { port } = server.address() as { port: number };
        const client = spawn(
          'nsenter',
          [
            `--net=/proc/${other.pid}/ns/net`,
            process.execPath,
            '-e',
            `let n = 0; require('node:net').connect(${port}, '10.77.3.1').on('data', (d) => n += d.length).on('close', () => console.log(n))`,
          ],
          { stdio: ['ignore', 'pipe', 'inherit'] },
        );
        let output = '';
        client.stdout.on('data', (chunk) => {
          output += chunk;
        });
        await new Promise((resolve) => client.on('close', resolve));
        assert.is(output.trim(), String(1 << 20));
        if ('checksum' in offload) {
          assert.ok(unfinished > 0);
          assert.ok(largest > 1524, `largest packet ${largest}`);
        } else {
          assert.is(unfinished, 0);
          assert.ok(largest <= 1524, `largest packet ${largest}`);
        }
        server.close();
      } finally {
        left.close();
        right.close();
        other.kill('SIGKILL');
      }
    }
  }, 20_000),
);

live('what the kernel refuses is counted and does not stop the rest', () => {
  const tap = tapOf({ name: 'tt0', up: true });
  const { buffer, index } = numberedFrames(3, 60);
  index[3] = 5; // shorter than an Ethernet header
  assert.is(tap.write(buffer, index, 0, 3), 3);
  assert.equal([tap.counters().txFrames, tap.counters().txRejected], [2, 1]);
  tap.configure({ up: false });
  assert.is(tap.write(buffer, index, 0, 1), 1);
  assert.is(tap.counters().txDropped, 1);
  tap.close();
});

live(
  'deletion from outside ends in one error',
  within(async () => {
    const tap = tapOf({ name: 'tt0', up: true });
    const codes: string[] = [];
    tap.onError = (error) => codes.push(error.code);
    tap.start(() => {});
    ip('link', 'del', 'tt0');
    await eventually('the error', () => codes.length === 1);
    assert.equal(codes, ['EBADFD']);
    assert.throws(() => tap.writeOne(new Uint8Array(60)), /interface tt0 no longer exists/);
    assert.throws(() => tap.mtu, /interface tt0 no longer exists/);
    tap.close();
  }),
);

live(
  'a packet socket receives what arrives at an interface, not what leaves, and survives the interface going down',
  within(async () => {
    ip('link', 'add', 'tt0', 'type', 'veth', 'peer', 'name', 'tt1');
    const near = socketOf({ name: 'tt0', up: true });
    const far = socketOf({ name: 'tt1', up: true, vnetHeader: true });
    let received = 0;
    let echoes = 0;
    near.start((buffer, index, count) => {
      for (let i = 0; i < count; i++) if (isOurs(buffer, index[2 * i]!)) echoes++;
    });
    far.start((buffer, index, count) => {
      for (let i = 0; i < count; i++) if (isOurs(buffer, index[2 * i]! + 10)) received++;
    });
    const { buffer, index } = numberedFrames(1, 60);
    // A new carrier takes the kernel a moment, in which it drops.
    const passes = (before: number) => () => {
      near.write(buffer, index, 0, 1);
      return received > before;
    };
    await eventually('a frame', passes(0));
    far.configure({ up: false });
    await eventually('the news', () => far.counters().rxErrors > 1);
    far.configure({ up: true });
    await eventually('a frame again', passes(received));
    assert.is(echoes, 0);
    near.close();
    far.close();
    ip('link', 'del', 'tt0');
  }),
);

live('descriptors are closed: by close, and in child processes from the start', () => {
  const probe = openSync('/dev/null', 'r');
  closeSync(probe);
  const tap = tapOf({ name: 'tt0' });
  const inherited = execFileSync('ls', ['-l', '/proc/self/fd'], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  assert.not.match(inherited, /net\/tun/);
  tap.close();
  const next = openSync('/dev/null', 'r');
  closeSync(next);
  assert.is(next, probe);
});

live.run();
