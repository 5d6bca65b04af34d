/** kill -9 of the control process while a run is under way: afterwards it is undone or goes on, and says which. */
import * as assert from 'uvu/assert';
import { countMissing, entriesOnDisk } from '../../src/cli/demo/proof.ts';
import type { RunView } from '../../src/daemon/index.ts';
import { eventually, liveSuite, within } from '../support/index.ts';
import { ask, Site, version } from './support/site.ts';

const recover = liveSuite('live/recover');

async function withSite(body: (site: Site) => Promise<void>): Promise<void> {
  const site = await Site.open({ survives: true });
  try {
    await body(await site.up());
  } catch (error) {
    console.error(site.output);
    throw error;
  } finally {
    await site.close();
    assert.equal(site.leftBehind(), [], 'something was left behind');
  }
}

async function post(text: string): Promise<[number, string]> {
  const { body } = await ask('/entries', text);
  return [(JSON.parse(body) as { n: number }).n, text];
}

async function untilStep(site: Site, id: string, step: string): Promise<void> {
  await eventually(
    `step ${step}`,
    async () => (await site.api.get<RunView>(`/runs/${id}`)).steps.some((s) => s.name === step),
    30_000,
  );
}

for (const step of ['copy-disks', 'boot-standby', 'restart-standby']) {
  recover(
    `killed in ${step}: the run is undone, the active never stopped serving, the next run works`,
    within(
      () =>
        withSite(async (site) => {
          await site.flagPatch();
          const acknowledged = [await post('before')];
          const { id } = await site.api.post<RunView>('/runs', { strategy: 'hold' });
          await untilStep(site, id, step);
          const exchanged = ask('/version');
          await site.killControl();
          assert.is((await exchanged).status, 200);
          assert.is((await site.settled(id)).phase, 'undone');
          acknowledged.push(await post('after'));
          assert.is(await version(), '1.0.0');
          const next = await site.api.post<RunView>('/runs', { strategy: 'hold' });
          await site.reached(next.id, 'probation');
          assert.is(await version(), '1.0.1');
          const found = await entriesOnDisk(site.scene.image('B', 'application'));
          assert.is(countMissing(acknowledged, found), 0);
        }),
      90_000,
    ),
  );
}

recover(
  'killed on probation: the new active serves on, and the rollback keeps what was written before and after',
  within(
    () =>
      withSite(async (site) => {
        await site.flagPatch();
        const acknowledged = [await post('before the cut')];
        const { id } = await site.api.post<RunView>('/runs', { strategy: 'hold' });
        await site.reached(id, 'probation');
        acknowledged.push(await post('before the kill'));
        await site.killControl();
        assert.is((await site.settled(id)).phase, 'probation');
        assert.is(await version(), '1.0.1');
        acknowledged.push(await post('after the kill'));
        await site.api.post(`/runs/${id}/rollback`);
        await site.reached(id, 'rolled-back');
        assert.is(await version(), '1.0.0');
        acknowledged.push(await post('after the rollback'));
        const found = await entriesOnDisk(site.scene.image('A', 'application'));
        assert.is(countMissing(acknowledged, found), 0);
      }),
    90_000,
  ),
);

recover.run();
