/** The daemon with everything real: up, status, kill -9 of each of its processes, adoption, down; nothing is left behind. */
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import * as assert from 'uvu/assert';
import type { Scene } from '../../src/cli/demo/scene.ts';
import { buildScene, SERVICE_ADDRESS } from '../../src/cli/demo/scene.ts';
import type { PartitionFigures, StatusView } from '../../src/daemon/index.ts';
import { eventually, liveSuite, within } from '../support/index.ts';

const daemon = liveSuite('live/daemon');
const program = resolve(import.meta.dirname, '../../bin/changeover');
const control = resolve(import.meta.dirname, '../../src/daemon/processes/control.ts');
const LIMIT_MS = 60_000;

let scene: Scene;

interface Outcome {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

function changeover(...args: string[]): Promise<Outcome> {
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
    });
    child.on('error', fail);
    child.on('close', (code) => done({ code, out, err }));
  });
}

async function status(): Promise<StatusView> {
  const { code, out, err } = await changeover('status', '--json');
  assert.is(code, 0, err);
  return JSON.parse(out) as StatusView;
}

/** Asks the service over the host's own kernel and the TAP. */
function ask(method: 'GET' | 'POST', path: string, body = ''): Promise<{ status: number; body: string }> {
  return new Promise((done, fail) => {
    const request = http.request(
      { host: SERVICE_ADDRESS, port: 80, method, path, agent: false, timeout: 2000 },
      (response) => {
        let text = '';
        response.on('data', (part) => {
          text += part;
        });
        response.on('end', () => done({ status: response.statusCode ?? 0, body: text }));
        response.on('error', fail);
      },
    );
    request.on('timeout', () => request.destroy(new Error('no answer')));
    request.on('error', fail);
    request.end(body);
  });
}

const answered = (what: string) =>
  eventually(
    what,
    async () => {
      try {
        return (await ask('GET', '/version')).status === 200;
      } catch {
        return false;
      }
    },
    30_000,
  );

/** Processes that have something of the scene open, or were started with it. */
function leftOver(): string[] {
  const found: string[] = [];
  for (const pid of readdirSync('/proc').filter(
    (name) => /^\d+$/.test(name) && Number(name) !== process.pid,
  )) {
    try {
      const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
      const open = readdirSync(`/proc/${pid}/fd`).map((fd) => {
        try {
          return readlinkSync(`/proc/${pid}/fd/${fd}`);
        } catch {
          return '';
        }
      });
      if (command.includes(scene.directory) || open.some((path) => path.startsWith(scene.directory)))
        found.push(`${pid} ${command}`);
    } catch {
      // It ended while we looked.
    }
  }
  return found;
}

function assertNothingLeft(): void {
  assert.equal(leftOver(), []);
  assert.not.ok(existsSync('/sys/class/net/co0'), 'the interface');
  assert.not.ok(existsSync(scene.runDirectory), 'the run directory');
}

const pidOf = (view: StatusView, name: 'mux' | 'block') => view.processes[name].pid ?? 0;
const guestOf = (view: StatusView) => view.partitions.find((p) => p.id === 'A')?.pid ?? 0;

daemon.before(async () => {
  scene = await buildScene(mkdtempSync(join(tmpdir(), 'changeover-live-')));
});

daemon.after(async () => {
  await changeover('down').catch(() => {});
  rmSync(scene.directory, { recursive: true, force: true });
});

daemon(
  'up serves: the host reaches the partition, the probe finds it well',
  within(async () => {
    const up = await changeover('up', '--detach', '--json');
    assert.is(up.code, 0, up.err);
    const view = JSON.parse(up.out) as StatusView;
    assert.is(view.services[0]?.active, 'A');
    assert.is(view.services[0]?.health?.ok, true, view.services[0]?.health?.detail);
    const active = view.partitions.find((p) => p.id === 'A');
    assert.equal(
      [active?.role, active?.state, active?.phase, active?.isolated],
      ['active', 'running', 'serving', false],
    );
    assert.is(view.partitions.find((p) => p.id === 'B')?.role, 'free');
    assert.is((await ask('GET', '/version')).status, 200);
    const console = await changeover('partition', 'console', 'A');
    assert.match(console.out, /listens on port 80/);
  }, LIMIT_MS),
);

