/**
 * F1: a process of the product is killed, stopped or made to fail at a named point of a run (docs/points.md), alone or with another one, while clients write.
 * After each: one owner of the address and of the disk, no acknowledged write lost, the service answers, the run says where it is.
 * One site stands many trials, one after the other. A seeded sample in `make test`, all of them with SOAK=1.
 * CASE='hold step.switch-network.begun kill@mux' makes only that one, several of them are separated by `;`.
 */
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { ChannelClient } from '../../src/channel/index.ts';
import { countMissing, entriesOnDisk } from '../../src/cli/demo/proof.ts';
import type { RunView, StatusView } from '../../src/daemon/index.ts';
import type { DiskCommands, MuxCommands } from '../../src/hypervisor/index.ts';
import { eventually, limitMs, liveSuite, seeded, Trials, within } from '../support/index.ts';
import type { Clients } from './support/clients.ts';
import { writingClients } from './support/clients.ts';
import { ask, Site } from './support/site.ts';
import type { Case } from './support/trial-cases.ts';
import { ALL_CASES, caseText, isOfGuest } from './support/trial-cases.ts';

const points = liveSuite('live/points');
const IN_TEST = 10;
const SUPERVISION =
  'supervision: {answerMs: 2000, restarts: 1000, withinMs: 60000, rollbacks: 3, resumes: 3}\n';

points(
  'whatever process dies, stops or fails at whatever point: one owner, nothing lost, the service answers',
  within(
    () =>
      seeded(async (random, seed) => {
        const only = process.env['CASE'];
        const named = only?.split(';').map((text) => text.trim());
        const wanted =
          named === undefined ? [...ALL_CASES] : ALL_CASES.filter((one) => named.includes(caseText(one)));
        assert.ok(wanted.length > 0, `there is no case ${only}`);
        const trials = new Trials(
          'F1: live trials',
          only === undefined ? IN_TEST : wanted.length,
          wanted.length,
        );
        const ends: Record<string, number> = {};
        const site = await Site.open({
          survives: true,
          points: true,
          configure: (text) => `${text}${SUPERVISION}`,
        });
        try {
          await site.up();
          while (trials.more && wanted.length > 0) {
            const one = wanted.splice(random.below(wanted.length), 1)[0]!;
            const phase = await trial(site, one).catch((error) => {
              throw new Error(`${caseText(one)}: ${error.stack}\n${site.output}\n${site.logs}`);
            });
            ends[phase] = (ends[phase] ?? 0) + 1;
            trials.count++;
          }
        } finally {
          await site.close();
        }
        assert.equal(site.leftBehind(), [], 'something was left behind');
        trials.report(seed, JSON.stringify(ends));
      }),
    limitMs(280_000),
  ),
);

/** The phase in which the run settled. */
async function trial(site: Site, one: Case): Promise<string> {
  const startMs = performance.now();
  const clients = writingClients(
    one.strategy === 'overlap' ? { keepAlive: 0, oneShot: 0 } : { keepAlive: 2, oneShot: 1 },
  );
  let phase = 'none';
  try {
    phase = await disturbedRun(site, one);
    await check(site, one, clients);
  } finally {
    await clients.stop();
  }
  if (!isOfGuest(one)) assert.is(clients.failures.length, 0, clients.failures.slice(0, 5).join('; '));
  await endRun(site);
  const { reason } = await site.api.get<RunView>('/runs/last');
  console.error(
    `  ${caseText(one)}: ${phase}${reason === undefined ? '' : ` (${reason.slice(0, 160)})`}, ${clients.acknowledged.length} writes, ${((performance.now() - startMs) / 1000).toFixed(1)} s`,
  );
  return phase;
}

