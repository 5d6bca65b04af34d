/**
 * One run: preparation (Fig 7), cut, probation, and its end by commit or rollback. Phases follow RUN_TRANSITIONS; every
 * phase and step is journalled before it acts. The object lives in the control process; everything that has to survive it
 * is in the journal, the role store and the mux and block processes.
 */
import type { FlowName } from '../../channel/index.ts';
import { messageOf, sentenceOf } from '../../common/index.ts';
import { diskId } from '../../hypervisor/index.ts';
import { PatchError } from '../errors.ts';
import { capturePath, prepareEvidence, writeEvidence } from '../evidence/index.ts';
import type { PreparationResult } from '../execution/index.ts';
import { copyName, ensureStopped, preparationSteps } from '../execution/index.ts';
import { addressPairs, bareAddress } from '../policy.ts';
import type { Strategy } from '../strategy.ts';
import type { DrainResult } from '../switching/index.ts';
import {
  announceUntilMoved,
  checkThroughUplink,
  cutPlan,
  drain,
  holdPlan,
  Move,
  nobodyWaits,
  plannedSteps,
  requireQuiet,
  returnSteps,
  systemChanges,
  undoPlan,
  verifyStep,
} from '../switching/index.ts';
import type { PauseForecast } from './calibration.ts';
import type { RunEnvironment } from './environment.ts';
import { forecastPause } from './forecast.ts';
import type { RunPhase } from './phase.ts';
import { FINAL_PHASES, RUN_TRANSITIONS } from './phase.ts';
import type { CutReport, PacketCounts, RunRecord, RunReport } from './record.ts';
import type { Engine, Stage, Step, StepReport } from './step.ts';
import { doSteps, stepsOf, undoSteps } from './step.ts';

