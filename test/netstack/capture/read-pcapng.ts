/** An independent reader of little-endian pcapng, strict about everything the writer promises. */
export interface Block {
  readonly type: number;
  readonly body: Buffer;
}

export interface Option {
  readonly code: number;
  readonly value: Buffer;
}

export interface ReadPacket {
  readonly interfaceId: number;
  readonly timestampNs: bigint;
  readonly data: Buffer;
  readonly originalLength: number;
  readonly direction: number | undefined;
  readonly comment: string | undefined;
}

export interface ReadInterface {
  readonly linkType: number;
  readonly snapLength: number;
  readonly name: string | undefined;
  readonly description: string | undefined;
  readonly hardware: string | undefined;
  readonly resolution: number | undefined;
}

export interface ReadStatistics {
  readonly interfaceId: number;
  readonly received: bigint;
  readonly dropped: bigint;
  readonly startNs: bigint;
  readonly endNs: bigint;
}

export function blocksOf(file: Buffer): Block[] {
  const blocks: Block[] = [];
  for (let at = 0; at < file.length; ) {
    if (at + 12 > file.length) throw new Error(`block cut at ${at}`);
    const total = file.readUInt32LE(at + 4);
    if (total < 12 || total % 4 !== 0) throw new Error(`block length ${total} at ${at}`);
    if (at + total > file.length) throw new Error(`block cut at ${at}`);
    if (file.readUInt32LE(at + total - 4) !== total) throw new Error(`lengths differ at ${at}`);
    blocks.push({ type: file.readUInt32LE(at), body: file.subarray(at + 8, at + total - 4) });
    at += total;
  }
  return blocks;
}

export function optionsOf(bytes: Buffer): Option[] {
  const options: Option[] = [];
  let at = 0;
  for (;;) {
    const code = bytes.readUInt16LE(at);
    const length = bytes.readUInt16LE(at + 2);
    const padded = (length + 3) & ~3;
    if (code === 0) {
      if (length !== 0 || at + 4 !== bytes.length) throw new Error('options do not end with the block');
      return options;
    }
    options.push({ code, value: bytes.subarray(at + 4, at + 4 + length) });
    if (bytes.subarray(at + 4 + length, at + 4 + padded).some((byte) => byte !== 0))
      throw new Error('padding');
    at += 4 + padded;
  }
}

const textOf = (options: Option[], code: number) =>
  options.find((o) => o.code === code)?.value.toString('utf8');
const timestampOf = (bytes: Buffer) => (BigInt(bytes.readUInt32LE(0)) << 32n) | BigInt(bytes.readUInt32LE(4));

export function readPcapng(file: Buffer) {
  const interfaces: ReadInterface[] = [];
  const packets: ReadPacket[] = [];
  const statistics: ReadStatistics[] = [];
  let comment: string | undefined;
  blocksOf(file).forEach(({ type, body }, i) => {
    if ((i === 0) !== (type === 0x0a0d0d0a)) throw new Error('one section header, first');
    switch (type) {
      case 0x0a0d0d0a:
        if (body.readUInt32LE(0) !== 0x1a2b3c4d || body.readUInt32LE(4) !== 1)
          throw new Error('section header');
        if (body.readBigInt64LE(8) !== -1n) throw new Error('section length');
        comment = textOf(optionsOf(body.subarray(16)), 1);
        break;
      case 1: {
        const options = optionsOf(body.subarray(8));
        interfaces.push({
          linkType: body.readUInt16LE(0),
          snapLength: body.readUInt32LE(4),
          name: textOf(options, 2),
          description: textOf(options, 3),
          hardware: textOf(options, 15),
          resolution: options.find((o) => o.code === 9)?.value.readUInt8(0),
        });
        break;
      }
      case 6: {
        const captured = body.readUInt32LE(12);
        const options = optionsOf(body.subarray(20 + ((captured + 3) & ~3)));
        packets.push({
          interfaceId: body.readUInt32LE(0),
          timestampNs: timestampOf(body.subarray(4)),
          data: body.subarray(20, 20 + captured),
          originalLength: body.readUInt32LE(16),
          direction: options.find((o) => o.code === 2)?.value.readUInt32LE(0),
          comment: textOf(options, 1),
        });
        if (body.readUInt32LE(0) >= interfaces.length) throw new Error('packet before its interface');
        break;
      }
      case 5: {
        const options = optionsOf(body.subarray(12));
        const value = (code: number) => options.find((o) => o.code === code)!.value;
        statistics.push({
          interfaceId: body.readUInt32LE(0),
          received: value(4).readBigUInt64LE(),
          dropped: value(5).readBigUInt64LE(),
          startNs: timestampOf(value(2)),
          endNs: timestampOf(value(3)),
        });
        break;
      }
      default:
        throw new Error(`block type ${type}`);
    }
  });
  return { comment, interfaces, packets, statistics };
}
