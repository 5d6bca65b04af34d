import { messageOf } from '../../common/index.ts';
import type { CopyPair } from './copy-types.ts';
import { CopyError } from './copy-types.ts';
import { hashDevice } from './hash.ts';
import type { WrittenSince } from './written-since.ts';
import { verifyUnfenced } from './written-since.ts';

/**
 * SHA-256 of a target that was cut, proven to be what its source was at the cut: behind a fence by hashing both, else (`since`)
 * by comparing everything that was not written since. Throws CopyError `not-equal`. A target without its proof is invalid again.
 */
export async function proveEqual(
  { from, to, mark }: CopyPair,
  since: WrittenSince | undefined,
): Promise<string> {
  try {
    const sha256 = await hashDevice(to.store);
    const equal =
      since === undefined
        ? (await hashDevice(from.store)) === sha256
        : await verifyUnfenced(from.store, to.store, since);
    if (!equal)
      throw new CopyError('not-equal', `${to.id} is not what ${from.id} was at the cut`, {
        remedy: 'do not use the copy; run `changeover log verify` on the log, then copy anew',
      });
    return sha256;
  } catch (error) {
    mark.set(`its copy from ${from.id} was not proven: ${messageOf(error)}`);
    throw error;
  } finally {
    if (since !== undefined) from.trap.detach(since);
  }
}
