import { crc32Be } from './crc.ts';
import { Ext4MountError } from './errors.ts';
import type { JournalSuperblock, Tag } from './journal-format.ts';
import {
  BLOCK_TYPE,
  commitHolds,
  parseHeader,
  parseRevokes,
  parseTags,
  TAG_FLAG,
  tagHolds,
  tailHolds,
} from './journal-format.ts';

export interface ScannedJournal {
  /** Block of the file system → where its newest contents lie in the journal. */
  readonly blocks: ReadonlyMap<number, { readonly index: number; readonly escaped: boolean }>;
  /** Of the first transaction that is not there. */
  readonly nextSequence: number;
}

interface Placed {
  readonly tag: Tag;
  readonly index: number;
}

/**
 * Reads the log from its start up to the first transaction that is not complete. `read` gives a block of the journal by its
 * index. Throws Ext4MountError `journal-damaged` for a complete transaction with a block that is not what its tag says.
 */
export async function scanJournal(
  journal: JournalSuperblock,
  read: (index: number) => Promise<Buffer>,
): Promise<ScannedJournal> {
  const capacity = journal.length - journal.first;
  const transactions: { sequence: number; placed: Placed[] }[] = [];
  const revokedAt = new Map<number, number>();
  let index = journal.start;
  let sequence = journal.sequence;
  let passed = 0;
  const next = async (): Promise<Buffer> => {
    const block = await read(index);
    index = index + 1 < journal.length ? index + 1 : journal.first;
    passed++;
    return block;
  };
  for (;;) {
    const placed: Placed[] = [];
    const revoked: number[] = [];
    let checksum = 0xffff_ffff;
    let complete = false;
    while (passed < capacity) {
      const block = await next();
      const header = parseHeader(block);
      if (header?.sequence !== sequence) break;
      if (header.type === BLOCK_TYPE.commit) {
        complete = commitHolds(block, journal, checksum);
        break;
      }
      if (!tailHolds(block, journal)) break;
      if (header.type === BLOCK_TYPE.revoke) revoked.push(...parseRevokes(block, journal.incompat));
      else if (header.type === BLOCK_TYPE.descriptor) {
        checksum = crc32Be(block, checksum);
        for (const tag of parseTags(block, journal.incompat)) {
          if (passed >= capacity) break;
          placed.push({ tag, index });
          checksum = crc32Be(await next(), checksum);
        }
      } else break;
    }
    if (!complete) break;
    transactions.push({ sequence, placed });
    for (const block of revoked) revokedAt.set(block, sequence);
    sequence = (sequence + 1) >>> 0;
  }
  const blocks = new Map<number, { index: number; escaped: boolean }>();
  for (const transaction of transactions) {
    for (const { tag, index: at } of transaction.placed) {
      const last = revokedAt.get(tag.block);
      // Sequence numbers wrap around: compared as signed difference.
      if (last !== undefined && ((last - transaction.sequence) | 0) >= 0) continue;
      if (!tagHolds(tag, await read(at), transaction.sequence, journal)) {
        throw new Ext4MountError(
          'journal-damaged',
          `block ${at} of the journal is damaged, transaction ${transaction.sequence} cannot be put back`,
          { remedy: 'run `e2fsck -f FILE`', values: { block: at, sequence: transaction.sequence } },
        );
      }
      blocks.set(tag.block, { index: at, escaped: (tag.flags & TAG_FLAG.escaped) !== 0 });
    }
  }
  return { blocks, nextSequence: sequence };
}
