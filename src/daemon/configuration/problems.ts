import { CodedError } from '../../common/index.ts';

/** A place in the configuration: keys and indexes from the root. */
export type ConfigurationPath = readonly (string | number)[];

/** Something wrong in the configuration, before its line is known. */
export interface Finding {
  readonly path: ConfigurationPath;
  /** `key`: the key itself is what is wrong. */
  readonly at: 'key' | 'value';
  readonly message: string;
}

export interface Problem {
  readonly line: number;
  readonly column: number;
  readonly message: string;
}

/** `problems` are sorted by place; each of `lines` reads `FILE:LINE:COL: what is wrong, what is allowed`. */
export class ConfigurationError extends CodedError {
  readonly problems: readonly Problem[];
  readonly lines: readonly string[];

  constructor(file: string, problems: readonly Problem[]) {
    const sorted = [...problems].sort((a, b) => a.line - b.line || a.column - b.column);
    const lines = sorted.map((p) => `${file}:${p.line}:${p.column}: ${p.message}`);
    const more = lines.length > 1 ? ` (and ${lines.length - 1} more)` : '';
    super('configuration-invalid', `${lines[0] ?? `${file} is not valid`}${more}`, {
      remedy: 'correct the file, then check it with changeover doctor',
      values: { file, problems: sorted },
    });
    this.problems = sorted;
    this.lines = lines;
  }
}

/** `services[0].health.http.port`; the root is `the configuration`. */
/** What to do about an address that the probe could not ask. */
export const IN_ONE_NETWORK =
  'all addresses must be in one network with the probe, which may have one in each (network.probe.also)';

export function pathText(path: ConfigurationPath): string {
  let text = '';
  for (const part of path) {
    if (typeof part === 'number') text += `[${part}]`;
    else text += text === '' ? part : `.${part}`;
  }
  return text === '' ? 'the configuration' : text;
}

/** Edit distance with adjacent transpositions. */
function distance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1;
      let least = Math.min(row[j - 1]! + 1, last[j]! + 1, last[j - 1]! + cost);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        least = Math.min(least, beforeLast[j - 2]! + 1);
      }
      row.push(least);
    }
    beforeLast = last;
    last = row;
  }
  return last[b.length]!;
}

/** The known name that is most like `unknown`, or undefined when none is near. */
export function nearestName(unknown: string, known: readonly string[]): string | undefined {
  let best: string | undefined;
  let least = Math.max(1, Math.floor(unknown.length / 3)) + 1;
  for (const candidate of known) {
    const d = distance(unknown.toLowerCase(), candidate.toLowerCase());
    if (d < least && d < unknown.length) {
      least = d;
      best = candidate;
    }
  }
  return best;
}
