import type { DatabaseSync, StatementSync } from 'node:sqlite';
import type { Journal, JournalEntry, JournalKind } from '../../patch/index.ts';

interface JournalRow {
  run: string;
  kind: string;
  name: string;
  at_ms: number;
  facts: string | null;
}

/**
 * The journal of runs in the state store. Every entry survives kill -9 of this process once `append` returns. `run-begun` and
 * `phase` entries are on the disk as well, and with them all entries before; steps are not worth that wait (2 ms and more,
 * twice a step, within the pause of a cut): after a power loss no partition runs any more, and phase and role decide.
 */
export class SqliteJournal implements Journal {
  readonly #database: DatabaseSync;
  readonly #insert: StatementSync;

  constructor(database: DatabaseSync) {
    this.#database = database;
    this.#insert = database.prepare(
      'INSERT INTO journal (run, kind, name, at_ms, facts) VALUES (?, ?, ?, ?, ?)',
    );
  }

  append(entry: JournalEntry): void {
    const facts =
      entry.facts === undefined
        ? null
        : JSON.stringify(entry.facts, (_key, v) => (typeof v === 'bigint' ? v.toString() : v));
    const toDisk = entry.kind === 'run-begun' || entry.kind === 'phase';
    if (!toDisk) this.#database.exec('PRAGMA synchronous = NORMAL');
    try {
      this.#insert.run(entry.runId, entry.kind, entry.name, Math.round(entry.atMs), facts);
    } finally {
      if (!toDisk) this.#database.exec('PRAGMA synchronous = FULL');
    }
  }

  read(runId: string): JournalEntry[] {
    const rows = this.#database
      .prepare('SELECT run, kind, name, at_ms, facts FROM journal WHERE run = ? ORDER BY sequence')
      .all(runId) as unknown as JournalRow[];
    return rows.map((row) => ({
      runId: row.run,
      kind: row.kind as JournalKind,
      name: row.name,
      atMs: row.at_ms,
      ...(row.facts === null ? {} : { facts: JSON.parse(row.facts) as Record<string, unknown> }),
    }));
  }

  runs(): string[] {
    const rows = this.#database.prepare('SELECT run FROM journal GROUP BY run ORDER BY MIN(sequence)').all();
    return rows.map((row) => String(row['run']));
  }

  remove(runId: string): void {
    this.#database.prepare('DELETE FROM journal WHERE run = ?').run(runId);
  }
}
