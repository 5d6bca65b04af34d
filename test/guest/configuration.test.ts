import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { GuestError, parseConfiguration, readConfiguration } from '../../src/guest/index.ts';
import { within } from '../support/index.ts';
import { withTree } from './tree.ts';

const test = suite('guest/configuration');

test('every key is read, paths are normalized, defaults are those of the table', () => {
  assert.equal(parseConfiguration({}), {
    arguments: [],
    environment: {},
    autostart: false,
    stateless: false,
  });
  const whole = {
    application: '/srv//app/./server.mjs',
    arguments: ['a'],
    environment: { PORT: '80' },
    root: '/srv/app',
    mountPoint: '/data',
    autostart: true,
    stateless: true,
  };
  assert.equal(parseConfiguration(whole), { ...whole, application: '/srv/app/server.mjs' });
});

for (const [value, words] of [
  [[], 'is not a JSON object'],
  [{ applicaton: '/x' }, "unknown key 'applicaton'"],
  [{ application: 'srv/app' }, "'application' must be an absolute path"],
  [{ application: 7 }, "'application' must be an absolute path"],
  [{ arguments: 'a' }, "'arguments' must be a list of strings"],
  [{ arguments: [1] }, "'arguments' must be a list of strings"],
  [{ environment: { PORT: 80 } }, "'environment' must be an object of strings"],
  [{ autostart: 'yes' }, "'autostart' must be true or false"],
  [{ stateless: 1 }, "'stateless' must be true or false"],
  [{ mountPoint: '/' }, "'mountPoint' cannot be /"],
  [{ application: '/srv/a.mjs', root: '/opt' }, "'application' is not below 'root'"],
] as const) {
  test(`refused: ${JSON.stringify(value)}`, () => {
    assert.throws(
      () => parseConfiguration(value),
      (error: unknown) =>
        error instanceof GuestError && error.code === 'bad-configuration' && error.message.includes(words),
    );
  });
}

test(
  'a system disk without the file is a machine without application; one with garbage is refused',
  within(() =>
    withTree({}, async ({ tree }) => {
      const system = tree.fileSystems[0]!;
      assert.is((await readConfiguration(system)).application, undefined);
      await system.mkdir('/etc/changeover', { recursive: true });
      await system.writeFile('/etc/changeover/guest.json', '{');
      let message = '';
      await readConfiguration(system).catch((error) => {
        message = error.message;
      });
      assert.match(message, 'is not JSON');
    }),
  ),
);

test.run();
