/** Our server under libnbd's programs: nbdinfo, nbdcopy, nbdsh. */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { Device } from '../../src/blockdev/index.ts';
import { FileStore, FilterDevice, MemoryStore, ReadOnlyFilter } from '../../src/blockdev/index.ts';
import { SeededRandom } from '../../src/common/index.ts';
import { runNbd } from '../../src/daemon/standalone/nbd.ts';
import { within } from '../support/index.ts';
import { inFolder, ok, programSuite, run, served } from './nbd-programs.ts';

const test = programSuite('live/nbd-libnbd', ['nbdinfo', 'nbdcopy', 'nbdsh']);

const MIB = 1024 * 1024;

/** 24 MiB with data, holes and written zeroes. */
function sparseImage(path: string): void {
  const random = new SeededRandom(24);
  writeFileSync(path, '');
  truncateSync(path, 24 * MIB);
  for (const at of [0, 5 * MIB, 11 * MIB + 4096, 24 * MIB - 65536]) {
    const store = FileStore.open(path);
    store.writeAtSync(random.fill(Buffer.alloc(65536)), BigInt(at));
    void store.close();
  }
}

test(
  'nbdinfo: properties of an export, list of exports, size, can and is',
  within(() =>
    served(
      {
        disk: new MemoryStore(3 * MIB),
        fixed: new ReadOnlyFilter(new MemoryStore(512)),
      },
      async (uri) => {
        const info = JSON.parse(await ok('nbdinfo', '--json', uri('disk')));
        assert.is(info.protocol, 'newstyle-fixed');
        const [disk] = info.exports;
        assert.is(disk['export-size'], 3 * MIB);
        assert.equal(disk.contexts, ['base:allocation']);
        for (const property of [
          'can_cache',
          'can_df',
          'can_fast_zero',
          'can_flush',
          'can_fua',
          'can_multi_conn',
        ]) {
          assert.is(disk[property], true, property);
        }
        assert.equal([disk.can_trim, disk.can_zero, disk.is_read_only], [true, true, false]);
        assert.equal(
          [disk.block_size_minimum, disk.block_size_preferred, disk.block_size_maximum],
          [1, 4096, 32 * MIB],
        );
        const list = JSON.parse(await ok('nbdinfo', '--json', '--list', uri('')));
        assert.equal(
          list.exports.map((e: Record<string, unknown>) => [
            e['export-name'],
            e['export-size'],
            e['is_read_only'],
          ]),
          [
            ['disk', 3 * MIB, false],
            ['fixed', 512, true],
          ],
        );
        assert.is((await ok('nbdinfo', '--size', uri('disk'))).trim(), String(3 * MIB));
        assert.is((await run('nbdinfo', ['--is', 'read-only', uri('fixed')])).code, 0);
        assert.is((await run('nbdinfo', ['--can', 'trim', uri('fixed')])).code, 2);
        const absent = await run('nbdinfo', [uri('nothing')]);
        assert.is.not(absent.code, 0);
      },
    ),
  ),
);

test(
  'nbdinfo --map: base:allocation and changeover:written-since',
  within(async () => {
    const store = new MemoryStore(4 * MIB);
    await store.writeAt(Buffer.alloc(MIB, 1), BigInt(MIB));
    const device: Device = Object.assign(new FilterDevice(store), {
      writtenSince: async (offset: bigint, length: bigint) =>
        offset < 1024n
          ? [
              { offset, length: 1024n - offset, written: true },
              { offset: 1024n, length: length - (1024n - offset), written: false },
            ]
          : [{ offset, length, written: false }],
    });
    await served({ disk: device }, async (uri) => {
      const map = JSON.parse(await ok('nbdinfo', '--map', '--json', uri('disk')));
      assert.equal(
        map.map((run: Record<string, unknown>) => [run['offset'], run['length'], run['type']]),
        [
          [0, MIB, 3],
          [MIB, MIB, 0],
          [2 * MIB, 2 * MIB, 3],
        ],
      );
      const written = JSON.parse(
        await ok('nbdinfo', '--map=changeover:written-since', '--json', uri('disk')),
      );
      assert.equal(
        written.map((run: Record<string, unknown>) => [run['offset'], run['length'], run['type']]),
        [
          [0, 1024, 1],
          [1024, 4 * MIB - 1024, 0],
        ],
      );
    });
  }),
);

