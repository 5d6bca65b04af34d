import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  Convergence,
  DelayFilter,
  type DiskStack,
  hashDevice,
  MemoryStore,
  WriteThrottle,
} from '../../../src/blockdev/index.ts';
import { VirtualClock } from '../../../src/common/index.ts';
import { eventually, inScratch, within } from '../../support/index.ts';
import { pairsIn, phase, refuse } from './copy-support.ts';

const convergence = suite('blockdev/copy/convergence');
const MIB = 1024 * 1024;

convergence(
  'the forecast is what is left over the net rate, and none while writes come in as fast',
  within(() => {
    const rounds = new Convergence({}, new VirtualClock());
    const round = { reflected: 100 * MIB, tookMs: 1000, left: 50 * MIB, writeRate: 20 * MIB };
    assert.is(rounds.round(round), 'replaying');
    assert.is(rounds.reflectRate, 100 * MIB);
    assert.is(rounds.forecastMs(40 * MIB, 20 * MIB), 500);
    assert.is(rounds.forecastMs(40 * MIB, 100 * MIB), undefined);
    assert.is(rounds.forecastMs(MIB, 100 * MIB), 0);
  }),
);

convergence(
  'writers are slowed down after rounds that get no closer, eased when the rest is small, given up with the rates',
  within(async () => {
    const clock = new VirtualClock();
    const rounds = new Convergence({ maxDelayMs: 5, giveUpAfterMs: 1000 }, clock);
    const behind = { reflected: 64 * MIB, tookMs: 1000, left: 64 * MIB, writeRate: 64 * MIB };
    assert.is(rounds.round(behind), 'replaying');
    assert.is(rounds.round(behind), 'replaying');
    assert.is(rounds.limit, 0);
    assert.is(rounds.round(behind), 'replaying');
    assert.is(rounds.limit, 32 * MIB);
    assert.ok(rounds.outrun);
    assert.is(rounds.round(behind), 'replaying');
    assert.is(rounds.limit, 16 * MIB);
    // Closer: held, not lowered.
    assert.is(rounds.round({ ...behind, left: 32 * MIB }), 'replaying');
    assert.is(rounds.limit, 16 * MIB);
    assert.is(rounds.round({ ...behind, left: MIB }), 'converged');
    assert.ok(rounds.limit > 16 * MIB);
    for (let i = 0; i < 40; i++) rounds.round({ ...behind, left: 0 });
    assert.is(rounds.limit, 0);
    assert.is(rounds.round(behind), 'replaying');
    await clock.advance(1001);
    const end = rounds.round(behind);
    assert.match(
      typeof end === 'object' ? end.reason : end,
      /outrun the copy: 67108864 bytes behind .* written at 67108864 bytes\/s, reflected at 67108864 bytes\/s.*up to 5 ms/,
    );
  }),
);

convergence(
  'the throttle lets a rate through, delays no write by more than its limit, and is off when lifted',
  within(async () => {
    const clock = new VirtualClock();
    const throttle = new WriteThrottle(new MemoryStore(MIB), clock);
    const data = Buffer.alloc(1000);
    assert.ok(throttle.writeAtSync(data, 0n));
    throttle.limit(100_000, 15);
    let done = 0;
    const writes = [0, 1, 2, 3].map((i) => throttle.writeAt(data, BigInt(i)).then(() => done++));
    assert.not.ok(throttle.writeAtSync(data, 0n));
    await clock.advance(5);
    await new Promise((resolve) => setImmediate(resolve));
    assert.is(done, 1, 'the first one at once');
    await clock.advance(5);
    await new Promise((resolve) => setImmediate(resolve));
    assert.is(done, 2, '10 ms for 1000 bytes');
    await clock.advance(5);
    await Promise.all(writes);
    assert.is(throttle.delayed, 3);
    assert.is(throttle.delayedMs, 10 + 15 + 15);
    throttle.lift();
    assert.ok(throttle.writeAtSync(data, 0n));
  }),
);

