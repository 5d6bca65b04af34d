/** One simulated story: a run with faults, what follows, and what must hold at the end. */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { codeOf, messageOf, SeededRandom } from '../../../src/common/index.ts';
import type { RunPhase, RunRequest } from '../../../src/patch/index.ts';
import { FINAL_PHASES, PatchManager } from '../../../src/patch/index.ts';
import type { Flaw } from './disks.ts';
import type { PartitionId } from './parts.ts';
import { ADDRESS, PARTITIONS } from './parts.ts';
import type { Fate } from './world.ts';
import { World } from './world.ts';

const CLIENTS = 6;
const LIMIT_MS = 120_000;
/** Longer than the watch of the probation needs to find out and to begin a rollback. */
const SETTLED_MS = 5_000;
/** A process takes so long to be started again, at least: what its predecessor had sent has arrived by then. */
const RESTART_MS = 50;
const BUSY: readonly RunPhase[] = ['preparing', 'cutting', 'rolling-back', 'undoing'];

export interface Fault {
  /** Number of the command, of all that are given from the beginning on. */
  readonly call: number;
  readonly fate:
    | Exclude<Fate, 'done'>
    | 'new-guest-dies'
    | 'old-guest-dies'
    | 'block-restarts'
    | 'mux-restarts';
}

/** How the run moves the service. */
export const WAYS = {
  hold: { strategy: 'hold', procedure: 'H6' },
  'hold-H7': { strategy: 'hold', procedure: 'H7' },
  drain: { strategy: 'drain', procedure: 'H6' },
  'drain-H7': { strategy: 'drain', procedure: 'H7' },
  overlap: { strategy: 'overlap', procedure: 'H8' },
} as const satisfies Record<string, RunRequest>;
export type Way = keyof typeof WAYS;

export interface Story {
  readonly seed: number;
  readonly way: Way;
  /** Clients read only: nothing is in the way of both partitions running. */
  readonly reading: boolean;
  readonly faults: readonly Fault[];
  readonly ending: 'commit' | 'rollback';
  /** The world breaks a promise. */
  readonly flaw?: Flaw;
}

export interface Outcome {
  readonly calls: number;
  /** Phases of the run in order, `|` where a control process died. */
  readonly phases: string;
  readonly commands: readonly string[];
  readonly failures: number;
}

