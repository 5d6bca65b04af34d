import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  groupName,
  limitProcess,
  RUNTIME_MEMORY_MIB,
} from '../../../src/hypervisor/guest-kind/process/limits.ts';
import type { PartitionConfig } from '../../../src/hypervisor/index.ts';
import { inScratch, within } from '../../support/index.ts';

const test = suite('hypervisor/guest-kind/process/limits');

const config = (capped: boolean): PartitionConfig => ({
  id: 'A',
  kind: 'process',
  processor: { cpu: 1, sharePercent: 50, capped },
  memoryMiB: 128,
  disks: [],
  network: [],
});
const MEMORY = String((128 + RUNTIME_MEMORY_MIB) * 1024 * 1024);

test(
  'control groups version 2: weight, cap, processor, memory, then the process',
  within(() =>
    inScratch((root) => {
      mkdirSync(join(root, 'changeover'));
      for (const folder of [root, join(root, 'changeover')]) {
        writeFileSync(join(folder, 'cgroup.controllers'), 'cpuset cpu io memory pids\n');
      }
      assert.equal(limitProcess(4711, config(false), undefined, root).notes, []);
      const group = join(root, 'changeover/A');
      const read = (name: string) => readFileSync(join(group, name), 'utf8');
      assert.is(read('cpu.weight'), '50');
      assert.is(read('cpu.max'), 'max 100000');
      assert.is(read('cpuset.cpus'), '1');
      assert.is(read('memory.max'), MEMORY);
      assert.is(read('cgroup.procs'), '4711');
      assert.is(readFileSync(join(root, 'cgroup.subtree_control'), 'utf8'), '+cpu +memory +cpuset');
      limitProcess(4711, config(true), undefined, root);
      assert.is(read('cpu.max'), '50000 100000');
    }),
  ),
);

test(
  'control groups version 1: one per controller',
  within(() =>
    inScratch((root) => {
      for (const controller of ['cpu', 'memory', 'cpuset']) mkdirSync(join(root, controller));
      writeFileSync(join(root, 'cpuset/cpuset.cpus'), '0-1\n');
      writeFileSync(join(root, 'cpuset/cpuset.mems'), '0\n');
      assert.equal(limitProcess(4711, config(true), undefined, root).notes, []);
      const read = (path: string) => readFileSync(join(root, path), 'utf8');
      assert.is(read('cpu/changeover/A/cpu.shares'), '512');
      assert.is(read('cpu/changeover/A/cpu.cfs_quota_us'), '50000');
      assert.is(read('memory/changeover/A/memory.limit_in_bytes'), MEMORY);
      assert.is(read('cpuset/changeover/A/cpuset.cpus'), '1');
      assert.is(read('cpuset/changeover/A/cgroup.procs'), '4711');
      limitProcess(4711, config(false), undefined, root);
      assert.is(read('cpu/changeover/A/cpu.cfs_quota_us'), '-1');
    }),
  ),
);

test(
  'where no control group can be used every limit is a note, and nothing is left out silently',
  within(() =>
    inScratch((root) => {
      const { notes, remove } = limitProcess(4711, config(false), undefined, root);
      assert.is(notes.length, 3);
      for (const what of ['the processor share', 'the memory limit', 'the processor']) {
        assert.ok(
          notes.some((note) => note.startsWith(`${what} of partition A is not enforced`)),
          what,
        );
      }
      remove();
      assert.is(existsSync(join(root, 'changeover')), false);
    }),
  ),
);

test('partitions of the same name of two daemons are in groups of their own', () => {
  const one = groupName('A', '/run/one/agents/A.sock');
  assert.match(one, /^A-[0-9a-f]{8}$/);
  assert.is(groupName('A', '/run/one/agents/A.sock'), one, 'found again by the next control process');
  assert.is.not(groupName('A', '/run/two/agents/A.sock'), one);
});

test.run();
