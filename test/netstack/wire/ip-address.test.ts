import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  AddressError,
  broadcastOf,
  cidr,
  cidrContains,
  formatCidr,
  formatIpAddress,
  formatMac,
  ipAddress,
  ipv4Address,
  isGroupMac,
  isMulticast,
  isUnspecified,
  macAddress,
  parseCidr,
  parseIpAddress,
  parseMac,
  readIpv4,
  readIpv6,
  readMac,
  writeIpv4,
  writeIpv6,
  writeMac,
} from '../../../src/netstack/index.ts';
import { seeded } from '../../support/index.ts';

const addresses = suite('netstack/wire/ip-address');

addresses('IPv4 is strict dotted decimal', () => {
  assert.is(ipAddress('10.77.0.11'), 0x0a4d000b);
  assert.is(ipAddress('255.255.255.255'), 0xffffffff);
  for (const wrong of [
    '',
    '1.2.3',
    '1.2.3.4.5',
    '01.2.3.4',
    '256.0.0.1',
    '1.2.3.4 ',
    ' 1.2.3.4',
    '1.2.3.a',
    '0x1.2.3.4',
  ]) {
    assert.is(parseIpAddress(wrong), undefined, wrong);
  }
});

addresses('RFC 4291 section 2.2 and RFC 5952 section 4: text in, canonical text out', () => {
  for (const [text, canonical] of [
    ['2001:DB8:0:0:8:800:200C:417A', '2001:db8::8:800:200c:417a'],
    ['FF01:0:0:0:0:0:0:101', 'ff01::101'],
    ['0:0:0:0:0:0:0:1', '::1'],
    ['0:0:0:0:0:0:0:0', '::'],
    ['::13.1.68.3', '::d01:4403'],
    ['::FFFF:129.144.52.38', '::ffff:8190:3426'],
    ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['2001:0:0:1:0:0:0:1', '2001:0:0:1::1'],
    ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['1::', '1::'],
    ['fe80::1:2:3:4', 'fe80::1:2:3:4'],
    ['1:2:3:4:5:6:7::', '1:2:3:4:5:6:7:0'],
  ] as const) {
    assert.is(formatIpAddress(ipAddress(text)), canonical, text);
  }
  for (const wrong of [
    ':',
    ':::',
    '1:::2',
    '1::2::3',
    '1:2:3:4:5:6:7',
    '1:2:3:4:5:6:7:8:9',
    '1:2:3:4::5:6:7:8',
    '12345::',
    'g::',
    '1.2.3.4::',
    '::1.2.3',
    '::1.2.3.4:5',
    'fe80::1%eth0',
    ':1::2',
    '1::2:',
  ]) {
    assert.is(parseIpAddress(wrong), undefined, wrong);
  }
});

addresses('random addresses of both families survive text and bytes', () =>
  seeded((random) => {
    const buffer = new Uint8Array(20);
    for (let i = 0; i < 5_000; i++) {
      const v4 = random.u32() as ReturnType<typeof ipv4Address>;
      writeIpv4(buffer, 3, v4);
      assert.is(readIpv4(buffer, 3), v4);
      assert.is(ipAddress(formatIpAddress(v4)), v4);
      random.fill(buffer);
      for (let k = 0; k < 16; k += 2) if (random.below(2) === 0) buffer.fill(0, 2 + k, 4 + k);
      const v6 = readIpv6(buffer, 2);
      assert.is(ipAddress(formatIpAddress(v6)), v6);
      const copy = new Uint8Array(20);
      writeIpv6(copy, 1, v6);
      assert.equal(copy.subarray(1, 17), buffer.subarray(2, 18));
      const mac = readMac(buffer, 5);
      writeMac(copy, 0, mac);
      assert.equal(copy.subarray(0, 6), buffer.subarray(5, 11));
      assert.is(macAddress(formatMac(mac)), mac);
    }
  }),
);

addresses('networks: containment, broadcast, families apart', () => {
  const network = cidr('10.77.0.11/24');
  assert.is(formatCidr(network), '10.77.0.11/24');
  assert.ok(cidrContains(network, ipAddress('10.77.0.255')));
  assert.not.ok(cidrContains(network, ipAddress('10.77.1.0')));
  assert.ok(cidrContains(cidr('0.0.0.0/0'), ipAddress('255.1.2.3')));
  assert.not.ok(cidrContains(cidr('0.0.0.0/0'), ipAddress('::1')));
  assert.is(broadcastOf(network), ipAddress('10.77.0.255'));
  assert.is(broadcastOf(cidr('10.77.0.11/31')), undefined);
  assert.is(broadcastOf(cidr('fd00::1/64')), undefined);
  assert.ok(cidrContains(cidr('fd00:77::/63'), ipAddress('fd00:77:0:1::9')));
  assert.not.ok(cidrContains(cidr('fd00:77::/63'), ipAddress('fd00:77:0:2::9')));
  assert.not.ok(cidrContains(cidr('fd00::/64'), ipAddress('10.0.0.1')));
  assert.is(parseCidr('10.0.0.1')?.prefixLength, 32);
  for (const wrong of ['10.0.0.1/', '10.0.0.1/33', '10.0.0.1/-1', '10.0.0.1/08', 'fd00::/129', 'x/8']) {
    assert.is(parseCidr(wrong), undefined, wrong);
  }
});

addresses('kinds', () => {
  assert.ok(isMulticast(ipAddress('224.0.0.251')) && isMulticast(ipAddress('ff02::1')));
  assert.not.ok(isMulticast(ipAddress('223.255.255.255')));
  assert.ok(isUnspecified(ipAddress('::')) && isUnspecified(ipAddress('0.0.0.0')));
  assert.ok(isGroupMac(macAddress('01:00:5e:00:00:01')));
  assert.not.ok(isGroupMac(macAddress('02-00-00-00-00-0B')));
  assert.is(parseMac('02:00:00:00:00'), undefined);
});

addresses('wrong text at a border is a typed error with a remedy', () => {
  for (const [code, call] of [
    ['ADDRESS_INVALID', () => ipAddress('nonsense')],
    ['ADDRESS_INVALID', () => ipv4Address('::1')],
    ['CIDR_INVALID', () => cidr('10.0.0.0/99')],
    ['MAC_INVALID', () => macAddress('zz')],
  ] as const) {
    assert.throws(call, (error: unknown) => {
      return error instanceof AddressError && error.code === code && error.remedy !== undefined;
    });
  }
});

addresses.run();
