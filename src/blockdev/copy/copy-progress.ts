/** What a copy tells of itself, from what it has measured. */
import type { WriteThrottle } from '../filter/index.ts';
import type { CopyMethod } from './bulk-copy.ts';
import type { Convergence } from './convergence.ts';
import { SMALL_DELTA } from './convergence.ts';
import type { CopyPhase, CopyProgress } from './copy-types.ts';

export interface CopyFacts {
  readonly purpose: 'copy' | 'reverse';
  readonly phase: CopyPhase;
  readonly total: number;
  readonly copied: number;
  readonly delta: number;
  readonly proven: number;
  readonly unproven: number;
  readonly rounds: number;
  /** Of the bulk copy, over the last seconds. */
  readonly bytesPerSecond: number;
  readonly writeRate: number;
  readonly convergence: Convergence;
  /** Of the sources. */
  readonly throttles: readonly WriteThrottle[];
  readonly method: CopyMethod | undefined;
  readonly resumed: boolean;
  readonly reason: string | undefined;
}

export function progressOf(facts: CopyFacts): CopyProgress {
  const {
    total,
    copied,
    delta,
    proven,
    unproven,
    rounds,
    bytesPerSecond,
    writeRate,
    convergence,
    throttles,
  } = facts;
  let { phase } = facts;
  if (facts.purpose === 'reverse' && (phase === 'converged' || phase === 'replaying'))
    phase = delta <= SMALL_DELTA ? 'converged' : 'replaying';
  const net = bytesPerSecond - writeRate;
  const reason = facts.reason ?? (convergence.outrun ? 'writes outrun the replay' : undefined);
  // Honest: no figure while writes come in as fast as they are copied.
  let etaMs: number | undefined;
  if (phase === 'copying' && net > 0) etaMs = Math.round(((total - copied + delta) / net) * 1000);
  if (phase === 'replaying') etaMs = convergence.forecastMs(delta, writeRate);
  const slowed = throttles.some((throttle) => throttle.delayed > 0 || throttle.bytesPerSecond > 0);
  return {
    phase,
    total,
    copied,
    delta,
    proven,
    unproven,
    rounds,
    bytesPerSecond,
    writeRate,
    reflectRate: convergence.reflectRate,
    ...(etaMs === undefined ? {} : { etaMs }),
    ...(facts.method === undefined ? {} : { method: facts.method }),
    ...(facts.resumed ? { resumed: true } : {}),
    ...(slowed
      ? {
          throttle: {
            bytesPerSecond: Math.round(convergence.limit),
            maxDelayMs: convergence.limits.maxDelayMs,
            delayedWrites: throttles.reduce((sum, { delayed }) => sum + delayed, 0),
            delayedMs: Math.round(throttles.reduce((sum, { delayedMs }) => sum + delayedMs, 0)),
          },
        }
      : {}),
    ...(reason === undefined ? {} : { reason }),
  };
}
