import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { GuestPatchResult, PatchRow, PatchTable, StartUpResult } from '../../src/channel/index.ts';
import { PATCH_PATHS, PATCH_TABLE_FORMAT, PATCH_TABLE_VERSION } from '../../src/channel/index.ts';
import { Scratch } from '../../src/guest/application/unpack.ts';
import type { Namespace } from '../../src/guest/index.ts';
import { runStartUpScripts } from '../../src/guest/index.ts';
import { inScratch, within } from '../support/index.ts';
import { withTree } from './tree.ts';

const test = suite('guest/patch-script');

const SCRIPT = readFileSync(new URL('../../src/guest/scripts/50-patch.mjs', import.meta.url), 'utf8');
const OLD = 'one\ntwo\nthree\n';
const DIFF = '--- a/srv/app.txt\n+++ b/srv/app.txt\n@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n three\n';
const OVERLAY = JSON.stringify({ files: [{ path: '/srv/added/file', text: 'added', mode: 0o755 }] });
const PATCH_SCRIPT = `export async function run(guest) { await guest.fs.writeFile('/srv/by-script', guest.id); }`;

function row(file: string, kind: PatchRow['kind'], data: string, more: Partial<PatchRow> = {}): PatchRow {
  const sha256 = createHash('sha256').update(data).digest('hex');
  return { file, kind, type: 'security', sha256, date: null, applyNext: true, result: null, ...more };
}

interface Outcome {
  readonly startUp: StartUpResult[];
  readonly results: GuestPatchResult[];
  readonly table: PatchTable;
  readonly tree: Namespace;
}

async function boot(
  rows: readonly PatchRow[],
  files: Readonly<Record<string, string>>,
  check: (outcome: Outcome, again: () => Promise<Outcome>) => Promise<void>,
): Promise<void> {
  const table: PatchTable = { format: PATCH_TABLE_FORMAT, version: PATCH_TABLE_VERSION, patches: rows };
  const disk: Record<string, string> = {
    '/srv/app.txt': OLD,
    [PATCH_PATHS.script]: SCRIPT,
    [PATCH_PATHS.table]: JSON.stringify(table),
  };
  for (const [name, text] of Object.entries(files)) disk[`${PATCH_PATHS.files}/${name}`] = text;
  await withTree(disk, ({ tree }) =>
    inScratch(async (directory) => {
      const run = async (): Promise<Outcome> => {
        const scratch = new Scratch(directory);
        await scratch.clear();
        const startUp: StartUpResult[] = [];
        let results: GuestPatchResult[] = [];
        const handBack = (handed: GuestPatchResult[]) => {
          results = handed;
        };
        const options = { id: 'B', hostname: 'b', tree, scratch, log: () => {}, handBack };
        await runStartUpScripts(options, startUp);
        const now = JSON.parse(await tree.readFile(PATCH_PATHS.table, 'utf8')) as PatchTable;
        return { startUp, results, table: now, tree };
      };
      await check(await run(), run);
    }),
  );
}

test(
  '1201-1207: flagged patches of every kind are applied in order, stored and handed back',
  within(() =>
    boot(
      [
        row('a.diff', 'diff', DIFF),
        row('b.json', 'overlay', OVERLAY),
        row('c.mjs', 'script', PATCH_SCRIPT),
        row('d.diff', 'diff', DIFF, { applyNext: false }),
        row('e.diff', 'diff', DIFF, { date: '2026-01-01T00:00:00.000Z' }),
      ],
      { 'a.diff': DIFF, 'b.json': OVERLAY, 'c.mjs': PATCH_SCRIPT },
      async ({ startUp, results, table, tree }, again) => {
        assert.equal(
          startUp.map(({ script, ok }) => [script, ok]),
          [['50-patch.mjs', true]],
        );
        assert.equal(
          results.map(({ file, ok }) => [file, ok]),
          [
            ['a.diff', true],
            ['b.json', true],
            ['c.mjs', true],
          ],
        );
        assert.is(await tree.readFile('/srv/app.txt', 'utf8'), OLD.replace('two', 'TWO'));
        assert.is(await tree.readFile('/srv/added/file', 'utf8'), 'added');
        assert.is((await tree.stat('/srv/added/file')).mode & 0o777, 0o755);
        assert.is(await tree.readFile('/srv/by-script', 'utf8'), 'B');
        assert.equal(
          table.patches.map(({ applyNext, date }) => [applyNext, date !== null]),
          [
            [false, true],
            [false, true],
            [false, true],
            [false, false],
            [true, true],
          ],
        );
        // The second boot finds nothing left to do.
        assert.equal((await again()).results, []);
      },
    ),
  ),
);

