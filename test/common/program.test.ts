import { spawnSync } from 'node:child_process';
import { mkdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { BundleManifest } from '../../src/common/index.ts';
import { BUNDLES, digestOf, programFile } from '../../src/common/index.ts';
import { inScratch, within } from '../support/index.ts';

const program = suite('common/program');
const root = resolve(import.meta.dirname, '../..');
const MAIN = 'src/x/main.ts';

function put(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
}

/** A product of two sources with the bundle of both. */
function product(folder: string): { readonly main: string; readonly other: string; readonly bundle: string } {
  const main = join(folder, MAIN);
  const other = join(folder, 'src/x/other.ts');
  put(main, "import './other.ts';\n");
  put(other, 'export const a = 1;\n');
  const bundle = join(folder, BUNDLES, 'x.mjs');
  put(bundle, 'const a = 1;\n');
  const digest = (text: string) => digestOf(Buffer.from(text));
  const manifest: BundleManifest = {
    bundle: 'x.mjs',
    inputs: { [MAIN]: digest("import './other.ts';\n"), 'src/x/other.ts': digest('export const a = 1;\n') },
  };
  put(join(folder, BUNDLES, 'src.x.main.ts.json'), JSON.stringify(manifest));
  return { main, other, bundle };
}

program(
  'a bundle of exactly these sources is run, whenever they were written',
  within(() =>
    inScratch((folder) => {
      const { main, other, bundle } = product(folder);
      assert.is(programFile(main, folder), bundle);
      utimesSync(other, 1, 1);
      assert.is(programFile(main, folder), bundle, 'a copied tree keeps its bundles');
    }),
  ),
);

program(
  'an edited source is never passed over, also after the bundle was found fresh; put back, the bundle is run again',
  within(() =>
    inScratch((folder) => {
      const { main, other, bundle } = product(folder);
      assert.is(programFile(main, folder), bundle);
      writeFileSync(other, 'export const a = 2;\n');
      assert.is(programFile(main, folder), main);
      writeFileSync(other, 'export const a = 1;\n');
      assert.is(programFile(main, folder), bundle);
    }),
  ),
);

program(
  'no manifest, a torn one, a source or a bundle that is gone: the source is run',
  within(() =>
    inScratch((folder) => {
      const { main, other, bundle } = product(folder);
      const manifest = join(folder, BUNDLES, 'src.x.main.ts.json');
      rmSync(bundle);
      assert.is(programFile(main, folder), main);
      put(bundle, 'const a = 1;\n');
      rmSync(other);
      assert.is(programFile(main, folder), main);
      writeFileSync(manifest, '{"bundle": "x.m');
      assert.is(programFile(main, folder), main);
      rmSync(manifest);
      assert.is(programFile(main, folder), main);
    }),
  ),
);

program(
  'what make build makes starts, and finds what its modules look for beside their sources',
  within(() => {
    const node = [process.execPath, '--disable-warning=ExperimentalWarning'] as const;
    const made = spawnSync(node[0], [node[1], join(root, 'tools/bundle.ts')], { encoding: 'utf8' });
    assert.is(made.status, 0, made.stderr);
    const said = {
      'src/guest/main.ts': /--partition is missing/,
      'src/daemon/processes/mux.ts': /--control SOCKET is missing/,
      'src/daemon/processes/block.ts': /needs a control socket/,
      'src/daemon/processes/control.ts': /--config FILE is missing/,
    };
    for (const [source, pattern] of Object.entries(said)) {
      const file = programFile(join(root, source));
      assert.ok(relative(root, file).startsWith(BUNDLES), `${source} is run from ${file}`);
      const run = spawnSync(node[0], [node[1], file], { encoding: 'utf8' });
      assert.is.not(run.status, 0);
      assert.match(run.stderr, pattern);
      assert.not.match(run.stderr, /ERR_MODULE_NOT_FOUND|SyntaxError|ENOENT/);
    }
  }, 20_000),
);

program.run();
