/**
 * `drain` (H6, Figs 13, 14): each request is finished by the partition that accepted it, whatever it does, and no request in
 * flight is judged by its method.
 *
 *   both run    no application disk, or one that nobody writes: new flows reach the new active from the switch on, flows that
 *               exist are steered to the old one until they end. Nobody waits. The service address stays with both; the mux
 *               lets each flow's own partition speak for it, so that no second address is needed
 *   disk last   the application disk is written: as `hold`, but every accepted request is waited for before the disk goes
 *
 * Afterwards, as with every strategy: connections between two requests are handed over with their TCP state; those that cannot
 * be moved are ended by the old side when nothing is in flight on them, and what is left at the deadline is named.
 */
import { diskId } from '../../hypervisor/index.ts';
import type { RunEnvironment } from '../run/environment.ts';
import type { RunRecord } from '../run/record.ts';
import type { CutPlan } from '../run/step.ts';
import { AUTO_QUIET_MS } from '../strategy.ts';
import { carrySystemFiles, cutApplicationDisk, startApplication, startReverseLog } from './disks.ts';
import { nameFlows } from './hand-over.ts';
import { DEFAULT_DRAIN_MS, holdPlan } from './hold.ts';
import type { Move } from './move.ts';
import { checkThroughPrivatePath, WARM } from './verify.ts';

const START_TIMEOUT_MS = 10_000;

/** Whether both partitions may run at the same time; asked at the cut. */
export async function bothMayRun(env: RunEnvironment, record: RunRecord): Promise<boolean> {
  if (record.procedure === 'H7') return false;
  if (!record.hasApplicationDisk) return true;
  const [disk] = await env.disks.execute('disk-status', { id: diskId(record.from, 'application') });
  return disk?.lastWriteMsAgo === undefined || disk.lastWriteMsAgo >= AUTO_QUIET_MS;
}

/** The form whose steps include those of the other one: what an undo after a restart goes by. */
export function diskLastPlan(move: Move): CutPlan {
  return holdPlan(move, { all: true, budgetMs: move.env.policy.budget.drainMs ?? DEFAULT_DRAIN_MS });
}

export function bothRunPlan(move: Move): CutPlan {
  const { env } = move;
  const { mux, clock } = env;
  return {
    reversible: [
      cutApplicationDisk(move),
      startReverseLog(move),
      ...carrySystemFiles(move),
      startApplication(move, START_TIMEOUT_MS),
      checkThroughPrivatePath(move, move.addresses, { times: WARM }),
    ],
    final: [
      {
        name: 'switch-network',
        figure: '1303',
        do: async () => {
          await nameFlows(move);
          move.persistRole();
          await move.attach();
          move.startedMs = clock.nowMs();
          const parts = move.addresses.map((address) => ({ address, moved: [] }));
          const { steered, also: others = [] } = await mux.execute('switch', move.switchOf(parts));
          move.endedMs = move.startedMs;
          return { steered: others.reduce((sum, other) => sum + other.steered, steered) };
        },
      },
      {
        name: 'announce-address',
        figure: '1304',
        do: async () => {
          await move.announce();
          return undefined;
        },
      },
    ],
  };
}
