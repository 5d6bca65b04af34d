/** The file that a partition's output goes to. It is never much larger than its limit, however long the partition runs and prints. */
import { existsSync, renameSync, statSync } from 'node:fs';
import { copyFile, stat, truncate } from 'node:fs/promises';

const MAX_BYTES = 4 * 1024 * 1024;
const LOOK_MS = 1_000;

const older = (path: string) => `${path}.1`;

/** Before a partition is started: begins a new file where the old one is full. */
export function rotateConsole(path: string): void {
  if (existsSync(path) && statSync(path).size > MAX_BYTES) renameSync(path, older(path));
}

/**
 * While it runs: what is full is copied aside and emptied, for the partition has the file open (for appending). What it prints
 * between the two is lost. Returns what ends it.
 */
export function boundConsole(path: string, maxBytes = MAX_BYTES, lookMs = LOOK_MS): () => void {
  let busy = false;
  const look = async () => {
    if (busy) return;
    busy = true;
    try {
      if ((await stat(path)).size <= maxBytes) return;
      await copyFile(path, older(path)).catch(() => {});
      await truncate(path);
    } catch {
      // No file, or a full disk: looked at again.
    } finally {
      busy = false;
    }
  };
  const timer = setInterval(() => void look(), lookMs);
  timer.unref();
  return () => clearInterval(timer);
}
