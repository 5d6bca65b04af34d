/** Partitions as the daemon runs them: active ones are started and, when they crash, started again. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { codeOf, messageOf } from '../../common/index.ts';
import type { PartitionStatus, StartOptions } from '../../hypervisor/index.ts';
import { deviceOf } from '../../hypervisor/index.ts';
import type { StackFigures } from '../../netstack/index.ts';
import type { RunPhase } from '../../patch/index.ts';
import { addressPairs, FINAL_PHASES } from '../../patch/index.ts';
import { ApiError } from '../api/index.ts';
import type { PartitionConfiguration, ServiceConfiguration } from '../configuration/index.ts';
import type { Daemon } from './daemon.ts';
import { bareAddress, portName, serviceAddresses } from './mapping.ts';
import type { PartitionFigures } from './network.ts';
import type { PartitionRole, PartitionView } from './views.ts';

const START_LIMIT_MS = 30_000;
const RESTART_BACK_OFF_MS = [200, 500, 1000, 2000, 5000] as const;
/** While a run moves the service, its partitions are the run's: asked again after so long. */
const BUSY_MS = 200;
const MOVING: readonly RunPhase[] = ['cutting', 'undoing', 'rolling-back'];
/** Status is shown without it when the mux is being restarted. */
const PORTS_LIMIT_MS = 2_000;
const MAX_CONSOLE_BYTES = 1024 * 1024;

export class Partitions {
  readonly #daemon: Daemon;
  /** When an active partition was started again, within the window of the limit. */
  readonly #crashes = new Map<string, { restartedMs: number[]; timer?: NodeJS.Timeout }>();
  readonly #off: () => void;
  #closing = false;

  constructor(daemon: Daemon) {
    this.#daemon = daemon;
    this.#off = daemon.hypervisor.onStateChange((change) => this.#changed(change));
  }

