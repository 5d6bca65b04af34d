/**
 * The block process without its process: disks, their NBD servers, copies. Implements every command of `DiskCommands`.
 * Commands about one copy or one socket are safe to overlap; each is idempotent for the same arguments.
 */
import { mkdirSync, renameSync, rmSync } from 'node:fs';
import type {
  CopyGroupOptions,
  CopyProgress,
  CutOutcome,
  DiskStack,
  LiveCopy,
} from '../../blockdev/index.ts';
import { CopyGroup, hashDevice, MirrorGroup, NbdServer } from '../../blockdev/index.ts';
import type { Handlers } from '../../channel/index.ts';
import type { Clock, Log } from '../../common/index.ts';
import { messageOf, silentLog, systemClock, Turns } from '../../common/index.ts';
import type { CopyStatus, CutResult, DiskCommands, DiskEvents, DiskStatus } from './commands.ts';
import { Disk, DiskError } from './disk.ts';

export interface DiskServiceOptions {
  readonly emit?: <N extends keyof DiskEvents & string>(name: N, data: DiskEvents[N]) => void;
  readonly log?: Log;
  readonly clock?: Clock;
  /** Asked for by the command `shutdown`, after its answer. */
  readonly onShutdown?: () => void;
}

interface Served {
  readonly server: NbdServer;
  exports: Record<string, string>;
}

interface Copy {
  readonly group: LiveCopy;
  readonly pairs: readonly { readonly from: string; readonly to: string }[];
  /** Answers of cuts by the disks that were cut, for who asks again. */
  readonly cuts: Map<string, CutResult>;
  toldMs: number;
  toldPhase: string;
}

/** Progress of one copy is told at most so often, changes of phase always. */
const PROGRESS_INTERVAL_MS = 200;

/** One per command, by name: a command that is missing here does not compile. */
type OwnHandlers = {
  [N in keyof DiskCommands as string extends N ? never : number extends N ? never : N]: (
    args: DiskCommands[N]['arguments'],
  ) => DiskCommands[N]['result'] | Promise<DiskCommands[N]['result']>;
};

type Arguments<N extends keyof DiskCommands> = DiskCommands[N]['arguments'];

export class DiskService {
  readonly #emit: NonNullable<DiskServiceOptions['emit']>;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #onShutdown: (() => void) | undefined;
  readonly #disks = new Map<string, Disk>();
  readonly #opening = new Map<string, Promise<Disk>>();
  readonly #servers = new Map<string, Served>();
  readonly #turns = new Turns();
  readonly #serving = new Map<string, Promise<unknown>>();
  readonly #copies = new Map<string, Copy>();
  /** Cuts under way, by source. */
  readonly #cutting = new Map<string, Promise<unknown>>();
  #lateWrites = 0;

  constructor(options: DiskServiceOptions = {}) {
    this.#emit = options.emit ?? (() => {});
    this.#log = options.log ?? silentLog;
    this.#clock = options.clock ?? systemClock;
    this.#onShutdown = options.onShutdown;
  }