async function disturbedRun(site: Site, one: Case): Promise<string> {
  const control = one.action.split('+').some((part) => part === 'kill');
  const armed = async (work: () => Promise<unknown>) => {
    site.arm(one.point, one.action);
    await work().catch(() => {});
    await eventually(
      `point ${one.point}`,
      async () => {
        if (site.fired(one.point)) return true;
        const run = await site.api.get<RunView>('/runs/last').catch(() => undefined);
        if (run === undefined || run.working) return false;
        if (site.fired(one.point)) return true;
        throw new Error(`the run settled as ${run.phase} (${run.reason}) and never reached ${one.point}`);
      },
      60_000,
    );
    if (control) {
      await eventually('the end of the control process', () => site.daemon.signalCode !== null, 20_000);
      await site.restart();
    }
  };
  const begin = () =>
    site.api.post<RunView>('/runs', { strategy: one.strategy, prepareOnly: true, withoutPatches: true });
  if (one.when === 'prepare') {
    await armed(begin);
    return (await site.settled('last')).phase;
  }
  const { id } = await begin();
  await site.reached(id, 'ready');
  if (one.strategy === 'overlap') await new Promise((resolve) => setTimeout(resolve, 400));
  if (one.when === 'cut') {
    await armed(() => site.api.post(`/runs/${id}/cut`));
    return (await site.settled(id)).phase;
  }
  await site.api.post(`/runs/${id}/cut`);
  await site.reached(id, 'probation');
  await armed(() => site.api.post(`/runs/${id}/rollback`));
  return (await site.settled(id)).phase;
}

async function check(site: Site, one: Case, clients: Clients): Promise<void> {
  const answer = await eventually(
    'the service to answer a write',
    async () => {
      const given = await ask('/entries', `after ${caseText(one)}`).catch(() => undefined);
      return given?.status === 201 ? given : undefined;
    },
    30_000,
  );
  const last: [number, string] = [(JSON.parse(answer.body) as { n: number }).n, `after ${caseText(one)}`];
  const status = await site.api.get<StatusView>('/status');
  const owner = status.services[0]?.active;
  assert.ok(owner === 'A' || owner === 'B', String(owner));
  assert.ok(
    ['undone', 'ready', 'probation', 'rolled-back', undefined].includes(status.run?.phase),
    `the run is ${status.run?.phase}`,
  );
  const mux = await ChannelClient.connect<MuxCommands>(join(site.scene.runDirectory, 'mux.sock'), 'the mux');
  const block = await ChannelClient.connect<DiskCommands>(
    join(site.scene.runDirectory, 'block.sock'),
    'block',
  );
  try {
    const ends = (await mux.execute('flows', { address: '10.77.0.11' })).filter(
      (flow) => !flow.steered && flow.state !== 'closed',
    );
    for (const flow of ends) assert.is(flow.port, `${owner}-net1`, JSON.stringify(flow));
    const disks = await block.execute('disk-status', {});
    const fence = (id: string) => disks.find((disk) => disk.id === `${id}-application`)?.fence;
    assert.is(fence(owner), 'none', 'the owner may write');
    const other = owner === 'A' ? 'B' : 'A';
    const { state, applicationDisk } = status.partitions.find(({ id }) => id === other)!;
    assert.ok(
      state !== 'running' || !applicationDisk || fence(other) !== 'none',
      `${other} could write, too`,
    );
    assert.is((await mux.execute('counters', { address: '10.77.0.11' })).drops['no-path'] ?? 0, 0);
  } finally {
    mux.close();
    block.close();
  }
  const acknowledged = [...clients.acknowledged, last];
  const found = await entriesOnDisk(site.scene.image(owner, 'application'));
  assert.is(countMissing(acknowledged, found), 0, 'acknowledged writes are on the disk of the owner');
}

/** The site as it was, so that it stands another trial. */
async function endRun(site: Site): Promise<void> {
  site.disarm();
  const run = await site.api.get<RunView>('/runs/last');
  if (run.phase === 'ready') await site.api.post(`/runs/${run.id}/cancel`);
  if (run.phase === 'probation') await site.api.post(`/runs/${run.id}/commit`);
  await eventually(
    'the end of the run',
    async () =>
      ['undone', 'committed', 'rolled-back'].includes((await site.api.get<RunView>('/runs/last')).phase),
    60_000,
  );
}

points.run();
