/** A small process of its own stands for the mux: it counts what it was told and dies when asked. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { ChannelError } from '../../../src/channel/index.ts';
import { silentLog } from '../../../src/common/index.ts';
import { DesiredState, rememberMux } from '../../../src/daemon/processes/desired-state.ts';
import type { KeptProcessError, KeptProcessOptions } from '../../../src/daemon/processes/kept-process.ts';
import { KeptProcess } from '../../../src/daemon/processes/kept-process.ts';
import { eventually, within } from '../../support/index.ts';

type Commands = {
  'uplink-add': { arguments: { name: string }; result: { pid: number } };
  ports: { arguments: object; result: { pid: number; told: string[] } };
  die: { arguments: object; result: object };
  shutdown: { arguments: object; result: object };
};
type Events = { PORT: { name: string } };

interface Context {
  directory: string;
  kept: KeptProcess<Commands, Events>[];
}

const kept = suite<Context>('daemon/processes/kept-process');
const channel = resolve(import.meta.dirname, '../../../src/channel/index.ts');

const PROGRAM = `
import { ChannelServer } from '${channel}';
const [socket, manners] = process.argv.slice(2);
const told = [];
if (manners === 'broken') process.exit(3);
if (manners === 'deaf') process.on('SIGTERM', () => {});
const server = new ChannelServer({
  'uplink-add': ({ name }) => { told.push(name); server.broadcast('PORT', { name }); return { pid: process.pid }; },
  ports: () => ({ pid: process.pid, told }),
  die: () => { process.kill(process.pid, 'SIGKILL'); return {}; },
  shutdown: () => { if (manners !== 'deaf') setImmediate(() => process.exit(0)); return {}; },
});
await server.listen(socket);
`;

function keep(context: Context, manners = 'good', extra: Partial<KeptProcessOptions> = {}) {
  const { directory } = context;
  const program = join(directory, 'process.mjs');
  writeFileSync(program, PROGRAM);
  const process_ = new KeptProcess<Commands, Events>({
    title: 'test process',
    socket: join(directory, 'p.sock'),
    command: [process.execPath, '--import', 'tsx', program, join(directory, 'p.sock'), manners],
    pidFile: join(directory, 'p.pid'),
    logFile: join(directory, 'p.log'),
    desired: new DesiredState(join(directory, 'desired.json'), rememberMux),
    lifeline: true,
    log: silentLog,
    ...extra,
  });
  context.kept.push(process_);
  return process_;
}

kept.before.each((context) => {
  context.directory = mkdtempSync(join(tmpdir(), 'changeover-kept-'));
  context.kept = [];
});
kept.after.each(async (context) => {
  for (const one of context.kept) {
    const { pid } = one.status();
    one.close();
    if (pid !== undefined && existsSync(`/proc/${pid}`)) process.kill(pid, 'SIGKILL');
  }
  rmSync(context.directory, { recursive: true, force: true });
});

/** Gone, or a zombie whose parent has not looked yet. */
function ended(pid: number): boolean {
  try {
    return /^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return true;
  }
}

const LIMIT_MS = 30_000;

kept(
  'it is started, answers, and at the end nothing of it is left',
  within(async (context: Context) => {
    const one = keep(context);
    await one.start();
    const { pid } = await one.execute('ports', {});
    assert.equal(one.status(), { state: 'up', pid, restarts: 0 });
    assert.is(Number(readFileSync(join(context.directory, 'p.pid'), 'utf8')), pid);
    await one.stop();
    assert.ok(ended(pid));
    for (const name of ['p.sock', 'p.pid', 'desired.json'])
      assert.not.ok(existsSync(join(context.directory, name)), name);
    assert.is(one.closed, true);
  }, LIMIT_MS),
);

kept(
  'when it dies it is started again and told again; listeners and waiting calls go on',
  within(async (context: Context) => {
    const seen: string[] = [];
    const ups: string[] = [];
    const one = keep(context, 'good', { onUp: (how) => void ups.push(how) });
    one.on('PORT', ({ name }) => seen.push(name));
    await one.start();
    const before = await one.execute('uplink-add', { name: 'co0' });
    await one.execute('uplink-add', { name: 'co1' });
    let lost: ChannelError | undefined;
    try {
      await one.execute('die', {});
    } catch (error) {
      lost = error as ChannelError;
    }
    assert.is(lost?.code, 'closed', 'a command that is not repeatable fails');
    const after = await one.execute('ports', {}, { timeoutMs: 20_000 });
    assert.is.not(after.pid, before.pid);
    assert.equal(after.told, ['co0', 'co1']);
    await one.execute('uplink-add', { name: 'co2' });
    await eventually('the event of the new process', () => seen.includes('co2'));
    assert.is(one.status().restarts, 1);
    assert.equal(ups, ['started', 'restarted']);
  }, LIMIT_MS),
);

