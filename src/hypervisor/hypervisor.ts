/**
 * The logical partitioning mechanism [110] as one object: it composes the mux process, the block process, the guest kinds,
 * the partitions and the resource table. A start attaches in this order: disks, NBD exports, port; then the guest boots.
 */
import { accessSync, constants, mkdirSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Device } from '../blockdev/index.ts';
import { NbdClient } from '../blockdev/index.ts';
import type { Channel } from '../channel/index.ts';
import type { Log } from '../common/index.ts';
import { CodedError, reach, silentLog } from '../common/index.ts';
import type { ControlProgram } from './control-program/index.ts';
import type { InjectedFile } from './disk-files.ts';
import { extractFile, injectFiles } from './disk-files.ts';
import type { DiskCommands, DiskEvents } from './disks/commands.ts';
import type { GuestKind, GuestSpec } from './guest-kind/index.ts';
import { ProcessKind } from './guest-kind/index.ts';
import type { MuxCommands, MuxEvents } from './mux/commands.ts';
import type {
  DiskConfig,
  DiskRole,
  PartitionConfig,
  PartitionState,
  PartitionStatus,
  StartOptions,
} from './partition/index.ts';
import { deviceOf, diskId, Partition } from './partition/index.ts';
import { ResourceTable, rowOf } from './resource-table/index.ts';
import type { RunPaths } from './run-paths.ts';
import { runPaths } from './run-paths.ts';

/** Codes: `unknown-partition`, `invalid-partition`, `defined-twice`, `no-disk`, `still-running`. */
export class HypervisorError extends CodedError {}

export type MuxClient = Channel<MuxCommands, MuxEvents>;
export type DisksClient = Channel<DiskCommands, DiskEvents>;

export interface HypervisorOptions {
  readonly runDirectory: string;
  readonly mux: MuxClient;
  readonly disks: DisksClient;
  readonly log?: Log;
  /** Guests end as soon as this process does. Default false: they go on, and are adopted again. */
  readonly lifeline?: boolean;
  /** A running guest whose agent does not answer for so long is killed, ms. Default: nobody looks. */
  readonly answerMs?: number;
  /**
   * Compiled modules of guests, kept from boot to boot; nobody else may write there. Default: node_modules/.cache of the
   * product where that is ours to write, else a folder of the run directory.
   */
  readonly cacheDirectory?: string;
  /** Default: `process` guests run by the Node that runs us, under control groups. */
  readonly kinds?: Readonly<Record<PartitionConfig['kind'], GuestKind>>;
}

export interface StateChange {
  readonly id: string;
  readonly state: PartitionState;
  readonly reason?: string;
}

export interface HypervisorSurface {
  readonly paths: RunPaths;
  readonly resources: ResourceTable;
  definePartition(config: PartitionConfig): void;
  /** What `definePartition` was given. Throws `unknown-partition`. */
  partitionConfig(id: string): PartitionConfig;
  /** disk-add, serve, port-add, spawn, `ready`, then the application when asked. */
  startPartition(id: string, options: StartOptions): Promise<PartitionStatus>;
  stopPartition(id: string, options?: { timeoutMs?: number }): Promise<PartitionStatus>;
  /** Step 708: stop, start with the same options unless others are given. */
  restartPartition(id: string, options?: Partial<StartOptions>): Promise<PartitionStatus>;
  /** Takes over a guest that still runs; false when none answers at its agent socket. */
  adoptPartition(id: string): Promise<boolean>;
  /** The application disk becomes an export of the running partition (or ceases to be one). */
  exportApplicationDisk(id: string, exported: boolean): Promise<void>;
  control(id: string): ControlProgram;
  status(): Promise<PartitionStatus[]>;
  partitionStatus(id: string): Promise<PartitionStatus>;
  /** Steps 705, 706: puts files on a disk of a partition that does not run. */
  inject(id: string, role: DiskRole, files: readonly InjectedFile[]): Promise<void>;
  extract(id: string, role: DiskRole, path: string): Promise<Buffer>;
  /** Returns the function that takes the listener off again. */
  onStateChange(listener: (change: StateChange) => void): () => void;
  /** Lets go of the guests; they run on unless `lifeline` was asked. */
  close(): Promise<void>;
}

