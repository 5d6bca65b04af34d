import { PassThrough } from 'node:stream';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ChannelClient } from '../../src/channel/index.ts';
import { CodedError } from '../../src/common/index.ts';
import type {
  DiskCommands,
  DiskEvents,
  MuxCommands,
  MuxEvents,
  PartitionConfig,
} from '../../src/hypervisor/index.ts';
import { Hypervisor } from '../../src/hypervisor/index.ts';
import { inScratch, within } from '../support/index.ts';

const test = suite('hypervisor/hypervisor');

const A: PartitionConfig = {
  id: 'A',
  kind: 'process',
  processor: { cpu: 0, sharePercent: 50 },
  memoryMiB: 64,
  disks: [{ role: 'system', path: '/nowhere/system.img', sizeBytes: 1_000_000 }],
  network: [],
};

/** With channels at whose other end nobody is: for what is decided before anybody is asked. */
function withHypervisor(body: (hypervisor: Hypervisor) => Promise<void> | void) {
  return within(() =>
    inScratch(async (runDirectory) => {
      const mux = new ChannelClient<MuxCommands, MuxEvents>(new PassThrough(), 'mux');
      const disks = new ChannelClient<DiskCommands, DiskEvents>(new PassThrough(), 'block');
      const hypervisor = new Hypervisor({ runDirectory, mux, disks });
      await body(hypervisor);
      await hypervisor.close();
      mux.close();
      disks.close();
    }),
  );
}

function codeOf(body: () => unknown): string {
  try {
    body();
  } catch (error) {
    assert.instance(error, CodedError);
    assert.ok((error as CodedError).remedy);
    return (error as CodedError).code;
  }
  return 'none';
}

test(
  'a partition is defined once, with what it needs',
  withHypervisor((hypervisor) => {
    const bad: [string, Partial<PartitionConfig>][] = [
      ['an id with a slash', { id: '../x' }],
      ['an id that is too long', { id: 'x'.repeat(33) }],
      ['no share', { processor: { cpu: 0, sharePercent: 0 } }],
      ['more than a processor', { processor: { cpu: 0, sharePercent: 101 } }],
      ['no system disk', { disks: [] }],
      ['two system disks', { disks: [...A.disks, ...A.disks] }],
    ];
    for (const [what, more] of bad) {
      assert.is(
        codeOf(() => hypervisor.definePartition({ ...A, ...more })),
        'invalid-partition',
        what,
      );
    }
    hypervisor.definePartition(A);
    assert.is(
      codeOf(() => hypervisor.definePartition(A)),
      'defined-twice',
    );
    assert.is(hypervisor.partitionConfig('A'), A);
    assert.equal(
      hypervisor.resources.rows().map(({ id, assigned, disks }) => [id, assigned, disks[0]?.size]),
      [['A', false, 1_000_000n]],
    );
  }),
);

test(
  'what is not there, or does not run, is named with a remedy',
  withHypervisor(async (hypervisor) => {
    hypervisor.definePartition(A);
    assert.is(
      codeOf(() => hypervisor.partitionConfig('B')),
      'unknown-partition',
    );
    assert.is(
      codeOf(() => hypervisor.control('A')),
      'not-running',
    );
    let code = '';
    await hypervisor.exportApplicationDisk('A', true).catch((error) => {
      code = error.code;
    });
    assert.is(code, 'no-disk');
    assert.equal(await hypervisor.partitionStatus('A'), {
      id: 'A',
      state: 'defined',
      addresses: [],
      isolated: true,
      applicationDisk: false,
      lastOutput: [],
      notes: [],
    });
    assert.is(await hypervisor.adoptPartition('A'), false);
  }),
);

test.run();
