import type { DatabaseSync } from 'node:sqlite';

/** Who serves a service. */
export interface Role {
  readonly service: string;
  readonly active: string;
  /** The partition that served before, while it can still take the service back. */
  readonly previous?: string;
  /** Milliseconds since 1970. */
  readonly sinceMs: number;
}

export interface RoleStore {
  /** undefined: never stored, the configuration decides. */
  role(service: string): Role | undefined;
  roles(): Role[];
  /** Durable when it returns. Without `previous` there is no way back. */
  setActive(service: string, active: string, previous?: string): void;
  forget(service: string): void;
}

interface RoleRow {
  service: string;
  active: string;
  previous: string | null;
  since_ms: number;
}

function roleOf(row: RoleRow): Role {
  const previous = row.previous === null ? {} : { previous: row.previous };
  return { service: row.service, active: row.active, ...previous, sinceMs: row.since_ms };
}

export class SqliteRoleStore implements RoleStore {
  readonly #database: DatabaseSync;
  readonly #nowMs: () => number;

  constructor(database: DatabaseSync, nowMs: () => number = Date.now) {
    this.#database = database;
    this.#nowMs = nowMs;
  }

  role(service: string): Role | undefined {
    const row = this.#database.prepare('SELECT * FROM role WHERE service = ?').get(service);
    return row === undefined ? undefined : roleOf(row as unknown as RoleRow);
  }

  roles(): Role[] {
    const rows = this.#database.prepare('SELECT * FROM role ORDER BY service').all();
    return (rows as unknown as RoleRow[]).map(roleOf);
  }

  setActive(service: string, active: string, previous?: string): void {
    this.#database
      .prepare(
        `INSERT INTO role (service, active, previous, since_ms) VALUES (?, ?, ?, ?)
         ON CONFLICT (service) DO UPDATE SET
           active = excluded.active, previous = excluded.previous, since_ms = excluded.since_ms`,
      )
      .run(service, active, previous ?? null, this.#nowMs());
  }

  forget(service: string): void {
    this.#database.prepare('DELETE FROM role WHERE service = ?').run(service);
  }
}
