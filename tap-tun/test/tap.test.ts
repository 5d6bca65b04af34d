import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { errnoError, errnoName } from '../src/errors.ts';
import { PacketSocket, TapDevice, TapError, type TapOptions } from '../src/index.ts';

const options = suite('tap-tun/options');

function refusal(body: () => unknown): string {
  try {
    body();
  } catch (error) {
    assert.instance(error, TapError);
    assert.type((error as TapError).remedy, 'string');
    return (error as TapError).code;
  }
  return 'nothing thrown';
}

for (const name of ['', 'a/b', 'a b', 'a:b', '.', '..', 'sixteen-letters-', 'ü'.repeat(8), 'a\0b']) {
  options(`${JSON.stringify(name)} is refused as a name before the kernel is asked`, () => {
    assert.is(
      refusal(() => new TapDevice({ name })),
      'BAD_NAME',
    );
    assert.is(
      refusal(() => new PacketSocket({ name })),
      'BAD_NAME',
    );
  });
}

options('a namespace needs a name', () => {
  assert.is(
    refusal(() => new TapDevice({ netns: '' })),
    'BAD_NAME',
  );
});

const impossible: TapOptions[] = [
  { offload: { checksum: true } },
  { vnetHeader: true, offload: { tso4: true } },
  { sendBufferBytes: 0 },
  { sendBufferBytes: 1.5 },
];
for (const wanted of impossible) {
  options(`${JSON.stringify(wanted)} is refused`, () => {
    assert.is(
      refusal(() => new TapDevice(wanted)),
      'BAD_OPTION',
    );
  });
}

const errors = suite('tap-tun/errors');

const told: [syscall: string, errno: number, code: string, message: RegExp, remedy: RegExp][] = [
  ['open', 2, 'ENOENT', /\/dev\/net\/tun is missing/, /modprobe tun.*mknod/],
  ['open', 19, 'ENODEV', /no TUN\/TAP/, /modprobe tun/],
  ['open', 13, 'EACCES', /no permission to open/, /root/],
  ['TUNSETIFF', 1, 'EPERM', /no permission for interface tap7/, /CAP_NET_ADMIN/],
  ['TUNSETIFF', 16, 'EBUSY', /interface tap7 is in use/, /another name/],
  ['TUNSETIFF', 22, 'EINVAL', /another kind/, /ip -d link/],
  ['open netns', 2, 'ENOENT', /namespace for interface tap7 does not exist/, /ip netns add/],
  ['read', 77, 'EBADFD', /no longer exists/, /open it again/],
];
for (const [syscall, errno, code, message, remedy] of told) {
  errors(`${code} of ${syscall} says what it means and what to do`, () => {
    const error = errnoError('interface tap7', syscall, errno);
    assert.is(error.code, code);
    assert.match(error.message, message);
    assert.match(error.remedy!, remedy);
    assert.equal(error.values, { syscall, errno });
  });
}

errors('an errno that nobody foresaw keeps its name', () => {
  assert.is(
    errnoError('interface tap7', 'SIOCSIFMTU', 28).message,
    'SIOCSIFMTU failed for interface tap7 with ENOSPC',
  );
  assert.is(errnoName(1234), 'ERRNO_1234');
});

options.run();
errors.run();
