/**
 * The state store: one SQLite file, `<stateDirectory>/state.db`.
 *
 * Only the control process writes it. WAL with synchronous=FULL: a statement outside a transaction is on the disk when it
 * returns, so "journalled before it acts" is one call. After a crash SQLite replays its WAL by itself at the next open.
 * `user_version` carries SCHEMA_VERSION; MIGRATIONS[n] leads from version n to n + 1, each in one transaction.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { CodedError, messageOf } from '../../common/index.ts';

/** Codes: `state-unreadable`, `state-newer`, `patch-file-missing`, `bad-file-name`, `no-such-service`. */
export class StateError extends CodedError {}

const MIGRATIONS: readonly string[] = [
  `
  CREATE TABLE journal (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    run TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    facts TEXT
  ) STRICT;
  CREATE INDEX journal_run ON journal (run, sequence);
  CREATE TABLE patch (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    file TEXT NOT NULL UNIQUE,
    row TEXT NOT NULL
  ) STRICT;
  CREATE TABLE role (
    service TEXT PRIMARY KEY,
    active TEXT NOT NULL,
    previous TEXT,
    since_ms INTEGER NOT NULL
  ) STRICT;
  CREATE TABLE document (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    at_ms INTEGER NOT NULL
  ) STRICT;
  `,
];

export const SCHEMA_VERSION = MIGRATIONS.length;

/** Opens or creates the store. Throws StateError. */
export function openState(stateDirectory: string): DatabaseSync {
  const path = join(stateDirectory, 'state.db');
  let database: DatabaseSync | undefined;
  try {
    mkdirSync(stateDirectory, { recursive: true, mode: 0o700 });
    database = new DatabaseSync(path);
    database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 2000;');
    migrate(database, path);
    return database;
  } catch (error) {
    database?.close();
    if (error instanceof StateError) throw error;
    throw new StateError('state-unreadable', `cannot open the state store ${path}: ${messageOf(error)}`, {
      remedy:
        'make the folder writable, or move a damaged state.db away (roles then start from the configuration)',
      values: { path },
      cause: error,
    });
  }
}

function migrate(database: DatabaseSync, path: string): void {
  const row = database.prepare('PRAGMA user_version').get() as { user_version: number };
  const found = row.user_version;
  if (found > SCHEMA_VERSION) {
    throw new StateError(
      'state-newer',
      `the state store ${path} has version ${found}, this program knows versions up to ${SCHEMA_VERSION}`,
      { remedy: 'use the newer program that wrote it', values: { path, found, known: SCHEMA_VERSION } },
    );
  }
  for (let version = found; version < SCHEMA_VERSION; version++) {
    database.exec(`BEGIN IMMEDIATE; ${MIGRATIONS[version]} PRAGMA user_version = ${version + 1}; COMMIT;`);
  }
}
