/**
 * The patch table [307] (Fig 6) as it stands on a partition's system disk. The patch manager writes it before the standby
 * boots (step 705), the patch execution script reads it, chooses, and stores the results in it (steps 1201-1205), and the
 * partition hands it back (step 1207). One JSON file:
 *
 *   { "format": "changeover-patch-table", "version": 1, "patches": [ PatchRow, … ] }
 */

/** Where the table, the patch files and the patch execution script stand on a system disk. */
export const PATCH_PATHS = {
  table: '/var/lib/changeover/patch-table.json',
  files: '/var/lib/changeover/patches',
  startUp: '/etc/startup.d',
  script: '/etc/startup.d/50-patch.mjs',
} as const;

export const PATCH_TABLE_FORMAT = 'changeover-patch-table';
export const PATCH_TABLE_VERSION = 1;

/**
 * How a patch file is applied. `diff`: a unified diff against files of the system disk, all of its files or none.
 * `overlay`: JSON, files to put (`PatchOverlay`). `script`: a module that exports `async function run(guest)`.
 */
export const PATCH_KINDS = ['diff', 'overlay', 'script'] as const;
export type PatchKind = (typeof PATCH_KINDS)[number];

/** [602] security, [603] capability expansion, [604] function correction. */
export const PATCH_TYPES = ['security', 'expansion', 'correction'] as const;
export type PatchType = (typeof PATCH_TYPES)[number];

/** [607]: the result of the last execution. */
export interface PatchResult {
  readonly ok: boolean;
  /** ISO 8601. */
  readonly at: string;
  readonly output: string;
}

export interface PatchRow {
  /** [601]: name of the patch file below `PATCH_PATHS.files`; no slash. */
  readonly file: string;
  readonly kind: PatchKind;
  readonly type: PatchType;
  /** SHA-256 of the patch file, 64 hex digits, lower case. */
  readonly sha256: string;
  /** [605]: when it was applied, ISO 8601; null = "not yet". */
  readonly date: string | null;
  /** [606]: apply it at the next run. */
  readonly applyNext: boolean;
  readonly result: PatchResult | null;
}

export interface PatchTable {
  readonly format: typeof PATCH_TABLE_FORMAT;
  readonly version: typeof PATCH_TABLE_VERSION;
  readonly patches: readonly PatchRow[];
}

/** A patch file of kind `overlay`: every file is put, or none. `data` is base64, `text` UTF-8; one of the two. */
export interface PatchOverlay {
  readonly files: readonly {
    readonly path: string;
    readonly mode?: number;
    readonly text?: string;
    readonly data?: string;
  }[];
}
