/** Follows the runs: takes their pulse and keeps `timeline.html` in their evidence folders. */
import { messageOf } from '../../common/index.ts';
import type { RunEnvironment } from '../run/environment.ts';
import type { RunPhase } from '../run/phase.ts';
import { FINAL_PHASES } from '../run/phase.ts';
import type { RunReport } from '../run/record.ts';
import { put } from './evidence.ts';
import { Pulse } from './pulse.ts';
import { renderPage } from './timeline-page.ts';

const MOVING: readonly RunPhase[] = ['cutting', 'rolling-back'];

interface Followed {
  pulse: Pulse | undefined;
  report: RunReport;
  phase: RunPhase | undefined;
}

export class EvidenceRecorder {
  readonly #env: RunEnvironment;
  readonly #followed = new Map<string, Followed>();

  constructor(env: RunEnvironment) {
    this.#env = env;
  }

  /** A run's state is now `report`. Never throws. */
  follow(report: RunReport): void {
    let followed = this.#followed.get(report.id);
    if (followed === undefined) {
      followed = { pulse: this.#pulse(report.id, report), report, phase: undefined };
      this.#followed.set(report.id, followed);
    }
    followed.report = report;
    if (followed.phase === report.phase) return;
    followed.phase = report.phase;
    if (report.phase === 'preparing') followed.pulse?.begin(false);
    else if (MOVING.includes(report.phase)) followed.pulse?.begin(true);
    else followed.pulse?.end();
    this.#write(followed);
    letGo(followed);
  }

  /** Nothing of a run that is over is asked for any more. */
  forget(id: string): void {
    this.#followed.delete(id);
  }

  close(): void {
    for (const { pulse } of this.#followed.values()) pulse?.end(true);
  }

  #pulse(id: string, report: RunReport): Pulse | undefined {
    const { hypervisor, services, clock, mux, probe } = this.#env;
    const service = services.find(({ name }) => name === report.service);
    if (service === undefined) return undefined;
    const port = (partition: string) => hypervisor.partitionConfig(partition).network[0]?.name ?? partition;
    try {
      return new Pulse({
        clock,
        mux,
        probe,
        address: report.address,
        health: service.health,
        ports: { old: port(report.from), new: port(report.to) },
        copy: () => copyOf(this.#followed.get(id)?.report),
        ended: () => {
          const followed = this.#followed.get(id);
          if (followed === undefined) return;
          this.#write(followed);
          letGo(followed);
        },
      });
    } catch {
      return undefined;
    }
  }

  #write({ pulse, report }: Followed): void {
    try {
      const none = { answers: [], rates: [], copy: [] };
      put(report.evidence, 'timeline.html', renderPage(report, pulse?.curves ?? none));
    } catch (error) {
      this.#env.log.warn('the evidence page could not be written', {
        run: report.id,
        reason: messageOf(error),
      });
    }
  }
}

/** Over and written for the last time: its curves are in its folder, and no longer here. */
function letGo(followed: Followed): void {
  if (FINAL_PHASES.includes(followed.report.phase) && followed.pulse?.isRunning !== true)
    followed.pulse = undefined;
}

/** Of the copy that is under way. */
function copyOf(report: RunReport | undefined): { copied: number; remaining: number } | undefined {
  const progress = report?.steps.findLast(
    (step) => step.state === 'running' && step.progress?.unit === 'bytes',
  )?.progress;
  if (progress === undefined) return undefined;
  return { copied: progress.done, remaining: Math.max(0, progress.total - progress.done) };
}
