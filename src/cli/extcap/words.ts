/**
 * The words of Wireshark's extcap interface (Wireshark Developer's Guide, "Extcap: Developer"; extcap(4)): what Wireshark asks with,
 * and sentences of the form `word {name=value}…` to answer with. Pure.
 */
import { parseArgs } from 'node:util';
import { messageOf } from '../../common/index.ts';

export interface ExtcapPort {
  readonly name: string;
  readonly role: string;
}

export type ExtcapRequest =
  | { readonly kind: 'interfaces' }
  | { readonly kind: 'dlts' | 'config'; readonly port: string | undefined }
  | {
      readonly kind: 'capture';
      /** Undefined: every port. */
      readonly port: string | undefined;
      readonly fifo: string;
      readonly runDirectory: string | undefined;
      readonly snapLength: number | undefined;
    }
  | { readonly kind: 'refused'; readonly reason: string };

const PREFIX = 'changeover-';
/** No port can have this name: it has no partition in it. */
const EVERY = 'changeover';
const LINKTYPE_ETHERNET = 1;
const SNAP = { least: 64, most: 262_144 } as const;

export function parseExtcap(argv: readonly string[]): ExtcapRequest {
  let values: Record<string, string | boolean | undefined>;
  try {
    ({ values } = parseArgs({
      args: [...argv],
      options: {
        'extcap-interfaces': { type: 'boolean' },
        'extcap-version': { type: 'string' },
        'extcap-interface': { type: 'string' },
        'extcap-dlts': { type: 'boolean' },
        'extcap-config': { type: 'boolean' },
        'extcap-reload-option': { type: 'string' },
        'extcap-capture-filter': { type: 'string' },
        capture: { type: 'boolean' },
        fifo: { type: 'string' },
        'run-directory': { type: 'string' },
        'snap-length': { type: 'string' },
      },
    }));
  } catch (error) {
    return { kind: 'refused', reason: messageOf(error) };
  }
  const text = (name: string) => (typeof values[name] === 'string' ? (values[name] as string) : undefined);
  if (values['extcap-interfaces'] === true) return { kind: 'interfaces' };
  const name = text('extcap-interface');
  if (name === undefined)
    return { kind: 'refused', reason: 'Wireshark starts this program: see docs/capture.md' };
  if (name !== EVERY && !name.startsWith(PREFIX))
    return { kind: 'refused', reason: `there is no interface ${name}` };
  const port = name === EVERY ? undefined : name.slice(PREFIX.length);
  if (values['extcap-dlts'] === true) return { kind: 'dlts', port };
  if (values['extcap-config'] === true) return { kind: 'config', port };
  const filter = text('extcap-capture-filter');
  if (filter !== undefined && filter !== '') {
    return { kind: 'refused', reason: 'capture filters are not supported, use a display filter' };
  }
  const fifo = text('fifo');
  if (values['capture'] !== true || fifo === undefined) {
    return { kind: 'refused', reason: 'a capture needs --capture and --fifo' };
  }
  const given = text('snap-length');
  const snapLength = given === undefined ? undefined : Number(given);
  if (snapLength !== undefined && !(snapLength >= SNAP.least && snapLength <= SNAP.most)) {
    return {
      kind: 'refused',
      reason: `the snap length is ${SNAP.least} to ${SNAP.most} bytes, not ${given}`,
    };
  }
  const runDirectory = text('run-directory');
  return {
    kind: 'capture',
    port,
    fifo,
    snapLength,
    runDirectory: runDirectory === '' ? undefined : runDirectory,
  };
}

/** Ports are those of a daemon that runs; without one there is nothing to capture at. */
export function interfacesText(version: string, ports: readonly ExtcapPort[]): string {
  const lines = [`extcap {version=${version}}{display=Changeover}`];
  if (ports.length > 0) lines.push(`interface {value=${EVERY}}{display=Changeover: every port and uplink}`);
  for (const { name, role } of ports) {
    lines.push(`interface {value=${PREFIX}${name}}{display=Changeover: ${role} ${name}}`);
  }
  return `${lines.join('\n')}\n`;
}

export function dltsText(): string {
  return `dlt {number=${LINKTYPE_ETHERNET}}{name=EN10MB}{display=Ethernet}\n`;
}

export function configText(runDirectory: string): string {
  return [
    `arg {number=0}{call=--run-directory}{display=Run directory of the daemon}{type=string}{default=${runDirectory}}`,
    `arg {number=1}{call=--snap-length}{display=Bytes of each packet}{type=integer}{range=${SNAP.least},${SNAP.most}}{default=${SNAP.most}}`,
    '',
  ].join('\n');
}
