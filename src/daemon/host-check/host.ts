/** What the product needs of the host, whatever the configuration says. Nothing is changed. */
import { spawnSync } from 'node:child_process';
import { accessSync, closeSync, constants, existsSync, openSync, readFileSync, statfsSync } from 'node:fs';
import { codeOf, messageOf } from '../../common/index.ts';
import type { HostFinding } from './check.ts';
import { fail, ok, warn } from './check.ts';

const NODE_MAJOR = 24;
const CGROUP2_MAGIC = 0x63677270;

function node(): HostFinding {
  const { version, arch } = process;
  const major = Number(version.slice(1).split('.')[0]);
  return major >= NODE_MAJOR
    ? ok('node', `${version} on ${arch}`)
    : fail('node', version, `install Node ${NODE_MAJOR} or newer, or run npm ci here (it brings one)`);
}

function platform(): HostFinding {
  if (process.platform !== 'linux') return fail('kernel', process.platform, 'use a Linux host');
  const release = readFileSync('/proc/sys/kernel/osrelease', 'utf8').trim();
  return ok('kernel', `Linux ${release}`);
}

function root(): HostFinding {
  return process.getuid?.() === 0
    ? ok('root', 'user id 0')
    : fail('root', `user id ${process.getuid?.()}`, 'run the daemon as root, for instance with sudo');
}

function tun(): HostFinding {
  try {
    closeSync(openSync('/dev/net/tun', 'r+'));
    return ok('tun', '/dev/net/tun opens');
  } catch (error) {
    const remedy =
      codeOf(error) === 'ENOENT'
        ? 'modprobe tun; in a container pass the device through (--device /dev/net/tun)'
        : 'run as root; in a container add CAP_NET_ADMIN and allow the device';
    return fail('tun', messageOf(error), remedy);
  }
}

/** The native addons are built by `make build`; a missing one fails at import. */
async function addon(name: string): Promise<HostFinding> {
  try {
    await import(name);
    return ok(name, 'loads');
  } catch (error) {
    return fail(name, messageOf(error).split('\n')[0] ?? '', 'make build (needs a C compiler)');
  }
}

function controlGroups(): HostFinding {
  const remedy =
    'mount control groups writable (in a container: --cgroupns=private with a writable /sys/fs/cgroup); without them processor and memory limits of partitions are not enforced';
  try {
    const unified = statfsSync('/sys/fs/cgroup').type === CGROUP2_MAGIC;
    if (unified) {
      const controllers = readFileSync('/sys/fs/cgroup/cgroup.controllers', 'utf8').trim();
      accessSync('/sys/fs/cgroup', constants.W_OK);
      const missing = ['cpu', 'memory'].filter((c) => !controllers.split(' ').includes(c));
      return missing.length === 0
        ? ok('cgroups', 'version 2, cpu and memory')
        : warn('cgroups', `version 2 without ${missing.join(' and ')}`, remedy);
    }
    for (const controller of ['cpu', 'memory']) accessSync(`/sys/fs/cgroup/${controller}`, constants.W_OK);
    return ok('cgroups', 'version 1, cpu and memory');
  } catch (error) {
    return warn('cgroups', messageOf(error), remedy);
  }
}

interface Tool {
  readonly program: string;
  readonly argument: string;
  readonly pack: string;
  /** What is missing without it; absent: the product cannot work. */
  readonly less?: string;
}

const TOOLS: readonly Tool[] = [
  { program: 'ip', argument: '-V', pack: 'iproute2' },
  { program: 'mke2fs', argument: '-V', pack: 'e2fsprogs', less: 'no images can be made' },
  { program: 'unshare', argument: '-V', pack: 'util-linux', less: 'no changeover demo' },
  { program: 'tshark', argument: '-v', pack: 'tshark', less: 'captures are read elsewhere' },
];

function tool({ program, argument, pack, less }: Tool): HostFinding {
  const found = spawnSync(program, [argument], { encoding: 'utf8', timeout: 5000 });
  if (found.error === undefined) {
    const line = `${found.stdout}${found.stderr}`.trim().split('\n')[0] ?? '';
    return ok(program, line.slice(0, 60));
  }
  const remedy = `apt-get install ${pack}`;
  return less === undefined
    ? fail(program, 'not found', remedy)
    : warn(program, `not found: ${less}`, remedy);
}

function processors(): HostFinding {
  const list = readFileSync('/proc/self/status', 'utf8');
  const allowed = /^Cpus_allowed_list:\s*(.*)$/m.exec(list)?.[1] ?? '?';
  const kib = Number(/^MemAvailable:\s+(\d+)/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0);
  return ok('resources', `processors ${allowed}, ${Math.floor(kib / 1024)} MiB of memory available`);
}

function sqlite(): HostFinding {
  return existsSync('/proc/self/exe') && process.versions.sqlite !== undefined
    ? ok('sqlite', `node:sqlite ${process.versions.sqlite}`)
    : fail('sqlite', 'node:sqlite is missing', `use Node ${NODE_MAJOR} or newer`);
}

export async function checkHost(): Promise<HostFinding[]> {
  if (process.platform !== 'linux') return [node(), platform()];
  return [
    node(),
    platform(),
    root(),
    tun(),
    await addon('tap-tun'),
    await addon('block-io'),
    sqlite(),
    controlGroups(),
    processors(),
    ...TOOLS.map(tool),
  ];
}
