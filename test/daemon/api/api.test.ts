import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ApiClient } from '../../../src/cli/api-client.ts';
import type { CliError } from '../../../src/cli/cli-error.ts';
import { collectGarbage, silentLog } from '../../../src/common/index.ts';
import { ApiError, ApiServer, EventHub } from '../../../src/daemon/api/index.ts';
import { CONFIGURATION_TEMPLATE, parseConfiguration } from '../../../src/daemon/configuration/index.ts';
import type { DaemonSurface, RunView, StatusView } from '../../../src/daemon/control/index.ts';
import { daemonRoutes } from '../../../src/daemon/control/index.ts';
import type { RunRequest } from '../../../src/patch/index.ts';
import { PatchError } from '../../../src/patch/index.ts';
import { eventually, within } from '../../support/index.ts';

interface Context {
  directory: string;
  server: ApiServer;
  events: EventHub;
  api: ApiClient;
  /** What the routes called, in order. */
  calls: unknown[][];
}

const api = suite<Context>('daemon/api');

/** The daemon at the boundary: remembers calls, answers with their arguments. */
function recorded(calls: unknown[][]): DaemonSurface {
  const tell =
    (name: string, result: (...args: unknown[]) => unknown = (...args) => ({ called: name, args })) =>
    (...args: unknown[]) => {
      calls.push([name, ...args]);
      return result(...args) as never;
    };
  const unknownPartition = (id: unknown) => {
    if (id !== 'A') {
      throw new ApiError('unknown-partition', `there is no partition ${id}`, { remedy: 'known are: A' });
    }
    return { id };
  };
  return {
    configuration: parseConfiguration(CONFIGURATION_TEMPLATE, '/c.yaml'),
    manager: {
      list: tell('list', () => []),
      show: tell('show'),
      flag: tell('flag'),
      unflag: tell('unflag'),
      add: tell('add'),
      scan: tell('scan'),
    },
    runs: {
      begin: tell('begin', (asked) => {
        if ((asked as RunRequest).service === 'none')
          throw new PatchError('nothing-flagged', 'no patch is flagged', { remedy: 'flag one' });
        return Promise.resolve({ id: 'r1', working: true } as RunView);
      }),
      cut: tell('cut'),
      rollback: tell('rollback'),
      commit: tell('commit'),
      cancel: tell('cancel'),
      view: tell('view'),
      views: tell('views', () => []),
      resolve: (id) => (id === 'current' ? 'r9' : id),
    },
    partitions: {
      views: tell('partition-views', () => Promise.resolve([])),
      view: tell('partition', unknownPartition),
      start: tell('start', unknownPartition),
      stop: tell('stop', unknownPartition),
      figures: tell('figures', unknownPartition),
      console: tell('console', () => ({ text: 'hello\n', end: 6 })),
    },
    recordings: {
      view: tell('recorded', (service) => Promise.resolve({ service, recording: false, requests: [] })),
    },
    network: {
      view: tell('network', () => Promise.resolve({ ports: [], counters: {} })),
      limit: tell('limit', () => Promise.resolve({ name: 'A-net0' })),
      metrics: tell('metrics', () => Promise.resolve('changeover_mux_flows 3\n')),
    },
    captures: {
      running: tell('captures', () => []),
      start: tell('capture-start', () => Promise.resolve({ file: '/x' })),
      history: tell('history', () => Promise.resolve({ file: '/x', packets: 2, bytes: 300 })),
      stop: tell('capture-stop', () => Promise.resolve([])),
    },
    status: tell('status', () => Promise.resolve({ pid: 1, big: 2n } as unknown as StatusView)),
    services: tell('services', () => Promise.resolve([])),
    flows: tell('flows', () => Promise.resolve([])),
    requestShutdown: tell('shutdown'),
  };
}

api.before.each(async (context) => {
  context.directory = mkdtempSync(join(tmpdir(), 'changeover-api-'));
  context.events = new EventHub(() => 5);
  context.calls = [];
  context.server = new ApiServer({
    routes: daemonRoutes(recorded(context.calls)),
    events: context.events,
    version: '1.2.3',
    log: silentLog,
  });
  await context.server.listen(join(context.directory, 'api.sock'));
  context.api = new ApiClient(context.directory);
});

api.after.each(async (context) => {
  await context.server.close();
  rmSync(context.directory, { recursive: true, force: true });
});

async function refusal(what: Promise<unknown>): Promise<CliError> {
  try {
    await what;
  } catch (error) {
    return error as CliError;
  }
  throw new Error('it was not refused');
}

function raw(directory: string, method: string, path: string, body: string): Promise<[number, string]> {
  return new Promise((resolve, reject) => {
    const call = request({ socketPath: join(directory, 'api.sock'), method, path }, (response) => {
      let text = '';
      response.on('data', (part) => {
        text += part;
      });
      response.on('end', () => resolve([response.statusCode ?? 0, text]));
    });
    call.on('error', reject);
    call.end(body);
  });
}

