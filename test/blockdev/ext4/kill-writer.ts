/**
 * Child of kill.test.ts: `node kill-writer.ts SOCKET`. Writes to the ext4 of export `disk` until it is killed; tells every
 * acknowledged record on standard output: `log N` (entries 0 to N of /log), `file I V` (/d/I has version V or later).
 */
import { writeSync } from 'node:fs';
import { mountExt4, NbdClient } from '../../../src/blockdev/index.ts';
import { emitLine, emitVersion, FILES } from './records.ts';

const [socket = ''] = process.argv.slice(2);
const fs = await mountExt4(await NbdClient.connect(socket, 'disk'), { writebackMs: 20 });
await fs.mkdir('/d', { recursive: true });

async function appender(): Promise<void> {
  const log = await fs.open('/log', 'a');
  const before = await fs.readFile('/log', 'utf8');
  for (let n = before.split('\n').length - 1; ; n++) {
    await log.appendFile(emitLine(n));
    await log.datasync();
    writeSync(1, `log ${n}\n`);
  }
}

async function replacer(own: number): Promise<void> {
  for (let version = Date.now(); ; version++) {
    const i = (version % (FILES / 2)) * 2 + own;
    const handle = await fs.open(`/d/new-${own}`, 'w');
    await handle.writeFile(emitVersion(i, version));
    await handle.close();
    await fs.rename(`/d/new-${own}`, `/d/${i}`);
    await fs.sync();
    writeSync(1, `file ${i} ${version}\n`);
  }
}

async function churner(): Promise<void> {
  for (let n = 0; ; n++) {
    await fs.mkdir(`/churn-${n % 5}`, { recursive: true });
    await fs.writeFile(`/churn-${n % 5}/f`, Buffer.alloc((n * 7919) % 30_000, n));
    await fs.rm(`/churn-${(n + 2) % 5}`, { recursive: true, force: true });
    await new Promise((resolve) => setImmediate(resolve));
  }
}

await Promise.all([appender(), replacer(0), replacer(1), churner()]);
