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

export function bareAddress(cidr: string): string {
  return cidr.split('/')[0] ?? cidr;
}

/** Addresses of a service, CIDR, IPv4 first. */
export function serviceAddresses(service: ServiceConfiguration): string[] {
  return addressPairs(service).map(({ address }) => address);
}

/** Where a further address is, by place in the list of network devices. */
function placeOf(
  configuration: Configuration,
  service: ServiceConfiguration,
  partition: PartitionConfiguration,
  device: string | undefined,
): number {
  const at = (one: PartitionConfiguration | undefined) =>
    one?.network.findIndex(({ name }) => name === device) ?? -1;
  const own = at(partition);
  if (own >= 0) return own;
  const place = at(configuration.partitions.find(({ id }) => id === service.active));
  return place > 0 && place < partition.network.length ? place : 0;
}

/** What is on each network device but the first, where everything else is. */
function placed(
  configuration: Configuration,
  partition: PartitionConfiguration,
  place: number,
): { addresses: string[]; gateways: string[] } {
  const here = configuration.services.flatMap((service) =>
    service.also.filter(({ device }) => placeOf(configuration, service, partition, device) === place),
  );
  return {
    addresses: here.flatMap(({ address, second }) => [address, ...(second === undefined ? [] : [second])]),
    gateways: here.flatMap(({ gateway }) => gateway ?? []),
  };
}

export function partitionConfig(
  configuration: Configuration,
  partition: PartitionConfiguration,
): PartitionConfig {
  const first = (['gateway', 'gateway6'] as const).flatMap(
    (key) => configuration.services.find((service) => service[key] !== undefined)?.[key] ?? [],
  );
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
    network: partition.network.map(({ name, mac, uplink, limits }, i) => ({
      name: portName(partition.id, name),
      mac,
      ...(i === 0 ? { gateways: first } : devicePart(placed(configuration, partition, i))),
      ...(limits === undefined ? {} : { limits }),
      ...(uplink === undefined ? {} : { uplink }),
    })),
  };
}

function devicePart({ addresses, gateways }: { addresses: string[]; gateways: string[] }) {
  return { addresses: addresses.map(bareAddress), gateways };
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
      ...(also.length === 0
        ? {}
        : {
            also: also.map(({ address, second }) => ({
              address,
              ...(second === undefined ? {} : { second }),
            })),
          }),
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
