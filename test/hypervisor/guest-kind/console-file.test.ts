import { appendFileSync, closeSync, openSync, readFileSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { boundConsole } from '../../../src/hypervisor/guest-kind/process/console-file.ts';
import { eventually, inScratch, within } from '../../support/index.ts';

const consoleFile = suite('hypervisor/guest-kind/console-file');

consoleFile(
  'a file that has grown too large is put aside and emptied while the partition has it open',
  within(() =>
    inScratch(async (directory) => {
      const path = join(directory, 'A.log');
      const fd = openSync(path, 'a');
      const end = boundConsole(path, 1000, 5);
      try {
        writeSync(fd, 'before\n');
        await new Promise((resolve) => setTimeout(resolve, 50));
        assert.is(readFileSync(path, 'utf8'), 'before\n', 'not before it is full');
        writeSync(fd, 'x'.repeat(1000));
        await eventually('the older file', () => statSync(path).size === 0);
        assert.is(readFileSync(`${path}.1`, 'utf8'), `before\n${'x'.repeat(1000)}`);
        writeSync(fd, 'behind\n');
        assert.is(readFileSync(path, 'utf8'), 'behind\n');
      } finally {
        end();
        closeSync(fd);
      }
      appendFileSync(path, 'y'.repeat(2000));
      await new Promise((resolve) => setTimeout(resolve, 50));
      assert.is(statSync(path).size, 2007, 'nobody looks any more');
    }),
  ),
);

consoleFile.run();
