import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { ResourceRow } from '../../../src/hypervisor/index.ts';
import { covers, ResourceError, ResourceTable } from '../../../src/hypervisor/index.ts';

const test = suite('hypervisor/resource-table');

const disk = (name: string, size = 1n) => ({ name, size });

/** The content of Fig 5. */
const FIG_5: readonly ResourceRow[] = [
  {
    id: '1',
    processor: { cpu: 1, sharePercent: 100 },
    memoryMiB: 128,
    disks: [disk('DISK1'), disk('DISK2')],
    network: ['NET1'],
    assigned: true,
  },
  {
    id: '2',
    processor: { cpu: 2, sharePercent: 100 },
    memoryMiB: 128,
    disks: [disk('DISK3'), disk('DISK4')],
    network: ['NET2'],
    assigned: false,
  },
  {
    id: '3',
    processor: { cpu: 3, sharePercent: 50 },
    memoryMiB: 64,
    disks: [disk('DISK5')],
    network: [],
    assigned: false,
  },
  {
    id: '4',
    processor: { cpu: 3, sharePercent: 50 },
    memoryMiB: 64,
    disks: [disk('DISK6')],
    network: ['NET3'],
    assigned: false,
  },
];

function table(rows: readonly ResourceRow[] = FIG_5): ResourceTable {
  const made = new ResourceTable();
  for (const row of rows) made.set(row);
  return made;
}

const row = (id: string) => FIG_5.find((candidate) => candidate.id === id)!;

test('Fig 5: 2 stands in for 1, and nobody else covers it', () => {
  assert.equal(table().findStandby('1'), { found: true, id: '2' });
  assert.equal(covers(row('2'), row('1')), { covers: true, reasons: [] });
  assert.equal(covers(row('4'), row('1')).reasons, [
    '4 has 50 % of a processor, 1 has 100 %',
    '4 has 64 MiB of memory, 1 has 128 MiB',
    '4 has no disk left of 1 bytes or more for DISK1 of 1',
  ]);
});

test('Fig 5: for 3 the smallest that covers is 4, not 2', () => {
  assert.equal(table().findStandby('3'), { found: true, id: '4' });
});

test('Fig 5: 3 does not stand in for 4, it has no network device', () => {
  assert.equal(covers(row('3'), row('4')).reasons, ['3 has 0 network device(s), 4 has 1']);
});

test('an assigned partition never stands in, and the answer says so', () => {
  const assigned = table();
  assigned.setAssigned('2', true);
  const choice = assigned.findStandby('1');
  assert.is(choice.found, false);
  if (!choice.found) assert.ok(choice.reasons.includes('2 is assigned'));
});

test('a partition alone has no standby, with a reason', () => {
  assert.equal(table([row('1')]).findStandby('1'), {
    found: false,
    reasons: ['there is no partition beside 1'],
  });
});

test('disks are matched by role and size, each taken once', () => {
  const wants = {
    ...row('1'),
    disks: [
      { name: 's', role: 'system' as const, size: 10n },
      { name: 'a', role: 'application' as const, size: 20n },
    ],
  };
  const has = (system: bigint, application: bigint) => ({
    ...row('2'),
    disks: [
      { name: 'x', role: 'application' as const, size: application },
      { name: 'y', role: 'system' as const, size: system },
    ],
  });
  assert.ok(covers(has(10n, 20n), wants).covers);
  assert.ok(covers(has(11n, 21n), wants).covers);
  assert.not(covers(has(20n, 10n), wants).covers);
  assert.not(covers({ ...has(10n, 20n), disks: [] }, wants).covers);
  const two = { ...row('1'), disks: [disk('a', 5n), disk('b', 10n)] };
  assert.ok(covers({ ...row('2'), disks: [disk('c', 10n), disk('d', 5n)] }, two).covers);
  assert.not(covers({ ...row('2'), disks: [disk('c', 10n), disk('d', 4n)] }, two).covers);
});

test('of several equal ones the choice is stable', () => {
  const twins = table([row('1'), { ...row('2'), id: '9' }, { ...row('2'), id: '5' }]);
  assert.equal(twins.findStandby('1'), { found: true, id: '5' });
});

test('an unknown partition is named with those that are known', () => {
  assert.throws(
    () => table().findStandby('7'),
    (error: unknown) =>
      error instanceof ResourceError &&
      error.code === 'unknown-partition' &&
      error.remedy === 'known are: 1, 2, 3, 4',
  );
});

test.run();
