/** Requests of clients that the mux records for the rehearsal of a service. */
import { messageOf } from '../../common/index.ts';
import type { MuxCommands, RecordedRequest } from '../../hypervisor/index.ts';
import { ApiError } from '../api/index.ts';
import type { ServiceConfiguration } from '../configuration/index.ts';
import type { Daemon } from './daemon.ts';
import { bareAddress, serviceAddresses } from './mapping.ts';

/** What is recorded of a service, without headers and bodies. */
export interface RecordingView {
  readonly service: string;
  /** False: the configuration has no `rehearsal.recording`. */
  readonly recording: boolean;
  /** Most often first. */
  readonly requests: readonly Pick<RecordedRequest, 'method' | 'path' | 'count' | 'ageMs'>[];
  /** New connections: read, left out by the rate, and given up for what they sent. */
  readonly connections: { readonly followed: number; readonly passedOver: number; readonly givenUp: number };
  /** Requests that methods, paths or bounds leave out. */
  readonly refused: number;
}

export class Recordings {
  readonly #daemon: Daemon;

  constructor(daemon: Daemon) {
    this.#daemon = daemon;
  }

  /** Tells the mux what to record of a service that has a path; again, with a new configuration, what is different. */
  async begin({ name, rehearsal }: ServiceConfiguration): Promise<void> {
    const { configuration, mux, log } = this.#daemon;
    const service = configuration.services.find((one) => one.name === name);
    if (service === undefined) return;
    for (const address of serviceAddresses(service).map(bareAddress)) {
      try {
        await mux.execute('requests-record', { address, record: rulesOf(rehearsal) });
      } catch (error) {
        log.warn('requests are not recorded', { service: name, address, reason: messageOf(error) });
      }
    }
  }

  /** How many there are; undefined while the mux cannot be asked. */
  async count(name: string): Promise<number | undefined> {
    try {
      return (await this.view(name)).requests.length;
    } catch {
      return undefined;
    }
  }

  /** Throws ApiError `no-such-service`. */
  async view(name: string): Promise<RecordingView> {
    const { configuration, mux } = this.#daemon;
    const service = configuration.services.find((one) => one.name === name);
    if (service === undefined) {
      throw new ApiError('no-such-service', `there is no service ${name}`, {
        remedy: `known are: ${configuration.services.map((one) => one.name).join(', ')}`,
      });
    }
    const parts = await Promise.all(
      serviceAddresses(service).map((address) =>
        mux.execute('requests-recorded', { address: bareAddress(address) }).catch((error) => {
          // Nobody has served it yet.
          if ((error as { code?: string }).code === 'unknown-address') return undefined;
          throw error;
        }),
      ),
    );
    const found = parts.filter((part) => part !== undefined);
    const sum = (of: (part: (typeof found)[number]) => number) =>
      found.reduce((all, one) => all + of(one), 0);
    return {
      service: name,
      recording: service.rehearsal?.recording !== undefined,
      requests: found
        .flatMap(({ requests }) => requests)
        .map(({ method, path, count, ageMs }) => ({ method, path, count, ageMs }))
        .sort((a, b) => b.count - a.count),
      connections: {
        followed: sum(({ connections }) => connections.followed),
        passedOver: sum(({ connections }) => connections.passedOver),
        givenUp: sum(({ connections }) => connections.givenUp),
      },
      refused: sum(({ refused }) => refused),
    };
  }
}

function rulesOf(
  rehearsal: ServiceConfiguration['rehearsal'],
): MuxCommands['requests-record']['arguments']['record'] {
  if (rehearsal?.recording === undefined) return null;
  const { methods, paths, headers, requests, maxAgeMs, connectionsPerSecond } = rehearsal.recording;
  return {
    port: rehearsal.port,
    methods: [...methods],
    paths: [...paths],
    headers: [...headers],
    requests,
    maxAgeMs,
    connectionsPerSecond,
  };
}
