/**
 * `overlap`: H8 (Figs 21 … 26). Nobody waits: new requests reach the new active from the switch on, requests in flight are
 * finished by the old one under its second address, and the packet change program sets their source back.
 *
 *   cut-application-disk     905    last delta, fence
 *   start-reverse-log
 *   start-application               on the new active, while the old one still serves
 *   check-standby-service           healthy over the private path
 *   request-address          2201   the new active takes the service address, its port still isolated
 *   switch-network           2204   one operation of the mux: path, steering of every known flow, change notice
 *   alter-own-address        2202   the old partition's connections go on under its second address
 *   announce-address         2203   gratuitous ARP
 *
 * The change notice is set in the same operation as the path, before the old partition alters its address: between the two
 * there is no packet with the second address that could leave unchanged, and none is rewritten that must not be.
 */
import { reach } from '../../common/index.ts';
import { diskId } from '../../hypervisor/index.ts';
import { PatchError } from '../errors.ts';
import type { RunEnvironment } from '../run/environment.ts';
import type { RunRecord } from '../run/record.ts';
import type { CutPlan, Stage } from '../run/step.ts';
import { QUIET_MS } from '../strategy.ts';
import { collectGarbage } from './collect.ts';
import { carrySystemFiles, cutApplicationDisk, startApplication, startReverseLog } from './disks.ts';
import { nameFlows } from './hand-over.ts';
import type { Move, SwitchCommand } from './move.ts';
import { checkThroughPrivatePath, WARM } from './verify.ts';

const START_TIMEOUT_MS = 10_000;

export function overlapPlan(move: Move): CutPlan {
  const { env, from, to } = move;
  const { mux, hypervisor, clock } = env;
  const pairs = move.exchanged;
  const seconds = pairs.map(({ second }) => second);

  const reversible: Stage[] = [
    cutApplicationDisk(move),
    startReverseLog(move),
    ...carrySystemFiles(move),
    startApplication(move, START_TIMEOUT_MS),
    checkThroughPrivatePath(move, seconds, { times: WARM }),
    {
      name: 'request-address',
      figure: '2201',
      do: async () => {
        const control = hypervisor.control(to);
        for (const { address, second } of pairs) {
          await control.prepareAddress(second, address);
          await control.alterAddress(second, address);
          await hypervisor.control(from).prepareAddress(address, second);
        }
        await collectGarbage(move, 'young');
        return { addresses: move.addresses };
      },
    },
  ];

  const final: Stage[] = [
    {
      name: 'switch-network',
      figure: '2204',
      do: async () => {
        await nameFlows(move);
        move.persistRole();
        await move.attach();
        reach('switch.port-attached');
        move.startedMs = clock.nowMs();
        const { steered, also = [] } = await mux.execute('switch', overlapSwitch(move));
        reach('switch.acted');
        move.endedMs = move.startedMs;
        await move.pathsOfSeconds();
        return { steered: also.reduce((sum, other) => sum + other.steered, steered) };
      },
    },
    {
      name: 'alter-own-address',
      figure: '2202',
      do: async () => {
        let connections = 0;
        for (const { address, second } of pairs) {
          connections += (await hypervisor.control(from).alterAddress(address, second)).connections;
          reach('switch.address-altered');
        }
        return { connections, from: move.addresses, to: seconds };
      },
    },
    {
      name: 'announce-address',
      figure: '2203',
      do: async () => {
        await move.announce();
        return undefined;
      },
    },
  ];

  return { reversible, final };
}

/** The one operation of the mux: path, steering, change notice and the addresses that each port may use. */
export function overlapSwitch(move: Move): SwitchCommand {
  const parts = move.pairs.map(({ address, second }) => ({
    address,
    moved: [],
    ...(second === undefined ? {} : { notice: { second } }),
  }));
  return move.switchOf(parts, move.exchangedAddresses);
}

/** `overlap` is for services that do not write at the cut. Throws `not-quiet`. */
export async function requireQuiet(env: RunEnvironment, record: RunRecord): Promise<void> {
  if (!record.hasApplicationDisk) return;
  const [disk] = await env.disks.execute('disk-status', { id: diskId(record.from, 'application') });
  const quietMs = disk?.lastWriteMsAgo;
  if (quietMs === undefined || quietMs >= QUIET_MS) return;
  throw new PatchError(
    'not-quiet',
    `the application disk of ${record.from} was written ${Math.round(quietMs)} ms ago: a write in flight at the cut would be refused`,
    { remedy: 'use strategy hold, or let the service be quiet at the cut' },
  );
}