test(
  'nbdcopy in, across and out again with four connections; the copy is the original and as sparse',
  within(
    () =>
      inFolder(async (folder) => {
        const original = join(folder, 'original.img');
        sparseImage(original);
        const first = FileStore.open(join(folder, 'first.img'), { create: BigInt(24 * MIB) });
        const second = FileStore.open(join(folder, 'second.img'), { create: BigInt(24 * MIB) });
        await served({ first, second }, async (uri, server) => {
          await ok('nbdcopy', '--connections=4', '--threads=4', '--flush', original, uri('first'));
          await ok('nbdcopy', '--connections=4', '--threads=4', '--flush', uri('first'), uri('second'));
          const back = join(folder, 'back.img');
          writeFileSync(back, '');
          truncateSync(back, 24 * MIB);
          await ok('nbdcopy', '--connections=4', '--threads=4', uri('second'), back);
          assert.ok(readFileSync(back).equals(readFileSync(original)));
          const allocated = Number(second.allocated());
          assert.ok(allocated < 4 * MIB, `${allocated} bytes allocated for 256 KiB of data`);
          assert.ok(server.counters()['accepted']! >= 12, 'several connections were used');
          assert.ok(server.counters()['flushes']! >= 2);
        });
      }),
    30_000,
  ),
);

test(
  'nbdsh: every command, every flag, and what a careless client sends',
  within(async () => {
    const store = new MemoryStore(4 * MIB);
    await served({ disk: store, other: new MemoryStore(MIB) }, async (uri, server, folder) => {
      const script = join(folder, 'script.py');
      writeFileSync(
        script,
        `
import errno
M = 1024 * 1024
def fails(number, call, *args):
    try:
        call(*args)
    except nbd.Error as ex:
        assert ex.errnum == number, (call, args, ex.errnum, number)
    else:
        raise AssertionError(('no error', call, args))

h.add_meta_context("base:allocation")
h.set_opt_mode(True)
h.connect_uri("${uri('disk')}")
names = []
h.opt_list(lambda name, description: names.append(name))
assert names == ["disk", "other"], names
contexts = []
h.opt_list_meta_context(lambda name: contexts.append(name))
assert contexts == ["base:allocation"], contexts
h.opt_info()
assert h.get_size() == 4 * M
h.opt_go()

assert h.get_structured_replies_negotiated()
h.pwrite(b"x" * 70000, 512)
assert h.pread(70000, 512) == b"x" * 70000
h.pwrite(b"y" * 512, 0, nbd.CMD_FLAG_FUA)
h.zero(512, 0, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
h.zero(512, 512, nbd.CMD_FLAG_FAST_ZERO)
assert h.pread(1024, 0) == bytearray(1024)
h.trim(65536, 65536, nbd.CMD_FLAG_FUA)
h.cache(M, 0)
h.flush()

runs = []
def status(context, offset, entries, error):
    runs.append((context, offset, entries))
h.block_status(4 * M, 0, status)
assert runs == [("base:allocation", 0, [65536, 0, 4 * M - 65536, 3])], runs
runs.clear()
h.block_status(4 * M, 0, status, nbd.CMD_FLAG_REQ_ONE)
assert runs == [("base:allocation", 0, [65536, 0])], runs

chunks = []
def seen(buf, offset, kind, error):
    chunks.append((offset, len(buf), kind))
h.pread_structured(M, 0, seen)
assert chunks == [(0, 65536, nbd.READ_DATA), (65536, M - 65536, nbd.READ_HOLE)], chunks
chunks.clear()
h.pread_structured(M, 0, seen, nbd.CMD_FLAG_DF)
assert chunks == [(0, M, nbd.READ_DATA)], chunks

cookies = [h.aio_pread(nbd.Buffer(65536), i * 65536) for i in range(32)]
while h.aio_in_flight() > 0:
    h.poll(-1)
assert all(h.aio_command_completed(cookie) for cookie in cookies)

h.set_strict_mode(0)
fails(errno.EINVAL, h.pread, 512, 4 * M)
fails(errno.EINVAL, h.pread, 512, 2**63 - 512)
fails(errno.ENOSPC, h.pwrite, b"z" * 512, 4 * M - 256)
fails(errno.ENOSPC, h.zero, 512, 4 * M)
fails(errno.EINVAL, h.trim, 512, 4 * M)
fails(errno.EINVAL, h.cache, 512, 4 * M)
fails(errno.EINVAL, h.block_status, 0, 0, status)
fails(errno.EINVAL, h.pread, 512, 0, nbd.CMD_FLAG_REQ_ONE)
fails(errno.EINVAL, h.pwrite, b"z", 0, nbd.CMD_FLAG_NO_HOLE)
fails(errno.EINVAL, h.flush, 0x80)
assert h.pread(1, 1024) == b"x"
h.shutdown()
print("done")
`,
      );
      assert.is((await ok('nbdsh', '-c', `exec(open(${JSON.stringify(script)}).read())`)).trim(), 'done');
      assert.is(server.counters()['refusedRequests'], 10);
      assert.is(store.flushes, 4, 'FUA of pwrite, zero and trim, and one flush');
    });
  }, 20_000),
);