api(
  'the socket is for its owner only',
  within(({ directory }) => {
    assert.is(statSync(join(directory, 'api.sock')).mode & 0o777, 0o600);
  }),
);

api(
  'limits of a port are checked and passed on, none are null; metrics are plain text',
  within(async ({ calls, directory }) => {
    const put = (body: string) => raw(directory, 'PUT', '/network/ports/A-net0/limits', body);
    assert.is((await put('{"send":{"bytesPerSecond":1000}}'))[0], 200);
    assert.is((await put('{}'))[0], 200);
    assert.is((await put('{"send":{"bytesPerSecond":0}}'))[0], 400);
    assert.is((await put('{"speed":1}'))[0], 400);
    assert.equal(calls, [
      ['limit', 'A-net0', { send: { bytesPerSecond: 1000 } }],
      ['limit', 'A-net0', null],
    ]);
    assert.equal(await raw(directory, 'GET', '/metrics', ''), [200, 'changeover_mux_flows 3\n']);
  }),
);

const ROUTES: readonly ['get' | 'post', string, object | undefined, unknown[]][] = [
  ['get', '/status', undefined, ['status']],
  ['get', '/services', undefined, ['services']],
  ['get', '/services/ledger/flows', undefined, ['flows', 'ledger']],
  ['get', '/partitions', undefined, ['partition-views']],
  ['get', '/partitions/A', undefined, ['partition', 'A']],
  ['post', '/partitions/A/start', undefined, ['start', 'A']],
  ['post', '/partitions/A/stop', undefined, ['stop', 'A', false]],
  ['post', '/partitions/A/stop', { force: true }, ['stop', 'A', true]],
  ['get', '/partitions/A/console?bytes=10&from=3', undefined, ['console', 'A', 10, 3]],
  ['get', '/partitions/A/console', undefined, ['console', 'A', 65_536, undefined]],
  ['get', '/patches', undefined, ['list']],
  ['post', '/patches', { description: '/p/x.json' }, ['add', '/p/x.json']],
  ['post', '/patches/scan', undefined, ['scan']],
  ['get', '/patches/a%2Bb.diff', undefined, ['show', 'a+b.diff']],
  ['post', '/patches/x.diff/flag', undefined, ['flag', 'x.diff']],
  ['post', '/patches/x.diff/unflag', undefined, ['unflag', 'x.diff']],
  ['get', '/runs', undefined, ['views']],
  [
    'post',
    '/runs',
    { strategy: 'hold', prepareOnly: true },
    ['begin', { strategy: 'hold', prepareOnly: true }],
  ],
  ['get', '/runs/current', undefined, ['view', 'r9']],
  ['post', '/runs/r1/cut', undefined, ['cut', 'r1']],
  ['post', '/runs/r1/rollback', undefined, ['rollback', 'r1']],
  ['post', '/runs/r1/commit', undefined, ['commit', 'r1']],
  ['post', '/runs/r1/cancel', undefined, ['cancel', 'r1']],
  ['get', '/network', undefined, ['network']],
  ['get', '/captures', undefined, ['captures']],
  ['post', '/captures', { file: '/x', ports: ['a'] }, ['capture-start', { file: '/x', ports: ['a'] }]],
  ['post', '/captures/history', { file: '/x', lastMs: 5 }, ['history', { file: '/x', lastMs: 5 }]],
  ['post', '/captures/stop', undefined, ['capture-stop', undefined]],
];

for (const [method, path, body, expected] of ROUTES) {
  api(
    `${method.toUpperCase()} ${path} ${body === undefined ? '' : JSON.stringify(body)}`,
    within(async ({ api: client, calls }) => {
      if (method === 'get') await client.get(path);
      else await client.post(path, body);
      assert.equal(calls[0], expected);
    }),
  );
}

api(
  'the configuration is given out; bigint becomes a decimal string',
  within(async ({ api: client }) => {
    assert.is((await client.get<{ runDirectory: string }>('/config')).runDirectory, '/run/changeover');
    assert.equal(await client.get('/status'), { pid: 1, big: '2' });
  }),
);

api(
  'a shutdown is answered before it happens',
  within(async ({ api: client, calls }) => {
    assert.equal(await client.post('/shutdown', { keepRunning: true }), {});
    await eventually('the shutdown', () => calls.length > 0);
    assert.equal(calls[0], ['shutdown', true]);
  }),
);

api(
  'a refusal carries code, sentence and remedy, with a status of its own',
  within(async ({ api: client, directory }) => {
    const error = await refusal(client.post('/runs', { service: 'none' }));
    assert.is(error.code, 'nothing-flagged');
    assert.is(error.message, 'no patch is flagged');
    assert.is(error.remedy, 'flag one');
    assert.is((await raw(directory, 'POST', '/runs', '{"service":"none"}'))[0], 409);
    assert.is((await raw(directory, 'GET', '/partitions/Q', ''))[0], 404);
  }),
);

