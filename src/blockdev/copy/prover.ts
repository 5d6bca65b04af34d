/**
 * Proves that a target is what its source is, while the source is written and what was written is reflected.
 *
 *   hashSource   behind the bulk copy: tags of the source's leaves
 *   pass         leaves that are not proven: the target is read back, its tag is compared with the source's
 *   compareRest  while both stand still: what was reflected since a leaf was proven, and leaves that are not, byte by byte
 *
 * Why a proven leaf, with nothing reflected onto it since, is equal at the cut. It is `busy` from before every write that was told
 * to the log so far has reached the source (`settled`) until it was read back. So a write to it that its source's tag may lack
 * is reflected after it became busy, and by the cut at the latest: `touch` makes it unknown, or notes the range. A write that the
 * tag has and the target lacks makes a difference; it is gone when that write was reflected. A difference that stays is one.
 *
 * Leaves that are holes on both sides by their extent maps are proven without being read.
 */
import type { Clock } from '../../common/index.ts';
import type { Device } from '../device.ts';
import { walkExtents } from '../range.ts';
import type { Leaf } from './leaf-tag.ts';
import { LEAF, TAG_BYTES } from './leaf-tag.ts';
import type { ProofTree } from './proof-tree.ts';
import type { Tagger } from './tagger.ts';

/** Leaves hashed at once in the background: a cut waits for them. And when a cut waits for all of them anyway. */
const BATCH = 8;
const LARGE_BATCH = 32;
/** How far ahead holes are looked for, bytes; then 16 times as far, and so on. */
const REACH = 16 * LEAF;
/** Passes in a row that found a leaf different, before it is looked into. */
const SUSPICIOUS = 3;
export interface ProverOptions {
  readonly source: Device;
  readonly target: Device;
  readonly tree: ProofTree;
  readonly tagger: Tagger;
  readonly clock: Clock;
  /** Ends when every write that was told to the log so far has reached the source. */
  readonly settled: () => Promise<void>;
}

export interface PassOptions {
  /** Asked before each batch. */
  readonly stop?: () => boolean;
  /** Before so many bytes are read; may wait. */
  readonly before?: (bytes: number) => Promise<void>;
  /** Prove leaves anew that were reflected onto since they were proven, instead of leaving it to `compareRest`. */
  readonly touched?: boolean;
}

export interface Rest {
  /** First byte that differs. */
  readonly differsAt: number | undefined;
  /** Bytes compared, and bytes of leaves that nobody proved. */
  readonly compared: number;
  readonly unproven: number;
}

export class Prover {
  readonly tree: ProofTree;
  readonly #options: ProverOptions;
  #chain: Promise<unknown> = Promise.resolve();
  #hashed = 0;
  /** Leaves that stay different. */
  readonly #suspects = new Set<number>();
  /** Bytes of the target read back, in all. */
  readBack = 0;
  /** When the oldest of the proofs that count was begun. */
  #sinceMs: number | undefined;

  constructor(options: ProverOptions) {
    this.tree = options.tree;
    this.#options = options;
  }

