/**
 * How far a bulk copy has come, so that another process can go on with it: `<log directory>/<name>.copy`, replaced as a whole.
 *
 * It is not synced: kill -9 leaves it in the page cache, and after a power failure (another boot id) the copy begins anew. What
 * it says may be late, never early: copying a stretch again is harmless, since the write log has been on from before the
 * first byte and is replayed from its beginning. Where it cannot be written it is taken away: a copy that dies begins anew.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { bootId } from '../log/index.ts';

export interface JournalPair {
  readonly from: string;
  readonly to: string;
  readonly size: string;
  /** Everything below this byte is copied; null: the target was not cleared yet. */
  readonly watermark: number | null;
}

interface JournalContents {
  readonly version: 1;
  readonly copy: string;
  /** Of the write logs, hex. */
  readonly generation: string;
  readonly boot: string;
  readonly pairs: readonly JournalPair[];
}

/** Says beside a source that the write log of this generation knows every write since the copy began. Survives the process. */
export interface LogMark {
  set(generation: string): void;
  get(): string | undefined;
  clear(): void;
}

const SAVE_INTERVAL_MS = 250;

export class CopyJournal {
  readonly #file: string;
  readonly #copy: string;
  readonly #generation: string;
  #pairs: JournalPair[];
  #savedMs = Number.NEGATIVE_INFINITY;

  constructor(logDirectory: string, copy: string, generation: string, pairs: readonly JournalPair[]) {
    this.#file = fileOf(logDirectory, copy);
    this.#copy = copy;
    this.#generation = generation;
    this.#pairs = [...pairs];
  }

  /** What a former process left, or undefined: none, of another boot, or not readable. */
  static read(
    logDirectory: string,
    copy: string,
  ): { readonly generation: string; readonly pairs: readonly JournalPair[] } | undefined {
    try {
      const found = JSON.parse(readFileSync(fileOf(logDirectory, copy), 'utf8')) as JournalContents;
      return found.version === 1 && found.copy === copy && found.boot === String(bootId())
        ? found
        : undefined;
    } catch {
      return undefined;
    }
  }

  static remove(logDirectory: string, copy: string): void {
    rmSync(fileOf(logDirectory, copy), { force: true });
  }

  watermark(from: string): number | null {
    return this.#pairs.find((pair) => pair.from === from)?.watermark ?? null;
  }

  /** Notes progress; written at most every 250 ms unless `now`. */
  reached(from: string, watermark: number, now = false): void {
    this.#pairs = this.#pairs.map((pair) => (pair.from === from ? { ...pair, watermark } : pair));
    if (now || performance.now() - this.#savedMs > SAVE_INTERVAL_MS) this.save();
  }

  /** Pairs that were cut are nobody's business any more; with the last one the journal goes. */
  drop(from: readonly string[]): void {
    this.#pairs = this.#pairs.filter((pair) => !from.includes(pair.from));
    if (this.#pairs.length === 0) rmSync(this.#file, { force: true });
    else this.save();
  }

  /** Throws only when a stale one cannot be taken away either. */
  save(): void {
    const contents: JournalContents = {
      version: 1,
      copy: this.#copy,
      generation: this.#generation,
      boot: String(bootId()),
      pairs: this.#pairs,
    };
    this.#savedMs = performance.now();
    try {
      writeFileSync(`${this.#file}.new`, `${JSON.stringify(contents)}\n`, { mode: 0o600 });
      renameSync(`${this.#file}.new`, this.#file);
    } catch {
      rmSync(`${this.#file}.new`, { force: true });
      rmSync(this.#file, { force: true });
    }
  }
}

function fileOf(logDirectory: string, copy: string): string {
  return join(logDirectory, `${encodeURIComponent(copy)}.copy`);
}
