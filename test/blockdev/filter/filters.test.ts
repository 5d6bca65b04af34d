import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  DelayFilter,
  FaultFilter,
  Fence,
  LogAside,
  MemoryStore,
  parseFaultRule,
  ReadOnlyFilter,
  StatsFilter,
  WindowFilter,
  WriteGate,
  type WriteSink,
  WriteTrap,
} from '../../../src/blockdev/index.ts';
import { SeededRandom, VirtualClock } from '../../../src/common/index.ts';
import { inScratch, within } from '../../support/index.ts';
import { errnoOf } from '../device-compliance.ts';

const filters = suite('blockdev/filter');
const SIZE = 1024 * 1024;
const disk = { diskId: 'd', diskSize: BigInt(SIZE) };
const turn = () => new Promise((resolve) => setImmediate(resolve));

async function byteAt(device: { readAt(t: Uint8Array, o: bigint): Promise<void> }, at: number) {
  const out = Buffer.alloc(1);
  await device.readAt(out, BigInt(at));
  return out[0];
}

filters(
  'gate: paused, writes wait in order and reads pass; the pause begins when nothing is under way',
  within(async () => {
    const clock = new VirtualClock();
    const gate = new WriteGate(new DelayFilter(new MemoryStore(SIZE), { writeMs: 10 }, clock));
    const order: string[] = [];
    const early = gate.writeAt(Buffer.from([1]), 0n).then(() => order.push('early'));
    const paused = gate.pause().then(() => order.push('paused'));
    const late = gate.writeAt(Buffer.from([2]), 0n).then(() => order.push('late'));
    const zero = gate.writeZeroes(8n, 8n).then(() => order.push('zero'));
    assert.not.ok(gate.writeAtSync(Buffer.from([3]), 0n));
    await turn();
    assert.is(gate.waiting, 2);
    assert.equal(order, []);
    clock.advance(10);
    await paused;
    await early;
    assert.equal(order.sort(), ['early', 'paused']);
    assert.is(await byteAt(gate, 0), 1);
    gate.resume();
    await turn();
    clock.advance(10);
    await Promise.all([late, zero]);
    assert.is(await byteAt(gate, 0), 2);
    gate.resume();
    assert.not.ok(gate.paused);
  }),
);

filters(
  'gate: pauses nest',
  within(async () => {
    const gate = new WriteGate(new MemoryStore(SIZE));
    await gate.pause();
    await gate.pause();
    let done = false;
    const write = gate.trim(0n, 512n).then(() => {
      done = true;
    });
    gate.resume();
    await turn();
    assert.not.ok(done);
    gate.resume();
    await write;
  }),
);

/** A sink that remembers what it hears; `hold` makes recording wait. */
class Listener implements WriteSink {
  readonly heard: string[] = [];
  hold: Promise<void> | undefined;
  flushes = 0;
  record(kind: string, address: number, length: number): Promise<void> | undefined {
    this.heard.push(`${kind} ${address} ${length}`);
    return this.hold;
  }
  landed(address: number, _length: number, ok: boolean): void {
    this.heard.push(`${ok ? 'landed' : 'failed'} ${address}`);
  }
  async flush(): Promise<void> {
    this.flushes++;
  }
}

filters(
  'trap: a write reaches the device only when the log has it',
  within(async () => {
    const store = new MemoryStore(SIZE);
    const trap = new WriteTrap(store);
    const sink = new Listener();
    let release: () => void = () => {};
    sink.hold = new Promise((resolve) => {
      release = resolve;
    });
    trap.attach(sink);
    assert.not.ok(trap.writeAtSync(Buffer.from([1]), 0n));
    const write = trap.writeAt(Buffer.from([1]), 0n);
    await turn();
    assert.is(await byteAt(store, 0), 0);
    release();
    await write;
    assert.is(await byteAt(store, 0), 1);
    assert.equal(sink.heard, ['data 0 1', 'landed 0']);
  }),
);

filters(
  'trap: overlapping writes land in the order in which the log heard of them',
  within(async () => {
    const clock = new VirtualClock();
    const slow = new DelayFilter(new MemoryStore(SIZE), { writeMs: 10 }, clock);
    const trap = new WriteTrap(slow);
    const sink = new Listener();
    trap.attach(sink);
    const first = trap.writeAt(Buffer.alloc(100, 1), 0n);
    slow.delays = { writeMs: 1 };
    const second = trap.writeAt(Buffer.alloc(100, 2), 50n);
    const other = trap.writeAt(Buffer.alloc(100, 3), 500n);
    await turn();
    clock.advance(1);
    await other;
    assert.equal(
      sink.heard,
      ['data 0 100', 'data 500 100', 'landed 500'],
      'the overlapping one waits unheard',
    );
    clock.advance(9);
    await first;
    await turn();
    clock.advance(1);
    await second;
    assert.equal(sink.heard.slice(3), ['landed 0', 'data 50 100', 'landed 50']);
    assert.is(await byteAt(trap, 60), 2);
  }),
);

