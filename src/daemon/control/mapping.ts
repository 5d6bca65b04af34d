/** From the configuration's words to those of the layers below. */
import type { PartitionConfig } from '../../hypervisor/index.ts';
import type { PatchingPolicy, ServiceSpec, SourceSpec } from '../../patch/index.ts';
import type { Configuration, PartitionConfiguration } from '../configuration/index.ts';

const MIB = 1024 * 1024;

/** Ports of the mux are named across all partitions: `A-net1`. */
export function portName(partition: string, device: string): string {
  return `${partition}-${device}`;
}

/** The port that carries a partition's service address: that of its first network device. */
export function servicePort(partition: PartitionConfiguration): string | undefined {
  const device = partition.network[0];
  return device === undefined ? undefined : portName(partition.id, device.name);
}

export function bareAddress(cidr: string): string {
  return cidr.split('/')[0] ?? cidr;
}

export function partitionConfig(partition: PartitionConfiguration, gateway?: string): PartitionConfig {
  return {
    id: partition.id,
    kind: partition.kind,
    processor: partition.processor,
    memoryMiB: partition.memoryMiB,
    disks: partition.disks.map(({ role, path, sizeMiB }) => ({
      role,
      path,
      ...(sizeMiB === undefined ? {} : { sizeBytes: sizeMiB * MIB }),
    })),
    network: partition.network.map(({ name, mac }) => ({ name: portName(partition.id, name), mac })),
    ...(gateway === undefined ? {} : { gateway }),
  };
}

export function serviceSpecs(configuration: Configuration): ServiceSpec[] {
  return configuration.services.map(({ name, address, second, gateway, health }) => ({
    name,
    address,
    ...(second === undefined ? {} : { second }),
    ...(gateway === undefined ? {} : { gateway }),
    health,
  }));
}

export function patchingPolicy(configuration: Configuration): PatchingPolicy {
  const { sources: _sources, ...policy } = configuration.patching;
  return policy;
}

export function sourceSpecs(configuration: Configuration): SourceSpec[] {
  return configuration.patching.sources.map(({ name, path, publicKey }) => ({
    name,
    path,
    ...(publicKey === undefined ? {} : { publicKey }),
  }));
}
