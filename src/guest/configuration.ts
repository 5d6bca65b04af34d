/**
 * `/etc/changeover/guest.json` on the system disk: what this machine is for. Everything in it belongs to the image, not to
 * the host: it is copied, patched and rolled back with it.
 *
 *   application   path of the program's entry module on the system disk; absent: a machine without application
 *   arguments     its command line, default []
 *   environment   its environment variables, default {}
 *   root          folder that is unpacked for it, default: the nearest one with a package.json, else that of the entry
 *   mountPoint    where the application disk is mounted, "/data" for instance; absent: the application needs none
 *   autostart     start the application at boot instead of waiting to be told, default false
 *   stateless     connections of servers that speak no HTTP may be moved whenever nothing is in flight on them: right where
 *                 every request stands for itself and clients do not send the next one before its answer, default false
 */
import { posix } from 'node:path';
import type { FileSystem } from '../blockdev/index.ts';
import { codeOf, messageOf } from '../common/index.ts';
import { GuestError } from './errors.ts';

export const CONFIGURATION_PATH = '/etc/changeover/guest.json';

export interface GuestConfiguration {
  readonly application?: string;
  readonly arguments: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  readonly root?: string;
  readonly mountPoint?: string;
  readonly autostart: boolean;
  readonly stateless: boolean;
}

/** Throws GuestError `bad-configuration`. A system disk without the file is a machine without application. */
export async function readConfiguration(system: FileSystem): Promise<GuestConfiguration> {
  let text: string;
  try {
    text = await system.readFile(CONFIGURATION_PATH, 'utf8');
  } catch (error) {
    if (codeOf(error) === 'ENOENT')
      return { arguments: [], environment: {}, autostart: false, stateless: false };
    throw error;
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw bad(`is not JSON: ${messageOf(error)}`);
  }
  return parseConfiguration(value);
}

const KEYS = ['application', 'arguments', 'environment', 'root', 'mountPoint', 'autostart', 'stateless'];

export function parseConfiguration(value: unknown): GuestConfiguration {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw bad('is not a JSON object');
  const object = value as Record<string, unknown>;
  const unknown = Object.keys(object).find((key) => !KEYS.includes(key));
  if (unknown !== undefined) throw bad(`has the unknown key '${unknown}'; known are ${KEYS.join(', ')}`);
  const path = (key: string): string | undefined => {
    const text = object[key];
    if (text === undefined) return undefined;
    if (typeof text !== 'string' || !text.startsWith('/')) throw bad(`'${key}' must be an absolute path`);
    return posix.normalize(text);
  };
  const list = object['arguments'] ?? [];
  if (!Array.isArray(list) || !list.every((item) => typeof item === 'string')) {
    throw bad(`'arguments' must be a list of strings`);
  }
  const environment = object['environment'] ?? {};
  if (
    typeof environment !== 'object' ||
    environment === null ||
    Array.isArray(environment) ||
    !Object.values(environment).every((item) => typeof item === 'string')
  ) {
    throw bad(`'environment' must be an object of strings`);
  }
  const autostart = object['autostart'] ?? false;
  if (typeof autostart !== 'boolean') throw bad(`'autostart' must be true or false`);
  const stateless = object['stateless'] ?? false;
  if (typeof stateless !== 'boolean') throw bad(`'stateless' must be true or false`);
  const application = path('application');
  const root = path('root');
  const mountPoint = path('mountPoint');
  if (mountPoint === '/') throw bad(`'mountPoint' cannot be /: that is the system disk`);
  if (application !== undefined && root !== undefined && !isBelow(application, root)) {
    throw bad(`'application' is not below 'root'`);
  }
  return {
    ...(application === undefined ? {} : { application }),
    arguments: list,
    environment: environment as Record<string, string>,
    ...(root === undefined ? {} : { root }),
    ...(mountPoint === undefined ? {} : { mountPoint }),
    autostart,
    stateless,
  };
}

export function isBelow(path: string, folder: string): boolean {
  return folder === '/' || path === folder || path.startsWith(`${folder}/`);
}

function bad(what: string): GuestError {
  return new GuestError('bad-configuration', `${CONFIGURATION_PATH} ${what}`, {
    remedy: 'correct it on the system disk: docs/partitions.md lists its keys',
  });
}
