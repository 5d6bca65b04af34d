import type { DatabaseSync } from 'node:sqlite';
import type { RoleStore } from '../../patch/index.ts';
import { StateError } from './database.ts';

/** Who serves a service, as stored. */
export interface Role {
  readonly service: string;
  readonly active: string;
  /** The partition that served before; absent when it was never moved. */
  readonly previous?: string;
  /** Milliseconds since 1970. */
  readonly sinceMs: number;
}

/** Roles in the state store. A service that was never moved is served by the partition that the configuration names. */
export class SqliteRoleStore implements RoleStore {
  readonly #database: DatabaseSync;
  readonly #configured: Readonly<Record<string, string>>;
  readonly #nowMs: () => number;

  /** `configured`: service name → partition of the first start. */
  constructor(
    database: DatabaseSync,
    configured: Readonly<Record<string, string>>,
    nowMs: () => number = Date.now,
  ) {
    this.#database = database;
    this.#configured = configured;
    this.#nowMs = nowMs;
  }

  /** Throws StateError `no-such-service`. */
  active(service: string): string {
    const active = this.role(service)?.active ?? this.#configured[service];
    if (active === undefined) {
      throw new StateError('no-such-service', `there is no service ${service}`, {
        remedy: `known are: ${Object.keys(this.#configured).join(', ')}`,
        values: { service },
      });
    }
    return active;
  }

  /** What is stored; undefined when the service was never moved. */
  role(service: string): Role | undefined {
    const row = this.#database
      .prepare('SELECT active, previous, since_ms FROM role WHERE service = ?')
      .get(service);
    if (row === undefined) return undefined;
    const previous = row['previous'] === null ? {} : { previous: String(row['previous']) };
    return { service, active: String(row['active']), ...previous, sinceMs: Number(row['since_ms']) };
  }

  /** Durable when it returns. */
  setActive(service: string, partition: string): void {
    const before = this.active(service);
    if (before === partition) return;
    this.#database
      .prepare(
        `INSERT INTO role (service, active, previous, since_ms) VALUES (?, ?, ?, ?)
         ON CONFLICT (service) DO UPDATE SET
           active = excluded.active, previous = excluded.previous, since_ms = excluded.since_ms`,
      )
      .run(service, partition, before, this.#nowMs());
  }
}
