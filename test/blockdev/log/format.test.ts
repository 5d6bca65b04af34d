import { readFileSync } from 'node:fs';
import { blob, struct, u8, u16, u32 } from 'buffer-layout';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  emitRecordHeader,
  emitSegmentHeader,
  isRecordHeader,
  isRecordIntact,
  parseSegmentHeader,
  RECORD,
  RecordFlag,
  RecordKind,
  SEGMENT,
} from '../../../src/blockdev/index.ts';
import { within } from '../../support/index.ts';
import { GENERATION } from './log-support.ts';

const format = suite('blockdev/log/format');

const recordStruct = struct([
  u32('magic'),
  u8('kind'),
  u8('flags'),
  u16('reserved'),
  blob(8, 'sequence'),
  blob(8, 'time'),
  blob(8, 'address'),
  blob(8, 'length'),
  u32('payload'),
  u32('tag'),
  u32('headerChecksum'),
  u32('checksum'),
]);

const segmentStruct = struct([
  blob(8, 'magic'),
  u16('version'),
  u16('headerLength'),
  u32('purpose'),
  blob(16, 'generation'),
  blob(48, 'diskId'),
  blob(8, 'diskSize'),
  blob(8, 'firstSequence'),
  blob(8, 'number'),
  blob(8, 'created'),
  blob(8, 'boot'),
  u32('reserved'),
  u32('checksum'),
]);

function record(): Buffer {
  const data = Buffer.from('hello, disk!');
  const out = Buffer.alloc(RECORD.size + data.length);
  const flags = RecordFlag.fua;
  const tag = GENERATION.readUInt32LE(0);
  emitRecordHeader(
    out,
    0,
    RecordKind.data,
    flags,
    7n,
    1_600_000_000_000_000_000n,
    2 ** 40 + 512,
    12,
    tag,
    data,
  );
  data.copy(out, RECORD.data);
  return out;
}

format(
  'record: the accessors’ offsets are those of the structure',
  within(() => {
    assert.is(recordStruct.span, RECORD.size);
    for (const [name, offset] of Object.entries(RECORD))
      if (name !== 'size' && name !== 'data') assert.is(recordStruct.offsetOf(name), offset, name);
  }),
);

format(
  'segment header: the accessors’ offsets are those of the structure',
  within(() => {
    assert.is(segmentStruct.span, SEGMENT.size);
    for (const [name, offset] of Object.entries(SEGMENT))
      if (name !== 'size' && name !== 'diskIdLength') assert.is(segmentStruct.offsetOf(name), offset, name);
  }),
);

format(
  'record: byte for byte as documented',
  within(() => {
    const documented = [
      '574c5231', // magic, ASCII WLR1
      '01', // kind: data
      '01', // flags: forced unit access
      '0000',
      '0700000000000000', // sequence 7
      '0000a0d885573416', // 2020-09-13T12:26:40Z
      '0002000000010000', // address 2^40 + 512
      '0c00000000000000', // length 12
      '0c000000', // payload 12
      '00112233', // tag
      '0fd1861f', // CRC-32 of bytes 0 to 47
      'b7d59291', // CRC-32 of bytes 0 to 47 and the data
      '68656c6c6f2c206469736b21', // hello, disk!
    ].join('');
    assert.is(record().toString('hex'), documented);
    const fields = recordStruct.decode(record());
    assert.is(fields['magic'], 0x31524c57);
    assert.is(fields['kind'], 1);
    assert.is(fields['flags'], 1);
    assert.is(fields['payload'], 12);
    assert.is(Buffer.from(fields['address'] as Uint8Array).readBigUInt64LE(), 2n ** 40n + 512n);
  }),
);

format(
  'record: every flipped bit of header and data is noticed',
  within(() => {
    const good = record();
    assert.ok(isRecordHeader(good, 0) && isRecordIntact(good, 0));
    for (let bit = 0; bit < good.length * 8; bit++) {
      const bad = Buffer.from(good);
      bad[bit >> 3]! ^= 1 << (bit & 7);
      assert.not.ok(isRecordHeader(bad, 0) && isRecordIntact(bad, 0), `bit ${bit}`);
    }
  }),
);

