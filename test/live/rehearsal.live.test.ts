/** What is found out beside the cut: the rehearsal of requests, and what the old system disk got after it was copied. */
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { entriesOnDisk } from '../../src/cli/demo/proof.ts';
import type { Scene } from '../../src/cli/demo/scene.ts';
import { SERVICE_ADDRESS } from '../../src/cli/demo/scene.ts';
import type { RecordingView, RunView, StatusView } from '../../src/daemon/index.ts';
import { liveSuite, within } from '../support/index.ts';
import { dataOnSystemDisk } from './support/scenes.ts';
import { ask, Site, version } from './support/site.ts';

const rehearsal = liveSuite('live/rehearsal');

const REQUESTS = `
        - {path: /version, ignoreText: ['"version":"[^"]*"'], ignore: [content-length]}
        - {path: /entries}
        - {path: /entries/1}
        - {path: /reports/2026-q3.txt}
        - {path: /entries, method: POST, body: rehearsed, expectStatus: 201}`;
const FLAW = "\n        - {path: '/reports/..%2F..%2F..%2Fetc%2Fledger.secret'EXPECT}";

function rehearsed(requests: string, onDifference: string) {
  return (text: string) =>
    text
      .replace('pauseMs: 5000', 'pauseMs: 20000')
      .replace(
        '    active: A',
        `    rehearsal:\n      port: 80\n      timeoutMs: 10000\n      headers: [content-type, content-length]\n      onDifference: ${onDifference}\n      requests:${requests}\n    active: A`,
      );
}

