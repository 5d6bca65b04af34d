/**
 * The engine of a run. Steps are done in order; each is journalled before it acts and after. When one fails, the steps
 * begun so far are undone in reverse order, by undo functions that are safe to repeat and safe when the step did nothing:
 * after a crash the same functions bring the old state back.
 */
import type { Clock } from '../../common/index.ts';
import { messageOf, sentenceOf } from '../../common/index.ts';
import { PatchError } from '../errors.ts';
import type { Journal } from '../journal.ts';

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
  readonly clock: Clock;
  readonly reports: StepReport[];
  readonly onChange: (step: StepReport) => void;
  readonly isCancelled: () => boolean;
}

function wallMs(clock: Clock): number {
  return Number(clock.wallNs() / 1_000_000n);
}

/** Does all steps, or throws what the failing one threw; undoing is the caller's next call. */
export async function doSteps(engine: Engine, steps: readonly Step[]): Promise<void> {
  const { journal, clock, runId, reports, onChange } = engine;
  for (const step of steps) {
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
    checkCancelled();
    journal.append({ runId, kind: 'step-begun', name: step.name, atMs: report.startedAtMs });
    reports.push(report);
    onChange(report);
    try {
      const facts = await step.do({
        progress: (progress) => {
          report.progress = progress;
          report.durationMs = clock.nowMs() - startMs;
          onChange(report);
        },
        checkCancelled,
      });
      report.durationMs = clock.nowMs() - startMs;
      report.state = 'done';
      if (facts !== undefined) report.facts = facts;
      journal.append({
        runId,
        kind: 'step-done',
        name: step.name,
        atMs: wallMs(clock),
        ...(facts === undefined ? {} : { facts }),
      });
      onChange(report);
    } catch (error) {
      report.durationMs = clock.nowMs() - startMs;
      report.state = 'failed';
      report.reason = sentenceOf(error);
      journal.append({
        runId,
        kind: 'step-failed',
        name: step.name,
        atMs: wallMs(clock),
        facts: { reason: report.reason },
      });
      onChange(report);
      throw error;
    }
  }
}

/**
 * Undoes, in reverse order, every step of `steps` that the journal says was begun and not yet undone. An undo that fails
 * is reported and does not keep the others from running.
 */
export async function undoSteps(engine: Engine, steps: readonly Step[]): Promise<string[]> {
  const { journal, clock, runId, reports, onChange } = engine;
  const entries = journal.read(runId);
  const complaints: string[] = [];
  for (const step of [...steps].reverse()) {
    const begun = entries.findLastIndex((e) => e.kind === 'step-begun' && e.name === step.name);
    const undone = entries.findLastIndex((e) => e.kind === 'undo-done' && e.name === step.name);
    if (begun === -1 || undone > begun || step.undo === undefined) continue;
    journal.append({ runId, kind: 'undo-begun', name: step.name, atMs: wallMs(clock) });
    try {
      await step.undo();
    } catch (error) {
      complaints.push(`${step.name} could not be undone: ${messageOf(error)}`);
    }
    journal.append({ runId, kind: 'undo-done', name: step.name, atMs: wallMs(clock) });
    const report = reports.findLast((r) => r.name === step.name);
    if (report !== undefined) {
      if (report.state !== 'failed') report.state = 'undone';
      onChange(report);
    }
  }
  return complaints;
}