/** Throws an assertion that names the story when something does not hold. */
export async function simulate(story: Story, directory: string): Promise<Outcome> {
  const world = new World(new SeededRandom(story.seed), CLIENTS, story.reading);
  world.breaks(story.flaw);
  const timers = takeOverTimers(world);
  const stateDirectory = join(directory, `story-${story.seed}`);
  mkdirSync(stateDirectory, { recursive: true });
  const phases: string[] = [];
  let disturbedMs = 0;
  const commands: string[] = [];
  const pending = [...story.faults].sort((a, b) => a.call - b.call);
  world.fate = (call, what) => {
    commands.push(what);
    const fault = pending[0]?.call === call ? pending.shift() : undefined;
    if (fault === undefined) return 'done';
    disturbedMs = world.clock.nowMs();
    if (fault.fate === 'block-restarts') {
      world.restartBlock();
      return 'done';
    }
    if (fault.fate === 'mux-restarts') {
      world.mux.restart();
      return 'done';
    }
    if (fault.fate !== 'new-guest-dies' && fault.fate !== 'old-guest-dies') return fault.fate;
    const other = world.active === 'A' ? 'B' : 'A';
    if (fault.fate === 'old-guest-dies') world.killGuest(world.active);
    else if (world.mux.path !== other) world.killGuest(other);
    return 'done';
  };

  let manager = begin();
  function begin(): PatchManager {
    const made = new PatchManager(world.environment(stateDirectory), []);
    made.onEvent((event) => {
      if (event.kind === 'run' && phases.at(-1) !== event.report.phase) phases.push(event.report.phase);
    });
    return made;
  }

  /** Gives an order and lets time pass until it is carried out, or the control process that had it is dead. */
  const order = async (work: (to: PatchManager) => Promise<unknown>): Promise<unknown> => {
    const { generation } = world;
    let over = false;
    let failure: unknown;
    world.wasAnswered = true;
    work(manager).then(
      () => {
        over = true;
      },
      (error) => {
        failure = error;
        over = true;
      },
    );
    await pass(() => over || world.generation !== generation);
    if (world.generation === generation) return failure;
    return recover();
  };
  /** As often as it takes: a control process may die while it recovers. */
  const recover = async (): Promise<unknown> => {
    phases.push('|');
    await pass(() => false, RESTART_MS);
    manager = begin();
    return order((to) => to.recover());
  };
  const pass = async (until: () => boolean, limitMs = LIMIT_MS): Promise<boolean> => {
    const endMs = world.clock.nowMs() + limitMs;
    for (;;) {
      await settle(world);
      if (until()) return true;
      const due = world.clock.nextDueMs();
      if (due === undefined || due > endMs) return false;
      world.clock.step();
    }
  };
  const current = () => {
    const id = manager.currentId();
    return id === undefined ? undefined : manager.report(id);
  };
  /** No run is on its way somewhere, and what it began has had time to end. */
  const calm = async (tries = 20): Promise<void> => {
    check(tries > 0, `the run stays ${current()?.phase}`);
    const { generation } = world;
    const still = () => current() === undefined || !BUSY.includes(current()!.phase);
    await pass(() => still() || world.generation !== generation);
    world.isCalm = true;
    await pass(() => world.generation !== generation, SETTLED_MS);
    world.isCalm = false;
    const settled = world.clock.nowMs() - disturbedMs >= SETTLED_MS;
    if (world.generation === generation && still() && settled) return;
    if (world.generation !== generation) await recover();
    await calm(tries - 1);
  };

  try {
    world.supervise(() => current() !== undefined && BUSY.includes(current()!.phase));
    await pass(() => false, 200);
    await order((to) => to.run({ withoutPatches: true, ...WAYS[story.way] }));
    await calm();
    holds('after the run');
    const id = manager.currentId();
    if (id !== undefined && manager.report(id).phase === 'probation') {
      await order((to) => (story.ending === 'commit' ? to.commit(id) : to.rollback(id)));
      await calm();
      holds(`after the ${story.ending}`);
    }
    await over();
    // Whatever happened: the next run, which nobody disturbs, succeeds.
    pending.length = 0;
    let failure = await order((to) => to.run({ withoutPatches: true, ...WAYS[story.way] }));
    const next = manager.currentId();
    // Disturbed cuts took long: what they have taught may refuse a cut as often as there were of them, and then no more.
    for (let i = 0; i < story.faults.length && codeOf(failure) === 'over-budget' && next !== undefined; i++)
      failure = await order((to) => to.cut(next));
    check(failure === undefined, `the next run failed: ${messageOf(failure)}`);
    await calm();
    holds('after the next run');
    check(current()?.phase === 'probation', `the next run is ${current()?.phase}`);
    await order((to) => to.commit(manager.currentId()!));
    await calm();
    holds('after its commit');
    const before = answered();
    await pass(() => false, 1_000);
    check(answered() > before + 10, 'the service does not answer');
    check(guestsDied() || world.failures === 0, `${world.failures} requests failed`);
    return {
      calls: world.calls,
      phases: phases.join(' '),
      commands,
      failures: world.failures,
    };
  } finally {
    world.stopClients();
    timers.give();
    rmSync(stateDirectory, { recursive: true, force: true });
  }

  /** A run that is left to people is ended by them. */
  async function over(): Promise<void> {
    for (let tries = 0; tries < 5; tries++) {
      const report = current();
      if (report === undefined || FINAL_PHASES.includes(report.phase)) return;
      const end = report.phase === 'probation' ? 'commit' : 'cancel';
      await order((to) => to[end](report.id));
      await calm();
    }
    check(false, `the run cannot be ended, it is ${current()?.phase}`);
  }

  function answered(): number {
    return world.clients.reduce((sum, client) => sum + client.next, 0);
  }

  /** Requests end with their partition, and where a partition was stopped for too long. */
  function guestsDied(): boolean {
    return story.faults.some(({ fate }) => /guest/.test(fate));
  }

  function check(holds: boolean, sentence: string): void {
    if (holds) return;
    const faults = story.faults.map(({ call, fate }) => `${fate} at ${call} (${commands[call - 1]})`);
    assert.unreachable(
      `${sentence}\n  SEED=${story.seed}, ${story.way}${story.reading ? ' of readers' : ''}, ${story.ending}, ${faults.join(', ') || 'no fault'}\n  ${phases.join(' ')}\n  ${world.alarms.join('; ')}`,
    );
  }

  function holds(when: string): void {
    const say = (what: string) => `${when}: ${what}`;
    const { active, guests, disks, mux } = world;
    const { path } = mux;
    const other: PartitionId = active === 'A' ? 'B' : 'A';
    const disk = (id: PartitionId) => disks.application(id);
    check(path === active, say(`${active} is active, the path leads to ${path}`));
    check(guests[active].phase === 'serving', say(`${active} is active and ${guests[active].phase}`));
    check(mux.ports[active] === 'attached', say(`the port of ${active} is isolated`));
    check(guests[active].address === ADDRESS, say(`${active} is active under ${guests[active].address}`));
    check(disk(active).fence === 'none', say(`the disk of ${active} is fenced`));
    check(!guests[active].frozenFileSystems, say(`the file systems of ${active} are frozen`));
    check(mux.hold === undefined && mux.flowHold === undefined, say('requests are held'));
    check(mux.privatePath === null, say('the private path is still there'));
    const writes = (id: PartitionId) =>
      guests[id].phase !== 'stopped' && guests[id].diskExported && disk(id).fence === 'none';
    check(!(writes(active) && writes(other)), say('both partitions own their disk'));
    const content = new Set(disk(active).content);
    for (const write of world.acknowledged)
      check(content.has(write), say(`write ${write} was acknowledged and is lost`));
    for (const id of PARTITIONS)
      check(
        id === active || guests[id].phase !== 'serving' || disk(id).fence !== 'none',
        say(`${id} serves, too`),
      );
  }
}

/** What a client or a guest does on its own is soon done; code under test may go through any number of promises. */
const OWN_TURNS = 8;

/** Lets everything happen that does not wait for time. */
async function settle(world: World): Promise<void> {
  if (!world.wasAnswered) {
    for (let i = 0; i < OWN_TURNS; i++) await undefined;
    if (!world.wasAnswered) return;
  }
  world.wasAnswered = false;
  await new Promise((resolve) => setImmediate(resolve));
}

/** `setTimeout` of the code under test runs on the world's clock, and dies with its control process. */
function takeOverTimers(world: World): { give(): void } {
  const { setTimeout: set, clearTimeout: clear } = globalThis;
  globalThis.setTimeout = ((callback: (...args: unknown[]) => void, ms = 0, ...args: unknown[]) => {
    const { generation } = world;
    return world.clock.after(ms, () => {
      if (world.generation !== generation) return;
      world.wasAnswered = true;
      callback(...args);
    });
  }) as unknown as typeof setTimeout;
  globalThis.clearTimeout = ((timer?: { cancel?: () => void }) => timer?.cancel?.()) as typeof clearTimeout;
  return {
    give: () => {
      globalThis.setTimeout = set;
      globalThis.clearTimeout = clear;
    },
  };
}
