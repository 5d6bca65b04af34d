/**
 * Copy under write log of a group of disks (Figs 8, 9), and the reverse log, which is the same without the copy.
 *
 *   801/901  one instant: all gates paused, a write log attached to every source, one generation
 *   802/902  bulk copy of each pair, while writes go on and are logged
 *   805/905  rounds: what was logged since the last round is put on the target, newest data first and only
 *            until what is left is small: `converged`; rounds go on until the cut
 *   cut      rounds until little is left → gates of the named disks paused → last delta → targets flushed → fence →
 *            targets marked valid → 804/904 logs ended → gates opened
 *
 * One thing at a time touches a target (`#exclusive`). Trouble with a target or a log never reaches a source: the copy fails,
 * its targets stay invalid, writes go on. Crash points: a target is marked invalid before its first byte is touched; the fence
 * is durable before the target is marked valid, so that there is never a valid copy of a disk that may still be written.
 */
import { join } from 'node:path';
import type { Clock } from '../../common/index.ts';
import { messageOf, systemClock, systemRandom } from '../../common/index.ts';
import { collect, LogReader, reflect, WriteLog } from '../log/index.ts';
import type { CopyMethod } from './bulk-copy.ts';
import { bulkCopy, clearDevice, cloneDevice, copyRange, dataBytes } from './bulk-copy.ts';
import { Convergence, SMALL_DELTA } from './convergence.ts';
import { CopyJournal } from './copy-journal.ts';
import { dropStaleCopyLog, withCap } from './copy-limits.ts';
import type { Member } from './copy-member.ts';
import { deltaOf, memberOf } from './copy-member.ts';
import { progressOf } from './copy-progress.ts';
import type {
  CopyGroupOptions,
  CopyPair,
  CopyPhase,
  CopyProgress,
  CutDisk,
  CutOptions,
  CutOutcome,
  LiveCopy,
} from './copy-types.ts';
import { CopyError, stillCopying } from './copy-types.ts';
import { handOver, standingStill } from './cut.ts';
import { GroupProof, notEqual } from './group-proof.ts';
import type { Prover } from './prover.ts';
import { RateLimit, RateMeter } from './rate.ts';
import { openReverseLog, resumeCopyLog } from './source-log.ts';

const ROUND_INTERVAL_MS = 100;
/** Rounds before the pause of a cut at most. */
const ROUNDS_BEFORE_CUT = 5;
/** Segments that were reflected are removed when a log takes more than this. */
const KEEP_LOG_BYTES = 256 * 1024 * 1024;

export class CopyGroup implements LiveCopy {
  readonly name: string;
  readonly #options: CopyGroupOptions;
  readonly #clock: Clock;
  readonly #limit: RateLimit;
  readonly #copyRate: RateMeter;
  readonly #writeRate: RateMeter;
  #members: Member[] = [];
  #phase: CopyPhase = 'copying';
  #reason: string | undefined;
  #total = 0;
  #copied = 0;
  #loggedBefore = 0;
  #rounds = 0;
  readonly #convergence: Convergence;
  #journal: CopyJournal | undefined;
  #resumed = false;
  #method: CopyMethod | undefined;
  #cancelling = false;
  #chain: Promise<unknown> = Promise.resolve();
  #background: Promise<void> = Promise.resolve();
  readonly #proof: GroupProof;
  #wake: (() => void) | undefined;

