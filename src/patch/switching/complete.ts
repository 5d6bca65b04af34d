/**
 * The part of a move that comes after the role was written down, for the first time or again: everything here finds its work
 * done or does it. What fails is tried again; what cannot be done is logged, and the check that follows tells whether the service is well.
 */
import { again, messageOf } from '../../common/index.ts';
import type { RunEnvironment } from '../run/environment.ts';
import { mendHandOver } from './hand-over.ts';
import { holdSwitch } from './hold.ts';
import type { Move } from './move.ts';
import { overlapSwitch } from './overlap.ts';

const AGAIN_MS = [50, 50];

export async function completeSwitch(env: RunEnvironment, move: Move): Promise<void> {
  const { mux, hypervisor, log } = env;
  const attempt = async (what: string, work: () => Promise<unknown>): Promise<boolean> => {
    const warn = (error: unknown) =>
      log.warn(`${what} was not completed`, { run: move.record.id, reason: messageOf(error) });
    try {
      await again(AGAIN_MS, work, warn);
      return true;
    } catch (error) {
      warn(error);
      return false;
    }
  };
  const isOverlap = move.record.strategy === 'overlap' && move.from === move.record.from;
  await attempt('attaching the ports', () => move.attach());
  const pathTo = (address: string) => mux.execute('path-set', { address, port: move.port(move.to, address) });
  move.recallConnections();
  // The same words as the first time: done already, it does nothing.
  const command = isOverlap ? overlapSwitch(move) : holdSwitch(move);
  if (!(await attempt('the switch', () => mux.execute('switch', command)))) {
    // Made before, in other words, by a mux process that was told again where the path leads.
    await move.each((address) => attempt('the path', () => pathTo(address)));
  }
  if (isOverlap || move.procedure === 'H7') {
    for (const { address, second } of move.pairs) {
      if (second === undefined) continue;
      await attempt('the path of the second address', () =>
        mux.execute('path-set', { address: second, port: move.port(move.from, second) }),
      );
      // By H7 it was changed before the role was written down.
      if (!isOverlap) continue;
      await attempt('the change of address', () =>
        hypervisor.control(move.from).alterAddress(address, second),
      );
    }
  }
  if (move.connections.length > 0 && !move.arePut) {
    await attempt('the hand-over', () =>
      hypervisor.control(move.to).importConnections(move.connections, move.neighbors),
    );
  }
  await attempt('a hand-over in rounds', () => mendHandOver(move));
  await attempt('the private path', () => mux.execute('private-path', { probe: env.probe.port, port: null }));
  for (const address of move.addresses) {
    await attempt('the release of held packets', () => mux.execute('hold-release', { address }));
    await attempt('the announcement', () =>
      mux.execute('announce', { address, port: move.port(move.to, address) }),
    );
  }
  if (move.endedMs < move.startedMs) move.endedMs = env.clock.nowMs();
}
