/**
 * A host in small: block and mux process, a Hypervisor, partitions with the images given, and a client of our own at a probe
 * port, so that no root and no TAP is needed.
 */
import { spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import { request } from 'node:http';
import { dirname, join, resolve } from 'node:path';
import { createImage } from '../../src/blockdev/index.ts';
import { ChannelClient } from '../../src/channel/index.ts';
import { systemClock, systemRandom } from '../../src/common/index.ts';
import type {
  DiskCommands,
  DiskEvents,
  MuxCommands,
  MuxEvents,
  PartitionConfig,
} from '../../src/hypervisor/index.ts';
import { Hypervisor, ProcessKind } from '../../src/hypervisor/index.ts';
import { cidr, connectOn, macAddress, NetFace, Stack, StreamLink } from '../../src/netstack/index.ts';

const MIB = 1024 * 1024;
const START_MS = 20_000;
const processes = resolve(import.meta.dirname, '../../src/daemon/processes');

export interface Answer {
  readonly status: number;
  readonly text: string;
}

export interface Machine {
  readonly hypervisor: Hypervisor;
  readonly mux: ChannelClient<MuxCommands, MuxEvents>;
  readonly disks: ChannelClient<DiskCommands, DiskEvents>;
  readonly directory: string;
  image(partition: string, role: 'system' | 'application'): string;
  /** Defines a partition with fresh images; `files` are those of its system disk, `further` the addresses of each further network device. */
  partition(
    id: string,
    number: number,
    files: Readonly<Record<string, string>>,
    further?: readonly (readonly string[])[],
  ): Promise<PartitionConfig>;
  /** Asks a partition over the private path. */
  ask(
    port: string,
    address: string,
    path: string,
    options?: { method?: string; body?: string },
  ): Promise<Answer>;
  /** A hypervisor like the first, as after a restart of the control process. */
  another(): Hypervisor;
}

export async function withMachine(
  directory: string,
  body: (machine: Machine) => Promise<void>,
): Promise<void> {
  const run = join(directory, 'run');
  mkdirSync(run);
  // The product runs under plain Node: the test's own loader is not handed down.
  const { NODE_OPTIONS: _options, ...env } = process.env;
  const start = (name: string) =>
    spawn(
      process.execPath,
      [join(processes, `${name}.ts`), '--control', join(run, `${name}.sock`), '--lifeline'],
      {
        stdio: ['pipe', 'ignore', 'ignore'],
        env,
      },
    );
  const children = [start('block'), start('mux')];
  let hypervisor: Hypervisor | undefined;
  try {
    const [disks, mux] = await Promise.all([
      ChannelClient.connect<DiskCommands, DiskEvents>(join(run, 'block.sock'), 'block', { waitMs: START_MS }),
      ChannelClient.connect<MuxCommands, MuxEvents>(join(run, 'mux.sock'), 'mux', { waitMs: START_MS }),
    ]);
    const another = () =>
      new Hypervisor({
        runDirectory: run,
        mux,
        disks,
        lifeline: true,
        kinds: { process: new ProcessKind({ limits: false }) },
      });
    hypervisor = another();
    const image = (id: string, role: string) => join(directory, `${id}-${role}.img`);
    const client = await probe(run, mux);
    await body({
      hypervisor,
      mux,
      disks,
      directory,
      image,
      another,
      partition: async (id, number, files, further = []) => {
        const root = join(directory, `${id}-root`);
        for (const [path, text] of Object.entries(files)) {
          mkdirSync(dirname(join(root, path)), { recursive: true });
          writeFileSync(join(root, path), text);
        }
        await createImage({ path: image(id, 'system'), sizeBytes: 16 * MIB, fromDirectory: root });
        await createImage({ path: image(id, 'application'), sizeBytes: 16 * MIB });
        const config: PartitionConfig = {
          id,
          kind: 'process',
          processor: { cpu: 0, sharePercent: 50 },
          memoryMiB: 128,
          disks: [
            { role: 'system', path: image(id, 'system') },
            { role: 'application', path: image(id, 'application') },
          ],
          network: [[], ...further].map((addresses, i) => ({
            name: `${id}-net${i + 1}`,
            mac: `02:00:00:00:0${i}:${number.toString(16).padStart(2, '0')}`,
            addresses,
          })),
        };
        hypervisor!.definePartition(config);
        return config;
      },
      ask: async (port, address, path, options = {}) => {
        await mux.execute('private-path', { probe: 'probe', port });
        return ask(client.face, address, path, options);
      },
    });
    client.close();
  } finally {
    await hypervisor?.close();
    for (const child of children) child.stdin?.end();
    await Promise.all(children.map((child) => new Promise((done) => child.once('exit', done))));
  }
}

async function probe(run: string, mux: ChannelClient<MuxCommands, MuxEvents>) {
  const socket = join(run, 'probe.sock');
  const mac = '02:00:00:00:00:fe';
  await mux.execute('port-add', {
    name: 'probe',
    socket,
    mac,
    addresses: [],
    role: 'probe',
    vnetHeader: true,
  });
  const link = new StreamLink({ path: socket, name: 'probe' });
  await link.ready();
  const stack = new Stack({
    clock: systemClock,
    random: systemRandom,
    link,
    mac: macAddress(mac),
    addresses: [cidr('10.77.0.254/24'), cidr('10.88.0.254/24')],
  });
  return { face: new NetFace(stack), close: () => link.close() };
}

function ask(
  face: NetFace,
  host: string,
  path: string,
  options: { method?: string; body?: string },
): Promise<Answer> {
  return new Promise((done, failed) => {
    const asked = request(
      {
        path,
        method: options.method ?? 'GET',
        headers: { connection: 'close' },
        createConnection: () => connectOn(face, { host, port: 80 }),
      },
      (response: IncomingMessage) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (part: string) => {
          text += part;
        });
        response.on('end', () => done({ status: response.statusCode ?? 0, text }));
      },
    );
    asked.on('error', failed);
    asked.end(options.body);
  });
}