  /** For a ChannelServer. */
  handlers(): Handlers<DiskCommands> {
    const handlers: OwnHandlers = {
      'disk-add': (args) => this.add(args),
      'disk-remove': (args) => this.remove(args),
      'disk-status': (args) => this.status(args),
      serve: (args) => this.serve(args),
      'serve-stop': (args) => this.serveStop(args),
      'copy-start': (args) => this.copyStart(args),
      'copy-status': (args) => this.copyStatus(args),
      'copy-round': (args) => this.copyRound(args),
      'copy-cut': (args) => this.copyCut(args),
      'copy-cancel': (args) => this.copyCancel(args),
      fence: (args) => this.fence(args),
      hash: (args) => this.hash(args),
      'reverse-start': (args) => this.reverseStart(args),
      'mirror-start': (args) => this.#beginMirror(args, false),
      'mirror-resync': (args) => this.#beginMirror(args, true),
      'mirror-status': ({ mirror }) => this.copyStatus({ copy: mirror }),
      'mirror-split': ({ mirror, ...rest }) => this.copyCut({ copy: mirror, ...rest }),
      'mirror-cancel': ({ mirror }) => this.copyCancel({ copy: mirror }),
      counters: () => this.counters(),
      shutdown: () => {
        setImmediate(() => this.#onShutdown?.());
        return {};
      },
    };
    return handlers as unknown as Handlers<DiskCommands>;
  }

  async add({ id, path, create, readOnly = false }: Arguments<'disk-add'>): Promise<DiskStatus> {
    const size = create === undefined ? undefined : parseBytes('create', create);
    if (id === '' || Buffer.byteLength(id) > 48)
      throw new DiskError('EINVAL', `disk id ${JSON.stringify(id)}: 1 to 48 bytes are wanted`);
    await this.#opening.get(id)?.catch(() => {});
    const known = this.#disks.get(id);
    if (known !== undefined) {
      if (known.path !== path || known.readOnly !== readOnly)
        throw new DiskError('in-use', `disk ${id} is ${known.path} already`, {
          remedy: 'remove it first: disk-remove',
          values: { id, path: known.path },
        });
      if (size !== undefined && size !== known.size)
        throw new DiskError('size-mismatch', `${path} has ${known.size} bytes, not ${size}`, {
          remedy: 'leave the size out to use it as it is',
        });
      return known.status(this.#logOf(id));
    }
    const opening = Disk.open(
      id,
      path,
      { readOnly, ...(size === undefined ? {} : { create: size }) },
      {
        lateWrite: (disk, offset, length) => {
          this.#lateWrites++;
          this.#emit('LATE_WRITE', { id: disk.id, offset: String(offset), length: String(length) });
        },
        failed: (disk, reason) => {
          this.#log.error('disk failed', { disk: disk.id, reason });
          this.#emit('DISK_FAILED', { id: disk.id, reason });
        },
      },
    );
    this.#opening.set(id, opening);
    try {
      const disk = await opening;
      this.#disks.set(id, disk);
      return disk.status();
    } finally {
      this.#opening.delete(id);
    }
  }

  async remove({ id }: Arguments<'disk-remove'>): Promise<object> {
    const disk = this.#disks.get(id);
    if (disk === undefined) return {};
    for (const [socket, { exports }] of this.#servers)
      if (Object.values(exports).includes(id))
        throw new DiskError('in-use', `disk ${id} is served on ${socket}`, { remedy: 'serve-stop first' });
    for (const { group } of this.#copies.values())
      if (isAlive(group) && group.pairs.some(({ from, to }) => from.id === id || to.id === id))
        throw new DiskError('in-use', `disk ${id} is part of copy ${group.name}`, {
          remedy: 'cut or cancel the copy first',
        });
    this.#disks.delete(id);
    await disk.close();
    return {};
  }

  status({ id }: Arguments<'disk-status'>): DiskStatus[] {
    const disks = id === undefined ? [...this.#disks.values()] : [this.#disk(id)];
    return disks.map((disk) => disk.status(this.#logOf(disk.id)));
  }

  /** Commands about one socket run one after the other. */
  serve(args: Arguments<'serve'>): Promise<object> {
    return this.#inTurn(args.socket, () => this.#serve(args));
  }

  async #serve({ socket, exports }: Arguments<'serve'>): Promise<object> {
    const devices = new Map(
      Object.entries(exports).map(([name, id]) => {
        const disk = this.#disk(id);
        const invalid = disk.invalid;
        if (invalid !== undefined)
          throw new DiskError('not-valid', `disk ${id} is not valid: ${invalid}`, {
            remedy: 'cut the copy it is the target of, or copy it anew',
          });
        return [name, disk.stack.top] as const;
      }),
    );
    for (const id of Object.values(exports)) this.#servedUnlogged(this.#disk(id));
    const served = this.#servers.get(socket);
    if (served !== undefined) {
      await served.server.setExports(devices);
      served.exports = { ...exports };
      return {};
    }
    const server = new NbdServer({
      log: this.#log.with({ socket }),
      clock: this.#clock,
      turns: this.#turns,
    });
    await server.setExports(devices);
    await server.listen(socket);
    this.#servers.set(socket, { server, exports: { ...exports } });
    return {};
  }

  /** Guests may write from now on: a copy that was killed can only be gone on with when its log is on already. */
  #servedUnlogged(disk: Disk): void {
    const generation = disk.logMark.get();
    if (generation !== undefined && this.#logOf(disk.id)?.generation !== generation) disk.logMark.clear();
  }

  serveStop({ socket }: Arguments<'serve-stop'>): Promise<object> {
    return this.#inTurn(socket, async () => {
      const served = this.#servers.get(socket);
      this.#servers.delete(socket);
      await served?.server.close();
      return {};
    });
  }

  copyStart(args: Arguments<'copy-start'>): Promise<CopyStatus> {
    return this.#begin('copy', args);
  }

  reverseStart(args: Arguments<'reverse-start'>): Promise<CopyStatus> {
    return this.#begin('reverse', args);
  }

  copyStatus({ copy }: Arguments<'copy-status'>): CopyStatus {
    return copyStatusOf(this.#copy(copy).group);
  }

  async copyRound({ copy }: Arguments<'copy-round'>): Promise<CopyStatus & { roundMs: number }> {
    const { group } = this.#copy(copy);
    const roundMs = await group.round();
    return { ...copyStatusOf(group), roundMs };
  }

  async copyCut({ copy, from, fence, verify }: Arguments<'copy-cut'>): Promise<CutResult> {
    const entry = this.#copy(copy);
    const { group, cuts } = entry;
    const asked = [...(from ?? entry.pairs.map((pair) => pair.from))].sort();
    const left = group.pairs.map((pair) => pair.from.id);
    const answered = cuts.get(asked.join('\n'));
    if (answered !== undefined && !asked.some((id) => left.includes(id))) return answered;
    const cutting = group.cut({
      ...(from === undefined ? {} : { from }),
      ...(verify === undefined ? {} : { verify }),
      ...(fence === undefined
        ? {}
        : {
            fence: {
              raise: (source: DiskStack) => this.#disk(source.id).setFence(fence),
              lower: (source: DiskStack) => this.#disk(source.id).setFence('none'),
            },
          }),
    });
    for (const id of asked) this.#cutting.set(id, cutting);
    const outcome = await cutting.finally(() => {
      for (const id of asked) if (this.#cutting.get(id) === cutting) this.#cutting.delete(id);
    });
    const result = cutResultOf(outcome);
    cuts.set(asked.join('\n'), result);
    for (const { from: id } of outcome.disks) {
      const disk = this.#disk(id);
      disk.writesAtCut = disk.stack.top.writes;
      try {
        disk.spilled = false;
        // The log of a way back that was taken must not be taken for one to go on with.
        if (group instanceof CopyGroup && group.purpose === 'reverse') setAsideLog(group.logDirectory(id));
      } catch (error) {
        // The cut is done all the same. What stays names no log that is trusted: its mark went with the cut.
        this.#log.warn('what a cut leaves could not be put away', { disk: id, reason: messageOf(error) });
      }
    }
    return result;
  }

  async copyCancel({ copy }: Arguments<'copy-cancel'>): Promise<object> {
    const { group, pairs } = this.#copy(copy);
    await group.cancel();
    if (group instanceof CopyGroup && group.progress().phase !== 'cut')
      for (const { from } of pairs) {
        rmSync(group.logDirectory(from), { recursive: true, force: true });
        const disk = this.#disks.get(from);
        if (disk !== undefined) disk.spilled = false;
      }
    return {};
  }

  async fence({ id, mode, directory }: Arguments<'fence'>): Promise<DiskStatus> {
    const disk = this.#disk(id);
    // A cut that is under way would put its own fence up afterwards, though somebody has undone it by then.
    await this.#cutting.get(id)?.catch(() => {});
    await disk.setFence(mode, directory);
    return disk.status(this.#logOf(id));
  }

  async hash({ id, unchanged }: Arguments<'hash'>): Promise<DiskCommands['hash']['result']> {
    const disk = this.#disk(id);
    const { top } = disk.stack;
    const startedMs = this.#clock.nowMs();
    const before = disk.writesAtCut ?? top.writes;
    const sha256 = await hashDevice(disk.store);
    if (unchanged === true && top.writes !== before)
      throw new DiskError('changed', `disk ${id} was written while it was hashed, or since its cut`, {
        remedy: 'ask for the proof with the cut: copy-cut with verify',
      });
    return { sha256, bytes: String(disk.size), durationMs: this.#clock.nowMs() - startedMs };
  }

  counters(): Record<string, number> {
    const sums: Record<string, number> = {
      disks: this.#disks.size,
      servers: this.#servers.size,
      copies: [...this.#copies.values()].filter(({ group }) => isAlive(group)).length,
      lateWrites: this.#lateWrites,
    };
    const add = (name: string, value: number) => {
      sums[name] = (sums[name] ?? 0) + value;
    };
    for (const { stack } of this.#disks.values()) {
      add('reads', stack.top.reads);
      add('writes', stack.top.writes);
      add('flushes', stack.top.flushes);
      add('bytesRead', stack.top.bytesRead);
      add('bytesWritten', stack.top.bytesWritten);
    }
    for (const { server } of this.#servers.values())
      for (const [name, value] of Object.entries(server.counters())) add(`nbd-${name}`, value);
    return sums;
  }

  /** Ends everything in order: answers what is in flight, ends logs, flushes and closes disks. */
  async close(): Promise<void> {
    for (const { server } of this.#servers.values()) await server.close();
    this.#servers.clear();
    for (const { group } of this.#copies.values()) await group.suspend();
    for (const disk of this.#disks.values())
      await disk.close().catch((error) => this.#log.error('disk', { id: disk.id, reason: messageOf(error) }));
    this.#disks.clear();
  }

  async #begin(
    purpose: 'copy' | 'reverse',
    args: Arguments<'copy-start'> | Arguments<'reverse-start'>,
  ): Promise<CopyStatus> {
    const { copy, pairs, logDirectory } = args;
    const known = this.#known(copy, purpose, pairs);
    if (known !== undefined) return known;
    const named = pairs.map(({ from, to }) => ({ from: this.#disk(from), to: this.#disk(to) }));
    this.#checkPairs(purpose, named);
    if (purpose === 'copy') for (const { to } of named) to.forgetMirror();
    mkdirSync(logDirectory, { recursive: true, mode: 0o700 });
    const group = new CopyGroup({
      name: copy,
      pairs: named.map(({ from, to }) => ({
        from: from.stack,
        to: to.stack,
        mark: to.mark,
        logMark: from.logMark,
      })),
      logDirectory,
      purpose,
      ...(purpose === 'reverse' ? { resume: true } : {}),
      ...copyOptionsOf(args),
      clock: this.#clock,
      distrust: (id) => this.#disk(id).spilled,
      onSpill: (id, reason) => this.#spilled(copy, id, reason),
      onProgress: () => this.#progress(copy),
    });
    const status = await this.#launch(group, pairs);
    if (purpose === 'reverse')
      for (const { from } of named) {
        // It never began, and there was no room to say so: the next process would take the disks for equal.
        const { spilled } = group.logOf(from.id) ?? {};
        if (spilled === undefined || from.spilled) continue;
        await group.cancel();
        throw new DiskError(
          'ENOSPC',
          `the write log of ${from.id} cannot be kept, nor that it is not: ${spilled}`,
          {
            remedy: 'free space where the log and the image are',
          },
        );
      }
    return status;
  }

  async #beginMirror(
    args: Arguments<'mirror-start'> | Arguments<'mirror-resync'>,
    onlyChanges: boolean,
  ): Promise<CopyStatus> {
    const { mirror, pairs, rateLimit } = args;
    const before = this.#copies.get(mirror)?.group.progress().phase;
    // A mirror that was split is joined again when it is asked for by name.
    const known = onlyChanges && before === 'cut' ? undefined : this.#known(mirror, 'mirror', pairs);
    if (known !== undefined) return known;
    const named = pairs.map(({ from, to }) => ({ from: this.#disk(from), to: this.#disk(to) }));
    this.#checkPairs('mirror', named);
    const group = new MirrorGroup({
      name: mirror,
      pairs: named.map(({ from, to }) => ({
        from: from.stack,
        to: to.stack,
        mark: to.mark,
        maps: { from: from.mirrorMap, to: to.mirrorMap },
        onFirstDropped: (reason) => from.mark.set(`it failed as a half of mirror ${mirror}: ${reason}`),
      })),
      ...(onlyChanges ? { onlyChanges } : {}),
      ...(rateLimit === undefined ? {} : { rateLimit }),
      clock: this.#clock,
      onProgress: () => this.#progress(mirror),
    });
    return this.#launch(group, pairs);
  }

  /** The answer when this copy is there already; `in-use` when another one has its name. */
  #known(name: string, purpose: LiveCopy['purpose'], pairs: Copy['pairs']): CopyStatus | undefined {
    const known = this.#copies.get(name);
    if (known === undefined) return undefined;
    if (!isAlive(known.group) && known.group.progress().phase !== 'cut') return undefined;
    const same =
      known.group.purpose === purpose &&
      pairs.length === known.pairs.length &&
      pairs.every((pair, i) => pair.from === known.pairs[i]!.from && pair.to === known.pairs[i]!.to);
    if (same) return copyStatusOf(known.group);
    throw new DiskError('in-use', `copy ${name} is one of other disks`, {
      remedy: 'choose another name, or cancel it first',
    });
  }

  async #launch(group: CopyGroup | MirrorGroup, pairs: Copy['pairs']): Promise<CopyStatus> {
    const entry: Copy = { group, pairs, cuts: new Map(), toldMs: 0, toldPhase: '' };
    this.#copies.set(group.name, entry);
    try {
      await group.start();
    } catch (error) {
      this.#copies.delete(group.name);
      throw error;
    }
    this.#progress(group.name);
    return copyStatusOf(group);
  }

  #checkPairs(purpose: LiveCopy['purpose'], pairs: readonly { from: Disk; to: Disk }[]): void {
    if (pairs.length === 0) throw new DiskError('EINVAL', 'a copy needs at least one pair of disks');
    const seen = new Set<Disk>();
    for (const disk of pairs.flatMap(({ from, to }) => [from, to])) {
      if (seen.has(disk)) throw new DiskError('EINVAL', `disk ${disk.id} stands in the copy twice`);
      seen.add(disk);
    }
    for (const { from, to } of pairs) {
      if (from.stack.trap.sink !== undefined)
        throw new DiskError('in-use', `disk ${from.id} has a write log already`, {
          remedy: 'cut or cancel the copy or reverse log it belongs to',
        });
      if (to.readOnly) throw new DiskError('EROFS', `disk ${to.id} was added read-only`);
      for (const { group } of this.#copies.values())
        if (isAlive(group) && group.pairs.some((pair) => pair.to.id === to.id || pair.from.id === to.id))
          throw new DiskError('in-use', `disk ${to.id} is part of copy ${group.name}`, {
            remedy: 'cut or cancel that one first',
          });
      if (purpose !== 'reverse')
        for (const [socket, { exports }] of this.#servers)
          if (Object.values(exports).includes(to.id))
            throw new DiskError('in-use', `disk ${to.id} is served on ${socket}: it cannot be copied onto`, {
              remedy: 'stop the partition that has it, or serve the socket without it',
            });
    }
  }

  #spilled(copy: string, id: string, reason: string): void {
    this.#log.warn('write log spilled', { copy, disk: id, reason });
    // Taking a file away needs no space: on a full disk this is the one that works.
    const notes = [() => this.#disk(id).logMark.clear(), () => this.#noteSpilled(id)];
    for (const note of notes)
      try {
        note();
      } catch (error) {
        this.#log.error('a spilled log cannot be noted', { disk: id, reason: messageOf(error) });
      }
    this.#progress(copy);
  }

  #noteSpilled(id: string): void {
    this.#disk(id).spilled = true;
  }

  #progress(copy: string): void {
    const entry = this.#copies.get(copy);
    if (entry === undefined) return;
    const nowMs = this.#clock.nowMs();
    const status = copyStatusOf(entry.group);
    if (status.phase === entry.toldPhase && nowMs - entry.toldMs < PROGRESS_INTERVAL_MS) return;
    entry.toldMs = nowMs;
    entry.toldPhase = status.phase;
    this.#emit('COPY_PROGRESS', { status });
  }

  #logOf(id: string): DiskStatus['log'] {
    for (const { group } of this.#copies.values()) {
      const log = group instanceof CopyGroup ? group.logOf(id) : undefined;
      if (log !== undefined && this.#disks.get(id)?.stack.trap.sink === log)
        return {
          directory: log.directory,
          generation: log.generation.toString('hex'),
          sequence: String(log.lastSequence),
          bytes: String(log.bytes),
        };
    }
    return undefined;
  }

  #disk(id: string): Disk {
    const disk = this.#disks.get(id);
    if (disk === undefined)
      throw new DiskError('unknown-disk', `there is no disk ${id}`, { remedy: 'add it first: disk-add' });
    return disk;
  }

  #copy(name: string): Copy {
    const copy = this.#copies.get(name);
    if (copy === undefined) throw new DiskError('unknown-copy', `there is no copy ${name}`);
    return copy;
  }

  #inTurn<T>(socket: string, action: () => Promise<T>): Promise<T> {
    const run = (this.#serving.get(socket) ?? Promise.resolve()).then(action, action);
    this.#serving.set(socket, run);
    return run;
  }
}

function isAlive(group: LiveCopy): boolean {
  return ['copying', 'replaying', 'converged'].includes(group.progress().phase);
}

function copyStatusOf(group: LiveCopy): CopyStatus {
  const { total, copied, delta, proven, unproven, ...rest }: CopyProgress = group.progress();
  return {
    copy: group.name,
    total: String(total),
    copied: String(copied),
    delta: String(delta),
    ...(proven === undefined ? {} : { proven: String(proven) }),
    ...(unproven === undefined ? {} : { unproven: String(unproven) }),
    ...rest,
  };
}

/** What only a copy takes. */
function copyOptionsOf(
  args: Arguments<'copy-start'> | Arguments<'reverse-start'>,
): Partial<CopyGroupOptions> {
  const { rateLimit, resumeOnly, proof, convergence }: Partial<Arguments<'copy-start'>> = args;
  return {
    ...(resumeOnly === true ? { resume: 'only' } : {}),
    ...(rateLimit === undefined ? {} : { rateLimit }),
    ...(proof === undefined ? {} : { proof }),
    ...(convergence === undefined ? {} : { convergence }),
  };
}

function cutResultOf({ disks, durationMs }: CutOutcome): CutResult {
  return {
    disks: disks.map(({ sequence, deltaBytes, proof, ...rest }) => ({
      ...rest,
      ...(proof === undefined
        ? {}
        : {
            proof: {
              readBack: String(proof.readBack),
              proven: String(proof.proven),
              compared: String(proof.compared),
              unproven: String(proof.unproven),
              ...(proof.oldestMs === undefined ? {} : { oldestMs: proof.oldestMs }),
            },
          }),
      sequence: String(sequence),
      deltaBytes: String(deltaBytes),
    })),
    durationMs,
  };
}

function setAsideLog(directory: string): void {
  renameSync(directory, `${directory}.cut-${Date.now()}`);
}

function parseBytes(name: string, text: string): bigint {
  if (!/^\d{1,19}$/.test(text))
    throw new DiskError('EINVAL', `${name} is ${JSON.stringify(text)}: a number of bytes is wanted`);
  return BigInt(text);
}