test(
  'nbdsh: simple replies, a read-only export, options in any order',
  within(() =>
    served({ disk: new MemoryStore(MIB), fixed: new ReadOnlyFilter(new MemoryStore(MIB)) }, async (uri) => {
      const plain = `
h.set_request_structured_replies(False)
h.connect_uri("${uri('disk')}")
assert not h.get_structured_replies_negotiated() and not h.can_df()
h.pwrite(b"a" * 300000, 7)
assert h.pread(300000, 7) == b"a" * 300000
h.shutdown()`;
      await ok('nbdsh', '-c', plain);
      const fixed = `
import errno
h.set_strict_mode(0)
h.connect_uri("${uri('fixed')}")
assert h.is_read_only()
for call, args in ((h.pwrite, (b"a", 0)), (h.zero, (1, 0)), (h.trim, (1, 0))):
    try:
        call(*args)
        raise AssertionError(call)
    except nbd.Error as ex:
        assert ex.errnum == errno.EPERM, ex
h.flush()
h.shutdown()`;
      await ok('nbdsh', '-c', fixed);
    }),
  ),
);

test(
  'nbdsh without any care: handshake flags, TLS, absent exports, requests of 64 MiB and of nothing, while another client works',
  within(async () => {
    await served({ disk: new MemoryStore(80 * MIB) }, async (uri, server) => {
      const careless = `
import errno
def fails(call, *args):
    try:
        call(*args)
    except nbd.Error as ex:
        return ex.errnum
    raise AssertionError(('no error', call, args))
good = nbd.NBD()
good.connect_uri("${uri('disk')}")
def served():
    good.pwrite(b"g" * 4096, 79 * 1024 * 1024)
    assert good.pread(4096, 79 * 1024 * 1024) == b"g" * 4096

for flags in (0, nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE, nbd.HANDSHAKE_FLAG_NO_ZEROES):
    c = nbd.NBD()
    c.set_handshake_flags(flags)
    c.connect_uri("${uri('disk')}")
    assert c.get_size() == 80 * 1024 * 1024
    c.shutdown()

c = nbd.NBD()
c.set_tls(nbd.TLS_ALLOW)
c.connect_uri("${uri('disk')}")
assert not c.get_tls_negotiated()
c.shutdown()
c = nbd.NBD()
c.set_tls(nbd.TLS_REQUIRE)
fails(c.connect_uri, "${uri('disk')}")
c = nbd.NBD()
assert fails(c.connect_uri, "${uri('nothing')}") in (errno.ENOENT, 0)
served()

for structured in (True, False):
    c = nbd.NBD()
    c.set_strict_mode(0)
    c.set_request_structured_replies(structured)
    c.set_request_block_size(False)
    c.connect_uri("${uri('disk')}")
    assert fails(c.pread, 48 * 1024 * 1024, 0) == errno.EINVAL
    assert fails(c.pwrite, bytes(48 * 1024 * 1024), 0) == errno.EINVAL
    assert fails(c.pwrite, bytes(64 * 1024 * 1024), 0) == errno.EINVAL
    assert fails(c.block_status, 512, 0, lambda *a: 0) != 0
    for call in (c.zero, c.trim, c.cache):
        call(0, 0)
    c.pwrite(b"", 0)
    for flags in (nbd.CMD_FLAG_DF, nbd.CMD_FLAG_REQ_ONE, nbd.CMD_FLAG_FAST_ZERO, 0x20, 0x8000):
        for call, args in ((c.pwrite, (b"z", 0)), (c.trim, (512, 0)), (c.cache, (512, 0)), (c.flush, ())):
            assert fails(call, *args, flags) == errno.EINVAL, (call, flags)
    assert c.pread(1, 0) == b"\\0"
    served()
    c.shutdown()
good.shutdown()
print("done")`;
      assert.is((await ok('nbdsh', '-c', careless)).trim(), 'done');
      assert.ok(server.counters()['refusedRequests']! >= 40);
    });
  }, 20_000),
);

