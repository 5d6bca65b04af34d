/** docs/nbd-protocol.md: every rule has its number, and every test that it names exists. */
import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

const ledger = suite('blockdev/nbd/ledger');
const root = resolve(import.meta.dirname, '../../..');

interface Row {
  readonly side: string;
  readonly number: number;
  readonly held: string;
}

const text = readFileSync(join(root, 'docs/nbd-protocol.md'), 'utf8');
const ROW = /^\| ([SC])-(\d+) \| [^|]+ \| (?:MUST|MUST NOT|SHOULD|SHOULD NOT|MAY) \| [^|]+ \| ([^|]+) \|$/gm;
const rows: Row[] = [...text.matchAll(ROW)].map(([, side, number, held]) => ({
  side: side!,
  number: Number(number),
  held: held!,
}));
const of = (side: string): Row[] => rows.filter((row) => row.side === side);

ledger('the rules of both sides are numbered without a gap, and no row is of another form', () => {
  for (const [side, count] of [
    ['S', 88],
    ['C', 42],
  ] as const) {
    assert.equal(
      of(side).map(({ number }) => number),
      Array.from({ length: count }, (_, i) => i + 1),
    );
  }
  assert.is(rows.length, text.match(/^\| [SC]-/gm)!.length);
});

/** The title as an argument of a test that is not skipped: behind the suite's name and a parenthesis. */
function holds(source: string, title: string): boolean {
  const escaped = title.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
  return new RegExp(`^ *\\w+\\(\\s*['\`]${escaped}['\`],`, 'm').test(source);
}

ledger('every row names a test that exists, or says why not', () => {
  const missing: string[] = [];
  const sources = new Map<string, string>();
  for (const { side, number, held } of rows) {
    const what = `${side}-${number}`;
    if (held.startsWith('**Waived**: ')) {
      if (held.length < 40) missing.push(`${what}: a waiver without reason`);
      continue;
    }
    const [, path, title] = /^`([^`]+)`: (.+)$/.exec(held) ?? [];
    if (path === undefined || title === undefined) {
      missing.push(`${what}: names no test`);
      continue;
    }
    const file = join(root, 'test', path);
    if (!existsSync(file)) {
      missing.push(`${what}: there is no ${path}`);
      continue;
    }
    const source = sources.get(path) ?? readFileSync(file, 'utf8');
    sources.set(path, source);
    if (!holds(source, title)) missing.push(`${what}: ${path} has no "${title}"`);
  }
  assert.equal(missing, []);
});

ledger('few are waived, and each of them is known', () => {
  const waived = (side: string) =>
    of(side)
      .filter(({ held }) => held.startsWith('**Waived**'))
      .map(({ number }) => number);
  assert.equal(waived('S'), [2, 3, 5, 24, 29, 40, 43]);
  assert.equal(waived('C'), [5, 18]);
});

ledger('a test that is gone, skipped or renamed is noticed', () => {
  assert.ok(holds("test(\n  'a b (c)',", 'a b (c)'));
  assert.not.ok(holds("test.skip(\n  'a b (c)',", 'a b (c)'));
  assert.not.ok(holds("// test('a b (c)',", 'a b (c)'));
  assert.not.ok(holds("test(\n  'a b',", 'a b (c)'));
});

ledger.run();