async function withSite(body: (site: Site) => Promise<void>, options = {}): Promise<void> {
  const site = await Site.open(options);
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

rehearsal(
  'the patched standby answers as the active does, on a copy of its data; nothing that was rehearsed is left',
  within(
    () =>
      withSite(
        async (site) => {
          for (let i = 0; i < 5; i++) assert.is((await ask('/entries', `entry ${i}`)).status, 201);
          await site.flagPatch();
          const { id } = await site.api.post<RunView>('/runs', { strategy: 'hold' });
          const run = await site.reached(id, 'probation');
          assert.equal(run.rehearsal?.differences, []);
          assert.is(run.rehearsal?.requests, 6);
          assert.is(run.rehearsal?.same, 6);
          assert.is(await version(), '1.0.1');
          assert.is(
            JSON.parse((await ask('/entries')).body).count,
            5,
            'what was rehearsed is among the data',
          );
          const stored = await entriesOnDisk(site.scene.image('B', 'application'));
          assert.not.ok([...stored.values()].includes('rehearsed'));
          const left = readdirSync(join(site.scene.stateDirectory, 'write-log'));
          assert.not.ok(
            left.some((name) => name.includes('rehearsal')),
            left.join(', '),
          );
        },
        { configure: rehearsed(REQUESTS + FLAW.replace('EXPECT', ', expectStatus: 400'), 'refuse') },
      ),
    90_000,
  ),
);

rehearsal(
  'an answer that differs refuses the run with the request and both answers; the active was not touched',
  within(
    () =>
      withSite(
        async (site) => {
          await site.flagPatch();
          const { id } = await site.api.post<RunView>('/runs', { strategy: 'hold' });
          const run = await site.settled(id);
          assert.is(run.phase, 'undone');
          assert.is(run.error?.code, 'rehearsal-differs');
          assert.equal(
            run.rehearsal?.differences.map(({ request, what, active, standby }) => [
              request,
              what,
              active,
              standby,
            ]),
            [['GET /reports/..%2F..%2F..%2Fetc%2Fledger.secret', 'status', '200', '400']].concat(
              run.rehearsal?.differences.slice(1).map((d) => [d.request, d.what, d.active, d.standby]) ?? [],
            ),
          );
          assert.match(run.reason ?? '', /status is 400, not 200/);
          assert.is(await version(), '1.0.0');
          assert.is((await ask('/entries', 'after')).status, 201);
        },
        { configure: rehearsed(REQUESTS + FLAW.replace('EXPECT', ''), 'refuse') },
      ),
    90_000,
  ),
);

rehearsal(
  'a patch that changes the answer to a recorded request of a client is refused before the cut; nothing secret is kept',
  within(
    () =>
      withSite(
        async (site) => {
          const flaw = '/reports/..%2F..%2F..%2Fetc%2Fledger.secret';
          assert.is((await ask('/entries', 'an entry')).status, 201);
          for (const path of ['/version', '/entries', '/entries/1', '/entries', `${flaw}?who=hidden-query`]) {
            const headers = { authorization: 'Bearer hidden-token', cookie: 'id=hidden-cookie' };
            assert.is((await fetch(`http://${SERVICE_ADDRESS}${path}`, { headers })).status, 200, path);
          }
          const view = await site.api.get<RecordingView>('/services/ledger/recorded');
          assert.equal(
            view.requests.map(({ method, path, count }) => `${method} ${path} ${count}`).sort(),
            ['/entries 2', '/entries/1 1', `${flaw}?who=hidden-query 1`, '/version 1']
              .map((one) => `GET ${one}`)
              .sort(),
          );
          const { services } = await site.api.get<StatusView>('/status');
          assert.is(services[0]?.recorded, 4);
          await site.flagPatch();
          const { id } = await site.api.post<RunView>('/runs', { strategy: 'hold' });
          const run = await site.settled(id);
          assert.is(run.phase, 'undone');
          assert.is(run.error?.code, 'rehearsal-differs');
          assert.ok(run.rehearsal?.differences.every(({ request }) => request === `GET ${flaw}?…`));
          assert.equal(
            run.rehearsal?.recorded?.map(({ request, outcome }) => `${request} ${outcome}`).sort(),
            ['/entries same', '/entries/1 same', `${flaw}?… differs`, '/version same']
              .map((one) => `GET ${one}`)
              .sort(),
          );
          assert.is(await version(), '1.0.0');
          const { stateDirectory, runDirectory } = site.scene;
          const { stdout } = spawnSync('grep', [
            '-rlaE',
            'hidden-(token|cookie|query)',
            stateDirectory,
            runDirectory,
          ]);
          assert.is(stdout.toString(), '', 'written down');
        },
        {
          configure: (text: string) =>
            text
              .replace('pauseMs: 5000', 'pauseMs: 20000')
              .replace(
                '    active: A',
                `    rehearsal:\n      port: 80\n      headers: [content-type]\n      recording: {ignoreText: ['"version":"[^"]*"'], connectionsPerSecond: 100}\n    active: A`,
              ),
        },
      ),
    90_000,
  ),
);

rehearsal(
  'with onDifference warn the run goes on, and the report names what differed',
  within(
    () =>
      withSite(
        async (site) => {
          await site.flagPatch();
          const { id } = await site.api.post<RunView>('/runs', { strategy: 'hold' });
          const run = await site.reached(id, 'probation');
          assert.ok(
            run.notices.some((text) => text.includes('answers otherwise')),
            run.notices.join('; '),
          );
          assert.ok((run.rehearsal?.differences.length ?? 0) > 0);
        },
        { configure: rehearsed(FLAW.replace('EXPECT', ''), 'warn') },
      ),
    90_000,
  ),
);

rehearsal(
  'files of the old system disk written after its cut are named, and carried where the configuration says, there and back',
  within(
    () =>
      withSite(
        async (site) => {
          assert.is((await ask('/entries', 'before')).status, 201);
          await site.flagPatch();
          // Times in the file system are whole seconds: what was written when the scene was built shall be of an earlier one.
          await new Promise((resolve) => setTimeout(resolve, 1_100));
          const { id } = await site.api.post<RunView>('/runs', { strategy: 'hold', prepareOnly: true });
          await site.reached(id, 'ready');
          for (let i = 0; i < 3; i++) assert.is((await ask('/entries', `late ${i}`)).status, 201);
          await site.api.post(`/runs/${id}/cut`);
          const cut = await site.reached(id, 'probation');
          const carried = cut.steps.find(({ name }) => name === 'carry-system-files');
          assert.equal(carried?.facts?.['files'], ['/srv/ledger/ledger.jsonl']);
          assert.is(JSON.parse((await ask('/entries')).body).count, 4, 'entries were lost');
          assert.is((await ask('/entries', 'on the new one')).status, 201);
          await site.api.post(`/runs/${id}/rollback`);
          const back = await site.reached(id, 'rolled-back');
          assert.is(JSON.parse((await ask('/entries')).body).count, 5, 'entries were lost on the way back');
          const changes = back.systemChanges;
          assert.is(changes?.partition, 'A');
          assert.is(changes?.reason, undefined);
          assert.ok(
            changes?.files.some(({ path }) => path === '/srv/ledger/ledger.jsonl'),
            JSON.stringify(changes),
          );
          assert.not.ok(
            changes?.files.some(({ path }) => path === '/srv/ledger/server.mjs'),
            JSON.stringify(changes),
          );
        },
        {
          configure: (text: string) =>
            text
              .replaceAll(/\n {6}- \{role: application.*/g, '')
              .replace('pauseMs: 5000', 'pauseMs: 20000')
              .replace('lateWrites: refuse', 'lateWrites: refuse\n  carry: [/srv/ledger/ledger.jsonl]'),
          arrange: (scene: Scene) => dataOnSystemDisk(scene.image('A', 'system')),
        },
      ),
    90_000,
  ),
);

rehearsal.run();
