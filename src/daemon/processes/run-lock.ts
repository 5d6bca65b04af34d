/**
 * One daemon per run directory. The lock is an exclusive SQLite transaction on `<run>/lock`: it is a kernel file lock, so
 * it goes with the process that holds it, however that ends, and two daemons cannot both take over a stale file.
 * `<run>/changeover.pid` names the holder for people.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { CodedError, messageOf } from '../../common/index.ts';

/** Codes: `in-use`, `run-directory`. */
export class RunLockError extends CodedError {}

/** SQLITE_BUSY. */
const BUSY = 5;

export interface RunLock {
  /** Gives the lock up and removes both files. */
  release(): void;
}

/** Pid of the daemon that holds the run directory, or undefined when the file does not say. */
export function lockHolder(runDirectory: string): number | undefined {
  try {
    const pid = Number.parseInt(readFileSync(join(runDirectory, 'changeover.pid'), 'utf8'), 10);
    return Number.isInteger(pid) && pid > 0 ? pid : undefined;
  } catch {
    return undefined;
  }
}

/** Makes the run directory (mode 0700) and takes its lock. Throws RunLockError. */
export function takeRunLock(runDirectory: string): RunLock {
  const file = join(runDirectory, 'lock');
  const pidFile = join(runDirectory, 'changeover.pid');
  let database: DatabaseSync | undefined;
  try {
    mkdirSync(runDirectory, { recursive: true, mode: 0o700 });
    database = new DatabaseSync(file);
    database.exec('PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE;');
    writeFileSync(pidFile, `${process.pid}\n`);
  } catch (error) {
    database?.close();
    if ((error as { errcode?: number }).errcode === BUSY) {
      const holder = lockHolder(runDirectory);
      const who = holder === undefined ? 'another daemon' : `the daemon with process id ${holder}`;
      throw new RunLockError('in-use', `${who} already runs on ${runDirectory}`, {
        remedy: 'stop it with changeover down, or use another runDirectory',
        values: { runDirectory, ...(holder === undefined ? {} : { pid: holder }) },
      });
    }
    throw new RunLockError(
      'run-directory',
      `cannot use the run directory ${runDirectory}: ${messageOf(error)}`,
      {
        remedy: 'run as root, or set runDirectory to a folder that you can write',
        values: { runDirectory },
        cause: error,
      },
    );
  }
  const held = database;
  return {
    release: () => {
      rmSync(pidFile, { force: true });
      rmSync(file, { force: true });
      rmSync(`${file}-journal`, { force: true });
      held.close();
    },
  };
}