  /** Leaves that three passes found different although nothing was reflected onto them. */
  takeSuspects(): number[] {
    const found = [...this.#suspects];
    this.#suspects.clear();
    return found;
  }

  /** Age of the oldest proof that counts, ms; undefined before the first. */
  get oldestMs(): number | undefined {
    return this.#sinceMs === undefined ? undefined : this.#options.clock.nowMs() - this.#sinceMs;
  }

  /** What is proven counts no more: the target is to be read back again. */
  forget(): void {
    this.tree.forget();
    this.#sinceMs = undefined;
  }

  /** Tags of the source's leaves below `watermark`, as far as they are not known. */
  hashSource(watermark: number, stop: () => boolean): Promise<void> {
    return this.#inTurn(async () => {
      const { source, tree } = this.#options;
      const whole = watermark === Number(source.size) ? tree.leaves : Math.floor(watermark / LEAF);
      while (this.#hashed < whole && !stop()) {
        const end = Math.min(whole, this.#hashed + BATCH);
        const from = this.#hashed;
        this.#hashed = end;
        if (!(await this.#skipHoles(from, whole))) await this.#hashLeaves(from, end);
      }
    });
  }

  /** Advances over leaves from `from` on that are holes of the source; false when there is data within the next batch. */
  async #skipHoles(from: number, whole: number): Promise<boolean> {
    const { source } = this.#options;
    const run = await zeroRun(source, from * LEAF);
    const end = Math.min(whole, Math.floor((from * LEAF + run) / LEAF));
    if (end <= from) return false;
    this.#hashed = end;
    return true;
  }

  async #hashLeaves(from: number, end: number): Promise<void> {
    const { source, tree, tagger, settled } = this.#options;
    const busy: Leaf[] = [];
    for (let index = from; index < end; index++) {
      if (tree.isProven(index)) continue;
      const known = tree.begin(index);
      if (known === undefined) busy.push(tree.leaf(index));
      else tree.sent(index, known);
    }
    try {
      await settled();
      const withData = await leavesWithData([source], from, end);
      const data = busy.filter(({ index }) => withData.has(index));
      const tags = await tagger.tags(source, data);
      for (const [i, { index }] of data.entries()) tree.sent(index, tagAt(tags, i));
    } finally {
      for (const { index } of busy) tree.abandon(index);
    }
  }

