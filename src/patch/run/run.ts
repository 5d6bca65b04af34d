/**
 * One run: preparation (Fig 7), cut, probation, and its end by commit or rollback. Phases follow RUN_TRANSITIONS; every
 * phase and step is journalled before it acts. The object lives in the control process; everything that has to survive it
 * is in the journal, the role store and the mux and block processes.
 */
import { again, messageOf, reach, sentenceOf } from '../../common/index.ts';
import { diskId } from '../../hypervisor/index.ts';
import { PatchError } from '../errors.ts';
import { prepareEvidence, writeEvidence } from '../evidence/index.ts';
import type { PreparationResult } from '../execution/index.ts';
import { copyName, ensureStopped, preparationSteps } from '../execution/index.ts';
import { JOURNAL_VERSION } from '../journal.ts';
import { addressPairs, bareAddress } from '../policy.ts';
import type { Strategy } from '../strategy.ts';
import {
  completeSwitch,
  cutPlan,
  dropWayBack,
  holdPlan,
  Move,
  nobodyWaits,
  plannedSteps,
  requireQuiet,
  returnSteps,
  undoPlan,
  verifyStep,
} from '../switching/index.ts';
import type { PauseForecast } from './calibration.ts';
import type { Captured } from './capture.ts';
import { startCapture, stopCapture } from './capture.ts';
import { atMost, DRAIN_DEADLINE_MS, Draining } from './draining.ts';
import type { RunEnvironment } from './environment.ts';
import { forecastPause } from './forecast.ts';
import { lateWriteNotice } from './late-writes.ts';
import { removeLogs } from './logs.ts';
import type { RunPhase } from './phase.ts';
import { FINAL_PHASES, RUN_TRANSITIONS } from './phase.ts';
import type { CutReport, PacketCounts, RunRecord, RunReport } from './record.ts';
import type { CutPlan, Engine, Stage, Step, StepReport } from './step.ts';
import { doSteps, stepsOf, undoSteps } from './step.ts';
import { watchProbation } from './watch.ts';

/** A rollback waits no longer than this for them. */
const ROLLBACK_DRAIN_MS = 5_000;
/** The check behind a switch waits no longer than this for idle connections to move. */
const IDLE_MOVED_MS = 1_000;
/** And for what they had waiting to be answered. */
const SETTLE_MS = 50;
const INSIST_MS = [200, 200];
const ROLLBACK = 'rollback/';
const PERSISTED_FIRST: readonly RunPhase[] = ['ready', 'cutting', 'rolling-back'];
const NO_PACKETS: PacketCounts = { rewritten: 0, steered: 0, held: 0, heldDropped: 0, rstSuppressed: 0 };

export class Run {
  readonly record: RunRecord;
  readonly #env: RunEnvironment;
  readonly #onChange: (report: RunReport, step?: StepReport) => void;
  readonly #steps: StepReport[] = [];
  readonly #preparation: PreparationResult = { patchResults: [], hashes: {}, notices: [] };
  #phase: RunPhase = 'preparing';
  #cancelled = false;
  #cut: CutReport | undefined;
  #rollback: CutReport | undefined;
  #forecastPauseMs: number | undefined;
  #forecastParts: PauseForecast | undefined;
  #reason: string | undefined;
  #capture: string | undefined;
  #prepareSteps: Step[] = [];
  #drain: Draining | undefined;
  #watch: { stop: () => void } | undefined;
  #failedRollbacks = 0;

  constructor(
    env: RunEnvironment,
    record: RunRecord,
    onChange: (report: RunReport, step?: StepReport) => void,
  ) {
    this.#env = env;
    this.record = record;
    this.#onChange = onChange;
  }

  get phase(): RunPhase {
    return this.#phase;
  }

