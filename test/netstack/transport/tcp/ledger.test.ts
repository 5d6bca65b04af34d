/** N1: docs/rfc9293.md names every MUST of RFC 9293, and every test that it names exists. */
import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

const ledger = suite('netstack/transport/tcp/ledger');
const root = resolve(import.meta.dirname, '../../../..');
const REQUIREMENTS = 69;

interface Row {
  readonly number: number;
  readonly section: string;
  readonly what: string;
  readonly held: string;
}

const text = readFileSync(join(root, 'docs/rfc9293.md'), 'utf8');
const rows: Row[] = [...text.matchAll(/^\| MUST-(\d+) \| ([\d.]+) \| (.+?) \| (.+) \|$/gm)].map((match) => ({
  number: Number(match[1]),
  section: match[2]!,
  what: match[3]!,
  held: match[4]!,
}));

ledger('has the 69 requirements, each once, in order', () => {
  assert.equal(
    rows.map((row) => row.number),
    Array.from({ length: REQUIREMENTS }, (_, i) => i + 1),
  );
});

/** The title as an argument of a test that is not skipped: behind the suite's name and a parenthesis. */
function holds(source: string, title: string): boolean {
  const escaped = title.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
  return new RegExp(`^\\w+\\(\\s*['\`]${escaped}['\`],`, 'm').test(source);
}

ledger('every row names a test that exists, or says why not', () => {
  const missing: string[] = [];
  for (const { number, held } of rows) {
    if (held.startsWith('**Waived')) {
      if (held.length < 25) missing.push(`MUST-${number}: a waiver without reason`);
      continue;
    }
    const [, path, title] = /^`([^`]+)`: (.+)$/.exec(held) ?? [];
    if (path === undefined || title === undefined) {
      missing.push(`MUST-${number}: names no test`);
      continue;
    }
    const file = join(root, 'test/netstack', path);
    if (!existsSync(file)) missing.push(`MUST-${number}: there is no ${path}`);
    else if (!holds(readFileSync(file, 'utf8'), title))
      missing.push(`MUST-${number}: ${path} has no "${title}"`);
  }
  assert.equal(missing, []);
});

ledger('few are waived, and each of them is known', () => {
  const waived = rows.filter(({ held }) => held.startsWith('**Waived')).map(({ number }) => number);
  assert.equal(waived, [48, 51, 52, 53]);
});

ledger('a test that is gone, skipped or renamed is noticed', () => {
  assert.ok(holds("must(\n  'a b (c)',", 'a b (c)'));
  assert.not.ok(holds("must.skip(\n  'a b (c)',", 'a b (c)'));
  assert.not.ok(holds("// must('a b (c)',", 'a b (c)'));
  assert.not.ok(holds("must(\n  'a b',", 'a b (c)'));
});

ledger.run();
