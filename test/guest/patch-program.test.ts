import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { applyDiff, GuestError } from '../../src/guest/index.ts';
import { within } from '../support/index.ts';
import { withTree } from './tree.ts';

const test = suite('guest/patch-program');

const OLD = 'one\ntwo\nthree\nfour\nfive\n';
const NEW = 'one\ntwo\nTHREE\nfour\nfive\n';
const DIFF = `--- a/srv/app.txt
+++ b/srv/app.txt
@@ -1,5 +1,5 @@
 one
 two
-three
+THREE
 four
 five
`;
const MAKES = `--- /dev/null
+++ b/srv/new.txt
@@ -0,0 +1,2 @@
+fresh
+file
`;
const REMOVES = `--- a/srv/old.txt
+++ /dev/null
@@ -1 +0,0 @@
-gone
`;

async function refusal(work: Promise<unknown>): Promise<GuestError> {
  try {
    await work;
  } catch (error) {
    assert.instance(error, GuestError);
    return error as GuestError;
  }
  throw new Error('it was not refused');
}

test(
  'a diff is applied, and recognised when it was applied already',
  within(() =>
    withTree({ '/srv/app.txt': OLD }, async ({ tree }) => {
      assert.equal(await applyDiff(tree, DIFF), { alreadyApplied: false, files: ['/srv/app.txt'] });
      assert.is(await tree.readFile('/srv/app.txt', 'utf8'), NEW);
      assert.equal(await applyDiff(tree, DIFF), { alreadyApplied: true, files: ['/srv/app.txt'] });
      assert.is(await tree.readFile('/srv/app.txt', 'utf8'), NEW);
    }),
  ),
);

test(
  'a diff makes, changes and removes files',
  within(() =>
    withTree({ '/srv/app.txt': OLD, '/srv/old.txt': 'gone\n' }, async ({ tree }) => {
      await tree.chmod('/srv/app.txt', 0o600);
      await applyDiff(tree, MAKES + DIFF + REMOVES);
      assert.is(await tree.readFile('/srv/new.txt', 'utf8'), 'fresh\nfile\n');
      assert.is(await tree.exists('/srv/old.txt'), false);
      assert.is((await tree.stat('/srv/app.txt')).mode & 0o777, 0o600);
      assert.is((await applyDiff(tree, MAKES + DIFF + REMOVES)).alreadyApplied, true);
    }),
  ),
);

test(
  'one file that does not fit: nothing is changed, the refusal names it',
  within(() =>
    withTree({ '/srv/app.txt': OLD, '/srv/old.txt': 'different\n' }, async ({ tree }) => {
      const error = await refusal(applyDiff(tree, MAKES + DIFF + REMOVES));
      assert.is(error.code, 'does-not-apply');
      assert.match(error.message, '/srv/old.txt');
      assert.is(await tree.readFile('/srv/app.txt', 'utf8'), OLD);
      assert.is(await tree.exists('/srv/new.txt'), false);
      assert.equal((await tree.readdir('/srv')).map((entry) => entry.name).sort(), ['app.txt', 'old.txt']);
    }),
  ),
);

test(
  'half applied is refused',
  within(() =>
    withTree({ '/srv/app.txt': NEW, '/srv/old.txt': 'gone\n' }, async ({ tree }) => {
      const error = await refusal(applyDiff(tree, DIFF + REMOVES));
      assert.match(error.message, '1 of 2 files are patched already');
      assert.is(await tree.exists('/srv/old.txt'), true);
    }),
  ),
);

test(
  'context is exact: one changed context line is a refusal',
  within(() =>
    withTree({ '/srv/app.txt': OLD.replace('two', 'TWO') }, async ({ tree }) => {
      assert.is((await refusal(applyDiff(tree, DIFF))).code, 'does-not-apply');
    }),
  ),
);

for (const [what, text] of [
  ['no diff at all', 'hello\n'],
  ['an empty file', ''],
  ['a name that leads out', DIFF.replaceAll('srv/app.txt', '../etc/app.txt')],
  ['a rename', DIFF.replace('+++ b/srv/app.txt', '+++ b/srv/other.txt')],
  ['the same file twice', DIFF + DIFF],
] as const) {
  test(
    `refused: ${what}`,
    within(() =>
      withTree({ '/srv/app.txt': OLD }, async ({ tree }) => {
        assert.is((await refusal(applyDiff(tree, text))).code, 'bad-diff');
        assert.is(await tree.readFile('/srv/app.txt', 'utf8'), OLD);
      }),
    ),
  );
}

test.run();