const ID = /^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$/;

export class Hypervisor implements HypervisorSurface {
  readonly paths: RunPaths;
  readonly resources = new ResourceTable();
  readonly #mux: MuxClient;
  readonly #disks: DisksClient;
  readonly #log: Log;
  readonly #lifeline: boolean;
  readonly #answerMs: number | undefined;
  readonly #cacheDirectory: string;
  readonly #kinds: Readonly<Record<PartitionConfig['kind'], GuestKind>>;
  readonly #partitions = new Map<string, Partition>();
  readonly #listeners = new Set<(change: StateChange) => void>();

  constructor(options: HypervisorOptions) {
    this.paths = runPaths(options.runDirectory);
    this.#mux = options.mux;
    this.#disks = options.disks;
    this.#log = options.log ?? silentLog;
    this.#lifeline = options.lifeline ?? false;
    this.#answerMs = options.answerMs;
    this.#kinds = options.kinds ?? { process: new ProcessKind() };
    for (const directory of this.paths.directories) mkdirSync(directory, { recursive: true, mode: 0o700 });
    this.#cacheDirectory = options.cacheDirectory ?? productCache() ?? this.paths.cache;
  }

  /** Throws HypervisorError `invalid-partition`, `defined-twice`. */
  definePartition(config: PartitionConfig): void {
    check(config);
    if (this.#partitions.has(config.id)) {
      throw new HypervisorError('defined-twice', `partition ${config.id} is defined already`, {
        values: { partition: config.id },
        remedy: 'give every partition an id of its own',
      });
    }
    const partition = new Partition(config, this.#kinds[config.kind], this.#log, this.#answerMs);
    partition.lifecycle.onChange((state, reason) => {
      const change = { id: config.id, state, ...(reason === undefined ? {} : { reason }) };
      for (const listener of this.#listeners) listener(change);
    });
    this.#partitions.set(config.id, partition);
    this.resources.set(rowOf(config, false, sizesOnDisk(config.disks)));
  }

  partitionConfig(id: string): PartitionConfig {
    return this.#partition(id).config;
  }

  async startPartition(id: string, options: StartOptions): Promise<PartitionStatus> {
    const partition = this.#partition(id);
    reach('partition.before-disks');
    await this.#attachDisks(partition, options.applicationDisk);
    reach('partition.before-port');
    await this.#attachPorts(partition, options);
    reach('partition.before-spawn');
    await partition.start({ ...this.#spec(partition), addresses: options.addresses }, options);
    reach('partition.running');
    return partition.status();
  }

  async stopPartition(id: string, options: { timeoutMs?: number } = {}): Promise<PartitionStatus> {
    const partition = this.#partition(id);
    reach('partition.before-stop');
    await partition.stop(options.timeoutMs);
    reach('partition.stopped');
    await this.#disks.execute('serve-stop', { socket: this.paths.nbd(id) });
    // Left by a control process that ended while it wrote files into the disk.
    await this.#disks.execute('serve-stop', { socket: this.#filesSocket(id) });
    return partition.status();
  }

  async restartPartition(id: string, options: Partial<StartOptions> = {}): Promise<PartitionStatus> {
    const partition = this.#partition(id);
    const before = partition.options;
    await this.stopPartition(id, options.timeoutMs === undefined ? {} : { timeoutMs: options.timeoutMs });
    return this.startPartition(id, {
      addresses: [],
      isolated: true,
      applicationDisk: false,
      startApplication: false,
      ...before,
      ...options,
    });
  }

  async adoptPartition(id: string): Promise<boolean> {
    const partition = this.#partition(id);
    const device = partition.config.network[0];
    const adopted = await partition.adopt(this.#spec(partition));
    if (!adopted || partition.options === undefined) return adopted;
    const ports = await this.#mux.execute('ports', {});
    const port = ports.find((candidate) => candidate.name === device?.name);
    partition.options = { ...partition.options, isolated: port?.state === 'isolated' };
    return true;
  }

  async exportApplicationDisk(id: string, exported: boolean): Promise<void> {
    const partition = this.#partition(id);
    if (exported) this.#disk(partition, 'application');
    await this.#attachDisks(partition, exported);
    if (partition.options !== undefined)
      partition.options = { ...partition.options, applicationDisk: exported };
  }

  control(id: string): ControlProgram {
    return this.#partition(id).control;
  }

  status(): Promise<PartitionStatus[]> {
    return Promise.all([...this.#partitions.values()].map((partition) => partition.status()));
  }

  async partitionStatus(id: string): Promise<PartitionStatus> {
    return this.#partition(id).status();
  }

  async inject(id: string, role: DiskRole, files: readonly InjectedFile[]): Promise<void> {
    await this.#withDisk(id, role, (device) => injectFiles(device, files));
  }

  extract(id: string, role: DiskRole, path: string): Promise<Buffer> {
    return this.#withDisk(id, role, (device) => extractFile(device, path));
  }

  onStateChange(listener: (change: StateChange) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async close(): Promise<void> {
    if (this.#lifeline)
      await Promise.all([...this.#partitions.values()].map((partition) => partition.stop()));
    else for (const partition of this.#partitions.values()) partition.release();
    this.#listeners.clear();
  }

  #partition(id: string): Partition {
    const partition = this.#partitions.get(id);
    if (partition === undefined) {
      throw new HypervisorError('unknown-partition', `there is no partition ${id}`, {
        values: { partition: id },
        remedy: `known are: ${[...this.#partitions.keys()].join(', ') || 'none'}`,
      });
    }
    return partition;
  }

  #disk(partition: Partition, role: DiskRole): DiskConfig {
    const disk = partition.config.disks.find((candidate) => candidate.role === role);
    if (disk === undefined) {
      throw new HypervisorError('no-disk', `partition ${partition.id} has no ${role} disk`, {
        values: { partition: partition.id, role },
        remedy: 'add one to its configuration',
      });
    }
    return disk;
  }

  #spec(partition: Partition): Omit<GuestSpec, 'addresses'> {
    const { id, config } = partition;
    return {
      config,
      portSockets: config.network.map((_, i) => this.paths.port(id, i)),
      blockSocket: this.paths.nbd(id),
      agentSocket: this.paths.agent(id),
      bootFile: this.paths.boot(id),
      scratchDirectory: this.paths.scratch(id),
      logFile: this.paths.log(id),
      cacheDirectory: this.#cacheDirectory,
      lifeline: this.#lifeline,
    };
  }

  async #attachDisks(partition: Partition, applicationDisk: boolean): Promise<void> {
    const disks = partition.config.disks.filter(({ role }) => role !== 'application' || applicationDisk);
    await Promise.all(disks.map((disk) => this.#addDisk(partition, disk)));
    const exports = Object.fromEntries(disks.map(({ role }) => [role, diskId(partition.id, role)]));
    await this.#disks.execute('serve', { socket: this.paths.nbd(partition.id), exports });
  }

  async #addDisk(partition: Partition, disk: DiskConfig): Promise<void> {
    await this.#disks.execute('disk-add', {
      id: diskId(partition.id, disk.role),
      path: disk.path,
      ...(disk.sizeBytes === undefined ? {} : { create: String(disk.sizeBytes) }),
    });
  }

  /** A port of the mux for each network device. */
  async #attachPorts(partition: Partition, options: StartOptions): Promise<void> {
    const { id, config } = partition;
    if (config.network.length === 0) return;
    const ports = await this.#mux.execute('ports', {});
    for (const [i, device] of config.network.entries()) {
      const addresses = options.addresses
        .filter((address) => deviceOf(config, address) === device)
        .map((cidr) => cidr.split('/')[0]!);
      if (ports.some((port) => port.name === device.name)) {
        await this.#mux.execute('port-addresses', { name: device.name, addresses });
      } else {
        await this.#mux.execute('port-add', {
          name: device.name,
          socket: this.paths.port(id, i),
          mac: device.mac,
          addresses,
          vnetHeader: true,
          ...(device.uplink === undefined ? {} : { uplink: device.uplink }),
          ...(device.limits === undefined ? {} : { limits: device.limits }),
        });
      }
      await this.#mux.execute('port-state', {
        name: device.name,
        state: options.isolated ? 'isolated' : 'attached',
      });
    }
  }

  #filesSocket(id: string): string {
    return this.paths.nbd(`${id}.files`);
  }

  /** Opens a disk of a partition that does not run, over NBD. */
  async #withDisk<T>(id: string, role: DiskRole, body: (device: Device) => Promise<T>): Promise<T> {
    const partition = this.#partition(id);
    if (partition.running) {
      throw new HypervisorError('still-running', `partition ${id} runs: its ${role} disk is its own`, {
        values: { partition: id, role },
        remedy: `stop it first: changeover partition stop ${id}`,
      });
    }
    await this.#addDisk(partition, this.#disk(partition, role));
    const socket = this.#filesSocket(id);
    try {
      // Also one whose answer says that it failed may have begun.
      await this.#disks.execute('serve', { socket, exports: { [role]: diskId(id, role) } });
      const device = await NbdClient.connect(socket, role, { reconnectTimeoutMs: 0 });
      try {
        return await body(device);
      } finally {
        await device.close();
      }
    } finally {
      await this.#disks.execute('serve-stop', { socket });
    }
  }
}

