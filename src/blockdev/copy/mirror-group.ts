/**
 * The documents' alternative to copying: the disks of the active partition are mirrored onto those of the standby, and at the
 * cut the mirror is split, so that each partition has one half. From then on both halves note what is written; joining them
 * again copies only that, in either direction.
 *
 *   start   gates paused → second halves attached → what may differ is copied, writes go to both (`copying`)
 *   whole   both halves hold the same (`converged`)
 *   cut     gates of the named disks paused → both halves flushed → fence → second halves valid → halves apart
 *
 * A second half is marked invalid, with the generation of its mirror, from before it is touched until its cut. Two halves know of
 * each other when their maps are of one generation, or when the second one is still marked as the half of the first: then what
 * either map has marked is copied, else everything. A process that is killed leaves the map of the first half: the
 * next one goes on where it was.
 */
import type { Clock } from '../../common/index.ts';
import { messageOf, systemClock, systemRandom } from '../../common/index.ts';
import { MirrorMap } from '../mirror/index.ts';
import type { CopyPair, CopyPhase, CopyProgress, CutOptions, CutOutcome, LiveCopy } from './copy-types.ts';
import { CopyError } from './copy-types.ts';
import { handOver, standingStill } from './cut.ts';
import { proveEqual } from './proof.ts';
import { RateLimit, RateMeter } from './rate.ts';
import { WrittenSince } from './written-since.ts';

export interface MirrorPair extends CopyPair {
  /** Where the maps of the two halves are kept. */
  readonly maps: { readonly from: string; readonly to: string };
  /**
   * The first half failed and is dropped: durably noted when it returns, before the guest hears of its write. When it throws, the
   * second half is dropped instead and the guest gets the error of the first.
   */
  readonly onFirstDropped?: (reason: string) => void;
}

export interface MirrorGroupOptions {
  readonly name: string;
  readonly pairs: readonly MirrorPair[];
  /** Fail with `not-resumable` rather than copy everything. */
  readonly onlyChanges?: boolean;
  /** Bytes per second of what is copied; 0 = no limit. */
  readonly rateLimit?: number;
  readonly clock?: Clock;
  readonly onProgress?: () => void;
}

export class MirrorGroup implements LiveCopy {
  readonly name: string;
  readonly purpose = 'mirror';
  readonly #options: MirrorGroupOptions;
  readonly #clock: Clock;
  readonly #limit: RateLimit;
  readonly #copyRate: RateMeter;
  #pairs: readonly MirrorPair[] = [];
  #phase: CopyPhase = 'copying';
  #reason: string | undefined;
  #total = 0;
  #copied = 0;
  #onlyChanges = true;
  readonly #halvesDropped: string[] = [];
  #cancelling = false;
  #chain: Promise<unknown> = Promise.resolve();
  #background: Promise<void> = Promise.resolve();

  constructor(options: MirrorGroupOptions) {
    this.name = options.name;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#limit = new RateLimit(options.rateLimit ?? 0, this.#clock);
    this.#copyRate = new RateMeter(this.#clock);
    for (const { from, to } of options.pairs)
      if (from.store.size !== to.store.size)
        throw new CopyError(
          'size-mismatch',
          `${to.id} has ${to.store.size} bytes, ${from.id} has ${from.store.size}`,
          { remedy: 'create the target with the size of the source' },
        );
  }

  get pairs(): readonly MirrorPair[] {
    return this.#pairs;
  }

  /** Ends when every write goes to both halves; what may differ is copied in the background. */
  async start(): Promise<void> {
    const { pairs } = this.#options;
    for (const { from } of pairs)
      if (from.mirror.mirrored)
        throw new CopyError('half-dropped', `${from.id} has a second half: it is part of a mirror`, {
          remedy:
            'cancel that mirror; when the first half failed, go on with the second one as a disk of its own',
        });
    try {
      await this.#join(pairs);
    } catch (error) {
      for (const { from } of pairs) from.mirror.detach();
      throw error;
    }
    this.#pairs = pairs;
    this.#background = this.#run();
  }

