/** The block process of the simulated world: disks as lists of write numbers, copies and logs of the way back as pending writes. */
import { CodedError, type SeededRandom, type VirtualClock } from '../../../src/common/index.ts';
import { diskId } from '../../../src/hypervisor/index.ts';

export class WorldError extends CodedError {}

/** A promise that the model breaks, to see that the trials notice it. */
export type Flaw = 'loses-the-last-delta' | 'does-not-fence' | 'keeps-holding' | 'forgets-the-reverse-log';

export interface Disk {
  content: number[];
  fence: 'none' | 'refuse';
  /** Target of a copy that was not cut. */
  invalid: boolean;
  lastWriteMs: number | undefined;
}

interface Group {
  readonly pairs: { readonly from: string; readonly to: string; pending: number[]; cut: boolean }[];
  readonly convergedMs: number;
}

export class SimulatedDisks {
  readonly disks = new Map<string, Disk>();
  readonly groups = new Map<string, Group>();
  flaw: Flaw | undefined;
  readonly #clock: VirtualClock;
  readonly #random: SeededRandom;

  constructor(clock: VirtualClock, random: SeededRandom, partitions: readonly string[]) {
    this.#clock = clock;
    this.#random = random;
    for (const partition of partitions)
      for (const role of ['system', 'application'] as const)
        this.disks.set(diskId(partition, role), {
          ...{ content: [], fence: 'none', invalid: false, lastWriteMs: undefined },
        });
  }

  application(partition: string): Disk {
    return this.disks.get(diskId(partition, 'application'))!;
  }

  execute(name: string, args: Record<string, unknown>): unknown {
    switch (name) {
      case 'copy-start': {
        const pairs = (args['pairs'] as { from: string; to: string }[]).map(({ from, to }) => {
          const target = this.disks.get(to)!;
          target.content = [...this.disks.get(from)!.content];
          target.invalid = true;
          return { from, to, pending: [], cut: false };
        });
        const name = args['copy'] as string;
        this.groups.set(name, { pairs, convergedMs: this.#clock.nowMs() + 20 + this.#random.below(200) });
        return this.#copyStatus(name);
      }
      case 'reverse-start': {
        const pairs = (args['pairs'] as { from: string; to: string }[]).map((pair) => ({
          ...{ ...pair, pending: [], cut: false },
        }));
        if (!this.groups.has(args['copy'] as string))
          this.groups.set(args['copy'] as string, { pairs, convergedMs: 0 });
        return {};
      }
      case 'copy-round':
        for (const pair of this.#group(args).pairs) this.#reflect(pair);
        return { ...this.#copyStatus(args['copy'] as string), roundMs: 1 };
      case 'copy-cut': {
        const from = args['from'] as string[] | undefined;
        const pairs = this.#group(args).pairs.filter((pair) => from?.includes(pair.from) !== false);
        for (const pair of pairs) {
          if (this.flaw === 'loses-the-last-delta') pair.pending = [];
          this.#reflect(pair);
          pair.cut = true;
          this.disks.get(pair.to)!.invalid = false;
          if (args['fence'] !== undefined && this.flaw !== 'does-not-fence')
            this.disks.get(pair.from)!.fence = 'refuse';
        }
        return {
          disks: pairs.map((pair) => ({ from: pair.from, to: pair.to, sequence: '1', deltaBytes: '0' })),
          durationMs: 1,
        };
      }
      case 'copy-cancel':
        // It stays known: cancelling it again changes nothing.
        for (const pair of this.#group(args).pairs) pair.cut = true;
        return {};
      case 'copy-status':
        this.#group(args);
        return this.#copyStatus(args['copy'] as string);
      case 'fence':
        this.disks.get(args['id'] as string)!.fence = args['mode'] === 'none' ? 'none' : 'refuse';
        return {};
      case 'hash':
        return { sha256: 'same' };
      case 'disk-status':
        return [...this.disks]
          .filter(([id]) => args['id'] === undefined || id === args['id'])
          .map(([id, disk]) => ({
            ...{ id, size: '1048576', fence: disk.fence },
            ...(disk.lastWriteMs === undefined
              ? {}
              : { lastWriteMsAgo: this.#clock.nowMs() - disk.lastWriteMs }),
          }));
      default:
        return {};
    }
  }

  #group(args: Record<string, unknown>): Group {
    const group = this.groups.get(args['copy'] as string);
    if (group === undefined) throw new WorldError('unknown-copy', `there is no copy ${args['copy']}`);
    return group;
  }

  #copyStatus(name: string): object {
    const { pairs, convergedMs } = this.groups.get(name)!;
    const isCut = pairs.every(({ cut }) => cut);
    const phase = isCut ? 'cut' : this.#clock.nowMs() >= convergedMs ? 'converged' : 'copying';
    return {
      ...{ copy: name, phase, total: '1', copied: '1', delta: '0', rounds: 1, bytesPerSecond: 1 },
      ...{ writeRate: 1, reflectRate: 1 },
    };
  }

  #reflect(pair: Group['pairs'][number]): void {
    if (pair.cut) return;
    this.disks.get(pair.to)!.content.push(...pair.pending.splice(0));
  }

  /** False: the fence refuses it. */
  write(id: string, write: number): boolean {
    const disk = this.disks.get(id)!;
    if (disk.fence !== 'none') return false;
    disk.content.push(write);
    disk.lastWriteMs = this.#clock.nowMs();
    for (const { pairs } of this.groups.values())
      for (const pair of pairs)
        if (pair.from === id && !pair.cut && !(this.flaw === 'forgets-the-reverse-log' && id.startsWith('B')))
          pair.pending.push(write);
    return true;
  }
}
