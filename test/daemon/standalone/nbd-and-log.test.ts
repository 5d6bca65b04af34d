import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { NbdClient } from '../../../src/blockdev/index.ts';
import { codeOf } from '../../../src/common/index.ts';
import {
  formatLogTime,
  parseLogTime,
  runLogReplay,
  runLogShow,
  runLogVerify,
} from '../../../src/daemon/standalone/log.ts';
import { type NbdOptions, runNbd } from '../../../src/daemon/standalone/nbd.ts';
import { eventually, within } from '../../support/index.ts';

const test = suite('daemon/standalone/nbd-and-log');

const SIZE = 1024 * 1024;

async function inFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'nbd-test-'));
  try {
    await body(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function image(folder: string, name = 'disk.img'): string {
  const file = join(folder, name);
  writeFileSync(file, '');
  truncateSync(file, SIZE);
  return file;
}

/** Serves while `body` runs; returns exit code and what was printed. */
async function serving(options: NbdOptions, body: (client: NbdClient) => Promise<void>) {
  const end = new AbortController();
  const printed: string[] = [];
  const complained: string[] = [];
  const ended = runNbd({
    ...options,
    signal: end.signal,
    print: (line) => printed.push(line),
    complain: (line) => complained.push(line),
  });
  let over = false;
  void ended.then(() => {
    over = true;
  });
  await eventually('the server', () => printed.length > 0 || over);
  if (printed.length > 0) {
    const client = await NbdClient.connect(options.socket, options.exportName ?? '');
    await body(client);
    await client.close();
  }
  end.abort();
  return { code: await ended, printed, complained };
}

function capture() {
  const printed: string[] = [];
  const complained: string[] = [];
  return {
    printed,
    complained,
    print: (line: string) => void printed.push(line),
    complain: (line: string) => void complained.push(line),
  };
}

test(
  'a file is served, written, and holds what was written; the socket is gone afterwards',
  within(() =>
    inFolder(async (folder) => {
      const file = image(folder);
      const socket = join(folder, 'socket');
      const outcome = await serving({ file, socket, exportName: 'my disk' }, async (client) => {
        await client.writeAt(Buffer.alloc(4096, 5), 8192n);
      });
      assert.is(outcome.code, 0);
      assert.is(
        outcome.printed[0],
        `serving ${file} (${SIZE} bytes) at nbd+unix:///my%20disk?socket=${socket}`,
      );
      assert.match(outcome.printed[1]!, '1 connections, 0 reads of 0 bytes, 1 writes of 4096 bytes');
      assert.is(readFileSync(file)[8192], 5);
      assert.not(existsSync(socket));
      assert.is(lstatSync(`${file}.lock`, { throwIfNoEntry: false }), undefined);
    }),
  ),
);

test(
  'faults by rule: clients meet them, the file does not; a rule that is wrong is told',
  within(() =>
    inFolder(async (folder) => {
      const file = image(folder);
      const socket = join(folder, 'socket');
      const faults = ['write:EIO,after=1,times=1', 'flush:delay=1ms'];
      const outcome = await serving(
        { file, socket, exportName: 'd', faults, faultSeed: 7 },
        async (client) => {
          await client.writeAt(Buffer.alloc(512, 5), 0n);
          assert.is(await client.writeAt(Buffer.alloc(512, 6), 0n).catch(codeOf), 'EIO');
          await client.flush();
          await client.writeAt(Buffer.alloc(512, 7), 512n);
        },
      );
      assert.is(outcome.code, 0);
      assert.match(outcome.printed[1]!, /2 rules, --fault-seed 7/);
      assert.match(outcome.printed[2]!, /injected 1 errors, 1 delays/);
      assert.equal([readFileSync(file)[0], readFileSync(file)[512]], [5, 7]);
      const wrong = await serving({ file, socket, faults: ['write:E'] }, async () => {});
      assert.is(wrong.code, 1);
      assert.match(wrong.complained[0]!, /neither an error nor a condition/);
    }),
  ),
);

test(
  'a file of which a flush failed is served read-only, or when its note is gone',
  within(() =>
    inFolder(async (folder) => {
      const file = image(folder);
      const socket = join(folder, 'socket');
      writeFileSync(`${file}.failed`, 'fdatasync failed: EIO\n');
      const refused = await serving({ file, socket }, async () => {});
      assert.is(refused.code, 1);
      assert.match(refused.complained[0]!, /fdatasync failed: EIO/);
      const read = await serving({ file, socket, readOnly: true, exportName: 'd' }, async (client) => {
        await client.readAt(Buffer.alloc(512), 0n);
      });
      assert.is(read.code, 0);
      rmSync(`${file}.failed`);
      assert.is((await serving({ file, socket, exportName: 'd' }, (client) => client.flush())).code, 0);
    }),
  ),
);

test(
  'a write log that was given up is put aside by the next server, which counts everything as written',
  within(() =>
    inFolder(async (folder) => {
      const file = image(folder);
      const socket = join(folder, 'socket');
      const writeLog = join(folder, 'log');
      const life = (body: (client: NbdClient) => Promise<void>) =>
        serving({ file, socket, writeLog, exportName: 'd' }, body);
      await life((client) => client.writeAt(Buffer.alloc(4096, 1), 0n));
      writeFileSync(join(writeLog, 'incomplete'), '');
      const next = await life(async (client) => {
        const [all] = await client.writtenSince!(0n, BigInt(SIZE));
        assert.equal(all, { offset: 0n, length: BigInt(SIZE), written: true });
      });
      assert.is(next.code, 0);
      assert.match(next.complained[0]!, /misses writes; it is kept as/);
      assert.is(readdirSync(folder).filter((name) => name.startsWith('log.incomplete-')).length, 1);
    }),
  ),
);

test(
  'the command ends with 0 on SIGTERM and on SIGINT, and everything is in the file',
  within(
    () =>
      inFolder(async (folder) => {
        const main = new URL('../../../src/cli/main.ts', import.meta.url).pathname;
        for (const [index, signal] of (['SIGTERM', 'SIGINT'] as const).entries()) {
          const file = image(folder, `${signal}.img`);
          const socket = join(folder, signal);
          const named = ['--export', '--export-name'][index]!;
          const child = spawn(process.execPath, [main, 'nbd', file, '--socket', socket, named, 'it'], {
            stdio: ['ignore', 'pipe', 'inherit'],
          });
          const ended = once(child, 'close');
          await once(child.stdout, 'data');
          const client = await NbdClient.connect(socket, 'it');
          await client.writeAt(Buffer.alloc(4096, index + 1), 4096n);
          child.kill(signal);
          assert.equal(await ended, [0, null]);
          assert.is(readFileSync(file)[4096], index + 1);
          await client.close();
        }
      }),
    30_000,
  ),
);

test(
  'a read-only server refuses to write',
  within(() =>
    inFolder(async (folder) => {
      const file = image(folder);
      const outcome = await serving(
        { file, socket: join(folder, 'socket'), readOnly: true },
        async (client) => {
          assert.ok(client.capabilities.readOnly);
          await client.readAt(Buffer.alloc(512), 0n);
        },
      );
      assert.is(outcome.code, 0);
    }),
  ),
);

test(
  'what cannot be served is one sentence and exit code 1',
  within(() =>
    inFolder(async (folder) => {
      const file = image(folder);
      const socket = join(folder, 'socket');
      const reason = async (options: NbdOptions) => {
        const outcome = await serving(options, async () => {});
        assert.is(outcome.code, 1);
        assert.is(outcome.complained.length, 1);
        assert.match(outcome.complained[0]!, /^changeover nbd: /);
        return outcome.complained[0]!;
      };
      assert.match(await reason({ file: join(folder, 'nothing'), socket }), 'ENOENT');
      assert.match(await reason({ file: folder, socket }), /EISDIR|regular file/);
      assert.match(await reason({ file: '/dev/null', socket }), 'regular file');
      assert.match(await reason({ file, socket: join(folder, 'no', 'socket') }), 'folder');
      const serve = await serving({ file, socket }, async () => {
        assert.match(await reason({ file: image(folder, 'other.img'), socket }), 'already serves');
        assert.match(await reason({ file, socket: `${socket}2` }), /in use|has .* open|already/);
      });
      assert.is(serve.code, 0);
      const log = join(folder, 'log');
      writeFileSync(log, 'no folder');
      await reason({ file, socket, writeLog: log });
      assert.is(
        lstatSync(`${file}.lock`, { throwIfNoEntry: false }),
        undefined,
        'a failed start gives the file back',
      );
      if (process.getuid?.() !== 0) {
        chmodSync(file, 0);
        assert.match(await reason({ file, socket }), 'EACCES');
      }
    }),
  ),
);

test(
  'a write log is kept, gone on with, shown, verified and replayed',
  within(() =>
    inFolder(async (folder) => {
      const file = image(folder);
      const before = image(folder, 'before.img');
      const directory = join(folder, 'log');
      const options = { file, socket: join(folder, 'socket'), writeLog: directory };
      const first = await serving(options, async (client) => {
        await client.writeAt(Buffer.alloc(4096, 1), 0n);
        await client.writeAt(Buffer.alloc(4096, 2), 65536n, { fua: true });
      });
      assert.equal([first.code, first.complained], [0, []]);
      const second = await serving(options, async (client) => {
        await client.writeZeroes(0n, 1024n);
        await client.writeAt(Buffer.alloc(512, 3), 66048n);
      });
      assert.equal([second.code, second.complained], [0, []]);

      const verify = capture();
      assert.is(await runLogVerify({ directory, ...verify }), 0);
      assert.match(verify.printed[0]!, /\(3 data, 1 zeroes, 0 trim, \d+ flush\)/);

      const shown = capture();
      assert.is(await runLogShow({ directory, json: true, ...shown }), 0);
      const records = shown.printed.map((line) => JSON.parse(line)).filter((r) => r.kind !== 'flush');
      assert.equal(
        records.map((r) => [r.kind, r.address, r.length, r.fua]),
        [
          ['data', 0, 4096, false],
          ['data', 65536, 4096, true],
          ['zeroes', 0, 1024, false],
          ['data', 66048, 512, false],
        ],
      );

      const text = capture();
      await runLogShow({ directory, fromAddress: 66000n, toAddress: 66049n, ...text });
      assert.is(text.printed.length, 2);
      assert.match(text.printed[0]!, /^\d+ \d{4}-.*Z data 4096 bytes at 65536 fua \(segment 1 byte \d+\)$/);
      const timed = capture();
      await runLogShow({ directory, toTimeNs: parseLogTime(records[1].time), json: true, ...timed });
      assert.is(JSON.parse(timed.printed.at(-1)!).sequence, records[1].sequence);
      const sequences = capture();
      const [from, to] = [BigInt(records[1].sequence), BigInt(records[2].sequence)];
      await runLogShow({ directory, fromSequence: from, toSequence: to, json: true, ...sequences });
      assert.is(sequences.printed.length, Number(to - from) + 1);

      const half = join(folder, 'half.img');
      writeFileSync(half, readFileSync(before));
      assert.is(await runLogReplay({ directory, target: half, toSequence: from, ...capture() }), 0);
      const bytes = readFileSync(half);
      assert.equal([bytes[0], bytes[65536], bytes[66048]], [1, 2, 2]);
      const whole = capture();
      assert.is(await runLogReplay({ directory, target: before, ...whole }), 0);
      assert.ok(
        readFileSync(before).equals(readFileSync(file)),
        'replayed onto the former image it is the disk',
      );
      assert.match(whole.printed[0]!, 'reflected onto');
    }),
  ),
);

test(
  'damage is told with its place, exit code 1, and nothing is replayed',
  within(() =>
    inFolder(async (folder) => {
      const file = image(folder);
      const directory = join(folder, 'log');
      await serving({ file, socket: join(folder, 'socket'), writeLog: directory }, async (client) => {
        for (let i = 0; i < 4; i++) await client.writeAt(Buffer.alloc(4096, i + 1), BigInt(i * 4096));
      });
      const shown = capture();
      await runLogShow({ directory, json: true, ...shown });
      const record = JSON.parse(shown.printed[1]!);
      const fd = openSync(join(directory, '00000001.wlog'), 'r+');
      writeSync(fd, Buffer.of(0xee), 0, 1, record.offset + 100);

      const verify = capture();
      assert.is(await runLogVerify({ directory, ...verify }), 1);
      assert.match(verify.complained[0]!, `00000001.wlog at byte ${record.offset}`);
      assert.match(verify.complained[0]!, 'record 2, 4096 bytes at 4096 of the disk: damaged-data');
      const json = capture();
      assert.is(await runLogVerify({ directory, json: true, ...json }), 1);
      assert.is(JSON.parse(json.printed[0]!).findings[0].kind, 'damaged-data');

      const again = capture();
      assert.is(await runLogShow({ directory, ...again }), 1);
      assert.is(again.printed.length, 1, 'what stands before the damage is shown');
      const target = image(folder, 'target.img');
      assert.is(await runLogReplay({ directory, target, ...capture() }), 1);
      assert.ok(readFileSync(target).every((byte) => byte === 0));
      assert.is(
        await runLogReplay({ directory, target, toSequence: 1n, ...capture() }),
        0,
        'up to the record before',
      );
      const outcome = await serving(
        { file, socket: join(folder, 'socket'), writeLog: directory },
        async () => {},
      );
      assert.is(outcome.code, 1, 'a damaged log is not gone on with');
    }),
  ),
);

test(
  'no log, a foreign target, an absent target',
  within(() =>
    inFolder(async (folder) => {
      const empty = join(folder, 'empty');
      mkdirSync(empty);
      for (const directory of [empty, join(folder, 'nothing')]) {
        for (const run of [runLogShow, runLogVerify]) {
          const output = capture();
          assert.is(await run({ directory, ...output }), 1);
          assert.is(output.complained.length, 1);
        }
      }
      const directory = join(folder, 'log');
      const file = image(folder);
      await serving({ file, socket: join(folder, 'socket'), writeLog: directory }, async () => {});
      const small = join(folder, 'small.img');
      writeFileSync(small, 'x'.repeat(512));
      const output = capture();
      assert.is(await runLogReplay({ directory, target: small, ...output }), 1);
      assert.match(output.complained[0]!, `of ${SIZE} bytes`);
      assert.is(await runLogReplay({ directory, target: join(folder, 'absent'), ...capture() }), 1);
    }),
  ),
);

test(
  'the commands: exit codes, JSON, filters, refusals in one sentence',
  within(
    () =>
      inFolder(async (folder) => {
        const file = image(folder);
        const directory = join(folder, 'log');
        await serving({ file, socket: join(folder, 'socket'), writeLog: directory }, async (client) => {
          for (let i = 0; i < 4; i++) await client.writeAt(Buffer.alloc(4096, i + 1), BigInt(i * 65_536));
        });
        const main = new URL('../../../src/cli/main.ts', import.meta.url).pathname;
        const log = async (...argv: string[]) => {
          const child = spawn(process.execPath, [main, 'log', ...argv], {
            stdio: ['ignore', 'pipe', 'pipe'],
          });
          const text = { out: '', err: '' };
          child.stdout.on('data', (chunk: Buffer) => {
            text.out += chunk.toString();
          });
          child.stderr.on('data', (chunk: Buffer) => {
            text.err += chunk.toString();
          });
          const [code] = (await once(child, 'close')) as [number];
          return { code, ...text };
        };
        const target = image(folder, 'target.img');
        const output = join(folder, 'out.dmlw');
        const [shown, verified, foreign, half, exported, usage] = await Promise.all([
          log('show', directory, '--from-address', '65536', '--to-address', '131073', '--json'),
          log('verify', directory, '--json'),
          log('replay', directory, target, '--disk', 'somebody-elses'),
          log('replay', directory, image(folder, 'half.img'), '--to-sequence', '2', '--json'),
          log('export', directory, '--format', 'dm-log-writes', '--output', output),
          log('replay', directory, target, '--to-time', 'yesterday'),
        ]);
        assert.is(shown.code, 0, shown.err);
        assert.equal(
          shown.out
            .trim()
            .split('\n')
            .map((line) => JSON.parse(line).address),
          [65_536, 131_072],
        );
        assert.is(verified.code, 0, verified.err);
        assert.equal(JSON.parse(verified.out).findings, []);
        assert.is(foreign.code, 1);
        assert.match(foreign.err, /^changeover log replay: .* not somebody-elses/);
        assert.is(half.code, 0, half.err);
        assert.is(JSON.parse(half.out).lastSequence, '2');
        assert.is(exported.code, 0, exported.err);
        assert.is(readFileSync(output).readBigUInt64LE(0), 0x6a736677736872n);
        assert.is(usage.code, 2);
        assert.ok(
          readFileSync(target).every((byte) => byte === 0),
          'refused: nothing was written',
        );
        const again = await log('export', directory, '--format', 'dm-log-writes', '--output', output);
        assert.is(again.code, 1, 'a file is never written over');
      }),
    60_000,
  ),
);

test('times: nanoseconds, @seconds, ISO 8601 with offset; anything else is an error', () => {
  const time = 1_795_197_600_123_456_789n;
  assert.is(formatLogTime(time), '2026-11-20T18:00:00.123456789Z');
  assert.is(parseLogTime(formatLogTime(time)), time);
  assert.is(parseLogTime('1795197600123456789'), time);
  assert.is(parseLogTime('@1795197600.5'), 1_795_197_600_500_000_000n);
  assert.is(parseLogTime('2026-11-20T19:00+01:00'), 1_795_197_600_000_000_000n);
  for (const wrong of ['', 'yesterday', '2026-11-20', '2026-13-20T00:00:00Z', '-5', '@x']) {
    assert.throws(() => parseLogTime(wrong), /is no time/);
  }
});

test.run();
