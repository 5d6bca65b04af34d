/** C4: from the order to a partition that is ready, against a Node that unshare starts in namespaces of its own. */
import type { Bench, Stage, Subject } from './framework/index.ts';
import { NODE, onStage } from './framework/index.ts';
import { Pair } from './pair.ts';

const UNSHARE = 'unshare … node -e 0';

export const bootSubject: Subject = {
  ids: ['C4'],
  async run(bench) {
    if (bench.wants('C4')) await onStage((stage) => boot(bench, stage));
  },
};

async function boot(bench: Bench, stage: Stage): Promise<void> {
  const pair = await Pair.start(bench, stage, 'boot');
  await bench.race({
    id: 'C4',
    rounds: bench.quick ? 2 : 5,
    figures: [
      {
        what: 'order to ready: disks, port, process, boot',
        unit: 'milliseconds',
        better: 'less',
        limit: 300,
      },
      { what: 'boot as the guest counts it', unit: 'milliseconds', better: 'less' },
    ],
    ours: {
      name: 'partition start',
      async sample() {
        const { startMs, bootMs } = await pair.bootStandby();
        return [startMs, bootMs];
      },
    },
    peers: [
      {
        name: UNSHARE,
        async sample() {
          const startedMs = performance.now();
          await stage.run(['unshare', '--net', '--pid', '--fork', '--mount', ...NODE, '-e', '0']);
          const ms = performance.now() - startedMs;
          return [ms, ms];
        },
      },
    ],
  });
}
