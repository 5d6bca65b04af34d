/** The fields of an ext4 superblock that decide whether and how we mount. Offsets as in the kernel's ext4 documentation. */
import { crc32c } from './crc.ts';
import { Ext4MountError } from './errors.ts';

export const SUPERBLOCK_OFFSET = 1024;
export const SUPERBLOCK_SIZE = 1024;

const OFFSET = {
  inodesCount: 0x0,
  blocksCountLo: 0x4,
  freeBlocksLo: 0xc,
  freeInodes: 0x10,
  firstDataBlock: 0x14,
  logBlockSize: 0x18,
  blocksPerGroup: 0x20,
  inodesPerGroup: 0x28,
  magic: 0x38,
  state: 0x3a,
  revision: 0x4c,
  inodeSize: 0x58,
  featureCompat: 0x5c,
  featureIncompat: 0x60,
  featureRoCompat: 0x64,
  uuid: 0x68,
  volumeName: 0x78,
  journalInode: 0xe0,
  descriptorSize: 0xfe,
  blocksCountHi: 0x150,
  freeBlocksHi: 0x158,
  checksum: 0x3fc,
} as const;

const MAGIC = 0xef53;
const STATE_ERRORS = 0x2;

const HAS_JOURNAL = 0x4;
const BIG_ALLOCATION = 0x200;
const METADATA_CHECKSUMS = 0x400;

const INCOMPAT = {
  recover: 0x4,
  journalDevice: 0x8,
  metaGroups: 0x10,
  inlineData: 0x8000,
  encrypt: 0x10000,
  casefold: 0x20000,
  bit64: 0x80,
} as const;

/** The library's I/O callback carries block numbers as 32-bit signed and block sizes as 16-bit signed integers. */
const MAX_BLOCKS = 0x7fff_ffff;
const MAX_BLOCK_SIZE = 16_384;

export interface Superblock {
  readonly blockSize: number;
  readonly blocks: number;
  readonly freeBlocks: number;
  readonly inodes: number;
  readonly freeInodes: number;
  readonly uuid: string;
  readonly label: string;
  /** Block of the superblock when blocks have 1 KiB, else 0. */
  readonly firstDataBlock: number;
  readonly inodesPerGroup: number;
  readonly inodeSize: number;
  /** Bytes of a group descriptor. */
  readonly descriptorSize: number;
  /** 0: no journal. */
  readonly journalInode: number;
  /** Set while mounted for changes: the journal is to be looked at first. */
  readonly needsRecovery: boolean;
}

/**
 * Checks that `bytes` (SUPERBLOCK_SIZE bytes at SUPERBLOCK_OFFSET of the disk) are those of a file system that we can
 * mount. Throws Ext4MountError: `not-ext4`, `has-errors`, `unsupported-feature`, `truncated`.
 */
export function parseSuperblock(bytes: Buffer, deviceSize: bigint): Superblock {
  const magic = bytes.readUInt16LE(OFFSET.magic);
  if (magic !== MAGIC) {
    throw new Ext4MountError(
      'not-ext4',
      `this disk holds no ext4 file system: bytes 0x438, 0x439 are ${hex(magic)} instead of 0xef53`,
      {
        remedy: 'make one with `mke2fs -t ext4 FILE`, or name the right image',
        values: { magic },
      },
    );
  }
  const incompat = bytes.readUInt32LE(OFFSET.featureIncompat);
  const unsupported = (['journalDevice', 'inlineData', 'encrypt', 'casefold'] as const).filter(
    (name) => (incompat & INCOMPAT[name]) !== 0,
  );
  if (unsupported.length > 0) {
    throw new Ext4MountError(
      'unsupported-feature',
      `this ext4 file system uses ${unsupported.join(', ')}, which is not supported`,
      {
        remedy: 'make the image with the default features of `mke2fs -t ext4`',
        values: { features: unsupported },
      },
    );
  }
  if ((bytes.readUInt16LE(OFFSET.state) & STATE_ERRORS) !== 0) {
    throw new Ext4MountError('has-errors', 'this ext4 file system is marked as having errors', {
      remedy: 'run `e2fsck -f FILE`',
    });
  }
  const blockSize = 1024 * 2 ** bytes.readUInt32LE(OFFSET.logBlockSize);
  const wide = (incompat & INCOMPAT.bit64) !== 0;
  const join = (lo: number, hi: number) =>
    bytes.readUInt32LE(lo) + (wide ? bytes.readUInt32LE(hi) * 0x1_0000_0000 : 0);
  const blocks = join(OFFSET.blocksCountLo, OFFSET.blocksCountHi);
  if (blockSize > MAX_BLOCK_SIZE || blocks > MAX_BLOCKS) {
    throw new Ext4MountError(
      'unsupported-feature',
      `${blocks} blocks of ${blockSize} bytes: at most ${MAX_BLOCKS} blocks of up to ${MAX_BLOCK_SIZE} bytes are supported`,
      { values: { blocks, blockSize }, remedy: 'make the file system with 4096-byte blocks' },
    );
  }
  if (BigInt(blocks) * BigInt(blockSize) > deviceSize) {
    throw new Ext4MountError(
      'truncated',
      `the file system has ${blocks} blocks of ${blockSize} bytes, its disk only ${deviceSize} bytes`,
      { values: { blocks, blockSize, deviceSize }, remedy: 'the image was cut off: copy it again' },
    );
  }
  const inodesPerGroup = bytes.readUInt32LE(OFFSET.inodesPerGroup);
  // Revision 0 has inodes of 128 bytes and no field for it.
  const inodeSize = bytes.readUInt32LE(OFFSET.revision) === 0 ? 128 : bytes.readUInt16LE(OFFSET.inodeSize);
  const descriptorSize = wide ? bytes.readUInt16LE(OFFSET.descriptorSize) : 32;
  const sizes =
    inodeSize >= 128 && inodeSize <= blockSize && descriptorSize >= 32 && descriptorSize <= blockSize;
  if (inodesPerGroup === 0 || !sizes) {
    throw new Ext4MountError('has-errors', 'the superblock of this ext4 file system makes no sense', {
      values: { inodesPerGroup, inodeSize, descriptorSize },
      remedy: 'run `e2fsck -f FILE`',
    });
  }
  const hasJournal = (bytes.readUInt32LE(OFFSET.featureCompat) & HAS_JOURNAL) !== 0;
  return {
    blockSize,
    blocks,
    freeBlocks: join(OFFSET.freeBlocksLo, OFFSET.freeBlocksHi),
    inodes: bytes.readUInt32LE(OFFSET.inodesCount),
    freeInodes: bytes.readUInt32LE(OFFSET.freeInodes),
    uuid: bytes.toString('hex', OFFSET.uuid, OFFSET.uuid + 16),
    label: bytes.toString('utf8', OFFSET.volumeName, OFFSET.volumeName + 16).replace(/\0.*$/s, ''),
    firstDataBlock: bytes.readUInt32LE(OFFSET.firstDataBlock),
    inodesPerGroup,
    inodeSize,
    descriptorSize,
    journalInode: hasJournal ? bytes.readUInt32LE(OFFSET.journalInode) : 0,
    needsRecovery: (incompat & INCOMPAT.recover) !== 0,
  };
}