daemon(
  'a second daemon on the run directory is refused',
  within(async () => {
    const second = await changeover('up', '--detach');
    assert.is(second.code, 1);
    assert.match(second.err, /a daemon already runs on .*changeover down/);
    const foreground = await changeover('up');
    assert.is(foreground.code, 1);
    assert.match(foreground.err, /the daemon with process id \d+ already runs on/);
    assert.is((await ask('GET', '/version')).status, 200, 'the first one goes on');
  }, LIMIT_MS),
);

daemon(
  'an active partition is not stopped unasked',
  within(async () => {
    const { code, err } = await changeover('partition', 'stop', 'A');
    assert.is(code, 1);
    assert.match(err, /serves ledger, stopping it interrupts the service: use --force/);
    const unknown = await changeover('partition', 'show', 'Q');
    assert.match(unknown.err, /there is no partition Q: known are: A, B/);
  }, LIMIT_MS),
);

daemon(
  'the stack of a partition tells of each connection, for people, as JSON and as metrics',
  within(async () => {
    const agent = new http.Agent({ keepAlive: true });
    try {
      const local = await new Promise<string>((done, fail) => {
        const request = http.get({ host: SERVICE_ADDRESS, port: 80, path: '/version', agent }, (response) => {
          response
            .resume()
            .on('end', () => done(`${request.socket?.localAddress}:${request.socket?.localPort}`));
        });
        request.on('error', fail);
      });
      const told = await changeover('network', '--connections', 'A', '--json');
      assert.is(told.code, 0, told.err);
      const figures = JSON.parse(told.out) as PartitionFigures;
      const mine = figures.connections.find(({ remote }) => remote === local);
      assert.is(mine?.state, 'ESTABLISHED', told.out);
      assert.ok((mine?.bytesSent ?? 0) > 100 && (mine?.cwnd ?? 0) > 0 && (mine?.rtoMs ?? 0) > 0, told.out);
      assert.match((await changeover('network', '--connections', 'A')).out, /rtt ms +rto ms +cwnd/);
      const socket = join(scene.runDirectory, 'api.sock');
      const metrics = await new Promise<string>((done, fail) => {
        let text = '';
        http
          .get({ socketPath: socket, path: '/metrics' }, (response) => {
            response.on('data', (part) => {
              text += part;
            });
            response.on('end', () => done(text));
          })
          .on('error', fail);
      });
      assert.match(metrics, /^changeover_partition_connections\{partition="A",state="ESTABLISHED"\} [1-9]/m);
      assert.match(metrics, /^changeover_mux_flows [1-9]/m);
      const standby = await changeover('network', '--connections', 'B');
      assert.is(standby.code, 1, 'it does not run');
      assert.match(standby.err, /B/);
    } finally {
      agent.destroy();
    }
  }, LIMIT_MS),
);

daemon(
  'a capture on demand is a pcapng file with the packets of a request',
  within(async () => {
    const file = join(scene.directory, 'on-demand.pcapng');
    assert.is((await changeover('capture', 'start', file)).code, 0);
    assert.is((await changeover('capture', 'start', file)).code, 1, 'twice');
    await ask('GET', '/version');
    const stopped = await changeover('capture', 'stop', '--json');
    assert.is(stopped.code, 0, stopped.err);
    const [capture] = (JSON.parse(stopped.out) as { captures: { packets: number }[] }).captures;
    assert.ok((capture?.packets ?? 0) > 5);
    assert.is(readFileSync(file).readUInt32LE(0), 0x0a0d0d0a, 'section header block');
    assert.is((await changeover('capture', 'stop')).code, 1, 'none runs any more');
  }, LIMIT_MS),
);

daemon(
  'kill -9 of the mux process: it comes back with uplink, ports and paths, and the service answers',
  within(async () => {
    const before = await status();
    process.kill(pidOf(before, 'mux'), 'SIGKILL');
    await eventually('the mux to be gone', () => !existsSync(`/proc/${pidOf(before, 'mux')}/fd/0`));
    await answered('the service through a new mux');
    const after = await status();
    assert.is(after.processes.mux.state, 'up');
    assert.is(after.processes.mux.restarts, 1);
    assert.is(guestOf(after), guestOf(before), 'the guest went on');
    assert.match(after.complaints.join('\n'), /the mux process ended and is started again/);
  }, LIMIT_MS),
);

