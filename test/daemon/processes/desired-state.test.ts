import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Remember } from '../../../src/daemon/processes/desired-state.ts';
import { DesiredState, rememberBlock, rememberMux } from '../../../src/daemon/processes/desired-state.ts';
import { eventually, within } from '../../support/index.ts';

const desired = suite<{ directory: string; file: string }>('daemon/processes/desired-state');

desired.before.each((context) => {
  context.directory = mkdtempSync(join(tmpdir(), 'changeover-desired-'));
  context.file = join(context.directory, 'd.json');
});
desired.after.each((context) => rmSync(context.directory, { recursive: true, force: true }));

type Command = [string, object];

function replayed(file: string, remember: Remember, commands: readonly Command[]): Command[] {
  const state = new DesiredState(file, remember);
  for (const [name, args] of commands) state.executed(name, args);
  return state.commands().map(({ name, args }) => [name, args]);
}

const uplink: Command = ['uplink-add', { name: 'co0', mtu: 1500 }];
const portA: Command = ['port-add', { name: 'A', socket: '/a', mac: 'm', addresses: ['x.11'] }];
const portB: Command = ['port-add', { name: 'B', socket: '/b', mac: 'n', addresses: ['x.11'] }];
const pathA: Command = ['path-set', { address: 'x.11', port: 'A' }];

desired(
  'a mux is told again: uplinks, ports, their states, then paths, whatever the order was',
  within(({ file }) => {
    const attached: Command = ['port-state', { name: 'A', state: 'attached' }];
    assert.equal(replayed(file, rememberMux, [attached, pathA, portA, ['flows', { address: 'x' }], uplink]), [
      uplink,
      portA,
      attached,
      pathA,
    ]);
  }),
);

desired(
  'the last word counts: port addresses, port states and paths are replaced',
  within(({ file }) => {
    assert.equal(
      replayed(file, rememberMux, [
        portA,
        ['port-addresses', { name: 'A', addresses: ['x.12'] }],
        ['port-addresses', { name: 'unknown', addresses: ['x.13'] }],
        ['port-state', { name: 'A', state: 'isolated' }],
        ['port-state', { name: 'A', state: 'attached' }],
        pathA,
        ['path-set', { address: 'x.11', port: 'B' }],
      ]),
      [
        ['port-add', { name: 'A', socket: '/a', mac: 'm', addresses: ['x.12'] }],
        ['port-state', { name: 'A', state: 'attached' }],
        ['path-set', { address: 'x.11', port: 'B' }],
      ],
    );
  }),
);

const change: Command = [
  'switch',
  {
    address: 'x.11',
    from: 'A',
    to: 'B',
    notice: { second: 'x.12' },
    addresses: { A: ['x.12'], B: ['x.11'] },
    also: [{ address: 'y.11', moved: [] }],
  },
];

desired(
  'a switch is remembered as one until nothing is steered any more, then as where the path leads',
  within(({ file }) => {
    const told = [portA, portB, pathA, change];
    const ports: Command[] = [
      ['port-add', { name: 'A', socket: '/a', mac: 'm', addresses: ['x.12'] }],
      portB,
      ['port-state', { name: 'B', state: 'attached' }],
    ];
    assert.equal(replayed(file, rememberMux, told), [
      ...ports,
      pathA,
      ['path-set', { address: 'y.11', port: 'A' }],
      [
        'switch',
        {
          address: 'x.11',
          from: 'A',
          to: 'B',
          notice: { second: 'x.12', immediately: true },
          addresses: { A: ['x.12'], B: ['x.11'] },
        },
      ],
      ['switch', { address: 'y.11', moved: [], from: 'A', to: 'B' }],
    ]);
    const cancel = (address: string): Command => ['notice-cancel', { address }];
    assert.equal(replayed(`${file}2`, rememberMux, [...told, cancel('x.11'), cancel('y.11')]), [
      ...ports,
      ['path-set', { address: 'x.11', port: 'B' }],
      ['path-set', { address: 'y.11', port: 'B' }],
    ]);
    assert.equal(
      replayed(`${file}3`, rememberMux, [
        ...told,
        ['path-set', { address: 'x.11', port: 'B' }],
        cancel('y.11'),
      ]),
      [...ports, ['path-set', { address: 'x.11', port: 'B' }], ['path-set', { address: 'y.11', port: 'B' }]],
    );
  }),
);

desired(
  'a switch of addresses on several devices is remembered with the ports of each',
  within(({ file }) => {
    const told: Command[] = [
      ['switch', { address: 'x.11', from: 'A', to: 'B', also: [{ address: 'y.11', from: 'A2', to: 'B2' }] }],
    ];
    assert.equal(replayed(file, rememberMux, told), [
      ['port-state', { name: 'B', state: 'attached' }],
      ['port-state', { name: 'B2', state: 'attached' }],
      ['path-set', { address: 'x.11', port: 'A' }],
      ['path-set', { address: 'y.11', port: 'A2' }],
      ['switch', { address: 'x.11', from: 'A', to: 'B' }],
      ['switch', { address: 'y.11', from: 'A2', to: 'B2' }],
    ]);
  }),
);

desired(
  'a hold is remembered with its widest scope until it is released',
  within(({ file }) => {
    const hold = (scope: string, more = {}): Command => ['hold-start', { address: 'x.11', scope, ...more }];
    assert.equal(
      replayed(file, rememberMux, [pathA, hold('new-flows'), hold('all', { barrier: 7 }), hold('flows')]),
      [pathA, hold('all', { barrier: 7 })],
    );
    assert.equal(
      replayed(`${file}2`, rememberMux, [pathA, hold('all'), ['hold-release', { address: 'x.11' }]]),
      [pathA],
    );
  }),
);

