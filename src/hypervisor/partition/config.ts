/** What is configured for a partition: a row of the resource table [306] (Fig 5) with what its columns need to be real. */

import type { PortLimits } from '../mux/index.ts';

export const DISK_ROLES = ['system', 'application'] as const;
export type DiskRole = (typeof DISK_ROLES)[number];

export interface DiskConfig {
  readonly role: DiskRole;
  /** Image file on the host. */
  readonly path: string;
  /** Bytes. Given: the file is created with this size when it is absent. */
  readonly sizeBytes?: number;
}

export interface NetworkConfig {
  /** Name of the port at the mux. */
  readonly name: string;
  /** As `02:00:00:00:00:01`. */
  readonly mac: string;
  /** Uplink of the mux that it is behind; default: the first one. */
  readonly uplink?: string;
  readonly limits?: PortLimits;
  /** Addresses that belong on this device wherever the partition is given them, without prefix length. */
  readonly addresses?: readonly string[];
  /** Default gateways behind it, at most one of each family, text form. */
  readonly gateways?: readonly string[];
}

export interface PartitionConfig {
  /** Letters, digits, `-` and `_`; at most 32. */
  readonly id: string;
  readonly kind: 'process';
  /**
   * [502]: `cpu` numbers a host CPU from 0; `sharePercent` 1 … 100 of it: what the partition gets when others want the
   * CPU, too. `capped`: it never gets more, not even of an idle CPU.
   */
  readonly processor: { readonly cpu: number; readonly sharePercent: number; readonly capped?: boolean };
  readonly memoryMiB: number;
  /** At most one per role. */
  readonly disks: readonly DiskConfig[];
  readonly network: readonly NetworkConfig[];
  /** Default: the partition's id. */
  readonly hostname?: string;
}

/** The network device that carries `address` (with or without prefix length): the first one unless another names it. */
export function deviceOf(config: PartitionConfig, address: string): NetworkConfig | undefined {
  const bare = address.split('/')[0]!;
  return config.network.find((device) => device.addresses?.includes(bare)) ?? config.network[0];
}

/** Id of a partition's disk at the block process. */
export function diskId(partition: string, role: DiskRole): string {
  return `${partition}-${role}`;
}
