/**
 * The daemon: what runs in the control process. It owns nothing that packets or disk writes need to go on: mux, block and
 * guest processes live beside it and are adopted when it starts again.
 *
 *   start   lock → state store → block and mux process (adopted or started) → uplinks, probe → hypervisor, guests adopted
 *           → active partitions started → unfinished runs taken up → API
 *   stop    API → runs → guests → probe → mux → block → interfaces → files → lock
 *   leave   as stop, but mux, block and guests go on (`down --keep-running`)
 */
import { readFileSync } from 'node:fs';
import { cp, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Log } from '../../common/index.ts';
import { collectGarbage, messageOf, setPointTargets, systemClock } from '../../common/index.ts';
import type { HypervisorSurface, RunPaths } from '../../hypervisor/index.ts';
import { Hypervisor, runPaths } from '../../hypervisor/index.ts';
import { PatchManager, refuseNewerRuns } from '../../patch/index.ts';
import { ApiError, ApiServer, EventHub } from '../api/index.ts';
import type { Configuration, ServiceConfiguration } from '../configuration/index.ts';
import { KeptProcess } from '../processes/kept-process.ts';
import type { RunLock } from '../processes/run-lock.ts';
import { takeRunLock } from '../processes/run-lock.ts';
import {
  openState,
  SqliteDocumentStore,
  SqliteJournal,
  SqlitePatchTable,
  SqliteRoleStore,
} from '../state/index.ts';
import { Captures } from './captures.ts';
import { HostNetwork } from './host-network.ts';
import type { KeptDisks, KeptMux } from './kept.ts';
import { keptDisks, keptMux } from './kept.ts';
import {
  bareAddress,
  partitionConfig,
  patchingPolicy,
  serviceAddresses,
  serviceSpecs,
  sourceSpecs,
} from './mapping.ts';
import { Network } from './network.ts';
import { Partitions } from './partitions.ts';
import type { Probe } from './probe.ts';
import { startProbe } from './probe.ts';
import { Recordings } from './recordings.ts';
import { daemonRoutes } from './routes.ts';
import { Runs } from './runs.ts';
import type { DaemonSurface } from './surface.ts';
import type { HealthView, ServiceView, StatusView } from './views.ts';

export interface DaemonOptions {
  readonly log: Log;
  /** Mux, block and guest processes end when this process does. */
  readonly lifeline?: boolean;
  /** Asked for over the API. */
  readonly onShutdown: (keepRunning: boolean) => void;
}

const { version } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};
export const DAEMON_VERSION: string = version;

const MAX_COMPLAINTS = 50;

/** Everything that was brought up, in order; taken down in reverse. */
type Undo = { readonly what: string; readonly do: (keepRunning: boolean) => Promise<void> | void };

export class Daemon implements DaemonSurface {
  readonly configuration: Configuration;
  readonly events = new EventHub();
  readonly startedAtMs = Date.now();
  readonly paths: RunPaths;
  readonly #options: DaemonOptions;
  readonly #undo: Undo[] = [];
  readonly complaints: string[] = [];
  mux!: KeptMux;
  disks!: KeptDisks;
  hypervisor!: HypervisorSurface;
  roles!: SqliteRoleStore;
  documents!: SqliteDocumentStore;
  manager!: PatchManager;
  partitions!: Partitions;
  runs!: Runs;
  probe!: Probe;
  readonly captures = new Captures(this);
  readonly recordings = new Recordings(this);
  #stopping: Promise<void> | undefined;
  /** Processes of an earlier daemon still run. */
  #survivors = false;

  private constructor(configuration: Configuration, options: DaemonOptions) {
    this.configuration = configuration;
    this.#options = options;
    this.paths = runPaths(configuration.runDirectory);
  }

  get log(): Log {
    return this.#options.log;
  }

  get lifeline(): boolean {
    return this.#options.lifeline ?? false;
  }

  requestShutdown(keepRunning: boolean): void {
    this.#options.onShutdown(keepRunning);
  }

  /** Brings everything up; what had come up is taken down again when something fails. */
  static async start(configuration: Configuration, options: DaemonOptions): Promise<Daemon> {
    const daemon = new Daemon(configuration, options);
    try {
      await daemon.#bringUp();
      return daemon;
    } catch (error) {
      // What an earlier daemon left running serves on: this one has only failed to take it over.
      await daemon.stop(daemon.#survivors);
      throw error;
    }
  }

  /** Takes everything down. Never throws: what cannot be taken down is logged. */
  stop(keepRunning: boolean): Promise<void> {
    this.#stopping ??= this.#takeDown(keepRunning);
    return this.#stopping;
  }

  async #takeDown(keepRunning: boolean): Promise<void> {
    for (const step of this.#undo.reverse()) {
      try {
        await step.do(keepRunning);
      } catch (error) {
        this.log.error(`${step.what} could not be taken down`, { reason: messageOf(error) });
      }
    }
  }

