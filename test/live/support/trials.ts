/**
 * Trials of F1, many at one site. A run is disturbed while it is prepared, again at its cut and again on its way back, as far as it gets;
 * after each disturbance the whole is looked at: one owner of the address and of the disk, no acknowledged write lost, no request failed
 * unless its own partition was killed, the service answers, the run says where it is.
 */
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { ChannelClient } from '../../../src/channel/index.ts';
import { BUNDLES } from '../../../src/common/index.ts';
import type { RunView, StatusView } from '../../../src/daemon/index.ts';
import type { DiskCommands, MuxCommands } from '../../../src/hypervisor/index.ts';
import { eventually, SOAK, seeded, Trials } from '../../support/index.ts';
import type { Clients } from './clients.ts';
import { readingClients, writingClients } from './clients.ts';
import { allOnDisk } from './entries.ts';
import { ask, ROOT, Site } from './site.ts';
import type { Case, Way, When } from './trial-cases.ts';
import { caseText, Deck, endsControl, isOfGuest, WAYS } from './trial-cases.ts';

/** A process that is silent for so long is dead. What ended a second ago is forgotten: each trial begins without a history. */
const SUPERVISION =
  'supervision: {answerMs: 3000, restarts: 1000, withinMs: 1000, rollbacks: 3, resumes: 3}\n';
const SETTLE_MS = 60_000;
const LOOK_MS = 50;
const NEXT_VERSION = '99.0.0';
const MOST_RETURNS = 4;
/** In `make test` a failure is looked at, not a hundred. */
const MOST_FAILURES = SOAK ? 1_000 : 2;
const CALM = ['undone', 'ready', 'probation', 'rolled-back', 'committed'];
const SERVICE = '10.77.0.11';
/** `overlap` wants the disk to have been quiet for 250 ms. */
const QUIET_MS = 260;

/** Deals cases from `cases` until `inTest` were made, or with SOAK=1 all of them. CASE='…;…' makes only those. */
export async function manyTrials(what: string, inTest: number, cases: readonly Case[]): Promise<void> {
  await seeded(async (random, seed) => {
    const named = process.env['CASE']?.split(';').map((text) => text.trim());
    const deck = new Deck(random, cases, named);
    if (named !== undefined && deck.size === 0) return;
    const trials = new Trials(what, named === undefined ? inTest : deck.size, deck.size);
    const ends: Record<string, number> = {};
    const failures: string[] = [];
    let series: Series | undefined;
    while (trials.more && deck.size > 0 && failures.length < MOST_FAILURES) {
      series ??= await Series.open();
      try {
        await series.run(deck, deck.way()!, (end) => {
          ends[end] = (ends[end] ?? 0) + 1;
          trials.count++;
          return trials.more;
        });
      } catch (error) {
        trials.count++;
        failures.push(`${series.now}: ${(error as Error).message}`);
        console.error(
          `FAILED ${series.now}: ${(error as Error).stack}\n${series.site.output}\n${series.site.logs}`,
        );
        await series.close();
        series = undefined;
      }
    }
    if (series !== undefined) await series.close();
    assert.equal(failures, [], `SEED=${seed}`);
    trials.report(seed, JSON.stringify(ends));
  });
}

class Series {
  readonly site: Site;
  /** The case that is being tried. */
  now = '';
  #clients: Clients | undefined;
  #next = false;
  #runs = 0;

  private constructor(site: Site) {
    this.site = site;
  }

  static async open(): Promise<Series> {
    const site = await Site.open({
      survives: true,
      points: true,
      configure: (text) => text + SUPERVISION,
    });
    return new Series(await site.up());
  }

  async close(): Promise<void> {
    await this.#clients?.stop();
    await this.site.close();
    assert.equal(this.site.leftBehind(), [], 'something was left behind');
  }

