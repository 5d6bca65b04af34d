/**
 * Our client at nbdkit as a bad server: filters that fail, delay, refuse and leave, and plugins in shell that misbehave. Every
 * request ends, in data that is right or in a typed error.
 */
import type { ChildProcess } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { DeviceError, NbdClientOptions } from '../../src/blockdev/index.ts';
import { NbdClient } from '../../src/blockdev/index.ts';
import { eventually, seeded, within } from '../support/index.ts';
import { foreign, inFolder, programSuite } from './nbd-programs.ts';

const test = programSuite('live/nbd-nbdkit', ['nbdkit']);

const MIB = 1024 * 1024;

async function failureOf(work: Promise<unknown>): Promise<DeviceError> {
  try {
    await work;
  } catch (error) {
    return error as DeviceError;
  }
  throw new Error('nothing failed');
}
const codeOf = async (work: Promise<unknown>): Promise<string> => (await failureOf(work)).code;

/** Runs nbdkit with `args` and `body` with its socket. */
async function nbdkit(
  args: readonly string[],
  body: (socket: string, child: ChildProcess, folder: string) => Promise<void>,
): Promise<void> {
  await inFolder(async (folder) => {
    const socket = join(folder, 'socket');
    const filled = args.map((arg) => arg.replaceAll('FOLDER', folder));
    await foreign('nbdkit', ['-f', '--exit-with-parent', '-U', socket, ...filled], socket, (child) =>
      body(socket, child, folder),
    );
  });
}

async function withClient(
  socket: string,
  options: NbdClientOptions,
  body: (client: NbdClient) => Promise<void>,
): Promise<void> {
  const client = await NbdClient.connect(socket, '', options);
  try {
    await body(client);
  } finally {
    await client.close();
  }
}

/** A disk of 1 MiB made of shell snippets. */
const shell = (...snippets: string[]) => ['eval', 'get_size=echo 1048576', ...snippets];

test(
  'error: a fifth of all requests fails; each failure is typed, and what is asked again until it succeeds is there',
  within(
    () =>
      nbdkit(['--filter=error', 'memory', '4M', 'error=EIO', 'error-rate=20%'], (socket) =>
        seeded((random) =>
          withClient(socket, { connections: 3 }, async (client) => {
            const model = Buffer.alloc(4 * MIB);
            let failures = 0;
            const insist = async (work: () => Promise<unknown>) => {
              for (;;) {
                try {
                  await work();
                  return;
                } catch (error) {
                  assert.is((error as DeviceError).code, 'EIO');
                  failures++;
                }
              }
            };
            for (let round = 0; round < 300; round++) {
              const length = 512 * (1 + random.below(200));
              const at = 512 * random.below((4 * MIB - length) / 512);
              const kind = random.below(4);
              if (kind === 0) {
                await insist(() => client.writeZeroes(BigInt(at), BigInt(length)));
                model.fill(0, at, at + length);
              } else if (kind === 1) {
                const bytes = random.fill(Buffer.alloc(length));
                await insist(() => client.writeAt(bytes, BigInt(at), { fua: random.below(2) === 0 }));
                model.set(bytes, at);
              } else if (kind === 2) await insist(() => client.extents(BigInt(at), BigInt(length)));
              else {
                const target = Buffer.alloc(length, 0xee);
                await insist(() => client.readAt(target, BigInt(at)));
                assert.ok(target.equals(model.subarray(at, at + length)), `round ${round}`);
              }
            }
            assert.ok(failures > 20, `${failures} failures`);
            assert.is(client.reconnects, 0, 'an error is no reason to connect again');
          }),
        ),
      ),
    20_000,
  ),
);

test(
  'delay: a server that takes longer than requestTimeoutMs is given up after five times, without a hang',
  within(
    () =>
      nbdkit(['--filter=delay', 'memory', '1M', 'rdelay=3'], async (socket) => {
        await withClient(socket, { requestTimeoutMs: 400 }, async (client) => {
          await client.writeAt(Buffer.alloc(512, 1), 0n);
          assert.is(await codeOf(client.readAt(Buffer.alloc(512), 0n)), 'EIO');
          assert.is(client.state, 'failed');
        });
      }),
    30_000,
  ),
);