function check(config: PartitionConfig): void {
  const refuse = (message: string, remedy: string): never => {
    throw new HypervisorError('invalid-partition', message, { values: { partition: config.id }, remedy });
  };
  if (!ID.test(config.id)) {
    refuse(
      `'${config.id}' is no partition id`,
      'use letters, digits, - and _, at most 32, the first a letter or digit',
    );
  }
  if (config.processor.sharePercent < 1 || config.processor.sharePercent > 100) {
    refuse(
      `partition ${config.id} has ${config.processor.sharePercent} % of a processor`,
      'give a share of 1 to 100',
    );
  }
  for (const role of ['system', 'application'] as const) {
    if (config.disks.filter((disk) => disk.role === role).length > 1) {
      refuse(`partition ${config.id} has more than one ${role} disk`, 'a partition has one disk per role');
    }
  }
  if (!config.disks.some((disk) => disk.role === 'system')) {
    refuse(`partition ${config.id} has no system disk`, 'every partition boots from one');
  }
}

/** undefined where the product's folder belongs to somebody else or cannot be written. */
function productCache(): string | undefined {
  const modules = resolve(import.meta.dirname, '../../node_modules');
  const directory = join(modules, '.cache', 'changeover');
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    accessSync(directory, constants.W_OK);
    const { uid, mode } = statSync(directory);
    return uid === process.getuid?.() && (mode & 0o022) === 0 ? directory : undefined;
  } catch {
    return undefined;
  }
}

function sizesOnDisk(disks: readonly DiskConfig[]): Partial<Record<DiskRole, bigint>> {
  const sizes: Partial<Record<DiskRole, bigint>> = {};
  for (const disk of disks) {
    const stats = statSync(disk.path, { throwIfNoEntry: false, bigint: true });
    if (stats?.isFile()) sizes[disk.role] = stats.size;
    else if (disk.sizeBytes !== undefined) sizes[disk.role] = BigInt(disk.sizeBytes);
  }
  return sizes;
}
