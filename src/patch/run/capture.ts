/** The packet captures of a run: one for the cut, one for the way back, each with what the mux remembers of before beside it. */
import { codeOf } from '../../common/index.ts';
import { HISTORY } from '../../hypervisor/index.ts';
import { capturePath } from '../evidence/index.ts';
import type { RunEnvironment } from './environment.ts';
import type { RunRecord } from './record.ts';

export type Captured = 'cut' | 'rollback';

/** Returns the file. */
export async function startCapture(
  { mux }: RunEnvironment,
  { evidence, id, service, from, to }: RunRecord,
  what: Captured,
): Promise<string> {
  const before = { name: HISTORY, file: capturePath(evidence, `before-${what}`) };
  await mux.execute('capture-dump', before).catch((error) => {
    if (codeOf(error) !== 'no-capture') throw error;
  });
  const file = capturePath(evidence, what);
  await mux.execute('capture-start', { file, comment: `run ${id}: ${service} ${from} → ${to}, ${what}` });
  return file;
}

/** Whichever of them runs, begun by this control process or by an earlier one. */
export async function stopCapture({ mux }: RunEnvironment, { evidence }: RunRecord): Promise<void> {
  for (const what of ['cut', 'rollback'])
    await mux.execute('capture-stop', { file: capturePath(evidence, what) }).catch(() => {});
}
