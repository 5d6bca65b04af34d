import { blob, type Structure, struct, u8, u16, u16be, u32be } from 'buffer-layout';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  ARP,
  arpIsValid,
  ETHERNET,
  emitArp,
  emitEthernet,
  emitIcmp,
  emitIpv4,
  emitTcp,
  emitUdp,
  emitVnet,
  ethernetHeaderLength,
  ethernetVlan,
  ICMP,
  IPV4,
  IPV6,
  ipv4Address,
  ipv4ChecksumValid,
  ipv4FragmentOffset,
  ipv4HeaderLength,
  ipv4IsFragment,
  ipv4MoreFragments,
  ipv4Options,
  ipv6UpperLayer,
  macAddress,
  TCP,
  tcpHeaderLength,
  UDP,
  VNET,
  vnetIsValid,
} from '../../../src/netstack/index.ts';
import { seeded } from '../../support/index.ts';
import { arp, hex, icmp, ipv4, packet, tcp, udp } from '../packets.ts';

const headers = suite('netstack/wire/headers');

/** The formats once more as structures: order and width of fields decide the offsets. */
const FORMATS: [string, Record<string, number>, Structure][] = [
  ['Ethernet', ETHERNET, struct([blob(6, 'DESTINATION'), blob(6, 'SOURCE'), u16be('TYPE')])],
  [
    'ARP',
    ARP,
    struct([
      u16be('HARDWARE_TYPE'),
      u16be('PROTOCOL_TYPE'),
      u8('HARDWARE_LENGTH'),
      u8('PROTOCOL_LENGTH'),
      u16be('OPERATION'),
      blob(6, 'SENDER_MAC'),
      u32be('SENDER_IP'),
      blob(6, 'TARGET_MAC'),
      u32be('TARGET_IP'),
    ]),
  ],
  [
    'IPv4',
    IPV4,
    struct([
      u8('VERSION_IHL'),
      u8('TOS'),
      u16be('TOTAL_LENGTH'),
      u16be('IDENTIFICATION'),
      u16be('FRAGMENT'),
      u8('TTL'),
      u8('PROTOCOL'),
      u16be('CHECKSUM'),
      u32be('SOURCE'),
      u32be('DESTINATION'),
    ]),
  ],
  [
    'IPv6',
    IPV6,
    struct([
      u32be('VERSION_CLASS_FLOW'),
      u16be('PAYLOAD_LENGTH'),
      u8('NEXT_HEADER'),
      u8('HOP_LIMIT'),
      blob(16, 'SOURCE'),
      blob(16, 'DESTINATION'),
    ]),
  ],
  ['ICMP', ICMP, struct([u8('TYPE'), u8('CODE'), u16be('CHECKSUM'), u16be('IDENTIFIER'), u16be('SEQUENCE')])],
  ['UDP', UDP, struct([u16be('SOURCE_PORT'), u16be('DESTINATION_PORT'), u16be('LENGTH'), u16be('CHECKSUM')])],
  [
    'TCP',
    TCP,
    struct([
      u16be('SOURCE_PORT'),
      u16be('DESTINATION_PORT'),
      u32be('SEQUENCE'),
      u32be('ACKNOWLEDGMENT'),
      u8('DATA_OFFSET'),
      u8('FLAGS'),
      u16be('WINDOW'),
      u16be('CHECKSUM'),
      u16be('URGENT'),
    ]),
  ],
  [
    'vnet',
    VNET,
    struct([
      u8('FLAGS'),
      u8('GSO_TYPE'),
      u16('HEADERS_LENGTH'),
      u16('GSO_SIZE'),
      u16('CSUM_START'),
      u16('CSUM_OFFSET'),
    ]),
  ],
];

for (const [name, offsets, structure] of FORMATS) {
  headers(`${name}: the named offsets are those of the structure`, () => {
    for (const { property } of structure.fields) {
      assert.is(offsets[property!], structure.offsetOf(property!), property);
    }
    const length = offsets['HEADER'] ?? offsets['MIN_HEADER'] ?? offsets['LENGTH'];
    if (name !== 'UDP') assert.is(length, structure.span);
    else assert.is(UDP.HEADER, structure.span);
  });
}

