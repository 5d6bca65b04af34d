import { countMissing, entriesOnDisk } from '../../../src/cli/demo/proof.ts';
import { eventually } from '../../support/index.ts';

/**
 * Every acknowledged entry is on a disk that is in use. What is acknowledged is in the journal of its file system, which debugfs does not
 * read; a moment later it stands in its place.
 */
export async function allOnDisk(acknowledged: readonly [number, string][], image: string): Promise<void> {
  await eventually(
    'every acknowledged entry on the disk',
    async () => countMissing(acknowledged, await entriesOnDisk(image)) === 0,
  );
}
