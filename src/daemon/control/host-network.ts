/** The host's own side of the uplinks: address and link state of TAP interfaces, by the `ip` program. */
import { execFile } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Log } from '../../common/index.ts';
import { CodedError, messageOf } from '../../common/index.ts';
import type { UplinkConfiguration } from '../configuration/index.ts';

const run = promisify(execFile);

/** ARP requests and neighbour solicitations, one a second, before a destination counts as unreachable. */
const SOLICITATIONS = 15;

/** Codes: `host-network`. */
export class HostNetworkError extends CodedError {}

/** In the network namespace of this process, which /sys may not show. */
export function interfaceExists(name: string): boolean {
  return readFileSync('/proc/self/net/dev', 'utf8')
    .split('\n')
    .some((line) => line.trimStart().startsWith(`${name}:`));
}

async function ip(...args: string[]): Promise<void> {
  try {
    await run('ip', args, { timeout: 10_000 });
  } catch (error) {
    const stderr = (error as { stderr?: string }).stderr?.trim();
    throw new HostNetworkError(
      'host-network',
      `ip ${args.join(' ')} failed: ${stderr === undefined || stderr === '' ? messageOf(error) : stderr}`,
      { remedy: 'check the interface with ip link, and that iproute2 is installed', cause: error },
    );
  }
}

/** Remembers, in the run directory, which interfaces did not exist before: these are removed at the end. */
export class HostNetwork {
  readonly #uplinks: readonly UplinkConfiguration[];
  readonly #file: string;
  readonly #log: Log;

  constructor(uplinks: readonly UplinkConfiguration[], runDirectory: string, log: Log) {
    this.#uplinks = uplinks;
    this.#file = join(runDirectory, 'uplinks.json');
    this.#log = log;
  }

  /** Before the mux opens the uplinks for the first time. */
  rememberOwn(): void {
    if (existsSync(this.#file)) return;
    const own = this.#uplinks.filter((u) => u.kind === 'tap' && !interfaceExists(u.name)).map((u) => u.name);
    writeFileSync(this.#file, JSON.stringify(own), { mode: 0o600 });
  }

  /**
   * Interfaces of ours are made so that they stay when the mux process ends: a mux that was killed takes over the same
   * interface, with its addresses, and who sends meanwhile loses packets and gets no error. Throws HostNetworkError.
   */
  async create(): Promise<void> {
    for (const { name, kind } of this.#uplinks) {
      if (kind !== 'tap' || interfaceExists(name)) continue;
      await ip('tuntap', 'add', 'dev', name, 'mode', 'tap');
    }
  }

  /** Who sends from this host gets no error while a mux process is started again; the default is three requests, 3 s. */
  #askLonger(name: string): void {
    for (const family of ['ipv4', 'ipv6']) {
      try {
        writeFileSync(`/proc/sys/net/${family}/neigh/${name}/mcast_solicit`, String(SOLICITATIONS));
      } catch (error) {
        this.#log.debug(`${family} requests of ${name} stay at the default`, { reason: messageOf(error) });
      }
    }
  }

  /** Sets addresses and brings interfaces up, where the configuration gives the host an address. Throws HostNetworkError. */
  async configure(): Promise<void> {
    for (const uplink of this.#uplinks) {
      const { hostAddress, hostAddress6 } = uplink;
      if (hostAddress === undefined && hostAddress6 === undefined) continue;
      if (hostAddress !== undefined) await ip('address', 'replace', hostAddress, 'dev', uplink.name);
      // It is configured, not chosen: duplicate detection would only keep it from being used at once.
      if (hostAddress6 !== undefined) {
        await ip('-6', 'address', 'replace', hostAddress6, 'dev', uplink.name, 'nodad');
      }
      await ip('link', 'set', 'dev', uplink.name, 'mtu', String(uplink.mtu), 'up');
      if (uplink.kind === 'tap') this.#askLonger(uplink.name);
    }
  }

  /** After the mux ended: interfaces that we brought into being go with it. */
  async removeOwn(): Promise<void> {
    let own: string[] = [];
    try {
      own = JSON.parse(readFileSync(this.#file, 'utf8')) as string[];
    } catch {
      // Nothing was remembered: nothing is ours.
    }
    for (const name of own) {
      if (!interfaceExists(name)) continue;
      try {
        await ip('link', 'delete', 'dev', name);
      } catch (error) {
        this.#log.error(`interface ${name} could not be removed`, { reason: messageOf(error) });
      }
    }
    rmSync(this.#file, { force: true });
  }
}
