import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Configuration } from '../../../src/daemon/configuration/index.ts';
import {
  CONFIGURATION_TEMPLATE,
  ConfigurationError,
  parseConfiguration,
} from '../../../src/daemon/configuration/index.ts';
import { partitionConfig, patchingPolicy, serviceSpecs } from '../../../src/daemon/control/mapping.ts';
import { deviceOf } from '../../../src/hypervisor/index.ts';

const runs = suite('daemon/configuration/runs');

function changed(...pairs: [string, string][]): Configuration {
  const text = pairs.reduce((all, [from, to]) => {
    assert.ok(all.includes(from), from);
    return all.replace(from, to);
  }, CONFIGURATION_TEMPLATE);
  return parseConfiguration(text, '/etc/c.yaml', 'c.yaml');
}

function problem(...pairs: [string, string][]): string {
  try {
    changed(...pairs);
  } catch (error) {
    if (error instanceof ConfigurationError) return error.message;
    throw error;
  }
  return 'none';
}

const SECOND: [string, string] = [
  "    second: 10.77.0.12/24               # the old partition's address while its connections drain (strategy overlap)\n",
  '',
];
const strategy = (words: string): [string, string] => [
  '  strategy: auto                        # auto, overlap, hold, drain',
  `  ${words}`,
];
const also = (words: string): [string, string] => ['    active: A ', `    also: [${words}]\n    active: A `];

runs(
  'a strategy and a procedure that make no sense together are refused with the reason and what is allowed',
  () => {
    const text = problem(strategy('strategy: hold\n  procedure: H8'));
    assert.match(
      text,
      /patching\.procedure is H8, which makes no sense with strategy hold: .*allowed: auto, H6, H7/,
    );
    assert.is(problem(strategy('strategy: drain\n  procedure: H7')), 'none');
    assert.match(
      problem(strategy('strategy: hold\n  procedure: H7'), SECOND),
      /second is missing: .*procedure is H7/,
    );
  },
);

runs('further addresses: in the network, not used twice, with a second one where there is one', () => {
  const fine = changed(also('{address: 10.77.0.21/24, second: 10.77.0.22/24}'));
  assert.equal(serviceSpecs(fine)[0]?.also, [{ address: '10.77.0.21/24', second: '10.77.0.22/24' }]);
  assert.is(serviceSpecs(changed())[0]?.also, undefined);
  for (const [words, expected] of [
    ['{address: 10.77.0.11/24, second: 10.77.0.22/24}', /already used/],
    ['{address: 10.77.0.21/24}', /also\[0\]\.second is missing/],
    ['{address: 10.78.0.21/24, second: 10.77.0.22/24}', /outside the network/],
    ['{address: "fd00::1/64", second: "fd00::2/64"}', /the probe has no address of its family/],
    ['{address: 10.77.0.999/24, second: 10.77.0.22/24}', /no address with prefix length/],
  ] as const) {
    assert.match(problem(also(words)), expected, words);
  }
});

runs(
  'addresses on another network device: in a network of the probe, on a device that exists, gateways only there',
  () => {
    const further: [string, string] = [
      '    mac: "02:00:00:00:00:fe"',
      '    also: [10.88.0.254/24, "fd00:88::FE/64"]',
    ];
    const device = (id: 'a' | 'b', name = 'net2'): [string, string] => [
      `      - {name: net1, mac: "02:00:00:00:00:0${id}"}`,
      `      - {name: net1, mac: "02:00:00:00:00:0${id}"}\n      - {name: ${name}, mac: "02:00:00:00:01:0${id}"}`,
    ];
    const words =
      '{address: 10.88.0.11/24, second: 10.88.0.12/24, device: net2, gateway: 10.88.0.1}, ' +
      '{address: "fd00:88::11/64", second: "fd00:88::12/64", device: net2}';
    const fine = changed(further, device('a'), device('b', 'other'), also(words));
    assert.equal(fine.network.probe.also, ['10.88.0.254/24', 'fd00:88::fe/64']);
    for (const partition of fine.partitions) {
      const [first, second] = partitionConfig(fine, partition).network;
      assert.equal(first?.gateways, ['10.77.0.1']);
      assert.is(first?.addresses, undefined);
      assert.equal(
        second?.addresses,
        ['10.88.0.11', '10.88.0.12', 'fd00:88::11', 'fd00:88::12'],
        partition.id,
      );
      assert.equal(second?.gateways, ['10.88.0.1']);
      const config = partitionConfig(fine, partition);
      assert.is(deviceOf(config, '10.88.0.12/24')?.name, second?.name);
      assert.is(deviceOf(config, '10.77.0.12/24')?.name, first?.name);
    }
    for (const [wrong, expected] of [
      [
        '{address: 10.99.0.11/24, second: 10.88.0.12/24, device: net2}',
        /outside the network of the probe .*probe\.also/,
      ],
      [
        '{address: 10.88.0.11/24, second: 10.77.0.22/24, device: net2}',
        /second is 10.77.0.22\/24, outside the network/,
      ],
      [
        '{address: 10.88.0.11/24, second: 10.88.0.12/24, device: net7}',
        /net7, no network device of A .* net1, net2/,
      ],
      [
        '{address: 10.88.0.11/24, second: 10.88.0.12/24, gateway: 10.88.0.1}',
        /of no use on the first device/,
      ],
      [
        '{address: 10.88.0.11/24, second: 10.88.0.12/24, device: net2, gateway: 10.77.0.1}',
        /outside the network of 10.88/,
      ],
      ['{address: 10.88.0.254/24, second: 10.88.0.12/24, device: net2}', /already used/],
    ] as const) {
      assert.match(problem(further, device('a'), device('b'), also(wrong)), expected, wrong);
    }
  },
);

runs('a rehearsal has its defaults, headers by name, and regular expressions that are some', () => {
  const rehearsal = (request: string): [string, string] => [
    '    active: A ',
    `    rehearsal:\n      port: 80\n      requests: [${request}]\n    active: A `,
  ];
  const spec = serviceSpecs(changed(rehearsal('{path: /a, headers: [{name: Accept, value: "*/*"}]}')))[0]
    ?.rehearsal;
  assert.is(spec?.onDifference, 'refuse');
  assert.equal(spec?.requests[0]?.headers, { Accept: '*/*' });
  assert.is(spec?.requests[0]?.method, 'GET');
  assert.match(
    problem(rehearsal("{path: /a, ignoreText: ['(']}")),
    /ignoreText\[0\] is no regular expression/,
  );
  assert.match(problem(rehearsal('{path: a}')), /a path that begins with/);
  assert.match(
    problem(['    active: A ', '    rehearsal: {port: 80, requests: []}\n    active: A ']),
    /requests/,
  );
});

runs('budgets of drain and paths that are carried reach the policy', () => {
  const policy = patchingPolicy(
    changed(['quiesceMs: 200}', 'quiesceMs: 200, drainMs: 7, oldFlowsMs: 8}\n  carry: [/etc/hosts]']),
  );
  assert.is(policy.budget.drainMs, 7);
  assert.is(policy.budget.oldFlowsMs, 8);
  assert.equal(policy.carry, ['/etc/hosts']);
  assert.is(policy.procedure, 'auto');
  assert.match(problem(['quiesceMs: 200}', 'quiesceMs: 200}\n  carry: [etc/hosts]']), /absolute path/);
});

runs.run();
