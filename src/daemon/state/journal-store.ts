import type { DatabaseSync } from 'node:sqlite';
import type { Journal, JournalEntry, JournalKind } from '../../patch/index.ts';

interface JournalRow {
  run: string;
  kind: string;
  name: string;
  at_ms: number;
  facts: string | null;
}

/** The journal of runs in the state store: an entry is on the disk when `append` returns. bigint facts become decimal strings. */
export class SqliteJournal implements Journal {
  readonly #database: DatabaseSync;

  constructor(database: DatabaseSync) {
    this.#database = database;
  }

  append(entry: JournalEntry): void {
    const facts =
      entry.facts === undefined
        ? null
        : JSON.stringify(entry.facts, (_key, v) => (typeof v === 'bigint' ? v.toString() : v));
    this.#database
      .prepare('INSERT INTO journal (run, kind, name, at_ms, facts) VALUES (?, ?, ?, ?, ?)')
      .run(entry.runId, entry.kind, entry.name, Math.round(entry.atMs), facts);
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
}
