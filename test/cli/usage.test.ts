/** `bin/changeover` as a shell sees it: usage errors, exit codes, what goes to which stream. */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { within as limited } from '../support/index.ts';

interface Context {
  directory: string;
}

const usage = suite<Context>('cli/usage');
const program = resolve(import.meta.dirname, '../../bin/changeover');

/** A command takes a fraction of a second; on a machine that is busy, many of them. */
const within: typeof limited = (body, limitMs = 60_000) => limited(body, limitMs);

interface Outcome {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

function changeover(cwd: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Outcome> {
  return new Promise((done, fail) => {
    const child = spawn(program, args, {
      cwd,
      env: { PATH: process.env['PATH'], CHANGEOVER_NODE: process.execPath, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let out = '';
    let err = '';
    child.stdout.on('data', (part) => {
      out += part;
    });
    child.stderr.on('data', (part) => {
      err += part;
    });
    child.on('error', fail);
    child.on('close', (code) => done({ code, out, err }));
  });
}

usage.before.each((context) => {
  context.directory = mkdtempSync(join(tmpdir(), 'changeover-cli-'));
});
usage.after.each((context) => rmSync(context.directory, { recursive: true, force: true }));

const WRONG: readonly [string, readonly string[], RegExp][] = [
  ['no command', [], /^changeover: changeover needs a command, known are: init, .*: see changeover --help$/],
  [
    'an unknown command',
    ['stauts'],
    /unknown command 'stauts'.*known are: init, up, down, status.*: see changeover --help$/,
  ],
  [
    'a group without its verb',
    ['patch'],
    /changeover patch needs a command, known are: list, show, .*: see changeover patch --help$/,
  ],
  [
    'an unknown option',
    ['patch', 'run', '--fast'],
    /unknown option '--fast': see changeover patch run --help$/,
  ],
  [
    'a value that is not allowed',
    ['patch', 'run', '--strategy', 'x'],
    /argument 'x' is invalid.*auto, overlap, hold/,
  ],
  [
    'a number out of range',
    ['demo', '--seconds', '0'],
    /allowed: whole numbers from 1 to 3600: see changeover demo --help$/,
  ],
  ['a missing argument', ['patch', 'flag'], /missing required argument 'file'/],
  ['one argument too many', ['status', 'now'], /too many arguments.*: see changeover status --help$/],
  ['a missing mandatory option', ['nbd', 'x.img'], /required option '--socket <path>' not specified/],
];

for (const [title, args, expected] of WRONG) {
  usage(
    `${title} is a usage error: one sentence, exit 2`,
    within(async ({ directory }) => {
      const { code, out, err } = await changeover(directory, args);
      assert.is(code, 2, err);
      assert.is(out, '');
      assert.is(err.trimEnd().split('\n').length, 1, err);
      assert.match(err.trimEnd(), expected);
    }),
  );
}

usage(
  'help and version go to stdout with exit 0; help has examples',
  within(async ({ directory }) => {
    const [help, version, nested] = await Promise.all([
      changeover(directory, ['--help']),
      changeover(directory, ['--version']),
      changeover(directory, ['patch', 'run', '--help']),
    ]);
    assert.is(help.code, 0);
    assert.match(help.out, /Examples:\n {2}\$ changeover demo/);
    assert.match(version.out, /^\d+\.\d+\.\d+\n$/);
    assert.match(nested.out, /--prepare-only/);
    assert.match(nested.out, /\$ changeover patch run --strategy hold --prepare-only/);
  }),
);

usage(
  'every command has help, --json and a summary',
  within(async () => {
    const { buildProgram, everyCommand } = await import('../../src/cli/program.ts');
    const terminal = {
      interactive: false,
      columns: 80,
      progress: false,
      out() {},
      err() {},
      draw() {},
      style: (_: unknown, t: string) => t,
    };
    const all = everyCommand(buildProgram({ terminal, version: '0', finished: () => {} })).slice(1);
    assert.ok(all.length > 25);
    for (const command of all) {
      assert.ok(command.summary().length > 0, command.name());
      if (command.commands.length > 0) continue;
      assert.ok(
        command.options.some((o) => o.long === '--json'),
        command.name(),
      );
      assert.ok(
        command.options.some((o) => o.long === '--debug'),
        command.name(),
      );
    }
  }),
);

usage(
  'init writes a configuration that loads, and replaces none unasked',
  within(async ({ directory }) => {
    const first = await changeover(directory, ['init', '--json']);
    assert.is(first.code, 0, first.err);
    const file = join(directory, 'changeover.yaml');
    assert.equal(JSON.parse(first.out), { file });
    const { loadConfiguration } = await import('../../src/daemon/configuration/index.ts');
    assert.is(loadConfiguration(file).services.length, 1);
    writeFileSync(file, 'mine');
    const second = await changeover(directory, ['init']);
    assert.is(second.code, 1);
    assert.match(second.err, /exists already: name another file, or replace it with --force/);
    assert.is(readFileSync(file, 'utf8'), 'mine');
    assert.is((await changeover(directory, ['init', '--force', '-q'])).code, 0);
    assert.match(readFileSync(file, 'utf8'), /^# Changeover configuration/);
  }),
);

usage(
  'without a daemon a command fails with 1 and says how to start one; --json says it for programs, --debug where',
  within(async ({ directory }) => {
    const run = ['--run-directory', join(directory, 'run')];
    const plain = await changeover(directory, ['status', ...run]);
    assert.is(plain.code, 1);
    assert.match(plain.err, /^changeover: no daemon runs on .*run: start it with changeover up/);
    assert.is(plain.err.split('\n').length, 2);
    const json = await changeover(directory, ['patch', 'list', '--json', ...run]);
    assert.is(json.code, 1);
    assert.is(JSON.parse(json.out).error.code, 'no-daemon');
    const debug = await changeover(directory, ['status', '--debug', ...run]);
    assert.match(debug.err, /at .*api-client\.ts/);
    assert.not.match(plain.err, /\n\s+at /);
  }),
);

usage(
  'the run directory comes from the option, the environment, then the configuration',
  within(async ({ directory }) => {
    writeFileSync(join(directory, 'changeover.yaml'), 'runDirectory: ./here\nnonsense: [}\n');
    const fromFile = await changeover(directory, ['status']);
    assert.match(fromFile.err, new RegExp(`no daemon runs on ${join(directory, 'here')}`));
    const fromEnvironment = await changeover(directory, ['status'], {
      CHANGEOVER_RUN_DIRECTORY: '/tmp/there',
    });
    assert.match(fromEnvironment.err, /no daemon runs on \/tmp\/there/);
  }),
);

usage(
  'a wrong configuration is told line by line with exit 2, and nothing is started',
  within(async ({ directory }) => {
    await changeover(directory, ['init', '-q']);
    const file = join(directory, 'changeover.yaml');
    const text = readFileSync(file, 'utf8')
      .replace('/run/changeover ', `${directory}/run `)
      .replace('/var/lib/changeover', `${directory}/state`)
      .replace('mtu: 1500', 'mtu: 1')
      .replace('strategy: auto', 'strategie: auto');
    writeFileSync(file, text);
    const { code, err } = await changeover(directory, ['up', '--detach']);
    assert.is(code, 2, err);
    const lines = err.trimEnd().split('\n');
    assert.is(lines.length, 2, err);
    assert.match(
      lines[0] ?? '',
      /changeover\.yaml:11:12: network\.uplinks\[0\]\.mtu is 1, allowed: 576 to 9000$/,
    );
    assert.match(
      lines[1] ?? '',
      /changeover\.yaml:53:3: unknown key "strategie" in patching, did you mean "strategy"\?/,
    );
    assert.not.ok(existsSync(join(directory, 'run')));
    assert.not.ok(existsSync(join(directory, 'state')));
  }),
);

usage(
  'doctor names each finding with its remedy; a bad configuration makes it exit 1',
  within(async ({ directory }) => {
    await changeover(directory, ['init', '-q']);
    const file = join(directory, 'changeover.yaml');
    writeFileSync(file, readFileSync(file, 'utf8').replace('active: A', 'active: Z'));
    const { code, out } = await changeover(directory, ['doctor', '--json']);
    assert.is(code, 1);
    const answer = JSON.parse(out) as {
      ok: boolean;
      findings: { name: string; result: string; detail: string; remedy?: string }[];
    };
    assert.is(answer.ok, false);
    const wrong = answer.findings.filter((f) => f.name === 'configuration');
    assert.match(wrong[0]?.detail ?? '', /changeover\.yaml:22:13: services\[0\]\.active is Z/);
    for (const finding of answer.findings) {
      assert.ok(['ok', 'warn', 'fail'].includes(finding.result));
      assert.is(finding.remedy === undefined, finding.result === 'ok', finding.name);
    }
    for (const name of ['node', 'kernel', 'root', 'tun', 'tap-tun', 'cgroups', 'ip']) {
      assert.ok(
        answer.findings.some((f) => f.name === name),
        name,
      );
    }
  }),
);

usage(
  'colour only for a terminal, and never with NO_COLOR',
  within(async ({ directory }) => {
    const piped = await changeover(directory, ['doctor']);
    assert.not.ok((piped.out + piped.err).includes('\u001b'));
    const { processTerminal } = await import('../../src/cli/terminal.ts');
    assert.is(processTerminal({ NO_COLOR: '1' }).style('red', 'x'), 'x');
  }),
);

usage.run();
