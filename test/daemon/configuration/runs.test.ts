import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Configuration } from '../../../src/daemon/configuration/index.ts';
import {
  CONFIGURATION_TEMPLATE,
  ConfigurationError,
  parseConfiguration,
} from '../../../src/daemon/configuration/index.ts';
import { patchingPolicy, serviceSpecs } from '../../../src/daemon/control/mapping.ts';

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
