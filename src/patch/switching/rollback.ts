/**
 * The way back: the same steps backwards (Fig 7: "if trouble shows hours later"), carrying what the new active wrote.
 *
 *   wait-for-drain          the old partition finishes its flows, or the deadline names the rest
 *   stop-old                it ends; its disks are as the cut left them
 *   boot-old                it boots again, isolated, application disk unattached
 *   replay-reverse-log      rounds, until what is left is small
 *   then the steps of `hold`, from the new active to the old one, by the procedure that led there: H6, after H8 too, or H7
 */

import { ensureStopped } from '../execution/index.ts';
import { addressPairs } from '../policy.ts';
import type { Step } from '../run/step.ts';
import type { Move } from './move.ts';

const MAX_ROUNDS = 8;
const SMALL_DELTA_BYTES = 1024 * 1024;
const BOOT_TIMEOUT_MS = 30_000;
const SELF_CHECK_ROUNDS = 8;
const CHECKED_CONNECTIONS = 16;

/** `move` leads from the new active back to the old one (`move.to`). */
export function returnSteps(move: Move, waitForDrain: () => Promise<string[]>): Step[] {
  const { env, to } = move;
  const { hypervisor, mux, disks } = env;
  return [
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
        let rounds = 0;
        for (; rounds < MAX_ROUNDS; rounds++) {
          tools.checkCancelled();
          const round = await disks.execute('copy-round', { copy: move.copy }, { timeoutMs: 600_000 });
          if (Number(round.delta) < SMALL_DELTA_BYTES) break;
        }
        return { rounds: rounds + 1 };
      },
    },
  ];
}
