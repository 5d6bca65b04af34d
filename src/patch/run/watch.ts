/** Probation: a health check at intervals, as a client on the uplink would make it. */
import { messageOf } from '../../common/index.ts';
import type { Move } from '../switching/index.ts';
import { checkThroughUplink } from '../switching/index.ts';
import type { RunEnvironment } from './environment.ts';

export interface Watch {
  /** Nobody looks any more. */
  readonly isOver: () => boolean;
  /** After so many failures in a row as the policy allows; the watch has ended then. */
  readonly onUnhealthy: (detail: string) => Promise<void>;
}

export function watchProbation(env: RunEnvironment, move: Move, watch: Watch): { stop: () => void } {
  const { startWaitMs, stabilityMs, tries } = env.policy.probation;
  const intervalMs = Math.max(100, Math.min(1000, stabilityMs / 5));
  let stopped = false;
  let failures = 0;
  const look = async () => {
    const result = await checkThroughUplink(move).catch((error) => ({ ok: false, detail: messageOf(error) }));
    if (stopped || watch.isOver()) return;
    failures = result.ok ? 0 : failures + 1;
    if (failures >= tries) await watch.onUnhealthy(result.detail);
    else timer = setTimeout(() => void look(), intervalMs);
  };
  let timer = setTimeout(() => void look(), startWaitMs + intervalMs);
  return {
    stop: () => {
      stopped = true;
      clearTimeout(timer);
    },
  };
}