  /** One run by `way`, disturbed as often as it goes on; `counted` is told where each disturbance ended and says whether to go on. */
  async run(deck: Deck, way: Way, counted: (end: string) => boolean): Promise<void> {
    const { site } = this;
    const preparing = way === 'overlap' ? undefined : deck.draw('hold', 'prepare');
    let more = true;
    let phase = await this.#disturbed(way, 'prepare', preparing, async () => {
      await site.api.post('/runs', { ...WAYS[way], prepareOnly: true, withoutPatches: true });
    });
    // With its partition killed a run has not far to go: what comes next would not reach its point.
    if (preparing !== undefined) more = counted(phase) && !isOfGuest(preparing);
    if (phase === 'ready' && more) {
      const cutting = deck.draw(way, 'cut');
      await this.#quiet(way);
      phase = await this.#disturbed(way, 'cut', cutting, (id) => site.api.post(`/runs/${id}/cut`));
      if (cutting !== undefined) more = counted(phase) && !isOfGuest(cutting);
    }
    for (let i = 0; phase === 'probation' && more && i < MOST_RETURNS; i++) {
      const returning = deck.draw(way, 'rollback');
      if (returning === undefined) break;
      phase = await this.#disturbed(way, 'rollback', returning, (id) =>
        site.api.post(`/runs/${id}/rollback`),
      );
      more = counted(phase) && !isOfGuest(returning);
    }
    await this.#over();
  }

  async #quiet(way: Way): Promise<void> {
    if (way !== 'overlap') return;
    const block = await this.#block();
    try {
      await eventually('a quiet disk', async () => {
        const { from } = await this.site.api.get<RunView>('/runs/last');
        const [disk] = await block.execute('disk-status', { id: `${from}-application` });
        return disk?.lastWriteMsAgo === undefined || disk.lastWriteMsAgo > QUIET_MS;
      });
    } finally {
      block.close();
    }
  }

  /** Begins something and disturbs it, if there is a case; answers with the phase in which the run settled. */
  async #disturbed(
    way: Way,
    when: When,
    one: Case | undefined,
    begin: (id: string) => Promise<unknown>,
  ): Promise<string> {
    const { site } = this;
    const startMs = performance.now();
    this.now = one === undefined ? `${way}, ${when} undisturbed` : caseText(one);
    const before = await site.api.get<RunView>('/runs/last').catch(() => undefined);
    const clients =
      way === 'overlap'
        ? readingClients({ keepAlive: 2, oneShot: 1 })
        : writingClients({ keepAlive: 2, oneShot: 1 });
    this.#clients = clients;
    // A and B of a case are the old and the new partition.
    const owner = when === 'rollback' ? before!.from : await this.#owner();
    if (one !== undefined) site.arm(one.point, armedAction(one, owner));
    await begin(before?.id ?? '').catch((error: unknown) => {
      if (one === undefined) throw error;
    });
    if (one !== undefined) await this.#fired(one);
    const run = await this.#settled();
    if (one === undefined)
      assert.ok(run.phase === 'ready' || run.phase === 'probation', `${run.phase}: ${run.reason}`);
    await this.#check(clients);
    const failed = one === undefined || !isOfGuest(one) ? clients.failures : [];
    assert.is(failed.length, 0, failed.slice(0, 5).join('; '));
    site.disarm();
    console.error(
      `  ${this.now}: ${run.phase}${run.reason === undefined ? '' : ` (${run.reason.slice(0, 160)})`}, ${clients.acknowledged.length} writes, ${((performance.now() - startMs) / 1000).toFixed(1)} s`,
    );
    return run.phase;
  }

  async #owner(): Promise<string> {
    const { services } = await this.site.api.get<StatusView>('/status');
    return services[0]!.active;
  }

  /** Until the point has acted; a control process that ended by it has a successor then. */
  async #fired(one: Case): Promise<void> {
    const { site } = this;
    let view: RunView | undefined;
    const look = async () => {
      // A control process that was stopped there answers nobody.
      while (!site.fired(one.point) && view?.working !== false) {
        view = await site.api.get<RunView>('/runs/last').catch(() => undefined);
        await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
      }
    };
    void look();
    await eventually(
      `point ${one.point}`,
      () => {
        if (site.fired(one.point)) return true;
        if (view?.working !== false) return false;
        throw new Error(`the run settled as ${view.phase} (${view.reason}) and never reached ${one.point}`);
      },
      SETTLE_MS,
    );
    if (one.action === 'upgrade' || one.action === 'leave') {
      if (one.action === 'leave') await site.api.post('/shutdown', { keepRunning: true });
      else site.daemon.kill('SIGKILL');
      await eventually('the end of the control process', () => hasEnded(site), SETTLE_MS);
      this.#next = !this.#next;
      await site.restart(this.#next ? nextVersion(site) : ROOT);
      const { version } = await site.api.get<StatusView>('/status');
      assert.is(version === NEXT_VERSION, this.#next, `${version} was started`);
    } else if (endsControl(one)) {
      await eventually('the end of the control process', () => hasEnded(site), 20_000);
      await site.restart();
    }
  }

  /** Nobody works on the run, nor does it do anything by itself. */
  async #settled(): Promise<RunView> {
    return eventually(
      'the run to settle',
      async () => {
        const run = await this.site.api.get<RunView>('/runs/last').catch(() => undefined);
        return run !== undefined && !run.working && CALM.includes(run.phase) && run;
      },
      SETTLE_MS,
    );
  }

  async #check(clients: Clients): Promise<void> {
    const { site } = this;
    const text = `after ${this.now} ${++this.#runs}`;
    const answer = await eventually(
      'the service to answer a write',
      async () => {
        const given = await ask('/entries', text).catch(() => undefined);
        return given?.status === 201 ? given : undefined;
      },
      30_000,
    );
    await clients.stop();
    this.#clients = undefined;
    const status = await site.api.get<StatusView>('/status');
    const owner = status.services[0]?.active;
    assert.ok(owner === 'A' || owner === 'B', String(owner));
    const other = owner === 'A' ? 'B' : 'A';
    const [mux, block] = await Promise.all([this.#mux(), this.#block()]);
    try {
      const flows = await mux.execute('flows', { address: SERVICE });
      for (const flow of flows)
        if (!flow.steered && flow.state !== 'closed')
          assert.is(flow.port, `${owner}-net1`, JSON.stringify(flow));
      const disks = await block.execute('disk-status', {});
      const fence = (id: string) => disks.find((disk) => disk.id === `${id}-application`)?.fence;
      assert.is(fence(owner), 'none', 'the owner may write');
      const { state, applicationDisk } = status.partitions.find(({ id }) => id === other)!;
      const mayWrite = state === 'running' && applicationDisk && fence(other) === 'none';
      assert.not(mayWrite, `${other} could write, too`);
      const { drops } = await mux.execute('counters', { address: SERVICE });
      assert.is(drops['no-path'] ?? 0, 0);
    } finally {
      mux.close();
      block.close();
    }
    const last: [number, string] = [(JSON.parse(answer.body) as { n: number }).n, text];
    await allOnDisk([...clients.acknowledged, last], site.scene.image(owner, 'application'));
  }

  #mux(): Promise<ChannelClient<MuxCommands>> {
    return ChannelClient.connect<MuxCommands>(join(this.site.scene.runDirectory, 'mux.sock'), 'the mux');
  }

  #block(): Promise<ChannelClient<DiskCommands>> {
    return ChannelClient.connect<DiskCommands>(join(this.site.scene.runDirectory, 'block.sock'), 'block');
  }

  /** The site as it was, so that it stands another run; the old partition is the next standby. */
  async #over(): Promise<void> {
    const { site } = this;
    site.disarm();
    const run = await site.api.get<RunView>('/runs/last');
    if (run.phase === 'ready') await site.api.post(`/runs/${run.id}/cancel`);
    if (run.phase === 'probation') await site.api.post(`/runs/${run.id}/commit`);
    await eventually(
      'the end of the run',
      async () =>
        ['undone', 'committed', 'rolled-back'].includes((await site.api.get<RunView>('/runs/last')).phase),
      SETTLE_MS,
    );
    const logs = join(site.scene.stateDirectory, 'write-log');
    const left = (existsSync(logs) ? readdirSync(logs) : []).filter((name) => !name.startsWith(run.id));
    assert.equal(left, [], 'write logs of an earlier run');
  }
}

