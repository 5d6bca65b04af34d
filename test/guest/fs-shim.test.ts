import type * as NodeFs from 'node:fs';
import { mkdirSync, writeFileSync } from 'node:fs';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { createFsShim } from '../../src/guest/application/fs-shim.ts';
import { Scratch } from '../../src/guest/application/unpack.ts';
import type { Namespace } from '../../src/guest/index.ts';
import { inScratch, within } from '../support/index.ts';
import { withTree } from './tree.ts';

const test = suite('guest/application/fs-shim');

type Fs = typeof NodeFs;

function withFs(
  files: Readonly<Record<string, string>>,
  body: (fs: Fs, tree: Namespace, scratch: Scratch) => Promise<void>,
): Promise<void> {
  return withTree(files, ({ tree }) =>
    inScratch(async (directory) => {
      const scratch = new Scratch(directory);
      await scratch.clear();
      await body(createFsShim(tree, scratch).fs as unknown as Fs, tree, scratch);
    }),
  );
}

const call = <T>(body: (done: (error: unknown, value?: T) => void) => void): Promise<T> =>
  new Promise((resolve, reject) => body((error, value) => (error ? reject(error) : resolve(value as T))));

test(
  'callbacks on descriptors: open, write, fsync, read, fstat, ftruncate, close',
  within(() =>
    withFs({}, async (fs) => {
      const fd = await call<number>((done) => fs.open('/f', 'w+', done));
      assert.is(await call<number>((done) => fs.write(fd, Buffer.from('hello'), 0, 5, 0, done)), 5);
      await call((done) => fs.fsync(fd, done));
      const target = Buffer.alloc(4);
      assert.is(await call<number>((done) => fs.read(fd, target, 0, 4, 1, done)), 4);
      assert.is(target.toString(), 'ello');
      await call((done) => fs.ftruncate(fd, 2, done));
      assert.is((await call<NodeFs.Stats>((done) => fs.fstat(fd, done))).size, 2);
      await call((done) => fs.close(fd, done));
      const late = await call((done) => fs.fsync(fd, done)).catch((error) => error.code);
      assert.is(late, 'EBADF');
    }),
  ),
);

test(
  'paths as text, buffer and URL; those below the scratch directory are the guest paths they stand for',
  within(() =>
    withFs({ '/srv/app/file': 'text' }, async (fs, _tree, scratch) => {
      const { readFile } = fs.promises;
      const paths = ['/srv/app/file', Buffer.from('/srv/app/file'), new URL('file:///srv/app/file')];
      for (const path of [...paths, scratch.host('/srv/app/file')])
        assert.is(await readFile(path, 'utf8'), 'text');
    }),
  ),
);

test(
  'data as text, typed array, iterable; access with X_OK; readdir with types; mkdtemp; rename over mounts of one disk',
  within(() =>
    withFs({}, async (fs, tree) => {
      const { promises } = fs;
      await promises.mkdir('/d');
      await promises.writeFile('/d/a', 'äö', 'latin1');
      assert.is((await tree.stat('/d/a')).size, 2);
      await promises.writeFile('/d/b', new Uint16Array([0x4142]));
      assert.is(await promises.readFile('/d/b', 'utf8'), 'BA');
      await promises.writeFile('/d/c', ['one', 'two']);
      await promises.appendFile('/d/c', ' three', { flush: true });
      assert.is(await promises.readFile('/d/c', 'utf8'), 'onetwo three');
      assert.is(await promises.access('/d/c', fs.constants.X_OK).catch((error) => error.code), 'EACCES');
      const entries = await promises.readdir('/d', { withFileTypes: true });
      assert.equal(
        entries.map((entry) => [entry.name, entry.isFile(), entry.parentPath]),
        ['a', 'b', 'c'].map((name) => [name, true, '/d']),
      );
      assert.match(await promises.mkdtemp('/d/tmp-'), /^\/d\/tmp-.{6}$/);
      await promises.rename('/d/a', '/e');
      await promises.rm('/d', { recursive: true });
      assert.is(await new Promise((resolve) => fs.exists('/e', resolve)), true);
    }),
  ),
);

test(
  'synchronous reads see the unpacked program only; every other synchronous call says what to use',
  within(() =>
    withFs({ '/etc/secret': 's' }, async (fs, _tree, scratch) => {
      mkdirSync(scratch.host('/srv/app'), { recursive: true });
      writeFileSync(scratch.host('/srv/app/template'), 'template');
      assert.is(fs.readFileSync('/srv/app/template', 'utf8'), 'template');
      assert.is(fs.realpathSync('/srv/app/../app/template'), '/srv/app/template');
      assert.is(fs.existsSync('/srv/app/template'), true);
      assert.is(fs.existsSync('/proc/version'), false);
      const refusal = (body: () => unknown) => {
        try {
          body();
        } catch (error) {
          return error as { code: string; remedy: string };
        }
        throw new Error('it was not refused');
      };
      assert.is(refusal(() => fs.readFileSync('/etc/secret')).code, 'ENOENT');
      assert.is(refusal(() => fs.readFileSync('/proc/version')).code, 'ENOENT');
      const write = refusal(() => fs.writeFileSync('/x', ''));
      assert.is(write.code, 'ERR_GUEST_FS');
      assert.is(write.remedy, 'use writeFile of node:fs/promises');
      assert.is(refusal(() => fs.watch('/x')).code, 'ERR_GUEST_FS');
    }),
  ),
);

test.run();