desired(
  'what is removed is forgotten with all that hangs on it',
  within(({ file }) => {
    assert.equal(
      replayed(file, rememberMux, [
        portA,
        ['port-state', { name: 'A', state: 'attached' }],
        pathA,
        ['private-path', { probe: 'probe', port: 'A' }],
        ['port-remove', { name: 'A' }],
        ['private-path', { probe: 'p', port: 'B' }],
        ['private-path', { probe: 'p', port: null }],
        ['capture-start', { file: '/1' }],
        ['capture-start', { file: '/2' }],
        ['capture-stop', { file: '/1' }],
        ['requests-record', { address: '10.77.0.11', record: { port: 80 } }],
        ['requests-record', { address: '10.77.0.11', record: { port: 8080 } }],
        ['requests-record', { address: '10.77.0.12', record: { port: 80 } }],
        ['requests-record', { address: '10.77.0.12', record: null }],
      ]),
      [
        ['capture-start', { file: '/2' }],
        ['requests-record', { address: '10.77.0.11', record: { port: 8080 } }],
      ],
    );
  }),
);

desired(
  'a block process is told again: disks without creating them, fences and logs before exports',
  within(({ file }) => {
    const serve: Command = ['serve', { socket: '/n', exports: { system: 'A-system' } }];
    assert.equal(
      replayed(file, rememberBlock, [
        serve,
        ['reverse-start', { copy: 'r', pairs: [], logDirectory: '/l' }],
        ['disk-add', { id: 'A-system', path: '/i', create: '100' }],
        ['copy-cut', { copy: 'c', from: ['A-application'], fence: 'refuse' }],
        ['copy-start', { copy: 'c', pairs: [], logDirectory: '/m' }],
      ]),
      [
        ['disk-add', { id: 'A-system', path: '/i' }],
        ['fence', { id: 'A-application', mode: 'refuse' }],
        ['reverse-start', { copy: 'r', pairs: [], logDirectory: '/l' }],
        ['copy-start', { copy: 'c', pairs: [], logDirectory: '/m', resumeOnly: true }],
        serve,
      ],
    );
    assert.equal(
      replayed(`${file}2`, rememberBlock, [
        ['disk-add', { id: 'd', path: '/i' }],
        ['fence', { id: 'd', mode: 'refuse' }],
        ['fence', { id: 'd', mode: 'none' }],
        ['reverse-start', { copy: 'r', pairs: [] }],
        ['copy-cancel', { copy: 'r' }],
        serve,
        ['serve-stop', { socket: '/n' }],
        ['disk-remove', { id: 'd' }],
      ]),
      [],
    );
    const pairs = [
      { from: 'A-system', to: 'B-system' },
      { from: 'A-application', to: 'B-application' },
    ];
    const copy: Command = ['copy-start', { copy: 'c', pairs }];
    const cut: Command = ['copy-cut', { copy: 'c', from: ['A-system'] }];
    assert.equal(replayed(`${file}3`, rememberBlock, [copy, cut]), [
      ['copy-start', { copy: 'c', pairs: [pairs[1]], resumeOnly: true }],
    ]);
    assert.equal(replayed(`${file}4`, rememberBlock, [copy, cut, ['copy-cut', { copy: 'c' }]]), []);
    const mirror: Command = ['mirror-start', { mirror: 'c', pairs }];
    assert.equal(replayed(`${file}5`, rememberBlock, [mirror, cut]), [
      ['mirror-resync', { mirror: 'c', pairs: [pairs[1]] }],
    ]);
    const reverse: Command = [
      'reverse-start',
      { copy: 'r', pairs: [{ from: 'B', to: 'A' }], logDirectory: '/l' },
    ];
    const used: Command = ['copy-cut', { copy: 'r', from: ['B'], fence: 'refuse' }];
    assert.equal(
      replayed(`${file}7`, rememberBlock, [reverse, used]),
      [['fence', { id: 'B', mode: 'refuse' }]],
      'a way back that was taken is not logged again',
    );
    assert.equal(replayed(`${file}6`, rememberBlock, [mirror, ['copy-cancel', { copy: 'c' }]]), []);
  }),
);

desired(
  'the memory outlives the control process; clearing and damage leave none',
  within(async ({ file }) => {
    const first = new DesiredState(file, rememberMux);
    first.executed(...uplink);
    first.executed(...portA);
    await eventually('the file', () => {
      try {
        return readFileSync(file, 'utf8').includes('port-add');
      } catch {
        return false;
      }
    });
    const second = new DesiredState(file, rememberMux);
    assert.is(second.commands().length, 2);
    second.clear();
    assert.is(new DesiredState(file, rememberMux).commands().length, 0);
    writeFileSync(file, '[{"key":');
    assert.is(new DesiredState(file, rememberMux).commands().length, 0);
  }),
);

desired(
  'what was to end and was not there any more does not come back with the next process',
  within(({ file }) => {
    const state = new DesiredState(file, rememberBlock);
    const copy = { copy: 'r-copy', from: ['A'], to: ['B'] };
    state.executed('copy-start', copy);
    state.refused('copy-cancel', { copy: 'r-copy' }, 'EIO');
    assert.is(state.commands().length, 1, 'it may still be there');
    state.refused('copy-cancel', { copy: 'r-copy' }, 'unknown-copy');
    assert.equal(state.commands(), []);
  }),
);

desired.run();
