import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VirtualClock } from '../../src/common/index.ts';
import type { RecordedRequest } from '../../src/hypervisor/index.ts';
import type { RehearsalSpec, RunEnvironment, RunRecord } from '../../src/patch/index.ts';
import { Recorded } from '../../src/patch/index.ts';

const test = suite('patch/rehearsal/recorded');

const SPEC: RehearsalSpec = {
  requests: [],
  headers: ['content-type'],
  onDifference: 'refuse',
  port: 80,
  timeoutMs: 1000,
  recording: {
    methods: [],
    paths: [],
    headers: [],
    requests: 10,
    maxAgeMs: 1000,
    connectionsPerSecond: 1,
    ignore: [],
    ignoreText: ['[0-9.]+'],
  },
};
const RECORD = { address: '10.77.0.11/24', from: 'A', to: 'B', procedure: 'H6' } as RunRecord;

type Program = (path: string, method: string, turn: number) => [status: number, body: string] | undefined;

/** A mux with recorded requests, an active and a standby that answer as told. `asked` tells who was asked what. */
function rehearsed(paths: readonly string[], active: Program, standby: Program) {
  const asked: string[] = [];
  let atStandby = false;
  let sent = 0;
  let turns = 0;
  const requests = paths.map((text): RecordedRequest => {
    const [method = '', path = ''] = text.split(' ');
    return { method, path, headers: {}, count: 1, ageMs: 0 };
  });
  const mux = {
    execute: async (name: string, args: { port?: string | null }) => {
      if (name === 'requests-recorded') return { requests };
      if (name === 'private-path') atStandby = args.port !== null;
      if (name === 'ports') return [{ name: 'b0', transmitted: sent }];
      return [];
    },
  };
  const probe = {
    ...{ port: 'probe', addresses: [] },
    privately: (work: () => Promise<unknown>) => work(),
    exchange: async (_address: string, { method, path }: { method: string; path: string }) => {
      asked.push(`${atStandby ? 'B' : 'A'} ${method} ${path}`);
      sent++;
      const answer = (atStandby ? standby : active)(path, method, turns);
      if (answer === undefined) return { detail: 'no whole answer', localPort: 1 };
      const [status, body] = answer;
      return { answer: { status, headers: {}, body: Buffer.from(body) }, detail: '', localPort: 1 };
    },
  };
  const hypervisor = { partitionConfig: () => ({ network: [{ name: 'b0' }] }) };
  const env = { mux, probe, hypervisor, clock: new VirtualClock() } as unknown as RunEnvironment;
  return {
    asked,
    async run() {
      const recorded = await Recorded.take(env, RECORD, SPEC);
      await recorded.askActive('before', () => {});
      turns++;
      await recorded.askActive('after', () => {});
      const differences = await recorded.askStandby(() => {});
      return {
        differences: differences.map(({ request, what }) => `${request}: ${what}`),
        outcomes: recorded.outcomes().map(({ request, outcome }) => `${request} ${outcome}`),
      };
    },
  };
}

test('what the active answers the same before the copy and after it, the standby has to answer as well', async () => {
  const { run } = rehearsed(
    ['GET /same', 'GET /other?secret=1', 'GET /gone', 'GET /version'],
    (path) => [200, path === '/version' ? 'version 1.0' : path],
    (path) => {
      if (path === '/gone') return undefined;
      return [200, path === '/version' ? 'version 1.1' : path === '/same' ? path : 'otherwise'];
    },
  );
  const { differences, outcomes } = await run();
  assert.equal(differences, ['GET /other?…: body', 'GET /gone: answer']);
  assert.equal(outcomes, [
    'GET /same same',
    'GET /other?… differs',
    'GET /gone differs',
    'GET /version same',
  ]);
});

test('in what the active itself answers otherwise the standby is not held to it, in the rest it is', async () => {
  const clock: Program = (_path, _method, turn) => [200, 'abc'[turn]!];
  const { run } = rehearsed(['GET /clock', 'GET /broken'], clock, (path) => [
    path === '/broken' ? 500 : 200,
    'x',
  ]);
  const { differences, outcomes } = await run();
  assert.equal(differences, ['GET /broken: status']);
  assert.equal(outcomes, ['GET /clock changes', 'GET /broken differs']);
});

test('what may write goes to the standby alone and must not fail; what the active does not answer is not asked of it', async () => {
  const { run, asked } = rehearsed(
    ['POST /write', 'POST /fails', 'GET /hangs'],
    () => undefined,
    (path) => [path === '/fails' ? 500 : 404, ''],
  );
  const { differences, outcomes } = await run();
  assert.equal(differences, ['POST /fails: status']);
  assert.equal(outcomes, ['POST /write same', 'POST /fails differs', 'GET /hangs unanswered']);
  assert.equal(asked, ['A GET /hangs', 'B POST /write', 'B POST /fails']);
});

test.run();
