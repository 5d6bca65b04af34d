/**
 * The logical computer resource management table [306] (Fig 5): what every partition has, and whether it is assigned.
 * A standby must be unassigned and its resources must cover those of the partition it stands in for.
 */
import { CodedError } from '../../common/index.ts';
import type { DiskRole, PartitionConfig } from '../partition/index.ts';

export interface ResourceDisk {
  readonly name: string;
  /** Fig 5 names disks without a role; rows without roles are compared by size alone. */
  readonly role?: DiskRole;
  /** Bytes; 0n when it is not known. */
  readonly size: bigint;
}

/** One row: [501] id, [502] processor and share, [503] memory, [504] disks, [505] network devices. */
export interface ResourceRow {
  readonly id: string;
  readonly processor: { readonly cpu: number; readonly sharePercent: number };
  readonly memoryMiB: number;
  readonly disks: readonly ResourceDisk[];
  readonly network: readonly string[];
  readonly assigned: boolean;
}

export class ResourceError extends CodedError {}

export interface Coverage {
  readonly covers: boolean;
  /** What is missing, one sentence each. */
  readonly reasons: readonly string[];
}

/** Whether `standby` has everything that `active` has: share, memory, a disk of the role and size for each disk, devices. */
export function covers(standby: ResourceRow, active: ResourceRow): Coverage {
  const reasons: string[] = [];
  if (standby.processor.sharePercent < active.processor.sharePercent) {
    reasons.push(
      `${standby.id} has ${standby.processor.sharePercent} % of a processor, ${active.id} has ${active.processor.sharePercent} %`,
    );
  }
  if (standby.memoryMiB < active.memoryMiB) {
    reasons.push(
      `${standby.id} has ${standby.memoryMiB} MiB of memory, ${active.id} has ${active.memoryMiB} MiB`,
    );
  }
  reasons.push(...missingDisks(standby, active));
  if (standby.network.length < active.network.length) {
    reasons.push(
      `${standby.id} has ${standby.network.length} network device(s), ${active.id} has ${active.network.length}`,
    );
  }
  return { covers: reasons.length === 0, reasons };
}

/** Largest first, each takes the smallest disk left that fits: if any matching exists, this one finds it. */
function missingDisks(standby: ResourceRow, active: ResourceRow): string[] {
  const reasons: string[] = [];
  const left = [...standby.disks].sort(bySize);
  for (const wanted of [...active.disks].sort(bySize).reverse()) {
    const at = left.findIndex((disk) => disk.role === wanted.role && disk.size >= wanted.size);
    if (at >= 0) left.splice(at, 1);
    else {
      const role = wanted.role === undefined ? '' : `${wanted.role} `;
      reasons.push(
        `${standby.id} has no ${role}disk left of ${wanted.size} bytes or more for ${wanted.name} of ${active.id}`,
      );
    }
  }
  return reasons;
}

function bySize(a: ResourceDisk, b: ResourceDisk): number {
  return a.size < b.size ? -1 : a.size > b.size ? 1 : 0;
}

export type StandbyChoice =
  | { readonly found: true; readonly id: string }
  | { readonly found: false; readonly reasons: readonly string[] };

export class ResourceTable {
  readonly #rows = new Map<string, ResourceRow>();

  /** Adds or replaces a row. */
  set(row: ResourceRow): void {
    this.#rows.set(row.id, row);
  }

  delete(id: string): void {
    this.#rows.delete(id);
  }

  rows(): ResourceRow[] {
    return [...this.#rows.values()];
  }

  /** Throws `unknown-partition`. */
  row(id: string): ResourceRow {
    const row = this.#rows.get(id);
    if (row === undefined) {
      throw new ResourceError('unknown-partition', `the resource table has no partition ${id}`, {
        values: { partition: id },
        remedy: `known are: ${[...this.#rows.keys()].join(', ') || 'none'}`,
      });
    }
    return row;
  }

  setAssigned(id: string, assigned: boolean): void {
    this.set({ ...this.row(id), assigned });
  }

  /** Step 701: the smallest unassigned partition that covers `activeId`, or for every other one why it does not serve. */
  findStandby(activeId: string): StandbyChoice {
    const active = this.row(activeId);
    const reasons: string[] = [];
    const fit: ResourceRow[] = [];
    for (const row of this.#rows.values()) {
      if (row.id === activeId) continue;
      if (row.assigned) {
        reasons.push(`${row.id} is assigned`);
        continue;
      }
      const coverage = covers(row, active);
      if (coverage.covers) fit.push(row);
      else reasons.push(...coverage.reasons);
    }
    const smallest = fit.sort(compareRows)[0];
    if (smallest !== undefined) return { found: true, id: smallest.id };
    if (reasons.length === 0) reasons.push(`there is no partition beside ${activeId}`);
    return { found: false, reasons };
  }
}

/** Smaller first: processor share, memory, disk space, network devices, then the id so that the choice is stable. */
function compareRows(a: ResourceRow, b: ResourceRow): number {
  const space = (row: ResourceRow) => row.disks.reduce((sum, disk) => sum + disk.size, 0n);
  return (
    a.processor.sharePercent - b.processor.sharePercent ||
    a.memoryMiB - b.memoryMiB ||
    Number(space(a) - space(b)) ||
    a.network.length - b.network.length ||
    (a.id < b.id ? -1 : 1)
  );
}

/** The row of a configured partition; `sizes` are those of the image files where the configuration names none. */
export function rowOf(
  config: PartitionConfig,
  assigned: boolean,
  sizes: Readonly<Partial<Record<DiskRole, bigint>>> = {},
): ResourceRow {
  return {
    id: config.id,
    processor: config.processor,
    memoryMiB: config.memoryMiB,
    disks: config.disks.map((disk) => ({
      name: disk.path,
      role: disk.role,
      size: sizes[disk.role] ?? BigInt(disk.sizeBytes ?? 0),
    })),
    network: config.network.map((device) => device.name),
    assigned,
  };
}
