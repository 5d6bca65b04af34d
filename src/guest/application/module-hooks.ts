/**
 * Modules of the guest get the guest's `node:fs`: a synchronous resolve hook hands every module below the scratch directory
 * two small modules in place of `node:fs` and `node:fs/promises`, one pair for `import`, one for `require`. Modules of the
 * guest OS itself, which live elsewhere, keep the host's.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { registerHooks } from 'node:module';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { FsShim } from './fs-shim.ts';
import type { Scratch } from './unpack.ts';

const KEY = 'changeover.guest.fs';
const NAMES: Readonly<Record<string, 'fs' | 'promises'>> = {
  fs: 'fs',
  'node:fs': 'fs',
  'fs/promises': 'promises',
  'node:fs/promises': 'promises',
};

/** Returns the function that takes the hooks off again. */
export function installModuleHooks(scratch: Scratch, shim: FsShim): () => void {
  const folder = join(dirname(scratch.root), 'modules');
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  (globalThis as Record<symbol, unknown>)[Symbol.for(KEY)] = shim;
  for (const part of ['fs', 'promises'] as const) {
    const source = `globalThis[Symbol.for('${KEY}')].${part}`;
    const names = Object.keys(shim[part]).map((name) => `export const ${name} = face.${name};`);
    writeFileSync(join(folder, `${part}.cjs`), `module.exports = ${source};\n`);
    writeFileSync(
      join(folder, `${part}.mjs`),
      `const face = ${source};\nexport default face;\n${names.join('\n')}\n`,
    );
  }
  const inside = pathToFileURL(`${scratch.root}/`).href;
  const hooks = registerHooks({
    resolve(specifier, context, next) {
      const part = Object.hasOwn(NAMES, specifier) ? NAMES[specifier] : undefined;
      if (part === undefined || context.parentURL?.startsWith(inside) !== true)
        return next(specifier, context);
      const required = context.conditions.includes('require');
      return {
        url: pathToFileURL(join(folder, required ? `${part}.cjs` : `${part}.mjs`)).href,
        format: required ? 'commonjs' : 'module',
        shortCircuit: true,
      };
    },
  });
  return () => hooks.deregister();
}
