import { messageOf } from '../../common/index.ts';
import { DIRTY_GRAIN } from '../log/index.ts';
import type { CopyPair, DiskProof } from './copy-types.ts';
import { notEqual } from './group-proof.ts';
import { firstDifference } from './hash.ts';
import type { WrittenSince } from './written-since.ts';

/**
 * Proves that the second half of a mirror that was split is what the first one was, by reading both back: as a whole behind a
 * fence, else (`since`) wherever the first was not written since. Holes of both are not read. Throws CopyError `not-equal`. A half
 * without its proof is invalid again.
 */
export async function proveEqual(pair: CopyPair, since: WrittenSince | undefined): Promise<DiskProof> {
  const { from, to, mark } = pair;
  try {
    const written = (start: number, end: number) => since?.has(start, end) === true;
    const at = await firstDifference(from.store, to.store, written, DIRTY_GRAIN);
    if (at !== undefined) throw notEqual(pair, at);
    return { readBack: 0, proven: 0, compared: Number(from.store.size), unproven: 0 };
  } catch (error) {
    mark.set(`its copy from ${from.id} was not proven: ${messageOf(error)}`);
    throw error;
  } finally {
    if (since !== undefined) from.trap.detach(since);
  }
}
