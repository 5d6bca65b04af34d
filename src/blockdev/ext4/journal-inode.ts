/** Where the journal lies: the extents of its inode. Neither it nor the table that holds it ever moves. */
import type { Device } from '../device.ts';
import { Ext4MountError } from './errors.ts';
import type { Superblock } from './superblock.ts';

const INODE = { sizeLo: 0x4, flags: 0x20, blockMap: 0x28, blockMapSize: 60, sizeHigh: 0x6c } as const;
const EXTENTS_FLAG = 0x80000;
export const EXTENT_MAGIC = 0xf30a;
const MAX_DEPTH = 5;
/** Offsets in a group descriptor. */
const INODE_TABLE = { lo: 0x8, hi: 0x28 } as const;

function damaged(why: string): Ext4MountError {
  return new Ext4MountError('journal-damaged', `the journal's inode cannot be read: ${why}`, {
    remedy: 'run `e2fsck -f FILE`',
  });
}

/** Block of the file system per block of the journal. Throws Ext4MountError `journal-damaged`. */
export async function journalBlocks(device: Device, superblock: Superblock): Promise<Uint32Array> {
  const { blockSize } = superblock;
  const read = async (offset: number, length: number): Promise<Buffer> => {
    if (offset + length > Number(device.size)) throw damaged('it lies outside of the disk');
    const bytes = Buffer.alloc(length);
    await device.readAt(bytes, BigInt(offset));
    return bytes;
  };
  const index = superblock.journalInode - 1;
  const group = Math.floor(index / superblock.inodesPerGroup);
  const descriptors = (superblock.firstDataBlock + 1) * blockSize;
  const descriptor = await read(descriptors + group * superblock.descriptorSize, superblock.descriptorSize);
  const high = superblock.descriptorSize > INODE_TABLE.hi ? descriptor.readUInt32LE(INODE_TABLE.hi) : 0;
  const table = descriptor.readUInt32LE(INODE_TABLE.lo) + high * 0x1_0000_0000;
  const within = (index % superblock.inodesPerGroup) * superblock.inodeSize;
  const inode = await read(table * blockSize + within, superblock.inodeSize);
  if ((inode.readUInt32LE(INODE.flags) & EXTENTS_FLAG) === 0) {
    throw new Ext4MountError('unsupported-feature', 'the journal of this file system has no extents', {
      remedy: 'make it anew: `tune2fs -O ^has_journal FILE`, then `tune2fs -j FILE`',
    });
  }
  const size = inode.readUInt32LE(INODE.sizeLo) + inode.readUInt32LE(INODE.sizeHigh) * 0x1_0000_0000;
  const count = Math.floor(size / blockSize);
  if (count > superblock.blocks) throw damaged(`it has ${count} blocks`);
  const blocks = new Uint32Array(count);
  const visit = async (node: Buffer, depthLeft: number): Promise<void> => {
    if (node.readUInt16LE(0) !== EXTENT_MAGIC) throw damaged('its extents have no magic number');
    const entries = node.readUInt16LE(2);
    const depth = node.readUInt16LE(6);
    if (12 + entries * 12 > node.length || depth > depthLeft) throw damaged('its extents make no sense');
    for (let at = 12; at < 12 + entries * 12; at += 12) {
      if (depth > 0) {
        const child = node.readUInt32LE(at + 4) + node.readUInt16LE(at + 8) * 0x1_0000_0000;
        await visit(await read(child * blockSize, blockSize), depth - 1);
        continue;
      }
      const [from, length] = [node.readUInt32LE(at), node.readUInt16LE(at + 4)];
      const start = node.readUInt32LE(at + 8) + node.readUInt16LE(at + 6) * 0x1_0000_0000;
      if (start + length > superblock.blocks) throw damaged('an extent lies outside of the file system');
      for (let i = 0; i < length && from + i < count; i++) blocks[from + i] = start + i;
    }
  };
  await visit(inode.subarray(INODE.blockMap, INODE.blockMap + INODE.blockMapSize), MAX_DEPTH);
  if (blocks.includes(0)) throw damaged('it has holes');
  return blocks;
}