/** Old flows get this long to end by themselves, ms. */
const DRAIN_DEADLINE_MS = 60_000;
/** A rollback waits no longer than this for them. */
const ROLLBACK_DRAIN_MS = 5_000;
const ROLLBACK = 'rollback/';
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
  #drain: { promise: Promise<DrainResult>; stop: () => void } | undefined;
  #watch: { stop: () => void } | undefined;

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
      facts: { record: this.record },
    });
    this.#prepareSteps = preparationSteps(env, this.record, this.#preparation);
    try {
      await doSteps(this.#engine(), this.#prepareSteps);
      this.#forecastPauseMs = await this.#forecast(this.#there(), this.record.strategy);
    } catch (error) {
      await this.#undo(this.#prepareSteps, error);
      throw error;
    }
    this.#enter('ready');
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
    await this.#startCapture();
    try {
      this.#forecastPauseMs = await this.#forecast(this.#there(), this.record.strategy);
      if (this.#forecastPauseMs > env.policy.budget.pauseMs) {
        throw new PatchError(
          'over-budget',
          `the pause is forecast to be ${Math.round(this.#forecastPauseMs)} ms, the budget is ${env.policy.budget.pauseMs} ms`,
          { remedy: 'raise patching.budget.pauseMs, or cut when less is written' },
        );
      }
      this.#enter('cutting');
    } catch (error) {
      await this.#stopCapture();
      throw error;
    }
    const move = new Move(env, this.record, { ...this.#there(), reverse: this.#reverseName() });
    const plan = await cutPlan(move);
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
    this.#cut = this.#cutReport(move, this.record.strategy);
    this.#learn(this.#cut);
    this.#enter('probation');
    this.#startDrain(move, this.#cut);
    this.#markPatchesApplied();
    try {
      if (failure !== undefined) throw failure;
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
    this.#watch?.stop();
    this.#enter('rolling-back');
    const way = { from: this.record.to, to: this.record.from, copy: this.#reverseName() };
    const move = new Move(env, this.record, way);
    const waitForDrain = () => this.#finishDrain(ROLLBACK_DRAIN_MS);
    let forecastMs = 0;
    let final: readonly Stage[] = [];
    try {
      await doSteps(this.#engine(ROLLBACK), returnSteps(move, waitForDrain));
      await this.#startCapture('rollback');
      forecastMs = await this.#forecast(way, 'hold');
      const plan = holdPlan(move);
      try {
        await doSteps(this.#engine(ROLLBACK), plan.reversible);
      } catch (error) {
        await undoSteps(this.#engine(ROLLBACK), stepsOf(plan.reversible));
        throw error;
      }
      final = plan.final;
    } catch (error) {
      this.#reason = `rollback failed, ${this.record.to} keeps serving: ${sentenceOf(error)}`;
      this.#enter('probation');
      throw error;
    }
    await doSteps(this.#engine(ROLLBACK), final).catch(async (error) => {
      this.#preparation.notices.push(`the rollback was not smooth: ${sentenceOf(error)}`);
      await this.#completeSwitch(move);
    });
    this.#rollback = this.#cutReport(move, 'hold', forecastMs);
    this.#learn(this.#rollback);
    this.#unmarkPatches();
    this.#startDrain(move, this.#rollback);
    await doSteps(this.#engine(ROLLBACK), [verifyStep(move, env.policy.probation.tries)]).catch((error) => {
      this.#preparation.notices.push(`after the rollback: ${sentenceOf(error)}`);
    });
    await this.#finishDrain(ROLLBACK_DRAIN_MS);
    await this.#stopCapture();
    await ensureStopped(env, this.record.to);
    await env.disks
      .execute('fence', { id: diskId(this.record.to, 'application'), mode: 'none' })
      .catch(() => {});
    env.hypervisor.resources.setAssigned(this.record.to, false);
    this.#enter('rolled-back');
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
    await this.#stopCapture();
    if (this.record.hasApplicationDisk) await env.disks.execute('copy-cancel', { copy: this.#reverseName() });
    await ensureStopped(env, this.record.from);
    if (this.record.hasApplicationDisk) {
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
      await this.#completeSwitch(there);
      this.#phase = last === 'probation' ? last : 'cutting';
      if (last !== 'probation') this.#enter('probation');
      this.#cut = this.#cutReport(there, this.record.strategy);
      this.#startDrain(there, this.#cut);
      this.#startWatch(there);
      return `run ${this.record.id} was ${last}: ${this.record.to} serves, it is on probation`;
    }
    if (last === 'rolling-back') {
      const back = { from: this.record.to, to: this.record.from, copy: this.#reverseName() };
      await this.#completeSwitch(new Move(env, this.record, back));
      this.#phase = last;
      await ensureStopped(env, this.record.to);
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

  /**
   * What is left of a move whose role was written down already: everything here finds its work done or does it.
   */
  async #completeSwitch(move: Move): Promise<void> {
    const { mux, hypervisor, log } = this.#env;
    const attempt = async (what: string, work: Promise<unknown>) => {
      await work.catch((error) =>
        log.warn(`${what} was not completed`, { run: this.record.id, reason: messageOf(error) }),
      );
    };
    await attempt(
      'attaching the port',
      mux.execute('port-state', { name: move.port(move.to), state: 'attached' }),
    );
    move.recallConnections();
    const moved = move.connections.map((connection) => connection.flow);
    for (const address of move.addresses) {
      // A flow that is not steered shows where the path leads.
      const onPath = (await mux.execute('flows', { address })).find((f) => !f.steered);
      if (onPath === undefined) {
        await attempt('the path', mux.execute('path-set', { address, port: move.port(move.to) }));
      } else if (onPath.port !== move.port(move.to)) {
        const ports = { from: move.port(move.from), to: move.port(move.to) };
        await attempt(
          'the switch',
          mux.execute('switch', { address, ...ports, moved: move.flowsOf(address, moved) }),
        );
      }
    }
    if (moved.length > 0) {
      await attempt(
        'the hand-over',
        hypervisor.control(move.to).importConnections(move.connections, move.neighbors),
      );
    }
    await attempt(
      'the private path',
      mux.execute('private-path', { probe: this.#env.probe.port, port: null }),
    );
    for (const { address, second } of move.pairs) {
      await attempt('the release of held packets', mux.execute('hold-release', { address }));
      if (this.record.strategy === 'overlap' && second !== undefined && move.from === this.record.from) {
        await attempt('the change of address', hypervisor.control(move.from).alterAddress(address, second));
      }
      await attempt('the announcement', mux.execute('announce', { address, port: move.port(move.to) }));
    }
  }

  #learn(cut: CutReport): void {
    if (cut.strategy !== 'hold' || this.#forecastParts === undefined) return;
    this.#env.calibration.learn(this.#forecastParts, cut.pauseMs);
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
    this.#phase = phase;
    const atMs = Number(this.#env.clock.wallNs() / 1_000_000n);
    this.#env.journal.append({ runId: this.record.id, kind: 'phase', name: phase, atMs });
    const report = this.report();
    writeEvidence(report, this.#env.journal.read(this.record.id));
    this.#onChange(report);
  }

  async #undo(steps: readonly Step[], cause: unknown): Promise<void> {
    this.#reason = sentenceOf(cause);
    this.#enter('undoing');
    const complaints = await undoSteps(this.#engine(), steps);
    if (complaints.length > 0) this.#reason = [this.#reason, ...complaints].join('; ');
    await this.#stopCapture();
    this.#enter('undone');
  }

  async #forecast(way: { from: string; to: string; copy: string }, strategy: Strategy): Promise<number> {
    if (strategy === this.record.strategy && (await nobodyWaits(this.#env, this.record))) return 0;
    this.#forecastParts = await forecastPause(this.#env, this.record, way);
    return this.#forecastParts.pauseMs;
  }

  async #startCapture(what = 'cut'): Promise<void> {
    const file = capturePath(this.record.evidence, what);
    try {
      await this.#env.mux.execute('capture-start', {
        file,
        comment: `run ${this.record.id}: ${this.record.service} ${this.record.from} → ${this.record.to}, ${what}`,
      });
      // The way back has a file of its own beside it.
      this.#capture ??= file;
    } catch (error) {
      this.#preparation.notices.push(`no capture: ${messageOf(error)}`);
    }
  }

  async #stopCapture(): Promise<void> {
    await this.#env.mux.execute('capture-stop', {}).catch(() => {});
  }

  #cutReport(move: Move, strategy: Strategy, forecastMs?: number): CutReport {
    return {
      from: move.from,
      to: move.to,
      strategy,
      atMs: Number(this.#env.clock.wallNs() / 1_000_000n),
      pauseMs: move.endedMs - move.startedMs,
      forecastPauseMs: forecastMs ?? this.#forecastPauseMs ?? 0,
      handedOver: move.handedOver,
      draining: move.draining.length,
      abandoned: [],
      packets: NO_PACKETS,
      deltaBytes: move.deltaBytes,
    };
  }

  #startDrain(move: Move, cut: CutReport): void {
    let stopped = false;
    const count = async () => {
      const counted = await move.each((address) => this.#env.mux.execute('counters', { address }));
      const sum = (name: keyof PacketCounts) =>
        counted.reduce((all, { sinceSwitch }) => all + sinceSwitch[name], 0);
      cut.packets = {
        rewritten: sum('rewritten'),
        steered: sum('steered'),
        held: sum('held'),
        heldDropped: sum('heldDropped'),
        rstSuppressed: sum('rstSuppressed'),
      };
    };
    const work = async (): Promise<DrainResult> => {
      const result = await drain(
        move,
        this.#env.policy.budget.oldFlowsMs ?? DRAIN_DEADLINE_MS,
        (moved) => {
          cut.handedOver += moved;
        },
        () => stopped,
      );
      cut.abandoned = result.abandoned.map(flowText);
      if (result.abandoned.length === 0 && !stopped) {
        await move.each((address) => this.#env.mux.execute('notice-cancel', { address }));
      }
      await count();
      if (move.from === this.record.from) this.#preparation.systemChanges = await systemChanges(move);
      writeEvidence(this.report(), this.#env.journal.read(this.record.id));
      this.#onChange(this.report());
      return result;
    };
    void announceUntilMoved(
      move,
      (announced) => {
        cut.announced = announced;
      },
      () => stopped,
    );
    const promise = work().catch((error): DrainResult => {
      this.#env.log.warn('draining ended early', { run: this.record.id, reason: messageOf(error) });
      return { handedOver: 0, abandoned: [] };
    });
    this.#drain = {
      promise,
      stop: () => {
        stopped = true;
      },
    };
  }

  /** Waits for the old flows, at most `limitMs`; names those that are left. */
  async #finishDrain(limitMs: number): Promise<string[]> {
    const running = this.#drain;
    if (running === undefined) return [];
    this.#drain = undefined;
    let timer: NodeJS.Timeout | undefined;
    const limit = new Promise<'late'>((resolve) => {
      timer = setTimeout(() => resolve('late'), limitMs);
    });
    const outcome = await Promise.race([running.promise, limit]);
    clearTimeout(timer);
    running.stop();
    if (outcome !== 'late') return outcome.abandoned.map(flowText);
    const left = await running.promise;
    return left.abandoned.map(flowText);
  }

  /** Probation: a health check at intervals; after `tries` failures in a row the service goes back by itself. */
  #startWatch(move: Move): void {
    const { startWaitMs, stabilityMs, tries, rollbackOnFailure } = this.#env.policy.probation;
    const intervalMs = Math.max(100, Math.min(1000, stabilityMs / 5));
    let stopped = false;
    let timer: NodeJS.Timeout | undefined;
    let failures = 0;
    const look = async () => {
      const result = await checkThroughUplink(move).catch((error) => ({
        ok: false,
        detail: messageOf(error),
        ms: 0,
      }));
      if (stopped || this.#phase !== 'probation') return;
      failures = result.ok ? 0 : failures + 1;
      if (failures >= tries) {
        this.#reason = `unhealthy in probation: ${result.detail}`;
        this.#preparation.notices.push(this.#reason);
        if (rollbackOnFailure) {
          await this.rollback().catch((error) => {
            this.#env.log.error('automatic rollback failed', {
              run: this.record.id,
              reason: sentenceOf(error),
            });
          });
        }
        return;
      }
      timer = setTimeout(() => void look(), intervalMs);
    };
    timer = setTimeout(() => void look(), startWaitMs + intervalMs);
    this.#watch = {
      stop: () => {
        stopped = true;
        clearTimeout(timer);
      },
    };
  }

  /** 605, 606: applied with the cut; the flag is used up. */
  #markPatchesApplied(): void {
    const at = new Date(Number(this.#env.clock.wallNs() / 1_000_000n)).toISOString();
    for (const row of this.#env.patches.rows()) {
      if (this.record.patches.includes(row.file))
        this.#env.patches.put({ ...row, date: at, applyNext: false });
    }
  }

  /** After a rollback they are "not yet" again, and not flagged: the administrator decides anew. */
  #unmarkPatches(): void {
    for (const row of this.#env.patches.rows()) {
      if (this.record.patches.includes(row.file))
        this.#env.patches.put({ ...row, date: null, applyNext: false });
    }
  }
}

function flowText(flow: FlowName): string {
  return `${flow.protocol} ${flow.remoteAddress}:${flow.remotePort} → ${flow.localAddress}:${flow.localPort}`;
}
