/** B1, B2: our NBD server against nbdkit and qemu-nbd, without and with the write log. fio is the client. */
import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Absent, Bench, Contender, Figure, Stage, Subject } from './framework/index.ts';
import { CHANGEOVER, missing, onStage } from './framework/index.ts';
import { filledImage, folderOf } from './images.ts';

const MIB = 1024 * 1024;
const NBDKIT = 'nbdkit file';
const QEMU = 'qemu-nbd';
const LOG_OFF = 'log off';
const BLKLOGWRITES = 'QEMU blklogwrites';

interface Workload {
  readonly what: string;
  readonly rw: 'randread' | 'randwrite' | 'read' | 'write';
  readonly blockBytes: number;
  readonly depth: number;
  readonly goals: Readonly<Record<string, number>>;
}

const shallow = { [NBDKIT]: 0.8, [QEMU]: 0.8 };
const deep = { [NBDKIT]: 1, [QEMU]: 2.5 };
const WORKLOADS: readonly Workload[] = [
  { what: 'random read 4 KiB, depth 1', rw: 'randread', blockBytes: 4096, depth: 1, goals: shallow },
  { what: 'random read 4 KiB, depth 32', rw: 'randread', blockBytes: 4096, depth: 32, goals: deep },
  { what: 'random write 4 KiB, depth 1', rw: 'randwrite', blockBytes: 4096, depth: 1, goals: shallow },
  { what: 'random write 4 KiB, depth 32', rw: 'randwrite', blockBytes: 4096, depth: 32, goals: deep },
  { what: 'sequential read 1 MiB', rw: 'read', blockBytes: MIB, depth: 4, goals: shallow },
  { what: 'sequential write 1 MiB', rw: 'write', blockBytes: MIB, depth: 4, goals: shallow },
];

export const nbdSubject: Subject = {
  ids: ['B1', 'B2'],
  async run(bench) {
    const lacking = missing('fio');
    if (lacking !== undefined) {
      for (const id of this.ids) if (bench.wants(id)) bench.skip(id, lacking);
      return;
    }
    const sizeBytes = (bench.quick ? 64 : 256) * MIB;
    if (bench.wants('B1')) await onStage((stage) => plain(bench, stage, sizeBytes));
    if (bench.wants('B2')) await onStage((stage) => logged(bench, stage, sizeBytes));
  },
};

async function plain(bench: Bench, stage: Stage, sizeBytes: number): Promise<void> {
  const folder = folderOf(bench, 'b1');
  const serve = async (
    name: string,
    program: string | undefined,
    argv: (socket: string, image: string) => readonly string[],
  ): Promise<(workload: Workload) => Contender | Absent> => {
    const lacking = program === undefined ? undefined : missing(program);
    if (lacking !== undefined) return () => ({ name, absent: lacking });
    const socket = join(folder, `${name.replaceAll(' ', '-')}.sock`);
    const image = filledImage(`${socket}.img`, sizeBytes);
    await stage.start(argv(socket, image), { ready: () => existsSync(socket) });
    return (workload) => ({
      name,
      sample: async () => [await fio(bench, stage, workload, sizeBytes, socket)],
    });
  };
  const ours = await serve('changeover nbd', undefined, (socket, image) => [
    ...[...CHANGEOVER, 'nbd', image, '--socket', socket],
  ]);
  const peers = [
    await serve(NBDKIT, 'nbdkit', (socket, image) => ['nbdkit', '-f', '-U', socket, 'file', image]),
    await serve(QEMU, 'qemu-nbd', (socket, image) => [
      ...['qemu-nbd', '--persistent', '--shared=4', '-k', socket, '-f', 'raw', image],
    ]),
  ];
  for (const workload of WORKLOADS) {
    await bench.race({
      id: 'B1',
      figures: [figureOf(workload, workload.goals)],
      ours: ours(workload) as Contender,
      peers: peers.map((peer) => peer(workload)),
    });
  }
  rmSync(folder, { recursive: true });
}

/** Every sample has a server and a log of its own, so that none carries what an earlier one wrote. */
async function logged(bench: Bench, stage: Stage, sizeBytes: number): Promise<void> {
  const folder = folderOf(bench, 'b2');
  const image = filledImage(join(folder, 'ours.img'), sizeBytes);
  const theirs = filledImage(join(folder, 'qemu.img'), sizeBytes);
  const log = join(folder, 'log');
  const blklog = join(folder, 'blklogwrites.img');
  const socket = join(folder, 'nbd.sock');
  const ours = [...CHANGEOVER, 'nbd', image, '--socket', socket];
  const node = `driver=blklogwrites,file.driver=file,file.filename=${theirs},log.driver=file,log.filename=${blklog}`;
  for (const workload of WORKLOADS.filter(({ rw }) => rw.endsWith('write'))) {
    const contender = (name: string, argv: readonly string[]): Contender => ({
      name,
      async sample() {
        for (const path of [socket, log, blklog]) rmSync(path, { recursive: true, force: true });
        // QEMU wants a file that is there, and lets it grow.
        writeFileSync(blklog, '');
        const server = await stage.start(argv, { ready: () => existsSync(socket) });
        try {
          return [await fio(bench, stage, workload, sizeBytes, socket)];
        } finally {
          await server.stop();
        }
      },
    });
    const random = workload.rw === 'randwrite';
    await bench.race({
      id: 'B2',
      figures: [
        figureOf(
          { ...workload, what: `${workload.what}, logged` },
          { [LOG_OFF]: random ? 0.7 : 0.5, [BLKLOGWRITES]: 2 },
        ),
      ],
      ours: contender('changeover nbd --write-log', [...ours, '--write-log', log]),
      peers: [
        contender(LOG_OFF, ours),
        missing('qemu-nbd') === undefined
          ? contender(BLKLOGWRITES, [
              ...['qemu-nbd', '--persistent', '--shared=4', '-k', socket, '--image-opts', node],
            ])
          : { name: BLKLOGWRITES, absent: 'qemu-nbd is not installed' },
      ],
    });
  }
  rmSync(folder, { recursive: true });
}

function figureOf({ what, blockBytes }: Workload, goals: Readonly<Record<string, number>>): Figure {
  return { what, unit: blockBytes < MIB ? 'perSecond' : 'bytesPerSecond', better: 'more', goals };
}

/** Requests per second of small blocks, bytes per second of large ones. */
async function fio(
  bench: Bench,
  stage: Stage,
  { rw, blockBytes, depth }: Workload,
  sizeBytes: number,
  socket: string,
): Promise<number> {
  const output = await stage.run([
    ...['fio', '--name=bench', '--output-format=json', '--ioengine=nbd'],
    ...[`--uri=nbd+unix:///?socket=${socket}`, `--rw=${rw}`, `--bs=${blockBytes}`, `--iodepth=${depth}`],
    ...[
      `--size=${sizeBytes}`,
      '--time_based',
      `--runtime=${bench.quick ? 600 : 1500}ms`,
      '--ramp_time=400ms',
    ],
    ...['--norandommap', '--randrepeat=0'],
  ]);
  const { jobs } = JSON.parse(output.slice(output.indexOf('{'))) as {
    jobs: [{ read: { iops: number; bw_bytes: number }; write: { iops: number; bw_bytes: number } }];
  };
  const side = rw.endsWith('read') ? jobs[0].read : jobs[0].write;
  return blockBytes < MIB ? side.iops : side.bw_bytes;
}
