import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { PATCH_PATHS } from '../../src/channel/index.ts';
import type { CodedError } from '../../src/common/index.ts';
import { eventually, inScratch, within } from '../support/index.ts';
import type { Machine } from './machine.ts';
import { withMachine } from './machine.ts';

const test = suite('guest/partition');

const LIMIT_MS = 60_000;
const ADDRESS = '10.77.0.11';
const ledger = readFileSync(new URL('../../examples/ledger/server.mjs', import.meta.url), 'utf8');
const patchFile = 'ledger-1.0.1-path-traversal.diff';
const patch = readFileSync(new URL(`../../examples/ledger/patches/${patchFile}`, import.meta.url));
const ADDON = fileURLToPath(new URL('../../tap-tun/build/tap_tun.node', import.meta.url));
const script = readFileSync(new URL('../../src/guest/scripts/50-patch.mjs', import.meta.url));

const LEDGER = {
  'srv/ledger/server.mjs': ledger,
  'srv/ledger/reports/q3.txt': 'third quarter',
  'etc/changeover/guest.json': JSON.stringify({
    application: '/srv/ledger/server.mjs',
    environment: { PORT: '80' },
    mountPoint: '/data',
  }),
};

const application = (source: string, more: object = {}) => ({
  'srv/app/server.mjs': source,
  'etc/changeover/guest.json': JSON.stringify({ application: '/srv/app/server.mjs', ...more }),
});

const boot = { addresses: [`${ADDRESS}/24`], isolated: true, applicationDisk: true, startApplication: false };

function onMachine(body: (machine: Machine) => Promise<void>) {
  return within(() => inScratch((directory) => withMachine(directory, body)), LIMIT_MS);
}

async function refusal(work: Promise<unknown>): Promise<CodedError> {
  try {
    await work;
  } catch (error) {
    return error as CodedError;
  }
  throw new Error('it was not refused');
}

test(
  'an unmodified program serves from its disks, keeps its data over a restart, and leaves clean disks',
  onMachine(async ({ hypervisor, partition, ask, image }) => {
    await partition('A', 10, LEDGER);
    const started = await hypervisor.startPartition('A', { ...boot, startApplication: true });
    assert.is(started.state, 'running');
    assert.is(started.guest?.phase, 'serving');
    assert.equal(started.guest?.listening, [80]);
    assert.equal(started.addresses, [`${ADDRESS}/24`]);
    assert.is((await ask('A-net1', ADDRESS, '/version')).text, '{"name":"ledger","version":"1.0.0"}');
    for (let n = 1; n <= 5; n++) {
      const answer = await ask('A-net1', ADDRESS, '/entries', { method: 'POST', body: `entry ${n}` });
      assert.equal(answer, { status: 201, text: `{"n":${n}}` });
    }
    assert.match((await ask('A-net1', ADDRESS, '/reports/q3.txt')).text, 'third quarter');
    await hypervisor.restartPartition('A');
    assert.is((await ask('A-net1', ADDRESS, '/entries')).text, '{"count":5}');
    assert.is((await hypervisor.stopPartition('A')).state, 'stopped');
    for (const role of ['system', 'application'] as const) {
      execFileSync('/usr/sbin/e2fsck', ['-fn', image('A', role)], { stdio: 'pipe' });
    }
  }),
);

test(
  'steps 705-708: patch files put on the stopped disk are applied at boot, handed back, in effect after restart',
  onMachine(async ({ hypervisor, partition, ask }) => {
    await partition('B', 11, LEDGER);
    const row = {
      file: patchFile,
      kind: 'diff',
      type: 'security',
      sha256: createHash('sha256').update(patch).digest('hex'),
      date: null,
      applyNext: true,
      result: null,
    };
    const table = { format: 'changeover-patch-table', version: 1, patches: [row] };
    await hypervisor.inject('B', 'system', [
      { path: PATCH_PATHS.table, data: Buffer.from(JSON.stringify(table)) },
      { path: `${PATCH_PATHS.files}/${patchFile}`, data: patch },
      { path: PATCH_PATHS.script, data: script, mode: 0o755 },
    ]);
    const first = await hypervisor.startPartition('B', { ...boot, applicationDisk: false });
    assert.equal(
      first.guest?.startUp.map(({ script: name, ok }) => [name, ok]),
      [['50-patch.mjs', true]],
    );
    const { results, table: after } = await hypervisor.control('B').patchResults();
    assert.equal(
      results.map(({ file, ok }) => [file, ok]),
      [[patchFile, true]],
    );
    assert.is(JSON.parse(after).patches[0].applyNext, false);
    assert.is((await refusal(hypervisor.inject('B', 'system', []))).code, 'still-running');
    await hypervisor.restartPartition('B');
    assert.equal((await hypervisor.control('B').patchResults()).results, []);
    assert.is((await hypervisor.control('B').loadApplication(10_000)).state, 'waits-for-disk');
    const { phase, listening } = await hypervisor.control('B').status();
    assert.equal([phase, listening], ['starting', []], 'it waits at its first look at the application disk');
    assert.is((await refusal(hypervisor.control('B').loadApplication(10_000))).code, 'wrong-phase');
    await hypervisor.exportApplicationDisk('B', true);
    assert.equal((await hypervisor.control('B').startApplication()).listening, [80]);
    assert.is((await refusal(hypervisor.control('B').startApplication())).code, 'wrong-phase');
    assert.is((await ask('B-net1', ADDRESS, '/version')).text, '{"name":"ledger","version":"1.0.1"}');
    assert.is(
      (await ask('B-net1', ADDRESS, '/reports/..%2f..%2f..%2fetc%2fchangeover%2fguest.json')).status,
      400,
    );
    await hypervisor.stopPartition('B');
    assert.match(
      (await hypervisor.extract('B', 'system', '/srv/ledger/server.mjs')).toString(),
      "VERSION = '1.0.1'",
    );
  }),
);

