import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { configText, dltsText, interfacesText, parseExtcap } from '../../src/cli/extcap/words.ts';

const extcap = suite('cli/extcap');

extcap('the four questions of Wireshark, as it asks them', () => {
  assert.equal(parseExtcap(['--extcap-interfaces', '--extcap-version=4.0']), { kind: 'interfaces' });
  const at = ['--extcap-interface', 'changeover-A-net1'];
  assert.equal(parseExtcap([...at, '--extcap-dlts']), { kind: 'dlts', port: 'A-net1' });
  assert.equal(parseExtcap([...at, '--extcap-config']), { kind: 'config', port: 'A-net1' });
  assert.equal(
    parseExtcap([...at, '--capture', '--fifo', '/tmp/x', '--run-directory', '/run/x', '--snap-length', '96']),
    { kind: 'capture', port: 'A-net1', fifo: '/tmp/x', snapLength: 96, runDirectory: '/run/x' },
  );
  assert.equal(
    parseExtcap(['--extcap-interface', 'changeover', '--capture', '--fifo', '/tmp/x', '--run-directory', '']),
    {
      kind: 'capture',
      port: undefined,
      fifo: '/tmp/x',
      snapLength: undefined,
      runDirectory: undefined,
    },
  );
});

extcap('what cannot be is refused with the reason', () => {
  const at = ['--extcap-interface', 'changeover-A-net1'];
  for (const [argv, reason] of [
    [[], /Wireshark starts this program/],
    [['--no-such'], /no-such/],
    [['--extcap-interface', 'eth0', '--capture', '--fifo', 'x'], /no interface eth0/],
    [[...at, '--capture'], /--fifo/],
    [[...at, '--capture', '--fifo', 'x', '--snap-length', 'many'], /64 to 262144 bytes, not many/],
    [[...at, '--capture', '--fifo', 'x', '--snap-length', '10'], /64 to 262144 bytes, not 10/],
    [[...at, '--capture', '--fifo', 'x', '--extcap-capture-filter', 'tcp port 80'], /display filter/],
  ] as const) {
    const request = parseExtcap(argv);
    assert.is(request.kind, 'refused', argv.join(' '));
    assert.match((request as { reason: string }).reason, reason);
  }
});

extcap('answers are sentences of the interface; without a daemon there is no interface', () => {
  assert.is(interfacesText('1.2', []), 'extcap {version=1.2}{display=Changeover}\n');
  assert.is(
    interfacesText('1.2', [{ name: 'A-net1', role: 'partition' }]),
    'extcap {version=1.2}{display=Changeover}\n' +
      'interface {value=changeover}{display=Changeover: every port and uplink}\n' +
      'interface {value=changeover-A-net1}{display=Changeover: partition A-net1}\n',
  );
  assert.is(dltsText(), 'dlt {number=1}{name=EN10MB}{display=Ethernet}\n');
  assert.match(configText('/run/x'), /^arg \{number=0\}.*\{default=\/run\/x\}\narg \{number=1\}/);
});

extcap.run();
