/**
 * Requests of clients that the mux has recorded, in a rehearsal. Nobody has said what of their answers may differ, so the active is asked
 * twice, before its application disk is copied and after: what is the same both times, the standby has to answer as well. In what the
 * active itself answers otherwise (a clock, a counter, data that was written meanwhile) it is not held to it. What may write goes
 * to the standby only, which works on the copy, and must not fail.
 */
import type { RehearsalRequest, RehearsalSpec } from '../policy.ts';
import { addressPairs, bareAddress } from '../policy.ts';
import type { RunEnvironment } from '../run/environment.ts';
import type { RunRecord } from '../run/record.ts';
import type { HttpAnswer, RecordedOutcome, RehearsalDifference } from './compare.ts';
import { differences, isSafe, nameOf } from './compare.ts';
import { askActive, askStandby, compared } from './exchange.ts';

/** Each time that all of them are asked; what is left then is not asked. */
const ROUND_MS = 30_000;

interface Case {
  readonly request: RehearsalRequest;
  readonly count: number;
  before?: HttpAnswer;
  after?: HttpAnswer;
  outcome: RecordedOutcome['outcome'];
}

export class Recorded {
  readonly #env: RunEnvironment;
  readonly #record: RunRecord;
  readonly #spec: RehearsalSpec;
  readonly #cases: Case[];

  private constructor(env: RunEnvironment, record: RunRecord, spec: RehearsalSpec, cases: Case[]) {
    this.#env = env;
    this.#record = record;
    this.#spec = spec;
    this.#cases = cases;
  }

  /** What the mux has by now; nothing where the service has no recording. */
  static async take(env: RunEnvironment, record: RunRecord, spec: RehearsalSpec): Promise<Recorded> {
    const { recording } = spec;
    const cases = new Map<string, Case>();
    for (const { address } of recording === undefined ? [] : addressPairs(record)) {
      const { requests } = await env.mux.execute('requests-recorded', { address: bareAddress(address) });
      for (const { method, path, headers, body, count } of requests) {
        const request = {
          ...{ method, path, headers, recorded: true },
          ...(body === undefined ? {} : { body }),
          ignore: recording?.ignore ?? [],
          ignoreText: recording?.ignoreText ?? [],
        };
        const known = cases.get(`${method} ${path}`);
        if (known === undefined) cases.set(`${method} ${path}`, { request, count, outcome: 'unanswered' });
      }
    }
    const most = recording?.requests ?? 0;
    return new Recorded(env, record, spec, [...cases.values()].slice(0, most));
  }

  get size(): number {
    return this.#cases.length;
  }

  async askActive(when: 'before' | 'after', checkCancelled: () => void): Promise<void> {
    const untilMs = this.#env.clock.nowMs() + ROUND_MS;
    for (const one of this.#cases) {
      checkCancelled();
      if (!isSafe(one.request) || (when === 'after' && one.before === undefined)) continue;
      if (this.#env.clock.nowMs() > untilMs) return;
      const { answer } = await askActive(this.#env, this.#record, this.#spec, one.request);
      if (answer !== undefined) one[when] = answer;
    }
  }

  /** What the standby answers otherwise than the active. */
  async askStandby(step: (done: number) => void): Promise<RehearsalDifference[]> {
    const untilMs = this.#env.clock.nowMs() + ROUND_MS;
    const found: RehearsalDifference[] = [];
    for (const [i, one] of this.#cases.entries()) {
      step(i);
      const { before, after, request } = one;
      if (isSafe(request) && (before === undefined || after === undefined)) continue;
      if (this.#env.clock.nowMs() > untilMs) break;
      const changes =
        before === undefined || after === undefined
          ? []
          : differences(request, this.#spec, before, after).map(({ what }) => what);
      const held = { ...request, ignore: [...(request.ignore ?? []), ...changes] };
      const standby = await askStandby(this.#env, this.#record, this.#spec, request);
      const differs = compared(this.#spec, held, after, standby);
      one.outcome = differs.length > 0 ? 'differs' : changes.length > 0 ? 'changes' : 'same';
      found.push(...differs);
    }
    return found;
  }

  outcomes(): RecordedOutcome[] {
    return this.#cases.map(({ request, count, outcome }) => ({ request: nameOf(request), count, outcome }));
  }
}
