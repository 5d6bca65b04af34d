/** The patch table [307] of the patch manager (Fig 6): every registered patch file, and what became of it. */
import type { PatchRow, PatchTable } from '../channel/index.ts';
import { PATCH_TABLE_FORMAT, PATCH_TABLE_VERSION } from '../channel/index.ts';
import { PatchError } from './errors.ts';

/** A row, with what the partition does not need to know. */
export interface RegisteredPatch extends PatchRow {
  /** One line for a person. */
  readonly name: string;
  /** 1 (low) … 4 (urgent). */
  readonly importance: number;
  readonly software?: string;
  readonly versions?: string;
  /** Where it came from: name of a patch source, or `import`. */
  readonly source: string;
  readonly signature: 'valid' | 'unsigned';
  readonly registeredAt: string;
}

/** Where the table is kept; every call is durable when it returns. */
export interface PatchTableStore {
  rows(): RegisteredPatch[];
  put(row: RegisteredPatch): void;
  readFile(file: string): Uint8Array;
  writeFile(file: string, data: Uint8Array): void;
}

export class MemoryPatchTable implements PatchTableStore {
  readonly #rows = new Map<string, RegisteredPatch>();
  readonly #files = new Map<string, Uint8Array>();

  rows(): RegisteredPatch[] {
    return [...this.#rows.values()];
  }

  put(row: RegisteredPatch): void {
    this.#rows.set(row.file, row);
  }

  readFile(file: string): Uint8Array {
    const data = this.#files.get(file);
    if (data === undefined) throw new PatchError('no-such-patch', `there is no patch file ${file}`);
    return data;
  }

  writeFile(file: string, data: Uint8Array): void {
    this.#files.set(file, data.slice());
  }
}

/** Throws `no-such-patch` with the known names. */
export function findPatch(store: PatchTableStore, file: string): RegisteredPatch {
  const rows = store.rows();
  const row = rows.find((r) => r.file === file);
  if (row === undefined) {
    throw new PatchError('no-such-patch', `the patch table has no ${file}`, {
      remedy: `known are: ${rows.map((r) => r.file).join(', ') || 'none'}`,
    });
  }
  return row;
}

/** 606: whether a patch is applied at the next run. A patch that was applied already cannot be flagged. */
export function flagPatch(store: PatchTableStore, file: string, applyNext: boolean): RegisteredPatch {
  const row = findPatch(store, file);
  if (applyNext && row.date !== null) {
    throw new PatchError('bad-patch', `${file} was applied at ${row.date}`, {
      remedy: 'roll that run back before applying it again',
    });
  }
  const flagged = { ...row, applyNext };
  store.put(flagged);
  return flagged;
}

/** The table as it is copied to the standby's system disk (705): only what the patch script needs. */
export function tableForGuest(rows: readonly RegisteredPatch[]): PatchTable {
  return {
    format: PATCH_TABLE_FORMAT,
    version: PATCH_TABLE_VERSION,
    patches: rows.map(({ file, kind, type, sha256, date, applyNext, result }) => ({
      file,
      kind,
      type,
      sha256,
      date,
      applyNext,
      result,
    })),
  };
}
