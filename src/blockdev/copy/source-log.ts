/** The write log of one source of a group: begun, or gone on with after another process. */
import { renameSync } from 'node:fs';
import { codeOf } from '../../common/index.ts';
import type { WriteLogOptions } from '../log/index.ts';
import { recoverLog, WriteLog } from '../log/index.ts';

/**
 * Goes on with the reverse log that is there, or begins one; what a log cannot say any more becomes dirty. `trusted` says whether the
 * log of a generation knows every write.
 */
export async function openReverseLog(
  directory: string,
  options: WriteLogOptions,
  distrusted: boolean,
  trusted: (generation: string) => boolean,
): Promise<WriteLog> {
  try {
    const { tail, damage, otherBoot, lastRecords } = await recoverLog(directory, { diskId: options.diskId });
    const complete = !distrusted && trusted(tail.header.generation.toString('hex'));
    if (damage === undefined && !otherBoot && complete) {
      const log = WriteLog.resume(directory, tail, options);
      // Their writes may not have reached the disk: it is asked.
      for (const { address, length } of lastRecords) log.markDirty(address, length);
      return log;
    }
  } catch (error) {
    const code = codeOf(error);
    if (code === 'no-log') {
      const log = WriteLog.create(directory, options);
      // There was one that could not even begin, and writes went on.
      if (distrusted) log.markDirty(0, Number(options.diskSize));
      return log;
    }
    if (code !== 'damaged') throw error;
  }
  // The log cannot say everything any more: keep it aside, begin anew, compare everything.
  renameSync(directory, `${directory}.unusable-${Date.now()}`);
  const log = WriteLog.create(directory, options);
  log.markDirty(0, Number(options.diskSize));
  return log;
}

/** Goes on with the log of a copy; undefined when it cannot say everything that was written since the copy began. */
export async function resumeCopyLog(
  directory: string,
  options: WriteLogOptions & { readonly generation: Buffer },
): Promise<WriteLog | undefined> {
  try {
    const expected = { generation: options.generation, diskId: options.diskId };
    const { tail, damage, otherBoot, lastRecords } = await recoverLog(directory, expected);
    if (damage !== undefined || otherBoot) return undefined;
    const log = WriteLog.resume(directory, tail, options);
    // Their writes may not have reached the disk before the process was killed: the disk is asked.
    for (const { address, length } of lastRecords) log.markDirty(address, length);
    return log;
  } catch {
    return undefined;
  }
}
