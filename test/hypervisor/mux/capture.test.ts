import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VirtualClock } from '../../../src/common/index.ts';
import { Captures } from '../../../src/hypervisor/mux/captures.ts';
import { within } from '../../support/index.ts';
import {
  type Bench,
  bench,
  CLIENT,
  established,
  FLAG,
  fromClient,
  MAC,
  SECOND,
  SERVICE,
  textOf,
  toClient,
  udp,
} from './harness.ts';

const test = suite('hypervisor/mux/capture');

/** What the mux shows of each packet: `port in|out packet [comment]`. */
function watch(b: Bench): string[] {
  const seen: string[] = [];
  b.mux.observer = {
    packet: (port, inbound, buffer, offset, length, comment) => {
      const text = textOf(buffer.slice(offset, offset + length));
      seen.push(`${port} ${inbound ? 'in' : 'out'} ${text}${comment === undefined ? '' : ` [${comment}]`}`);
    },
  };
  return seen;
}

test(
  'the port’s interface shows what the partition sent, the uplink’s what left; comments say what was done',
  within(() => {
    const b = bench();
    established(b, 4000);
    b.mux.switch({
      address: SERVICE,
      from: 'a',
      to: 'b',
      notice: { second: SECOND, immediately: true },
    });
    const seen = watch(b);
    b.a.deliver(toClient(4000, FLAG.ACK, 'a', { from: SECOND }));
    b.up.deliver(fromClient(4000, FLAG.ACK));
    b.b.deliver(toClient(4000, FLAG.RST, 'b'));
    b.a.deliver(udp({ fromMac: MAC.b, toMac: MAC.client, from: SERVICE, to: CLIENT, sport: 1, dport: 2 }));
    assert.equal(seen, [
      `a in tcp ${SECOND}:80 > ${CLIENT}:4000 A`,
      `up out tcp ${SERVICE}:80 > ${CLIENT}:4000 A [change notice 1: source ${SECOND} → ${SERVICE}]`,
      `up in tcp ${CLIENT}:4000 > ${SERVICE}:80 A`,
      `a out tcp ${CLIENT}:4000 > ${SECOND}:80 A [steered to a; change notice 1: destination ${SERVICE} → ${SECOND}]`,
      `b in tcp ${SERVICE}:80 > ${CLIENT}:4000 R [dropped: rst-suppressed]`,
      `a in udp ${SERVICE}:1 > ${CLIENT}:2 [dropped: spoofed-mac]`,
    ]);
  }),
);

test(
  'held packets appear when they come and when they go, with the time between; drops at the receiver with its queue',
  within(() => {
    const b = bench();
    b.mux.holdStart({ address: SERVICE, scope: 'all' });
    const seen = watch(b);
    b.up.deliver(fromClient(4000, FLAG.SYN));
    b.clock.advance(4.2);
    b.mux.holdRelease({ address: SERVICE });
    b.mux.setConnected('a', false);
    b.up.deliver(fromClient(4000, FLAG.SYN));
    const syn = `tcp ${CLIENT}:4000 > ${SERVICE}:80 S`;
    assert.equal(seen.slice(0, 2), [`up in ${syn} [held]`, `a out ${syn} [held 4.2 ms]`]);
    assert.equal(seen.slice(2), [`up in ${syn} [dropped: port-down]`]);
  }),
);

test(
  'a flood is captured once where it came in and once per port that it left by',
  within(() => {
    const b = bench();
    b.mux.portState('b', 'attached');
    const seen = watch(b);
    b.up.deliver(
      udp({ from: CLIENT, to: '255.255.255.255', toMac: 'ff:ff:ff:ff:ff:ff', sport: 1, dport: 2 }),
    );
    assert.equal(
      seen.map((line) => line.split(' ').slice(0, 2).join(' ')),
      ['up in', 'a out', 'b out'],
    );
  }),
);

test(
  'several captures at once, of all ports or some; errors name what there is',
  within(async () => {
    const directory = mkdtempSync(join(tmpdir(), 'mux-capture-'));
    const clock = new VirtualClock();
    const b = bench();
    const captures = new Captures(clock, () => b.mux.ports());
    const [all, some] = [join(directory, 'all.pcapng'), join(directory, 'some.pcapng')];
    captures.start({ file: all });
    captures.start({ file: all });
    captures.start({ file: some, ports: ['a'], comment: 'only a' });
    assert.throws(() => captures.start({ file: 'x', ports: ['nobody'] }), /no port nobody/);
    b.mux.observer = captures;
    b.up.deliver(fromClient(4000, FLAG.SYN));
    captures.mark('here');
    try {
      await captures.stop();
      assert.unreachable();
    } catch (error) {
      assert.match((error as { remedy: string }).remedy, /all\.pcapng, .*some\.pcapng/);
    }
    const first = await captures.stop(all);
    const second = await captures.stop();
    assert.equal([first.packets, second.packets], [3, 2]);
    assert.is(captures.active, false);
    assert.is(readFileSync(some).readUInt32LE(0), 0x0a0d0d0a);
    assert.ok(readFileSync(some).includes('only a'));
    rmSync(directory, { recursive: true });
  }),
);

test(
  'a ring keeps the latest in memory beside other captures and is written into a file when somebody asks',
  within(async () => {
    const directory = mkdtempSync(join(tmpdir(), 'mux-capture-'));
    const b = bench();
    const captures = new Captures(new VirtualClock(), () => b.mux.ports());
    captures.start({ file: 'history', ringBytes: 1 << 20 });
    b.mux.observer = captures;
    b.up.deliver(fromClient(4000, FLAG.SYN));
    const file = join(directory, 'history.pcapng');
    assert.is((await captures.dump({ name: 'history', file })).packets, 2);
    assert.is((await captures.dump({ name: 'history', file, ports: ['a'] })).packets, 1);
    const read = readFileSync(file);
    assert.is(read.readUInt32LE(0), 0x0a0d0d0a);
    for (const name of ['history', file]) {
      if (name === file) captures.start({ file: name });
      if (name === 'history') await captures.stop(name);
      const error = await captures.dump({ name, file: join(directory, 'x') }).catch((reason) => reason);
      assert.is(error.code, 'no-capture', name);
    }
    await captures.close();
    rmSync(directory, { recursive: true });
  }),
);

test.run();
