/**
 * F5: rollbacks under writers, one after the other at one site, by each way to move: every acknowledged entry is on the old disk, the numbers are
 * without a gap, no request failed. 20 in `make test`, 2 000 with SOAK=1.
 */
import * as assert from 'uvu/assert';
import { countMissing, entriesOnDisk } from '../../src/cli/demo/proof.ts';
import type { RunView, StatusView } from '../../src/daemon/index.ts';
import { limitMs, liveSuite, seeded, Trials, within } from '../support/index.ts';
import { writingClients } from './support/clients.ts';
import { Site } from './support/site.ts';

const rollbacks = liveSuite('live/rollbacks');

const WAYS = [
  { strategy: 'hold', procedure: 'H6' },
  { strategy: 'hold', procedure: 'H7' },
  { strategy: 'drain', procedure: 'H6' },
] as const;

rollbacks(
  'F5: rollbacks under writers keep every acknowledged entry, numbers without a gap',
  within(
    () =>
      seeded(async (_random, seed) => {
        const trials = new Trials('F5: rollbacks', 20, 2_000);
        const acknowledged: [number, string][] = [];
        const site = await Site.open();
        try {
          await site.up();
          while (trials.more) {
            const way = WAYS[trials.count % WAYS.length]!;
            const clients = writingClients({ keepAlive: 2, oneShot: 1 }, 5);
            const { id } = await site.api.post<RunView>('/runs', { ...way, withoutPatches: true });
            await site.reached(id, 'probation');
            await site.api.post(`/runs/${id}/rollback`);
            await site.reached(id, 'rolled-back');
            await clients.stop();
            const what = `${way.strategy} by ${way.procedure}`;
            assert.equal(clients.failures, [], what);
            assert.ok(clients.acknowledged.length > 0, what);
            acknowledged.push(...clients.acknowledged);
            const { services } = await site.api.get<StatusView>('/status');
            assert.is(services[0]?.active, 'A');
            const found = await entriesOnDisk(site.scene.image('A', 'application'));
            assert.is(countMissing(acknowledged, found), 0, what);
            const numbers = [...found.keys()].sort((a, b) => a - b);
            assert.equal(
              numbers,
              numbers.map((_n, i) => i + 1),
              `${what}: a gap between the numbers`,
            );
            trials.count++;
          }
          trials.report(seed, `${acknowledged.length} acknowledged entries`);
        } catch (error) {
          console.error(`${site.output}\n${site.logs}`);
          throw error;
        } finally {
          await site.close();
        }
        assert.equal(site.leftBehind(), [], 'something was left behind');
      }),
    limitMs(150_000),
  ),
);

rollbacks.run();
