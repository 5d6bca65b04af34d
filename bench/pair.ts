/** Two partitions of the example service under a daemon, as `changeover demo` has them, to be measured from outside. */
import { copyFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { ApiClient } from '../src/cli/api-client.ts';
import type { Scene, SceneSizes } from '../src/cli/demo/scene.ts';
import { buildScene, PATCH_FILE, publishPatch } from '../src/cli/demo/scene.ts';
import { programFile } from '../src/common/index.ts';
import type { RunView } from '../src/daemon/index.ts';
import type { RunPhase, RunReport, Strategy } from '../src/patch/index.ts';
import { FINAL_PHASES } from '../src/patch/index.ts';
import type { Bench, Stage } from './framework/index.ts';
import { NODE, pause, REPOSITORY } from './framework/index.ts';

const RUN_LIMIT_MS = 60_000;
const START_LIMIT_MS = 60_000;
const POLL_MS = 20;

export class Pair {
  readonly scene: Scene;
  readonly #api: ApiClient;

  private constructor(scene: Scene, api: ApiClient) {
    this.scene = scene;
    this.#api = api;
  }

  /** Partition A serves when it returns. */
  static async start(bench: Bench, stage: Stage, name: string, sizes?: SceneSizes): Promise<Pair> {
    const directory = join(bench.scratch, name);
    mkdirSync(directory);
    const scene = await buildScene(directory, sizes);
    // For those who start the standby by hand; a run copies it anew.
    copyFileSync(scene.image('A', 'system'), scene.image('B', 'system'));
    const api = new ApiClient(scene.runDirectory);
    const control = programFile(join(REPOSITORY, 'src/daemon/processes/control.ts'));
    await stage.start([...NODE, control, '--config', scene.configuration, '--lifeline'], {
      limitMs: START_LIMIT_MS,
      ready: async () => {
        try {
          const status = await api.get<{ services: { health?: { ok: boolean } }[] }>('/status');
          return status.services[0]?.health?.ok === true;
        } catch {
          return false;
        }
      },
    });
    return new Pair(scene, api);
  }

  /** Starts the standby, milliseconds until it is ready; and ends it again. */
  async bootStandby(): Promise<{ readonly startMs: number; readonly bootMs: number }> {
    const startedMs = performance.now();
    const { bootMs } = await this.#api.post<{ bootMs: number }>('/partitions/B/start');
    const startMs = performance.now() - startedMs;
    await this.#api.post('/partitions/B/stop', { force: false });
    return { startMs, bootMs };
  }

  /** A run that stands ready for its cut. */
  async prepare(strategy: Strategy): Promise<string> {
    publishPatch(this.scene);
    await this.#api.post('/patches/scan');
    await this.#api.post(`/patches/${encodeURIComponent(PATCH_FILE)}/flag`);
    const { id } = await this.#api.post<RunReport>('/runs', { strategy, prepareOnly: true });
    await this.#phase(id, 'ready');
    return id;
  }

  /** The whole of a run by one order, milliseconds until the patched service has been verified. */
  async patch(strategy: Strategy): Promise<{ readonly ms: number }> {
    publishPatch(this.scene);
    await this.#api.post('/patches/scan');
    await this.#api.post(`/patches/${encodeURIComponent(PATCH_FILE)}/flag`);
    const startedMs = performance.now();
    const { id } = await this.#api.post<RunReport>('/runs', { strategy });
    await this.#phase(id, 'probation');
    return { ms: performance.now() - startedMs };
  }

  async cut(id: string): Promise<RunReport> {
    await this.#api.post(`/runs/${id}/cut`);
    return this.#phase(id, 'probation');
  }

  async rollback(id: string): Promise<RunReport> {
    await this.#api.post(`/runs/${id}/rollback`);
    return this.#phase(id, 'rolled-back');
  }

  async #phase(id: string, wanted: RunPhase): Promise<RunReport> {
    const untilMs = performance.now() + RUN_LIMIT_MS;
    for (;;) {
      const report = await this.#api.get<RunView>(`/runs/${id}`);
      if (report.phase === wanted) return report;
      if (!report.working && report.error !== undefined) throw new Error(report.error.message);
      if (FINAL_PHASES.includes(report.phase) || performance.now() > untilMs) {
        throw new Error(`run ${id} is ${report.phase}, not ${wanted}: ${report.reason ?? 'no reason given'}`);
      }
      await pause(POLL_MS);
    }
  }
}
