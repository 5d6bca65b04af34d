import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  CONFIGURATION_TEMPLATE,
  ConfigurationError,
  loadConfiguration,
  parseConfiguration,
} from '../../../src/daemon/configuration/index.ts';
import { within } from '../../support/index.ts';

const configuration = suite('daemon/configuration');

/** Lines of the error that a changed template gives; fails when it loads. */
function linesOf(text: string): readonly string[] {
  try {
    parseConfiguration(text, '/etc/changeover/c.yaml', 'c.yaml');
  } catch (error) {
    assert.instance(error, ConfigurationError);
    return (error as ConfigurationError).lines;
  }
  throw new Error('it loads');
}

function changed(...changes: readonly [string, string][]): string {
  let text = CONFIGURATION_TEMPLATE;
  for (const [from, to] of changes) {
    assert.ok(text.includes(from), `the template has ${from}`);
    text = text.replace(from, to);
  }
  return text;
}

/** The number of the line in which `part` stands. */
function lineOf(text: string, part: string): number {
  return text.slice(0, text.indexOf(part)).split('\n').length;
}

configuration(
  'the template loads as it stands',
  within(() => {
    const c = parseConfiguration(CONFIGURATION_TEMPLATE, '/etc/changeover/c.yaml');
    assert.is(c.services[0]?.address, '10.77.0.11/24');
    assert.is(c.partitions.length, 2);
    assert.is(c.patching.budget.pauseMs, 300);
  }),
);

configuration(
  'relative paths start at the folder of the file',
  within(() => {
    const c = parseConfiguration(CONFIGURATION_TEMPLATE, '/etc/changeover/c.yaml');
    assert.is(c.partitions[0]?.disks[0]?.path, '/etc/changeover/A-system.img');
    assert.is(c.patching.sources[0]?.publicKey, '/etc/changeover/key.pem');
    assert.is(c.runDirectory, '/run/changeover');
  }),
);

configuration(
  'what is left out gets its default, at every depth',
  within(() => {
    const c = parseConfiguration(
      `network:
  uplinks: [{name: co0}]
  probe: {address: 10.0.0.9/24}
services: [{name: s, address: 10.0.0.1/24, active: A, health: {http: {port: 80}}}]
partitions:
  - id: A
    processor: {cpu: 0}
    memoryMiB: 64
    disks: [{role: system, path: a.img}]
    network: [{name: n, mac: "02:00:00:00:00:AA"}]
`,
      '/x/c.yaml',
    );
    assert.equal(c.network.uplinks[0], { name: 'co0', kind: 'tap', mtu: 1500 });
    assert.is(c.network.probe.mac, '02:00:00:00:00:fe');
    assert.equal(c.services[0]?.health, {
      http: { port: 80, path: '/', expectStatus: 200, timeoutMs: 1000 },
    });
    assert.is(c.partitions[0]?.processor.sharePercent, 100);
    assert.is(c.partitions[0]?.network[0]?.mac, '02:00:00:00:00:aa', 'lower case');
    assert.equal(c.patching.probation, {
      startWaitMs: 0,
      stabilityMs: 5000,
      tries: 3,
      rollbackOnFailure: true,
    });
    assert.is(c.patching.allowUnscanned, false);
  }),
);

configuration(
  'an unknown key is refused at its line with the nearest known name and what is allowed',
  within(() => {
    const text = changed(['address: 10.77.0.11/24', 'adress: 10.77.0.11/24']);
    const line = lineOf(text, 'adress');
    const lines = linesOf(text);
    assert.ok(
      lines.includes(
        `c.yaml:${line}:5: unknown key "adress" in services[0], did you mean "address"? allowed: name, address, second, gateway, address6, second6, gateway6, also, rehearsal, active, health`,
      ),
      lines.join('\n'),
    );
    assert.ok(lines.some((l) => l.startsWith('c.yaml:18:5: services[0].address is missing')));
  }),
);

configuration(
  'a value out of range, of a wrong type or not in its list is told with what is allowed',
  within(() => {
    const text = changed(
      ['mtu: 1500', 'mtu: 15'],
      ['kind: tap', 'kind: bridge'],
      ['memoryMiB: 256', 'memoryMiB: lots'],
      ['strategy: auto', 'strategy: 4'],
      ['10.77.0.12/24', '10.77.0.300/24'],
    );
    assert.equal(linesOf(text), [
      'c.yaml:10:13: network.uplinks[0].kind is "bridge", allowed: tap, nic',
      'c.yaml:11:12: network.uplinks[0].mtu is 15, allowed: 576 to 9000',
      'c.yaml:20:13: services[0].second is "10.77.0.300/24", it must be an IPv4 address with prefix length 1 to 31, such as 10.77.0.11/24',
      'c.yaml:31:16: partitions[0].memoryMiB is "lots", it must be a whole number',
      'c.yaml:53:13: patching.strategy is 4, it must be a text',
    ]);
  }),
);

