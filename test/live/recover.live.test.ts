/** kill -9 of the control process while a run is under way: afterwards it is undone or goes on, and says which. */
import http from 'node:http';
import * as assert from 'uvu/assert';
import { countMissing, entriesOnDisk } from '../../src/cli/demo/proof.ts';
import { SERVICE_ADDRESS } from '../../src/cli/demo/scene.ts';
import { SeededRandom } from '../../src/common/index.ts';
import type { RunView } from '../../src/daemon/index.ts';
import { eventually, liveSuite, within } from '../support/index.ts';
import { allOnDisk } from './support/entries.ts';
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

for (const step of process.env['SOAK'] === '1'
  ? ['copy-disks', 'boot-standby', 'restart-standby']
  : ['boot-standby']) {
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

/** Steps of the cut at whose beginning the control process is killed. */
const CUT_POINTS: readonly (readonly ['hold' | 'overlap' | 'drain', string, 'H7'?])[] = [
  ['hold', 'load-application'],
  ['hold', 'hold-new-requests'],
  ['hold', 'complete-accepted-requests'],
  ['hold', 'take-connections'],
  ['hold', 'cut-application-disk'],
  ['hold', 'start-application'],
  ['hold', 'check-standby-service'],
  ['hold', 'switch-network'],
  ['hold', 'put-connections'],
  ['hold', 'release-held'],
  ['overlap', 'cut-application-disk'],
  ['overlap', 'start-application'],
  ['overlap', 'request-address'],
  ['overlap', 'switch-network'],
  ['overlap', 'alter-own-address'],
  ['overlap', 'announce-address'],
  ['drain', 'hold-connections'],
  ['drain', 'switch-network'],
  ['hold', 'alter-own-address', 'H7'],
  ['hold', 'request-address', 'H7'],
  ['hold', 'switch-network', 'H7'],
  ['hold', 'put-connections', 'H7'],
];

/** A seeded few of them in every run, all with SOAK=1. */
function chosenPoints(): (typeof CUT_POINTS)[number][] {
  if (process.env['SOAK'] === '1') return [...CUT_POINTS];
  const seed = process.env['SEED'] === undefined ? Date.now() >>> 0 : Number(process.env['SEED']);
  const random = new SeededRandom(seed);
  console.error(`points of the cut chosen with SEED=${seed}`);
  const left = [...CUT_POINTS];
  return Array.from({ length: 3 }, () => left.splice(random.below(left.length), 1)[0]!);
}

/** One keep-alive client that writes when told to, and never retries. */
class Keeper {
  readonly #agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  readonly acknowledged: [number, string][] = [];
  readonly failures: string[] = [];

  async write(text: string): Promise<void> {
    const body = await new Promise<string>((resolve) => {
      const options = {
        host: SERVICE_ADDRESS,
        port: 80,
        path: '/entries',
        method: 'POST',
        agent: this.#agent,
        timeout: 8_000,
      };
      const request = http.request(options, (response) => {
        let all = '';
        response.setEncoding('utf8');
        response.on('data', (part: string) => {
          all += part;
        });
        response.on('end', () =>
          resolve(response.statusCode === 201 ? all : `status ${response.statusCode} ${all}`),
        );
      });
      request.on('timeout', () => request.destroy(new Error('no answer')));
      request.on('error', (error) => resolve(`error ${error.message}`));
      request.end(text);
    });
    if (body.startsWith('{')) this.acknowledged.push([(JSON.parse(body) as { n: number }).n, text]);
    else this.failures.push(body);
  }

  close(): void {
    this.#agent.destroy();
  }
}

for (const [strategy, step, procedure] of chosenPoints()) {
  recover(
    `${[strategy, procedure].filter((word) => word !== undefined).join(' by ')}, killed in ${step}: one owner, nothing lost, keep-alive clients stay connected`,
    within(
      () =>
        withSite(async (site) => {
          await site.flagPatch();
          const keeper = new Keeper();
          try {
            await keeper.write('before');
            const begun = { strategy, prepareOnly: true, ...(procedure === undefined ? {} : { procedure }) };
            const { id } = await site.api.post<RunView>('/runs', begun);
            await site.reached(id, 'ready');
            await new Promise((resolve) => setTimeout(resolve, strategy === 'overlap' ? 400 : 0));
            await killAt(site, id, step);
            const run = await site.settled(id);
            assert.ok(run.phase === 'undone' || run.phase === 'probation', `${run.phase}: ${run.reason}`);
            const owner = run.phase === 'undone' ? 'A' : 'B';
            assert.is(await version(), owner === 'A' ? '1.0.0' : '1.0.1');
            await keeper.write('after');
            assert.equal(keeper.failures, []);
            assert.is(keeper.acknowledged.length, 2);
            await allOnDisk(keeper.acknowledged, site.scene.image(owner, 'application'));
            if (owner === 'B') {
              await site.api.post(`/runs/${id}/rollback`);
              await site.reached(id, 'rolled-back');
              const back = await entriesOnDisk(site.scene.image('A', 'application'));
              assert.is(countMissing(keeper.acknowledged, back), 0);
            }
            console.error(`${strategy} ${step}: ${run.phase}`);
          } finally {
            keeper.close();
          }
        }),
      90_000,
    ),
  );
}

/** Starts the cut and kills the control process as soon as it says that it has begun `step`. */
async function killAt(site: Site, id: string, step: string): Promise<void> {
  let seen: () => void = () => {};
  const begun = new Promise<void>((resolve) => {
    seen = resolve;
  });
  const events = await site.api.events((event) => {
    const data = event.data as { step?: { name: string } };
    if (event.type === 'step' && data.step?.name === step) seen();
  });
  await site.api.post(`/runs/${id}/cut`);
  await begun;
  events.close();
  await site.killControl();
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
