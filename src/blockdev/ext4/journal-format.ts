/**
 * The journal's format on disk, as the kernel's documentation has it (Documentation/filesystems/ext4/journal.rst). All
 * numbers are big-endian. We read every version of tags and checksums; what we write has version 1: one CRC over all blocks
 * of a transaction, in its commit block.
 */
import { crc32c } from './crc.ts';

export const JOURNAL_MAGIC = 0xc03b_3998;
export const BLOCK_TYPE = { descriptor: 1, commit: 2, superblockV1: 3, superblock: 4, revoke: 5 } as const;
export const HEADER_SIZE = 12;

export const COMPAT = { checksum: 0x1 } as const;
export const INCOMPAT = {
  revoke: 0x1,
  bit64: 0x2,
  asyncCommit: 0x4,
  checksumV2: 0x8,
  checksumV3: 0x10,
  fastCommit: 0x20,
} as const;
const KNOWN_INCOMPAT = 0x1f;

export const TAG_FLAG = { escaped: 0x1, sameUuid: 0x2, last: 0x8 } as const;
const UUID_SIZE = 16;

const SUPER = {
  blockSize: 0xc,
  length: 0x10,
  first: 0x14,
  sequence: 0x18,
  start: 0x1c,
  error: 0x20,
  featureCompat: 0x24,
  featureIncompat: 0x28,
  uuid: 0x30,
  checksumType: 0x50,
  checksum: 0xfc,
} as const;
export const JOURNAL_SUPERBLOCK_SIZE = 1024;

const COMMIT = {
  checksumType: 0xc,
  checksumSize: 0xd,
  checksum: 0x10,
  seconds: 0x30,
  nanoseconds: 0x38,
} as const;
const CHECKSUM_CRC32 = 1;

export interface JournalHeader {
  readonly type: number;
  readonly sequence: number;
}

/** Undefined for a block that does not begin with the magic number. */
export function parseHeader(block: Buffer): JournalHeader | undefined {
  if (block.readUInt32BE(0) !== JOURNAL_MAGIC) return undefined;
  return { type: block.readUInt32BE(4), sequence: block.readUInt32BE(8) };
}

function emitHeader(block: Buffer, type: number, sequence: number): void {
  block.writeUInt32BE(JOURNAL_MAGIC, 0);
  block.writeUInt32BE(type, 4);
  block.writeUInt32BE(sequence, 8);
}

export interface JournalSuperblock {
  readonly blockSize: number;
  /** Blocks, this one included. */
  readonly length: number;
  /** First block of the log. */
  readonly first: number;
  /** Of the transaction at `start`, or, when the log is empty, one that no transaction of the log has. */
  readonly sequence: number;
  /** Where the log begins; 0: it is empty. */
  readonly start: number;
  readonly compat: number;
  readonly incompat: number;
  readonly uuid: Buffer;
}

/** Throws nothing: a sentence says what is wrong. */
export function parseJournalSuperblock(bytes: Buffer, blockSize: number): JournalSuperblock | string {
  const header = parseHeader(bytes);
  if (header === undefined) return 'it does not begin with the magic number of a journal';
  if (header.type !== BLOCK_TYPE.superblock) return `its superblock is of type ${header.type}, not 4`;
  const word = (field: keyof typeof SUPER) => bytes.readUInt32BE(SUPER[field]);
  const incompat = word('featureIncompat');
  if ((incompat & ~KNOWN_INCOMPAT) !== 0) return `it has unknown features (0x${incompat.toString(16)})`;
  if (word('blockSize') !== blockSize) return `its blocks have ${word('blockSize')} bytes`;
  const [length, first, start] = [word('length'), word('first'), word('start')];
  if (first < 1 || first + 16 > length || start >= length || (start !== 0 && start < first))
    return `its log lies at ${first} to ${length}, and begins at ${start}`;
  if ((incompat & (INCOMPAT.checksumV2 | INCOMPAT.checksumV3)) !== 0) {
    const copy = Buffer.from(bytes.subarray(0, JOURNAL_SUPERBLOCK_SIZE));
    copy.writeUInt32BE(0, SUPER.checksum);
    if (crc32c(copy) !== word('checksum')) return 'the checksum of its superblock is wrong';
  }
  return {
    blockSize,
    length,
    first,
    sequence: word('sequence'),
    start,
    compat: word('featureCompat'),
    incompat,
    uuid: Buffer.from(bytes.subarray(SUPER.uuid, SUPER.uuid + UUID_SIZE)),
  };
}

/** Puts new values into the sector of `bytes` that holds all of them, with the features of the journals that we write. */
export function updateJournalSuperblock(bytes: Buffer, sequence: number, start: number): void {
  bytes.writeUInt32BE(sequence, SUPER.sequence);
  bytes.writeUInt32BE(start, SUPER.start);
  bytes.writeUInt32BE(COMPAT.checksum, SUPER.featureCompat);
  bytes.writeUInt32BE(INCOMPAT.asyncCommit, SUPER.featureIncompat);
  bytes.writeUInt8(0, SUPER.checksumType);
  bytes.writeUInt32BE(0, SUPER.checksum);
}

export interface Tag {
  /** Block of the file system. */
  readonly block: number;
  readonly flags: number;
  /** Of version 2 (16 bits) and 3. */
  readonly checksum: number;
}

function tagSize(incompat: number): number {
  if ((incompat & INCOMPAT.checksumV3) !== 0) return 16;
  const wide = (incompat & INCOMPAT.bit64) !== 0 ? 4 : 0;
  return 8 + wide + ((incompat & INCOMPAT.checksumV2) !== 0 ? 2 : 0);
}