  async status(): Promise<StatusView> {
    const { configuration: c } = this;
    const [services, partitions] = await Promise.all([this.services(), this.partitions.views()]);
    const run = this.runs.current();
    return {
      version: DAEMON_VERSION,
      pid: process.pid,
      startedAtMs: this.startedAtMs,
      configuration: c.file,
      runDirectory: c.runDirectory,
      stateDirectory: c.stateDirectory,
      processes: { mux: this.mux.status(), block: this.disks.status() },
      uplinks: c.network.uplinks,
      services,
      partitions,
      ...(run === undefined ? {} : { run }),
      captures: this.captures.running(),
      complaints: this.complaints,
    };
  }

  get network(): Network {
    return new Network(this.mux, () => this.partitions.allFigures());
  }

  services(): Promise<ServiceView[]> {
    return Promise.all(this.configuration.services.map((service) => this.#serviceView(service)));
  }

  /** Throws ApiError `no-such-service`. */
  async flows(name: string): Promise<unknown[]> {
    const { services } = this.configuration;
    const service = services.find((s) => s.name === name);
    if (service === undefined) {
      throw new ApiError('no-such-service', `there is no service ${name}`, {
        remedy: `known are: ${services.map((s) => s.name).join(', ')}`,
      });
    }
    const lists = await Promise.all(
      serviceAddresses(service).map((address) =>
        this.mux.execute('flows', { address: bareAddress(address) }),
      ),
    );
    return lists.flat();
  }

  async #serviceView(service: ServiceConfiguration): Promise<ServiceView> {
    const active = this.roles.active(service.name);
    const role = this.roles.role(service.name);
    const { state } = await this.hypervisor.partitionStatus(active);
    let health: HealthView | undefined;
    if (state === 'running') {
      for (const address of serviceAddresses(service)) {
        const { ok, durationMs, detail } = await this.probe.check(address, service.health);
        const sumMs: number = (health?.durationMs ?? 0) + durationMs;
        health = { ok, durationMs: sumMs, detail: ok ? detail : `${bareAddress(address)}: ${detail}` };
        if (!ok) break;
      }
    }
    const recorded =
      service.rehearsal?.recording === undefined ? undefined : await this.recordings.count(service.name);
    return {
      name: service.name,
      address: service.address,
      ...(service.second === undefined ? {} : { second: service.second }),
      ...(service.address6 === undefined ? {} : { address6: service.address6 }),
      ...(service.second6 === undefined ? {} : { second6: service.second6 }),
      active,
      ...(role?.previous === undefined ? {} : { previous: role.previous }),
      ...(role === undefined ? {} : { sinceMs: role.sinceMs }),
      ...(health === undefined ? {} : { health }),
      ...(recorded === undefined ? {} : { recorded }),
    };
  }

  complain(sentence: string): void {
    this.log.error(sentence);
    const known = this.complaints.indexOf(sentence);
    if (known !== -1) this.complaints.splice(known, 1);
    this.complaints.push(sentence);
    if (this.complaints.length > MAX_COMPLAINTS) this.complaints.shift();
    this.events.publish('complaint', { sentence });
  }

  /** Nothing goes on by itself with what this says: somebody has to look. */
  alarm(sentence: string): void {
    this.complain(`ALARM: ${sentence}`);
    this.events.publish('alarm', { sentence });
  }

  async #bringUp(): Promise<void> {
    const { configuration: c, log, paths } = this;
    const up = (what: string, undo: Undo['do']) => this.#undo.push({ what, do: undo });

    const lock: RunLock = takeRunLock(c.runDirectory);
    up('the run directory', async (keepRunning) => {
      if (!keepRunning) await removeRunFiles(paths, join(c.stateDirectory, 'logs'));
      lock.release();
      if (!keepRunning) await rm(c.runDirectory, { recursive: true, force: true });
    });
    for (const directory of paths.directories) await mkdir(directory, { recursive: true, mode: 0o700 });

    this.#survivors = await anyAlive(this.#sockets());
    const database = openState(c.stateDirectory);
    up('the state store', () => database.close());
    const journal = new SqliteJournal(database);
    refuseNewerRuns(journal);
    const patches = new SqlitePatchTable(database, c.stateDirectory);
    this.documents = new SqliteDocumentStore(database);
    const configured = Object.fromEntries(c.services.map((s) => [s.name, s.active]));
    this.roles = new SqliteRoleStore(database, configured);

    setPointTargets((target) => this.#pidOf(target));
    await this.#bringUpProcesses(up);

    this.probe = await startProbe(this);
    up('the probe', () => this.probe.close());

    const hypervisor = new Hypervisor({
      runDirectory: c.runDirectory,
      mux: this.mux,
      disks: this.disks,
      log: log.with({ part: 'hypervisor' }),
      lifeline: this.lifeline,
      answerMs: c.supervision.answerMs,
    });
    this.hypervisor = hypervisor;
    up('the hypervisor', () => hypervisor.close());
    for (const partition of c.partitions) hypervisor.definePartition(partitionConfig(c, partition));

    this.partitions = new Partitions(this);
    up('the partitions', (keepRunning) => this.partitions.close(keepRunning));

    this.manager = new PatchManager(
      {
        hypervisor,
        mux: this.mux,
        disks: this.disks,
        probe: this.probe,
        journal,
        patches,
        roles: this.roles,
        policy: patchingPolicy(c),
        services: serviceSpecs(c),
        clock: systemClock,
        log: log.with({ part: 'patch' }),
        stateDirectory: c.stateDirectory,
        patchScript: readPatchScript(),
        limits: { rollbacks: c.supervision.rollbacks, resumes: c.supervision.resumes },
        collectGarbage,
        alarm: (sentence) => this.alarm(sentence),
      },
      sourceSpecs(c),
    );
    this.runs = new Runs(this);
    up('the runs', (keepRunning) => this.runs.close(keepRunning));

    await this.partitions.bringUp();
    for (const sentence of await this.manager.recover()) {
      log.info(sentence);
      this.events.publish('recovered', { sentence });
    }

    const api = new ApiServer({
      routes: daemonRoutes(this),
      events: this.events,
      version: DAEMON_VERSION,
      log: log.with({ part: 'api' }),
    });
    await api.listen(join(c.runDirectory, 'api.sock'));
    up('the API', () => api.close());
    log.info('the daemon is up', { runDirectory: c.runDirectory, pid: process.pid });
  }

  /** For named points: `mux`, `block`, or a partition's id. */
  #pidOf(target: string): number | undefined {
    if (target === 'mux') return this.mux.status().pid;
    if (target === 'block') return this.disks.status().pid;
    const pid = Number.parseInt(readFileSync(`${this.paths.agent(target)}.pid`, 'utf8'), 10);
    return Number.isInteger(pid) ? pid : undefined;
  }

