import { existsSync, mkdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { createImage, FileStore, ImageError, mountExt4 } from '../../../src/blockdev/index.ts';
import { inScratch, within } from '../../support/index.ts';

const test = suite('blockdev/ext4/image');
const MIB = 1024 * 1024;

async function refusal(work: Promise<unknown>): Promise<ImageError> {
  try {
    await work;
  } catch (error) {
    assert.instance(error, ImageError);
    return error as ImageError;
  }
  throw new Error('it was not refused');
}

test(
  'an image starts with the files of a directory and is sparse',
  within(() =>
    inScratch(async (directory) => {
      mkdirSync(join(directory, 'root/etc'), { recursive: true });
      writeFileSync(join(directory, 'root/etc/motd'), 'hello');
      const path = join(directory, 'image');
      await createImage({ path, sizeBytes: 32 * MIB, fromDirectory: join(directory, 'root'), label: 'disk' });
      const { size, blocks } = statSync(path);
      assert.is(size, 32 * MIB);
      assert.ok(blocks * 512 < 16 * MIB);
      const store = FileStore.open(path);
      const fs = await mountExt4(store);
      assert.is(fs.label, 'disk');
      assert.is(await fs.readFile('/etc/motd', 'utf8'), 'hello');
      await fs.unmount();
      await store.close();
    }),
  ),
);

test(
  'an existing file is refused unless it is to be replaced',
  within(() =>
    inScratch(async (directory) => {
      const path = join(directory, 'image');
      await createImage({ path, sizeBytes: 8 * MIB });
      assert.is((await refusal(createImage({ path, sizeBytes: 8 * MIB }))).code, 'exists');
      await createImage({ path, sizeBytes: 16 * MIB, replace: true });
      assert.is(statSync(path).size, 16 * MIB);
    }),
  ),
);

test(
  'what mke2fs cannot do is its own words, and leaves no file',
  within(() =>
    inScratch(async (directory) => {
      const path = join(directory, 'image');
      assert.is((await refusal(createImage({ path, sizeBytes: 8 * MIB - 1 }))).code, 'bad-size');
      const bad = { path, sizeBytes: 8 * MIB, fromDirectory: join(directory, 'none') };
      const error = await refusal(createImage(bad));
      assert.is(error.code, 'mke2fs-failed');
      assert.match(error.message, 'No such file or directory');
      assert.is(existsSync(path), false);
    }),
  ),
);

test.run();
