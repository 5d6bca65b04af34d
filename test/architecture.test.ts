/** The rules of the source tree that no compiler checks. */
import { globSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { within } from './support/index.ts';

const architecture = suite('architecture');

/** What a folder of src/ may import, besides itself. */
const LAYERS: Readonly<Record<string, readonly string[]>> = {
  common: [],
  channel: ['common'],
  netstack: ['common', 'channel'],
  blockdev: ['common', 'channel'],
  hypervisor: ['common', 'channel', 'netstack', 'blockdev'],
  guest: ['common', 'channel', 'netstack', 'blockdev', 'hypervisor'],
  patch: ['common', 'channel', 'netstack', 'blockdev', 'hypervisor', 'guest'],
  pool: ['common', 'channel', 'hypervisor', 'patch'],
  daemon: ['common', 'channel', 'netstack', 'blockdev', 'hypervisor', 'guest', 'patch', 'pool'],
  cli: ['common', 'channel', 'netstack', 'blockdev', 'hypervisor', 'guest', 'patch', 'pool', 'daemon'],
};

/** Native addons are packages of our own; each belongs to one layer, and to those that only look whether it loads. */
const ADDONS: Readonly<Record<string, readonly string[]>> = {
  'tap-tun': ['netstack', 'hypervisor'],
  'block-io': ['blockdev'],
};

/** Inside netstack a folder imports only those before it. `stack.ts` and `index.ts` put them together. */
const NETSTACK_LAYERS = ['wire', 'link', 'capture', 'send', 'iface', 'transport', 'node'] as const;

const MAX_LINES = 600;
const root = resolve(import.meta.dirname, '..');

interface Import {
  readonly file: string;
  readonly line: number;
  /** As written. */
  readonly specifier: string;
  /** Relative to src/, when it leads into it. */
  readonly target: string | undefined;
}

function files(...patterns: string[]): string[] {
  return globSync(patterns, { cwd: root, exclude: ['**/node_modules/**'] }).sort();
}

const sources = files('src/**/*.ts');
const textOf = new Map(sources.map((file) => [file, readFileSync(join(root, file), 'utf8')]));

/** Comments blanked out, so that neither words nor examples in them count. */
function code(text: string): string {
  return text
    .replace(/\/\*[\s\S]*?\*\//g, (comment) => comment.replace(/[^\n]/g, ' '))
    .replace(/(^|[\s;{}(),])\/\/[^\n]*/g, '$1');
}

const IMPORT = /\b(?:from|import)\s*\(?\s*'([^'\n]+)'/g;

function importsOf(file: string): Import[] {
  const text = code(textOf.get(file) ?? '');
  return [...text.matchAll(IMPORT)].map((match) => {
    const specifier = match[1] ?? '';
    const path = specifier.startsWith('.')
      ? relative(join(root, 'src'), resolve(root, dirname(file), specifier))
      : undefined;
    return {
      file,
      line: text.slice(0, match.index).split('\n').length,
      specifier,
      target: path === undefined || path.startsWith('..') ? undefined : path,
    };
  });
}

const imports = sources.flatMap(importsOf);
const topOf = (file: string) => relative('src', file).split('/')[0] ?? '';
const placed = ({ file, line, specifier }: Import) => `${file}:${line} imports ${specifier}`;

architecture(
  'a folder imports only the folders below it',
  within(() => {
    const wrong = imports.filter(({ file, target }) => {
      if (target === undefined) return false;
      const from = topOf(file);
      const to = target.split('/')[0] ?? '';
      return from !== to && LAYERS[from]?.includes(to) !== true;
    });
    assert.equal(wrong.map(placed), []);
    assert.ok(imports.length > 100, 'imports were found at all');
  }),
);

architecture(
  'another folder is imported through an index.ts; programs of their own by the command line that starts them',
  within(() => {
    const wrong = imports.filter(({ file, target }) => {
      if (target === undefined || topOf(file) === target.split('/')[0]) return false;
      if (topOf(file) === 'cli' && target.startsWith('daemon/standalone/')) return false;
      return !target.endsWith('/index.ts');
    });
    assert.equal(wrong.map(placed), []);
  }),
);

architecture(
  'inside netstack: wire → link → capture, send → iface → transport → node',
  within(() => {
    const rank = (path: string) =>
      NETSTACK_LAYERS.findIndex((layer) => path.startsWith(`netstack/${layer}/`));
    const wrong = imports.filter(({ file, target }) => {
      if (target === undefined) return false;
      const from = rank(relative('src', file));
      const to = rank(target);
      return from !== -1 && to > from;
    });
    assert.equal(wrong.map(placed), []);
  }),
);

architecture(
  'a native addon is used by its own layer only',
  within(() => {
    const wrong = imports.filter(({ file, specifier }) => {
      const users = ADDONS[specifier];
      return users !== undefined && !users.includes(topOf(file));
    });
    assert.equal(wrong.map(placed), []);
  }),
);

architecture(
  'no import circle between the folders of src',
  within(() => {
    const seen: string[] = [];
    for (const [name, below] of Object.entries(LAYERS)) {
      for (const layer of below) assert.ok(seen.includes(layer), `${name} is below ${layer}, not above`);
      seen.push(name);
    }
    assert.equal(
      [...new Set(sources.map(topOf))].filter((top) => !Object.hasOwn(LAYERS, top)),
      [],
    );
  }),
);

architecture(
  'no default exports, enums or namespaces',
  within(() => {
    const wrong = sources.filter((file) =>
      /^\s*export default\b|^\s*(?:export )?(?:declare )?(?:const )?enum \w|^\s*(?:export )?namespace \w/m.test(
        code(textOf.get(file) ?? ''),
      ),
    );
    assert.equal(wrong, []);
  }),
);

architecture(
  `no file is longer than ${MAX_LINES} lines, none is a drawer`,
  within(() => {
    const all = files(
      'src/**/*.ts',
      'test/**/*.ts',
      'tools/**/*.ts',
      'tap-tun/src/**/*.ts',
      'block-io/src/**/*.ts',
    );
    const long = all.filter(
      (file) => readFileSync(join(root, file), 'utf8').split('\n').length > MAX_LINES + 1,
    );
    assert.equal(long, []);
    assert.equal(
      all.filter((file) => /(^|[/-])(utils?|helpers?|misc|stuff)([/.-]|$)/.test(file)),
      [],
    );
  }),
);

architecture(
  'file names are in kebab-case',
  within(() => {
    const wrong = sources.filter((file) => !/^[a-z0-9/-]+\.(d\.)?ts$/.test(file));
    assert.equal(wrong, []);
  }),
);

architecture(
  'every test file runs its suite',
  within(() => {
    const wrong = files(
      'test/**/*.test.ts',
      'tap-tun/test/**/*.test.ts',
      'block-io/test/**/*.test.ts',
    ).filter((file) => !/\.run\(\)/.test(readFileSync(join(root, file), 'utf8')));
    assert.equal(wrong, []);
  }),
);

architecture(
  'errors are typed: the product throws no bare Error',
  within(() => {
    const wrong = sources.flatMap((file) =>
      [...code(textOf.get(file) ?? '').matchAll(/throw new Error\(/g)].map((match) => {
        const line = (textOf.get(file) ?? '').slice(0, match.index).split('\n').length;
        return `${file}:${line}`;
      }),
    );
    assert.equal(wrong, []);
  }),
);

architecture.run();
