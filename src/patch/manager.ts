/**
 * The patch manager [109]: patch table, runs, and who may do what when. One run per service at a time; it is prepared,
 * waits for its cut or goes on at once, is on probation, and ends by commit or rollback.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { again, messageOf, reach, sentenceOf } from '../common/index.ts';
import { diskId } from '../hypervisor/index.ts';
import { PatchError } from './errors.ts';
import { EvidenceRecorder } from './evidence/index.ts';
import type { JournalEntry } from './journal.ts';
import type { RegisteredPatch } from './patch-table.ts';
import { findPatch, flagPatch } from './patch-table.ts';
import type { ServiceSpec } from './policy.ts';
import { addressPairs } from './policy.ts';
import { PauseCalibration } from './run/calibration.ts';
import type { RunEnvironment } from './run/environment.ts';
import { removeLogs } from './run/logs.ts';
import type { RunPhase } from './run/phase.ts';
import { FINAL_PHASES } from './run/phase.ts';
import type { RunRecord, RunReport } from './run/record.ts';
import { DEFAULT_KEPT_RUNS, forget, outlived } from './run/retention.ts';
import { Run } from './run/run.ts';
import type { StepReport } from './run/step.ts';
import type { ScanResult, SourceSpec } from './source/index.ts';
import { scanDirectory } from './source/index.ts';
import type { Procedure, Strategy } from './strategy.ts';
import { chooseStrategy } from './strategy.ts';

export interface RunRequest {
  /** Needed where more than one service is configured. */
  readonly service?: string;
  /** Default: the policy's. */
  readonly strategy?: 'auto' | Strategy;
  /** Default: the policy's. */
  readonly procedure?: 'auto' | Procedure;
  /** Stop before the cut and wait for `cut`. */
  readonly prepareOnly?: boolean;
  /** Prepare, report, undo: nothing of the service is touched. */
  readonly dryRun?: boolean;
  /** Run although no patch is flagged: a restart on fresh copies. */
  readonly withoutPatches?: boolean;
}

/** Name of the journal's entries that say that a starting control process took a run up. */
const RESUMED = 'resumed';
const TAKE_UP_AGAIN_MS = [100, 500] as const;

export type PatchEvent =
  | { readonly kind: 'run'; readonly report: RunReport }
  | { readonly kind: 'step'; readonly run: string; readonly phase: RunPhase; readonly step: StepReport };

export class PatchManager {
  readonly #env: RunEnvironment;
  readonly #sources: readonly SourceSpec[];
  readonly #runs = new Map<string, Run>();
  readonly #listeners = new Set<(event: PatchEvent) => void>();
  readonly #evidence: EvidenceRecorder;

  constructor(env: Omit<RunEnvironment, 'calibration'>, sources: readonly SourceSpec[]) {
    this.#env = { ...env, calibration: new PauseCalibration() };
    this.#sources = sources;
    this.#evidence = new EvidenceRecorder(this.#env);
  }

