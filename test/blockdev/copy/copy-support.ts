import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { CopyGroupOptions, CopyPhase, Device } from '../../../src/blockdev/index.ts';
import {
  CopyGroup,
  DiskStack,
  invalidMark,
  invalidReason,
  MemoryStore,
} from '../../../src/blockdev/index.ts';
import type { SeededRandom } from '../../../src/common/index.ts';
import { eventually } from '../../support/index.ts';

/** Writes at random until stopped or refused; each writer keeps going after a pause. */
export class Writers {
  #stop = false;
  writes = 0;
  /** Codes of writes that failed. */
  readonly errors: string[] = [];
  readonly #running: Promise<void>[] = [];

  constructor(disks: readonly DiskStack[], random: SeededRandom, perDisk = 3) {
    for (const disk of disks) for (let i = 0; i < perDisk; i++) this.#running.push(this.#write(disk, random));
  }

  async stop(): Promise<void> {
    this.#stop = true;
    await Promise.all(this.#running);
  }

  async #write({ top }: DiskStack, random: SeededRandom): Promise<void> {
    const size = Number(top.size);
    // A test that failed does not stop its writers.
    const untilMs = performance.now() + 20_000;
    while (!this.#stop && performance.now() < untilMs) {
      const length = 1 + random.below(random.below(6) === 0 ? 100_000 : 8192);
      const offset = random.below(size - length + 1);
      const what = random.below(12);
      try {
        if (what === 0)
          await top.writeZeroes(BigInt(offset), BigInt(length), { noHole: random.below(2) === 0 });
        else if (what === 1) await top.trim(BigInt(offset), BigInt(length));
        else if (what === 2) await top.flush();
        else await top.writeAt(Buffer.alloc(length, random.u32()), BigInt(offset), { fua: what === 3 });
        this.writes++;
      } catch (error) {
        this.errors.push((error as { code: string }).code);
        return;
      }
      if (random.below(4) === 0) await new Promise((resolve) => setImmediate(resolve));
    }
  }
}

export interface Pairs {
  readonly sources: DiskStack[];
  readonly targets: DiskStack[];
  readonly directory: string;
  group(options?: Partial<CopyGroupOptions>): CopyGroup;
  invalid(i: number): string | undefined;
}

/** `count` sources and targets of `size` bytes, in memory unless `make` says otherwise. */
export function pairsIn(
  directory: string,
  count: number,
  size: number,
  make: (name: string) => Device = () => new MemoryStore(size),
): Pairs {
  mkdirSync(directory, { recursive: true });
  const names = Array.from({ length: count }, (_, i) => `d${i}`);
  const sources = names.map((name) => new DiskStack(`a-${name}`, make(`a-${name}`)));
  const targets = names.map((name) => new DiskStack(`b-${name}`, make(`b-${name}`)));
  const path = (i: number) => join(directory, `b-d${i}.img`);
  return {
    sources,
    targets,
    directory,
    group: (options = {}) =>
      new CopyGroup({
        name: 'test',
        pairs: sources.map((from, i) => ({ from, to: targets[i]!, mark: invalidMark(path(i)) })),
        logDirectory: join(directory, 'log'),
        purpose: 'copy',
        ...options,
      }),
    invalid: (i) => invalidReason(path(i)),
  };
}

export function phase(group: CopyGroup, ...wanted: CopyPhase[]): Promise<CopyPhase> {
  return eventually(
    `phase ${wanted.join(' or ')} (is ${group.progress().phase})`,
    () => {
      const { phase: now } = group.progress();
      return wanted.includes(now) ? now : undefined;
    },
    15_000,
  );
}

export const refuse = {
  raise: async (disk: DiskStack) => disk.fence.raise('refuse'),
  lower: async (disk: DiskStack) => {
    disk.fence.lower();
  },
};