test(
  'limit: connections beyond what the server takes are a typed error, none is left, and later there is room again',
  within(
    () =>
      nbdkit(['--filter=limit', 'memory', '1M', 'limit=2'], async (socket) => {
        const many = { connections: 4, connectTimeoutMs: 3_000 };
        // nbdkit closes the connection, or refuses the export, as it finds out.
        assert.match(await codeOf(NbdClient.connect(socket, '', many)), /^(ENOENT|ECONNREFUSED)$/);
        await eventually('room for two', async () => {
          const clients = await Promise.allSettled([1, 2].map(() => NbdClient.connect(socket, '')));
          for (const client of clients) if (client.status === 'fulfilled') await client.value.close();
          return clients.every(({ status }) => status === 'fulfilled');
        });
        await eventually('one with two connections', () =>
          withClient(socket, { connections: 2 }, async (client) => {
            await client.writeAt(Buffer.alloc(512, 3), 512n);
            assert.is(client.connections, 2);
          }).then(
            () => true,
            () => false,
          ),
        );
      }),
    20_000,
  ),
);

test(
  'exitlast: a client that has closed is gone for the server, which ends',
  within(() =>
    nbdkit(['--filter=exitlast', 'memory', '1M'], async (socket, child) => {
      // The probe for the socket was a client, too: whoever comes first after it may find the server leaving.
      const client = await NbdClient.connect(socket, '').catch(() => undefined);
      if (client !== undefined) {
        await client.flush();
        await client.close();
      }
      await eventually('it ends', () => child.exitCode !== null);
      assert.is(child.exitCode, 0);
    }),
  ),
);

test(
  'nocache, swab, readahead and cow: what is written is read; below cow the file is untouched',
  within(
    () =>
      seeded(async (random) => {
        const round = (client: NbdClient) => async () => {
          const bytes = random.fill(Buffer.alloc(100_000));
          await client.writeAt(bytes, 4096n);
          const back = Buffer.alloc(bytes.length);
          await client.readAt(back, 4096n);
          assert.ok(back.equals(bytes));
          await client.flush();
        };
        for (const args of [
          ['--filter=nocache', 'memory', '1M', 'cachemode=none'],
          ['--filter=swab', 'memory', '1M', 'swab-bits=64'],
          ['--filter=readahead', 'memory', '1M'],
          ['--filter=noparallel', '--filter=delay', 'memory', '1M', 'delay-read=1ms'],
        ]) {
          await nbdkit(args, (socket) => withClient(socket, {}, (client) => round(client)()));
        }
        await inFolder(async (folder) => {
          const file = join(folder, 'disk.img');
          const before = Buffer.alloc(MIB, 7);
          writeFileSync(file, before);
          await nbdkit(['--filter=cow', 'file', file], (socket) =>
            withClient(socket, { connections: 2 }, (client) => round(client)()),
          );
          assert.ok(readFileSync(file).equals(before));
        });
      }),
    20_000,
  ),
);

test(
  'retry: a plugin that fails at first is asked again by the server while the client waits',
  within(
    () =>
      nbdkit(
        [
          '--filter=retry',
          ...shell(
            'pread=if [ -e FOLDER/failed ]; then dd if=/dev/zero count=$3 iflag=count_bytes status=none; else touch FOLDER/failed; echo EIO first >&2; exit 1; fi',
          ),
          'retries=3',
          'retry-delay=1',
          'retry-exponential=no',
        ],
        (socket, _child, folder) =>
          withClient(socket, {}, async (client) => {
            const target = Buffer.alloc(512, 0xee);
            await client.readAt(target, 0n);
            assert.ok(target.equals(Buffer.alloc(512)));
            assert.ok(existsSync(join(folder, 'failed')));
            assert.is(client.reconnects, 0);
          }),
      ),
    20_000,
  ),
);

