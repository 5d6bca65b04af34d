/** What no schema can say: references between parts of the configuration, networks, uniqueness. */
import type { Configuration } from './configuration.ts';
import { checkIpv6 } from './cross-checks-ipv6.ts';
import { checkRuns } from './cross-checks-runs.ts';
import type { ConfigurationPath, Finding } from './problems.ts';
import { IN_ONE_NETWORK, nearestName, pathText } from './problems.ts';

interface Subnet {
  readonly host: number;
  readonly network: number;
  readonly broadcast: number;
  readonly length: number;
}

function ipv4(text: string): number {
  return text.split('.').reduce((sum, octet) => ((sum << 8) | Number(octet)) >>> 0, 0);
}

function subnet(cidr: string): Subnet {
  const [address = '', length = '32'] = cidr.split('/');
  const mask = (0xffff_ffff << (32 - Number(length))) >>> 0;
  const host = ipv4(address);
  const network = (host & mask) >>> 0;
  return { host, network, broadcast: (network | ~mask) >>> 0, length: Number(length) };
}

const bare = (cidr: string) => cidr.split('/')[0]!;

/** Collects values that have to be unique and remembers who had them first. */
class Unique {
  readonly #seen = new Map<string, ConfigurationPath>();
  readonly #findings: Finding[];

  constructor(findings: Finding[]) {
    this.#findings = findings;
  }

  add(value: string, path: ConfigurationPath, what: string): void {
    const first = this.#seen.get(value);
    if (first === undefined) this.#seen.set(value, path);
    else {
      const message = `${pathText(path)} is ${value}, which is already ${what} in ${pathText(first)}; it must be unique`;
      this.#findings.push({ path, at: 'value', message });
    }
  }
}

function checkNetwork(c: Configuration, findings: Finding[]): void {
  const value = (path: ConfigurationPath, message: string) => findings.push({ path, at: 'value', message });
  const addresses = new Unique(findings);
  const uplinkNames = new Unique(findings);
  const probePath = ['network', 'probe', 'address'];
  const probes = [c.network.probe.address, ...c.network.probe.also.filter((text) => !text.includes(':'))];
  addresses.add(bare(c.network.probe.address), probePath, 'used');
  const usable = (cidr: string, path: ConfigurationPath) => {
    const s = subnet(cidr);
    if (s.length < 31 && (s.host === s.network || s.host === s.broadcast)) {
      value(
        path,
        `${pathText(path)} is ${cidr}, the network's own or its broadcast address; use a host address`,
      );
    }
    const isIn = (probe: Subnet) => s.network === probe.network && s.length === probe.length;
    if (!probes.map(subnet).some(isIn)) {
      value(
        path,
        `${pathText(path)} is ${cidr}, outside the network of network.probe.address ${probes.join(', ')}; ${IN_ONE_NETWORK}`,
      );
    }
  };
  usable(c.network.probe.address, probePath);
  for (const [i, uplink] of c.network.uplinks.entries()) {
    uplinkNames.add(uplink.name, ['network', 'uplinks', i, 'name'], 'the name of an uplink');
    for (const key of ['hostAddress', 'hostAddress6'] as const) {
      if (uplink.kind !== 'nic' || uplink[key] === undefined) continue;
      const path = ['network', 'uplinks', i, key];
      value(
        path,
        `${pathText(path)} is ${uplink[key]}, but uplink ${uplink.name} is a nic, whose addresses are the host's own affair; leave it out`,
      );
    }
    const before = c.network.uplinks.slice(0, i).map((other) => other.name);
    if (uplink.joins !== undefined && !before.includes(uplink.joins)) {
      const path = ['network', 'uplinks', i, 'joins'];
      value(
        path,
        `${pathText(path)} is ${uplink.joins}, no uplink listed before has this name, allowed: ${before.join(', ') || 'none, it is the first'}`,
      );
    }
    if (uplink.hostAddress !== undefined) {
      const path = ['network', 'uplinks', i, 'hostAddress'];
      addresses.add(bare(uplink.hostAddress), path, 'used');
      usable(uplink.hostAddress, path);
    }
  }
  for (const [i, service] of c.services.entries()) {
    const at = (key: string): ConfigurationPath => ['services', i, key];
    addresses.add(bare(service.address), at('address'), 'used');
    usable(service.address, at('address'));
    if (service.second !== undefined) {
      addresses.add(bare(service.second), at('second'), 'used');
      usable(service.second, at('second'));
    }
    if (service.gateway !== undefined) {
      const gateway = ipv4(service.gateway);
      const own = subnet(service.address);
      if (gateway <= own.network || gateway >= own.broadcast) {
        value(
          at('gateway'),
          `${pathText(at('gateway'))} is ${service.gateway}, outside the network of ${service.address}`,
        );
      } else if (gateway === own.host || service.gateway === bare(service.second ?? '')) {
        value(at('gateway'), `${pathText(at('gateway'))} is ${service.gateway}, the service's own address`);
      }
    }
    if (c.patching.strategy === 'overlap' && service.second === undefined) {
      const message = `${pathText(['services', i, 'second'])} is missing: patching.strategy is overlap, which needs a second address`;
      findings.push({ path: ['services', i], at: 'key', message });
    }
  }
  checkIpv6(c, findings, (address, path) => addresses.add(address, path, 'used'));
  checkRuns(c, findings, (address, path) => addresses.add(address, path, 'used'));
}