  async #join(pairs: readonly MirrorPair[]): Promise<void> {
    await standingStill(pairs, this.#clock, async () => {
      const joined = pairs.map(joinedMap);
      if (this.#options.onlyChanges === true && joined.includes(undefined)) {
        for (const [i, map] of joined.entries()) if (map !== pairs[i]!.from.mirror.map) map?.close();
        throw new CopyError('not-resumable', `the halves of ${this.name} do not know of each other`, {
          remedy: 'start the mirror anew: mirror-start',
        });
      }
      for (const [i, pair] of pairs.entries()) {
        const { from, to, mark, maps } = pair;
        let map = joined[i];
        if (map === undefined) {
          this.#onlyChanges = false;
          const generation = Buffer.from(systemRandom.fill(new Uint8Array(16))).toString('hex');
          mark.set(`everything has to be copied from ${from.id}`);
          map = MirrorMap.create(maps.from, generation, Number(from.store.size), true);
        }
        mark.set(halfOf(map.generation, pair));
        from.mirror.track(map);
        // Its map is in the one of the first half now.
        const second = to.mirror.map ?? MirrorMap.open(maps.to, Number(to.store.size));
        to.mirror.track(undefined);
        second?.remove();
        from.mirror.attach(to.store, (half, reason) => this.#dropped(pair, half, reason));
        this.#total += map.bytes;
      }
    });
  }

  progress(): CopyProgress {
    const delta = this.#pairs.reduce(
      (sum, { from }) => sum + (from.mirror.whole ? 0 : (from.mirror.map?.bytes ?? 0)),
      0,
    );
    const bytesPerSecond = this.#copyRate.bytesPerSecond(this.#copied);
    return {
      phase: this.#phase,
      total: this.#total,
      copied: this.#copied,
      delta,
      rounds: 0,
      bytesPerSecond,
      writeRate: 0,
      reflectRate: 0,
      ...(this.#phase === 'copying' && bytesPerSecond > 0
        ? { etaMs: Math.round((delta / bytesPerSecond) * 1000) }
        : {}),
      ...(this.#onlyChanges ? { resumed: true } : {}),
      ...(this.#halvesDropped.length === 0 ? {} : { dropped: this.#halvesDropped.join('; ') }),
      ...(this.#reason === undefined ? {} : { reason: this.#reason }),
    };
  }

  /** There is nothing to catch up with: how long a flush of both halves takes, ms. */
  round(): Promise<number> {
    return this.#exclusive(async () => {
      this.#checkWhole();
      const startedMs = this.#clock.nowMs();
      for (const { from } of this.#pairs) await from.mirror.flush();
      this.#checkWhole();
      return this.#clock.nowMs() - startedMs;
    });
  }

  cut(options: CutOptions = {}): Promise<CutOutcome> {
    return this.#exclusive(async () => {
      this.#checkWhole();
      const wanted = options.from ?? this.#pairs.map((pair) => pair.from.id);
      const pairs = wanted.map((id) => {
        const pair = this.#pairs.find(({ from }) => from.id === id);
        if (pair === undefined)
          throw new CopyError('unknown-disk', `mirror ${this.name} has no disk ${id} left to split`);
        return pair;
      });
      for (const { from } of pairs) await from.mirror.flush();
      try {
        return await this.#split(pairs, options);
      } catch (error) {
        if (!(error instanceof CopyError && error.code === 'busy')) await this.#fail(messageOf(error));
        throw error;
      }
    });
  }

  async #split(pairs: readonly MirrorPair[], options: CutOptions): Promise<CutOutcome> {
    const since = new Map<MirrorPair, WrittenSince>();
    const durationMs = await standingStill(pairs, this.#clock, async () => {
      for (const { from } of pairs) await from.mirror.flush();
      this.#checkWhole();
      await handOver(this.name, pairs, options, () => {
        for (const { from, to, maps } of pairs) {
          const map = from.mirror.map;
          if (map !== undefined) to.mirror.track(MirrorMap.create(maps.to, map.generation, map.size, false));
        }
      });
      for (const pair of pairs) {
        pair.from.mirror.detach();
        if (options.verify !== true || options.fence !== undefined) continue;
        const written = new WrittenSince(Number(pair.from.store.size));
        pair.from.trap.attach(written);
        since.set(pair, written);
      }
      this.#pairs = this.#pairs.filter((pair) => !pairs.includes(pair));
    });
    if (this.#pairs.length === 0) this.#setPhase('cut');
    const disks = [];
    for (const pair of pairs) {
      const { from, to } = pair;
      const proof = await this.#proofOf(pair, options.verify, since.get(pair));
      const cut = { from: from.id, to: to.id, sequence: 0n, deltaBytes: 0 };
      disks.push(proof === undefined ? cut : { ...cut, proof });
    }
    return { disks, durationMs };
  }

  /** Nothing is read back while halves are joined: `bounded` proves nothing, and says so. */
  async #proofOf(pair: MirrorPair, verify: CutOptions['verify'], since: WrittenSince | undefined) {
    if (verify === true) return proveEqual(pair, since);
    const unproven = Number(pair.from.store.size);
    return verify === 'bounded' ? { readBack: 0, proven: 0, compared: 0, unproven } : undefined;
  }

  /** Takes the second halves away; they stay invalid. What is written from now on is noted: it can be joined again. */
  async cancel(reason = 'cancelled'): Promise<void> {
    this.#cancelling = true;
    await this.#background;
    await this.#exclusive(async () => {
      if (this.#phase === 'cut' || this.#phase === 'failed' || this.#phase === 'cancelled') return;
      this.#phase = 'cancelled';
      this.#reason = reason;
      await this.#detach();
      this.#options.onProgress?.();
    });
  }

  /** The process goes down: the maps stay. */
  async suspend(): Promise<void> {
    this.#cancelling = true;
    await this.#background;
    await this.#exclusive(() => this.#detach());
  }

  async #run(): Promise<void> {
    try {
      this.#copyRate.update(0);
      for (const { from } of this.#pairs)
        await from.mirror.resync({
          before: async (bytes) => {
            if (this.#cancelling) throw new CopyError('cancelled', `mirror ${this.name} was cancelled`);
            await this.#limit.take(bytes);
          },
          onBytes: (bytes) => {
            this.#copied += bytes;
            this.#copyRate.update(this.#copied);
            this.#options.onProgress?.();
          },
        });
      this.#setPhase('converged');
    } catch (error) {
      if (!this.#cancelling) await this.#fail(messageOf(error));
    }
  }

  #dropped(pair: MirrorPair, half: 'first' | 'second', reason: string): void {
    if (half === 'first') pair.onFirstDropped?.(reason);
    this.#halvesDropped.push(`${pair.from.id}: ${half}: ${reason}`);
    if (half === 'first') {
      try {
        pair.mark.clear();
      } catch (error) {
        // The guest goes on with it all the same; whoever opens it next finds both halves invalid.
        this.#halvesDropped.push(`${pair.to.id} stays marked: ${messageOf(error)}`);
      }
    }
    const id = half === 'first' ? pair.from.id : pair.to.id;
    this.#phase = 'failed';
    this.#reason = `${id} failed and was dropped from the mirror: ${reason}`;
    this.#options.onProgress?.();
  }

  async #fail(reason: string): Promise<void> {
    if (this.#phase === 'cancelled') return;
    this.#phase = 'failed';
    this.#reason ??= reason;
    await this.#detach();
    this.#options.onProgress?.();
  }

  async #detach(): Promise<void> {
    if (this.#pairs.length === 0) return;
    await standingStill(this.#pairs, this.#clock, async () => {
      for (const { from } of this.#pairs) from.mirror.detach();
    });
  }

  #checkWhole(): void {
    if (this.#phase === 'copying')
      throw new CopyError('busy', `mirror ${this.name} is still being brought up to date`, {
        remedy: 'wait for phase `converged`',
      });
    if (this.#phase === 'cut')
      throw new CopyError('unknown-disk', `mirror ${this.name} was split completely`);
    if (this.#phase === 'cancelled')
      throw new CopyError('cancelled', `mirror ${this.name} was cancelled: ${this.#reason}`);
    if (this.#phase === 'failed' || this.#pairs.some(({ from }) => !from.mirror.whole))
      throw new CopyError(
        'copy-failed',
        `mirror ${this.name} failed: ${this.#reason ?? 'a half is missing'}`,
        {
          remedy: 'remove the cause and join the halves again: mirror-start',
        },
      );
  }

  #setPhase(phase: CopyPhase): void {
    if (this.#phase === 'cancelled' || this.#phase === 'failed') return;
    this.#phase = phase;
    this.#options.onProgress?.();
  }

  #exclusive<T>(action: () => Promise<T>): Promise<T> {
    const run = this.#chain.then(action, action);
    this.#chain = run.catch(() => {});
    return run;
  }
}

function halfOf(generation: string, { from }: CopyPair): string {
  return `second half of mirror ${generation}, first is ${from.id}`;
}

/** The map of the first half with everything that may differ, in the file; undefined when everything may. */
function joinedMap(pair: MirrorPair): MirrorMap | undefined {
  const { from, to, mark, maps } = pair;
  const size = Number(from.store.size);
  const first = from.mirror.map ?? MirrorMap.open(maps.from, size);
  if (first === undefined) return undefined;
  const reason = mark.get();
  const second = to.mirror.map ?? MirrorMap.open(maps.to, size);
  if (reason === halfOf(first.generation, pair)) {
    if (second?.generation === first.generation) first.add(second);
    return first;
  }
  if (reason !== undefined || second === undefined || second.generation !== first.generation)
    return undefined;
  first.add(second);
  return first;
}
