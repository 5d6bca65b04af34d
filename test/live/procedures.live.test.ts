/** Every way of moving the service that makes sense, there and back, under load: not one request may fail. */
import * as assert from 'uvu/assert';
import { countMissing, entriesOnDisk } from '../../src/cli/demo/proof.ts';
import type { Scene } from '../../src/cli/demo/scene.ts';
import type { RunView } from '../../src/daemon/index.ts';
import { liveSuite, run, within } from '../support/index.ts';
import { askExperts } from './support/experts.ts';
import { KeepAlive } from './support/keep-alive.ts';
import { dataOnSystemDisk } from './support/scenes.ts';
import { ask, Site } from './support/site.ts';

const procedures = liveSuite('live/procedures');

const SERVICE = '10.77.0.11';
const SERVICE6 = 'fd00:77::11';

/** A busy machine may take its time: this is about failures, not about the pause. */
function patient(text: string): string {
  return text
    .replace('pauseMs: 5000', 'pauseMs: 20000')
    .replace('quiesceMs: 500', 'quiesceMs: 5000, drainMs: 8000');
}

/** The service has no application disk and no second address. */
function withoutData(text: string): string {
  return patient(text)
    .replaceAll(/\n {6}- \{role: application.*/g, '')
    .replace(/\n {4}second: .*/, '');
}

/** Two uplinks into one network outside, a partition behind each, both families, and a further address. */
function twoUplinks(text: string): string {
  return patient(text)
    .replace(
      /uplinks:\n.*/,
      'uplinks:\n    - {name: co0, kind: tap, mtu: 1500}\n    - {name: co1, kind: tap, mtu: 1500}',
    )
    .replace('probe: {address: 10.77.0.254/24', 'probe: {address: 10.77.0.254/24, address6: "fd00:77::fe/64"')
    .replace(
      '    active: A',
      '    address6: "fd00:77::11/64"\n    second6: "fd00:77::12/64"\n    gateway6: "fd00:77::1"\n    also: [{address: 10.77.0.21/24, second: 10.77.0.22/24}]\n    active: A',
    )
    .replace('mac: "02:00:00:00:00:0b"', 'mac: "02:00:00:00:00:0b", uplink: co1');
}

/** `captures`: what Wireshark's experts are asked about at the end, at least. */
async function withSite(body: (site: Site) => Promise<void>, options = {}, captures = 1): Promise<void> {
  const site = await Site.open(options);
  try {
    await body(await site.up());
    await askExperts(site, captures);
  } catch (error) {
    console.error(site.output);
    throw error;
  } finally {
    await site.close();
    assert.equal(site.leftBehind(), [], 'something was left behind');
  }
}

function steps(run: RunView): string[] {
  return run.steps.map(({ name, figure }) => (figure === '' ? name : `${name} ${figure}`));
}

procedures(
  'drain of a service that writes: every accepted request is complete before the disk goes, there and back',
  within(
    () =>
      withSite(
        async (site) => {
          await site.flagPatch();
          const writers = new KeepAlive([SERVICE], 3, (i) => ({ path: '/entries', body: `entry ${i}` }));
          const readers = new KeepAlive([SERVICE], 3, () => ({ path: '/version' }));
          try {
            const { id } = await site.api.post<RunView>('/runs', { strategy: 'drain', prepareOnly: true });
            await site.reached(id, 'ready');
            // Reads two seconds long: hold would leave it to the old partition, drain waits for it.
            const slow = readers.once(SERVICE, '/slow');
            await new Promise((resolve) => setTimeout(resolve, 300));
            await site.api.post(`/runs/${id}/cut`);
            const cut = await site.reached(id, 'probation');
            assert.match((await slow).body, /line 20 of 20/);
            assert.is(cut.strategy, 'drain');
            assert.is(cut.procedure, 'H6');
            const accepted = cut.steps.find(({ name }) => name === 'complete-accepted-requests');
            assert.ok(Number(accepted?.facts?.['waitedMs']) > 300, JSON.stringify(accepted?.facts));
            assert.is(cut.cut?.draining, 0, 'the old partition had something left to finish');
            await site.api.post(`/runs/${id}/rollback`);
            await site.reached(id, 'rolled-back');
          } finally {
            await writers.stop();
            await readers.stop();
          }
          assert.equal([...writers.failures, ...readers.failures], []);
          assert.equal([...writers.reconnected, ...readers.reconnected], [], 'connections were lost');
          const written = writers.answers.flatMap(({ body }, i): [number, string][] => {
            const { n } = JSON.parse(body) as { n?: number };
            return n === undefined ? [] : [[n, writers.answers[i]!.sent ?? '']];
          });
          assert.ok(written.length > 20, `only ${written.length} entries`);
          assert.is(countMissing(written, await entriesOnDisk(site.scene.image('A', 'application'))), 0);
        },
        { configure: patient },
      ),
    120_000,
  ),
);

procedures(
  'drain without data and second address is chosen by itself: nobody waits, streams end where they began',
  within(
    () =>
      withSite(
        async (site) => {
          await site.flagPatch();
          const readers = new KeepAlive([SERVICE], 4, () => ({ path: '/version' }));
          try {
            const { id } = await site.api.post<RunView>('/runs', { prepareOnly: true });
            await site.reached(id, 'ready');
            const slow = readers.once(SERVICE, '/slow');
            await new Promise((resolve) => setTimeout(resolve, 300));
            await site.api.post(`/runs/${id}/cut`);
            const cut = await site.reached(id, 'probation');
            assert.is(cut.strategy, 'drain');
            assert.match(cut.strategyReason, /no application disk.*no second address/);
            assert.is(cut.cut?.pauseMs, 0);
            assert.is(cut.cut?.packets.held, 0, 'somebody had to wait at the switch');
            assert.match((await slow).body, /line 20 of 20/);
            await site.api.post(`/runs/${id}/commit`);
            const done = await site.reached(id, 'committed');
            assert.ok((done.cut?.packets.steered ?? 0) > 0, 'nothing was steered to the old partition');
            assert.equal(done.cut?.abandoned, []);
          } finally {
            await readers.stop();
          }
          assert.equal(readers.failures, []);
          assert.ok(readers.answers.some(({ body }) => body.includes('1.0.1')));
        },
        { configure: withoutData, arrange: (scene: Scene) => dataOnSystemDisk(scene.image('A', 'system')) },
      ),
    120_000,
  ),
);

procedures(
  'H7: two uplinks, the partitions exchange three addresses of both families, there and back, under load',
  within(async () => {
    await run('ip', ['link', 'add', 'br0', 'type', 'bridge']);
    try {
      await withSite(
        async (site) => {
          await run('ip', ['addr', 'add', '10.77.0.1/24', 'dev', 'br0']);
          await run('ip', ['addr', 'add', 'fd00:77::1/64', 'dev', 'br0', 'nodad']);
          for (const uplink of ['co0', 'co1'])
            await run('ip', ['link', 'set', uplink, 'master', 'br0', 'up']);
          await run('ip', ['link', 'set', 'br0', 'up']);
          await site.flagPatch();
          const hosts = [SERVICE, '10.77.0.21', SERVICE6];
          const clients = new KeepAlive(hosts, 2, (i) =>
            i % 3 === 0 ? { path: '/entries', body: `entry ${i}` } : { path: '/version' },
          );
          try {
            await clients.answered(30);
            const { id } = await site.api.post<RunView>('/runs', {});
            const cut = await site.reached(id, 'probation');
            assert.is(cut.procedure, 'H7', 'the uplinks differ');
            assert.is(cut.strategy, 'hold');
            const taken = steps(cut);
            for (const step of [
              'hold-new-requests 1501',
              'complete-accepted-requests 1502',
              'alter-own-address 1503',
              'request-address 1504, 1601, 1602, 1604',
              'release-held 1505, 1603',
              'verify-service 1506',
            ]) {
              assert.ok(taken.includes(step), `${step} is not among ${taken.join('; ')}`);
            }
            assert.equal(await addresses(site, 'A'), ['10.77.0.12/24', '10.77.0.22/24', 'fd00:77::12/64']);
            assert.equal(await addresses(site, 'B'), ['10.77.0.11/24', '10.77.0.21/24', 'fd00:77::11/64']);
            assert.match((await clients.once(SERVICE6, '/version')).body, /1\.0\.1/);
            const { stdout } = await run('ip', ['neigh', 'show', SERVICE]);
            assert.match(stdout, /02:00:00:00:00:0b/, 'the announcement was not heard');
            await clients.answered(30);
            await site.api.post(`/runs/${id}/rollback`);
            const back = await site.reached(id, 'rolled-back');
            assert.ok(steps(back).filter((step) => step.startsWith('alter-own-address')).length === 2);
            assert.equal(await addresses(site, 'A'), ['10.77.0.11/24', '10.77.0.21/24', 'fd00:77::11/64']);
            assert.match((await clients.once(SERVICE6, '/version')).body, /1\.0\.0/);
            await clients.answered(30);
          } finally {
            await clients.stop();
          }
          assert.equal(clients.failures, []);
          assert.equal([...clients.reconnected], [], 'connections were lost');
        },
        { configure: twoUplinks },
      );
    } finally {
      await run('ip', ['link', 'del', 'br0']).catch(() => {});
    }
  }, 150_000),
);

async function addresses(site: Site, partition: string): Promise<string[]> {
  const view = await site.api.get<{ addresses: string[] }>(`/partitions/${partition}`);
  return [...view.addresses].sort();
}

procedures(
  'a combination that makes no sense is refused before anything is begun, with the reason and what to do',
  within(
    () =>
      withSite(
        async (site) => {
          await site.flagPatch();
          const refused = async (strategy: string, procedure: string) =>
            site.api.post('/runs', { strategy, procedure }).then(
              () => 'it was taken',
              (error: { code?: string; message: string }) => `${error.code}: ${error.message}`,
            );
          assert.match(await refused('hold', 'H8'), /^bad-combination: hold by H8 makes no sense/);
          assert.match(await refused('overlap', 'H7'), /^bad-combination: overlap by H7/);
          const { runs } = await site.api.get<{ runs: RunView[] }>('/runs');
          assert.equal(runs, []);
          const dry = await site.api.post<RunView>('/runs', {
            strategy: 'hold',
            procedure: 'H7',
            dryRun: true,
          });
          const undone = await site.reached(dry.id, 'undone');
          assert.ok((undone.forecastPauseMs ?? 0) > 0, 'no forecast');
          assert.ok(
            undone.planned?.some(({ name, figure }) => name === 'alter-own-address' && figure === '1503'),
            JSON.stringify(undone.planned),
          );
          assert.not.ok(undone.steps.some(({ name }) => name === 'hold-new-requests'));
          assert.is((await ask('/version')).status, 200);
        },
        {},
        0,
      ),
    60_000,
  ),
);

procedures.run();