  get over(): boolean {
    return FINAL_PHASES.includes(this.#phase);
  }

  report(): RunReport {
    return {
      ...this.record,
      phase: this.#phase,
      steps: this.#steps.map((step) => ({ ...step })),
      ...(this.#cut === undefined ? {} : { cut: this.#cut }),
      ...(this.#rollback === undefined ? {} : { rollback: this.#rollback }),
      ...(this.#forecastPauseMs === undefined ? {} : { forecastPauseMs: this.#forecastPauseMs }),
      ...(this.#forecastParts === undefined ? {} : { forecastParts: this.#forecastParts.parts }),
      ...(this.#capture === undefined ? {} : { capture: this.#capture }),
      ...(this.#reason === undefined ? {} : { reason: this.#reason }),
      ...this.#preparation,
    };
  }

  /** 701 … 709. Ends in phase `ready`; when it fails everything is undone and the reason thrown. */
  async prepare(): Promise<void> {
    const env = this.#env;
    prepareEvidence(this.record.evidence);
    env.journal.append({
      runId: this.record.id,
      kind: 'run-begun',
      name: this.record.service,
      atMs: this.record.startedAtMs,
      facts: { record: this.record, version: JOURNAL_VERSION },
    });
    this.#prepareSteps = preparationSteps(env, this.record, this.#preparation);
    try {
      await doSteps(this.#engine(), this.#prepareSteps);
      this.#forecastPauseMs = await this.#forecast(this.#there(), this.record.strategy);
    } catch (error) {
      await this.#undo(this.#prepareSteps, error);
      throw error;
    }
    try {
      this.#enter('ready');
    } catch (error) {
      await this.#undo(this.#prepareSteps, error);
      throw error;
    }
  }

  /** For a dry run: what the cut would do. Only in phase `ready`. */
  async plan(): Promise<void> {
    this.#require('ready', 'planned');
    const move = new Move(this.#env, this.record, { ...this.#there(), reverse: this.#reverseName() });
    this.#preparation.planned = await plannedSteps(move);
  }

  /** 710. Ends in phase `probation`; when it fails before clients were moved, everything is undone. */
  async cut(): Promise<void> {
    this.#require('ready', 'cut');
    const env = this.#env;
    if (this.record.strategy === 'overlap') await requireQuiet(env, this.record);
    const move = new Move(env, this.record, { ...this.#there(), reverse: this.#reverseName() });
    let plan: CutPlan;
    await this.#startCapture('cut');
    try {
      this.#forecastPauseMs = await this.#forecast(this.#there(), this.record.strategy);
      if (this.#forecastPauseMs > env.policy.budget.pauseMs) {
        env.calibration.refused();
        throw new PatchError(
          'over-budget',
          `the pause is forecast to be ${Math.round(this.#forecastPauseMs)} ms, the budget is ${env.policy.budget.pauseMs} ms`,
          { remedy: 'raise patching.budget.pauseMs, or cut when less is written' },
        );
      }
      plan = await cutPlan(move);
      this.#enter('cutting');
    } catch (error) {
      await stopCapture(this.#env, this.record);
      throw error;
    }
    try {
      await doSteps(this.#engine(), plan.reversible);
    } catch (error) {
      await this.#undo([...this.#prepareSteps, ...stepsOf(plan.reversible)], error);
      throw error;
    }
    let failure: unknown;
    try {
      await doSteps(this.#engine(), plan.final);
    } catch (error) {
      failure = error;
    }
    if (failure !== undefined && env.roles.active(this.record.service) !== this.record.to) {
      // The role could not be written down: no client was moved.
      await this.#undo([...this.#prepareSteps, ...stepsOf(plan.reversible)], failure);
      throw failure;
    }
    if (failure !== undefined) {
      this.#preparation.notices.push(`the cut was not smooth: ${sentenceOf(failure)}`);
      await completeSwitch(env, move);
    }
    this.#cut = this.#cutReport(move, this.record.strategy);
    if (failure === undefined) this.#learn(this.#cut);
    this.#enter('probation');
    const { idleMoved } = this.#startDrain(move, this.#cut);
    this.#markPatches(true);
    // Clients wait while their idle connections are on the way: a check beside it would make that longer.
    await atMost(IDLE_MOVED_MS, idleMoved);
    await pause(SETTLE_MS);
    try {
      await doSteps(this.#engine(), [verifyStep(move, env.policy.probation.tries)]);
    } catch (error) {
      this.#reason = sentenceOf(error);
      await this.rollback();
      throw error;
    }
    this.#startWatch(move);
  }

  /** Back to the old partition, with everything written since the cut. */
  async rollback(): Promise<void> {
    this.#require('probation', 'rolled back');
    const env = this.#env;
    this.#enter('rolling-back');
    this.#watch?.stop();
    const way = { from: this.record.to, to: this.record.from, copy: this.#reverseName() };
    const move = new Move(env, this.record, way);
    const waitForDrain = () => this.#finishDrain(ROLLBACK_DRAIN_MS);
    let forecastMs = 0;
    this.#forecastParts = undefined;
    let final: readonly Stage[] = [];
    try {
      await doSteps(this.#engine(ROLLBACK), returnSteps(move, waitForDrain));
      await this.#startCapture('rollback');
      // Nobody is asked whether the pause is affordable: the new active may be what is slow.
      forecastMs = move.fromIsDead
        ? 0
        : await this.#forecast({ ...way, copy: move.copy }, 'hold').catch(() => 0);
      const plan = holdPlan(move);
      try {
        await doSteps(this.#engine(ROLLBACK), plan.reversible);
      } catch (error) {
        await undoSteps(this.#engine(ROLLBACK), stepsOf(plan.reversible));
        throw error;
      }
      final = plan.final;
    } catch (error) {
      await this.#staysThere(error);
      throw error;
    }
    try {
      await doSteps(this.#engine(ROLLBACK), final);
    } catch (error) {
      if (env.roles.active(this.record.service) !== this.record.from) {
        // The role could not be written down: no client was moved.
        await undoSteps(this.#engine(ROLLBACK), stepsOf(holdPlan(move).reversible));
        await this.#staysThere(error);
        throw error;
      }
      this.#preparation.notices.push(`the rollback was not smooth: ${sentenceOf(error)}`);
      await completeSwitch(env, move);
    }
    this.#rollback = this.#cutReport(move, 'hold', forecastMs);
    this.#learn(this.#rollback);
    this.#markPatches(false);
    this.#startDrain(move, this.#rollback);
    await doSteps(this.#engine(ROLLBACK), [verifyStep(move, env.policy.probation.tries)]).catch((error) => {
      this.#preparation.notices.push(`after the rollback: ${sentenceOf(error)}`);
    });
    await this.#finishDrain(ROLLBACK_DRAIN_MS);
    await stopCapture(this.#env, this.record);
    // Clients were moved: whatever fails from here on, the rollback ends.
    await this.#insist(`${this.record.to} was not stopped`, () => ensureStopped(env, this.record.to));
    await this.#insist('late writes were not counted', () =>
      this.#noteLateWrites(diskId(this.record.to, 'application')),
    );
    await dropWayBack(env, this.record.id).catch((error) => {
      env.log.warn('the log of the way back was not dropped', {
        run: this.record.id,
        reason: messageOf(error),
      });
    });
    await env.disks
      .execute('fence', { id: diskId(this.record.to, 'application'), mode: 'none' })
      .catch(() => {});
    env.hypervisor.resources.setAssigned(this.record.to, false);
    this.#enter('rolled-back');
  }

  /** Tries `work` a few times; a failure that stays is a notice. */
  async #insist(complaint: string, work: () => Promise<unknown>): Promise<void> {
    const warn = (error: unknown) =>
      this.#env.log.warn(complaint, { run: this.record.id, reason: sentenceOf(error) });
    await again(INSIST_MS, work, warn).catch((error) => {
      warn(error);
      this.#preparation.notices.push(`${complaint}: ${sentenceOf(error)}`);
    });
  }

  async #noteLateWrites(disk: string): Promise<void> {
    const notice = this.record.hasApplicationDisk ? await lateWriteNotice(this.#env, disk) : undefined;
    if (notice !== undefined) this.#preparation.notices.push(notice);
  }

  /** A rollback that failed before clients were moved: the new active serves on, watched, and the rollback may be tried again. */
  async #staysThere(error: unknown): Promise<void> {
    const { record } = this;
    this.#failedRollbacks++;
    this.#reason = `rollback failed, ${record.to} keeps serving: ${sentenceOf(error)}`;
    this.#enter('probation');
    const limit = this.#env.limits.rollbacks;
    if (this.#failedRollbacks < limit) {
      this.#startWatch(new Move(this.#env, record, { ...this.#there(), reverse: this.#reverseName() }));
      return;
    }
    const alarm = `run ${record.id}: ${limit} rollbacks failed, no further one is begun by itself: ${sentenceOf(error)}`;
    this.#preparation.notices.push(alarm);
    this.#env.alarm(alarm);
  }

  /** The old partition becomes a free standby; the way back is given up. */
  async commit(): Promise<void> {
    this.#require('probation', 'committed');
    const env = this.#env;
    this.#watch?.stop();
    await this.#finishDrain(env.policy.budget.oldFlowsMs ?? DRAIN_DEADLINE_MS);
    for (const { address } of addressPairs(this.record)) {
      await env.mux.execute('notice-cancel', { address: bareAddress(address), force: true });
    }
    await stopCapture(this.#env, this.record);
    if (this.record.hasApplicationDisk) await dropWayBack(env, this.record.id);
    await ensureStopped(env, this.record.from);
    if (this.record.hasApplicationDisk) {
      await this.#noteLateWrites(diskId(this.record.from, 'application'));
      await env.disks.execute('fence', { id: diskId(this.record.from, 'application'), mode: 'none' });
    }
    env.hypervisor.resources.setAssigned(this.record.from, false);
    env.hypervisor.resources.setAssigned(this.record.to, true);
    this.#enter('committed');
  }

  /** Before the cut: gives the run up. During a step it takes effect at the step's next look. */
  async cancel(): Promise<void> {
    this.#cancelled = true;
    if (this.#phase !== 'ready') return;
    await this.#undo(this.#prepareSteps, new PatchError('cancelled', `run ${this.record.id} was cancelled`));
  }

  /** A run that is over, read back from the journal. */
  restore(phase: RunPhase): void {
    this.#phase = phase;
  }

  /**
   * What a new control process does with a run that an earlier one left in phase `last`. Clients were moved if the role
   * store says so: that is written at the switch. Then the run is on probation; otherwise it is undone.
   */
  async recover(last: RunPhase): Promise<string> {
    const env = this.#env;
    const moved = env.roles.active(this.record.service) === this.record.to;
    this.#prepareSteps = preparationSteps(env, this.record, this.#preparation);
    const there = new Move(env, this.record, { ...this.#there(), reverse: this.#reverseName() });
    if (moved) {
      env.hypervisor.resources.setAssigned(this.record.to, true);
      if (last === 'rolling-back') await this.#undoReturn();
      await completeSwitch(env, there);
      this.#phase = last === 'probation' ? last : 'cutting';
      if (last !== 'probation') this.#enter('probation');
      this.#cut = this.#cutReport(there, this.record.strategy);
      this.#startDrain(there, this.#cut);
      this.#startWatch(there);
      return `run ${this.record.id} was ${last}: ${this.record.to} serves, it is on probation`;
    }
    if (last === 'rolling-back') {
      const back = { from: this.record.to, to: this.record.from, copy: this.#reverseName() };
      await completeSwitch(env, new Move(env, this.record, back));
      this.#phase = last;
      await ensureStopped(env, this.record.to);
      await dropWayBack(env, this.record.id).catch(() => {});
      await env.disks
        .execute('fence', { id: diskId(this.record.to, 'application'), mode: 'none' })
        .catch(() => {});
      env.hypervisor.resources.setAssigned(this.record.to, false);
      this.#enter('rolled-back');
      return `run ${this.record.id} was rolling back: ${this.record.from} serves again`;
    }
    there.recallConnections();
    this.#phase = last === 'undoing' ? 'preparing' : last;
    await this.#undo(
      [...this.#prepareSteps, ...stepsOf(undoPlan(there).reversible)],
      new PatchError('cancelled', `the control process ended while the run was ${last}`),
    );
    return `run ${this.record.id} was ${last}: it has been undone`;
  }

  /** What a rollback that was interrupted before its switch had begun: the new active is frozen, fenced, held. */
  async #undoReturn(): Promise<void> {
    const way = { from: this.record.to, to: this.record.from, copy: this.#reverseName() };
    const steps = stepsOf(holdPlan(new Move(this.#env, this.record, way)).reversible);
    this.#preparation.notices.push(...(await undoSteps(this.#engine(ROLLBACK), steps)));
  }

  #learn(cut: CutReport): void {
    if (cut.strategy !== 'hold' || this.#forecastParts === undefined) return;
    this.#env.calibration.learn(this.#forecastParts.parts, cut.pauseMs);
  }

  #there(): { from: string; to: string; copy: string } {
    return { from: this.record.from, to: this.record.to, copy: copyName(this.record) };
  }

  #reverseName(): string {
    return `${this.record.id}-reverse`;
  }

  #require(phase: RunPhase, what: string): void {
    if (this.#phase === phase) return;
    throw new PatchError('wrong-phase', `run ${this.record.id} is ${this.#phase}: it cannot be ${what}`, {
      remedy: `only a run in phase ${phase} can`,
      values: { run: this.record.id, phase: this.#phase },
    });
  }

  #engine(part = ''): Engine {
    return {
      part,
      runId: this.record.id,
      journal: this.#env.journal,
      clock: this.#env.clock,
      reports: this.#steps,
      onChange: (step) => this.#onChange(this.report(), step),
      isCancelled: () => this.#cancelled && this.#phase === 'preparing',
    };
  }

  #enter(phase: RunPhase): void {
    if (!RUN_TRANSITIONS[this.#phase].includes(phase)) {
      throw new PatchError('wrong-phase', `run ${this.record.id} cannot go from ${this.#phase} to ${phase}`);
    }
    const append = () => {
      reach(`phase.${phase}.before-persist`);
      this.#env.journal.append({ runId: this.record.id, kind: 'phase', name: phase, atMs: this.#nowMs() });
    };
    // Into these a run goes only when it can be read back; the others are where it is whether or not that can be noted.
    if (PERSISTED_FIRST.includes(phase)) append();
    else this.#attempt(`phase ${phase}`, append);
    this.#phase = phase;
    reach(`phase.${phase}.persisted`);
    this.#attempt('the evidence', () => writeEvidence(this.report(), this.#env.journal.read(this.record.id)));
    if (this.over) this.#letGo();
    this.#onChange(this.report());
  }

  /** Of a run that is over only its report is asked for. */
  #letGo(): void {
    this.#attempt('the end of the write logs', () =>
      removeLogs(this.#env.stateDirectory, (id) => id === this.record.id),
    );
    this.#prepareSteps = [];
    this.#drain = undefined;
    this.#watch = undefined;
  }

  async #undo(steps: readonly Step[], cause: unknown): Promise<void> {
    this.#reason = sentenceOf(cause);
    this.#enter('undoing');
    const complaints = await undoSteps(this.#engine(), steps);
    if (complaints.length > 0) this.#reason = [this.#reason, ...complaints].join('; ');
    await stopCapture(this.#env, this.record);
    this.#enter('undone');
  }

  async #forecast(way: { from: string; to: string; copy: string }, strategy: Strategy): Promise<number> {
    if (strategy === this.record.strategy && (await nobodyWaits(this.#env, this.record))) return 0;
    this.#forecastParts = await forecastPause(this.#env, this.record, way);
    return this.#forecastParts.pauseMs;
  }

  async #startCapture(what: Captured): Promise<void> {
    try {
      const file = await startCapture(this.#env, this.record, what);
      // The way back has a file of its own beside it.
      this.#capture ??= file;
    } catch (error) {
      this.#preparation.notices.push(`no capture: ${messageOf(error)}`);
    }
  }

  #cutReport(move: Move, strategy: Strategy, forecastMs?: number): CutReport {
    return {
      from: move.from,
      to: move.to,
      strategy,
      atMs: this.#nowMs(),
      pauseMs: move.endedMs - move.startedMs,
      forecastPauseMs: forecastMs ?? this.#forecastPauseMs ?? 0,
      handedOver: move.handedOver,
      draining: move.draining.length,
      abandoned: [],
      packets: NO_PACKETS,
      deltaBytes: move.deltaBytes,
    };
  }

  #startDrain(move: Move, cut: CutReport): Draining {
    this.#drain = new Draining(this.#env, move, cut, (changes) => {
      if (changes !== undefined) this.#preparation.systemChanges = changes;
      this.#attempt('the evidence', () =>
        writeEvidence(this.report(), this.#env.journal.read(this.record.id)),
      );
      this.#onChange(this.report());
    });
    return this.#drain;
  }

  async #finishDrain(limitMs: number): Promise<string[]> {
    const running = this.#drain;
    this.#drain = undefined;
    return running === undefined ? [] : running.finish(limitMs);
  }

  /** Probation; after `tries` failures in a row the service goes back by itself. */
  #startWatch(move: Move): void {
    this.#watch = watchProbation(this.#env, move, {
      isOver: () => this.#phase !== 'probation',
      onUnhealthy: (detail) => {
        this.#reason = `unhealthy in probation: ${detail}`;
        this.#preparation.notices.push(this.#reason);
        return this.#rollbackItself();
      },
    });
  }

  /** Tried again while it fails, up to a limit: then somebody has to look. */
  async #rollbackItself(): Promise<void> {
    if (!this.#env.policy.probation.rollbackOnFailure) return;
    try {
      await this.rollback();
    } catch (error) {
      this.#env.log.error('automatic rollback failed', { run: this.record.id, reason: sentenceOf(error) });
    }
  }

  /** 605, 606: applied with the cut, the flag is used up; after a rollback "not yet" again, for the administrator to decide. */
  #markPatches(applied: boolean): void {
    const date = applied ? new Date(this.#nowMs()).toISOString() : null;
    for (const row of this.#env.patches.rows()) {
      if (!this.record.patches.includes(row.file)) continue;
      this.#attempt('the patch table', () => this.#env.patches.put({ ...row, date, applyNext: false }));
    }
  }

  #nowMs(): number {
    return Number(this.#env.clock.wallNs() / 1_000_000n);
  }

  /** What must not keep a run from going on: its failure is a notice. */
  #attempt(what: string, work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#preparation.notices.push(`${what} could not be written: ${messageOf(error)}`);
      this.#env.log.error(`${what} could not be written`, {
        run: this.record.id,
        reason: messageOf(error),
      });
    }
  }
}

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));