/** Sets or clears the flag `needs_recovery` in the bytes of a superblock, and renews its checksum. */
export function setNeedsRecovery(bytes: Buffer, needed: boolean): void {
  const incompat = bytes.readUInt32LE(OFFSET.featureIncompat);
  const next = needed ? incompat | INCOMPAT.recover : incompat & ~INCOMPAT.recover;
  bytes.writeUInt32LE(next >>> 0, OFFSET.featureIncompat);
  if (hasChecksum(bytes)) bytes.writeUInt32LE(checksumOf(bytes), OFFSET.checksum);
}

/** Offsets in a group descriptor; the upper halves exist in descriptors of 64 bytes. */
const GROUP = { freeBlocks: 0xc, freeInodes: 0xe, freeBlocksHi: 0x2c, freeInodesHi: 0x2e } as const;

/** How many bytes of group descriptors lie behind the superblock's block; 0 where they lie, or count, in another way. */
export function groupTableSize(bytes: Buffer, superblock: Superblock): number {
  const other =
    (bytes.readUInt32LE(OFFSET.featureIncompat) & INCOMPAT.metaGroups) !== 0 ||
    (bytes.readUInt32LE(OFFSET.featureRoCompat) & BIG_ALLOCATION) !== 0;
  const perGroup = bytes.readUInt32LE(OFFSET.blocksPerGroup);
  // A group has at most as many blocks as one block has bits, and never fewer than 256.
  if (other || perGroup < 256) return 0;
  const groups = Math.ceil((superblock.blocks - superblock.firstDataBlock) / perGroup);
  return groups * superblock.descriptorSize;
}

/**
 * Puts the groups' sums of free blocks and inodes into the bytes of a superblock; whether they were other ones. The kernel
 * keeps the superblock's own numbers up to date at its unmount only.
 */
export function recount(bytes: Buffer, superblock: Superblock, groups: Buffer): boolean {
  let blocks = 0;
  let inodes = 0;
  const wide = superblock.descriptorSize >= 64;
  for (let at = 0; at < groups.length; at += superblock.descriptorSize) {
    const sum = (lo: number, hi: number) =>
      groups.readUInt16LE(at + lo) + (wide ? groups.readUInt16LE(at + hi) * 0x1_0000 : 0);
    blocks += sum(GROUP.freeBlocks, GROUP.freeBlocksHi);
    inodes += sum(GROUP.freeInodes, GROUP.freeInodesHi);
  }
  if (blocks === superblock.freeBlocks && inodes === superblock.freeInodes) return false;
  bytes.writeUInt32LE(blocks % 0x1_0000_0000, OFFSET.freeBlocksLo);
  if (wide) bytes.writeUInt32LE(Math.floor(blocks / 0x1_0000_0000), OFFSET.freeBlocksHi);
  bytes.writeUInt32LE(inodes, OFFSET.freeInodes);
  if (hasChecksum(bytes)) bytes.writeUInt32LE(checksumOf(bytes), OFFSET.checksum);
  return true;
}

/**
 * Whether the checksum is right: `whole`, or `torn`: right but for the flag `needs_recovery`, which lies in the first
 * sector, the checksum in the second; so one of them was written and the other was not.
 */
export function superblockChecksum(bytes: Buffer): 'whole' | 'torn' | 'wrong' {
  const stored = bytes.readUInt32LE(OFFSET.checksum);
  if (!hasChecksum(bytes) || checksumOf(bytes) === stored) return 'whole';
  const other = Buffer.from(bytes);
  other.writeUInt32LE(
    (bytes.readUInt32LE(OFFSET.featureIncompat) ^ INCOMPAT.recover) >>> 0,
    OFFSET.featureIncompat,
  );
  return checksumOf(other) === stored ? 'torn' : 'wrong';
}

function hasChecksum(bytes: Buffer): boolean {
  return (bytes.readUInt32LE(OFFSET.featureRoCompat) & METADATA_CHECKSUMS) !== 0;
}

function checksumOf(bytes: Buffer): number {
  return crc32c(bytes.subarray(0, OFFSET.checksum));
}

function hex(value: number): string {
  return `0x${value.toString(16).padStart(4, '0')}`;
}
