import { CodedError, codeOf, messageOf } from '../../common/index.ts';

/** Misuse of the API. Codes: `bad-request`, `not-found`, `method-not-allowed`, `too-large`, `unavailable`. */
export class ApiError extends CodedError {}

/** Body of every answer that is not 2xx. */
export interface ErrorAnswer {
  readonly error: {
    readonly code: string;
    readonly message: string;
    /** What to do next; absent when there is nothing to be said. */
    readonly remedy?: string;
    /** Machine-readable facts. */
    readonly values?: Readonly<Record<string, unknown>>;
  };
}

/** Where a code has a better status than 500. Refusals by budget or policy are 409, they name themselves by their code. */
const STATUS_BY_CODE: Readonly<Record<string, number>> = {
  'bad-request': 400,
  'bad-patch': 400,
  'bad-argument': 400,
  'no-such-run': 404,
  'no-such-patch': 404,
  'no-such-service': 404,
  'unknown-partition': 404,
  'unknown-port': 404,
  'not-found': 404,
  'method-not-allowed': 405,
  'too-large': 413,
  'illegal-transition': 409,
  'wrong-phase': 409,
  'run-in-progress': 409,
  'no-standby': 409,
  'nothing-flagged': 409,
  'not-scanned': 409,
  'over-budget': 409,
  unsigned: 409,
  'not-quiet': 409,
  'bad-combination': 409,
  'rehearsal-differs': 409,
  'capture-running': 409,
  'not-running': 409,
  serving: 409,
  unavailable: 503,
};

export function statusOf(error: unknown): number {
  const code = codeOf(error);
  return code === undefined ? 500 : (STATUS_BY_CODE[code] ?? 500);
}

export function errorAnswer(error: unknown): ErrorAnswer {
  const coded = error instanceof CodedError ? error : undefined;
  return {
    error: {
      code: codeOf(error) ?? 'internal',
      message: messageOf(error).replace(/\s+/g, ' '),
      ...(coded?.remedy === undefined ? {} : { remedy: coded.remedy }),
      ...(coded === undefined || Object.keys(coded.values).length === 0 ? {} : { values: coded.values }),
    },
  };
}