headers('what is emitted is what the slow way makes', () => {
  const buffer = Buffer.alloc(64);
  const [a, b] = [ipv4Address('10.77.0.11'), ipv4Address('255.0.0.254')];
  const [macA, macB] = [macAddress('02:00:00:00:00:01'), macAddress('fe:dc:ba:98:76:54')];
  emitEthernet(buffer, 0, macA, macB, 0x0800);
  assert.equal(buffer.subarray(0, 14), hex('020000000001 fedcba987654 0800'));
  emitArp(buffer, 0, 2, macA, a, macB, b);
  assert.equal(buffer.subarray(0, 28), arp(2, '020000000001', '10.77.0.11', 'fedcba987654', '255.0.0.254'));
  emitIpv4(buffer, 0, 28, 0xfffe, 0x4000, 64, 17, a, b);
  const fields = {
    source: '10.77.0.11',
    destination: '255.0.0.254',
    identification: 0xfffe,
    fragment: 0x4000,
  };
  assert.equal(
    buffer.subarray(0, 20),
    ipv4({ ...fields, protocol: 17, payload: Buffer.alloc(8) }).subarray(0, 20),
  );
  emitUdp(buffer, 0, 0xffff, 53, 8);
  const ports = { source: '0.0.0.0', destination: '0.0.0.0', sourcePort: 0xffff, destinationPort: 53 };
  assert.equal(buffer.subarray(0, 8), udp({ ...ports, noChecksum: true }));
  emitTcp(buffer, 0, 0xffff, 53, 0xfffffffe, 0x80000000, 20, 0x12, 0xabcd);
  const expected = tcp({ ...ports, seq: 0xfffffffe, ack: 0x80000000, flags: 0x12, window: 0xabcd });
  expected.writeUInt16BE(0, 16);
  assert.equal(buffer.subarray(0, 20), expected);
  buffer.write('abcde', 8);
  emitIcmp(buffer, 0, 8, 0, 0x12340001, 13);
  assert.equal(buffer.subarray(0, 13), icmp(8, 0, 0x12340001, Buffer.from('abcde')));
  emitVnet(buffer, 0, 1, 54, 1460, 34, 16);
  assert.equal(buffer.subarray(0, 10), hex('01 01 3600 b405 2200 1000'));
});

headers('IPv4 header checksums, random', () =>
  seeded((random) => {
    const buffer = Buffer.alloc(20);
    for (let i = 0; i < 5_000; i++) {
      const word = () => (random.below(4) === 0 ? 0xffffffff : random.u32());
      const [source, destination] = [word(), word()] as ReturnType<typeof ipv4Address>[];
      emitIpv4(
        buffer,
        0,
        20 + random.below(1000),
        random.below(65536),
        0,
        random.below(256),
        6,
        source!,
        destination!,
      );
      assert.ok(ipv4ChecksumValid(buffer, 0, 20));
      buffer[random.below(20)]! ^= 1 << random.below(8);
      assert.not.ok(ipv4ChecksumValid(buffer, 0, 20));
    }
  }),
);

headers('Ethernet: tags stepped over, two at most; truncated at every byte', () => {
  const plain = packet(Buffer.alloc(0)).subarray(10);
  const tagged = packet(Buffer.alloc(0), { tags: [0x6005, 0x0006] }).subarray(10);
  assert.is(ethernetHeaderLength(plain, 0, 14), 14);
  assert.is(ethernetHeaderLength(tagged, 0, 22), 22);
  assert.is(ethernetVlan(tagged, 0), 5);
  for (let length = 0; length < 22; length++) assert.is(ethernetHeaderLength(tagged, 0, length), 0);
  const three = packet(Buffer.alloc(0), { tags: [1, 2, 3] }).subarray(10);
  assert.is(ethernetHeaderLength(three, 0, 26), 22, 'the third tag is the payload type');
});

