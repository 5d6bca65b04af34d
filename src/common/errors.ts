export interface CodedErrorOptions {
  /** What to do next, one sentence that a person can follow. */
  readonly remedy?: string;
  /** Machine-readable facts: names, numbers, paths. */
  readonly values?: Readonly<Record<string, unknown>>;
  readonly cause?: unknown;
}

/**
 * Base of every error that is ours: a stable `code`, one sentence that says what and where, `remedy` that says what to do.
 * Each module derives its own class next to the code that throws it.
 */
export class CodedError extends Error {
  readonly code: string;
  readonly remedy: string | undefined;
  readonly values: Readonly<Record<string, unknown>>;

  constructor(code: string, message: string, options: CodedErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = new.target.name;
    this.code = code;
    this.remedy = options.remedy;
    this.values = options.values ?? {};
  }
}

/** The message of anything thrown. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}

/** `code` of an errno or coded error, else undefined. */
export function codeOf(thrown: unknown): string | undefined {
  const code = (thrown as { code?: unknown } | null | undefined)?.code;
  return typeof code === 'string' ? code : undefined;
}

/** One sentence for a person: message, and the remedy where there is one. */
export function sentenceOf(thrown: unknown): string {
  const remedy = thrown instanceof CodedError ? thrown.remedy : undefined;
  const message = messageOf(thrown).replace(/\s+/g, ' ').replace(/\.$/, '');
  return remedy === undefined ? message : `${message}: ${remedy}`;
}
