/** What the old partition wrote to its system disk after that was cut: it is on no copy, and the report says what it was. */
import { messageOf } from '../../common/index.ts';
import type { SystemChanges } from '../run/record.ts';
import type { Move } from './move.ts';

const LISTED = 200;

/** Never throws: a guest that cannot tell is the reason in the answer. */
export async function systemChanges(move: Move): Promise<SystemChanges> {
  const { env, from, systemCutMs } = move;
  const found = { partition: from, sinceMs: systemCutMs, carried: move.carried };
  try {
    const { files, more } = await env.hypervisor.control(from).changedFiles(systemCutMs, LISTED);
    return { ...found, files: files.map(({ path, size }) => ({ path, size })), more };
  } catch (error) {
    return { ...found, files: [], more: false, reason: messageOf(error) };
  }
}