test(
  'a plugin that answers too little, too late, with nonsense or with errors of any kind',
  within(async () => {
    const rows: [string, string, string][] = [
      ['pread', 'echo short', 'EIO'],
      ['pread', 'exit 1', 'EIO'],
      ['pread', 'echo "ENOSPC no room" >&2; exit 1', 'ENOSPC'],
      ['pread', 'echo "EPERM not you" >&2; exit 1', 'EPERM'],
      ['pread', 'echo "ENOTSUP never" >&2; exit 1', 'EINVAL'],
      ['pread', 'echo "ESHUTDOWN going" >&2; exit 1', 'ESHUTDOWN'],
      ['pread', 'kill -9 $$', 'EIO'],
      ['pwrite', 'cat >/dev/null; echo "EDQUOT quota" >&2; exit 1', 'ENOSPC'],
      ['pwrite', 'exit 7', 'EIO'],
    ];
    for (const [method, snippet, code] of rows) {
      const more = method === 'pwrite' ? ['can_write=exit 0', 'pread=exit 1'] : [];
      await nbdkit(shell(`${method}=${snippet}`, ...more), (socket) =>
        withClient(socket, {}, async (client) => {
          const buffer = Buffer.alloc(512, 0xee);
          const work = method === 'pread' ? client.readAt(buffer, 0n) : client.writeAt(buffer, 0n);
          assert.is(await codeOf(work), code, snippet);
          await eventually('it is connected', () => client.state === 'connected');
        }),
      );
    }
    const zeroes = 'dd if=/dev/zero count=$3 iflag=count_bytes status=none';
    for (const snippet of ['echo nonsense', 'exit 1', 'echo 5 10 hole', 'true']) {
      await nbdkit(shell(`pread=${zeroes}`, 'can_extents=exit 0', `extents=${snippet}`), (socket) =>
        withClient(socket, {}, async (client) => {
          const told = await client.extents(0n, 4096n).catch((error: DeviceError) => error.code);
          assert.ok(typeof told === 'string' || told[0]!.length > 0n, snippet);
          await client.readAt(Buffer.alloc(512), 0n);
        }),
      );
    }
  }, 40_000),
);

test(
  'a server that is killed by its own plugin in the middle of a request: the client waits for another one and repeats it',
  within(
    () =>
      inFolder(async (folder) => {
        const socket = join(folder, 'socket');
        const start = ['-f', '--exit-with-parent', '-U', socket];
        const zeroes = 'dd if=/dev/zero count=$3 iflag=count_bytes status=none';
        const dying = shell(`pread=if [ $4 -gt 65536 ]; then kill -9 $PPID; fi; ${zeroes}`);
        let client: NbdClient | undefined;
        let late: Promise<void> | undefined;
        const target = Buffer.alloc(512, 0xee);
        await foreign('nbdkit', [...start, ...dying], socket, async (child) => {
          client = await NbdClient.connect(socket, '');
          await client.readAt(Buffer.alloc(512), 0n);
          late = client.readAt(target, 131_072n);
          await eventually('its end', () => child.exitCode !== null || child.signalCode !== null);
          await eventually('the loss', () => client!.state === 'reconnecting');
        });
        rmSync(socket, { force: true });
        await foreign('nbdkit', [...start, ...shell(`pread=${zeroes}`)], socket, async () => {
          await late;
          assert.ok(target.equals(Buffer.alloc(512)));
          assert.is(client!.reconnects, 1);
          await client!.close();
        });
      }),
    20_000,
  ),
);

test(
  'pause: requests wait while the server stands still, and go on',
  within(() =>
    nbdkit(['--filter=pause', 'memory', '1M', 'pause-control=FOLDER/control'], (socket, _child, folder) =>
      withClient(socket, { connections: 2 }, async (client) => {
        const control = connect(join(folder, 'control'));
        const tell = (letter: string) =>
          new Promise<string>((resolve) => {
            control.once('data', (answer: Buffer) => resolve(answer.toString()));
            control.write(letter);
          });
        assert.is(await tell('p'), 'P');
        let done = 0;
        const all = Array.from({ length: 50 }, (_, i) =>
          client.writeAt(Buffer.alloc(512, i), BigInt(512 * i)).then(() => done++),
        );
        await new Promise((resolve) => setTimeout(resolve, 50));
        assert.equal([done, client.pending], [0, 50]);
        assert.is(await tell('r'), 'R');
        await Promise.all(all);
        const target = Buffer.alloc(512);
        await client.readAt(target, 512n * 49n);
        assert.is(target[0], 49);
        control.destroy();
      }),
    ),
  ),
);

test.run();