function checkMacs(c: Configuration, findings: Finding[]): void {
  const macs = new Unique(findings);
  const check = (mac: string, path: ConfigurationPath) => {
    const first = Number.parseInt(mac.slice(0, 2), 16);
    if ((first & 1) !== 0 || (first & 2) === 0) {
      const why = (first & 1) !== 0 ? 'a group address' : "a manufacturer's address";
      const message = `${pathText(path)} is ${mac}, ${why}; the first byte must end in 2, 6, a or e (unicast, locally administered)`;
      findings.push({ path, at: 'value', message });
    }
    macs.add(mac, path, 'used');
  };
  check(c.network.probe.mac, ['network', 'probe', 'mac']);
  for (const [i, partition] of c.partitions.entries()) {
    for (const [j, device] of partition.network.entries()) {
      check(device.mac, ['partitions', i, 'network', j, 'mac']);
    }
  }
}

function checkServices(c: Configuration, findings: Finding[]): void {
  const names = new Unique(findings);
  const actives = new Unique(findings);
  const ids = c.partitions.map((p) => p.id);
  for (const [i, service] of c.services.entries()) {
    names.add(service.name, ['services', i, 'name'], 'the name of a service');
    const path = ['services', i, 'active'];
    const partition = c.partitions.find((p) => p.id === service.active);
    if (partition === undefined) {
      const near = nearestName(service.active, ids);
      const mean = near === undefined ? '' : `, did you mean ${near}?`;
      const message = `${pathText(path)} is ${service.active}, no partition has this id${mean}${mean === '' ? ',' : ''} allowed: ${ids.join(', ')}`;
      findings.push({ path, at: 'value', message });
      continue;
    }
    actives.add(service.active, path, 'the active partition of a service');
    if (partition.network.length === 0) {
      const message = `${pathText(path)} is ${service.active}, a partition without a network device; give it one under partitions`;
      findings.push({ path, at: 'value', message });
    }
  }
}

function checkPartitions(c: Configuration, findings: Finding[]): void {
  const ids = new Unique(findings);
  const paths = new Unique(findings);
  const shares = new Map<number, number>();
  for (const [i, partition] of c.partitions.entries()) {
    ids.add(partition.id, ['partitions', i, 'id'], 'the id of a partition');
    const { cpu, sharePercent } = partition.processor;
    const used = (shares.get(cpu) ?? 0) + sharePercent;
    shares.set(cpu, used);
    if (used > 100) {
      const path = ['partitions', i, 'processor', 'sharePercent'];
      const message = `${pathText(path)} is ${sharePercent}, which brings processor ${cpu} to ${used} %, allowed: 1 to ${Math.max(0, 100 - used + sharePercent)}`;
      findings.push({ path, at: 'value', message });
    }
    const roles = new Set<string>();
    for (const [j, disk] of partition.disks.entries()) {
      paths.add(disk.path, ['partitions', i, 'disks', j, 'path'], 'a disk');
      if (roles.has(disk.role)) {
        const path = ['partitions', i, 'disks', j, 'role'];
        const message = `${pathText(path)} is ${disk.role}, partition ${partition.id} already has such a disk; allowed: one system, one application disk`;
        findings.push({ path, at: 'value', message });
      }
      roles.add(disk.role);
    }
    if (!roles.has('system')) {
      const path = ['partitions', i, 'disks'];
      findings.push({ path, at: 'key', message: `${pathText(path)} has no disk with role: system` });
    }
    const devices = new Unique(findings);
    for (const [j, device] of partition.network.entries()) {
      devices.add(device.name, ['partitions', i, 'network', j, 'name'], 'the name of a device');
      const uplinks = c.network.uplinks.map((uplink) => uplink.name);
      if (device.uplink !== undefined && !uplinks.includes(device.uplink)) {
        const path = ['partitions', i, 'network', j, 'uplink'];
        const message = `${pathText(path)} is ${device.uplink}, no uplink has this name, allowed: ${uplinks.join(', ')}`;
        findings.push({ path, at: 'value', message });
      }
    }
  }
}

function checkPatching(c: Configuration, findings: Finding[]): void {
  const names = new Unique(findings);
  for (const [i, source] of c.patching.sources.entries()) {
    names.add(source.name, ['patching', 'sources', i, 'name'], 'the name of a source');
    if (source.publicKey === undefined && !c.patching.allowUnsigned) {
      const path = ['patching', 'sources', i];
      const message = `${pathText([...path, 'publicKey'])} is missing: name the PEM file of the signer, or set patching.allowUnsigned: true`;
      findings.push({ path, at: 'key', message });
    }
  }
}

/** Expects a value that the schema accepts. */
export function crossCheck(configuration: Configuration): Finding[] {
  const findings: Finding[] = [];
  checkNetwork(configuration, findings);
  checkMacs(configuration, findings);
  checkServices(configuration, findings);
  checkPartitions(configuration, findings);
  checkPatching(configuration, findings);
  if (configuration.runDirectory === configuration.stateDirectory) {
    const message =
      'stateDirectory is the same folder as runDirectory, which is emptied when the daemon ends';
    findings.push({ path: ['stateDirectory'], at: 'value', message });
  }
  return findings;
}
