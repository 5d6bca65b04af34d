/** What the reference pages say is what the program has. */
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { buildProgram, everyCommand } from '../../src/cli/program.ts';
import type { DaemonSurface } from '../../src/daemon/control/index.ts';
import { daemonRoutes } from '../../src/daemon/control/index.ts';
import { configurationReference } from '../../tools/configuration-reference.ts';
import { pointGroups, pointsReference } from '../../tools/points-reference.ts';
import { HOLD_CASES, OTHER_CASES } from '../live/support/trial-cases.ts';
import { within } from '../support/index.ts';

const documentation = suite('documentation');
const page = (name: string) => readFileSync(join(resolve(import.meta.dirname, '../../docs'), name), 'utf8');

documentation(
  'docs/configuration.md is generated from the schema',
  within(() => {
    assert.is(
      page('configuration.md'),
      configurationReference(),
      'run node tools/configuration-reference.ts',
    );
  }),
);

documentation(
  'docs/points.md is generated from the source and names more than 40 points, each once',
  within(() => {
    assert.is(page('points.md'), pointsReference(), 'run node tools/points-reference.ts');
    for (const { title, names } of pointGroups()) {
      assert.ok(names.length >= 8, `${title}: ${names.length}`);
      assert.is(new Set(names).size, names.length, title);
    }
    const known = new Set(
      pointGroups().flatMap(({ names }) => names.map((n) => n.replace(/^rollback\./, 'step.'))),
    );
    for (const { point } of [...HOLD_CASES, ...OTHER_CASES])
      assert.ok(known.has(point.replace(/^rollback\./, 'step.')), point);
  }),
);

documentation(
  'docs/api.md names every route',
  within(() => {
    const text = page('api.md');
    for (const { method, path } of daemonRoutes({} as DaemonSurface))
      assert.ok(text.includes(`\`${method} ${path}\``), `${method} ${path}`);
  }),
);

documentation(
  'docs/cli.md names every command and every option of its own',
  within(() => {
    const text = page('cli.md');
    const style = (_style: unknown, word: string) => word;
    const terminal = {
      interactive: false,
      columns: 80,
      progress: false,
      out() {},
      err() {},
      draw() {},
      style,
    };
    const pathOf = (command: Command): string =>
      command.parent?.parent == null ? command.name() : `${pathOf(command.parent)} ${command.name()}`;
    for (const command of everyCommand(buildProgram({ terminal, version: '0', finished: () => {} }))) {
      if (command.commands.length > 0) continue;
      assert.match(text, new RegExp(`\`${pathOf(command)}[ \`]`), pathOf(command));
      for (const { long } of command.options)
        assert.ok(text.includes(`${long}`), `${pathOf(command)} ${long}`);
    }
  }),
);

documentation.run();
