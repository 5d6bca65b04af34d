/**
 * The engine of a run. Steps are done in order; each is journalled before it acts and after. When one fails, the steps
 * begun so far are undone in reverse order, by undo functions that are safe to repeat and safe when the step did nothing:
 * after a crash the same functions bring the old state back.
 */
import type { Clock } from '../../common/index.ts';
import { again, arePointsArmed, messageOf, reach, sentenceOf } from '../../common/index.ts';
import { PatchError } from '../errors.ts';
import type { Journal, JournalKind } from '../journal.ts';

export type Facts = Readonly<Record<string, unknown>>;

export interface Progress {
  readonly done: number;
  readonly total: number;
  readonly unit: 'bytes' | 'ms' | 'items';
  readonly ratePerSecond?: number;
  readonly etaMs?: number;
}

export interface StepTools {
  progress(progress: Progress): void;
  /** Throws when the administrator cancelled the run. Call it in loops. */
  checkCancelled(): void;
}

export interface Step {
  /** Stable name, kebab-case. */
  readonly name: string;
  /** Step number in the source documents' figures, e.g. `703`; empty where it is ours. */
  readonly figure: string;
  do(tools: StepTools): Promise<Facts | undefined>;
  undo?(): Promise<void>;
}

/** One step, or several sequences of steps that run at the same time and must all be done before the next stage. */
export type Stage = Step | { readonly parallel: readonly (readonly Step[])[] };

/**
 * A cut. Until `reversible` is done, undoing its steps brings the old state back. `final` begins by writing down who serves
 * from then on; whatever fails after that is mended forwards or by a rollback, for clients may have been answered.
 */
export interface CutPlan {
  readonly reversible: readonly Stage[];
  readonly final: readonly Stage[];
}

/** All steps of some stages, in an order whose reverse may be undone. */
export function stepsOf(stages: readonly Stage[]): Step[] {
  return stages.flatMap((stage) => ('parallel' in stage ? stage.parallel.flat() : [stage]));
}

export interface StepReport {
  readonly name: string;
  readonly figure: string;
  state: 'running' | 'done' | 'failed' | 'undone';
  readonly startedAtMs: number;
  durationMs: number;
  facts?: Facts;
  reason?: string;
  progress?: Progress;
}

export interface Engine {
  readonly runId: string;
  readonly journal: Journal;
  /** Put before step names in the journal: the way back has steps of the same names. Empty for the way there. */
  readonly part: string;
  readonly clock: Clock;
  readonly reports: StepReport[];
  readonly onChange: (step: StepReport) => void;
  readonly isCancelled: () => boolean;
}

/** Named points of every step, in order; those of an undo come last. */
export const STEP_POINTS = ['begin', 'begun', 'acted', 'done', 'undo', 'undone'] as const;

/** `step.switch-network.begun`; of the way back `rollback.switch-network.begun`. */
export function stepPoint(part: string, step: string, where: (typeof STEP_POINTS)[number]): string {
  return `${part === '' ? 'step.' : part.replace('/', '.')}${step}.${where}`;
}

const UNDO_AGAIN_MS = [20, 100] as const;

function pass(engine: Engine, step: Step, where: (typeof STEP_POINTS)[number]): void {
  if (arePointsArmed()) reach(stepPoint(engine.part, step.name, where));
}

function wallMs(clock: Clock): number {
  return Number(clock.wallNs() / 1_000_000n);
}

/** Does all stages, or throws what the failing step threw once nothing runs any more; undoing is the caller's next call. */
export async function doSteps(engine: Engine, stages: readonly Stage[]): Promise<void> {
  for (const stage of stages) {
    if (!('parallel' in stage)) {
      await doStep(engine, stage);
      continue;
    }
    const ends = await Promise.allSettled(stage.parallel.map((steps) => doSteps(engine, steps)));
    for (const end of ends) if (end.status === 'rejected') throw end.reason;
  }
}

async function doStep(engine: Engine, step: Step): Promise<void> {
  const { clock, runId, onChange } = engine;
  const startMs = clock.nowMs();
  const report: StepReport = {
    name: step.name,
    figure: step.figure,
    state: 'running',
    startedAtMs: wallMs(clock),
    durationMs: 0,
  };
  const checkCancelled = () => {
    if (engine.isCancelled())
      throw new PatchError('cancelled', `run ${runId} was cancelled during ${step.name}`);
  };
  const end = (state: 'done' | 'failed', facts: Facts | undefined) => {
    report.durationMs = clock.nowMs() - startMs;
    report.state = state;
    write(engine, state === 'done' ? 'step-done' : 'step-failed', step, facts);
    onChange(report);
  };
  checkCancelled();
  pass(engine, step, 'begin');
  write(engine, 'step-begun', step);
  engine.reports.push(report);
  onChange(report);
  try {
    pass(engine, step, 'begun');
    const facts = await step.do({
      progress: (progress) => {
        report.progress = progress;
        report.durationMs = clock.nowMs() - startMs;
        onChange(report);
      },
      checkCancelled,
    });
    if (facts !== undefined) report.facts = facts;
    pass(engine, step, 'acted');
    end('done', facts);
  } catch (error) {
    report.reason = sentenceOf(error);
    try {
      end('failed', { reason: report.reason });
    } catch {
      // The journal may be what failed; that the step was begun stands in it.
    }
    throw error;
  }
  pass(engine, step, 'done');
}

function write(engine: Engine, kind: JournalKind, step: Step, facts?: Facts): void {
  engine.journal.append({
    runId: engine.runId,
    kind,
    name: engine.part + step.name,
    atMs: wallMs(engine.clock),
    ...(facts === undefined ? {} : { facts }),
  });
}

/** What is left half undone may be the service itself: tried again before it is given up. Returns why it was. */
function undoAgain(undo: () => Promise<void>): Promise<unknown> {
  return again(UNDO_AGAIN_MS, undo).then(
    () => undefined,
    (error: unknown) => error,
  );
}

/**
 * Undoes, in reverse order, every step of `steps` that the journal says was begun and not yet undone. An undo that fails
 * again and again is reported and does not keep the others from running.
 */
export async function undoSteps(engine: Engine, steps: readonly Step[]): Promise<string[]> {
  const { journal, runId, reports, onChange } = engine;
  const entries = journal.read(runId);
  const complaints: string[] = [];
  for (const step of [...steps].reverse()) {
    const name = engine.part + step.name;
    const begun = entries.findLastIndex((e) => e.kind === 'step-begun' && e.name === name);
    const undone = entries.findLastIndex((e) => e.kind === 'undo-done' && e.name === name);
    if (begun === -1 || undone > begun || step.undo === undefined) continue;
    const note = (kind: JournalKind, where: 'undo' | 'undone') => {
      try {
        pass(engine, step, where);
        write(engine, kind, step);
      } catch (error) {
        // Undone all the same: it is safe to be undone again by who reads the journal later.
        complaints.push(`the journal lacks ${kind} of ${step.name}: ${messageOf(error)}`);
      }
    };
    note('undo-begun', 'undo');
    const failure = await undoAgain(() => step.undo?.() ?? Promise.resolve());
    if (failure !== undefined) complaints.push(`${step.name} could not be undone: ${messageOf(failure)}`);
    note('undo-done', 'undone');
    const report = reports.findLast((r) => r.name === step.name);
    if (report !== undefined) {
      if (report.state !== 'failed') report.state = 'undone';
      onChange(report);
    }
  }
  return complaints;
}