  onEvent(listener: (event: PatchEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  list(): RegisteredPatch[] {
    return this.#env.patches.rows();
  }

  show(file: string): RegisteredPatch {
    return findPatch(this.#env.patches, file);
  }

  flag(file: string): RegisteredPatch {
    return flagPatch(this.#env.patches, file, true);
  }

  unflag(file: string): RegisteredPatch {
    return flagPatch(this.#env.patches, file, false);
  }

  /** Looks into every patch source and registers what is new. */
  scan(): ScanResult {
    const all: ScanResult = { registered: [], refused: [] };
    for (const source of this.#sources) {
      const one = scanDirectory(source, this.#env.policy.allowUnsigned, this.#env.patches, this.#nowMs());
      all.registered.push(...one.registered);
      all.refused.push(...one.refused);
    }
    return all;
  }

  /** Registers one description file (`NAME.json`, its patch file beside it). Throws `bad-patch`, `unsigned`. */
  add(descriptionPath: string): RegisteredPatch {
    const name = basename(descriptionPath);
    let file: unknown;
    try {
      file = (JSON.parse(readFileSync(descriptionPath, 'utf8')) as { file?: unknown }).file;
    } catch (error) {
      throw new PatchError(
        'bad-patch',
        `${descriptionPath} is not a patch description: ${sentenceOf(error)}`,
        {
          cause: error,
          remedy: 'name the JSON file that describes the patch, see docs/patching.md',
        },
      );
    }
    const source: SourceSpec = { name: 'import', path: dirname(descriptionPath) };
    const { registered, refused } = scanDirectory(
      source,
      this.#env.policy.allowUnsigned,
      this.#env.patches,
      this.#nowMs(),
      [name],
    );
    if (refused[0] !== undefined) throw new PatchError('bad-patch', refused[0]);
    return registered[0] ?? this.show(String(file));
  }

  /** Prepares a run and, unless told otherwise, cuts. Returns its report; throws what made it fail, after undoing it. */
  async run(request: RunRequest = {}): Promise<RunReport> {
    const run = await this.begin(request);
    return this.finish(run.record.id, request);
  }

  /** The refusals that can be told at once; the run exists after it, nothing has been done yet. */
  async begin(request: RunRequest = {}): Promise<Run> {
    const env = this.#env;
    const service = this.#service(request.service);
    const running = [...this.#runs.values()].find((run) => run.record.service === service.name && !run.over);
    if (running !== undefined) {
      throw new PatchError(
        'run-in-progress',
        `run ${running.record.id} of ${service.name} is ${running.phase}`,
        {
          remedy: `commit it, roll it back or cancel it first`,
        },
      );
    }
    const patches = env.patches.rows().filter((row) => row.applyNext && row.date === null);
    if (patches.length === 0 && request.withoutPatches !== true) {
      throw new PatchError('nothing-flagged', 'no patch is flagged for the next run', {
        remedy: 'flag one with: changeover patch flag FILE',
      });
    }
    const from = env.roles.active(service.name);
    const standby = env.hypervisor.resources.findStandby(from);
    if (!standby.found) {
      throw new PatchError(
        'no-standby',
        `no partition can stand in for ${from}: ${standby.reasons.join('; ')}`,
        {
          remedy: 'define one that covers it, or commit or roll back the run that holds it',
        },
      );
    }
    this.#tidy();
    const record = await this.#record(service, from, standby.id, patches, request);
    const run = new Run(env, record, (report, step) => this.#publish(report, step));
    this.#runs.set(record.id, run);
    return run;
  }

  /** Second half of `run` for a run that `begin` returned. */
  async finish(id: string, request: RunRequest): Promise<RunReport> {
    const run = this.#run(id);
    await run.prepare();
    if (request.dryRun === true) {
      await run.plan();
      await run.cancel();
    } else if (request.prepareOnly !== true) await run.cut();
    return run.report();
  }

  async cut(id: string): Promise<RunReport> {
    const run = this.#run(id);
    await run.cut();
    return run.report();
  }

  async rollback(id: string): Promise<RunReport> {
    const run = this.#run(id);
    await run.rollback();
    return run.report();
  }

  async commit(id: string): Promise<RunReport> {
    const run = this.#run(id);
    await run.commit();
    return run.report();
  }

  async cancel(id: string): Promise<RunReport> {
    const run = this.#run(id);
    await run.cancel();
    return run.report();
  }

  reports(): RunReport[] {
    return [...this.#runs.values()].map((run) => run.report());
  }

  report(id: string): RunReport {
    return this.#run(id).report();
  }

  /** The run that is not over yet, or the last one. */
  currentId(service?: string): string | undefined {
    const runs = this.reports().filter((r) => service === undefined || r.service === service);
    return (runs.find((r) => !FINAL_PHASES.includes(r.phase)) ?? runs.at(-1))?.id;
  }

  /**
   * After a restart of the control process: runs whose clients were moved stay on probation; every other unfinished run
   * is undone. Answers with what was done, one sentence each.
   */
  async recover(): Promise<string[]> {
    const done: string[] = [];
    for (const id of this.#env.journal.runs()) {
      const entries = this.#env.journal.read(id);
      const begun = entries.find((e) => e.kind === 'run-begun')?.facts;
      const record = begun?.['record'] as RunRecord | undefined;
      if (record === undefined) continue;
      const last = (entries.findLast((e) => e.kind === 'phase')?.name ?? 'preparing') as RunPhase;
      const run = new Run(this.#env, record, (report, step) => this.#publish(report, step));
      this.#runs.set(id, run);
      if (FINAL_PHASES.includes(last)) {
        run.restore(last);
        continue;
      }
      done.push(await this.#resume(run, last, entries));
    }
    this.#tidy();
    return done;
  }

  /** What fails time and again is left as it is, for people: a run must not keep the control process from starting. */
  async #resume(run: Run, last: RunPhase, entries: readonly JournalEntry[]): Promise<string> {
    const env = this.#env;
    const { id } = run.record;
    const phaseAt = entries.findLastIndex((e) => e.kind === 'phase');
    const tries = entries.slice(phaseAt + 1).filter((e) => e.kind === 'state' && e.name === RESUMED).length;
    if (tries >= env.limits.resumes) {
      run.restore(last);
      const sentence = `run ${id} could not be taken up ${tries} times, it stays ${last}: see its timeline, then cancel it or roll it back`;
      env.alarm(sentence);
      return sentence;
    }
    try {
      reach('recover.before-persist');
      env.journal.append({ runId: id, kind: 'state', name: RESUMED, atMs: this.#nowMs() });
      reach('recover.persisted');
      const sentence = await this.#takeUp(run, last);
      reach('recover.done');
      return sentence;
    } catch (error) {
      const sentence = `run ${id}, which was ${last}, could not be taken up: ${sentenceOf(error)}`;
      env.alarm(sentence);
      return sentence;
    }
  }

  /** What a run could not remove at its end, or a control process that ended just before; and runs of long ago. */
  #tidy(): void {
    const { stateDirectory, policy, journal, log } = this.#env;
    try {
      removeLogs(stateDirectory, (id) => this.#runs.get(id)?.over === true);
      for (const { record } of outlived(this.#runs.values(), policy.keepRuns ?? DEFAULT_KEPT_RUNS)) {
        forget(record, journal);
        this.#runs.delete(record.id);
        this.#evidence.forget(record.id);
      }
    } catch (error) {
      log.warn('what is left of earlier runs was not removed', { reason: messageOf(error) });
    }
  }

  /** All of it may be done again: one command that fails must not leave a run half way until the next start. */
  #takeUp(run: Run, last: RunPhase): Promise<string> {
    return again(
      TAKE_UP_AGAIN_MS,
      () => run.recover(last),
      (error) =>
        this.#env.log.warn('a run is taken up once more', { run: run.record.id, reason: sentenceOf(error) }),
    );
  }

  #service(name: string | undefined): ServiceSpec {
    const { services } = this.#env;
    const found =
      name === undefined && services.length === 1 ? services[0] : services.find((s) => s.name === name);
    if (found !== undefined) return found;
    throw new PatchError(
      'no-such-service',
      name === undefined ? 'more than one service is configured' : `there is no service ${name}`,
      {
        remedy: `name one of: ${services.map((s) => s.name).join(', ')}`,
      },
    );
  }

  async #record(
    service: ServiceSpec,
    from: string,
    to: string,
    patches: readonly RegisteredPatch[],
    request: RunRequest,
  ): Promise<RunRecord> {
    const env = this.#env;
    const hasApplicationDisk = env.hypervisor
      .partitionConfig(from)
      .disks.some((d) => d.role === 'application');
    const status = hasApplicationDisk
      ? (await env.disks.execute('disk-status', { id: diskId(from, 'application') }))[0]
      : undefined;
    const hasSecondAddress = addressPairs(service).every(({ second }) => second !== undefined);
    const choice = chooseStrategy({
      asked: request.strategy ?? env.policy.strategy,
      askedProcedure: request.procedure ?? env.policy.procedure ?? 'auto',
      hasSecondAddress,
      ownUplinks: this.#uplinkOf(from) !== this.#uplinkOf(to),
      hasApplicationDisk,
      quietForMs: status?.lastWriteMsAgo,
    });
    const startedAtMs = this.#nowMs();
    const stamp = new Date(startedAtMs).toISOString().replace(/[-:]/g, '').slice(0, 15);
    const id = `${stamp}-${randomBytes(2).toString('hex')}`;
    return {
      id,
      service: service.name,
      from,
      to,
      strategy: choice.strategy,
      procedure: choice.procedure,
      strategyReason: choice.reason,
      address: service.address,
      ...(service.second === undefined ? {} : { second: service.second }),
      ...(service.gateway === undefined ? {} : { gateway: service.gateway }),
      ...(service.address6 === undefined ? {} : { address6: service.address6 }),
      ...(service.second6 === undefined ? {} : { second6: service.second6 }),
      ...(service.also === undefined ? {} : { also: service.also }),
      hasApplicationDisk,
      patches: patches.map((row) => row.file),
      startedAtMs,
      evidence: join(env.stateDirectory, 'evidence', id),
    };
  }

  /** Name of the uplink that a partition's first port is behind; undefined: the first one. */
  #uplinkOf(partition: string): string | undefined {
    return this.#env.hypervisor.partitionConfig(partition).network[0]?.uplink;
  }

  #run(id: string): Run {
    const run = this.#runs.get(id);
    if (run !== undefined) return run;
    throw new PatchError('no-such-run', `there is no run ${id}`, {
      remedy: `known are: ${[...this.#runs.keys()].join(', ') || 'none'}`,
    });
  }

  #publish(report: RunReport, step: StepReport | undefined): void {
    this.#evidence.follow(report);
    const event: PatchEvent =
      step === undefined
        ? { kind: 'run', report }
        : { kind: 'step', run: report.id, phase: report.phase, step };
    for (const listener of this.#listeners) listener(event);
  }

  #nowMs(): number {
    return Number(this.#env.clock.wallNs() / 1_000_000n);
  }
}