test(
  'two network devices: one program serves at both, each address on its own; what it asks leaves by the right one',
  onMachine(async ({ hypervisor, mux, partition, ask }) => {
    const source = `
import http from 'node:http';
import os from 'node:os';
http.createServer((req, res) => {
  if (req.url === '/self') return http.get('http://10.88.0.11/plain', (inner) => inner.pipe(res));
  res.end(req.socket.localAddress + ' for ' + req.socket.remoteAddress);
}).listen(80);
`;
    await partition('A', 10, application(source), [['10.88.0.11']]);
    const addresses = [`${ADDRESS}/24`, '10.88.0.11/24'];
    const started = await hypervisor.startPartition('A', {
      ...boot,
      addresses,
      applicationDisk: false,
      startApplication: true,
    });
    assert.equal(started.addresses, addresses);
    assert.is((await ask('A-net1', ADDRESS, '/')).text, `${ADDRESS} for 10.77.0.254`);
    assert.is((await ask('A-net2', '10.88.0.11', '/')).text, '10.88.0.11 for 10.88.0.254');
    assert.is((await ask('A-net1', ADDRESS, '/self')).text, '10.88.0.11 for 10.88.0.11');
    assert.equal(
      (await hypervisor.control('A').execute('guest-network-get-interfaces', {})).map((one) => [
        one.name,
        one['ip-addresses'].map((own) => own['ip-address']),
      ]),
      [
        ['net0', [ADDRESS]],
        ['net1', ['10.88.0.11']],
      ],
    );
    const ports = await mux.execute('ports', {});
    assert.equal(
      ports.filter(({ role }) => role === 'partition').map(({ name, state }) => [name, state]),
      [
        ['A-net1', 'isolated'],
        ['A-net2', 'isolated'],
      ],
    );
  }),
);

test(
  'node:fs by import and by require, callbacks, streams, node_modules: the program sees its own disks',
  onMachine(async ({ hypervisor, partition, ask }) => {
    const source = `
import http from 'node:http';
import { createRequire } from 'node:module';
import fs, { createReadStream, readFileSync } from 'node:fs';
import { mkdir, readdir, writeFile } from 'fs/promises';
import helper from 'helper';
const require = createRequire(import.meta.url);
await mkdir('/data/d', { recursive: true });
await writeFile('/data/d/f', 'by promise');
const checks = {
  helper: helper(),
  template: readFileSync(new URL('./template.txt', import.meta.url), 'utf8'),
  callback: await new Promise((done) => require('fs').readFile('/data/d/f', 'utf8', (e, text) => done(text))),
  stream: (await createReadStream('/data/d/f').toArray()).join(''),
  list: await readdir('/data'),
  etc: await fs.promises.readFile('/etc/secret', 'utf8'),
  host: await fs.promises.readFile('/proc/version', 'utf8').catch((e) => e.code),
  sync: (() => { try { fs.writeFileSync('/data/x', ''); } catch (e) { return e.code; } })(),
  argv: process.argv.slice(1),
  env: [process.env.GREETING, process.env.NODE_COMPILE_CACHE ?? 'none'],
};
http.createServer((req, res) => res.end(JSON.stringify(checks))).listen(80);
`;
    await partition('A', 10, {
      ...application(source, { mountPoint: '/data', arguments: ['one'], environment: { GREETING: 'hi' } }),
      'srv/app/template.txt': 'from the folder',
      'srv/app/node_modules/helper/package.json': '{"name":"helper","main":"index.cjs"}',
      'srv/app/node_modules/helper/index.cjs': `module.exports = () => require('fs').existsSync('/proc/version')`,
      'etc/secret': 'of the guest',
    });
    await hypervisor.startPartition('A', { ...boot, startApplication: true });
    assert.equal(JSON.parse((await ask('A-net1', ADDRESS, '/')).text), {
      helper: false,
      template: 'from the folder',
      callback: 'by promise',
      stream: 'by promise',
      list: ['lost+found', 'd'],
      etc: 'of the guest',
      host: 'ENOENT',
      sync: 'ERR_GUEST_FS',
      argv: ['/srv/app/server.mjs', 'one'],
      env: ['hi', 'none'],
    });
  }),
);

