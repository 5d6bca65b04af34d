/**
 * F4: a patch whose program crashes again and again, hangs, answers 500, becomes slow, or answers falsely: found before the cut, or rolled back
 * within 30 s, by the product alone. Nothing that clients were promised since the cut is lost on the way back.
 */
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { countMissing, entriesOnDisk } from '../../src/cli/demo/proof.ts';
import type { RunView, StatusView } from '../../src/daemon/index.ts';
import { eventually, liveSuite, within } from '../support/index.ts';
import type { Clients } from './support/clients.ts';
import { writingClients } from './support/clients.ts';
import { ask, ROOT, Site, version } from './support/site.ts';

const bad = liveSuite('live/bad-patches');
const ROLLED_BACK_WITHIN_MS = 30_000;

/** What is put beside the program's first lines; `BORN` is when it started, it is well for 1.5 s. */
const FAULTS = {
  'crash-loops': 'setTimeout(() => process.exit(7), 1500);',
  hangs: 'setTimeout(() => { for (;;); }, 1500);',
  'answers-500':
    "const make = http.createServer; http.createServer = (handler) => make((req, res) => { if (Date.now() - BORN < 1500) return handler(req, res); res.writeHead(500); res.end('broken'); });",
  'becomes-slow':
    'const make = http.createServer; http.createServer = (handler) => make((req, res) => { if (Date.now() - BORN < 1500) return handler(req, res); setTimeout(() => handler(req, res), 2500); });',
} as const;

const CORRUPTS =
  "const make = http.createServer; http.createServer = (handler) => make((req, res) => { const end = res.end.bind(res); res.end = (text) => end(String(text).replace('genuine', 'altered')); handler(req, res); });";

function configure(text: string): string {
  return text
    .replace('stabilityMs: 5000', 'stabilityMs: 1000')
    .replace('timeoutMs: 2000', 'timeoutMs: 1000')
    .replace('partitions:', '    rehearsal: {port: 80, requests: [{path: /entries/1}]}\npartitions:')
    .concat('supervision: {answerMs: 3000, restarts: 3, withinMs: 60000, rollbacks: 3, resumes: 3}\n');
}

/** One site for all of them; after a failure the next gets its own. */
let shared: Site | undefined;

async function close(): Promise<void> {
  const site = shared;
  shared = undefined;
  if (site === undefined) return;
  await site.close();
  assert.equal(site.leftBehind(), [], 'something was left behind');
}

async function withSite(body: (site: Site) => Promise<void>): Promise<void> {
  shared ??= await Site.open({ survives: true, configure });
  try {
    await body(await shared.up());
  } catch (error) {
    console.error(`${shared.output}\n${shared.logs}`);
    await close();
    throw error;
  }
}

bad.after(close);

/** Registers and flags a patch that adds `line` to the program. */
async function flag(site: Site, name: string, line: string): Promise<void> {
  const source = readFileSync(join(ROOT, 'examples/ledger/server.mjs'), 'utf8').split('\n');
  const at = source.findIndex((text) => text.startsWith('const VERSION'));
  const diff = [
    '--- a/srv/ledger/server.mjs',
    '+++ b/srv/ledger/server.mjs',
    `@@ -${at + 1},1 +${at + 1},3 @@`,
    ` ${source[at]}`,
    '+const BORN = Date.now();',
    `+${line}`,
    '',
  ].join('\n');
  writeFileSync(join(site.scene.patchSource, `${name}.diff`), diff);
  const sha256 = createHash('sha256').update(diff).digest('hex');
  const description = {
    file: `${name}.diff`,
    name,
    kind: 'diff',
    type: 'correction',
    software: 'ledger',
    versions: '*',
    sha256,
  };
  writeFileSync(join(site.scene.patchSource, `${name}.json`), JSON.stringify(description));
  await site.api.post('/patches/scan');
  await site.api.post(`/patches/${name}.diff/flag`);
}

async function firstEntry(): Promise<[number, string]> {
  const { body } = await ask('/entries', 'genuine');
  return [(JSON.parse(body) as { n: number }).n, 'genuine'];
}

async function nothingLost(site: Site, clients: Clients): Promise<void> {
  const status = await site.api.get<StatusView>('/status');
  assert.is(status.services[0]?.active, 'A');
  const found = await entriesOnDisk(site.scene.image('A', 'application'));
  assert.is(countMissing(clients.acknowledged, found), 0, `${clients.acknowledged.length} were acknowledged`);
  const numbers = [...found.keys()].sort((a, b) => a - b);
  assert.equal(
    numbers,
    Array.from({ length: numbers.length }, (_one, i) => i + 1),
    'no gap between the numbers',
  );
}

for (const [name, line] of Object.entries(FAULTS)) {
  bad(
    `F4: a patched program that ${name} is rolled back within 30 s, with everything written since the cut`,
    within(
      () =>
        withSite(async (site) => {
          await firstEntry();
          await flag(site, name, line);
          const clients = writingClients({ keepAlive: 1, oneShot: 1 });
          try {
            const { id } = await site.api.post<RunView>('/runs', { strategy: 'hold' });
            const cut = await eventually(
              'the cut',
              async () => {
                const run = await site.api.get<RunView>(`/runs/${id}`);
                return run.cut === undefined ? run.phase === 'undone' && run : run;
              },
              60_000,
            );
            assert.ok(cut.cut !== undefined, `${cut.phase}: ${cut.reason}`);
            const cutMs = performance.now();
            await eventually(
              'the rollback',
              async () => (await site.api.get<RunView>(`/runs/${id}`)).phase === 'rolled-back',
              60_000,
            );
            const tookMs = performance.now() - cutMs;
            console.error(`${name}: rolled back ${(tookMs / 1000).toFixed(1)} s after the cut`);
            assert.ok(tookMs < ROLLED_BACK_WITHIN_MS, `${tookMs} ms`);
            assert.is(await version(), '1.0.0');
          } finally {
            await clients.stop();
          }
          assert.ok(clients.acknowledged.length > 0);
          await nothingLost(site, clients);
        }),
      120_000,
    ),
  );
}

bad(
  'F4: a patched program that answers falsely is found by the rehearsal, before any client is moved',
  within(
    () =>
      withSite(async (site) => {
        await firstEntry();
        await flag(site, 'corrupts', CORRUPTS);
        const clients = writingClients({ keepAlive: 1, oneShot: 1 });
        const { id } = await site.api.post<RunView>('/runs', { strategy: 'hold' });
        const run = await site.settled(id);
        await clients.stop();
        assert.is(run.phase, 'undone', run.reason);
        assert.is(run.cut, undefined);
        assert.match(run.reason ?? '', /differ|altered|rehears/i);
        assert.equal(clients.failures, []);
        await nothingLost(site, clients);
      }),
    90_000,
  ),
);

bad.run();