test(
  'nbdinfo --map=changeover:written-since: what was written since the log began, also after a restart with that log',
  within(() =>
    inFolder(async (folder) => {
      const file = join(folder, 'disk.img');
      writeFileSync(file, Buffer.alloc(4 * MIB, 1));
      const serve = async (body: (uri: string) => Promise<void>) => {
        const socket = join(folder, 'socket');
        const stop = new AbortController();
        let ended: Promise<number> | undefined;
        try {
          await new Promise<void>((resolve, reject) => {
            ended = runNbd({
              ...{ file, socket, writeLog: join(folder, 'log'), exportName: 'disk', signal: stop.signal },
              print: (line) => line.startsWith('serving') && resolve(),
              complain: (line) => reject(new Error(line)),
            });
          });
          await body(`nbd+unix:///disk?socket=${socket}`);
        } finally {
          stop.abort();
          assert.is(await ended, 0);
        }
      };
      const map = async (uri: string) =>
        JSON.parse(await ok('nbdinfo', '--json', '--map=changeover:written-since', uri)).map(
          (run: { offset: number; length: number; type: number }) => [run.offset, run.length, run.type],
        );
      const write = (uri: string, at: number) => ok('nbdsh', '-u', uri, '-c', `h.pwrite(b"x" * 4096, ${at})`);
      await serve(async (uri) => {
        assert.equal(await map(uri), [[0, 4 * MIB, 0]]);
        await write(uri, MIB);
        assert.equal(await map(uri), [
          [0, MIB, 0],
          [MIB, 65_536, 1],
          [MIB + 65_536, 3 * MIB - 65_536, 0],
        ]);
      });
      await serve(async (uri) => {
        await write(uri, 4 * MIB - 4096);
        assert.equal(await map(uri), [
          [0, MIB, 0],
          [MIB, 65_536, 1],
          [MIB + 65_536, 3 * MIB - 2 * 65_536, 0],
          [4 * MIB - 65_536, 65_536, 1],
        ]);
      });
    }),
  ),
);

test.run();