test(
  'a wrong checksum is refused and the file is not touched; the next patch is applied',
  within(() =>
    boot(
      [row('a.diff', 'diff', DIFF, { sha256: '0'.repeat(64) }), row('b.json', 'overlay', OVERLAY)],
      { 'a.diff': DIFF, 'b.json': OVERLAY },
      async ({ startUp, results, table, tree }) => {
        assert.is(startUp[0]?.ok, false);
        assert.equal(
          results.map(({ ok }) => ok),
          [false, true],
        );
        assert.match(results[0]!.output, 'wrong checksum');
        assert.is(await tree.readFile('/srv/app.txt', 'utf8'), OLD);
        assert.is(table.patches[0]?.date, null);
        assert.is(table.patches[0]?.applyNext, true);
        assert.is(table.patches[0]?.result?.ok, false);
      },
    ),
  ),
);

test(
  'a diff that does not apply leaves nothing changed',
  within(() => {
    const bad = DIFF.replace(' one', ' uno');
    return boot([row('a.diff', 'diff', bad)], { 'a.diff': bad }, async ({ results, tree }) => {
      assert.is(results[0]?.ok, false);
      assert.match(results[0]!.output, 'does not apply');
      assert.is(await tree.readFile('/srv/app.txt', 'utf8'), OLD);
    });
  }),
);

test(
  'an applied diff is recognised',
  within(() => {
    const second = row('b.diff', 'diff', DIFF);
    return boot(
      [row('a.diff', 'diff', DIFF), second],
      { 'a.diff': DIFF, 'b.diff': DIFF },
      async ({ results }) => {
        assert.equal(
          results.map(({ ok, output }) => [ok, output]),
          [
            [true, 'patched /srv/app.txt'],
            [true, 'was applied already'],
          ],
        );
      },
    );
  }),
);

test(
  'a missing patch file, a name with a path and an unknown kind are results, not crashes',
  within(() =>
    boot(
      [
        row('gone.diff', 'diff', DIFF),
        row('../a.diff', 'diff', DIFF),
        row('k.bin', 'magic' as PatchRow['kind'], 'x'),
      ],
      { 'k.bin': 'x' },
      async ({ results }) => {
        assert.equal(
          results.map(({ ok }) => ok),
          [false, false, false],
        );
        assert.match(results[0]!.output, 'ENOENT');
        assert.match(results[1]!.output, 'no path');
        assert.match(results[2]!.output, 'unknown kind');
      },
    ),
  ),
);

test(
  'Fig 11: scripts run in the order of their numbers; one that fails does not stop the others, a required one does',
  within(() =>
    withTree(
      {
        '/etc/startup.d/20-second.mjs': `export async function run(guest) { guest.log('second'); throw new Error('broken'); }`,
        '/etc/startup.d/10-first.mjs': `export async function run(guest) { guest.log('first'); }`,
        '/etc/startup.d/30-third.mjs': `export const required = true; export async function run() { throw new Error('must'); }`,
        '/etc/startup.d/40-never.mjs': 'export async function run() {}',
        '/etc/startup.d/README': 'not a script',
      },
      ({ tree }) =>
        inScratch(async (directory) => {
          const scratch = new Scratch(directory);
          await scratch.clear();
          const results: StartUpResult[] = [];
          const options = { id: 'B', hostname: 'b', tree, scratch, log: () => {}, handBack: () => {} };
          let stopped = '';
          await runStartUpScripts(options, results).catch((error) => {
            stopped = error.code;
          });
          assert.is(stopped, 'start-up-failed');
          assert.equal(
            results.map(({ script, ok, output }) => [script, ok, output]),
            [
              ['10-first.mjs', true, 'first'],
              ['20-second.mjs', false, 'second\nbroken'],
              ['30-third.mjs', false, 'must'],
            ],
          );
        }),
    ),
  ),
);

test.run();
