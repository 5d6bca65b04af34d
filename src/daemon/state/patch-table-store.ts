/**
 * The patch table [307] in the state store; the patch files beside it in `<stateDirectory>/patches`. A file is written under
 * a temporary name, flushed and renamed before a row can name it.
 */
import { closeSync, fsyncSync, mkdirSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import type { DatabaseSync } from 'node:sqlite';
import { messageOf } from '../../common/index.ts';
import type { PatchTableStore, RegisteredPatch } from '../../patch/index.ts';
import { StateError } from './database.ts';

const FILE_NAME = /^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$/;

export class SqlitePatchTable implements PatchTableStore {
  readonly #database: DatabaseSync;
  readonly #directory: string;

  constructor(database: DatabaseSync, stateDirectory: string) {
    this.#database = database;
    this.#directory = join(stateDirectory, 'patches');
    mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
  }

  /** In the order of registration. */
  rows(): RegisteredPatch[] {
    const rows = this.#database.prepare('SELECT row FROM patch ORDER BY sequence').all();
    return rows.map((r) => JSON.parse(String(r['row'])) as RegisteredPatch);
  }

  put(row: RegisteredPatch): void {
    this.#database
      .prepare(
        'INSERT INTO patch (file, row) VALUES (?, ?) ON CONFLICT (file) DO UPDATE SET row = excluded.row',
      )
      .run(row.file, JSON.stringify(row));
  }

  readFile(file: string): Uint8Array {
    const path = this.#path(file);
    try {
      return readFileSync(path);
    } catch (error) {
      throw new StateError(
        'patch-file-missing',
        `the patch file ${path} cannot be read: ${messageOf(error)}`,
        {
          remedy: 'add the patch again',
          values: { file },
          cause: error,
        },
      );
    }
  }

  writeFile(file: string, data: Uint8Array): void {
    const path = this.#path(file);
    const temporary = `${path}.new`;
    const fd = openSync(temporary, 'w', 0o600);
    try {
      for (let at = 0; at < data.length; ) at += writeSync(fd, data, at);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, path);
    const folder = openSync(this.#directory, 'r');
    try {
      fsyncSync(folder);
    } finally {
      closeSync(folder);
    }
  }

  #path(file: string): string {
    if (!FILE_NAME.test(file)) {
      throw new StateError('bad-file-name', `"${file}" is no name for a patch file`, {
        remedy: 'use letters, digits, ".", "_", "+" and "-", at most 128 of them',
      });
    }
    return join(this.#directory, file);
  }
}