  /** Adopts what still runs, then starts the active partition of every service. A partition that fails is a complaint. */
  async bringUp(): Promise<void> {
    const { configuration, hypervisor } = this.#daemon;
    for (const { id } of configuration.partitions) {
      if (await hypervisor.adoptPartition(id)) this.#daemon.log.info('partition adopted', { partition: id });
    }
    await Promise.all(
      configuration.services.map(async (service) => {
        const id = this.#daemon.roles.active(service.name);
        try {
          hypervisor.resources.setAssigned(id, true);
          const status = await hypervisor.partitionStatus(id);
          if (status.state !== 'running') await this.serve(service, id);
          else await this.#daemon.recordings.begin(service);
        } catch (error) {
          this.#daemon.complain(
            `service ${service.name} is not served: partition ${id} did not start: ${messageOf(error)}`,
          );
        }
      }),
    );
  }

  async close(keepRunning: boolean): Promise<void> {
    this.#closing = true;
    this.#off();
    for (const crash of this.#crashes.values()) clearTimeout(crash.timer);
    if (keepRunning) return;
    const { hypervisor, log } = this.#daemon;
    const statuses = await hypervisor.status();
    await Promise.all(
      statuses
        .filter(({ state }) => state === 'running' || state === 'starting')
        .map(async ({ id }) => {
          try {
            await hypervisor.stopPartition(id);
          } catch (error) {
            log.error(`partition ${id} could not be stopped`, { reason: messageOf(error) });
          }
        }),
    );
  }

  /** Starts partition `id` as the active of `service`: its address, its application, its path. */
  async serve(service: ServiceConfiguration, id: string): Promise<PartitionStatus> {
    const { hypervisor, mux } = this.#daemon;
    const status = await hypervisor.startPartition(id, {
      addresses: serviceAddresses(service),
      isolated: false,
      applicationDisk: this.configured(id).disks.some((disk) => disk.role === 'application'),
      startApplication: true,
      timeoutMs: START_LIMIT_MS,
    });
    const config = hypervisor.partitionConfig(id);
    const active = this.#daemon.roles.active(service.name);
    if (active !== id) {
      // A run moved the service meanwhile: two must not have its address.
      await hypervisor.stopPartition(id);
      throw new ApiError(
        'serving',
        `partition ${active} serves ${service.name} now, ${id} was stopped again`,
      );
    }
    for (const address of serviceAddresses(service).map(bareAddress)) {
      const port = deviceOf(config, address)?.name;
      if (port === undefined) continue;
      await mux.execute('path-set', { address, port });
      await mux.execute('announce', { address, port });
    }
    await this.#daemon.recordings.begin(service);
    return status;
  }

  /** A partition without a service is started isolated, with no application: to be looked at. */
  async start(id: string): Promise<PartitionView> {
    const partition = this.configured(id);
    const service = this.#serviceOf(id);
    if (service !== undefined) await this.serve(service, id);
    else {
      const first = this.#daemon.configuration.services[0];
      const options: StartOptions = {
        addresses:
          first === undefined ? [] : addressPairs(first).map(({ address, second }) => second ?? address),
        isolated: true,
        applicationDisk: false,
        startApplication: false,
        timeoutMs: START_LIMIT_MS,
      };
      await this.#daemon.hypervisor.startPartition(partition.id, options);
    }
    return this.view(id);
  }

  /** Throws ApiError `serving` for an active partition unless forced, `run-in-progress` for one that a run holds. */
  async stop(id: string, force: boolean): Promise<PartitionView> {
    this.configured(id);
    const { role, service } = this.#role(id);
    if (role === 'active' && !force) {
      throw new ApiError('serving', `partition ${id} serves ${service}, stopping it interrupts the service`, {
        remedy: 'use --force if that is meant',
      });
    }
    if ((role === 'standby' || role === 'previous') && !force) {
      throw new ApiError('run-in-progress', `partition ${id} belongs to a run of ${service}`, {
        remedy: 'commit, roll back or cancel the run first',
      });
    }
    clearTimeout(this.#crashes.get(id)?.timer);
    await this.#daemon.hypervisor.stopPartition(id);
    return this.view(id);
  }

  /** The end of what the partition printed, at most `bytes` of it, and where that ends in the whole. */
  console(id: string, bytes: number, from?: number): { text: string; end: number } {
    this.configured(id);
    let fd: number;
    try {
      fd = openSync(this.#daemon.paths.log(id), 'r');
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return { text: '', end: 0 };
      throw error;
    }
    try {
      const { size } = fstatSync(fd);
      const limit = Math.min(bytes, MAX_CONSOLE_BYTES);
      const start = from === undefined || from > size ? Math.max(0, size - limit) : from;
      const buffer = Buffer.alloc(Math.min(limit, size - start));
      const read = readSync(fd, buffer, 0, buffer.length, start);
      return { text: buffer.toString('utf8', 0, read), end: start + read };
    } finally {
      closeSync(fd);
    }
  }

  configured(id: string): PartitionConfiguration {
    const { partitions } = this.#daemon.configuration;
    const found = partitions.find((partition) => partition.id === id);
    if (found !== undefined) return found;
    throw new ApiError('unknown-partition', `there is no partition ${id}`, {
      remedy: `known are: ${partitions.map((p) => p.id).join(', ')}`,
    });
  }

  async view(id: string): Promise<PartitionView> {
    const [status, ports] = await Promise.all([
      this.#daemon.hypervisor.partitionStatus(id),
      this.#isolatedPorts(),
    ]);
    return this.#view(this.configured(id), status, ports);
  }

  async views(): Promise<PartitionView[]> {
    const [statuses, ports] = await Promise.all([this.#daemon.hypervisor.status(), this.#isolatedPorts()]);
    return this.#daemon.configuration.partitions.flatMap((partition) => {
      const status = statuses.find((s) => s.id === partition.id);
      return status === undefined ? [] : [this.#view(partition, status, ports)];
    });
  }

  /** Names of isolated ports. The mux knows best: a run changes them beside the hypervisor. */
  async #isolatedPorts(): Promise<ReadonlySet<string>> {
    try {
      const ports = await this.#daemon.mux.execute('ports', {}, { timeoutMs: PORTS_LIMIT_MS });
      return new Set(ports.filter(({ state }) => state === 'isolated').map(({ name }) => name));
    } catch {
      return new Set();
    }
  }

  #view(
    partition: PartitionConfiguration,
    status: PartitionStatus,
    isolatedPorts: ReadonlySet<string>,
  ): PartitionView {
    const { guest } = status;
    return {
      ...partition,
      ...this.#role(partition.id),
      state: status.state,
      ...(status.pid === undefined ? {} : { pid: status.pid }),
      addresses: status.addresses,
      isolated: partition.network.some(({ name }) => isolatedPorts.has(portName(partition.id, name))),
      applicationDisk: status.applicationDisk,
      ...(guest === undefined
        ? {}
        : {
            phase: guest.phase,
            bootMs: guest.bootMs,
            connections: guest.connections,
            requestsInFlight: guest.requestsInFlight,
          }),
      ...(status.reason === undefined ? {} : { reason: status.reason }),
      notes: status.notes,
      lastOutput: status.lastOutput,
    };
  }

  /** What a partition's stack tells about itself. Throws ApiError `unknown-partition`, and what its agent says. */
  async figures(id: string): Promise<PartitionFigures> {
    this.configured(id);
    const figures = await this.#daemon.hypervisor.control(id).networkFigures();
    return { partition: id, ...(figures as unknown as StackFigures) };
  }

  /** Those of every partition that runs and answers. */
  async allFigures(): Promise<PartitionFigures[]> {
    const statuses = await this.#daemon.hypervisor.status();
    const running = statuses.filter(({ state }) => state === 'running');
    const answers = await Promise.allSettled(running.map(({ id }) => this.figures(id)));
    return answers.flatMap((answer) => (answer.status === 'fulfilled' ? [answer.value] : []));
  }

  #serviceOf(id: string): ServiceConfiguration | undefined {
    const { configuration, roles } = this.#daemon;
    return configuration.services.find((service) => roles.active(service.name) === id);
  }

  #role(id: string): { role: PartitionRole; service?: string } {
    const serving = this.#serviceOf(id);
    if (serving !== undefined) return { role: 'active', service: serving.name };
    for (const run of this.#daemon.manager.reports()) {
      if (FINAL_PHASES.includes(run.phase)) continue;
      if (run.to === id) return { role: 'standby', service: run.service };
      if (run.from === id) return { role: 'previous', service: run.service };
    }
    return { role: 'free' };
  }

  #changed(change: { id: string; state: string; reason?: string }): void {
    this.#daemon.events.publish('partition', change);
    if (change.state !== 'failed' || this.#closing) return;
    this.#daemon.complain(`partition ${change.id} failed: ${change.reason ?? 'no reason was given'}`);
    const service = this.#serviceOf(change.id);
    if (service !== undefined) this.#restartSoon(service, change.id);
  }

  /** A partition that failed just before it became the active one was nobody's to start again: it is now. */
  runEnded(name: string): void {
    const service = this.#daemon.configuration.services.find((known) => known.name === name);
    if (service === undefined || this.#closing) return;
    const id = this.#daemon.roles.active(name);
    this.#daemon.hypervisor.partitionStatus(id).then(
      ({ state }) => {
        if (state === 'failed' && !this.#closing) this.#restartSoon(service, id);
      },
      (error) =>
        this.#daemon.log.warn('the state of a partition is not known', { id, reason: messageOf(error) }),
    );
  }

  /** Until it runs, or the limit is reached; a start by hand begins anew. */
  #restartSoon(service: ServiceConfiguration, id: string, delayMs?: number): void {
    const { supervision } = this.#daemon.configuration;
    const known = this.#crashes.get(id) ?? { restartedMs: [] };
    this.#crashes.set(id, known);
    clearTimeout(known.timer);
    const nowMs = performance.now();
    known.restartedMs = known.restartedMs.filter((ms) => nowMs - ms < supervision.withinMs);
    const count = known.restartedMs.length;
    if (count >= supervision.restarts) {
      this.#daemon.alarm(
        `partition ${id} ended ${count + 1} times within ${supervision.withinMs / 1000} s and is not started again: ${service.name} is not served; mend it, then: changeover partition start ${id}`,
      );
      known.restartedMs = [];
      return;
    }
    const backOffMs = RESTART_BACK_OFF_MS[Math.min(count, RESTART_BACK_OFF_MS.length - 1)] ?? 0;
    known.timer = setTimeout(() => {
      if (this.#closing || this.#daemon.roles.active(service.name) !== id) return;
      if (this.#isMoving(service.name)) {
        this.#restartSoon(service, id, BUSY_MS);
        return;
      }
      known.restartedMs.push(performance.now());
      this.serve(service, id).catch((error: unknown) => {
        this.#daemon.log.error(`partition ${id} could not be started again`, { reason: messageOf(error) });
        if (!this.#closing && this.#daemon.roles.active(service.name) === id) this.#restartSoon(service, id);
      });
    }, delayMs ?? backOffMs);
  }

  #isMoving(service: string): boolean {
    return this.#daemon.manager
      .reports()
      .some((run) => run.service === service && MOVING.includes(run.phase));
  }
}
