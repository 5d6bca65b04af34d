/**
 * The journal of a mounted file system (jbd2), as we use it.
 *
 * At any time it holds at most one transaction that counts, the last one. `write` puts descriptor, blocks and commit block
 * behind the one before, names them in the journal's superblock, and flushes once: the commit block carries a CRC of all
 * the blocks (features `checksum`, `async_commit`), so a torn transaction is no transaction. Its owner then writes the same
 * blocks to their places, flushes, and only then comes back: so the transaction before is never needed any more when the
 * next one begins, and no block is written in place that an older transaction could put back (no revokes are needed).
 *
 * Writes that pass the journal by (`release`): the superblock that says "empty" is written together with them, before one
 * flush. If it alone is lost, the last transaction is put back over writes that nobody was told of.
 *
 * Sequence numbers are never used twice, not even after a torn transaction: `begin` leaves one out, durably, before the
 * first transaction of a mount.
 */
import type { Device } from '../device.ts';
import { crc32Be } from './crc.ts';
import { Ext4MountError, FileError } from './errors.ts';
import type { JournalSuperblock } from './journal-format.ts';
import {
  emitCommit,
  emitDescriptor,
  INCOMPAT,
  JOURNAL_MAGIC,
  parseJournalSuperblock,
  tagsPerBlock,
  updateJournalSuperblock,
} from './journal-format.ts';
import { journalBlocks } from './journal-inode.ts';
import { scanJournal } from './journal-scan.ts';
import type { Superblock } from './superblock.ts';

const SECTOR = 512;

/** A block of the file system and what is to stand in it. */
export interface BlockImage {
  readonly block: number;
  readonly data: Buffer;
}

export class Journal {
  readonly #device: Device;
  readonly #blockSize: number;
  readonly #fileSystemBlocks: number;
  /** Block of the file system per block of the journal. */
  readonly #blocks: Uint32Array;
  readonly #format: JournalSuperblock;
  /** The first sector of the journal's superblock. */
  readonly #sector: Buffer;
  #sequence: number;
  #head: number;
  /** Length of the transaction before `#head`, 0 when the journal is (to be) empty. */
  #held = 0;

  private constructor(
    device: Device,
    superblock: Superblock,
    blocks: Uint32Array,
    format: JournalSuperblock,
    sector: Buffer,
  ) {
    this.#device = device;
    this.#fileSystemBlocks = superblock.blocks;
    this.#blockSize = format.blockSize;
    this.#blocks = blocks;
    this.#format = format;
    this.#sector = sector;
    this.#sequence = format.sequence;
    this.#head = format.first;
  }

  /** Reads only. Throws Ext4MountError: `journal-damaged`, `unsupported-feature`. */
  static async open(device: Device, superblock: Superblock): Promise<Journal> {
    const blocks = await journalBlocks(device, superblock);
    const bytes = Buffer.alloc(superblock.blockSize);
    if (blocks.length > 0) await device.readAt(bytes, BigInt(blocks[0]! * superblock.blockSize));
    const format = parseJournalSuperblock(bytes, superblock.blockSize);
    const fault =
      typeof format === 'string'
        ? format
        : format.length > blocks.length
          ? `it has ${blocks.length} of ${format.length} blocks`
          : undefined;
    if (typeof format === 'string' || fault !== undefined) {
      throw new Ext4MountError(
        'journal-damaged',
        `the journal of this file system cannot be used: ${fault}`,
        {
          remedy: 'run `e2fsck -f FILE`',
        },
      );
    }
    if ((format.incompat & INCOMPAT.fastCommit) !== 0) {
      throw new Ext4MountError(
        'unsupported-feature',
        'the journal uses fast commits, which is not supported',
        {
          remedy: 'run `e2fsck -p FILE`, then `tune2fs -O ^fast_commit FILE`',
        },
      );
    }
    return new Journal(device, superblock, blocks, format, Buffer.from(bytes.subarray(0, SECTOR)));
  }

  /** Blocks of one transaction at most, descriptors and commit block included. */
  get capacity(): number {
    return this.#format.length - this.#format.first;
  }

  /** Whether there are transactions to put back. */
  get hasLog(): boolean {
    return this.#format.start !== 0;
  }

