/** C3: from the order to the patched service, its disks 2 GiB without holes, beside a plain copy of the same disks. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { SERVICE_ADDRESS } from '../src/cli/demo/scene.ts';
import type { Bench, Stage, Subject } from './framework/index.ts';
import { onStage, StageError } from './framework/index.ts';
import { Pair } from './pair.ts';

const PATCHED = /"version": ?"1\.0\.1"/;

export const patchedSubject: Subject = {
  ids: ['C3'],
  async run(bench) {
    if (bench.wants('C3')) await onStage((stage) => patched(bench, stage));
  },
};

async function patched(bench: Bench, stage: Stage): Promise<void> {
  const pair = await Pair.start(bench, stage, 'patched', {
    systemMiB: 1024,
    applicationMiB: 1024,
    filledMiB: 880,
  });
  const { scene } = pair;
  await bench.race({
    id: 'C3',
    // Another one would say the same, and take as long as several other rows.
    rounds: 1,
    figures: [
      {
        what: 'order to patched service, 2 GiB of disks',
        unit: 'milliseconds',
        better: 'less',
        limit: 20_000,
      },
    ],
    ours: {
      name: 'hold',
      async sample() {
        const { ms } = await pair.patch('hold');
        const answer = await (await fetch(`http://${SERVICE_ADDRESS}/version`)).text();
        if (!PATCHED.test(answer)) throw new StageError('failed', `the service answers ${answer}`);
        return [ms];
      },
    },
    peers: [
      {
        name: 'cp of both disks',
        async sample() {
          const copy = join(bench.scratch, 'copied.img');
          const startedMs = performance.now();
          for (const role of ['system', 'application'] as const) {
            await stage.run(['cp', '--sparse=always', scene.image('A', role), copy]);
            await stage.run(['sync', copy]);
          }
          const ms = performance.now() - startedMs;
          rmSync(copy);
          return [ms];
        },
      },
    ],
  });
}