kept(
  'one that runs already is adopted, not told again, and can be stopped by its pid file',
  within(async (context: Context) => {
    const first = keep(context);
    await first.start();
    const { pid } = await first.execute('uplink-add', { name: 'co0' });
    await eventually('the memory', () => existsSync(join(context.directory, 'desired.json')));
    const second = keep(context);
    await second.start();
    assert.equal(await second.execute('ports', {}), { pid, told: ['co0'] });
    assert.is(second.status().pid, pid);
    first.close();
    assert.equal((await second.execute('ports', {})).pid, pid, 'letting go does not end it');
    await second.stop();
    assert.ok(ended(pid));
  }, LIMIT_MS),
);

kept(
  'one that cannot start is told with its exit code and where its log is',
  within(async (context: Context) => {
    let error: KeptProcessError | undefined;
    try {
      await keep(context, 'broken').start();
    } catch (thrown) {
      error = thrown as KeptProcessError;
    }
    assert.is(error?.code, 'start-failed');
    assert.match(error?.message ?? '', /the test process could not be started: it exited with code 3/);
    assert.match(error?.remedy ?? '', /p\.log/);
  }, LIMIT_MS),
);

kept(
  'one that is stopped or stuck is killed and started again, and cannot go on later',
  within(async (context: Context) => {
    const one = keep(context, 'good', { ping: 'ports', answerMs: 1_000 });
    await one.start();
    const { pid } = await one.execute('uplink-add', { name: 'co0' });
    process.kill(pid, 'SIGSTOP');
    const after = await one.execute('ports', {}, { timeoutMs: 25_000 });
    assert.is.not(after.pid, pid);
    assert.equal(after.told, ['co0']);
    assert.ok(ended(pid), 'SIGCONT has nobody to wake');
  }, LIMIT_MS),
);

kept(
  'one that is found stopped is not adopted but replaced, and told what it had been told',
  within(async (context: Context) => {
    const first = keep(context);
    await first.start();
    const { pid } = await first.execute('uplink-add', { name: 'co0' });
    await eventually('the memory', () => existsSync(join(context.directory, 'desired.json')));
    process.kill(pid, 'SIGSTOP');
    first.close();
    const second = keep(context, 'good', { ping: 'ports', answerMs: 1_000 });
    await second.start();
    const found = await second.execute('ports', {}, { timeoutMs: 20_000 });
    assert.is.not(found.pid, pid);
    assert.equal(found.told, ['co0']);
    assert.ok(ended(pid));
  }, LIMIT_MS),
);

kept(
  'one that dies again and again is left alone: people are told, calls fail at once with a remedy',
  within(async (context: Context) => {
    const alarms: string[] = [];
    const one = keep(context, 'good', {
      limit: { restarts: 2, withinMs: 600_000 },
      onGaveUp: (reason) => void alarms.push(reason),
    });
    await one.start();
    for (let i = 0; i < 3; i++) {
      await one.execute('ports', {}, { timeoutMs: 20_000 });
      await one.execute('die', {}).catch(() => {});
    }
    await eventually('the alarm', () => alarms.length > 0, 20_000);
    assert.equal(alarms, ['the test process ended 3 times within 600 s and is not started again']);
    assert.is(one.status().state, 'gave-up');
    assert.is(one.status().restarts, 2);
    const refused = await one.execute('ports', {}).catch((error: KeptProcessError) => error);
    assert.is((refused as KeptProcessError).code, 'gave-up');
    assert.match((refused as KeptProcessError).remedy ?? '', /p\.log/);
  }, LIMIT_MS),
);

kept(
  'one that cannot be told again is no use: it is ended and started anew, never taken for one that was told',
  within(async (context: Context) => {
    let tries = 0;
    const one = keep(context, 'good', {
      replay: async (tell, commands) => {
        tries++;
        for (const command of commands) await tell(command);
        if (tries === 2) throw new Error('the interface is busy');
      },
    });
    await one.start();
    await one.execute('uplink-add', { name: 'co0' });
    await one.execute('die', {}).catch(() => {});
    const after = await one.execute('ports', {}, { timeoutMs: 25_000 });
    assert.equal(after.told, ['co0']);
    assert.is(tries, 3);
  }, LIMIT_MS),
);

kept(
  'calls after the end fail at once, and those that care are told',
  within(async (context: Context) => {
    const one = keep(context);
    await one.start();
    const reasons: string[] = [];
    one.onClose((reason) => reasons.push(reason));
    await one.stop();
    assert.equal(reasons, ['the test process was stopped']);
    let code = '';
    await one.execute('ports', {}).catch((error: ChannelError) => {
      code = error.code;
    });
    assert.is(code, 'closed');
  }, LIMIT_MS),
);

kept.run();
