import { readFileSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import type { Document, Node } from 'yaml';
import { isAlias, isMap, isScalar, isSeq, LineCounter, parseDocument } from 'yaml';
import { CodedError, codeOf, messageOf } from '../../common/index.ts';
import { formatIpAddress, parseIpAddress } from '../../netstack/index.ts';
import type { Configuration } from './configuration.ts';
import { crossCheck } from './cross-checks.ts';
import type { Finding, Problem } from './problems.ts';
import { ConfigurationError } from './problems.ts';
import { CONFIGURATION_SCHEMA } from './schema.ts';
import { checkAgainstSchema, withDefaults } from './schema-check.ts';

const MAX_FILE_BYTES = 1024 * 1024;
/** Unix socket paths end at 107 bytes; the longest name below the run directory has to fit behind it. */
const MAX_RUN_DIRECTORY_BYTES = 60;

/** The configuration file itself could not be read. Codes: errno, `too-large`. */
export class ConfigurationFileError extends CodedError {}

/** Byte offset of the node or key at `finding.path`; of its nearest existing parent when there is none. */
function offsetOf(document: Document, finding: Finding): number {
  let node: unknown = document.contents;
  let offset = 0;
  for (const [i, part] of finding.path.entries()) {
    if (isAlias(node)) node = node.resolve(document);
    if (isMap(node)) {
      const pair = node.items.find((p) => isScalar(p.key) && String(p.key.value) === String(part));
      if (pair === undefined) return offset;
      const key = pair.key as Node;
      const value = pair.value as Node | null;
      const last = i === finding.path.length - 1;
      offset =
        (last && finding.at === 'key' ? key.range?.[0] : (value?.range?.[0] ?? key.range?.[0])) ?? offset;
      node = value;
    } else if (isSeq(node) && typeof part === 'number') {
      node = node.items[part];
      offset = (node as Node | undefined)?.range?.[0] ?? offset;
    } else return offset;
  }
  return offset;
}

/** IPv6 addresses as RFC 5952 writes them, the way everybody prints and compares them. */
function canonical<T extends object>(value: T, keys: readonly (keyof T)[]): T {
  const copy = { ...value };
  for (const key of keys) {
    const text = value[key];
    if (typeof text !== 'string') continue;
    const [address = '', length] = text.split('/');
    const parsed = parseIpAddress(address);
    if (parsed === undefined) continue;
    const suffix = length === undefined ? '' : `/${length}`;
    copy[key] = `${formatIpAddress(parsed)}${suffix}` as T[typeof key];
  }
  return copy;
}

/** Paths in the file start at its folder. MACs become lower case, IPv6 addresses canonical. */
function resolved(value: Configuration, file: string): Configuration {
  const base = dirname(file);
  const absolute = (path: string) => resolve(base, path);
  const { probe } = value.network;
  return {
    file,
    runDirectory: absolute(value.runDirectory),
    stateDirectory: absolute(value.stateDirectory),
    network: {
      ...value.network,
      uplinks: value.network.uplinks.map((uplink) => canonical(uplink, ['hostAddress6'])),
      probe: {
        ...canonical({ ...probe, mac: probe.mac.toLowerCase() }, ['address6']),
        also: probe.also.map((address) => canonical({ address }, ['address']).address),
      },
    },
    services: value.services.map((service) => ({
      ...canonical(service, ['address6', 'second6', 'gateway6']),
      also: service.also.map((pair) => canonical(pair, ['address', 'second', 'gateway'])),
    })),
    partitions: value.partitions.map((partition) => ({
      ...partition,
      disks: partition.disks.map((disk) => ({ ...disk, path: absolute(disk.path) })),
      network: partition.network.map((device) => ({ ...device, mac: device.mac.toLowerCase() })),
    })),
    patching: {
      ...value.patching,
      sources: value.patching.sources.map((source) => ({
        ...source,
        path: absolute(source.path),
        ...(source.publicKey === undefined ? {} : { publicKey: absolute(source.publicKey) }),
      })),
      malwareScanner:
        value.patching.malwareScanner === 'none'
          ? 'none'
          : { clamd: absolute(value.patching.malwareScanner.clamd) },
    },
    supervision: value.supervision,
  };
}

/** `shownFile` is how errors name the file. Throws ConfigurationError with every problem found. */
export function parseConfiguration(text: string, file: string, shownFile = file): Configuration {
  const lineCounter = new LineCounter();
  const document = parseDocument(text, { lineCounter, prettyErrors: false, uniqueKeys: true });
  const at = (offset: number, message: string): Problem => {
    const { line, col } = lineCounter.linePos(offset);
    return { line: Math.max(1, line), column: Math.max(1, col), message };
  };
  if (document.errors.length > 0) {
    throw new ConfigurationError(
      shownFile,
      document.errors.map((e) => at(e.pos[0], `not valid YAML: ${e.message.replace(/\s+/g, ' ')}`)),
    );
  }
  let value: unknown;
  try {
    value = document.toJS({ maxAliasCount: 100 });
  } catch (error) {
    throw new ConfigurationError(shownFile, [at(0, `not valid YAML: ${messageOf(error)}`)]);
  }
  const refuse = (findings: readonly Finding[]) => {
    if (findings.length === 0) return;
    throw new ConfigurationError(
      shownFile,
      findings.map((f) => at(offsetOf(document, f), f.message)),
    );
  };
  refuse(checkAgainstSchema(CONFIGURATION_SCHEMA, value));
  const configuration = resolved(withDefaults(CONFIGURATION_SCHEMA, value) as Configuration, file);
  const findings = crossCheck(configuration);
  if (Buffer.byteLength(configuration.runDirectory) > MAX_RUN_DIRECTORY_BYTES) {
    const message = `runDirectory is ${configuration.runDirectory}, ${Buffer.byteLength(configuration.runDirectory)} bytes long, allowed: up to ${MAX_RUN_DIRECTORY_BYTES} (socket paths are short)`;
    findings.push({ path: ['runDirectory'], at: 'value', message });
  }
  refuse(findings);
  return configuration;
}

/** Reads and checks a configuration file. Throws ConfigurationError, or ConfigurationFileError when it cannot be read. */
export function loadConfiguration(path: string): Configuration {
  const file = resolve(path);
  let text: string;
  try {
    if (statSync(file).size > MAX_FILE_BYTES) {
      throw new ConfigurationFileError('too-large', `${path} is larger than ${MAX_FILE_BYTES} bytes`, {
        remedy: 'name a configuration file',
      });
    }
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if (error instanceof ConfigurationFileError) throw error;
    throw new ConfigurationFileError(
      codeOf(error) ?? 'unreadable',
      `cannot read the configuration ${path}: ${messageOf(error)}`,
      { remedy: 'write one with changeover init, or name it with --config', cause: error },
    );
  }
  return parseConfiguration(text, file, path);
}
