/** What the old partition wrote to its application disk after the cut, for the report. */
import type { RunEnvironment } from './environment.ts';

/** One sentence, or undefined when there was none. Asked before the fence comes down: its count begins anew with the next one. */
export async function lateWriteNotice(env: RunEnvironment, disk: string): Promise<string | undefined> {
  try {
    const found = (await env.disks.execute('disk-status', { id: disk })).find(({ id }) => id === disk);
    if (found === undefined || !(found.lateWrites > 0)) return undefined;
    const what = `${found.lateWrites} writes of ${found.lateBytes} bytes came to ${disk} after the cut`;
    return found.fence === 'set-aside'
      ? `${what}: they are set aside in ${found.path}.aside.released-*, a write log`
      : `${what}: they were refused`;
  } catch {
    // A block process that is away says nothing; its fence stays.
    return undefined;
  }
}
