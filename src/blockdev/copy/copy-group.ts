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
import { renameSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '../../common/index.ts';
import { CodedError, codeOf, messageOf, systemClock, systemRandom } from '../../common/index.ts';
import type { LogPosition } from '../log/index.ts';
import { collect, LogReader, recoverLog, reflect, WriteLog } from '../log/index.ts';
import { bulkCopy, clearDevice, dataBytes } from './bulk-copy.ts';
import { dropStaleCopyLog, withCap, withLimit } from './copy-limits.ts';
import type { DiskStack } from './disk-stack.ts';
import { hashDevice } from './hash.ts';
import type { InvalidMark } from './invalid-mark.ts';
import { RateLimit, RateMeter } from './rate.ts';
import { verifyUnfenced, WrittenSince } from './written-since.ts';

/** `size-mismatch`, `busy`, `cancelled`, `copy-failed`, `unknown-disk`, `not-equal`. */
export class CopyError extends CodedError {}

export interface CopyPair {
  readonly from: DiskStack;
  readonly to: DiskStack;
  readonly mark: InvalidMark;
}

export type CopyPhase = 'copying' | 'replaying' | 'converged' | 'cut' | 'failed' | 'cancelled';

export interface CopyProgress {
  readonly phase: CopyPhase;
  /** Bytes of data to copy and copied. */
  readonly total: number;
  readonly copied: number;
  /** Bytes written to the sources and not yet reflected. */
  readonly delta: number;
  readonly rounds: number;
  readonly bytesPerSecond: number;
  readonly writeRate: number;
  readonly etaMs?: number;
  readonly reason?: string;
}

export interface CopyGroupOptions {
  readonly name: string;
  readonly pairs: readonly CopyPair[];
  /** Each source's log gets a directory in it, named for the disk. */
  readonly logDirectory: string;
  /** A copy, or the log for the way back of disks that are equal now. */
  readonly purpose: 'copy' | 'reverse';
  /** Go on with logs that a former process left (purpose `reverse`). */
  readonly resume?: boolean;
  /** With `resume`: the log of this disk is known to be incomplete (it spilled). */
  readonly distrust?: (diskId: string) => boolean;
  /** Bytes per second of the bulk copy; 0 = no limit. */
  readonly rateLimit?: number;
  /** Each log takes at most so many bytes; default half of what is free in `logDirectory`. */
  readonly logCapBytes?: number;
  readonly segmentBytes?: number;
  readonly clock?: Clock;
  /** Something changed: a phase, a round, a share of the copy. */
  readonly onProgress?: () => void;
  /** The log of a source spilled: called before the guest's write goes on. */
  readonly onSpill?: (diskId: string, reason: string) => void;
}

export interface CutOptions {
  /** Ids of sources; default: all that are left. */
  readonly from?: readonly string[];
  /** For each source while all stand still, before its target becomes valid: puts the fence up, durably; takes it down again. */
  readonly fence?: {
    readonly raise: (source: DiskStack) => Promise<void>;
    readonly lower: (source: DiskStack) => Promise<void>;
  };
  /** Prove that each target equals its source as of the cut, after the pause. */
  readonly verify?: boolean;
}

export interface CutDisk {
  readonly from: string;
  readonly to: string;
  readonly sequence: bigint;
  readonly deltaBytes: number;
  readonly sha256?: string;
}

export interface CutOutcome {
  readonly disks: readonly CutDisk[];
  /** How long writes stood still. */
  readonly durationMs: number;
}

interface Member {
  readonly pair: CopyPair;
  readonly log: WriteLog;
  position: LogPosition | undefined;
  /** `log.logged` as of the last round. */
  reflected: number;
  touched: boolean;
}

/** The delta is small when it is at most this. */
const SMALL_DELTA = 4 * 1024 * 1024;
const ROUND_INTERVAL_MS = 100;
/** Rounds before the pause of a cut at most. */
const ROUNDS_BEFORE_CUT = 5;
const PAUSE_LIMIT_MS = 10_000;
/** Segments that were reflected are removed when a log takes more than this. */
const KEEP_LOG_BYTES = 256 * 1024 * 1024;

export class CopyGroup {
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
  #growing = 0;
  #cancelling = false;
  #chain: Promise<unknown> = Promise.resolve();
  #background: Promise<void> = Promise.resolve();
  #wake: (() => void) | undefined;

  constructor(options: CopyGroupOptions) {
    this.name = options.name;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#limit = new RateLimit(options.rateLimit ?? 0, this.#clock);
    this.#copyRate = new RateMeter(this.#clock);
    this.#writeRate = new RateMeter(this.#clock);
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
    const capBytes = this.#options.logCapBytes;
    const members: Member[] = [];
    try {
      for (const pair of pairs) {
        if (purpose === 'copy') pair.mark.set(`target of copy ${this.name} from ${pair.from.id}`);
        members.push(await this.#openLog(pair, generation, capBytes));
      }
      await this.#standingStill(pairs, async () => {
        for (const { pair, log } of members) pair.from.trap.attach(log);
      });
    } catch (error) {
      for (const { pair, log } of members) {
        pair.from.trap.detach(log);
        await log.close();
      }
      throw error;
    }
    this.#members = members;
    if (purpose === 'copy') this.#background = this.#run();
    else this.#phase = 'converged';
  }

  progress(): CopyProgress {
    const delta = this.#delta();
    const logged = this.#logged();
    this.#writeRate.update(logged);
    const writeRate = this.#writeRate.bytesPerSecond(logged);
    const bytesPerSecond = this.#copyRate.bytesPerSecond(this.#copied);
    let phase = this.#phase;
    if (this.purpose === 'reverse' && (phase === 'converged' || phase === 'replaying'))
      phase = delta <= SMALL_DELTA ? 'converged' : 'replaying';
    const left = this.#total - this.#copied + delta;
    const net = bytesPerSecond - writeRate;
    const spilled = this.#members.find(({ log }) => log.spilled !== undefined)?.log.spilled;
    const outrun = this.#growing >= 8 ? 'writes outrun the replay' : undefined;
    const reason = this.#reason ?? (spilled === undefined ? outrun : `the write log is not kept: ${spilled}`);
    return {
      phase,
      total: this.#total,
      copied: this.#copied,
      delta,
      rounds: this.#rounds,
      bytesPerSecond,
      writeRate,
      // Honest: no figure while writes come in as fast as they are copied.
      ...(phase === 'copying' && net > 0 ? { etaMs: Math.round((left / net) * 1000) } : {}),
      ...(reason === undefined ? {} : { reason }),
    };
  }

  /** Reflects what is logged now; returns how long it took, ms. */
  round(): Promise<number> {
    return this.#exclusive(async () => {
      this.#checkAlive();
      const startedMs = this.#clock.nowMs();
      await this.#roundOfAll();
      return this.#clock.nowMs() - startedMs;
    });
  }

  cut(options: CutOptions = {}): Promise<CutOutcome> {
    return this.#exclusive(async () => {
      this.#checkAlive();
      if (this.#phase === 'copying')
        throw new CopyError('busy', `copy ${this.name} is still copying`, {
          remedy: 'wait for phase `converged`',
        });
      const wanted = options.from ?? this.#members.map((member) => member.pair.from.id);
      const members = wanted.map((id) => {
        const member = this.#members.find(({ pair }) => pair.from.id === id);
        if (member === undefined)
          throw new CopyError('unknown-disk', `copy ${this.name} has no disk ${id} left to cut`);
        return member;
      });
      try {
        for (let i = 0; i < ROUNDS_BEFORE_CUT; i++) {
          await this.#roundOfAll(members);
          for (const { pair } of members) await pair.to.store.flush();
          if (members.every((member) => deltaOf(member) < 64 * 1024)) break;
        }
        return await this.#cutNow(members, options);
      } catch (error) {
        if (!(error instanceof CopyError && error.code === 'busy')) await this.#fail(error);
        throw error;
      }
    });
  }

  /** Ends logging and copying. Targets that were touched stay invalid. Cancelling again does nothing. */
  async cancel(reason = 'cancelled'): Promise<void> {
    this.#cancelling = true;
    this.#wake?.();
    await this.#background;
    await this.#exclusive(async () => {
      if (this.#phase === 'cut' || this.#phase === 'failed' || this.#phase === 'cancelled') return;
      this.#phase = 'cancelled';
      this.#reason = reason;
      await this.#release(this.#members);
      this.#options.onProgress?.();
    });
  }

  /** Stops without ending anything: the process goes down. A reverse log is made durable and can be resumed. */
  async suspend(): Promise<void> {
    if (this.purpose === 'copy') return this.cancel('the block process is stopping');
    await this.#exclusive(() => this.#release(this.#members));
  }

  async #run(): Promise<void> {
    try {
      for (const { pair } of this.#members) this.#total += await dataBytes(pair.from.store);
      this.#copyRate.update(0);
      for (const { pair } of this.#members) {
        await clearDevice(pair.to.store);
        await bulkCopy(pair.from.store, pair.to.store, {
          before: async (bytes) => {
            if (this.#cancelling) throw new CopyError('cancelled', `copy ${this.name} was cancelled`);
            await this.#limit.take(bytes);
          },
          onBytes: (bytes) => {
            this.#copied += bytes;
            this.#copyRate.update(this.#copied);
            this.#options.onProgress?.();
          },
        });
      }
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

  /** One round of the loop: decides whether what is left is small. */
  async #settleRound(): Promise<void> {
    const before = this.#delta();
    if (before > 0 || this.#rounds === 0) await this.#roundOfAll();
    const left = this.#delta();
    if (left <= SMALL_DELTA) {
      this.#growing = 0;
      this.#setPhase('converged');
    } else {
      this.#growing = left >= before ? this.#growing + 1 : 0;
      this.#setPhase('replaying');
    }
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
    const end = await log.position();
    let written = 0;
    if (end.segment > 0 && (member.position === undefined || member.position.sequence < end.sequence)) {
      const reader = await LogReader.open(log.directory, { generation: log.generation });
      const from = member.position === undefined ? {} : { from: member.position };
      const records = await collect(reader, { ...from, until: end.sequence });
      const last = records.at(-1)?.sequence ?? end.sequence - 1n;
      if (last !== end.sequence - 1n && log.spilled === undefined)
        throw new CopyError('copy-failed', `the write log of ${pair.from.id} ends at record ${last}`);
      written += await reflect(reader, records, pair.to.store);
    }
    for (const range of log.takeDirty()) written += await this.#copyRange(pair, range.start, range.end);
    member.position = end;
    member.reflected = logged;
    if (log.bytes > KEEP_LOG_BYTES) {
      await pair.to.store.flush();
      await log.flush();
      log.dropBefore(end);
    }
    return written;
  }

  /** What a spilled log no longer says is read from the source. */
  async #copyRange(pair: CopyPair, start: number, end: number): Promise<number> {
    const chunk = 1024 * 1024;
    const buffer = Buffer.allocUnsafe(chunk);
    for (let at = start; at < end; at += chunk) {
      const part = buffer.subarray(0, Math.min(chunk, end - at));
      await pair.from.store.readAt(part, BigInt(at));
      await pair.to.store.writeAt(part, BigInt(at));
    }
    return end - start;
  }

  async #cutNow(members: readonly Member[], options: CutOptions): Promise<CutOutcome> {
    const pairs = members.map((member) => member.pair);
    const since = new Map<DiskStack, WrittenSince>();
    const disks: { from: string; to: string; sequence: bigint; deltaBytes: number; sha256?: string }[] = [];
    const durationMs = await this.#standingStill(pairs, async () => {
      for (const member of members) {
        const deltaBytes = await this.#reflect(member);
        const { from, to } = member.pair;
        disks.push({ from: from.id, to: to.id, sequence: member.log.lastSequence, deltaBytes });
      }
      await Promise.all(pairs.map((pair) => pair.to.store.flush()));
      await this.#handOver(pairs, options);
      for (const { pair, log } of members) {
        pair.from.trap.detach(log);
        if (options.verify === true && options.fence === undefined) {
          const written = new WrittenSince(Number(pair.from.store.size));
          pair.from.trap.attach(written);
          since.set(pair.from, written);
        }
      }
      this.#loggedBefore += members.reduce((sum, { log }) => sum + log.logged, 0);
      this.#members = this.#members.filter((member) => !members.includes(member));
    });
    for (const { log } of members) await log.close();
    if (this.#members.length === 0) this.#setPhase('cut');
    this.#wake?.();
    if (options.verify === true)
      for (const [i, { from, to }] of pairs.entries())
        disks[i]!.sha256 = await this.#verify(from, to, since.get(from));
    return { disks, durationMs };
  }

  /** Fences, then valid targets; all or none. */
  async #handOver(pairs: readonly CopyPair[], options: CutOptions): Promise<void> {
    const fenced: DiskStack[] = [];
    try {
      for (const { from } of pairs) {
        if (options.fence === undefined) break;
        fenced.push(from);
        await options.fence.raise(from);
      }
      for (const { mark } of pairs) mark.clear();
    } catch (error) {
      for (const { mark } of pairs) mark.set(`the cut of ${this.name} failed: ${messageOf(error)}`);
      for (const from of fenced) await options.fence?.lower(from);
      throw error;
    }
  }

  async #verify(from: DiskStack, to: DiskStack, since: WrittenSince | undefined): Promise<string> {
    try {
      const sha256 = await hashDevice(to.store);
      const equal =
        since === undefined
          ? (await hashDevice(from.store)) === sha256
          : await verifyUnfenced(from.store, to.store, since);
      if (!equal)
        throw new CopyError('not-equal', `${to.id} is not what ${from.id} was at the cut`, {
          remedy: 'do not use the copy; run `changeover log verify` on the log, then copy anew',
        });
      return sha256;
    } finally {
      if (since !== undefined) from.trap.detach(since);
    }
  }

  /** Runs `action` while no write to the sources is under way or begins; returns how long they stood still, ms. */
  async #standingStill(pairs: readonly CopyPair[], action: () => Promise<void>): Promise<number> {
    const startedMs = this.#clock.nowMs();
    try {
      const still = Promise.all(pairs.map(({ from }) => from.gate.pause()));
      await withLimit(still, PAUSE_LIMIT_MS, this.#clock, () => {
        const ids = pairs.map(({ from }) => from.id).join(', ');
        return new CopyError('busy', `a write to ${ids} did not end within ${PAUSE_LIMIT_MS} ms`);
      });
      await action();
    } finally {
      for (const { from } of pairs) from.gate.resume();
    }
    return this.#clock.nowMs() - startedMs;
  }

  async #openLog(pair: CopyPair, generation: Buffer, capBytes: number | undefined): Promise<Member> {
    const { from } = pair;
    const directory = this.logDirectory(from.id);
    const options = {
      diskId: from.id,
      diskSize: from.store.size,
      purpose: this.purpose,
      generation,
      ...(this.#options.segmentBytes === undefined ? {} : { segmentBytes: this.#options.segmentBytes }),
      ...(capBytes === undefined ? {} : { capBytes }),
      clock: this.#clock,
      onSpill: (reason: string) => this.#options.onSpill?.(from.id, reason),
    };
    const member = (log: WriteLog): Member => ({
      pair,
      log,
      position: undefined,
      reflected: 0,
      touched: false,
    });
    if (this.#options.resume !== true) {
      if (this.purpose === 'copy') await dropStaleCopyLog(directory);
      const log = WriteLog.create(directory, withCap(options, this.#options.logDirectory));
      return member(log);
    }
    try {
      const { tail, damage, otherBoot, lastRecords } = await recoverLog(directory, { diskId: from.id });
      if (damage === undefined && !otherBoot && this.#options.distrust?.(from.id) !== true) {
        const log = WriteLog.resume(directory, tail, withCap(options, this.#options.logDirectory));
        // Their writes may not have reached the disk: it is asked.
        for (const { address, length } of lastRecords) log.markDirty(address, length);
        return member(log);
      }
    } catch (error) {
      const code = codeOf(error);
      if (code === 'no-log')
        return member(WriteLog.create(directory, withCap(options, this.#options.logDirectory)));
      if (code !== 'damaged') throw error;
    }
    // The log cannot say everything any more: keep it aside, begin anew, compare everything.
    renameSync(directory, `${directory}.unusable-${Date.now()}`);
    const log = WriteLog.create(directory, withCap(options, this.#options.logDirectory));
    log.markDirty(0, Number(from.store.size));
    return member(log);
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
    await this.#release(this.#members);
    this.#options.onProgress?.();
  }

  /** Takes logs off sources, at an instant when no write is under way, and ends them. */
  async #release(members: readonly Member[]): Promise<void> {
    for (const { pair, log } of members) {
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

function deltaOf({ log, reflected }: Member): number {
  return log.logged - reflected + log.dirtyBytes;
}