/** Writes 64 KiB at a time, apart from each other, until told to stop. */
function flood(disk: DiskStack): { stop(): Promise<void> } {
  let stopped = false;
  const untilMs = performance.now() + 40_000;
  const work = (async () => {
    for (let i = 0; !stopped && performance.now() < untilMs; i++) {
      const at = BigInt((i % 128) * 128 * 1024);
      const written = disk.top.writeAt(Buffer.alloc(64 * 1024, i), at).catch(() => {
        stopped = true;
      });
      await Promise.all([written, new Promise((resolve) => setTimeout(resolve, 1))]);
    }
  })();
  return {
    stop: () => {
      stopped = true;
      return work;
    },
  };
}

function slowTarget(directory: string) {
  return pairsIn(directory, 1, 16 * MIB, (name) => {
    const store = new MemoryStore(16 * MIB);
    return name.startsWith('b') ? new DelayFilter(store, { writeMs: 20 }) : store;
  });
}

convergence(
  'a writer that outruns a slow target is slowed down until the copy can be cut',
  within(
    () =>
      inScratch(async (directory) => {
        const pairs = slowTarget(directory);
        const group = pairs.group({ convergence: { maxDelayMs: 500 } });
        await group.start();
        const writer = flood(pairs.sources[0]!);
        await eventually('the throttle', () => (group.progress().throttle?.delayedWrites ?? 0) > 0, 30_000);
        assert.is(group.progress().throttle?.maxDelayMs, 500);
        await phase(group, 'converged');
        await group.cut({ fence: refuse });
        await writer.stop();
        assert.is(pairs.sources[0]!.throttle.bytesPerSecond, 0);
        assert.is(await hashDevice(pairs.sources[0]!.store), await hashDevice(pairs.targets[0]!.store));
      }),
    60_000,
  ),
);

convergence(
  'where writers may not be slowed down the copy is given up with the reason; writes go on, the target stays invalid',
  within(
    () =>
      inScratch(async (directory) => {
        const pairs = slowTarget(directory);
        const group = pairs.group({ convergence: { maxDelayMs: 0, giveUpAfterMs: 300 } });
        await group.start();
        const writer = flood(pairs.sources[0]!);
        await eventually('the end', () => group.progress().phase === 'failed', 30_000);
        assert.match(group.progress().reason ?? '', /writes outrun the copy: \d+ bytes behind/);
        assert.ok(pairs.invalid(0));
        assert.is(pairs.sources[0]!.trap.sink, undefined);
        await writer.stop();
        await pairs.sources[0]!.top.writeAt(Buffer.alloc(512, 1), 0n);
      }),
    60_000,
  ),
);

convergence(
  'the time that a throttled copy says it will take is right within 30 %, from a quarter of the way on',
  within(
    () =>
      inScratch(async (directory) => {
        const size = 16 * MIB;
        const pairs = pairsIn(directory, 1, size);
        await pairs.sources[0]!.store.writeAt(Buffer.alloc(size, 1), 0n);
        const group = pairs.group({ rateLimit: 4 * MIB });
        await group.start();
        const told: { readonly atMs: number; readonly etaMs: number }[] = [];
        for (const share of [0.25, 0.5, 0.75]) {
          await eventually(`${share} of it`, () => group.progress().copied >= share * size, 15_000);
          const { phase, etaMs } = group.progress();
          assert.is(phase, 'copying');
          assert.ok(etaMs !== undefined, 'a time is told');
          told.push({ atMs: performance.now(), etaMs });
        }
        await eventually('the end', () => group.progress().copied === size, 15_000);
        const endMs = performance.now();
        for (const { atMs, etaMs } of told) {
          const leftMs = endMs - atMs;
          assert.ok(
            Math.abs(etaMs - leftMs) <= 0.3 * leftMs,
            `${etaMs} ms were told, it took ${Math.round(leftMs)} ms`,
          );
        }
        await group.cancel();
      }),
    40_000,
  ),
);

convergence.run();