headers('ARP: every field that must be as it must', () => {
  const good = arp(1, '020000000001', '10.0.0.1', '000000000000', '10.0.0.2');
  assert.ok(arpIsValid(good, 0, 28));
  assert.ok(arpIsValid(Buffer.concat([good, Buffer.alloc(18)]), 0, 46), 'padded');
  for (let length = 0; length < 28; length++) assert.not.ok(arpIsValid(good, 0, length));
  for (const at of [0, 1, 2, 3, 4, 5, 6, 7]) {
    const wrong = Buffer.from(good);
    wrong[at]! ^= 0x40;
    assert.not.ok(arpIsValid(wrong, 0, 28), `byte ${at}`);
  }
  assert.not.ok(arpIsValid(arp(1, 'ffffffffffff', '10.0.0.1', '000000000000', '10.0.0.2'), 0, 28));
  assert.not.ok(arpIsValid(arp(1, '000000000000', '10.0.0.1', '000000000000', '10.0.0.2'), 0, 28));
});

headers('IPv4: fragments and options', () => {
  const make = (fragment: number, options = '') =>
    ipv4({
      source: '10.0.0.1',
      destination: '10.0.0.2',
      protocol: 17,
      payload: Buffer.alloc(8),
      fragment,
      options: hex(options),
    });
  assert.not.ok(ipv4IsFragment(make(0x4000), 0));
  assert.ok(ipv4IsFragment(make(0x2000), 0) && ipv4MoreFragments(make(0x2000), 0));
  assert.is(ipv4FragmentOffset(make(0x1fff), 0), 65_528);
  const verdict = (options: string) => {
    const bytes = make(0, options);
    return ipv4Options(bytes, 0, ipv4HeaderLength(bytes, 0));
  };
  assert.is(verdict('94040000'), 'ok', 'router alert');
  assert.is(verdict('01010100'), 'ok', 'NOP NOP NOP END');
  assert.is(verdict('00ffffff'), 'ok', 'nothing counts behind END');
  assert.is(verdict('01830700 00000000'), 'source-route');
  assert.is(verdict('89070400 00000000'), 'source-route');
  for (const wrong of ['94000000', '94010000', '94050000', '01010194'])
    assert.is(verdict(wrong), 'malformed', wrong);
});

headers('TCP: header lengths below the minimum are visible', () => {
  for (let words = 0; words < 16; words++) {
    const bytes = Buffer.alloc(20);
    bytes[12] = words << 4;
    assert.is(tcpHeaderLength(bytes, 0), words * 4);
  }
});

headers('IPv6: extension headers are stepped over, truncation and later fragments end the walk', () => {
  const header = (next: number) =>
    Buffer.concat([hex('600000000000'), Buffer.from([next, 64]), Buffer.alloc(32)]);
  const upper = (bytes: Buffer) => ipv6UpperLayer(bytes, 0, bytes.length);
  assert.is(upper(Buffer.concat([header(6), Buffer.alloc(20)])), 40 * 256 + 6);
  const chain = Buffer.concat([
    header(0),
    hex('2b00000000000000'),
    hex('3c00000000000000'),
    hex('1101'),
    Buffer.alloc(14),
    Buffer.alloc(8),
  ]);
  assert.is(upper(chain), (40 + 8 + 8 + 16) * 256 + 17);
  for (let length = 40; length < 72; length++)
    assert.is(ipv6UpperLayer(chain, 0, length), -1, `length ${length}`);
  assert.is(
    upper(Buffer.concat([header(44), hex('1100000100000000'), Buffer.alloc(8)])),
    48 * 256 + 17,
    'first fragment',
  );
  assert.is(
    upper(Buffer.concat([header(44), hex('1100000800000000'), Buffer.alloc(8)])),
    -1,
    'later fragment',
  );
  assert.is(upper(header(59)), -1);
  assert.is(
    upper(Buffer.concat([header(0), ...Array.from({ length: 20 }, () => hex('0000000000000000'))])),
    -1,
    'endless',
  );
});

headers('offload header: the checksum field lies inside the frame, segmentation has a size', () => {
  const valid = (text: string, length: number) => vnetIsValid(hex(text), 0, length);
  assert.ok(valid('00000000000000000000', 14));
  assert.ok(valid('01000000000022001000', 52));
  assert.not.ok(valid('01000000000022001000', 51));
  assert.not.ok(valid('0100000000 00ffffffff', 65_549));
  assert.ok(valid('01013600b40522001000', 3000));
  assert.not.ok(valid('01013600000022001000', 3000));
  assert.not.ok(valid('01023600b40522001000', 3000));
});

headers.run();
