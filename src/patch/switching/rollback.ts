/**
 * The way back: the same steps backwards (Fig 7: "if trouble shows hours later"), carrying what the new active wrote.
 *
 *   check-new               a new active that does not answer is ended; its disk is taken as it is
 *   wait-for-drain          the old partition finishes its flows, or the deadline names the rest
 *   stop-old                it ends; its disks are as the cut left them
 *   boot-old                it boots again, isolated, application disk unattached
 *   replay-reverse-log      rounds, until what is left is small; where the log was lost or used up, the disk is copied anew
 *   then the steps of `hold`, from the new active to the old one, by the procedure that led there: H6, after H8 too, or H7
 */

import { join } from 'node:path';
import { codeOf } from '../../common/index.ts';
import { PatchError } from '../errors.ts';
import { ensureStopped } from '../execution/index.ts';
import { addressPairs } from '../policy.ts';
import type { RunEnvironment } from '../run/environment.ts';
import type { Step, StepTools } from '../run/step.ts';
import type { Move } from './move.ts';

const MAX_ROUNDS = 8;
const SMALL_DELTA_BYTES = 1024 * 1024;
const BOOT_TIMEOUT_MS = 30_000;
const SELF_CHECK_ROUNDS = 8;
const CHECKED_CONNECTIONS = 16;
const PING_MS = 1_000;
const POLL_MS = 50;
const MAX_RETURN_COPIES = 9;

/** `move` leads from the new active back to the old one (`move.to`). */
export function returnSteps(move: Move, waitForDrain: () => Promise<string[]>): Step[] {
  const { env, from, to } = move;
  const { hypervisor, mux, disks } = env;
  return [
    {
      name: 'check-new',
      figure: '',
      do: async () => {
        move.fromIsDead = !(await answers(env, from));
        if (!move.fromIsDead) return undefined;
        await hypervisor.stopPartition(from, { timeoutMs: 0 });
        return { ended: from };
      },
    },
    {
      name: 'wait-for-drain',
      figure: '',
      do: async () => {
        const abandoned = await waitForDrain();
        return { abandoned };
      },
    },
    {
      name: 'stop-old',
      figure: '',
      do: async () => {
        await move.each((address) => mux.execute('notice-cancel', { address, force: true }));
        await hypervisor.exportApplicationDisk(to, false);
        await ensureStopped(env, to);
        return undefined;
      },
    },
    {
      name: 'boot-old',
      figure: '707',
      do: async () => {
        const status = await hypervisor.startPartition(to, {
          addresses: addressPairs(move.record).map(({ address, second }) =>
            move.procedure === 'H7' && second !== undefined ? second : address,
          ),
          isolated: true,
          applicationDisk: false,
          startApplication: false,
          timeoutMs: BOOT_TIMEOUT_MS,
        });
        const check = await hypervisor.control(to).selfCheck(SELF_CHECK_ROUNDS, CHECKED_CONNECTIONS);
        return { bootMs: status.guest?.bootMs, handOverMs: check.lastRoundMs };
      },
    },
    {
      name: 'replay-reverse-log',
      figure: '905',
      do: async (tools) => {
        if (!move.record.hasApplicationDisk) return { skipped: 'no application disk' };
        const anew = await ensureWayBack(move, tools);
        let rounds = 0;
        for (; rounds < MAX_ROUNDS; rounds++) {
          tools.checkCancelled();
          const round = await disks.execute('copy-round', { copy: move.copy }, { timeoutMs: 600_000 });
          if (Number(round.delta) < SMALL_DELTA_BYTES) break;
        }
        return { rounds: rounds + 1, ...(anew === undefined ? {} : { copiedAnew: anew }) };
      },
    },
  ];
}

/** Copies for the way back that this run may have made. */
export function returnCopies(runId: string): string[] {
  return Array.from({ length: MAX_RETURN_COPIES }, (_one, i) => `${runId}-return-${i + 1}`);
}

async function unusedName(move: Move): Promise<string> {
  for (const copy of returnCopies(move.record.id)) {
    try {
      const { phase } = await move.env.disks.execute('copy-status', { copy });
      if (phase === 'copying' || phase === 'replaying' || phase === 'converged') return copy;
    } catch (error) {
      if (codeOf(error) === 'unknown-copy') return copy;
      throw error;
    }
  }
  throw new PatchError('copy-failed', `the way back was copied ${MAX_RETURN_COPIES} times, and never taken`, {
    remedy: 'commit the run, and make another one',
  });
}

/** No log of the way back is written any more. */
export async function dropWayBack(env: RunEnvironment, runId: string): Promise<void> {
  for (const copy of [`${runId}-reverse`, ...returnCopies(runId)]) {
    try {
      await env.disks.execute('copy-cancel', { copy });
    } catch (error) {
      if (codeOf(error) !== 'unknown-copy') throw error;
    }
  }
}

async function answers(env: RunEnvironment, partition: string): Promise<boolean> {
  const { state } = await env.hypervisor.partitionStatus(partition);
  if (state !== 'running') return false;
  // Silence is the sign, not one failure: it is ended for it, with everybody who is connected to it.
  const untilMs = env.clock.nowMs() + PING_MS;
  for (;;) {
    const leftMs = untilMs - env.clock.nowMs();
    if (leftMs <= 0) return false;
    try {
      await env.hypervisor.control(partition).ping(leftMs);
      return true;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }
}

/**
 * The log of the way back is gone when its disk was full, or when an earlier rollback had used it and failed: then everything
 * is copied. Returns why, undefined when the log is there.
 */
async function ensureWayBack(move: Move, tools: StepTools): Promise<string | undefined> {
  const { env, from, to } = move;
  const { disks } = env;
  let why: string;
  try {
    const { phase, reason } = await disks.execute('copy-status', { copy: move.copy });
    if (phase === 'replaying' || phase === 'converged' || phase === 'copying') return undefined;
    why = reason ?? `the log was ${phase}`;
  } catch (error) {
    if (codeOf(error) !== 'unknown-copy') throw error;
    why = 'the log was lost';
  }
  move.copy = await unusedName(move);
  await disks.execute('fence', { id: move.applicationDisk(to), mode: 'none' });
  let status = await disks.execute(
    'copy-start',
    {
      copy: move.copy,
      pairs: [{ from: move.applicationDisk(from), to: move.applicationDisk(to) }],
      logDirectory: join(env.stateDirectory, 'write-log', move.copy),
    },
    { timeoutMs: 30_000 },
  );
  while (status.phase !== 'converged') {
    if (status.phase === 'failed' || status.phase === 'cancelled') {
      throw new PatchError(
        'copy-failed',
        `the copy ${from} → ${to} ended: ${status.reason ?? status.phase}`,
        {
          remedy: `${from} keeps serving; free space or mend the disk, then roll back again`,
        },
      );
    }
    tools.checkCancelled();
    tools.progress({ done: Number(status.copied), total: Number(status.total), unit: 'bytes' });
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    status = await disks.execute('copy-status', { copy: move.copy });
  }
  return why;
}