/** Tags of a descriptor block, whose own checksum is not looked at. */
export function parseTags(block: Buffer, incompat: number): Tag[] {
  const size = tagSize(incompat);
  const v3 = (incompat & INCOMPAT.checksumV3) !== 0;
  const end = block.length - (hasTail(incompat) ? 4 : 0);
  const tags: Tag[] = [];
  for (let at = HEADER_SIZE; at + size <= end; ) {
    const flags = v3 ? block.readUInt32BE(at + 4) : block.readUInt16BE(at + 6);
    const high = (incompat & INCOMPAT.bit64) !== 0 ? block.readUInt32BE(at + 8) : 0;
    tags.push({
      block: block.readUInt32BE(at) + high * 0x1_0000_0000,
      flags,
      checksum: v3 ? block.readUInt32BE(at + 12) : block.readUInt16BE(at + 4),
    });
    at += size + ((flags & TAG_FLAG.sameUuid) !== 0 ? 0 : UUID_SIZE);
    if ((flags & TAG_FLAG.last) !== 0) break;
  }
  return tags;
}

/** Whether descriptor and revoke blocks end with a checksum of their own (versions 2 and 3). */
export function hasTail(incompat: number): boolean {
  return (incompat & (INCOMPAT.checksumV2 | INCOMPAT.checksumV3)) !== 0;
}

/** How many tags of ours a descriptor block holds. */
export function tagsPerBlock(blockSize: number): number {
  return Math.floor((blockSize - HEADER_SIZE - UUID_SIZE) / 8);
}

/** `entries` at most `tagsPerBlock`. */
export function emitDescriptor(
  blockSize: number,
  sequence: number,
  uuid: Uint8Array,
  entries: readonly { readonly block: number; readonly escaped: boolean }[],
): Buffer {
  const out = Buffer.alloc(blockSize);
  emitHeader(out, BLOCK_TYPE.descriptor, sequence);
  let at = HEADER_SIZE;
  entries.forEach(({ block, escaped }, i) => {
    const flags =
      (escaped ? TAG_FLAG.escaped : 0) |
      (i > 0 ? TAG_FLAG.sameUuid : 0) |
      (i === entries.length - 1 ? TAG_FLAG.last : 0);
    out.writeUInt32BE(block, at);
    out.writeUInt16BE(flags, at + 6);
    at += 8;
    if (i > 0) return;
    out.set(uuid, at);
    at += UUID_SIZE;
  });
  return out;
}

/** Blocks that a revoke block names. */
export function parseRevokes(block: Buffer, incompat: number): number[] {
  const end = Math.min(block.readUInt32BE(HEADER_SIZE), block.length);
  const wide = (incompat & INCOMPAT.bit64) !== 0;
  const blocks: number[] = [];
  for (let at = HEADER_SIZE + 4; at + (wide ? 8 : 4) <= end; at += wide ? 8 : 4) {
    blocks.push(wide ? Number(block.readBigUInt64BE(at)) : block.readUInt32BE(at));
  }
  return blocks;
}

/** `checksum`: crc32Be over the transaction's descriptor and data blocks as they lie in the journal. */
export function emitCommit(blockSize: number, sequence: number, checksum: number, unixMs: number): Buffer {
  const out = Buffer.alloc(blockSize);
  emitHeader(out, BLOCK_TYPE.commit, sequence);
  out.writeUInt8(CHECKSUM_CRC32, COMMIT.checksumType);
  out.writeUInt8(4, COMMIT.checksumSize);
  out.writeUInt32BE(checksum, COMMIT.checksum);
  out.writeBigUInt64BE(BigInt(Math.floor(unixMs / 1000)), COMMIT.seconds);
  out.writeUInt32BE(Math.floor(unixMs % 1000) * 1_000_000, COMMIT.nanoseconds);
  return out;
}

/** Whether a commit block ends a transaction whose blocks have this CRC (version 1), or is whole itself (2 and 3). */
export function commitHolds(block: Buffer, journal: JournalSuperblock, checksum: number): boolean {
  const stored = block.readUInt32BE(COMMIT.checksum);
  if (hasTail(journal.incompat)) {
    const copy = Buffer.from(block);
    copy.writeUInt32BE(0, COMMIT.checksum);
    return crc32c(copy, crc32c(journal.uuid)) === stored;
  }
  if ((journal.compat & COMPAT.checksum) === 0) return true;
  const type = block.readUInt8(COMMIT.checksumType);
  const size = block.readUInt8(COMMIT.checksumSize);
  if (type === 0 && size === 0 && stored === 0) return true;
  return type === CHECKSUM_CRC32 && size === 4 && stored === checksum;
}

/** Whether a descriptor or revoke block of a journal with checksums of version 2 or 3 is whole. */
export function tailHolds(block: Buffer, journal: JournalSuperblock): boolean {
  if (!hasTail(journal.incompat)) return true;
  const copy = Buffer.from(block);
  copy.writeUInt32BE(0, block.length - 4);
  return crc32c(copy, crc32c(journal.uuid)) === block.readUInt32BE(block.length - 4);
}

/** Whether a data block is what its tag says (versions 2 and 3). */
export function tagHolds(tag: Tag, data: Buffer, sequence: number, journal: JournalSuperblock): boolean {
  if (!hasTail(journal.incompat)) return true;
  const number = Buffer.alloc(4);
  number.writeUInt32BE(sequence);
  const sum = crc32c(data, crc32c(number, crc32c(journal.uuid)));
  const mask = (journal.incompat & INCOMPAT.checksumV3) !== 0 ? 0xffff_ffff : 0xffff;
  return (sum & mask) >>> 0 === tag.checksum;
}
