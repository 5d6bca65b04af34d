/** Runs as the API offers them: begun at once, gone on with in the background, ended with an outcome that can be asked for. */
import type { PatchEvent, RunRequest } from '../../patch/index.ts';
import { FINAL_PHASES } from '../../patch/index.ts';
import type { ErrorAnswer } from '../api/index.ts';
import { errorAnswer } from '../api/index.ts';
import type { Daemon } from './daemon.ts';
import type { RunView } from './views.ts';

export class Runs {
  readonly #daemon: Daemon;
  readonly #outcomes = new Map<string, ErrorAnswer['error']>();
  readonly #working = new Map<string, Promise<void>>();
  readonly #off: () => void;

  constructor(daemon: Daemon) {
    this.#daemon = daemon;
    this.#off = daemon.manager.onEvent((event) => this.#publish(event));
  }

  /** Throws the refusals that can be told at once; the rest of the outcome is in the run's view. */
  async begin(request: RunRequest): Promise<RunView> {
    const run = await this.#daemon.manager.begin(request);
    const { id } = run.record;
    this.#work(id, () => this.#daemon.manager.finish(id, request));
    return this.view(id);
  }

  cut(id: string): RunView {
    return this.#later(id, () => this.#daemon.manager.cut(id));
  }

  rollback(id: string): RunView {
    return this.#later(id, () => this.#daemon.manager.rollback(id));
  }

  async commit(id: string): Promise<RunView> {
    await this.#daemon.manager.commit(id);
    return this.view(id);
  }

  async cancel(id: string): Promise<RunView> {
    await this.#daemon.manager.cancel(id);
    return this.view(id);
  }

  view(id: string): RunView {
    const report = this.#daemon.manager.report(id);
    const error = this.#outcomes.get(id);
    return { ...report, working: this.#working.has(id), ...(error === undefined ? {} : { error }) };
  }

  views(): RunView[] {
    return this.#daemon.manager.reports().map(({ id }) => this.view(id));
  }

  current(): RunView | undefined {
    return this.views().find(({ phase }) => !FINAL_PHASES.includes(phase));
  }

  /** `current` for the run that is not over yet, `last` for the newest one. */
  resolve(id: string): string {
    if (id !== 'current' && id !== 'last') return this.#daemon.manager.report(id).id;
    const found = id === 'current' ? this.current()?.id : this.#daemon.manager.currentId();
    return found ?? this.#daemon.manager.report(id).id;
  }

  /** A run that has not moved its clients yet is undone; one on probation stays so, it is taken up at the next start. */
  async close(keepRunning: boolean): Promise<void> {
    const run = this.current();
    if (run !== undefined && !keepRunning && (run.phase === 'preparing' || run.phase === 'ready')) {
      await this.#daemon.manager.cancel(run.id);
    }
    await Promise.allSettled(this.#working.values());
    this.#off();
  }

  #later(id: string, act: () => Promise<unknown>): RunView {
    this.#daemon.manager.report(id);
    this.#work(id, act);
    return this.view(id);
  }

  #work(id: string, act: () => Promise<unknown>): void {
    this.#outcomes.delete(id);
    const work = act()
      .catch((error: unknown) => {
        this.#outcomes.set(id, errorAnswer(error).error);
      })
      .then(() => {
        if (this.#working.get(id) === work) this.#working.delete(id);
        this.#daemon.events.publish('run', this.view(id));
      });
    this.#working.set(id, work);
  }

  #publish(event: PatchEvent): void {
    if (event.kind === 'run') {
      this.#daemon.events.publish('run', this.view(event.report.id));
      if (FINAL_PHASES.includes(event.report.phase)) this.#daemon.partitions.runEnded(event.report.service);
    } else this.#daemon.events.publish('step', { run: event.run, phase: event.phase, step: event.step });
  }
}