  /** Proves what can be proven now. Rejects with what a read failed with. */
  pass(options: PassOptions = {}): Promise<void> {
    return this.#inTurn(async () => {
      const { tree, clock } = this.#options;
      this.#sinceMs ??= clock.nowMs();
      for (let at = tree.next(0, options.touched === true); at !== undefined && options.stop?.() !== true; ) {
        const done = await this.#holes(at);
        const end = done > at ? done : await this.#proveLeaves(at, options);
        at = tree.next(end, options.touched === true);
      }
    });
  }

  /** Proves leaves from `from` on that both sides' extent maps call holes; returns the first one behind them. */
  async #holes(from: number): Promise<number> {
    const { source, target, tree, settled } = this.#options;
    const start = from * LEAF;
    // Looked at twice: here whether it is worth it, then again when nothing is on its way.
    const guess = Math.min(await zeroRun(source, start), await zeroRun(target, start));
    const wanted = start + guess === Number(source.size) ? tree.leaves : Math.floor((start + guess) / LEAF);
    if (wanted <= from) return from;
    for (let index = from; index < wanted; index++) tree.begin(index);
    await settled();
    const run = Math.min(await zeroRun(source, start), await zeroRun(target, start));
    const end = start + run === Number(source.size) ? tree.leaves : Math.floor((start + run) / LEAF);
    for (let index = from; index < wanted; index++)
      if (index < end) tree.proven(index, undefined);
      else tree.abandon(index);
    return wanted;
  }

  /** Proves the next batch from `from` on; returns the first leaf behind it. */
  async #proveLeaves(from: number, { before, stop, touched = false }: PassOptions): Promise<number> {
    const { source, target, tree, tagger, settled } = this.#options;
    const batch = stop === undefined ? LARGE_BATCH : BATCH;
    const leaves: Leaf[] = [];
    const known = new Map<number, Uint8Array>();
    let end = from;
    for (
      let at: number | undefined = from;
      at !== undefined && at < from + batch;
      at = tree.next(end, touched)
    ) {
      const tag = tree.begin(at);
      if (tag !== undefined) known.set(at, Buffer.from(tag));
      leaves.push(tree.leaf(at));
      end = at + 1;
    }
    try {
      const bytes = leaves.reduce((sum, { length }) => sum + length, 0);
      await before?.(bytes);
      await settled();
      const data = await leavesWithData([source, target], from, end);
      for (const { index } of leaves) if (!data.has(index)) tree.proven(index, undefined);
      const unknown = leaves.filter(({ index }) => data.has(index) && !known.has(index));
      const sourceTags = await tagger.tags(source, unknown);
      for (const [i, { index }] of unknown.entries()) known.set(index, tagAt(sourceTags, i));
      const still = leaves.filter(({ index }) => tree.isUndisturbed(index));
      const targetTags = await tagger.tags(target, still);
      for (const [i, { index, length }] of still.entries()) {
        this.readBack += length;
        const tag = known.get(index)!;
        if (Buffer.compare(tag, tagAt(targetTags, i)) === 0) tree.proven(index, tag);
        else if (tree.different(index) >= SUSPICIOUS) this.#suspects.add(index);
      }
    } finally {
      for (const { index } of leaves) tree.abandon(index);
    }
    return end;
  }

  /** While nothing is written to either side and everything is reflected. Compares at most `limit` bytes. */
  async compareRest(limit: number): Promise<Rest> {
    const { tree } = this.#options;
    let compared = 0;
    let unproven = 0;
    const compare = async (start: number, end: number): Promise<number | undefined> => {
      if (compared + end - start > limit) {
        unproven += end - start;
        return undefined;
      }
      compared += end - start;
      return this.differenceIn(start, end);
    };
    for (const { start, end } of tree.touched()) {
      const differsAt = await compare(start, end);
      if (differsAt !== undefined) return { differsAt, compared, unproven };
    }
    let left = tree.left;
    for (let at = tree.next(0, false); at !== undefined; at = tree.next(at + 1, false), left--) {
      const { offset, length } = tree.leaf(at);
      if (compared + length > limit)
        return { differsAt: undefined, compared, unproven: unproven + left * LEAF };
      const differsAt = await compare(offset, offset + length);
      if (differsAt !== undefined) return { differsAt, compared, unproven };
    }
    return { differsAt: undefined, compared, unproven };
  }

  /** First byte of [start, end) that differs; while both stand still. */
  async differenceIn(start: number, end: number): Promise<number | undefined> {
    const { source, target } = this.#options;
    const left = Buffer.allocUnsafe(Math.min(LEAF, end - start));
    const right = Buffer.allocUnsafe(left.length);
    for (let at = start; at < end; at += left.length) {
      const l = left.subarray(0, Math.min(left.length, end - at));
      const r = right.subarray(0, l.length);
      await Promise.all([source.readAt(l, BigInt(at)), target.readAt(r, BigInt(at))]);
      if (l.equals(r)) continue;
      for (let i = 0; i < l.length; i++) if (l[i] !== r[i]) return at + i;
    }
    return undefined;
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const run = this.#chain.then(work, work);
    this.#chain = run.catch(() => {});
    return run;
  }
}

function tagAt(tags: Uint8Array, i: number): Uint8Array {
  return tags.subarray(i * TAG_BYTES, (i + 1) * TAG_BYTES);
}

/** Numbers of leaves in [from, end) of which a device's extent map does not say that they are zero. */
async function leavesWithData(devices: readonly Device[], from: number, end: number): Promise<Set<number>> {
  const found = new Set<number>();
  for (const device of devices) {
    const start = BigInt(from * LEAF);
    const stop = BigInt(end * LEAF) < device.size ? BigInt(end * LEAF) : device.size;
    for await (const { offset, length, zero } of walkExtents(device, start, stop - start)) {
      if (zero) continue;
      for (let index = Math.floor(Number(offset) / LEAF); index * LEAF < Number(offset + length); index++)
        found.add(index);
    }
  }
  return found;
}

/** How many bytes from `start` on the extent map calls zero, at most `limit`; a long hole is found in a few questions. */
async function zeroRun(device: Device, start: number): Promise<number> {
  const most = Number(device.size) - start;
  let reach = REACH;
  for (let found = 0; ; ) {
    if (found >= most) return most;
    const asked = Math.min(most - found, reach);
    for await (const extent of walkExtents(device, BigInt(start + found), BigInt(asked))) {
      if (!extent.zero) return found;
      found += Number(extent.length);
    }
    reach *= 16;
  }
}
