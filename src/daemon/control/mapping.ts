/** From the configuration's words to those of the layers below. */
import type { PartitionConfig } from '../../hypervisor/index.ts';
import type { PatchingPolicy, RehearsalSpec, ServiceSpec, SourceSpec } from '../../patch/index.ts';
import { addressPairs } from '../../patch/index.ts';
import type {
  Configuration,
  PartitionConfiguration,
  RehearsalConfiguration,
  ServiceConfiguration,
} from '../configuration/index.ts';

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

/** Addresses of a service, CIDR, IPv4 first. */
export function serviceAddresses(service: ServiceConfiguration): string[] {
  return addressPairs(service).map(({ address }) => address);
}

export function partitionConfig(
  partition: PartitionConfiguration,
  gateways: readonly string[] = [],
): PartitionConfig {
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
    network: partition.network.map(({ name, mac, uplink, limits }) => ({
      name: portName(partition.id, name),
      mac,
      ...(limits === undefined ? {} : { limits }),
      ...(uplink === undefined ? {} : { uplink }),
    })),
    ...(gateways.length === 0 ? {} : { gateways }),
  };
}

export function serviceSpecs(configuration: Configuration): ServiceSpec[] {
  return configuration.services.map((service) => {
    const { name, address, second, gateway, address6, second6, also, health, rehearsal } = service;
    return {
      name,
      address,
      ...(second === undefined ? {} : { second }),
      ...(gateway === undefined ? {} : { gateway }),
      ...(address6 === undefined ? {} : { address6 }),
      ...(second6 === undefined ? {} : { second6 }),
      ...(also.length === 0 ? {} : { also }),
      health,
      ...(rehearsal === undefined ? {} : { rehearsal: rehearsalSpec(rehearsal) }),
    };
  });
}

function rehearsalSpec(configured: RehearsalConfiguration): RehearsalSpec {
  return {
    ...configured,
    requests: configured.requests.map((request) => ({
      ...request,
      headers: Object.fromEntries(request.headers.map(({ name, value }) => [name, value])),
    })),
  };
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
