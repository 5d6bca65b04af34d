import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { networkInterfaces, tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { CONFIGURATION_TEMPLATE } from '../../../src/daemon/configuration/index.ts';
import type { HostFinding } from '../../../src/daemon/host-check/index.ts';
import { checkConfiguration, checkHost, processorList } from '../../../src/daemon/host-check/index.ts';
import { within } from '../../support/index.ts';

const check = suite<{ directory: string }>('daemon/host-check');

check.before.each((context) => {
  context.directory = mkdtempSync(join(tmpdir(), 'changeover-check-'));
});
check.after.each((context) => rmSync(context.directory, { recursive: true, force: true }));

function findings(directory: string, ...changes: [string, string][]): HostFinding[] {
  let text = CONFIGURATION_TEMPLATE.replace('/run/changeover ', `${directory}/run `)
    .replace('/var/lib/changeover', `${directory}/state`)
    .replaceAll('10.77.0.', '198.18.0.');
  for (const [from, to] of changes) {
    assert.ok(text.includes(from), from);
    text = text.replace(from, to);
  }
  const file = join(directory, 'c.yaml');
  writeFileSync(file, text);
  return checkConfiguration(file);
}

function only(all: readonly HostFinding[], name: string): HostFinding {
  const found = all.filter((f) => f.name === name);
  assert.is(found.length, 1, `${name}: ${JSON.stringify(all)}`);
  return found[0] as HostFinding;
}

check(
  'lists of processors are read as the kernel writes them',
  within(() => {
    assert.equal(processorList('0-3,8,10-11'), [0, 1, 2, 3, 8, 10, 11]);
    assert.equal(processorList('0'), [0]);
    assert.equal(processorList(''), []);
  }),
);

check(
  'every finding about the host that is not ok says how to mend it',
  within(async () => {
    const all = await checkHost();
    for (const { name, result, remedy } of all) assert.is(remedy === undefined, result === 'ok', name);
    assert.is(only(all, 'node').result, 'ok');
    assert.is(only(all, 'kernel').result, 'ok');
  }, 30_000),
);

check(
  'the configuration as written needs only its patch source and key',
  within(({ directory }) => {
    mkdirSync(join(directory, 'patches'));
    writeFileSync(join(directory, 'key.pem'), '');
    assert.equal(
      findings(directory).filter((f) => f.result !== 'ok'),
      [],
    );
  }),
);

check(
  'a processor that does not exist, an image that is missing, a folder that is missing',
  within(({ directory }) => {
    const all = findings(
      directory,
      ['cpu: 0', 'cpu: 4000'],
      ['A-system.img, sizeMiB: 64', 'A-system.img'],
      ['path: A-application.img', 'path: away/A-application.img'],
    );
    assert.match(only(all, 'processors').detail, /partition A wants processor 4000/);
    const disks = all.filter((f) => f.name === 'disks').map((f) => f.detail);
    assert.ok(disks.some((d) => d.includes('A-system.img does not exist')));
    assert.ok(disks.some((d) => d.includes('away does not exist')));
  }),
);

check(
  'a policy that refuses every run, a missing scanner, and a network that is in use',
  within(({ directory }) => {
    const refusing = findings(directory, ['allowUnscanned: true', 'allowUnscanned: false']);
    assert.match(only(refusing, 'malware scanner').detail, /every run will be refused/);
    const absent = findings(directory, ['malwareScanner: none ', 'malwareScanner: {clamd: /nonexistent} ']);
    assert.match(only(absent, 'malware scanner').detail, /\/nonexistent does not exist/);
    const own = Object.values(networkInterfaces())
      .flat()
      .find((entry) => entry?.family === 'IPv4');
    if (own === undefined) return;
    const network = own.address.split('.').slice(0, 3).join('.');
    const text = CONFIGURATION_TEMPLATE.replaceAll('10.77.0.', `${network}.`);
    writeFileSync(join(directory, 'c.yaml'), text);
    assert.is(only(checkConfiguration(join(directory, 'c.yaml')), 'network').result, 'warn');
  }),
);

check(
  'without a partition to spare there is no standby',
  within(({ directory }) => {
    const file = join(directory, 'c.yaml');
    const b = CONFIGURATION_TEMPLATE.indexOf('  - id: B');
    const end = CONFIGURATION_TEMPLATE.indexOf('patching:');
    writeFileSync(file, CONFIGURATION_TEMPLATE.slice(0, b) + CONFIGURATION_TEMPLATE.slice(end));
    assert.match(only(checkConfiguration(file), 'standby').detail, /no partition is free to stand in for A/);
  }),
);

check(
  'no configuration is a hint, a wrong one a failure per line',
  within(({ directory }) => {
    assert.equal(
      checkConfiguration(undefined).map((f) => f.result),
      ['warn'],
    );
    const wrong = findings(
      directory,
      ['active: A', 'active: X'],
      ['"02:00:00:00:00:0b"', '"02:00:00:00:00:0a"'],
    );
    assert.equal(
      wrong.map((f) => [f.name, f.result]),
      [
        ['configuration', 'fail'],
        ['configuration', 'fail'],
      ],
    );
    assert.match(checkConfiguration('/nonexistent.yaml')[0]?.detail ?? '', /cannot read the configuration/);
  }),
);

check.run();