  #sockets(): string[] {
    const { configuration, paths } = this;
    return [paths.mux, paths.block, ...configuration.partitions.map(({ id }) => paths.agent(id))];
  }

  async #bringUpProcesses(up: (what: string, undo: Undo['do']) => void): Promise<void> {
    const { configuration: c, log } = this;
    const network = new HostNetwork(c.network.uplinks, c.runDirectory, log);
    const leftOver = this.#survivors;
    network.rememberOwn();
    // With a lifeline everything ends with this process, however that ends: nothing must stay.
    if (!this.lifeline) await network.create();
    up('the interfaces', (keepRunning) => (keepRunning ? undefined : network.removeOwn()));

    this.disks = keptDisks(this, leftOver);
    up('the block process', (keepRunning) => (keepRunning ? this.disks.close() : this.disks.stop()));
    this.mux = keptMux(this, leftOver, () => network.configure());
    up('the mux process', (keepRunning) => (keepRunning ? this.mux.close() : this.mux.stop()));
    await Promise.all([this.disks.start(), this.mux.start()]);
    for (const { name, kind, mtu, joins } of c.network.uplinks) {
      await this.mux.execute('uplink-add', {
        name,
        mtu,
        ...(kind === 'tap' ? {} : { kind }),
        ...(joins === undefined ? {} : { joins }),
      });
    }
    await network.configure();
    await this.captures.keepHistory(c.network.historyMiB);
  }
}

/** True when a process of an earlier daemon still answers: what it was told is then still of use. */
async function anyAlive(sockets: readonly string[]): Promise<boolean> {
  const alive = await Promise.all(sockets.map((socket) => KeptProcess.answers(socket)));
  return alive.includes(true);
}

/** What the processes logged is kept until the next end. */
async function removeRunFiles(paths: RunPaths, keptLogs: string): Promise<void> {
  await rm(keptLogs, { recursive: true, force: true });
  await cp(paths.logs, keptLogs, { recursive: true });
  for (const directory of paths.directories) {
    if (directory !== paths.directory) await rm(directory, { recursive: true, force: true });
  }
}

function readPatchScript(): string {
  return readFileSync(new URL('../../guest/scripts/50-patch.mjs', import.meta.url), 'utf8');
}