filters(
  'trap: a failed write is told as such, flush and forced unit access flush the log too',
  within(async () => {
    const fault = new FaultFilter(new MemoryStore(SIZE), new SeededRandom(1), [
      { operations: ['write'], errno: 'EIO', times: 1 },
    ]);
    const trap = new WriteTrap(fault);
    const sink = new Listener();
    trap.attach(sink);
    assert.is(await errnoOf(() => trap.writeAt(Buffer.alloc(8), 64n)), 'EIO');
    await trap.writeAt(Buffer.alloc(8), 64n, { fua: true });
    await trap.flush();
    await trap.trim(0n, 512n);
    assert.equal(sink.heard, ['data 64 8', 'failed 64', 'data 64 8', 'landed 64', 'trim 0 512', 'landed 0']);
    assert.is(sink.flushes, 2);
    assert.is(await errnoOf(() => trap.attach(new Listener())), 'EINVAL');
    trap.detach(sink);
    await trap.writeAt(Buffer.alloc(8), 0n);
    assert.is(sink.heard.length, 6);
  }),
);

filters(
  'fence: refused writes are counted and reported with offset and length',
  within(async () => {
    const late: bigint[][] = [];
    const fence = new Fence(new MemoryStore(SIZE), (offset, length) => late.push([offset, length]));
    await fence.writeAt(Buffer.from([1]), 0n);
    fence.raise('refuse');
    assert.is(await errnoOf(() => fence.writeAt(Buffer.alloc(100), 512n)), 'EROFS');
    assert.is(await errnoOf(() => fence.trim(4096n, 8192n)), 'EROFS');
    assert.is(await errnoOf(() => fence.writeZeroes(0n, 1n)), 'EROFS');
    assert.not.ok(fence.writeAtSync(Buffer.from([2]), 0n));
    assert.is(await byteAt(fence, 0), 1);
    await fence.flush();
    assert.equal(late, [
      [512n, 100n],
      [4096n, 8192n],
      [0n, 1n],
    ]);
    assert.is(fence.lateWrites, 3);
    assert.is(fence.lateBytes, 8293);
    fence.lower();
    await fence.writeAt(Buffer.from([2]), 0n);
    assert.is(await byteAt(fence, 0), 2);
  }),
);

filters(
  'fence: what is set aside is read back by its writer, the device stays as it was at the cut',
  within(() =>
    inScratch(async (directory) => {
      const store = new MemoryStore(SIZE);
      await store.writeAt(Buffer.alloc(1000, 1), 0n);
      const fence = new Fence(store);
      fence.raise('set-aside', await LogAside.open(directory, disk));
      await fence.writeAt(Buffer.alloc(100, 2), 50n);
      await fence.writeAt(Buffer.alloc(10, 3), 90n);
      await fence.writeZeroes(120n, 10n);
      const bytes = await Promise.all(
        [49, 50, 89, 90, 99, 100, 119, 120, 130, 149, 150].map((at) => byteAt(fence, at)),
      );
      assert.equal(bytes, [1, 2, 2, 3, 3, 2, 2, 0, 2, 2, 1]);
      assert.is(await byteAt(store, 90), 1);
      assert.is(fence.lateWrites, 3);
      await fence.aside!.flush();
      await fence.lower()!.close();
      // Another process goes on with it.
      const again = await LogAside.open(directory, disk);
      assert.equal(again.found, { writes: 3, bytes: 120 });
      assert.is(again.coveredBytes, 100);
      fence.raise('set-aside', again);
      assert.is(await byteAt(fence, 95), 3);
      fence.raise('set-aside', again);
      await fence.close();
    }),
  ),
);

filters(
  'read-only: writes are refused and capabilities say so',
  within(async () => {
    const store = new MemoryStore(SIZE);
    const filter = new ReadOnlyFilter(store);
    assert.ok(filter.capabilities.readOnly);
    for (const work of [() => filter.writeAt(), () => filter.writeZeroes(), () => filter.trim()])
      assert.is(await errnoOf(work), 'EROFS');
    await filter.flush();
    assert.is(await byteAt(filter, 0), 0);
    assert.is('writeAtSync' in filter, false);
  }),
);

filters(
  'window: offsets are moved, its borders hold',
  within(async () => {
    const store = new MemoryStore(SIZE);
    const window = new WindowFilter(store, 4096n, 8192n);
    await window.writeAt(Buffer.from([5]), 8191n);
    assert.is(await byteAt(store, 4096 + 8191), 5);
    assert.is(await errnoOf(() => window.writeAt(Buffer.alloc(2), 8191n)), 'EINVAL');
    assert.is(await errnoOf(() => new WindowFilter(store, BigInt(SIZE), 1n)), 'EINVAL');
    const [first] = await window.extents(0n, 8192n);
    assert.is(first?.offset, 0n);
  }),
);

