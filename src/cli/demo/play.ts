/** One act of the demo: a patch appears, the run is prepared and cut, everything is checked, and rolled back. */
import http from 'node:http';
import type { RunView } from '../../daemon/index.ts';
import type { Procedure, RunPhase, RunReport, Strategy } from '../../patch/index.ts';
import { FINAL_PHASES } from '../../patch/index.ts';
import type { ApiClient } from '../api-client.ts';
import { CliError } from '../cli-error.ts';
import { ProgressView } from '../progress.ts';
import type { Terminal } from '../terminal.ts';
import type { Clients } from './clients.ts';
import { countMissing, entriesOnDisk } from './proof.ts';
import type { DemoAct } from './result.ts';
import { actOf } from './result.ts';
import type { Scene } from './scene.ts';
import { PATCH_FILE, publishPatch, SECRET, SERVICE_ADDRESS } from './scene.ts';

const RUN_LIMIT_MS = 120_000;
const POLL_MS = 20;
/** Longer than the product's idea of a quiet disk. */
const QUIET_MS = 400;

export class Play {
  readonly reports: RunReport[] = [];
  readonly #scene: Scene;
  readonly #api: ApiClient;
  readonly #clients: Clients;
  readonly #terminal: Terminal;
  readonly #seconds: number;
  readonly #quiet: boolean;
  /** Finished steps that were shown. */
  readonly #told = new Set<string>();

  constructor(
    scene: Scene,
    api: ApiClient,
    clients: Clients,
    terminal: Terminal,
    seconds: number,
    quiet: boolean,
  ) {
    this.#scene = scene;
    this.#api = api;
    this.#clients = clients;
    this.#terminal = terminal;
    this.#seconds = seconds;
    this.#quiet = quiet;
  }

  async act(strategy: Strategy, procedure?: Procedure): Promise<DemoAct> {
    const problems: string[] = [];
    this.#terminal.err(
      this.#terminal.style(
        'bold',
        `\n${procedure === undefined ? strategy : `${strategy} by ${procedure}`}: a patch appears, is flagged and applied`,
      ),
    );
    await this.#steady();
    const before = await this.#version();
    const flawBefore = await this.#flawIsOpen();
    publishPatch(this.#scene);
    await this.#api.post('/patches/scan');
    await this.#api.post(`/patches/${encodeURIComponent(PATCH_FILE)}/flag`);

    const { id } = await this.#api.post<RunReport>('/runs', {
      strategy,
      ...(procedure === undefined ? {} : { procedure }),
      prepareOnly: true,
    });
    await this.#phase(id, ['ready']);
    await this.#cut(id, strategy);
    await this.#steady();
    const after = await this.#version();
    const flawAfter = await this.#flawIsOpen();
    const onNew = await this.#proof('B');

    this.#terminal.err(this.#terminal.style('bold', `${strategy}: back again, with what was written since`));
    await this.#api.post(`/runs/${id}/rollback`);
    const report = await this.#phase(id, ['rolled-back']);
    await this.#steady();
    const afterRollback = await this.#version();
    const flawAfterRollback = await this.#flawIsOpen();
    const onOld = await this.#proof('A');
    this.reports.push(report);

    const expect = (holds: boolean, problem: string) => {
      if (!holds) problems.push(`${strategy}: ${problem}`);
    };
    expect(after !== before, `version ${after} after the cut is the one before it`);
    expect(afterRollback === before, `version ${afterRollback} after the rollback is not ${before}`);
    expect(
      flawBefore && !flawAfter && flawAfterRollback,
      'the flaw was not open, then closed, then open again',
    );
    return actOf(report, {
      versions: { before, after, afterRollback },
      flaw: { before: flawBefore, after: flawAfter, afterRollback: flawAfterRollback },
      writes: {
        acknowledged: onNew.acknowledged,
        missing: onNew.missing,
        acknowledgedAfterRollback: onOld.acknowledged,
        missingAfterRollback: onOld.missing,
      },
      problems,
    });
  }

  /** `overlap` is for services that do not write at the cut: the writers make a pause there; for `hold` they go on. */
  async #cut(id: string, strategy: Strategy): Promise<void> {
    if (strategy === 'overlap') {
      await this.#clients.ask('pause-writers');
      await delay(QUIET_MS);
    }
    await this.#api.post(`/runs/${id}/cut`);
    await this.#phase(id, ['probation']);
    if (strategy === 'overlap') await this.#clients.ask('resume-writers');
  }

  #steady(): Promise<void> {
    return delay(this.#seconds * 1000);
  }

  async #proof(partition: 'A' | 'B'): Promise<{ acknowledged: number; missing: number }> {
    const { acknowledged } = await this.#clients.ask('report');
    const found = await entriesOnDisk(this.#scene.image(partition, 'application'));
    return { acknowledged: acknowledged.length, missing: countMissing(acknowledged, found) };
  }

  async #phase(id: string, wanted: readonly RunPhase[]): Promise<RunReport> {
    const untilMs = performance.now() + RUN_LIMIT_MS;
    const view = new ProgressView(this.#terminal, this.#quiet);
    for (;;) {
      const report = await this.#api.get<RunView>(`/runs/${id}`);
      report.steps.forEach((step, at) => {
        const key = `${id} ${at}`;
        if (this.#told.has(key)) return;
        if (step.state !== 'running') this.#told.add(key);
        view.step(step);
      });
      if (wanted.includes(report.phase)) return report;
      if (!report.working && report.error !== undefined) {
        const { code, message, remedy } = report.error;
        throw new CliError(code, message, remedy === undefined ? {} : { remedy });
      }
      if (FINAL_PHASES.includes(report.phase)) {
        throw new CliError(
          'failed',
          `run ${id} ended ${report.phase}: ${report.reason ?? 'no reason given'}`,
        );
      }
      if (performance.now() > untilMs) {
        throw new CliError('timeout', `run ${id} is still ${report.phase} after ${RUN_LIMIT_MS / 1000} s`);
      }
      await delay(POLL_MS);
    }
  }

  async #version(): Promise<string> {
    const { body } = await get('/version');
    return (JSON.parse(body) as { version: string }).version;
  }

  /** Tries the path traversal that the patch mends, from outside, and looks for the secret. */
  async #flawIsOpen(): Promise<boolean> {
    const { status, body } = await get('/reports/..%2F..%2F..%2Fetc%2Fledger.secret');
    return status === 200 && body.includes(SECRET);
  }
}

function get(path: string): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const request = http.get(
      { host: SERVICE_ADDRESS, port: 80, path, agent: false, timeout: 10_000 },
      (response) => {
        let body = '';
        response.setEncoding('utf8');
        response.on('data', (part: string) => {
          body += part;
        });
        response.on('end', () => resolve({ status: response.statusCode ?? 0, body }));
        response.on('error', reject);
      },
    );
    request.on('timeout', () => request.destroy(new Error(`GET ${path}: no answer`)));
    request.on('error', reject);
  });
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