configuration(
  'of alternatives the one that was meant is checked; when none was, they are named',
  within(() => {
    assert.equal(linesOf(changed(['{port: 80,', '{prt: 80,'])), [
      'c.yaml:24:7: services[0].health.http.port is missing: TCP port',
      'c.yaml:24:14: unknown key "prt" in services[0].health.http, did you mean "port"? allowed: port, path, expectStatus, timeoutMs',
    ]);
    const none = changed([
      'http: {port: 80, path: /version, expectStatus: 200, timeoutMs: 1000}',
      'icmp: {}',
    ]);
    assert.equal(linesOf(none), [
      'c.yaml:24:7: services[0].health is a mapping, it must be exactly one of {http: {port, path, expectStatus, timeoutMs}} and {tcp: {port, timeoutMs}}',
    ]);
  }),
);

configuration(
  'text that is not YAML is told with its place',
  within(() => {
    assert.match(linesOf('network: [')[0] ?? '', /^c\.yaml:1:\d+: not valid YAML: /);
    assert.match(
      linesOf(`${CONFIGURATION_TEMPLATE}runDirectory: /x\n`)[0] ?? '',
      /not valid YAML: Map keys must be unique/,
    );
    assert.equal(linesOf(''), ['c.yaml:1:1: the configuration is empty, it must be a mapping']);
    assert.match(linesOf('a: &a [*a, *a]')[0] ?? '', /^c\.yaml:1:\d+: /);
  }),
);

const CROSS: readonly [string, readonly [string, string][], RegExp][] = [
  [
    'the second address is not the address',
    [['10.77.0.12/24', '10.77.0.11/24']],
    /^c\.yaml:20:13: services\[0\]\.second is 10\.77\.0\.11, which is already used in services\[0\]\.address/,
  ],
  [
    'all addresses are in one network',
    [['10.77.0.12/24', '10.78.0.12/24']],
    /^c\.yaml:20:13: services\[0\]\.second is 10\.78\.0\.12\/24, outside the network of network\.probe\.address/,
  ],
  [
    'the network address and the broadcast address are no hosts',
    [['10.77.0.12/24', '10.77.0.255/24']],
    /^c\.yaml:20:13: .* the network's own or its broadcast address/,
  ],
  [
    "the probe's address is its own",
    [['10.77.0.254/24', '10.77.0.11/24']],
    /^c\.yaml:19:14: services\[0\]\.address is 10\.77\.0\.11, which is already used in network\.probe\.address/,
  ],
  [
    'the gateway is in the network',
    [['gateway: 10.77.0.1', 'gateway: 10.1.1.1']],
    /^c\.yaml:21:14: services\[0\]\.gateway is 10\.1\.1\.1, outside the network of 10\.77\.0\.11\/24/,
  ],
  [
    'the active partition exists',
    [['active: A', 'active: Alpha']],
    /^c\.yaml:22:13: services\[0\]\.active is Alpha, no partition has this id, allowed: A, B/,
  ],
  [
    'an image belongs to one partition',
    [['B-system.img', 'A-system.img']],
    /^c\.yaml:42:30: partitions\[1\]\.disks\[0\]\.path is \/etc\/changeover\/A-system\.img, which is already a disk in partitions\[0\]\.disks\[0\]\.path/,
  ],
  [
    'a role occurs once in a partition',
    [['{role: application, path: B', '{role: system, path: B']],
    /^c\.yaml:43:16: partitions\[1\]\.disks\[1\]\.role is system, partition B already has such a disk/,
  ],
  [
    'a MAC is no group address',
    [['"02:00:00:00:00:0b"', '"03:00:00:00:00:0b"']],
    /^c\.yaml:45:27: .* a group address; the first byte must end in 2, 6, a or e/,
  ],
  [
    'a MAC is locally administered',
    [['"02:00:00:00:00:0b"', '"00:1b:21:00:00:0b"']],
    /^c\.yaml:45:27: .* a manufacturer's address/,
  ],
  [
    'a MAC occurs once, whatever its case',
    [['"02:00:00:00:00:0b"', '"02:00:00:00:00:0A"']],
    /^c\.yaml:45:27: partitions\[1\]\.network\[0\]\.mac is 02:00:00:00:00:0a, which is already used/,
  ],
  [
    'partition ids are unique',
    [['id: B', 'id: A']],
    /^c\.yaml:37:9: partitions\[1\]\.id is A, which is already/,
  ],
  [
    'a processor is not oversold',
    [['sharePercent: 50', 'sharePercent: 60']],
    /^c\.yaml:39:39: partitions\[1\]\.processor\.sharePercent is 50, which brings processor 0 to 110 %, allowed: 1 to 40/,
  ],
  [
    'overlap needs a second address',
    [
      ['    second: 10.77.0.12/24', '    #'],
      ['strategy: auto', 'strategy: overlap'],
    ],
    /^c\.yaml:18:5: services\[0\]\.second is missing: patching\.strategy is overlap/,
  ],
  [
    'signed patches need a key',
    [[', publicKey: key.pem', '']],
    /^c\.yaml:49:7: patching\.sources\[0\]\.publicKey is missing: name the PEM file of the signer, or set patching\.allowUnsigned: true/,
  ],
  [
    'the run directory is short enough for its sockets',
    [['/run/changeover ', `/run/${'x'.repeat(80)} `]],
    /^c\.yaml:4:15: runDirectory is \/run\/x+, 85 bytes long, allowed: up to 60/,
  ],
];

