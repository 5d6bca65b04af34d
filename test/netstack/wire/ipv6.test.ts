/** IPv6's formats and what is derived from its addresses. */
import { blob, type Structure, struct, u8, u16be, u32be } from 'buffer-layout';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Ipv6Address } from '../../../src/netstack/index.ts';
import {
  emitIpv6,
  emitNdp,
  formatIpv6,
  ICMPV6_TYPE,
  IPV6_FRAGMENT,
  Ipv6HeaderWalk,
  Ipv6Reader,
  ipAddress,
  ipv6MulticastMac,
  isLinkLocal,
  isMappedIpv4,
  linkLocalAddress,
  MAC_NONE,
  macAddress,
  NDP,
  NDP_OPTION,
  ndpLinkAddress,
  ndpOptionsValid,
  readIpv6,
  solicitedNodeAddress,
  transportChecksumValid,
  unmapIpv4,
} from '../../../src/netstack/index.ts';
import { seeded } from '../../support/index.ts';
import { hex } from '../packets.ts';
import { fragmentHeader, ip6, ipv6, optionsHeader, tcp6, udp6 } from '../packets6.ts';

const wire = suite('netstack/wire/ipv6');
const address = (text: string) => ipAddress(text) as Ipv6Address;
const ENDS = { source: 'fd00::2', destination: 'fd00::1' };

wire('the formats once more as structures', () => {
  const formats: [Record<string, number>, Structure][] = [
    [IPV6_FRAGMENT, struct([u8('NEXT_HEADER'), u8('reserved'), u16be('OFFSET'), u32be('IDENTIFICATION')])],
    [
      NDP,
      struct([
        u8('type'),
        u8('code'),
        u16be('checksum'),
        u32be('FLAGS'),
        blob(16, 'TARGET'),
        blob(0, 'OPTIONS'),
      ]),
    ],
  ];
  for (const [offsets, structure] of formats) {
    for (const [name, offset] of Object.entries(offsets)) {
      const field = structure.offsetOf(name);
      if (field !== undefined) assert.is(offset, field, name);
    }
  }
  assert.is(IPV6_FRAGMENT.HEADER, 8);
});

wire('a header in hex: RFC 8200 section 3', () => {
  const bytes = new Uint8Array(40);
  emitIpv6(bytes, 0, 0x0102, 17, 64, address('2001:db8::1'), address('ff02::1:ff00:2'));
  assert.equal(
    Buffer.from(bytes),
    hex(`60000000 0102 11 40 20010db8000000000000000000000001 ff0200000000000000000001ff000002`),
  );
});

wire('a solicitation in hex, with and without a hardware address; options of other types and lengths', () => {
  const bytes = new Uint8Array(40).fill(0xee);
  const mac = macAddress('02:00:00:00:00:01');
  const { NEIGHBOUR_SOLICITATION } = ICMPV6_TYPE;
  assert.is(emitNdp(bytes, 0, NEIGHBOUR_SOLICITATION, 0, address('fd00::2'), mac), 32);
  assert.equal(
    Buffer.from(bytes.subarray(0, 33)),
    hex('87000000 00000000 fd000000000000000000000000000002 0101020000000001 ee'),
  );
  assert.is(emitNdp(bytes, 0, NEIGHBOUR_SOLICITATION, 0, address('fd00::2'), MAC_NONE), 24);
  const options = hex('0501000000000578 0202000000000000 0000000000000000 0201020000000009');
  assert.ok(ndpOptionsValid(options, 0, options.length));
  assert.is(
    ndpLinkAddress(options, 0, options.length, NDP_OPTION.TARGET_LINK_ADDRESS),
    macAddress('02:00:00:00:00:09'),
    'the first of Ethernet’s length',
  );
  assert.is(ndpLinkAddress(options, 0, options.length, NDP_OPTION.SOURCE_LINK_ADDRESS), MAC_NONE);
  for (let length = 0; length <= options.length; length++) {
    assert.is(ndpOptionsValid(options, 0, length), [0, 8, 24, 32].includes(length), `length ${length}`);
  }
});

