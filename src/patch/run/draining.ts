/** What follows a cut: old flows end or are handed over, announcements are repeated, packets are counted. Never throws. */
import { messageOf } from '../../common/index.ts';
import type { DrainResult, Move } from '../switching/index.ts';
import { announceUntilMoved, drain, systemChanges } from '../switching/index.ts';
import type { RunEnvironment } from './environment.ts';
import type { CutReport, PacketCounts, SystemChanges } from './record.ts';
import { flowText } from './record.ts';

/** Old flows get this long to end by themselves, ms. */
export const DRAIN_DEADLINE_MS = 60_000;

export class Draining {
  /** The first idle connections have moved, or it has failed for the first time. */
  readonly idleMoved: Promise<void>;
  readonly #result: Promise<DrainResult>;
  #stopped = false;

  /** Notes in `cut` what becomes of its flows; `onOver` follows, with the old system disk's changes where it will serve no more. */
  constructor(
    env: RunEnvironment,
    move: Move,
    cut: CutReport,
    onOver: (changes: SystemChanges | undefined) => void,
  ) {
    let moved = () => {};
    this.idleMoved = new Promise((resolve) => {
      moved = resolve;
    });
    const stopped = () => this.#stopped;
    const work = async (): Promise<DrainResult> => {
      const result = await drain(
        move,
        env.policy.budget.oldFlowsMs ?? DRAIN_DEADLINE_MS,
        (count) => {
          cut.handedOver += count;
        },
        stopped,
        moved,
      );
      cut.abandoned = result.abandoned.map(flowText);
      if (result.abandoned.length === 0 && !this.#stopped)
        await move.each((address) => env.mux.execute('notice-cancel', { address }));
      cut.packets = await packetCounts(env, move);
      onOver(move.from === move.record.from ? await systemChanges(move) : undefined);
      return result;
    };
    void announceUntilMoved(
      move,
      (announced) => {
        cut.announced = announced;
      },
      stopped,
    );
    this.#result = work().catch((error): DrainResult => {
      env.log.warn('draining ended early', { run: move.record.id, reason: messageOf(error) });
      return { handedOver: 0, abandoned: [] };
    });
  }

  /** Waits for the old flows, at most `limitMs`; names those that are left. */
  async finish(limitMs: number): Promise<string[]> {
    await atMost(limitMs, this.#result);
    this.#stopped = true;
    return (await this.#result).abandoned.map(flowText);
  }
}

async function packetCounts(env: RunEnvironment, move: Move): Promise<PacketCounts> {
  const counted = await move.each((address) => env.mux.execute('counters', { address }));
  const sum = (name: keyof PacketCounts) =>
    counted.reduce((all, { sinceSwitch }) => all + sinceSwitch[name], 0);
  return {
    rewritten: sum('rewritten'),
    steered: sum('steered'),
    held: sum('held'),
    heldDropped: sum('heldDropped'),
    rstSuppressed: sum('rstSuppressed'),
  };
}

/** Waits for `work`, but no longer than `limitMs`. */
export async function atMost(limitMs: number, work: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, limitMs);
  });
  await Promise.race([work, late]).finally(() => clearTimeout(timer));
}