format(
  'record: data that stands under the header of another record is noticed',
  within(() => {
    const records = [1, 2].map((n) => {
      const data = Buffer.alloc(64, n);
      const out = Buffer.alloc(RECORD.size + data.length);
      emitRecordHeader(out, 0, RecordKind.data, 0, BigInt(n), 0n, n * 512, data.length, 0, data);
      data.copy(out, RECORD.data);
      return out;
    });
    const mixed = Buffer.concat([
      records[0]!.subarray(0, RECORD.checksum),
      records[1]!.subarray(RECORD.checksum),
    ]);
    assert.ok(isRecordHeader(mixed, 0));
    assert.not.ok(isRecordIntact(mixed, 0));
  }),
);

format(
  'segment header: what was emitted is parsed',
  within(() => {
    const header = {
      purpose: 'reverse' as const,
      generation: GENERATION,
      diskId: 'b-system',
      diskSize: 2n ** 50n,
      firstSequence: 2n ** 40n,
      number: 12,
      createdNs: 1_700_000_000_123_456_789n,
      boot: 0x0123456789abcdefn,
    };
    assert.equal(parseSegmentHeader(emitSegmentHeader(header)), header);
  }),
);

format(
  'segment header: cut short or altered anywhere it is none',
  within(() => {
    const header = {
      purpose: 'copy' as const,
      generation: GENERATION,
      diskId: 'a',
      diskSize: 4096n,
      firstSequence: 1n,
      number: 1,
      createdNs: 0n,
      boot: 0n,
    };
    const good = emitSegmentHeader(header);
    for (let length = 0; length < good.length; length++)
      assert.ok('reason' in parseSegmentHeader(good.subarray(0, length)));
    for (let at = 0; at < good.length; at++) {
      const bad = Buffer.from(good);
      bad[at]! ^= 0x10;
      assert.ok('reason' in parseSegmentHeader(bad), `byte ${at}`);
    }
  }),
);

const documentation = readFileSync(new URL('../../../docs/block.md', import.meta.url), 'utf8');

/** Offset and length of each row of the table below `title`. */
function documentedFields(title: string): [number, number][] {
  const table = documentation.slice(documentation.indexOf(title)).split('\n\n')[0]!;
  const rows = [...table.matchAll(/^\| (\d+) \| (\d+) \|/gm)];
  return rows.map((row) => [Number(row[1]), Number(row[2])]);
}

format(
  'the tables of docs/block.md are these offsets, without a gap',
  within(() => {
    for (const [title, offsets, size] of [
      ['Segment header, 128 bytes', SEGMENT, SEGMENT.size],
      ['Record, 56 bytes and the data', RECORD, RECORD.size],
    ] as const) {
      const fields = documentedFields(title);
      let at = 0;
      for (const [offset, length] of fields) {
        assert.is(offset, at, title);
        at += length;
      }
      assert.is(at, size, title);
      const known = Object.entries(offsets).filter(
        ([name]) => !['size', 'data', 'diskIdLength'].includes(name),
      );
      assert.equal(
        fields.map(([offset]) => offset),
        known.map(([, offset]) => offset),
        title,
      );
    }
  }),
);

format(
  'the example of docs/block.md is what is written, byte for byte',
  within(() => {
    const lines = [...documentation.matchAll(/^([0-9a-f]{8}): ((?:[0-9a-f]{2,4} )+) /gm)];
    const documented = Buffer.from(lines.map((line) => line[2]!.replaceAll(' ', '')).join(''), 'hex');
    const data = Buffer.from('hello, disk!');
    const createdNs = 1_600_000_000_000_000_000n;
    const header = emitSegmentHeader({
      purpose: 'copy',
      generation: GENERATION,
      diskId: 'a-application',
      diskSize: 2n ** 30n,
      firstSequence: 1n,
      number: 1,
      createdNs,
      // Of the host that the example was made on.
      boot: documented.readBigUInt64LE(SEGMENT.boot),
    });
    const out = Buffer.alloc(RECORD.size + data.length);
    const tag = GENERATION.readUInt32LE(0);
    emitRecordHeader(out, 0, RecordKind.data, RecordFlag.fua, 1n, createdNs, 4096, 12, tag, data);
    data.copy(out, RECORD.data);
    assert.is(documented.toString('hex'), Buffer.concat([header, out]).toString('hex'));
    for (const [i, line] of lines.entries()) assert.is(Number.parseInt(line[1]!, 16), i * 16);
  }),
);

format.run();
