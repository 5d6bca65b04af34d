/** From what was chosen to the steps of the cut. */
import type { RunEnvironment } from '../run/environment.ts';
import type { PlannedStep, RunRecord } from '../run/record.ts';
import type { CutPlan } from '../run/step.ts';
import { stepsOf } from '../run/step.ts';
import { bothMayRun, bothRunPlan, diskLastPlan } from './drain.ts';
import { holdPlan } from './hold.ts';
import type { Move } from './move.ts';
import { overlapPlan } from './overlap.ts';
import { verifyStep } from './verify.ts';

/** The steps of the cut, as things stand now. */
export async function cutPlan(move: Move): Promise<CutPlan> {
  if (move.record.strategy !== 'drain') return undoPlan(move);
  return (await bothMayRun(move.env, move.record)) ? bothRunPlan(move) : diskLastPlan(move);
}

/** Steps among which are all those that a cut can have begun; after a restart of the control process. */
export function undoPlan(move: Move): CutPlan {
  const { strategy } = move.record;
  if (strategy === 'overlap') return overlapPlan(move);
  return strategy === 'drain' ? diskLastPlan(move) : holdPlan(move);
}

/** New requests do not wait at the cut: there is no pause to forecast. */
export async function nobodyWaits(env: RunEnvironment, record: RunRecord): Promise<boolean> {
  return record.strategy === 'overlap' || (record.strategy === 'drain' && (await bothMayRun(env, record)));
}

/** What a cut would do now, for a dry run. */
export async function plannedSteps(move: Move): Promise<PlannedStep[]> {
  const { reversible, final } = await cutPlan(move);
  return [...stepsOf(reversible), ...stepsOf(final), verifyStep(move, 1)].map(({ name, figure }) => ({
    name,
    figure,
  }));
}