wire('addresses that follow from others', () => {
  assert.is(linkLocalAddress(macAddress('00:11:22:33:44:55')), address('fe80::211:22ff:fe33:4455'));
  assert.is(linkLocalAddress(macAddress('fe:ff:ff:ff:ff:ff')), address('fe80::fcff:ffff:feff:ffff'));
  assert.is(solicitedNodeAddress(address('2001:db8::abcd:ef01:2345')), address('ff02::1:ff01:2345'));
  assert.is(ipv6MulticastMac(address('ff02::1:ff01:2345')), macAddress('33:33:ff:01:23:45'));
  for (const [text, yes] of [
    ['fe80::1', true],
    ['febf::1', true],
    ['fec0::1', false],
    ['fd00::1', false],
  ] as const) {
    assert.is(isLinkLocal(address(text)), yes, text);
  }
  assert.is(isLinkLocal(ipAddress('254.128.0.1')), false);
  assert.is(unmapIpv4(address('::ffff:10.77.0.11')), ipAddress('10.77.0.11'));
  assert.is(unmapIpv4(address('::fffe:10.77.0.11')), address('::fffe:10.77.0.11'));
  assert.ok(isMappedIpv4(address('::ffff:0:0')));
});

wire('the reader yields what the bytes say, random, also when slots collide', () =>
  seeded((random) => {
    const reader = new Ipv6Reader();
    const bytes = new Uint8Array(64);
    const few = Array.from({ length: 20 }, () => random.fill(new Uint8Array(16)));
    for (let i = 0; i < 20_000; i++) {
      const source = random.below(2) === 0 ? few[random.below(20)]! : random.fill(new Uint8Array(16));
      // Differ where the hash does not look.
      if (random.below(3) === 0) source[random.below(3)] = random.below(256);
      const at = random.below(48);
      bytes.set(source, at);
      assert.is(reader.read(bytes, at), readIpv6(bytes, at), formatIpv6(readIpv6(bytes, at)));
    }
  }),
);

wire('TCP and UDP checksums, behind extension headers too; every single bit counts', () => {
  const udp = udp6({ ...ENDS, sourcePort: 1, destinationPort: 2, payload: Buffer.from('odd') });
  const tcp = tcp6({ ...ENDS, sourcePort: 1, destinationPort: 2, payload: Buffer.from('even') });
  for (const [protocol, payload] of [
    [17, udp],
    [6, tcp],
  ] as const) {
    for (const extensions of [[], [[60, optionsHeader()]], [[44, fragmentHeader(0, false, 1)]]] as [
      number,
      Buffer,
    ][][]) {
      const bytes = ipv6({ ...ENDS, protocol, payload, extensions });
      const header = bytes.length - payload.length;
      assert.ok(transportChecksumValid(bytes, 0, header, bytes.length));
      for (let bit = 0; bit < payload.length * 8; bit++) {
        bytes[header + (bit >>> 3)]! ^= 1 << (bit & 7);
        assert.not.ok(transportChecksumValid(bytes, 0, header, bytes.length), `bit ${bit}`);
        bytes[header + (bit >>> 3)]! ^= 1 << (bit & 7);
      }
      ip6('fd00::3').copy(bytes, 24);
      assert.not.ok(transportChecksumValid(bytes, 0, header, bytes.length), 'another destination');
    }
  }
});

wire('the header walk says where the upper layer is, who named it, and never leaves the packet', () =>
  seeded((random) => {
    const walk = new Ipv6HeaderWalk();
    const payload = udp6({ ...ENDS, sourcePort: 1, destinationPort: 2 });
    const bytes = ipv6({
      ...ENDS,
      protocol: 17,
      payload,
      extensions: [
        [0, optionsHeader()],
        [60, optionsHeader()],
      ],
    });
    assert.is(walk.walk(bytes, 0, bytes.length), undefined);
    assert.equal([walk.protocol, walk.at, walk.nextHeaderAt], [17, 56, 48]);
    for (let i = 0; i < 50_000; i++) {
      const length = 40 + random.below(80);
      const noise = random.fill(new Uint8Array(length));
      noise[6] = [0, 43, 44, 60, 17][random.below(5)]!;
      for (let at = 40; at + 1 < length; at += 8) {
        if (random.below(2) === 0)
          noise.set([[0, 43, 44, 60, 17, 59][random.below(6)]!, random.below(3)], at);
      }
      const reason = walk.walk(noise, 0, length);
      if (reason === undefined) {
        assert.ok(walk.at <= length && walk.nextHeaderAt < walk.at);
        assert.is(noise[walk.nextHeaderAt], walk.protocol);
        if (walk.protocol === 44 && walk.resume(noise, length) === undefined) assert.ok(walk.at <= length);
      }
    }
  }),
);

wire.run();
