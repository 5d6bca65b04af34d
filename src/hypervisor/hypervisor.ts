import type { Channel } from '../channel/index.ts';
import type { Log } from '../common/index.ts';
import type { ControlProgram } from './control-program/index.ts';
import type { DiskCommands, DiskEvents } from './disks/commands.ts';
import type { MuxCommands, MuxEvents } from './mux/commands.ts';
import type { DiskRole, PartitionConfig, PartitionStatus, StartOptions } from './partition/index.ts';
import type { ResourceTable } from './resource-table/index.ts';
import type { RunPaths } from './run-paths.ts';

export type MuxClient = Channel<MuxCommands, MuxEvents>;
export type DisksClient = Channel<DiskCommands, DiskEvents>;

export interface HypervisorOptions {
  readonly runDirectory: string;
  readonly mux: MuxClient;
  readonly disks: DisksClient;
  readonly log?: Log;
  /** Guests end as soon as this process does. Default false: they go on, and are adopted again. */
  readonly lifeline?: boolean;
}

export interface InjectedFile {
  /** Absolute path inside the file system. */
  readonly path: string;
  readonly data: Uint8Array;
  /** Default 0o644. */
  readonly mode?: number;
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
  onStateChange(listener: (status: { id: string; state: string; reason?: string }) => void): () => void;
  close(): Promise<void>;
}
