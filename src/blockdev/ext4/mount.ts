import type { Device } from '../device.ts';
import { Ext4MountError } from './errors.ts';
import { Journal } from './journal.ts';
import { PageCache } from './page-cache.ts';
import type { Superblock } from './superblock.ts';
import {
  groupTableSize,
  parseSuperblock,
  recount,
  SUPERBLOCK_OFFSET,
  SUPERBLOCK_SIZE,
  setNeedsRecovery,
  superblockChecksum,
} from './superblock.ts';

/** A file system whose journal was put back: on the device, or, when that is not to be written, in the cache only. */
export interface Recovered {
  readonly cache: PageCache;
  readonly superblock: Superblock;
  readonly journal: Journal | undefined;
}

/**
 * Looks at the superblock, and puts the journal's transactions back. Throws Ext4MountError: those of `parseSuperblock`,
 * `no-journal` (for changes only), `journal-damaged`.
 */
export async function recover(device: Device, readOnly: boolean, cacheBytes: number): Promise<Recovered> {
  if (device.size < BigInt(SUPERBLOCK_OFFSET + SUPERBLOCK_SIZE)) {
    throw new Ext4MountError('not-ext4', `a disk of ${device.size} bytes cannot hold an ext4 file system`, {
      remedy: 'make one with `mke2fs -t ext4 FILE`, or name the right image',
    });
  }
  const bytes = Buffer.alloc(SUPERBLOCK_SIZE);
  await device.readAt(bytes, BigInt(SUPERBLOCK_OFFSET));
  const found = parseSuperblock(bytes, device.size);
  const cache = new PageCache(device, found.blockSize, cacheBytes);
  if (found.journalInode === 0) {
    if (!readOnly) {
      throw new Ext4MountError('no-journal', 'this ext4 file system has no journal: it can only be read', {
        remedy: 'give it one: `tune2fs -j FILE`',
      });
    }
    return { cache, superblock: found, journal: undefined };
  }
  const journal = await Journal.open(device, found);
  const put = async (data: Buffer, offset: number): Promise<void> => {
    if (readOnly) await cache.write(data, 0, data.length, offset);
    else await device.writeAt(data, BigInt(offset));
  };
  if (journal.hasLog) {
    await journal.replay(({ block, data }) => put(data, block * found.blockSize));
    if (!readOnly) {
      await device.flush();
      await journal.begin();
      await device.flush();
    }
  }
  await cache.read(bytes, 0, SUPERBLOCK_SIZE, SUPERBLOCK_OFFSET);
  const checksum = superblockChecksum(bytes);
  if (checksum === 'wrong') {
    throw new Ext4MountError('has-errors', 'the checksum of the superblock is wrong', {
      remedy: 'run `e2fsck -f FILE`',
    });
  }
  let mended = false;
  if (checksum === 'torn') {
    setNeedsRecovery(bytes, true);
    mended = true;
  }
  const superblock = parseSuperblock(bytes, device.size);
  if (superblock.needsRecovery) {
    const groups = Buffer.alloc(groupTableSize(bytes, superblock));
    await cache.read(groups, 0, groups.length, (superblock.firstDataBlock + 1) * superblock.blockSize);
    if (groups.length > 0 && recount(bytes, superblock, groups)) mended = true;
  }
  if (mended) {
    await put(bytes, SUPERBLOCK_OFFSET);
    if (!readOnly) {
      await device.flush();
      return recover(device, readOnly, cacheBytes);
    }
  }
  return { cache, superblock: parseSuperblock(bytes, device.size), journal };
}
