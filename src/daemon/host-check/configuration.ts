/** What a configuration needs of this host. Nothing is changed. */
import { accessSync, constants, existsSync, readFileSync, statfsSync, statSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import { dirname } from 'node:path';
import { messageOf, sentenceOf } from '../../common/index.ts';
import type { Configuration } from '../configuration/index.ts';
import { ConfigurationError, loadConfiguration } from '../configuration/index.ts';
import { lockHolder } from '../processes/run-lock.ts';
import type { HostFinding } from './check.ts';
import { fail, ok, warn } from './check.ts';

const MIB = 1024 * 1024;

function folders(c: Configuration): HostFinding[] {
  return (['runDirectory', 'stateDirectory'] as const).map((key) => {
    const path = c[key];
    let existing = path;
    while (!existsSync(existing) && existing !== dirname(existing)) existing = dirname(existing);
    try {
      accessSync(existing, constants.W_OK);
      return ok(key, path);
    } catch (error) {
      return fail(key, `${path}: ${messageOf(error)}`, `make it writable, or change ${key}`);
    }
  });
}

function daemon(c: Configuration): HostFinding {
  const pid = lockHolder(c.runDirectory);
  if (pid === undefined) return ok('daemon', 'not running');
  const running = existsSync(`/proc/${pid}`);
  return running
    ? ok('daemon', `running, process ${pid}`)
    : warn(
        'daemon',
        `process ${pid} ended without taking things down`,
        'changeover up adopts what still runs',
      );
}

/** `0-3,8` → [0, 1, 2, 3, 8]. */
export function processorList(text: string): number[] {
  const parts = text.split(',').filter((part) => part !== '');
  return parts.flatMap((part) => {
    const [from = Number.NaN, to = from] = part.split('-').map(Number);
    return Number.isInteger(from) && Number.isInteger(to)
      ? Array.from({ length: to - from + 1 }, (_, i) => from + i)
      : [];
  });
}

function resources(c: Configuration): HostFinding[] {
  const online = processorList(readFileSync('/sys/devices/system/cpu/online', 'utf8').trim());
  const findings: HostFinding[] = [];
  for (const { id, processor } of c.partitions) {
    if (!online.includes(processor.cpu)) {
      const detail = `partition ${id} wants processor ${processor.cpu}, there are ${online.join(', ')}`;
      findings.push(fail('processors', detail, `set partitions[].processor.cpu of ${id} to one that exists`));
    }
  }
  if (findings.length === 0)
    findings.push(ok('processors', `${online.length}, all that are asked for exist`));
  const wanted = c.partitions.reduce((sum, p) => sum + p.memoryMiB, 0);
  const totalKib = Number(/^MemTotal:\s+(\d+)/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0);
  const total = Math.floor(totalKib / 1024);
  findings.push(
    wanted <= total
      ? ok('memory', `${wanted} MiB of ${total} MiB`)
      : warn('memory', `partitions are given ${wanted} MiB, the host has ${total} MiB`, 'lower memoryMiB'),
  );
  return findings;
}

function disks(c: Configuration): HostFinding[] {
  const findings: HostFinding[] = [];
  const missing = new Map<string, number>();
  for (const partition of c.partitions) {
    for (const disk of partition.disks) {
      const folder = dirname(disk.path);
      if (existsSync(disk.path)) {
        if (!statSync(disk.path).isFile())
          findings.push(fail('disks', `${disk.path} is not a file`, 'name an image file'));
      } else if (disk.sizeMiB === undefined) {
        findings.push(
          fail('disks', `${disk.path} does not exist`, 'make the image, or give sizeMiB to have it created'),
        );
      } else if (!existsSync(folder)) {
        findings.push(fail('disks', `the folder ${folder} does not exist`, `mkdir -p ${folder}`));
      } else missing.set(folder, (missing.get(folder) ?? 0) + disk.sizeMiB);
    }
  }
  for (const [folder, mib] of missing) {
    const { bavail, bsize } = statfsSync(folder);
    const free = Math.floor((bavail * bsize) / MIB);
    if (free < mib)
      findings.push(
        warn('disks', `${folder} has ${free} MiB free for images of ${mib} MiB`, 'make room there'),
      );
  }
  return findings.length === 0 ? [ok('disks', 'all images exist or can be created')] : findings;
}

function ipv4(text: string): number {
  return text.split('.').reduce((sum, octet) => ((sum << 8) | Number(octet)) >>> 0, 0);
}

/** The services' network must not be on another interface of the host already. */
function network(c: Configuration): HostFinding {
  const [address = '', length = '24'] = c.network.probe.address.split('/');
  const own = new Set(c.network.uplinks.map((uplink) => uplink.name));
  const inNetwork = (other: string, bits: number) => {
    const shortest = Math.min(bits, Number(length));
    const mask = shortest === 0 ? 0 : (0xffff_ffff << (32 - shortest)) >>> 0;
    return (ipv4(other) & mask) >>> 0 === (ipv4(address) & mask) >>> 0;
  };
  for (const [name, entries] of Object.entries(networkInterfaces())) {
    if (own.has(name)) continue;
    for (const entry of entries ?? []) {
      if (entry.family !== 'IPv4' || !inNetwork(entry.address, Number(entry.cidr?.split('/')[1] ?? 32)))
        continue;
      return warn(
        'network',
        `${name} has ${entry.cidr}, in the services' network ${c.network.probe.address}`,
        'choose another network for services, second addresses and probe',
      );
    }
  }
  return ok('network', `${c.network.probe.address} is on no other interface`);
}

function keys(c: Configuration): HostFinding[] {
  const findings: HostFinding[] = [];
  for (const source of c.patching.sources) {
    for (const path of [source.path, source.publicKey]) {
      if (path === undefined || existsSync(path)) continue;
      findings.push(
        warn(
          'patch sources',
          `${path} of source ${source.name} does not exist`,
          'create it, or correct the path',
        ),
      );
    }
  }
  const { malwareScanner, allowUnscanned } = c.patching;
  if (malwareScanner === 'none' && !allowUnscanned) {
    findings.push(
      warn(
        'malware scanner',
        'none is configured and allowUnscanned is false: every run will be refused',
        'set patching.malwareScanner to clamd, or allowUnscanned to true',
      ),
    );
  } else if (malwareScanner !== 'none' && !existsSync(malwareScanner.clamd)) {
    findings.push(
      warn(
        'malware scanner',
        `${malwareScanner.clamd} does not exist`,
        'apt-get install clamav-daemon, start it',
      ),
    );
  }
  return findings.length === 0 ? [ok('patching', 'sources, keys and scanner are there')] : findings;
}

function standby(c: Configuration): HostFinding[] {
  return c.services.map((service) => {
    const free = c.partitions.filter((p) => !c.services.some((s) => s.active === p.id));
    return free.length > 0
      ? ok('standby', `${free.map((p) => p.id).join(', ')} may stand in for ${service.active}`)
      : warn(
          'standby',
          `no partition is free to stand in for ${service.active}`,
          'define one more partition',
        );
  });
}

/** Without a file: nothing to check. */
export function checkConfiguration(file: string | undefined): HostFinding[] {
  if (file === undefined) {
    return [warn('configuration', 'there is none', 'changeover init writes one')];
  }
  let c: Configuration;
  try {
    c = loadConfiguration(file);
  } catch (error) {
    const lines = error instanceof ConfigurationError ? error.lines : [sentenceOf(error)];
    return lines.map((line) => fail('configuration', line, 'correct it; see docs/configuration.md'));
  }
  return [
    ok('configuration', file),
    ...folders(c),
    daemon(c),
    ...resources(c),
    ...disks(c),
    network(c),
    ...standby(c),
    ...keys(c),
  ];
}