const FAILING = [
  [`console.log('before'); throw new Error('boom');`, /could not be loaded: boom.*before/],
  [`console.error('bye'); process.exit(3);`, /process\.exit\(3\).*bye/],
  [`console.log('idle'); setInterval(() => {}, 1000);`, /does not listen after 700 ms.*idle/],
  [`import 'nothing-there';`, /Cannot find package 'nothing-there'/],
] as const;

test(
  'an application that throws, exits, does not listen or misses a package: the start fails with its last output',
  onMachine(async ({ hypervisor, partition }) => {
    for (const [i, [source, expected]] of FAILING.entries()) {
      const id = `P${i}`;
      await partition(id, 10 + i, application(source));
      await hypervisor.startPartition(id, { ...boot, applicationDisk: false });
      const error = await refusal(hypervisor.control(id).startApplication(700));
      assert.match(error.message, expected);
      const status = await eventually('the failure', async () => {
        const now = await hypervisor.partitionStatus(id);
        return now.state === 'failed' && now.pid === undefined && now;
      });
      assert.match(status.reason ?? '', expected);
    }
  }),
);

test(
  'a crash is noticed, with the last output; the partition can be started again',
  onMachine(async ({ hypervisor, partition }) => {
    await partition('A', 10, LEDGER);
    const { pid } = await hypervisor.startPartition('A', { ...boot, startApplication: true });
    process.kill(pid!, 'SIGKILL');
    const status = await eventually('the failure', async () => {
      const now = await hypervisor.partitionStatus('A');
      return now.state === 'failed' && now;
    });
    assert.match(status.reason ?? '', /it ended by SIGKILL; its last output: .*ledger 1\.0\.0 listens/);
    assert.is((await hypervisor.startPartition('A', boot)).guest?.phase, 'ready');
  }),
);

test(
  'an uncaught exception while serving ends in failed, not in silence',
  onMachine(async ({ hypervisor, partition, ask }) => {
    const source = `import http from 'node:http';
http.createServer((req, res) => { res.end('soon'); setTimeout(() => { throw new Error('later'); }, 1); }).listen(80);`;
    await partition('A', 10, application(source));
    await hypervisor.startPartition('A', { ...boot, applicationDisk: false, startApplication: true });
    await ask('A-net1', ADDRESS, '/');
    const status = await eventually('the failure', async () => {
      const now = await hypervisor.partitionStatus('A');
      return now.state === 'failed' && now;
    });
    assert.match(status.reason ?? '', 'uncaught exception in the application: later');
  }),
);

test(
  'a guest that runs is adopted by the next control process',
  onMachine(async ({ hypervisor, partition, ask, another }) => {
    const config = await partition('A', 10, LEDGER);
    const { pid } = await hypervisor.startPartition('A', { ...boot, startApplication: true });
    const next = another();
    next.definePartition(config);
    assert.is(await next.adoptPartition('A'), true);
    const status = await next.partitionStatus('A');
    assert.is(status.pid, pid);
    assert.is(status.state, 'running');
    assert.is(status.isolated, true);
    assert.is((await ask('A-net1', ADDRESS, '/version')).status, 200);
    assert.is((await next.stopPartition('A')).state, 'stopped');
    assert.is(await next.adoptPartition('A'), false);
  }),
);

