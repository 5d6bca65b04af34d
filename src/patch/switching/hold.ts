/**
 * `hold`: H6 (Fig 13, 14) with new requests held inside the mux instead of refused.
 *
 *   hold-new-requests        1301   SYNs and first datagrams wait in the mux
 *   complete-accepted        1302   idle connections are frozen; requests that may write complete; safe ones go on
 *   hold-connections                everything of the address waits, except draining flows; a barrier frame follows
 *   take-connections                the frozen connections leave the old stack with their TCP state
 *   cut-application-disk     905    last delta, fence
 *   start-reverse-log
 *   start-application        1304   the new active mounts the disk and starts the application
 *   check-standby-service    1304   healthy over the private path
 *   switch-network           1303   one operation of the mux: path, steering of draining flows
 *   put-connections                 the connections go on in the new stack
 *   release-held             1304   held packets go on in order; gratuitous ARP
 *
 * Until `switch-network` the undo of each step brings the old state back and nobody was refused: held packets go to the old
 * partition, its connections return to it, its disk is writable again. `switch-network` first writes down that the new active
 * serves: as soon as connections are put into it, it may acknowledge writes. From there the way back is a rollback, which carries them.
 */
import { PatchError } from '../errors.ts';
import type { CutPlan, Stage, Step } from '../run/step.ts';
import { cutApplicationDisk, startApplication, startReverseLog } from './disks.ts';
import type { Move } from './move.ts';
import { flowsOf, nextBarrier } from './move.ts';
import { checkThroughPrivatePath } from './verify.ts';

/** Held packets wait no longer than this, ms; then the mux lets them go to whoever has the path. */
const HOLD_TIMEOUT_MS = 10_000;
const START_TIMEOUT_MS = 8_000;
const ANNOUNCEMENTS = 3;
const ANNOUNCEMENT_INTERVAL_MS = 250;

export function holdPlan(move: Move): CutPlan {
  const { env, from, to } = move;
  const { mux, hypervisor, clock } = env;
  let barrier = 0;

  const takeConnections: Step = {
    name: 'take-connections',
    figure: '',
    do: async () => {
      const { connections, neighbors } = await hypervisor
        .control(from)
        .exportConnections({ barrier, timeoutMs: 2_000, flows: move.idle });
      move.keepConnections(connections, neighbors);
      return { connections: connections.length };
    },
  };

  const putConnections: Step = {
    name: 'put-connections',
    figure: '',
    do: async () => {
      const { imported, refused } = await hypervisor
        .control(to)
        .importConnections(move.connections, move.neighbors);
      for (const { flow, reason } of refused) env.log.warn('connection was not taken over', { flow, reason });
      move.handedOver += imported;
      return {
        imported,
        refused: refused.map(({ flow, reason }) => `${flow.remoteAddress}:${flow.remotePort}: ${reason}`),
      };
    },
  };

  const reversible: Stage[] = [
    {
      name: 'hold-new-requests',
      figure: '1301',
      do: async () => {
        move.startedMs = clock.nowMs();
        await move.each((address) =>
          mux.execute('hold-start', {
            address,
            scope: 'new-flows',
            limits: { timeoutMs: HOLD_TIMEOUT_MS },
          }),
        );
        return undefined;
      },
      undo: async () => {
        await move.each((address) => mux.execute('hold-release', { address }));
      },
    },
    {
      name: 'complete-accepted-requests',
      figure: '1302',
      do: async () => {
        const quiesced = await hypervisor.control(from).quiesce(env.policy.budget.quiesceMs);
        if (quiesced.unfinished.length > 0) {
          throw new PatchError(
            'over-budget',
            `${quiesced.unfinished.length} requests that may write were not complete after ${env.policy.budget.quiesceMs} ms`,
            { remedy: 'raise patching.budget.quiesceMs, or cut when the service is quieter' },
          );
        }
        move.draining = quiesced.draining;
        move.idle = quiesced.idle;
        return {
          draining: quiesced.draining.length,
          idle: quiesced.idle.length,
          waitedMs: quiesced.waitedMs,
        };
      },
      // The guest itself has kept what was taken from it.
      undo: async () => {
        await hypervisor.control(from).resume({ reclaim: true });
      },
    },
    {
      name: 'hold-connections',
      figure: '',
      do: async () => {
        barrier = nextBarrier();
        // The barrier follows when every address is held.
        const last = move.addresses.at(-1);
        await move.each((address) =>
          mux.execute('hold-start', {
            address,
            scope: 'all',
            except: flowsOf(address, move.draining),
            ...(address === last ? { barrier } : {}),
            limits: { timeoutMs: HOLD_TIMEOUT_MS },
          }),
        );
        return undefined;
      },
    },
    {
      parallel: [
        [takeConnections],
        [cutApplicationDisk(move), startReverseLog(move), startApplication(move, START_TIMEOUT_MS)],
      ],
    },
    checkThroughPrivatePath(move, move.addresses),
  ];

  const final: Stage[] = [
    {
      name: 'switch-network',
      figure: '1303',
      do: async () => {
        env.roles.setActive(move.record.service, to);
        await mux.execute('port-state', { name: move.port(to), state: 'attached' });
        const flows = move.connections.map((c) => c.flow);
        const [first, ...also] = move.addresses.map((address) => ({
          address,
          moved: flowsOf(address, flows),
        }));
        const ports = { from: move.port(from), to: move.port(to) };
        const { steered, also: others = [] } = await mux.execute('switch', { ...first!, ...ports, also });
        return { steered: others.reduce((sum, other) => sum + other.steered, steered) };
      },
    },
    putConnections,
    {
      name: 'release-held',
      figure: '1304',
      do: async () => {
        const released = await move.each((address) => mux.execute('hold-release', { address }));
        move.endedMs = clock.nowMs();
        await move.each((address) =>
          mux.execute('announce', {
            address,
            port: move.port(to),
            count: ANNOUNCEMENTS,
            intervalMs: ANNOUNCEMENT_INTERVAL_MS,
          }),
        );
        return {
          released: released.reduce((sum, hold) => sum + hold.released, 0),
          longestHoldMs: Math.max(...released.map((hold) => hold.longestHoldMs)),
        };
      },
    },
  ];
  return { reversible, final };
}