  /** Gives every block that the complete transactions hold, newest contents, to `put`. Throws Ext4MountError `journal-damaged`. */
  async replay(put: (image: BlockImage) => Promise<void>): Promise<number> {
    if (!this.hasLog) return 0;
    const read = async (index: number): Promise<Buffer> => {
      const block = Buffer.alloc(this.#blockSize);
      await this.#device.readAt(block, BigInt(this.#blocks[index]! * this.#blockSize));
      return block;
    };
    const found = await scanJournal(this.#format, read);
    for (const [block, { index, escaped }] of found.blocks) {
      if (block >= this.#fileSystemBlocks) {
        throw new Ext4MountError(
          'journal-damaged',
          `the journal has contents for block ${block}, beyond the end`,
          {
            remedy: 'run `e2fsck -f FILE`',
          },
        );
      }
      const data = await read(index);
      if (escaped) data.writeUInt32BE(JOURNAL_MAGIC, 0);
      await put({ block, data });
    }
    this.#sequence = found.nextSequence;
    return found.blocks.size;
  }

  /** Before the first transaction of a mount, after any replay: the journal is empty and ours. The caller flushes. */
  async begin(): Promise<void> {
    this.#sequence = (this.#sequence + 2) >>> 0;
    this.#head = this.#format.first;
    this.#held = 0;
    await this.#writeSuperblock(0);
  }

  /** Returns when the transaction is durable. Throws FileError EFBIG for one that is larger than the journal. */
  async write(images: readonly BlockImage[]): Promise<void> {
    const perBlock = tagsPerBlock(this.#blockSize);
    const length = images.length + Math.ceil(images.length / perBlock) + 1;
    if (length > this.capacity) {
      throw new FileError('EFBIG', 'fsync', undefined, {
        detail: `a commit of ${length} blocks, the journal holds ${this.capacity}`,
      });
    }
    if (this.#held + length > this.capacity) {
      await this.release();
      await this.#device.flush();
    }
    const records: Buffer[] = [];
    let checksum = 0xffff_ffff;
    const record = (block: Buffer) => {
      checksum = crc32Be(block, checksum);
      records.push(block);
    };
    for (let at = 0; at < images.length; at += perBlock) {
      const part = images.slice(at, at + perBlock).map(({ block, data }) => {
        const escaped = data.readUInt32BE(0) === JOURNAL_MAGIC;
        const stored = escaped ? Buffer.from(data) : data;
        if (escaped) stored.writeUInt32BE(0, 0);
        return { block, escaped, stored };
      });
      record(emitDescriptor(this.#blockSize, this.#sequence, this.#format.uuid, part));
      for (const { stored } of part) record(stored);
    }
    records.push(emitCommit(this.#blockSize, this.#sequence, checksum, Date.now()));
    await Promise.all([this.#writeSuperblock(this.#head), this.#writeRecords(records)]);
    await this.#device.flush();
    this.#sequence = (this.#sequence + 1) >>> 0;
    this.#head = this.#wrapped(this.#head + length);
    this.#held = length;
  }

  /** The last transaction stands in its places, durably: writes that the journal is to be empty. The caller flushes. */
  async release(): Promise<void> {
    if (this.#held === 0) return;
    this.#held = 0;
    await this.#writeSuperblock(0);
  }

  async #writeSuperblock(start: number): Promise<void> {
    updateJournalSuperblock(this.#sector, this.#sequence, start);
    await this.#device.writeAt(this.#sector, BigInt(this.#blocks[0]! * this.#blockSize));
  }

  /** From `#head` on; blocks that are neighbours on the disk, too, as one write. */
  async #writeRecords(records: readonly Buffer[]): Promise<void> {
    const runs: { block: number; parts: Buffer[] }[] = [];
    let index = this.#head;
    for (const part of records) {
      const block = this.#blocks[index]!;
      const last = runs.at(-1);
      if (last !== undefined && last.block + last.parts.length === block && last.parts.length < 256) {
        last.parts.push(part);
      } else runs.push({ block, parts: [part] });
      index = this.#wrapped(index + 1);
    }
    await Promise.all(
      runs.map(({ block, parts }) =>
        this.#device.writeAt(Buffer.concat(parts), BigInt(block * this.#blockSize)),
      ),
    );
  }

  #wrapped(index: number): number {
    return index < this.#format.length ? index : index - this.capacity;
  }
}
