/**
 * Makes one file of each program that the product starts as a process of its own (see src/common/program.ts). Modules keep
 * their place: what one asks of `import.meta` is answered as if it were loaded from its source. Native addons and ext2fs
 * stay outside.
 */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import type { BundleManifest } from '../src/common/index.ts';
import { BUNDLES, bundleName, digestOf } from '../src/common/index.ts';

const PRODUCT = resolve(import.meta.dirname, '..');
const FOLDER = join(PRODUCT, BUNDLES);
const PROGRAMS = [
  'src/guest/main.ts',
  'src/daemon/processes/mux.ts',
  'src/daemon/processes/block.ts',
  'src/daemon/processes/control.ts',
];
/** The folder of the bundle is two below the product's. */
const BANNER = `import { createRequire as changeoverRequire } from 'node:module';
const require = changeoverRequire(import.meta.url);
const changeoverSource = (path) => new URL('../../' + path, import.meta.url).href;
const changeoverFolder = (path) => process.getBuiltinModule('node:url').fileURLToPath(changeoverSource(path));`;

async function loadBundler(): Promise<typeof import('esbuild') | undefined> {
  try {
    return await import('esbuild');
  } catch {
    return undefined;
  }
}

async function bundle(program: string, esbuild: typeof import('esbuild')): Promise<void> {
  const result = await esbuild.build({
    entryPoints: [program],
    absWorkingDir: PRODUCT,
    bundle: true,
    write: false,
    metafile: true,
    platform: 'node',
    format: 'esm',
    target: 'node24',
    // Stack traces name what the sources name.
    minify: false,
    external: ['ext2fs', '*.node'],
    banner: { js: BANNER },
    logLevel: 'warning',
    plugins: [
      {
        name: 'place',
        setup(build) {
          build.onLoad({ filter: /\.ts$/ }, ({ path }) => {
            const name = relative(PRODUCT, path);
            return {
              loader: 'ts',
              contents: readFileSync(path, 'utf8')
                .replaceAll(/\bimport\.meta\.url\b/g, `changeoverSource(${JSON.stringify(name)})`)
                .replaceAll(
                  /\bimport\.meta\.dirname\b/g,
                  `changeoverFolder(${JSON.stringify(dirname(name))})`,
                ),
            };
          });
        },
      },
    ],
  });
  const { contents } = result.outputFiles![0]!;
  const inputs = Object.keys(result.metafile.inputs).filter((path) => !path.startsWith('node_modules/'));
  const name = bundleName(program);
  const manifest: BundleManifest = {
    bundle: `${name}-${digestOf(contents).slice(0, 16)}.mjs`,
    inputs: Object.fromEntries(
      inputs.sort().map((path) => [path, digestOf(readFileSync(join(PRODUCT, path)))]),
    ),
  };
  mkdirSync(FOLDER, { recursive: true });
  // The manifest last: until it is there the one before it stands, or none.
  put(join(FOLDER, manifest.bundle), contents);
  put(join(FOLDER, `${name}.json`), `${JSON.stringify(manifest, null, 2)}\n`);
  for (const other of readdirSync(FOLDER)) {
    if (other.startsWith(`${name}-`) && other !== manifest.bundle) rmSync(join(FOLDER, other));
  }
}

function put(path: string, contents: string | Uint8Array): void {
  const temporary = `${path}.${process.pid}`;
  writeFileSync(temporary, contents);
  renameSync(temporary, path);
}

const esbuild = await loadBundler();
if (esbuild === undefined)
  console.log('esbuild is not installed: processes are started from their sources, which takes longer');
else await Promise.all(PROGRAMS.map((program) => bundle(program, esbuild)));
