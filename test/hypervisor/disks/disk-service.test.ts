import { spawn } from 'node:child_process';
import { existsSync, lstatSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { NbdClient } from '../../../src/blockdev/index.ts';
import { ChannelClient } from '../../../src/channel/index.ts';
import type { CopyStatus, DiskCommands, DiskEvents } from '../../../src/hypervisor/disks/index.ts';
import { DiskService } from '../../../src/hypervisor/disks/index.ts';
import { errnoOf } from '../../blockdev/device-compliance.ts';
import { eventually, inScratch, within } from '../../support/index.ts';

const disks = suite('hypervisor/disks');
const MIB = 1024 * 1024;

interface Scene {
  readonly service: DiskService;
  readonly events: { name: string; data: unknown }[];
  path(name: string): string;
  /** A client of the export `application` of a socket. */
  client(socket: string): Promise<NbdClient>;
}

/** Two disks, `a-application` served and `b-application` the same size. */
function scene(body: (scene: Scene) => Promise<void>) {
  return within(
    () =>
      inScratch(async (directory) => {
        const events: Scene['events'] = [];
        const service = new DiskService({ emit: (name, data) => events.push({ name, data }) });
        const clients: NbdClient[] = [];
        const path = (name: string) => join(directory, name);
        try {
          for (const id of ['a', 'b'])
            await service.add({ id: `${id}-application`, path: path(`${id}.img`), create: String(8 * MIB) });
          await service.serve({ socket: path('a.sock'), exports: { application: 'a-application' } });
          await body({
            service,
            events,
            path,
            client: async (socket) => {
              const client = await NbdClient.connect(path(socket), 'application', {
                reconnectTimeoutMs: 5000,
              });
              clients.push(client);
              return client;
            },
          });
        } finally {
          for (const client of clients) await client.close();
          await service.close();
        }
      }),
    20_000,
  );
}

const pairs = [{ from: 'a-application', to: 'b-application' }];

async function converged(service: DiskService, copy: string): Promise<CopyStatus> {
  return eventually(`${copy} converged`, () => {
    const status = service.copyStatus({ copy });
    return status.phase === 'converged' ? status : undefined;
  });
}

disks(
  'a disk is added once; again with the same arguments it is told, with others it is in use',
  scene(async ({ service, path }) => {
    const again = await service.add({ id: 'a-application', path: path('a.img'), create: String(8 * MIB) });
    assert.is(again.size, String(8 * MIB));
    assert.is(await errnoOf(() => service.add({ id: 'c', path: path('a.img') })), 'in-use');
    assert.is(await errnoOf(() => service.add({ id: 'a-application', path: path('b.img') })), 'in-use');
    assert.is(
      await errnoOf(() => service.add({ id: 'a-application', path: path('a.img'), create: '512' })),
      'size-mismatch',
    );
    assert.is(await errnoOf(() => service.add({ id: 'x', path: path('none.img') })), 'ENOENT');
    assert.is(await errnoOf(() => service.add({ id: 'x', path: path('x'), create: '1 MiB' })), 'EINVAL');
    assert.is(await errnoOf(() => service.remove({ id: 'a-application' })), 'in-use');
    await service.serveStop({ socket: path('a.sock') });
    await service.remove({ id: 'a-application' });
    await service.remove({ id: 'a-application' });
    assert.equal(
      service.status({}).map((disk) => disk.id),
      ['b-application'],
    );
    assert.is(await errnoOf(() => service.status({ id: 'a-application' })), 'unknown-disk');
  }),
);

disks(
  'a standby’s disk cannot be reached before its cut, and can after it',
  scene(async ({ service, path, client }) => {
    const guest = await client('a.sock');
    await guest.writeAt(Buffer.alloc(MIB, 7), 0n);
    const logDirectory = path('log');
    await service.copyStart({ copy: 'c', pairs, logDirectory });
    const standby = { socket: path('b.sock'), exports: { application: 'b-application' } };
    assert.is(await errnoOf(() => service.serve(standby)), 'not-valid');
    await converged(service, 'c');
    assert.is(await errnoOf(() => service.serve(standby)), 'not-valid');
    const cut = await service.copyCut({ copy: 'c', fence: 'refuse', verify: true });
    await service.serve(standby);
    const out = Buffer.alloc(16);
    await (await client('b.sock')).readAt(out, 100n);
    assert.ok(out.equals(Buffer.alloc(16, 7)));
    const again = await service.copyCut({ copy: 'c', fence: 'refuse', verify: true });
    assert.equal(again, cut, 'who lost the answer asks again');
    assert.is((await service.copyStart({ copy: 'c', pairs, logDirectory })).phase, 'cut');
  }),
);

disks(
  'a cut that is undone while it is under way leaves no fence behind',
  scene(async ({ service, path, client }) => {
    const guest = await client('a.sock');
    await guest.writeAt(Buffer.alloc(MIB, 7), 0n);
    await service.copyStart({ copy: 'c', pairs, logDirectory: path('log') });
    await converged(service, 'c');
    const cut = service.copyCut({ copy: 'c', fence: 'refuse' });
    const [{ fence }] = await Promise.all([service.fence({ id: 'a-application', mode: 'none' }), cut]);
    assert.is(fence, 'none');
    await guest.writeAt(Buffer.alloc(512, 8), 0n);
  }),
);

disks(
  'late writes are refused, counted and told; the fence outlives the process',
  scene(async ({ service, events, path, client }) => {
    const guest = await client('a.sock');
    await service.fence({ id: 'a-application', mode: 'refuse' });
    assert.is(await errnoOf(() => guest.writeAt(Buffer.alloc(512), 4096n)), 'EROFS');
    const [status] = service.status({ id: 'a-application' });
    assert.is(status?.lateWrites, 1);
    assert.is(status?.lateBytes, '512');
    assert.equal(
      events.filter((event) => event.name === 'LATE_WRITE').map((event) => event.data),
      [{ id: 'a-application', offset: '4096', length: '512' }],
    );
    await service.serveStop({ socket: path('a.sock') });
    await service.remove({ id: 'a-application' });
    assert.is((await service.add({ id: 'a-application', path: path('a.img') })).fence, 'refuse');
    await service.fence({ id: 'a-application', mode: 'none' });
    await service.remove({ id: 'a-application' });
    assert.is((await service.add({ id: 'a-application', path: path('a.img') })).fence, 'none');
    await service.remove({ id: 'a-application' });
    writeFileSync(`${path('a.img')}.fence`, 'what?');
    assert.is(await errnoOf(() => service.add({ id: 'a-application', path: path('a.img') })), 'fence-file');
  }),
);

disks(
  'late writes set aside are kept when the fence goes, and the next fence begins with none',
  scene(async ({ service, path, client }) => {
    const guest = await client('a.sock');
    const set = { id: 'a-application', mode: 'set-aside' as const };
    await service.fence(set);
    await service.fence(set);
    await guest.writeAt(Buffer.alloc(512, 5), 0n);
    const out = Buffer.alloc(1);
    await guest.readAt(out, 0n);
    assert.is(out[0], 5);
    await service.fence({ id: 'a-application', mode: 'none' });
    await guest.readAt(out, 0n);
    assert.is(out[0], 0);
    assert.ok(readdirSync(path('.')).some((name) => name.startsWith('a.img.aside.released-')));
    assert.is((await service.fence(set)).lateWrites, 0);
    await guest.readAt(out, 0n);
    assert.is(out[0], 0);
    await service.fence({ id: 'a-application', mode: 'refuse' });
    assert.is(await errnoOf(() => guest.writeAt(Buffer.alloc(512), 0n)), 'EROFS');
  }),
);

disks(
  'cut, reverse log, way back: both disks are equal and the first one is served again',
  scene(async ({ service, path, client }) => {
    const guest = await client('a.sock');
    await guest.writeAt(Buffer.alloc(4096, 1), 0n);
    await service.copyStart({ copy: 'c', pairs, logDirectory: path('log') });
    await converged(service, 'c');
    await service.copyCut({ copy: 'c', fence: 'refuse' });
    const back = [{ from: 'b-application', to: 'a-application' }];
    const reverse = { copy: 'r', pairs: back, logDirectory: path('back') };
    assert.is((await service.reverseStart(reverse)).phase, 'converged');
    assert.is((await service.reverseStart(reverse)).phase, 'converged');
    await service.serve({ socket: path('b.sock'), exports: { application: 'b-application' } });
    const standby = await client('b.sock');
    await standby.writeAt(Buffer.alloc(4096, 2), 8192n);
    assert.is(service.status({ id: 'b-application' })[0]?.log?.sequence, '1');
    const round = await service.copyRound({ copy: 'r' });
    assert.is(round.delta, '0');
    await service.copyCut({ copy: 'r', fence: 'refuse', verify: true });
    assert.is(service.status({ id: 'b-application' })[0]?.log, undefined);
    await service.fence({ id: 'a-application', mode: 'none' });
    const [a, b] = await Promise.all([
      service.hash({ id: 'a-application', unchanged: true }),
      service.hash({ id: 'b-application' }),
    ]);
    assert.is(a.sha256, b.sha256);
    await guest.writeAt(Buffer.alloc(512, 9), 0n);
    await service.serveStop({ socket: path('b.sock') });
    // The next way back begins a log of its own in the same place.
    await service.copyStart({ copy: 'c2', pairs, logDirectory: path('log') });
    await converged(service, 'c2');
    await service.copyCut({ copy: 'c2', fence: 'refuse' });
    await service.fence({ id: 'b-application', mode: 'none' });
    assert.is((await service.reverseStart({ ...reverse, copy: 'r2' })).delta, '0');
    await service.copyCancel({ copy: 'r2' });
    assert.not.ok(existsSync(join(path('back'), 'b-application')));
    assert.is(service.copyStatus({ copy: 'r2' }).phase, 'cancelled');
  }),
);

disks(
  'a copy is refused onto a disk that is served, twice from one disk, and with unknown disks',
  scene(async ({ service, path }) => {
    const logDirectory = path('log');
    const start = (copy: string, from: string, to: string) =>
      errnoOf(() => service.copyStart({ copy, pairs: [{ from, to }], logDirectory }));
    assert.is(await start('c', 'b-application', 'a-application'), 'in-use');
    assert.is(await start('c', 'a-application', 'a-application'), 'EINVAL');
    assert.is(await start('c', 'a-application', 'none'), 'unknown-disk');
    assert.is(await errnoOf(() => service.copyStart({ copy: 'c', pairs: [], logDirectory })), 'EINVAL');
    assert.is(await start('c', 'a-application', 'b-application'), undefined);
    await service.add({ id: 'd', path: path('d.img'), create: String(8 * MIB) });
    assert.is(await start('c2', 'a-application', 'd'), 'in-use');
    assert.is(await start('c', 'd', 'b-application'), 'in-use');
    assert.is(await start('c3', 'd', 'b-application'), 'in-use');
    assert.is(await errnoOf(() => service.remove({ id: 'b-application' })), 'in-use');
    assert.is(await errnoOf(() => service.copyStatus({ copy: 'zz' })), 'unknown-copy');
    assert.is(await errnoOf(() => service.copyCancel({ copy: 'zz' })), 'unknown-copy');
    await service.add({ id: 'small', path: path('s.img'), create: String(MIB) });
    assert.is(await start('c4', 'd', 'small'), 'size-mismatch');
    await service.copyCancel({ copy: 'c' });
    assert.is(await start('c', 'a-application', 'b-application'), undefined, 'a cancelled one starts anew');
    await service.copyCancel({ copy: 'c' });
  }),
);

disks(
  'the hash of a disk that was written since its cut is refused when it must be unchanged',
  scene(async ({ service, path, client }) => {
    const guest = await client('a.sock');
    await service.copyStart({ copy: 'c', pairs, logDirectory: path('log') });
    await converged(service, 'c');
    await service.copyCut({ copy: 'c' });
    await guest.writeAt(Buffer.alloc(1, 1), 0n);
    assert.is(await errnoOf(() => service.hash({ id: 'a-application', unchanged: true })), 'changed');
    const { sha256 } = await service.hash({ id: 'b-application', unchanged: true });
    // SHA-256 of 8 MiB of zeroes.
    assert.is(sha256, '2daeb1f36095b44b318410b3f4e8b5d989dcc7bb023d1426c492dab0a3053e74');
  }),
);

disks(
  'phases of a copy are told as they change',
  scene(async ({ service, events, path }) => {
    await service.copyStart({ copy: 'c', pairs, logDirectory: path('log') });
    await converged(service, 'c');
    await service.copyCut({ copy: 'c' });
    const phases = events
      .filter((event) => event.name === 'COPY_PROGRESS')
      .map((event) => (event.data as DiskEvents['COPY_PROGRESS']).status.phase);
    assert.equal(
      phases.filter((phase, i) => phase !== phases[i - 1]),
      ['copying', 'replaying', 'converged', 'cut'],
    );
    assert.ok(service.counters()['disks'] === 2);
  }),
);

disks(
  'the process: killed in the probation it goes on with fence and reverse log; SIGTERM ends it cleanly',
  within(
    () =>
      inScratch(async (directory) => {
        const socket = join(directory, 'block.sock');
        const program = fileURLToPath(new URL('../../../src/daemon/processes/block.ts', import.meta.url));
        const start = async () => {
          const argv = ['--disable-warning=ExperimentalWarning', program, '--socket', socket, '--lifeline'];
          const child = spawn(process.execPath, argv, { stdio: ['pipe', 'ignore', 'ignore'] });
          const ended = new Promise((resolve) =>
            child.once('close', (code, signal) => resolve(code ?? signal)),
          );
          const channel = await ChannelClient.connect<DiskCommands, DiskEvents>(socket, 'block', {
            waitMs: 15_000,
          });
          return { child, ended, channel };
        };
        let { child, ended, channel } = await start();
        const image = (name: string) => join(directory, `${name}.img`);
        const reverse = {
          copy: 'r',
          pairs: [{ from: 'b-application', to: 'a-application' }],
          logDirectory: join(directory, 'back'),
        };
        const serve = { socket: join(directory, 'b.sock'), exports: { application: 'b-application' } };
        for (const id of ['a', 'b'])
          await channel.execute('disk-add', {
            id: `${id}-application`,
            path: image(id),
            create: String(MIB),
          });
        await channel.execute('fence', { id: 'a-application', mode: 'refuse' });
        await channel.execute('reverse-start', reverse);
        await channel.execute('serve', serve);
        const guest = await NbdClient.connect(serve.socket, 'application', { reconnectTimeoutMs: 15_000 });
        await guest.writeAt(Buffer.alloc(4096, 3), 4096n);
        child.kill('SIGKILL');
        assert.is(await ended, 'SIGKILL');
        const write = guest.writeAt(Buffer.alloc(4096, 4), 65_536n);
        ({ child, ended, channel } = await start());
        for (const id of ['a', 'b'])
          await channel.execute('disk-add', { id: `${id}-application`, path: image(id) });
        const [a] = await channel.execute('disk-status', { id: 'a-application' });
        assert.is(a?.fence, 'refuse');
        await channel.execute('reverse-start', reverse);
        await channel.execute('serve', serve);
        await write;
        await channel.execute('copy-cut', { copy: 'r', fence: 'refuse', verify: true });
        const hashes = [];
        for (const id of ['a', 'b'])
          hashes.push((await channel.execute('hash', { id: `${id}-application` })).sha256);
        assert.is(hashes[0], hashes[1]);
        await guest.close();
        child.kill('SIGTERM');
        assert.is(await ended, 0);
        assert.is(lstatSync(`${image('a')}.lock`, { throwIfNoEntry: false }), undefined);
        ({ child, ended, channel } = await start());
        child.stdin?.end();
        assert.is(await ended, 0, 'the end of the lifeline');
      }),
    60_000,
  ),
);

disks.run();
