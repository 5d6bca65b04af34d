/** `patching.copy: mirror`: the standby's disks are second halves, split at the cut; the next run copies what changed since. */
import * as assert from 'uvu/assert';
import { countMissing, entriesOnDisk } from '../../src/cli/demo/proof.ts';
import type { RunView } from '../../src/daemon/index.ts';
import { liveSuite, within } from '../support/index.ts';
import { allOnDisk } from './support/entries.ts';
import { ask, Site, version } from './support/site.ts';

const mirror = liveSuite('live/mirror');

/** Numbered entries by keep-alive clients until told to stop. */
class Load {
  readonly acknowledged: [number, string][] = [];
  readonly failures: string[] = [];
  #stopped = false;
  readonly #tasks: readonly Promise<void>[];

  constructor(count: number) {
    this.#tasks = Array.from({ length: count }, (_none, writer) => this.#write(writer));
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#tasks);
  }

  async #write(writer: number): Promise<void> {
    for (let i = 0; !this.#stopped && this.failures.length < 20; i++) {
      const text = `m${writer}-${i}`;
      try {
        const answer = await ask('/entries', text);
        if (answer.status === 201)
          this.acknowledged.push([(JSON.parse(answer.body) as { n: number }).n, text]);
        else this.failures.push(`${answer.status} ${answer.body}`);
      } catch (error) {
        this.failures.push(String(error));
      }
    }
  }
}

/** Bytes that the step `copy-disks` of a run had to copy. */
function copied(run: RunView): number {
  const step = run.steps.find(({ name }) => name === 'copy-disks');
  assert.ok(step, `no step copy-disks among ${run.steps.map(({ name }) => name).join(', ')}`);
  return Number((step.facts as { bytes?: string } | undefined)?.bytes);
}

mirror(
  'a changeover by mirror and its rollback under load lose nothing; the second run copies only what changed',
  within(async () => {
    const site = await Site.open({
      configure: (text) => text.replace('  strategy: auto', '  strategy: auto\n  copy: mirror'),
    });
    let load: Load | undefined;
    try {
      await site.up();
      await site.flagPatch();
      load = new Load(3);
      const first = await site.api.post<RunView>('/runs', { strategy: 'hold' });
      const firstRun = await site.reached(first.id, 'probation');
      assert.is(await version(), '1.0.1');
      const onNew = [...load.acknowledged];
      assert.ok(onNew.length > 0);
      await allOnDisk(onNew, site.scene.image('B', 'application'));
      await site.api.post(`/runs/${first.id}/rollback`);
      await site.reached(first.id, 'rolled-back');
      assert.is(await version(), '1.0.0');
      await site.flagPatch();
      const second = await site.api.post<RunView>('/runs', { strategy: 'hold' });
      const secondRun = await site.reached(second.id, 'probation');
      assert.is(await version(), '1.0.1');
      const [all, changes] = [copied(firstRun), copied(secondRun)];
      console.log(`mirror: ${all} bytes copied by the first run, ${changes} by the second`);
      assert.ok(changes < all / 2, `${changes} of ${all} bytes were copied again`);
      await site.api.post(`/runs/${second.id}/commit`);
      await site.reached(second.id, 'committed');
      await load.stop();
      assert.equal(load.failures, []);
      assert.ok(load.acknowledged.length > onNew.length);
      const served = site.scene.image('B', 'application');
      assert.is(countMissing(load.acknowledged, await entriesOnDisk(served)), 0);
    } catch (error) {
      console.error(site.output);
      throw error;
    } finally {
      await load?.stop();
      await site.close();
      assert.equal(site.leftBehind(), [], 'something was left behind');
    }
  }, 120_000),
);

mirror.run();
