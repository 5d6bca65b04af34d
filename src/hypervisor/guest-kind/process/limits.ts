/**
 * CPU and memory limits of a process by the kernel's control groups, version 2 or 1. Where neither can be used, the
 * partition runs without the limit and a note says so.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf } from '../../../common/index.ts';
import type { PartitionConfig } from '../../partition/index.ts';
import { GuestKindError } from '../guest-kind.ts';

const ROOT = '/sys/fs/cgroup';
const PERIOD_US = 100_000;
/** All partitions together against the other processes of the host, of which each has 1024 (version 1) or 100 (version 2). */
const ALL_SHARES = 4096;
const ALL_WEIGHT = 400;
/** What the runtime itself takes beside the memory that the partition is given: code, WebAssembly, page cache of its files. */
export const RUNTIME_MEMORY_MIB = 160;

export interface Limits {
  /** One sentence for each limit that is not enforced. */
  readonly notes: readonly string[];
  remove(): void;
}

/**
 * Name of a partition's control groups. Two daemons of one host may each have a partition A: in one group they would share its memory
 * limit, and the kernel would kill one for what the other takes.
 */
export function groupName(partition: string, agentSocket: string): string {
  return `${partition}-${createHash('sha256').update(agentSocket).digest('hex').slice(0, 8)}`;
}

/** Puts process `pid` under the limits of `config`. Never throws: what cannot be done becomes a note. */
export function limitProcess(
  pid: number,
  config: PartitionConfig,
  name: string = config.id,
  root: string = ROOT,
): Limits {
  const notes: string[] = [];
  const made: string[] = [];
  const attempt = (what: string, body: () => void) => {
    try {
      body();
    } catch (error) {
      notes.push(`${what} of partition ${config.id} is not enforced: ${messageOf(error)}`);
    }
  };
  const { sharePercent, capped = false } = config.processor;
  const quotaUs = sharePercent * (PERIOD_US / 100);
  const memoryBytes = (config.memoryMiB + RUNTIME_MEMORY_MIB) * 1024 * 1024;
  if (existsSync(join(root, 'cgroup.controllers'))) {
    const group = join(root, 'changeover', name);
    attempt('the processor share', () => {
      makeGroup(group, made);
      enable(root, ['cpu', 'memory', 'cpuset']);
      enable(join(root, 'changeover'), ['cpu', 'memory', 'cpuset']);
      writeFileSync(join(root, 'changeover', 'cpu.weight'), String(ALL_WEIGHT));
      writeFileSync(join(group, 'cpu.weight'), String(sharePercent));
      writeFileSync(join(group, 'cpu.max'), `${capped ? quotaUs : 'max'} ${PERIOD_US}`);
    });
    attempt('the processor', () => writeFileSync(join(group, 'cpuset.cpus'), String(config.processor.cpu)));
    attempt('the memory limit', () => writeFileSync(join(group, 'memory.max'), String(memoryBytes)));
    attempt('every limit', () => writeFileSync(join(group, 'cgroup.procs'), String(pid)));
  } else {
    attempt('the processor share', () => {
      const group = versionOne(root, 'cpu', name, made);
      writeFileSync(join(root, 'cpu', 'changeover', 'cpu.shares'), String(ALL_SHARES));
      // 1024 is what a group has by default, and what all of a CPU is worth here.
      writeFileSync(join(group, 'cpu.shares'), String(Math.max(2, Math.round(sharePercent * 10.24))));
      writeFileSync(join(group, 'cpu.cfs_period_us'), String(PERIOD_US));
      writeFileSync(join(group, 'cpu.cfs_quota_us'), String(capped ? quotaUs : -1));
      writeFileSync(join(group, 'cgroup.procs'), String(pid));
    });
    attempt('the memory limit', () => {
      const group = versionOne(root, 'memory', name, made);
      writeFileSync(join(group, 'memory.limit_in_bytes'), String(memoryBytes));
      writeFileSync(join(group, 'cgroup.procs'), String(pid));
    });
    attempt('the processor', () => {
      const group = versionOne(root, 'cpuset', name, made);
      for (const folder of [join(root, 'cpuset', 'changeover'), group]) {
        writeFileSync(
          join(folder, 'cpuset.mems'),
          readFileSync(join(root, 'cpuset', 'cpuset.mems'), 'utf8').trim(),
        );
      }
      writeFileSync(
        join(root, 'cpuset', 'changeover', 'cpuset.cpus'),
        readFileSync(join(root, 'cpuset', 'cpuset.cpus'), 'utf8').trim(),
      );
      writeFileSync(join(group, 'cpuset.cpus'), String(config.processor.cpu));
      writeFileSync(join(group, 'cgroup.procs'), String(pid));
    });
  }
  return { notes, remove: () => removeGroups(made) };
}

/** The groups of a partition that an earlier control process made. */
export function limitsOf(name: string, root: string = ROOT): Limits {
  const groups = [
    join(root, 'changeover', name),
    ...['cpu', 'memory', 'cpuset'].map((c) => join(root, c, 'changeover', name)),
  ];
  return { notes: [], remove: () => removeGroups(groups.filter((group) => existsSync(group))) };
}

function versionOne(root: string, controller: string, id: string, made: string[]): string {
  const base = join(root, controller);
  if (!existsSync(base)) {
    throw new GuestKindError('no-cgroup', `the kernel offers no ${controller} control group at ${base}`);
  }
  const group = join(base, 'changeover', id);
  makeGroup(group, made);
  return group;
}

function makeGroup(group: string, made: string[]): void {
  mkdirSync(group, { recursive: true });
  made.push(group);
}

function enable(group: string, controllers: readonly string[]): void {
  const offered = readFileSync(join(group, 'cgroup.controllers'), 'utf8').trim().split(' ');
  const wanted = controllers.filter((name) => offered.includes(name));
  if (wanted.length > 0)
    writeFileSync(join(group, 'cgroup.subtree_control'), wanted.map((name) => `+${name}`).join(' '));
}

function removeGroups(groups: readonly string[]): void {
  for (const group of groups) {
    try {
      rmdirSync(group);
      const parent = join(group, '..');
      if (readdirSync(parent, { withFileTypes: true }).every((entry) => !entry.isDirectory()))
        rmdirSync(parent);
    } catch {
      // Still in use, or gone: the next start takes it over.
    }
  }
}