for (const [title, changes, expected] of CROSS) {
  configuration(
    title,
    within(() => {
      const lines = linesOf(changed(...changes));
      assert.ok(
        lines.some((line) => expected.test(line)),
        lines.join('\n'),
      );
    }),
  );
}

configuration(
  'every problem of a stage is told at once, in the order of the lines',
  within(() => {
    const lines = linesOf(changed(['active: A', 'active: Q'], ['B-system.img', 'A-system.img']));
    assert.is(lines.length, 2);
    const numbers = lines.map((line) => Number(line.split(':')[1]));
    assert.equal(numbers, [22, 42]);
  }),
);

configuration(
  'a file that cannot be read is told with a remedy',
  within(() => {
    assert.throws(
      () => loadConfiguration('/nonexistent/c.yaml'),
      (error: { code: string; remedy: string; message: string }) =>
        error.code === 'ENOENT' && /changeover init/.test(error.remedy) && /nonexistent/.test(error.message),
    );
  }),
);

/** The template with IPv6. */
function withIpv6(...changes: [string, string][]): string {
  const text = changed(
    ['hostAddress: 10.77.0.1/24', 'hostAddress6: "FD00:0::1/64"\n      hostAddress: 10.77.0.1/24'],
    ['    address: 10.77.0.254/24', '    address6: "fd00::fe/64"\n    address: 10.77.0.254/24'],
    [
      '    active: A',
      '    address6: "fd00::11/64"\n    second6: "fd00::12/64"\n    gateway6: "fe80::1"\n    active: A',
    ],
  );
  return changes.reduce((before, [from, to]) => {
    assert.ok(before.includes(from), from);
    return before.replace(from, to);
  }, text);
}

configuration(
  'IPv6 addresses are taken, in the form in which everybody writes them',
  within(() => {
    const c = parseConfiguration(withIpv6(), '/etc/changeover/c.yaml', 'c.yaml');
    assert.is(c.network.uplinks[0]?.hostAddress6, 'fd00::1/64');
    assert.is(c.network.probe.address6, 'fd00::fe/64');
    const { address6, second6, gateway6 } = c.services[0]!;
    assert.equal([address6, second6, gateway6], ['fd00::11/64', 'fd00::12/64', 'fe80::1']);
  }),
);

const IPV6_MISTAKES: readonly [string, [string, string][], RegExp][] = [
  [
    'no address',
    [['fd00::11/64', 'fd00::1::1/64']],
    /services\[0\]\.address6 is fd00::1::1\/64, no IPv6 address/,
  ],
  [
    'a link-local address',
    [['fd00::11/64', 'fe80::11/64']],
    /address6 is fe80::11\/64, which is no address of a host/,
  ],
  ['a group', [['fd00::12/64', 'ff02::1/64']], /second6 is ff02::1\/64, which is no address of a host/],
  [
    'another network',
    [['fd00::12/64', 'fd01::12/64']],
    /second6 is fd01::12\/64, outside the network of network\.probe\.address6/,
  ],
  [
    'an address twice',
    [['fd00::12/64', 'fd00::11/64']],
    /second6 is fd00::11, which is already used in services\[0\]\.address6/,
  ],
  ['a gateway elsewhere', [['fe80::1', 'fd01::1']], /gateway6 is fd01::1, outside the network/],
  ['itself as gateway', [['fe80::1', 'fd00::12']], /gateway6 is fd00::12, the service's own address/],
  ['a small MTU', [['mtu: 1500', 'mtu: 1000']], /mtu is 1000, IPv6 needs at least 1280/],
  [
    'a service without the probe',
    [['    address6: "fd00::fe/64"\n', '']],
    /network\.probe\.address6 is missing/,
  ],
  ['one second address', [['    second6: "fd00::12/64"\n', '']], /services\[0\]\.second6 is missing/],
  [
    'a second address of nothing',
    [['    address6: "fd00::11/64"\n', '']],
    /services\[0\]\.address6 is missing: second6 is of no use/,
  ],
];

for (const [what, changes, expected] of IPV6_MISTAKES) {
  configuration(
    `IPv6 is refused with ${what}`,
    within(() => assert.match(linesOf(withIpv6(...changes)).join('\n'), expected)),
  );
}

configuration.run();
