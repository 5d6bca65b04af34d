/** Runs from the command line with everything real: exit codes, JSON, the table, Ctrl-C. */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import * as assert from 'uvu/assert';
import type { Scene } from '../../src/cli/demo/scene.ts';
import { buildScene, PATCH_FILE, publishPatch, SERVICE_ADDRESS } from '../../src/cli/demo/scene.ts';
import type { RunView, StatusView } from '../../src/daemon/index.ts';
import { liveSuite, within } from '../support/index.ts';

const cli = liveSuite('live/cli-run');
const program = resolve(import.meta.dirname, '../../bin/changeover');
const LIMIT_MS = 90_000;

let scene: Scene;

interface Outcome {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** `onErr` sees what has come to stderr so far, and may send a signal. */
function changeover(
  args: readonly string[],
  onErr: (text: string, kill: (signal: NodeJS.Signals) => void) => void = () => {},
): Promise<Outcome> {
  return new Promise((done, fail) => {
    const child = spawn(program, [...args, '--config', scene.configuration], {
      env: { PATH: process.env['PATH'], CHANGEOVER_NODE: process.execPath },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let out = '';
    let err = '';
    child.stdout.on('data', (part) => {
      out += part;
    });
    child.stderr.on('data', (part) => {
      err += part;
      onErr(err, (signal) => child.kill(signal));
    });
    child.on('error', fail);
    child.on('close', (code) => done({ code, out, err }));
  });
}

function version(): Promise<string> {
  return new Promise((done, fail) => {
    const request = http.get(
      { host: SERVICE_ADDRESS, port: 80, path: '/version', agent: false, timeout: 5000 },
      (response) => {
        let text = '';
        response.on('data', (part) => {
          text += part;
        });
        response.on('end', () => done((JSON.parse(text) as { version: string }).version));
      },
    );
    request.on('timeout', () => request.destroy(new Error('no answer')));
    request.on('error', fail);
  });
}

const run = (outcome: Outcome) => JSON.parse(outcome.out) as RunView;

cli.before(async () => {
  scene = await buildScene(mkdtempSync(join(tmpdir(), 'changeover-cli-run-')));
});

cli.after(async () => {
  await changeover(['down']);
  rmSync(scene.directory, { recursive: true, force: true });
});

cli(
  'nothing flagged: refused with exit 3, nothing was begun',
  within(async () => {
    const up = await changeover(['up', '--detach']);
    assert.is(up.code, 0, up.err);
    const { code, err } = await changeover(['patch', 'run']);
    assert.is(code, 3, err);
    assert.match(err, /no patch is flagged for the next run: flag one with: changeover patch flag FILE/);
    assert.is((await changeover(['commit'])).code, 1, 'no run is open');
  }, LIMIT_MS),
);

cli(
  'the patch table: scan, list, flag, unflag, show',
  within(async () => {
    publishPatch(scene);
    assert.match((await changeover(['patch', 'scan'])).out, new RegExp(`${PATCH_FILE} {2}registered`));
    assert.match((await changeover(['patch', 'scan'])).out, /nothing new/);
    assert.is((await changeover(['patch', 'flag', PATCH_FILE])).code, 0);
    assert.match((await changeover(['patch', 'unflag', PATCH_FILE])).out, /left out of the next run/);
    const flagged = await changeover(['patch', 'flag', PATCH_FILE, '--json']);
    assert.is((JSON.parse(flagged.out) as { patches: { applyNext: boolean }[] }).patches[0]?.applyNext, true);
    assert.match((await changeover(['patch', 'list'])).out, /PATCH +TYPE +IMPORTANCE/);
    assert.match((await changeover(['patch', 'show', PATCH_FILE])).out, /next run +yes/);
    const unknown = await changeover(['patch', 'flag', 'nonsense.diff']);
    assert.is(unknown.code, 1);
    assert.match(unknown.err, /has no nonsense\.diff: known are: ledger/);
  }, LIMIT_MS),
);

cli(
  'Ctrl-C undoes a run that is being prepared: exit 1, the service was not touched',
  within(async () => {
    let sent = false;
    const outcome = await changeover(['patch', 'run', '--strategy', 'hold'], (text, kill) => {
      if (sent || !text.includes('copy-disks')) return;
      sent = true;
      kill('SIGINT');
    });
    assert.ok(sent);
    assert.is(outcome.code, 1, outcome.err);
    assert.match(outcome.err, /asking the daemon to undo/);
    assert.match(outcome.err, /is undone: /);
    assert.is(await version(), '1.0.0');
    const status = JSON.parse((await changeover(['status', '--json'])).out) as StatusView;
    assert.is(status.run, undefined);
    assert.is(status.partitions.find((p) => p.id === 'B')?.role, 'free');
  }, LIMIT_MS),
);

cli(
  'a second Ctrl-C leaves the run to the daemon: exit 4, and it can be followed and cancelled afterwards',
  within(async () => {
    let times = 0;
    const outcome = await changeover(['patch', 'run', '--prepare-only'], (text, kill) => {
      if (times === 0 && text.includes('cut-system-disk')) {
        times++;
        kill('SIGINT');
      } else if (times === 1 && text.includes('asking the daemon')) {
        times++;
        kill('SIGINT');
      }
    });
    assert.is(outcome.code, 4, outcome.err);
    assert.match(outcome.err, /goes on in the daemon: see changeover report/);
    await changeover(['patch', 'cancel']);
    assert.is(run(await changeover(['report', '--json'])).phase, 'undone');
  }, LIMIT_MS),
);

cli(
  'a dry run does everything up to the cut and discards it',
  within(async () => {
    const outcome = await changeover(['patch', 'dry-run', '--json']);
    assert.is(outcome.code, 0, outcome.err);
    assert.is(run(outcome).phase, 'undone');
    assert.is(run(outcome).patchResults[0]?.ok, true);
    assert.is(outcome.err, '', 'quiet with --json');
    assert.is(await version(), '1.0.0');
  }, LIMIT_MS),
);

cli(
  'prepare, cut, roll back; each is told step by step',
  within(async () => {
    const prepared = await changeover(['patch', 'run', '--strategy', 'hold', '--prepare-only']);
    assert.is(prepared.code, 0, prepared.err);
    assert.match(prepared.err, /next: changeover patch cut, or changeover patch cancel/);
    assert.is(await version(), '1.0.0');
    const cut = await changeover(['patch', 'cut']);
    assert.is(cut.code, 0, cut.err);
    assert.match(cut.err, /✓ switch-network \(1303\)/);
    assert.match(cut.out, /cut {2}A → B at .*, strategy hold/);
    assert.is(await version(), '1.0.1');
    const { services, partitions } = JSON.parse((await changeover(['status', '--json'])).out) as StatusView;
    assert.equal([services[0]?.active, services[0]?.previous], ['B', 'A']);
    assert.equal(
      partitions.map((p) => p.role),
      ['previous', 'active'],
    );
    const second = await changeover(['patch', 'run', '--without-patches']);
    assert.is(second.code, 1);
    assert.match(second.err, /is probation: commit it, roll it back or cancel it first/);
    const back = await changeover(['rollback', '--json']);
    assert.is(back.code, 0, back.err);
    assert.is(run(back).phase, 'rolled-back');
    assert.is(await version(), '1.0.0');
  }, LIMIT_MS),
);

cli(
  'run and commit; then the patch is dated, there is no way back, and the old partition is free',
  within(async () => {
    await changeover(['patch', 'flag', PATCH_FILE]);
    const done = await changeover(['patch', 'run', '--json']);
    assert.is(done.code, 0, done.err);
    assert.is(run(done).phase, 'probation');
    assert.ok(existsSync(run(done).evidence));
    const capture = run(done).capture;
    assert.ok(
      capture !== undefined && readFileSync(capture).readUInt32LE(0) === 0x0a0d0d0a,
      'a pcapng of the cut',
    );
    assert.is((await changeover(['commit'])).code, 0);
    assert.is((await changeover(['rollback'])).code, 1);
    assert.is(await version(), '1.0.1');
    const list = JSON.parse((await changeover(['patch', 'list', '--json'])).out) as {
      patches: { date: string | null }[];
    };
    assert.is.not(list.patches[0]?.date, null);
    const { partitions } = JSON.parse((await changeover(['status', '--json'])).out) as StatusView;
    assert.equal(
      partitions.map((p) => p.role),
      ['free', 'active'],
    );
    assert.match((await changeover(['report', '--all'])).out, /committed/);
  }, LIMIT_MS),
);

cli(
  'after a restart of everything the role is kept: B serves',
  within(async () => {
    assert.is((await changeover(['down'])).code, 0);
    const up = await changeover(['up', '--detach', '--json']);
    assert.is(up.code, 0, up.err);
    assert.is((JSON.parse(up.out) as StatusView).services[0]?.active, 'B');
    assert.is(await version(), '1.0.1');
    assert.is(run(await changeover(['report', '--json'])).phase, 'committed');
  }, LIMIT_MS),
);

cli.run();