  constructor(options: CopyGroupOptions) {
    this.name = options.name;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#limit = new RateLimit(options.rateLimit ?? 0, this.#clock);
    this.#copyRate = new RateMeter(this.#clock);
    this.#writeRate = new RateMeter(this.#clock);
    this.#convergence = new Convergence(options.convergence ?? {}, this.#clock);
    this.#proof = new GroupProof({
      name: options.name,
      logDirectory: options.logDirectory,
      background: options.purpose === 'copy' && options.proof !== false,
      rateLimit: options.rateLimit ?? 0,
      clock: this.#clock,
      confirm: (...suspect) => this.#confirm(...suspect),
      onFailed: (error) => this.#fail(error),
    });
    for (const { from, to } of options.pairs)
      if (from.store.size !== to.store.size)
        throw new CopyError(
          'size-mismatch',
          `${to.id} has ${to.store.size} bytes, ${from.id} has ${from.store.size}`,
          { remedy: 'create the target with the size of the source' },
        );
  }

  /** The log directory of a source. */
  logDirectory(diskId: string): string {
    return join(this.#options.logDirectory, encodeURIComponent(diskId));
  }

  get purpose(): 'copy' | 'reverse' {
    return this.#options.purpose;
  }

  /** Pairs that were not cut yet. */
  get pairs(): readonly CopyPair[] {
    return this.#members.map((member) => member.pair);
  }

  logOf(diskId: string): WriteLog | undefined {
    return this.#members.find((member) => member.pair.from.id === diskId)?.log;
  }

  /** Ends when the logs are on; copying goes on in the background. Throws when it cannot begin, with everything as before. */
  async start(): Promise<void> {
    const { pairs, purpose } = this.#options;
    const generation = Buffer.from(systemRandom.fill(new Uint8Array(16)));
    let members = purpose === 'copy' ? await this.#resume() : undefined;
    this.#resumed = members !== undefined;
    if (members === undefined && this.#options.resume === 'only')
      throw new CopyError('not-resumable', `there is no copy ${this.name} that can be gone on with`, {
        remedy: 'start the copy anew',
      });
    const opened: Member[] = members ?? [];
    try {
      if (members === undefined)
        for (const pair of pairs) {
          if (purpose === 'copy') {
            pair.logMark?.clear();
            pair.mark.set(this.#targetOf(pair));
          }
          opened.push(await this.#openLog(pair, generation));
        }
      await standingStill(pairs, this.#clock, async () => {
        for (const { pair, log } of opened) {
          pair.from.trap.attach(log);
          if (purpose === 'reverse') markComplete(pair, log);
        }
      });
      if (purpose === 'copy' && members === undefined) this.#beginJournal(generation.toString('hex'));
    } catch (error) {
      for (const { pair, log } of opened) {
        pair.from.trap.detach(log);
        await log.close();
      }
      throw error;
    }
    members = opened;
    this.#members = members;
    const kept = this.#journal === undefined ? undefined : { resume: this.#resumed };
    for (const { pair, log } of members) this.#proof.add(pair, log.generation, kept);
    if (purpose === 'copy') this.#background = this.#run();
    else this.#phase = 'converged';
    this.#proof.start();
  }

  progress(): CopyProgress {
    const logged = this.#logged();
    this.#writeRate.update(logged);
    const spilled = this.#members.find(({ log }) => log.spilled !== undefined)?.log.spilled;
    return progressOf({
      purpose: this.purpose,
      phase: this.#phase,
      total: this.#total,
      copied: this.#copied,
      delta: this.#delta(),
      proven: this.#proof.provenBytes,
      unproven: this.#proof.unprovenBytes,
      rounds: this.#rounds,
      bytesPerSecond: this.#copyRate.bytesPerSecond(this.#copied),
      writeRate: this.#writeRate.bytesPerSecond(logged),
      convergence: this.#convergence,
      throttles: this.#members.map(({ pair }) => pair.from.throttle),
      method: this.#method,
      resumed: this.#resumed,
      reason: this.#reason ?? (spilled === undefined ? undefined : `the write log is not kept: ${spilled}`),
    });
  }

  /** Reflects what is logged now; returns how long it took, ms. */
  round(): Promise<number> {
    return this.#exclusive(async () => {
      this.#checkAlive();
      // A target that is not complete must not be touched: what is copied later would be older.
      if (this.#phase === 'copying') throw stillCopying(this.name);
      const startedMs = this.#clock.nowMs();
      await this.#roundOfAll();
      return this.#clock.nowMs() - startedMs;
    });
  }

  cut(options: CutOptions = {}): Promise<CutOutcome> {
    return this.#exclusive(async () => {
      this.#checkAlive();
      if (this.#phase === 'copying') throw stillCopying(this.name);
      const wanted = options.from ?? this.#members.map((member) => member.pair.from.id);
      const members = wanted.map((id) => {
        const member = this.#members.find(({ pair }) => pair.from.id === id);
        if (member === undefined)
          throw new CopyError('unknown-disk', `copy ${this.name} has no disk ${id} left to cut`);
        return member;
      });
      const release = this.#proof.hold();
      try {
        await this.#prepareCut(members, options.verify);
        return await this.#cutNow(members, options);
      } catch (error) {
        if (!(error instanceof CopyError && error.code === 'busy')) await this.#fail(error);
        throw error;
      } finally {
        release();
      }
    });
  }

  /** Rounds, and the proof, until hardly anything is left to do while writes stand still. */
  async #prepareCut(members: readonly Member[], verify: CutOptions['verify']): Promise<void> {
    for (let i = 0; i < ROUNDS_BEFORE_CUT; i++) {
      await this.#roundOfAll(members);
      const what = verify !== true ? 'nothing' : i === 0 ? 'anew' : 'rest';
      // What is read back comes from the page cache as a rule, what is flushed goes to the disk: both at once.
      const work = members.flatMap(({ pair }) => [
        pair.to.store.flush(),
        this.#proof.prepare(pair.from.id, what),
      ]);
      for (const outcome of await Promise.allSettled(work))
        if (outcome.status === 'rejected') throw outcome.reason;
      const isProven = verify !== true || members.every(({ pair }) => this.#proof.isNearlyDone(pair.from.id));
      if (isProven && members.every((member) => deltaOf(member) < 64 * 1024)) break;
    }
  }

  /** Ends logging and copying. Targets that were touched stay invalid. Cancelling again does nothing. */
  async cancel(reason = 'cancelled'): Promise<void> {
    this.#cancelling = true;
    this.#wake?.();
    await this.#background;
    await this.#proof.close();
    await this.#exclusive(async () => {
      if (this.#phase === 'cut' || this.#phase === 'failed' || this.#phase === 'cancelled') return;
      this.#phase = 'cancelled';
      this.#reason = reason;
      this.#forget();
      await this.#release(this.#members);
      this.#options.onProgress?.();
    });
  }

  /** Stops without ending anything: the process goes down. Made durable; can be gone on with. No write may come any more. */
  async suspend(): Promise<void> {
    this.#cancelling = true;
    this.#wake?.();
    await this.#background;
    await this.#proof.close();
    await this.#exclusive(() => this.#release(this.#members));
  }

  async #run(): Promise<void> {
    try {
      for (const { pair } of this.#members) this.#total += await dataBytes(pair.from.store);
      this.#copyRate.update(0);
      for (const { pair } of this.#members) await this.#copyPair(pair);
      this.#setPhase('replaying');
      while (this.#members.length > 0 && !this.#cancelling) {
        await this.#exclusive(async () => {
          if (this.#phase === 'replaying' || this.#phase === 'converged') await this.#settleRound();
        });
        if (this.#phase !== 'replaying' && this.#phase !== 'converged') return;
        if (this.#phase === 'converged' && !this.#cancelling) await this.#sleep(ROUND_INTERVAL_MS);
      }
    } catch (error) {
      if (!this.#cancelling) await this.#fail(error);
    }
  }

  async #copyPair({ from, to }: CopyPair): Promise<void> {
    const checkCancelled = () => {
      if (this.#cancelling) throw new CopyError('cancelled', `copy ${this.name} was cancelled`);
    };
    const counted = (bytes: number) => {
      this.#copied += bytes;
      this.#copyRate.update(this.#copied);
      this.#options.onProgress?.();
    };
    checkCancelled();
    let startAt = this.#journal?.watermark(from.id) ?? undefined;
    const size = Number(from.store.size);
    if (startAt === undefined) {
      if (await cloneDevice(from.store, to.store)) {
        this.#method = 'reflink';
        startAt = size;
      } else {
        await clearDevice(to.store);
        startAt = 0;
      }
      this.#journal?.reached(from.id, startAt, true);
    }
    if (startAt > 0) counted(await dataBytes(from.store, BigInt(startAt)));
    if (startAt === size) return;
    this.#method = await bulkCopy(from.store, to.store, {
      before: async (bytes) => {
        checkCancelled();
        await this.#limit.take(bytes);
      },
      onBytes: counted,
      onReached: (watermark) => {
        this.#journal?.reached(from.id, watermark);
        this.#proof.copied(from.id, watermark);
      },
      startAt,
    });
    this.#journal?.reached(from.id, size, true);
  }

  /** One round of the loop: decides whether what is left is small. */
  async #settleRound(): Promise<void> {
    const before = this.#delta();
    const startedMs = this.#clock.nowMs();
    if (before > 0 || this.#rounds === 0) await this.#roundOfAll();
    const { writeRate } = this.progress();
    const tookMs = this.#clock.nowMs() - startedMs;
    const left = this.#delta();
    const outcome = this.#convergence.round({ reflected: before, tookMs, left, writeRate });
    const { limit, limits } = this.#convergence;
    for (const { pair } of this.#members) {
      if (limit > 0) pair.from.throttle.limit(limit / this.#members.length, limits.maxDelayMs);
      else pair.from.throttle.lift();
    }
    if (typeof outcome === 'object') throw new CopyError('copy-failed', outcome.reason);
    this.#setPhase(outcome);
  }

  async #roundOfAll(members: readonly Member[] = this.#members): Promise<void> {
    try {
      for (const member of members) await this.#reflect(member);
    } catch (error) {
      await this.#fail(error);
      throw error;
    }
    this.#rounds++;
    this.#options.onProgress?.();
  }

  /** Puts what is logged so far onto the target; returns bytes written there. */
  async #reflect(member: Member): Promise<number> {
    const { pair, log } = member;
    if (this.purpose === 'reverse' && !member.touched && deltaOf(member) > 0) {
      pair.mark.set(`being brought up to date by ${this.name} from ${pair.from.id}`);
      member.touched = true;
    }
    const logged = log.logged;
    let written = 0;
    // Taken first: what a failed write left is asked of the disk, after the record of that write was reflected.
    const dirty = log.takeDirty();
    for (const range of dirty) this.#proof.touch(pair.from.id, range.start, range.end - range.start);
    const end = await log.position();
    if (end.segment > 0 && (member.position === undefined || member.position.sequence < end.sequence)) {
      const reader = await LogReader.open(log.directory, { generation: log.generation });
      const from = member.position === undefined ? {} : { from: member.position };
      const records = await collect(reader, { ...from, until: end.sequence });
      const last = records.at(-1)?.sequence ?? end.sequence - 1n;
      if (last !== end.sequence - 1n && log.spilled === undefined)
        throw new CopyError('copy-failed', `the write log of ${pair.from.id} ends at record ${last}`);
      for (const { address, length } of records) this.#proof.touch(pair.from.id, address, length);
      written += await reflect(reader, records, pair.to.store);
    }
    if (dirty.length > 0) {
      // A record that was reflected may belong to a write that is still on its way to the disk.
      await pair.from.trap.settled();
      for (const range of dirty)
        written += await copyRange(pair.from.store, pair.to.store, range.start, range.end);
    }
    member.position = end;
    member.reflected = logged;
    // All that a former process may have written meanwhile is reflected with the first round: what is there now may be read back.
    this.#proof.copied(pair.from.id, undefined);
    if (log.bytes > KEEP_LOG_BYTES) {
      await pair.to.store.flush();
      await log.flush();
      log.dropBefore(end);
    }
    return written;
  }

  async #cutNow(members: readonly Member[], options: CutOptions): Promise<CutOutcome> {
    const pairs = members.map((member) => member.pair);
    const disks: CutDisk[] = [];
    const durationMs = await standingStill(pairs, this.#clock, async () => {
      for (const member of members) {
        const deltaBytes = await this.#reflect(member);
        const { from, to } = member.pair;
        disks.push({ from: from.id, to: to.id, sequence: member.log.lastSequence, deltaBytes });
      }
      await Promise.all(pairs.map((pair) => pair.to.store.flush()));
      for (const [i, { from }] of pairs.entries()) {
        if (options.verify === undefined || options.verify === false) break;
        const proof = await this.#proof.settle(from.id, options.verify === 'bounded');
        disks[i] = { ...disks[i]!, proof };
      }
      await handOver(this.name, pairs, options, () => {
        // The journal first: a copy that was cut must never be begun again by who finds it.
        for (const { logMark } of pairs) logMark?.clear();
        this.#journal?.drop(pairs.map(({ from }) => from.id));
      });
      for (const { pair, log } of members) pair.from.trap.detach(log);
      this.#proof.drop(pairs.map(({ from }) => from.id));
      this.#loggedBefore += members.reduce((sum, { log }) => sum + log.logged, 0);
      this.#members = this.#members.filter((member) => !members.includes(member));
    });
    for (const { pair, log } of members) {
      pair.from.throttle.lift();
      await log.close();
    }
    if (this.#members.length === 0) this.#setPhase('cut');
    this.#wake?.();
    return { disks, durationMs };
  }

  /** A leaf stayed different although nothing was reflected onto it: looked into while its source stands still. */
  #confirm(diskId: string, prover: Prover, start: number, end: number): Promise<void> {
    return this.#exclusive(async () => {
      const member = this.#members.find(({ pair }) => pair.from.id === diskId);
      if (member === undefined || this.#phase !== 'converged' || deltaOf(member) > SMALL_DELTA) return;
      let at: number | undefined;
      await standingStill([member.pair], this.#clock, async () => {
        await this.#reflect(member);
        at = await prover.differenceIn(start, end);
      });
      if (at !== undefined) throw notEqual(member.pair, at);
    });
  }

  async #openLog(pair: CopyPair, generation: Buffer): Promise<Member> {
    const directory = this.logDirectory(pair.from.id);
    const options = this.#logOptions(pair, generation);
    if (this.#options.resume === true && this.purpose === 'reverse') {
      const { logMark } = pair;
      const distrusted = this.#options.distrust?.(pair.from.id) === true;
      const trusted = (generation: string) => logMark === undefined || logMark.get() === generation;
      return memberOf(pair, await openReverseLog(directory, options, distrusted, trusted));
    }
    if (this.purpose === 'copy') await dropStaleCopyLog(directory);
    return memberOf(pair, WriteLog.create(directory, options));
  }

  /** Members of a copy that a former process left and that can be gone on with: every write since it began is known. */
  async #resume(): Promise<Member[] | undefined> {
    const { pairs, logDirectory, distrust } = this.#options;
    const journal = CopyJournal.read(logDirectory, this.name);
    if (journal === undefined || journal.pairs.length !== pairs.length) return undefined;
    for (const [i, pair] of pairs.entries()) {
      const { from, to, mark, logMark } = pair;
      const kept = journal.pairs[i]!;
      if (kept.from !== from.id || kept.to !== to.id || kept.size !== String(from.store.size))
        return undefined;
      if (logMark?.get() !== journal.generation || distrust?.(from.id) === true) return undefined;
      if (mark.get() !== this.#targetOf(pair)) return undefined;
    }
    const generation = Buffer.from(journal.generation, 'hex');
    const members: Member[] = [];
    for (const pair of pairs) {
      const log = await resumeCopyLog(this.logDirectory(pair.from.id), this.#logOptions(pair, generation));
      if (log === undefined) {
        for (const member of members) await member.log.close();
        return undefined;
      }
      members.push(memberOf(pair, log));
    }
    this.#journal = new CopyJournal(logDirectory, this.name, journal.generation, journal.pairs);
    return members;
  }

  /** From here on another process could go on: the logs are on, the targets are marked. */
  #beginJournal(generation: string): void {
    const { pairs, logDirectory } = this.#options;
    if (pairs.some(({ logMark }) => logMark === undefined)) return;
    const kept = pairs.map(({ from, to }) => ({
      from: from.id,
      to: to.id,
      size: String(from.store.size),
      watermark: null,
    }));
    this.#journal = new CopyJournal(logDirectory, this.name, generation, kept);
    this.#journal.save();
    for (const { logMark } of pairs) logMark?.set(generation);
  }

  /** Nobody can go on with it: writes are not logged any more. Never throws; one note that is gone is enough. */
  #forget(): void {
    const { logDirectory } = this.#options;
    const notes = this.#members.map(
      ({ pair }) =>
        () =>
          pair.logMark?.clear(),
    );
    if (this.purpose === 'copy') notes.push(() => CopyJournal.remove(logDirectory, this.name));
    for (const takeAway of notes)
      try {
        takeAway();
      } catch (error) {
        this.#reason = `${this.#reason}; ${messageOf(error)}`;
      }
  }

  #logOptions({ from }: CopyPair, generation: Buffer) {
    const { segmentBytes, logCapBytes, logDirectory, onSpill } = this.#options;
    const options = {
      diskId: from.id,
      diskSize: from.store.size,
      purpose: this.purpose,
      generation,
      ...(segmentBytes === undefined ? {} : { segmentBytes }),
      ...(logCapBytes === undefined ? {} : { capBytes: logCapBytes }),
      clock: this.#clock,
      onSpill: (reason: string) => onSpill?.(from.id, reason),
    };
    return withCap(options, logDirectory);
  }

  #targetOf({ from }: CopyPair): string {
    return `target of copy ${this.name} from ${from.id}`;
  }

  #delta(): number {
    return this.#members.reduce((sum, member) => sum + deltaOf(member), 0);
  }

  #logged(): number {
    return this.#loggedBefore + this.#members.reduce((sum, { log }) => sum + log.logged, 0);
  }

  #setPhase(phase: CopyPhase): void {
    if (this.#phase === phase || this.#phase === 'cancelled' || this.#phase === 'failed') return;
    this.#phase = phase;
    this.#options.onProgress?.();
  }

  #checkAlive(): void {
    if (this.#phase === 'failed')
      throw new CopyError('copy-failed', `copy ${this.name} failed: ${this.#reason}`, {
        remedy: 'remove the cause, cancel the copy and start it anew',
      });
    if (this.#phase === 'cancelled')
      throw new CopyError('cancelled', `copy ${this.name} was cancelled: ${this.#reason}`);
    if (this.#phase === 'cut') throw new CopyError('unknown-disk', `copy ${this.name} was cut completely`);
  }

  async #fail(error: unknown): Promise<void> {
    if (this.#phase === 'failed' || this.#phase === 'cancelled') return;
    this.#phase = 'failed';
    this.#reason = messageOf(error);
    this.#proof.abandon();
    this.#forget();
    await this.#release(this.#members);
    this.#options.onProgress?.();
  }

  /** Takes logs off sources, at an instant when no write is under way, and ends them. */
  async #release(members: readonly Member[]): Promise<void> {
    for (const { pair, log } of members) {
      pair.from.throttle.lift();
      pair.from.trap.detach(log);
      await log.close();
    }
  }

  #exclusive<T>(action: () => Promise<T>): Promise<T> {
    const run = this.#chain.then(action, action);
    this.#chain = run.catch(() => {});
    return run;
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = this.#clock.after(ms, resolve);
      this.#wake = () => {
        timer.cancel();
        resolve();
      };
    });
  }
}

/** From here on this log knows every write. Where that cannot be kept, a restart compares the disks as a whole. */
function markComplete({ logMark }: CopyPair, log: WriteLog): void {
  const generation = log.generation.toString('hex');
  try {
    if (log.spilled !== undefined) logMark?.clear();
    else if (logMark?.get() !== generation) logMark?.set(generation);
  } catch {
    // Not marked: not trusted.
  }
}
