import type { DatabaseSync } from 'node:sqlite';

/** Named JSON values, each replaced as a whole and durable when `put` returns. */
export interface DocumentStore {
  get(name: string): unknown;
  put(name: string, value: unknown): void;
  delete(name: string): void;
}

export class SqliteDocumentStore implements DocumentStore {
  readonly #database: DatabaseSync;
  readonly #nowMs: () => number;

  constructor(database: DatabaseSync, nowMs: () => number = Date.now) {
    this.#database = database;
    this.#nowMs = nowMs;
  }

  get(name: string): unknown {
    const row = this.#database.prepare('SELECT value FROM document WHERE name = ?').get(name);
    return row === undefined ? undefined : JSON.parse(String(row['value']));
  }

  put(name: string, value: unknown): void {
    this.#database
      .prepare(
        `INSERT INTO document (name, value, at_ms) VALUES (?, ?, ?)
         ON CONFLICT (name) DO UPDATE SET value = excluded.value, at_ms = excluded.at_ms`,
      )
      .run(name, JSON.stringify(value), this.#nowMs());
  }

  delete(name: string): void {
    this.#database.prepare('DELETE FROM document WHERE name = ?').run(name);
  }
}
