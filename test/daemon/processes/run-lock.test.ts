import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { RunLockError } from '../../../src/daemon/processes/run-lock.ts';
import { lockHolder, takeRunLock } from '../../../src/daemon/processes/run-lock.ts';
import { within } from '../../support/index.ts';

const lock = suite<{ directory: string }>('daemon/processes/run-lock');
const main = resolve(import.meta.dirname, '../../../src/daemon/processes/run-lock.ts');

lock.before.each((context) => {
  context.directory = mkdtempSync(join(tmpdir(), 'changeover-lock-'));
});
lock.after.each((context) => rmSync(context.directory, { recursive: true, force: true }));

const LIMIT_MS = 30_000;

/** A process that holds the lock until it is killed. */
async function holder(directory: string): Promise<{ pid: number; kill: () => Promise<void> }> {
  const code = `const { takeRunLock } = await import('${main}'); takeRunLock(process.argv[1]); console.log('held'); setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', code, directory], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await new Promise<void>((done, fail) => {
    child.stdout.once('data', () => done());
    child.once('exit', (exit) => fail(new Error(`the holder ended with ${exit}`)));
  });
  return {
    pid: child.pid ?? 0,
    kill: () =>
      new Promise((done) => {
        child.once('exit', () => done());
        child.kill('SIGKILL');
      }),
  };
}

lock(
  'the run directory is made for its owner only, and its holder is named',
  within(({ directory }) => {
    const run = join(directory, 'run');
    const held = takeRunLock(run);
    assert.is(statSync(run).mode & 0o777, 0o700);
    assert.is(lockHolder(run), process.pid);
    held.release();
    assert.is(lockHolder(run), undefined);
    assert.not.ok(existsSync(join(run, 'lock')));
    takeRunLock(run).release();
  }, LIMIT_MS),
);

lock(
  'a second daemon is refused with the process id of the first; kill -9 of that one frees it',
  within(async ({ directory }) => {
    const other = await holder(directory);
    let error: RunLockError | undefined;
    try {
      takeRunLock(directory);
    } catch (thrown) {
      error = thrown as RunLockError;
    }
    assert.is(error?.code, 'in-use');
    assert.match(error?.message ?? '', new RegExp(`the daemon with process id ${other.pid} already runs on`));
    assert.match(error?.remedy ?? '', /changeover down/);
    await other.kill();
    takeRunLock(directory).release();
  }, LIMIT_MS),
);

lock(
  'a folder that cannot be used is told with a remedy',
  within(() => {
    assert.throws(
      () => takeRunLock('/dev/null/run'),
      (error: RunLockError) => error.code === 'run-directory' && error.remedy !== undefined,
    );
  }, LIMIT_MS),
);

lock.run();