test(
  'the standard words of the agent, and the phases of a hand-over',
  onMachine(async ({ hypervisor, partition, ask }) => {
    await partition('A', 10, {
      ...LEDGER,
      'opt/hello.mjs': `export async function run(guest, args) { guest.log('hello ' + args.join()); }`,
    });
    await hypervisor.startPartition('A', { ...boot, startApplication: true });
    const control = hypervisor.control('A');
    assert.is(await control.execute('guest-sync', { id: 4711 }), 4711);
    const info = await control.execute('guest-info', {});
    assert.ok(info.supported_commands.some(({ name }) => name === 'changeover-quiesce'));
    assert.equal(await control.execute('guest-network-get-interfaces', {}), [
      {
        name: 'net0',
        'hardware-address': '02:00:00:00:00:0a',
        'ip-addresses': [{ 'ip-address': ADDRESS, 'ip-address-type': 'ipv4', prefix: 24 }],
      },
    ]);
    const handle = await control.execute('guest-file-open', { path: '/data/note', mode: 'w' });
    await control.execute('guest-file-write', { handle, 'buf-b64': Buffer.from('note').toString('base64') });
    await control.execute('guest-file-close', { handle });
    const read = await control.execute('guest-file-open', { path: '/data/note' });
    const { 'buf-b64': data, eof } = await control.execute('guest-file-read', { handle: read });
    assert.is(Buffer.from(data, 'base64').toString(), 'note');
    assert.is(eof, true);
    assert.is((await refusal(control.execute('guest-file-read', { handle: 99 }))).code, 'bad-handle');
    const { pid } = await control.execute('guest-exec', { path: '/opt/hello.mjs', arg: ['a', 'b'] });
    const ended = await eventually('the end of the run', async () => {
      const status = await control.execute('guest-exec-status', { pid });
      return status.exited && status;
    });
    assert.is(Buffer.from(ended['out-data']!, 'base64').toString(), 'hello a,b\n');
    assert.is((await refusal(control.execute('guest-exec', { path: '/bin/sh' }))).code, 'not-executable');

    assert.is(await control.freezeFileSystems(), 2);
    assert.is(await control.execute('guest-fsfreeze-status', {}), 'frozen');
    let written = false;
    const late = ask('A-net1', ADDRESS, '/entries', { method: 'POST', body: 'waits' }).then((answer) => {
      written = true;
      return answer;
    });
    assert.is((await ask('A-net1', ADDRESS, '/version')).status, 200);
    assert.is(written, false);
    assert.is(await control.thawFileSystems(), 2);
    assert.is((await late).status, 201);

    const quiesced = await control.quiesce(500);
    assert.equal(quiesced.unfinished, []);
    assert.is((await control.status()).phase, 'frozen');
    await control.resume();
    assert.is((await control.status()).phase, 'serving');
    // A quiesce that is still under way when somebody undoes it must not come after that.
    const [undone] = await Promise.all([
      refusal(control.quiesce(500, false, true)),
      control.resume(),
      control.thawFileSystems(),
    ]);
    assert.is(undone.code, 'resumed');
    assert.is((await control.status()).phase, 'serving');
    assert.is(await control.execute('guest-fsfreeze-status', {}), 'thawed');
    const late2 = await refusal(control.exportConnections({ barrier: 7, timeoutMs: 50 }));
    assert.is(late2.code, 'barrier-timeout');
  }),
);

test(
  'a program cannot load a native addon by any of the ways there are, and its port is carried by rings',
  onMachine(async ({ hypervisor, partition, ask, mux }) => {
    const source = `
      import http from 'node:http';
      import { createRequire, Module } from 'node:module';
      import { writeFileSync } from 'node:fs';
      const require = createRequire(import.meta.url);
      const addon = ${JSON.stringify(ADDON)};
      const ways = {
        require: () => require(addon),
        'process.dlopen': () => process.dlopen({ exports: {} }, addon),
        _extensions: () => Module._extensions['.node']({ exports: {} }, addon),
        'dlopen put back': () => {
          process.dlopen = () => {};
        },
        'dlopen deleted': () => {
          'use strict';
          delete process.dlopen;
        },
        '_extensions put back': () => {
          Module._extensions['.node'] = () => {};
        },
        'dlopen redefined': () => Object.defineProperty(process, 'dlopen', { value: () => {} }),
        'process.binding': () => process.binding('fs'),
        thread: () => new (require('node:worker_threads').Worker)('1', { eval: true }),
        child: () => require('node:child_process').spawnSync(process.execPath, ['-v']),
        inspector: () => new (require('node:inspector').Session)().connect(),
        sqlite: () => new (require('node:sqlite').DatabaseSync)(':memory:', { allowExtension: true }),
        engine: () => require('node:crypto').setEngine(addon),
        'module cache': () => {
          const found = Object.keys(require.cache).filter((path) => path.endsWith('.node'));
          if (found.length > 0) return found;
          throw new Error('empty');
        },
      };
      const passed = [];
      for (const [name, way] of Object.entries(ways)) {
        try {
          passed.push([name, way()]);
        } catch {}
      }
      try {
        await import(addon);
        passed.push('import');
      } catch {}
      http.createServer((request, answer) => answer.end(JSON.stringify(passed))).listen(80);
    `;
    await partition('N', 21, application(source));
    await hypervisor.startPartition('N', { ...boot, startApplication: true });
    assert.equal(JSON.parse((await ask('N-net1', ADDRESS, '/')).text), []);
    const ports = await mux.execute('ports', {});
    assert.is(ports.find((port) => port.name === 'N-net1')?.carrier, 'ring');
    assert.is(ports.find((port) => port.name === 'probe')?.carrier, 'stream');
  }),
);

test.run();
