/** Two answers to the same request: what differs, under the rules of the configuration. */
import { createHash } from 'node:crypto';
import type { RehearsalRequest, RehearsalSpec } from '../policy.ts';

/** An HTTP answer; header names in lower case. */
export interface HttpAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
}

export interface RehearsalDifference {
  /** `GET /path`. */
  readonly request: string;
  /** `status`, `body`, a header's name, or `answer` where there was none. */
  readonly what: string;
  readonly active: string;
  readonly standby: string;
}

/**
 * What became of a recorded request. `changes`: the active itself answered otherwise before the copy and after it, so that in this
 * the standby was not held to it. `unanswered`: by the active, or in the time for all of them.
 */
export interface RecordedOutcome {
  /** `GET /path`, a query as `?…`. */
  readonly request: string;
  /** How often it came on connections that were followed. */
  readonly count: number;
  readonly outcome: 'same' | 'differs' | 'changes' | 'unanswered';
}

export interface RehearsalReport {
  readonly requests: number;
  readonly same: number;
  readonly differences: readonly RehearsalDifference[];
  /** How long writes of the active waited for the copy of its application disk, ms. */
  readonly frozenMs?: number;
  /** Requests of clients, those that came most often first; they are among `requests`. */
  readonly recorded?: readonly RecordedOutcome[];
  /** Why nothing was rehearsed. */
  readonly notRehearsed?: string;
}

/** Requests that must not write, so that the active may be asked, too. */
export function isSafe(request: RehearsalRequest): boolean {
  return ['GET', 'HEAD', 'OPTIONS'].includes(request.method);
}

/** `active` is undefined where it was not asked: then only the status is compared, with the one that is expected. */
export function differences(
  request: RehearsalRequest,
  spec: Pick<RehearsalSpec, 'headers'>,
  active: HttpAnswer | undefined,
  standby: HttpAnswer,
): RehearsalDifference[] {
  const { ignore = [], expectStatus } = request;
  const found: RehearsalDifference[] = [];
  const compare = (what: string, wanted: string, got: string) => {
    if (wanted !== got && !ignore.includes(what)) {
      found.push({ request: nameOf(request), what, active: wanted, standby: got });
    }
  };
  const wanted = expectStatus ?? active?.status;
  if (wanted !== undefined) compare('status', String(wanted), String(standby.status));
  else if (standby.status >= 500) compare('status', 'below 500', String(standby.status));
  // Another status than the active's is asked for: the rest is not meant to be the same.
  if (active === undefined || (expectStatus !== undefined && expectStatus !== active.status)) return found;
  for (const header of spec.headers) {
    compare(header, active.headers[header] ?? 'absent', standby.headers[header] ?? 'absent');
  }
  compare('body', digest(request, active.body), digest(request, standby.body));
  return found;
}

export function nameOf(request: RehearsalRequest): string {
  const { method, path, recorded } = request;
  return `${method} ${recorded === true ? path.replace(/\?.*/, '?…') : path}`;
}

/** Length and the beginning of the SHA-256 of a body, without what is to be ignored. */
function digest(request: RehearsalRequest, body: Uint8Array): string {
  let bytes = body;
  if (request.ignoreText !== undefined && request.ignoreText.length > 0) {
    let text = Buffer.from(body).toString('latin1');
    for (const pattern of request.ignoreText) text = text.replace(new RegExp(pattern, 'g'), '');
    bytes = Buffer.from(text, 'latin1');
  }
  return `${bytes.length} bytes, sha256 ${createHash('sha256').update(bytes).digest('hex').slice(0, 16)}`;
}