api(
  'a body that is no JSON, has unknown keys or wrong values is 400 and calls nothing',
  within(async ({ directory, calls, api: client }) => {
    for (const body of ['{', '[]', '{"strategy":"fast"}', '{"colour":1}', '{"prepareOnly":"yes"}']) {
      const [status, text] = await raw(directory, 'POST', '/runs', body);
      assert.is(status, 400, body);
      assert.is(JSON.parse(text).error.code, 'bad-request', body);
    }
    const error = await refusal(client.post('/runs', { colour: 1 }));
    assert.match(error.message, /colour/);
    assert.match(error.remedy ?? '', /allowed are service, strategy, procedure, prepareOnly/);
    assert.match((await refusal(client.post('/patches', { description: 'x' }))).message, /absolute/);
    assert.match((await refusal(client.get('/partitions/A/console?bytes=-1'))).message, /bytes is "-1"/);
    assert.equal(calls, []);
  }),
);

api(
  'an unknown path is 404, a wrong method 405 with what is allowed',
  within(async ({ directory, api: client }) => {
    assert.is((await refusal(client.get('/nonsense'))).code, 'not-found');
    assert.is((await refusal(client.get('/partitions/%E0%A4%A'))).code, 'not-found');
    assert.is((await raw(directory, 'DELETE', '/status', ''))[0], 405);
    assert.match((await refusal(client.get('/runs/r1/cut'))).remedy ?? '', /POST/);
  }),
);

api(
  'the OpenAPI document has every route and names its parameters',
  within(async ({ api: client }) => {
    const document = await client.get<{
      openapi: string;
      info: { version: string };
      paths: Record<string, Record<string, { operationId: string; parameters?: { name: string }[] }>>;
    }>('/openapi.json');
    assert.is(document.openapi, '3.1.0');
    assert.is(document.info.version, '1.2.3');
    const ids = Object.values(document.paths).flatMap((path) =>
      Object.values(path).map((o) => o.operationId),
    );
    assert.is(new Set(ids).size, ids.length, 'operation ids are unique');
    assert.equal(document.paths['/runs/{id}/cut']?.['post']?.parameters?.[0]?.name, 'id');
    for (const [, path] of ROUTES) {
      const known = Object.keys(document.paths).some((pattern) =>
        new RegExp(`^${pattern.replace(/\{[^}]+\}/g, '[^/]+')}$`).test(path.split('?')[0] ?? ''),
      );
      assert.ok(known, path);
    }
  }),
);

api(
  'events arrive as they happen; a listener that comes back gets what it missed',
  within(async ({ api: client, events }) => {
    events.publish('before', { n: 1 });
    const seen: string[] = [];
    const stream = await client.events((event) => seen.push(`${event.id} ${event.type}`));
    events.publish('step', { text: 'a\nb', big: 3n });
    await eventually('the event', () => seen.includes('2 step'));
    assert.equal(seen, ['2 step']);
    const again: unknown[] = [];
    const replay = await client.events((event) => again.push([event.id, event.atMs, event.data]), 0);
    await eventually('the replay', () => again.length === 2);
    assert.equal(again, [
      [1, 5, { n: 1 }],
      [2, 5, { text: 'a\nb', big: '3' }],
    ]);
    stream.close();
    replay.close();
    await stream.ended;
  }),
);

api(
  'requests leave nothing behind in memory',
  within(async ({ api: client, calls }) => {
    const used = async (requests: number) => {
      for (let i = 0; i < requests; i++) await client.get('/status');
      calls.length = 0;
      collectGarbage('all');
      return process.memoryUsage().heapUsed;
    };
    const before = await used(200);
    const after = await used(500);
    assert.ok(after - before < 512 * 1024, `${after - before} bytes after 500 requests`);
  }, 30_000),
);

api(
  'event streams end with the server',
  within(async ({ api: client, server, directory }) => {
    const stream = await client.events(() => {});
    await server.close();
    await stream.ended;
    assert.throws(() => statSync(join(directory, 'api.sock')), /ENOENT/);
  }),
);

api(
  'a served socket is not taken over, a left-over one is',
  within(async ({ directory, server }) => {
    const other = () => new ApiServer({ routes: [], events: new EventHub(), version: '0', log: silentLog });
    const error = await refusal(other().listen(join(directory, 'api.sock')));
    assert.is(error.code, 'in-use');
    await server.close();
    writeFileSync(join(directory, 'api.sock'), '');
    const next = other();
    await next.listen(join(directory, 'api.sock'));
    await next.close();
  }),
);

api(
  'without a daemon the client says how to start one',
  within(async () => {
    const error = await refusal(new ApiClient('/nonexistent').get('/status'));
    assert.is(error.code, 'no-daemon');
    assert.match(error.remedy ?? '', /changeover up/);
  }),
);

api.run();
