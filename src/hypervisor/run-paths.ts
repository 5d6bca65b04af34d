import { join } from 'node:path';

/** The runtime layout: who listens where below the run directory. */
export interface RunPaths {
  readonly directory: string;
  /** Control channel of the mux process. */
  readonly mux: string;
  /** Control channel of the block process. */
  readonly block: string;
  readonly logs: string;
  /** Of its network devices in order, from 0. */
  port(partition: string, device: number): string;
  nbd(partition: string): string;
  agent(partition: string): string;
  /** Boot description of a partition. */
  boot(partition: string): string;
  log(partition: string): string;
  /** Private to the partition; unpacked programs. */
  scratch(partition: string): string;
  /** Compiled modules of guests, so that the next boot is faster. */
  readonly cache: string;
  /** Directories that must exist before anything listens. */
  readonly directories: readonly string[];
}

export function runPaths(directory: string): RunPaths {
  const inside = (...parts: string[]) => join(directory, ...parts);
  return {
    directory,
    mux: inside('mux.sock'),
    block: inside('block.sock'),
    logs: inside('logs'),
    port: (partition, device) =>
      inside('ports', device === 0 ? `${partition}.sock` : `${partition}.${device + 1}.sock`),
    nbd: (partition) => inside('nbd', `${partition}.sock`),
    agent: (partition) => inside('agents', `${partition}.sock`),
    boot: (partition) => inside('agents', `${partition}.boot.json`),
    log: (partition) => inside('logs', `${partition}.log`),
    scratch: (partition) => inside('scratch', partition),
    cache: inside('cache'),
    directories: [
      directory,
      inside('ports'),
      inside('nbd'),
      inside('agents'),
      inside('logs'),
      inside('scratch'),
      inside('cache'),
    ],
  };
}