filters(
  'stats: what passes is counted, by either path',
  within(async () => {
    const stats = new StatsFilter(new MemoryStore(SIZE));
    assert.ok(stats.writeAtSync(Buffer.alloc(10), 0n));
    await stats.writeAt(Buffer.alloc(20), 0n);
    assert.ok(stats.readAtSync(Buffer.alloc(3), 0n));
    await stats.readAt(Buffer.alloc(4), 0n);
    await stats.trim(0n, 512n);
    await stats.flush();
    assert.equal(
      [stats.writes, stats.bytesWritten, stats.reads, stats.bytesRead, stats.flushes],
      [3, 30, 2, 7, 1],
    );
    assert.ok(stats.lastWriteMs !== undefined);
  }),
);

filters(
  'faults: by operation, range, count and chance, the same for the same seed',
  within(async () => {
    const failures = async (seed: number) => {
      const fault = new FaultFilter(new MemoryStore(SIZE), new SeededRandom(seed), [
        { operations: ['read'], errno: 'EIO', range: { offset: 4096n, length: 4096n }, after: 1, times: 2 },
        { operations: ['write'], errno: 'ENOSPC', chance: 0.3 },
      ]);
      const out: (string | undefined)[] = [];
      for (const offset of [0n, 4096n, 8191n, 8191n, 8191n])
        out.push(await errnoOf(() => fault.readAt(Buffer.alloc(1), offset)));
      for (let i = 0; i < 20; i++) out.push(await errnoOf(() => fault.writeAt(Buffer.alloc(1), 0n)));
      return out;
    };
    const first = await failures(3);
    assert.equal(first.slice(0, 5), [undefined, undefined, 'EIO', 'EIO', undefined]);
    assert.ok(first.includes('ENOSPC'));
    assert.equal(await failures(3), first);
  }),
);

filters(
  'faults: delays, by time, torn writes, no room from a byte on',
  within(async () => {
    const clock = new VirtualClock();
    const store = new MemoryStore(SIZE);
    const rules = [
      'read:delay=20ms,times=1',
      'flush:EIO,since=1s,for=2s',
      'write:EIO,torn,to=4K',
      'write:ENOSPC,from=64K',
    ];
    const fault = new FaultFilter(store, new SeededRandom(1), rules.map(parseFaultRule), clock);
    let read = false;
    const reading = fault.readAt(Buffer.alloc(1), 0n).then(() => {
      read = true;
    });
    clock.advance(19);
    await Promise.resolve();
    assert.is(read, false);
    clock.advance(1);
    await reading;
    assert.is(fault.delayed, 1);
    assert.is(await errnoOf(() => fault.flush()), undefined);
    clock.advance(1000);
    assert.is(await errnoOf(() => fault.flush()), 'EIO');
    clock.advance(2000);
    assert.is(await errnoOf(() => fault.flush()), undefined);
    assert.is(await errnoOf(() => fault.writeAt(Buffer.alloc(1024, 7), 0n)), 'EIO');
    const out = Buffer.alloc(1024);
    await store.readAt(out, 0n);
    assert.equal([out[0], out[511], out[512]], [7, 7, 0]);
    assert.is(await errnoOf(() => fault.writeAt(Buffer.alloc(4096), 65_536n - 4096n)), undefined);
    assert.is(await errnoOf(() => fault.writeAt(Buffer.alloc(4096), 65_536n - 4095n)), 'ENOSPC');
    assert.is(fault.injected, 3);
  }),
);

filters('faults: rules as they are written; every wrong one says what is wrong', () => {
  assert.equal(
    parseFaultRule('modify+flush:ENOSPC,delay=2s,after=3,times=1,chance=0.5,from=1G,to=2G,since=1m,for=5s'),
    {
      operations: ['write', 'zeroes', 'trim', 'flush'],
      errno: 'ENOSPC',
      delayMs: 2000,
      after: 3,
      times: 1,
      chance: 0.5,
      sinceMs: 60_000,
      forMs: 5000,
      range: { offset: 1n << 30n, length: 1n << 30n },
    },
  );
  for (const [text, what] of [
    ['EIO', /a colon/],
    ['writes:EIO', /no operation/],
    [':EIO', /no operation/],
    ['write:', /neither/],
    ['write:EWHAT', /neither/],
    ['write:after=1', /no error and no delay/],
    ['write:delay=5', /no time/],
    ['write:EIO,after=-1', /no number/],
    ['write:EIO,chance=2', /from 0 to 1/],
    ['write:EIO,chance=', /from 0 to 1/],
    ['write:EIO,from=1X', /number of bytes/],
    ['write:EIO,from=2K,to=1K', /ends before/],
    ['write:delay=1s,torn', /needs an error/],
  ] as const)
    assert.throws(
      () => parseFaultRule(text),
      (error: Error) => what.test(error.message),
      text,
    );
});

filters.run();