daemon(
  'kill -9 of the block process: an acknowledged write is there, and further ones are taken',
  within(async () => {
    assert.is((await ask('POST', '/entries', 'before')).status, 201);
    const before = await status();
    process.kill(pidOf(before, 'block'), 'SIGKILL');
    const after = await eventually(
      'a write after the kill',
      async () => {
        try {
          return (await ask('POST', '/entries', 'after')).status === 201;
        } catch {
          return false;
        }
      },
      30_000,
    );
    assert.ok(after);
    const { count } = JSON.parse((await ask('GET', '/entries')).body) as { count: number };
    assert.ok(count >= 2);
    assert.is((await status()).processes.block.restarts, 1);
  }, LIMIT_MS),
);

daemon(
  'kill -9 of the guest: the active partition is started again, with everything it had acknowledged',
  within(async () => {
    const { count } = JSON.parse((await ask('GET', '/entries')).body) as { count: number };
    const before = guestOf(await status());
    process.kill(before, 'SIGKILL');
    await eventually('the guest to be gone', () => !existsSync(`/proc/${before}/fd/0`));
    await answered('the service in a new guest');
    const after = JSON.parse((await ask('GET', '/entries')).body) as { count: number };
    assert.is(after.count, count);
    assert.is.not(guestOf(await status()), before);
  }, LIMIT_MS),
);

daemon(
  'kill -9 of the control process: the service goes on; the next one adopts everything',
  within(async () => {
    const before = await status();
    process.kill(before.pid, 'SIGKILL');
    assert.is((await ask('GET', '/version')).status, 200, 'without a control process');
    assert.is((await changeover('status')).code, 1);
    assert.match(
      (await changeover('down')).err,
      /ended without taking things down: changeover up --detach adopts/,
    );
    const up = await changeover('up', '--detach', '--json');
    assert.is(up.code, 0, up.err);
    const after = JSON.parse(up.out) as StatusView;
    assert.is.not(after.pid, before.pid);
    assert.equal(
      [pidOf(after, 'mux'), pidOf(after, 'block'), guestOf(after)],
      [pidOf(before, 'mux'), pidOf(before, 'block'), guestOf(before)],
    );
    assert.is(after.services[0]?.health?.ok, true);
  }, LIMIT_MS),
);

daemon(
  'down --keep-running ends the control process only',
  within(async () => {
    const before = await status();
    assert.is((await changeover('down', '--keep-running')).code, 0);
    assert.is((await ask('GET', '/version')).status, 200);
    assert.is((await changeover('up', '--detach')).code, 0);
    assert.is(guestOf(await status()), guestOf(before));
  }, LIMIT_MS),
);

daemon(
  'down leaves nothing behind',
  within(async () => {
    const down = await changeover('down');
    assert.is(down.code, 0, down.err);
    assertNothingLeft();
    assert.ok(existsSync(join(scene.stateDirectory, 'logs', 'A.log')), 'the logs are kept');
  }, LIMIT_MS),
);

function foreground(...args: string[]): ChildProcess {
  return spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', control, '--config', scene.configuration, ...args],
    { stdio: ['pipe', 'ignore', 'ignore'] },
  );
}

const exitOf = (child: ChildProcess) =>
  new Promise<number | null>((done) => child.once('exit', (code) => done(code)));

daemon(
  'SIGTERM takes everything down in order',
  within(async () => {
    const child = foreground();
    const exited = exitOf(child);
    await answered('the service');
    child.kill('SIGTERM');
    assert.is(await exited, 0);
    assertNothingLeft();
  }, LIMIT_MS),
);

daemon(
  'with --lifeline the end of stdin does, and a killed control process takes the others with it',
  within(async () => {
    const first = foreground('--lifeline');
    const exited = exitOf(first);
    await answered('the service');
    first.stdin?.end();
    assert.is(await exited, 0);
    assertNothingLeft();

    const second = foreground('--lifeline');
    await answered('the service');
    second.kill('SIGKILL');
    await eventually('every process to end', () => leftOver().length === 0, 15_000);
    assert.not.ok(existsSync('/sys/class/net/co0'), 'the interface');
  }, LIMIT_MS),
);

daemon.run();
