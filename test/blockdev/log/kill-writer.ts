/**
 * Writes to a logged disk until it is killed. Every acknowledged write is told on standard output as a line
 * `<block> <stamp>`; a block is filled with its stamp. Argument: directory.
 */
import { writeSync } from 'node:fs';
import { join } from 'node:path';
import { DiskStack } from '../../../src/blockdev/copy/disk-stack.ts';
import { WriteLog } from '../../../src/blockdev/log/write-log.ts';
import { FileStore } from '../../../src/blockdev/store/index.ts';
import { SeededRandom } from '../../../src/common/index.ts';

const [directory = '.', seed = '1'] = process.argv.slice(2);
const size = 16n * 1024n * 1024n;
const stack = new DiskStack('d', FileStore.open(join(directory, 'disk.img'), { create: size }));
const log = WriteLog.create(join(directory, 'log'), {
  diskId: 'd',
  diskSize: size,
  purpose: 'reverse',
  segmentBytes: 1024 * 1024,
});
stack.trap.attach(log);
const random = new SeededRandom(Number(seed));
let stamp = 0;

async function writer(own: number): Promise<void> {
  for (;;) {
    const mine = ++stamp;
    // Every writer has blocks of its own: the last acknowledged stamp of a block is known.
    const block = random.below(256) * 8 + own;
    const large = random.below(10) === 0;
    const data = Buffer.alloc(large ? 96 * 1024 : 4096);
    for (let at = 0; at < data.length; at += 4) data.writeUInt32LE(mine, at);
    const offset = large ? 12 * 1024 * 1024 + own * 128 * 1024 : block * 4096;
    const now = random.below(2) === 0 && stack.top.writeAtSync(data, BigInt(offset));
    if (!now) await stack.top.writeAt(data, BigInt(offset));
    writeSync(1, `${offset} ${mine}\n`);
    if (random.below(40) === 0) await stack.top.flush();
  }
}

await Promise.all(Array.from({ length: 8 }, (_, own) => writer(own)));
