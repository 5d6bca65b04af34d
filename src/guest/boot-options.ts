import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { messageOf } from '../common/index.ts';
import type { BootDescription } from '../hypervisor/index.ts';
import { GuestError } from './errors.ts';

export interface BootOptions {
  readonly description: BootDescription;
  /** End as soon as standard input does. */
  readonly lifeline: boolean;
  /** Named points may be armed: for testing recovery. */
  readonly testPoints: boolean;
}

const USAGE =
  'main.ts --boot FILE [--lifeline]   or   main.ts --partition ID --block SOCKET --agent SOCKET --scratch DIRECTORY ' +
  '[--port SOCKET --mac MAC --address CIDR … --gateway ADDRESS … --mtu N] [--hostname NAME] [--lifeline]';

/** Throws GuestError `usage`, `bad-boot-description`. */
export function parseBootOptions(argv: readonly string[]): BootOptions {
  let values: Record<string, string | string[] | boolean | undefined>;
  try {
    ({ values } = parseArgs({
      args: [...argv],
      options: {
        boot: { type: 'string' },
        lifeline: { type: 'boolean' },
        'test-points': { type: 'boolean' },
        partition: { type: 'string' },
        block: { type: 'string' },
        agent: { type: 'string' },
        scratch: { type: 'string' },
        port: { type: 'string' },
        mac: { type: 'string' },
        address: { type: 'string', multiple: true },
        gateway: { type: 'string', multiple: true },
        mtu: { type: 'string' },
        hostname: { type: 'string' },
      },
    }));
  } catch (error) {
    throw usage(messageOf(error));
  }
  const lifeline = values['lifeline'] === true;
  const testPoints = values['test-points'] === true;
  if (typeof values['boot'] === 'string')
    return { description: readDescription(values['boot']), lifeline, testPoints };
  const need = (name: string): string => {
    const value = values[name];
    if (typeof value !== 'string') throw usage(`--${name} is missing`);
    return value;
  };
  const partition = need('partition');
  return {
    lifeline,
    testPoints,
    description: {
      partition,
      hostname: typeof values['hostname'] === 'string' ? values['hostname'] : partition,
      blockSocket: need('block'),
      agentSocket: need('agent'),
      scratchDirectory: need('scratch'),
      network:
        values['port'] === undefined
          ? []
          : [
              {
                socket: need('port'),
                mac: need('mac'),
                addresses: (values['address'] as string[] | undefined) ?? [],
                gateways: (values['gateway'] as string[] | undefined) ?? [],
                ...(values['mtu'] === undefined ? {} : { mtu: Number(values['mtu']) }),
              },
            ],
    },
  };
}

function readDescription(path: string): BootDescription {
  let value: Partial<BootDescription>;
  try {
    value = JSON.parse(readFileSync(path, 'utf8')) as Partial<BootDescription>;
  } catch (error) {
    throw new GuestError('bad-boot-description', `${path}: ${messageOf(error)}`, { cause: error });
  }
  const keys = ['partition', 'hostname', 'blockSocket', 'agentSocket', 'scratchDirectory'] as const;
  const missing = keys.find((key) => typeof value[key] !== 'string');
  if (missing !== undefined) {
    throw new GuestError('bad-boot-description', `${path} names no ${missing}`, { remedy: USAGE });
  }
  if (!Array.isArray(value.network)) {
    throw new GuestError('bad-boot-description', `${path} has no list of network devices`, { remedy: USAGE });
  }
  return value as BootDescription;
}

function usage(what: string): GuestError {
  return new GuestError('usage', what, { remedy: USAGE });
}
