/**
 * Announcements after a cut (1505, 1603, 2203), repeated until traffic is seen to have moved. The mux counts, for each packet to the
 * service from an uplink, whether it came with the hardware address of the path's holder. The mux directs either kind, so nobody
 * is lost meanwhile; but a network that has learned needs no directing.
 */
import { messageOf } from '../../common/index.ts';
import type { Announced } from '../run/record.ts';
import type { Move } from './move.ts';

const FIRST_INTERVAL_MS = 250;
const LONGEST_INTERVAL_MS = 4_000;
/** The first one is sent by the cut itself. */
const MOST_ANNOUNCEMENTS = 10;

/** Ends when an interval with traffic had none for the old hardware address, after the last announcement, or when stopped. */
export async function announceUntilMoved(
  move: Move,
  seen: (state: Announced) => void,
  stopped: () => boolean,
): Promise<void> {
  const { mux, log } = move.env;
  const count = async () => {
    const all = await move.each((address) => mux.execute('counters', { address }));
    return all.reduce(
      (sum, { total }) => ({
        arrived: sum.arrived + (total.arrived ?? 0),
        readdressed: sum.readdressed + (total.readdressed ?? 0),
      }),
      { arrived: 0, readdressed: 0 },
    );
  };
  try {
    const first = await count();
    let last = first;
    let intervalMs = FIRST_INTERVAL_MS;
    for (let sent = 1; ; sent++) {
      await new Promise((resolve) => setTimeout(resolve, intervalMs));
      const now = await count();
      const moved = now.arrived > last.arrived && now.readdressed === last.readdressed;
      seen({
        sent,
        arrived: now.arrived - first.arrived,
        readdressed: now.readdressed - first.readdressed,
        moved,
      });
      if (moved || sent >= MOST_ANNOUNCEMENTS || stopped()) return;
      last = now;
      intervalMs = Math.min(LONGEST_INTERVAL_MS, intervalMs * 2);
      await move.announce();
    }
  } catch (error) {
    log.warn('announcements ended early', { run: move.record.id, reason: messageOf(error) });
  }
}
