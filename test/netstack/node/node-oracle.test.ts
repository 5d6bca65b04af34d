/** node:net on the kernel as oracle: the same scenario on it and on our stack; every emitter must tell the same, in the same order. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { systemClock, systemRandom } from '../../../src/common/index.ts';
import { cidr, installNetOverride, MemoryLink, macAddress, Stack } from '../../../src/netstack/index.ts';
import { within } from '../../support/index.ts';
import { Env, type Scenario } from './support/scenario.ts';
import { CLOSING } from './support/scenarios-closing.ts';
import { DATA } from './support/scenarios-data.ts';
import { HTTP } from './support/scenarios-http.ts';
import { OPENING } from './support/scenarios-opening.ts';

const oracle = suite('netstack/node/node-oracle');
const OURS = '10.0.0.2';
const KERNELS = '127.0.0.1';
const ALL: readonly Scenario[] = [...OPENING, ...DATA, ...CLOSING, ...HTTP];

/** Known differences, each with its reason; they must still be there. */
const DIFFERENT: Readonly<Record<string, string>> = {
  'names after destroy': 'ours stay readable; node:net keeps only those that were asked for in time',
  'listening is an event of a later tick': 'with a host, node:net looks it up first; ours listens at once',
  'a lookup with two addresses, the first of which refuses':
    'node:net tells of both addresses and tries both; ours takes the first with a route',
  'resetAndDestroy while connecting':
    'the reset arrives in the batch of the handshake, and such a connection was never accepted',
};

const [link, otherEnd] = MemoryLink.pair(systemClock);
const stack = new Stack({
  clock: systemClock,
  random: systemRandom,
  link,
  mac: macAddress('02:00:00:00:00:02'),
  addresses: [cidr(`${OURS}/24`)],
});
/** On our stack: only while the scenario runs. */
async function playOurs(scenario: Scenario): Promise<Record<string, string[]>> {
  const { uninstall } = installNetOverride(stack);
  try {
    return await play(scenario, OURS);
  } finally {
    uninstall();
  }
}

oracle.after(() => {
  stack.tcp.close(true);
  link.close();
  otherEnd.close();
});

async function play([, run]: Scenario, host: string): Promise<Record<string, string[]>> {
  const env = new Env(host);
  let failed: unknown;
  try {
    await run(env);
  } catch (error) {
    failed = error;
  }
  const logs = await env.end();
  if (failed !== undefined)
    throw Object.assign(new Error(`on ${host}: ${String(failed)} ${JSON.stringify(logs)}`), {
      cause: failed,
    });
  return logs;
}

for (const scenario of ALL) {
  oracle(
    scenario[0],
    within(async () => {
      for (let tries = 1; ; tries++) {
        const kernel = await play(scenario, KERNELS);
        const ours = await playOurs(scenario);
        const same = JSON.stringify(ours) === JSON.stringify(kernel);
        // Some pause for milliseconds between two steps; a busy host may join what they keep apart.
        if (same === (DIFFERENT[scenario[0]] !== undefined) && tries < 3) continue;
        if (DIFFERENT[scenario[0]] === undefined) assert.equal(ours, kernel);
        else assert.not.equal(ours, kernel);
        break;
      }
    }, 30_000),
  );
}

oracle('there are at least sixty', () => {
  assert.ok(ALL.length >= 60);
  assert.is(new Set(ALL.map(([name]) => name)).size, ALL.length);
});

oracle.run();
