/**
 * The proof of a group of disks, in the background and at the cut.
 *
 *   while copying    the source is hashed behind the bulk copy
 *   while rounds go  targets are read back and compared by their tags; a leaf that stays different is looked into (`confirm`)
 *   at the cut       `hold`: the background stands still; `prepare` reads back what is wanted; `settle` compares the rest
 *
 * It has a thread of low priority (Tagger). What it finds goes to `onFailed`: the standby is not what it should be, or cannot be read.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '../../common/index.ts';
import { systemRandom } from '../../common/index.ts';
import type { CopyPair, DiskProof } from './copy-types.ts';
import { CopyError } from './copy-types.ts';
import { TAG_KEY_BYTES } from './leaf-tag.ts';
import { ProofTree } from './proof-tree.ts';
import { Prover } from './prover.ts';
import { Tagger } from './tagger.ts';

export interface GroupProofOptions {
  readonly name: string;
  readonly logDirectory: string;
  /** Prove in the background; else only at a cut that asks for it. */
  readonly background: boolean;
  /** Bytes per second that the background reads back; 0 = no limit. */
  readonly rateLimit: number;
  readonly clock: Clock;
  /** Looks into bytes [start, end) that stay different, with its source standing still; rejects when they are. */
  readonly confirm: (diskId: string, prover: Prover, start: number, end: number) => Promise<void>;
  readonly onFailed: (error: unknown) => void;
}

interface Proved {
  readonly pair: CopyPair;
  readonly prover: Prover;
  readonly tagger: Tagger;
  readonly file: string;
  /** The source is copied below this byte; undefined when all of it is, and the target may be read back. */
  watermark: number | undefined;
}

const WHILE_COPYING_MS = 20;
const IDLE_MS = 200;
/** Leaves that were reflected onto, before the background proves them anew. */
const MANY_TOUCHED = 1024;
/** A cut that does not wait for a proof compares at most so much while writes stand still. */
const BOUNDED_REST = 4 * 1024 * 1024;
/** Leaves left to compare while writes stand still, before a cut stops proving beforehand. */
const FEW_LEAVES = 4;

export class GroupProof {
  readonly #options: GroupProofOptions;
  #proved: Proved[] = [];
  #held = 0;
  #stopped = false;
  #wake: (() => void) | undefined;
  #loop: Promise<void> = Promise.resolve();

  constructor(options: GroupProofOptions) {
    this.#options = options;
  }

  /** `kept`: tags of a former process are gone on with when they are of this generation, and kept for the next one. */
  add(pair: CopyPair, generation: Uint8Array, kept: { readonly resume: boolean } | undefined): void {
    const { name, logDirectory, clock } = this.#options;
    const { from, to } = pair;
    const tree = new ProofTree(Number(from.store.size));
    const file = join(logDirectory, `${encodeURIComponent(name)}.${encodeURIComponent(from.id)}.proof`);
    let key = kept?.resume === true ? tree.resumeFrom(file, generation) : undefined;
    if (key === undefined) {
      key = systemRandom.fill(new Uint8Array(TAG_KEY_BYTES));
      if (kept !== undefined) tree.keepIn(file, generation, key);
    }
    const tagger = new Tagger(key);
    const settled = () => from.trap.settled();
    const prover = new Prover({ source: from.store, target: to.store, tree, tagger, clock, settled });
    this.#proved.push({ pair, prover, tagger, file, watermark: 0 });
  }

  /** Begins to prove in the background, if it is to. */
  start(): void {
    if (this.#options.background) this.#loop = this.#run();
  }

  /** [start, start + length) of the target of `diskId` is about to be written. */
  touch(diskId: string, start: number, length: number): void {
    if (length > 0) this.#find(diskId)?.prover.tree.touch(start, length);
  }

  /** The source is copied below `watermark`; undefined: as a whole, and reflected once. */
  copied(diskId: string, watermark: number | undefined): void {
    const proved = this.#find(diskId);
    if (proved !== undefined) proved.watermark = watermark;
  }

  /** Bytes of targets that are proven. */
  get provenBytes(): number {
    return this.#proved.reduce((sum, { prover }) => sum + prover.tree.provenBytes, 0);
  }

  /** Bytes of targets that are not proven at all. */
  get unprovenBytes(): number {
    return this.#proved.reduce(
      (sum, { pair, prover }) => sum + Number(pair.to.store.size) - prover.tree.provenBytes,
      0,
    );
  }

  /** The background stands still until the answer is called. */
  hold(): () => void {
    this.#held++;
    let released = false;
    return () => {
      if (released) return;
      released = true;
      this.#held--;
      this.#wake?.();
    };
  }