function hasEnded({ daemon }: Site): boolean {
  return daemon.signalCode !== null || daemon.exitCode !== null;
}

/** What the point is told. To be upgraded, the control process is stopped there first; to leave, it goes on a moment later. */
function armedAction({ action }: Case, old: string): string {
  if (action === 'upgrade') return 'stop';
  if (action === 'leave') return 'stop=200';
  if (old === 'A') return action;
  return action.replace(/@([AB])/g, (_all, id) => (id === 'A' ? '@B' : '@A'));
}

/** The product in another folder, as its next version. */
function nextVersion({ scene }: Site): string {
  const root = join(scene.directory, 'next');
  if (existsSync(root)) return root;
  mkdirSync(join(root, 'node_modules'), { recursive: true });
  for (const name of ['src', 'tap-tun', 'block-io', BUNDLES])
    cpSync(join(ROOT, name), join(root, name), { recursive: true });
  for (const name of readdirSync(join(ROOT, 'node_modules'))) {
    if (join('node_modules', name) === BUNDLES) continue;
    const own = name === 'tap-tun' || name === 'block-io';
    symlinkSync(join(own ? root : join(ROOT, 'node_modules'), name), join(root, 'node_modules', name));
  }
  const about = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as object;
  writeFileSync(join(root, 'package.json'), JSON.stringify({ ...about, version: NEXT_VERSION }));
  return root;
}