  /**
   * Before a cut, the background held: what it is at ends. `rest` proves what is not proven yet; `anew` reads every byte of the
   * target back, whatever was proven before.
   */
  async prepare(diskId: string, what: 'nothing' | 'rest' | 'anew'): Promise<void> {
    const prover = this.#find(diskId)?.prover;
    if (prover === undefined) return;
    await prover.pass({ stop: () => true });
    if (what === 'anew') prover.forget();
    if (what !== 'nothing') await prover.pass({ touched: prover.tree.touchedRanges > MANY_TOUCHED });
  }

  /** Hardly anything would have to be compared in the pause. */
  isNearlyDone(diskId: string): boolean {
    return (this.#find(diskId)?.prover.tree.left ?? 0) <= FEW_LEAVES;
  }

  /** While writes stand still and everything is reflected. Throws CopyError `not-equal`. */
  async settle(diskId: string, bounded: boolean): Promise<DiskProof> {
    const { pair, prover } = this.#find(diskId)!;
    const proven = prover.tree.provenBytes;
    const { oldestMs } = prover;
    // Where nothing is proven beforehand, a few leaves more prove nothing.
    const inPause = this.#options.background ? BOUNDED_REST : 0;
    const rest = await prover.compareRest(bounded ? inPause : Number.POSITIVE_INFINITY);
    if (rest.differsAt !== undefined) throw notEqual(pair, rest.differsAt);
    return {
      readBack: prover.readBack,
      proven,
      compared: rest.compared,
      unproven: rest.unproven,
      ...(oldestMs === undefined || proven === 0 ? {} : { oldestMs: Math.round(oldestMs) }),
    };
  }

  /** These were cut: nothing is proven of them any more, and their tags are of no use. Never throws: the cut is done. */
  drop(diskIds: readonly string[]): void {
    for (const { pair, tagger, prover, file } of this.#proved)
      if (diskIds.includes(pair.from.id)) {
        tagger.close();
        prover.tree.close();
        try {
          rmSync(file, { force: true });
        } catch {
          // Of a generation that is gone: nobody reads it again.
        }
      }
    this.#proved = this.#proved.filter(({ pair }) => !diskIds.includes(pair.from.id));
    if (this.#proved.length === 0) this.#stop();
  }

  /** Nobody can go on with it. Does not wait. */
  abandon(): void {
    this.drop(this.#proved.map(({ pair }) => pair.from.id));
    this.#stop();
  }

  /** Ends when nothing is read any more; tags stay in their files. */
  async close(): Promise<void> {
    this.#stop();
    await this.#loop;
    for (const { tagger, prover } of this.#proved) {
      tagger.close();
      prover.tree.close();
    }
    this.#proved = [];
  }

  #stop(): void {
    this.#stopped = true;
    this.#wake?.();
  }

  async #run(): Promise<void> {
    const stop = () => this.#stopped || this.#held > 0;
    while (!this.#stopped) {
      try {
        for (const proved of [...this.#proved]) if (!stop()) await this.#some(proved, stop);
      } catch (error) {
        // A cut or the end took the disk away meanwhile.
        if (!this.#stopped) this.#options.onFailed(error);
        return;
      }
      if (this.#stopped) return;
      await this.#sleep(
        this.#proved.some(({ watermark }) => watermark !== undefined) ? WHILE_COPYING_MS : IDLE_MS,
      );
    }
  }

  async #some({ pair, prover, watermark }: Proved, stop: () => boolean): Promise<void> {
    if (watermark !== undefined) return prover.hashSource(watermark, stop);
    await prover.pass({
      stop,
      before: (bytes) => this.#limited(bytes, stop),
      touched: prover.tree.touchedRanges > MANY_TOUCHED,
    });
    for (const index of prover.takeSuspects()) {
      if (stop()) return;
      const { offset, length } = prover.tree.leaf(index);
      await this.#options.confirm(pair.from.id, prover, offset, offset + length);
    }
  }

  async #limited(bytes: number, stop: () => boolean): Promise<void> {
    const { rateLimit, clock } = this.#options;
    if (rateLimit <= 0) return;
    const untilMs = clock.nowMs() + (bytes / rateLimit) * 1000;
    while (!stop() && clock.nowMs() < untilMs) await this.#sleep(Math.min(50, untilMs - clock.nowMs()));
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = this.#options.clock.after(ms, () => resolve());
      this.#wake = () => {
        timer.cancel();
        resolve();
      };
    });
  }

  #find(diskId: string): Proved | undefined {
    return this.#proved.find(({ pair }) => pair.from.id === diskId);
  }
}

export function notEqual({ from, to }: CopyPair, at: number): CopyError {
  return new CopyError('not-equal', `${to.id} is not what ${from.id} is: they differ at byte ${at}`, {
    remedy:
      'do not use the copy: check the disk under it; run `changeover log verify` on the log, then copy anew',
    values: { from: from.id, to: to.id, at },
  });
}
