/**
 * A world for the patch manager to act on: two partitions, their disks, a mux and clients that write, all of it in memory on a
 * virtual clock. The manager is the real one; what it calls is a model that does what the processes promise, takes its time for
 * each command, and can lose, fail or cut off any of them. A control process that dies leaves the world as it is.
 */
import { type SeededRandom, VirtualClock } from '../../../src/common/index.ts';
import { diskId } from '../../../src/hypervisor/index.ts';
import type { RunEnvironment } from '../../../src/patch/index.ts';
import { MemoryJournal, MemoryPatchTable } from '../../../src/patch/index.ts';
import { Arrivals } from './arrivals.ts';
import type { Flaw } from './disks.ts';
import { SimulatedDisks, WorldError } from './disks.ts';
import { SimulatedMux } from './mux.ts';
import type { Client, Connection, Flow, Guest, Handed, PartitionId, Request } from './parts.ts';
import { ADDRESS, detail, flowOf, newGuest, PARTITIONS, SECOND } from './parts.ts';

const CLIENT_TIMEOUT_MS = 700;
/** A process that was stopped answers so much later, unless that is too long for who waits. */
const LATE_MS = 3_000;
/** As `supervision.answerMs`: a guest that is silent for so long is ended. */
const ANSWER_MS = 2_000;

/** What becomes of one command of the control process. */
export type Fate =
  | 'done'
  | 'fails'
  | 'done-and-fails'
  | 'answered-late'
  | 'done-late'
  | 'guest-silent'
  | 'control-dies'
  | 'control-dies-after';

export class World {
  readonly clock = new VirtualClock();
  readonly journal = new MemoryJournal();
  readonly patches = new MemoryPatchTable();
  readonly random: SeededRandom;
  readonly guests: Record<PartitionId, Guest> = { A: newGuest(), B: newGuest() };
  readonly disks: SimulatedDisks;
  readonly clients: Client[] = [];
  readonly alarms: string[] = [];
  readonly mux: SimulatedMux;
  active: PartitionId = 'A';
  assigned = new Set<string>(['A']);
  /** Commands so far, of all control processes. */
  calls = 0;
  /** Told before each command what becomes of it. */
  fate: (call: number, what: string) => Fate = () => 'done';
  /** Control processes so far; what belongs to an earlier one is not told anything any more. */
  generation = 1;
  onDeath: () => void = () => {};
  /** Code under test was told something. */
  wasAnswered = false;
  /** Clients think longer while nothing is going on. */
  isCalm = false;
  readonly #reading: boolean;
  /** What connection states stand for: they pass through the journal as data. */
  readonly #handed = new Map<number, Handed>();
  #connections = 0;
  readonly #arrivals: Arrivals;
  #clientsRun = true;

  constructor(random: SeededRandom, clients: number, reading = false) {
    this.random = random;
    this.#reading = reading;
    this.#arrivals = new Arrivals(this.clock, random);
    this.disks = new SimulatedDisks(this.clock, random, PARTITIONS);
    this.mux = new SimulatedMux(this.clock, this.clients, this.guests, (to, request, isNew) => {
      const { phase, connections } = this.guests[to];
      if (isNew && (phase === 'serving' || phase === 'frozen')) connections.add(request.connection);
      this.#receive(to, request);
    });
    Object.assign(this.guests.A, { phase: 'serving', diskExported: true });
    for (let i = 0; i < clients; i++) {
      const client: Client = {
        ...{ keepAlive: i % 2 === 0, connection: undefined, attempt: 0, next: i * 1_000_000 + 1 },
        ...{ acknowledged: [], failures: 0 },
      };
      this.clients.push(client);
      this.clock.after(1 + i, () => this.#ask(client));
    }
  }

  /** The environment of one control process. */
  environment(stateDirectory: string): Omit<RunEnvironment, 'calibration'> {
    const generation = this.generation;
    const call = <T>(what: string, effect: () => T | Promise<T>, takesMs = 1): Promise<T> =>
      this.#call(generation, what, effect, takesMs);
    const quiet = () => {};
    const log = { debug: quiet, info: quiet, warn: quiet, error: quiet };
    const environment = {
      hypervisor: {
        resources: {
          setAssigned: (id: string, assigned: boolean) => {
            if (generation !== this.generation) return;
            if (assigned) this.assigned.add(id);
            else this.assigned.delete(id);
          },
          findStandby: (from: string) => {
            const id = from === 'A' ? 'B' : 'A';
            return this.assigned.has(id)
              ? { found: false, reasons: [`${id} is assigned`] }
              : { found: true, id };
          },
        },
        partitionConfig: (id: string) => ({
          network: [{ name: id }],
          disks: [
            { role: 'system', path: `/${id}-system` },
            { role: 'application', path: `/${id}-application` },
          ],
        }),
        partitionStatus: (id: PartitionId) =>
          call(`partition-status ${id}`, () => ({
            state: this.guests[id].phase === 'stopped' ? 'stopped' : 'running',
            guest: this.#status(id),
          })),
        startPartition: (id: PartitionId, options: StartOptions) =>
          call(`start ${id}`, () => this.#start(id, options), 300),
        restartPartition: (id: PartitionId, options: StartOptions) =>
          call(
            `restart ${id}`,
            () => {
              this.#stop(id);
              return this.#start(id, options);
            },
            300,
          ),
        stopPartition: (id: PartitionId) => call(`stop ${id}`, () => this.#stop(id), 20),
        exportApplicationDisk: (id: PartitionId, exported: boolean) =>
          call(`export-disk ${id} ${exported}`, () => {
            if (exported && this.disks.application(id).invalid)
              throw new WorldError('not-valid', 'the target of a copy that was not cut');
            this.guests[id].diskExported = exported;
          }),
        inject: (id: string) => call(`inject ${id}`, () => undefined, 5),
        extract: () => call('extract', () => Buffer.alloc(0)),
        control: (id: PartitionId) => this.#control(id, call),
      },
      mux: {
        execute: (name: string, args: never) =>
          call(`mux ${name} ${detail(args)}`, () => this.mux.execute(name, args), 0.5),
      },
      disks: {
        execute: (name: string, args: never) =>
          call(`disks ${name}`, () => this.disks.execute(name, args), 1),
      },
      probe: {
        addresses: ['10.0.0.250'],
        port: 'probe',
        check: (address: string) => call('probe', () => this.#probe(bareOf(address)), 2),
        pulse: async () => undefined,
        privately: (work: () => Promise<unknown>) => work(),
      },
      journal: this.journal,
      patches: this.patches,
      roles: {
        active: () => this.active,
        setActive: (_service: string, id: PartitionId) => {
          if (generation === this.generation) this.active = id;
        },
      },
      policy: {
        ...{ allowUnsigned: true, malwareScanner: 'none', allowUnscanned: true, strategy: 'hold' },
        budget: { pauseMs: 5_000, copyMs: 60_000, quiesceMs: 500, drainMs: 1_000, oldFlowsMs: 5_000 },
        lateWrites: 'refuse',
        probation: { startWaitMs: 100, stabilityMs: 1_000, tries: 3, rollbackOnFailure: true },
      },
      services: [
        {
          ...{ name: 'service', address: `${ADDRESS}/24`, second: `${SECOND}/24` },
          health: { tcp: { port: 80, timeoutMs: 1_000 } },
        },
      ],
      clock: this.clock,
      log: { ...log, with: () => log },
      stateDirectory,
      collectGarbage: () => {},
      limits: { rollbacks: 3, resumes: 5 },
      alarm: (sentence: string) => this.alarms.push(sentence),
      patchScript: '',
    };
    return environment as never;
  }

  /** The control process is gone: nobody waits for its answers, its timers do not run. */
  kill(): void {
    this.generation++;
    // A new one begins with what is written down.
    this.assigned = new Set([this.active]);
    this.onDeath();
  }

  stopClients(): void {
    this.#clientsRun = false;
  }

  killGuest(id: PartitionId): void {
    this.#stop(id);
  }

  breaks(flaw: Flaw | undefined): void {
    this.mux.flaw = flaw;
    this.disks.flaw = flaw;
  }

  /** Another block process: fences and what is on the disks stay, copies and logs of the way back are gone. */
  restartBlock(): void {
    this.disks.groups.clear();
  }

  /** What the daemon does about an active partition that ended, unless it is being moved just then. */
  supervise(isMoving: () => boolean): void {
    const look = () => {
      const guest = this.guests[this.active];
      if (guest.phase === 'stopped' && !isMoving()) {
        this.#start(this.active, { isolated: false });
        Object.assign(guest, { phase: 'serving', diskExported: true });
        // As the daemon does when it starts an active partition.
        this.mux.path = this.active;
      }
      this.clock.after(500, look);
    };
    this.clock.after(500, look);
  }

  get acknowledged(): number[] {
    return this.clients.flatMap((client) => client.acknowledged);
  }

  get failures(): number {
    return this.clients.reduce((sum, client) => sum + client.failures, 0);
  }

  #call<T>(generation: number, what: string, effect: () => T | Promise<T>, takesMs: number): Promise<T> {
    const number = ++this.calls;
    return new Promise((resolve, reject) => {
      if (generation !== this.generation) return;
      const fate = this.fate(number, what);
      // Whether a command that was on its way when its sender died still arrives is anybody's guess.
      if (fate === 'control-dies') {
        const arrives = this.random.below(2) === 0;
        this.kill();
        if (!arrives) return;
      }
      const later = (ms: number, work: () => void) =>
        this.clock.after((ms * (50 + this.random.below(150))) / 100, work);
      const answer = (give: () => void) =>
        later(0.2, () => {
          if (generation !== this.generation) return;
          this.wasAnswered = true;
          give();
        });
      const guest = /^guest ([AB])/.exec(what)?.[1] as PartitionId | undefined;
      if (fate === 'guest-silent' && guest !== undefined) {
        this.clock.after(ANSWER_MS, () => {
          this.#stop(guest);
          this.wasAnswered = true;
          if (generation === this.generation)
            reject(new WorldError('closed', `${guest} did not answer and was killed`));
        });
        return;
      }
      const told = guest ?? what.split(' ')[0]!;
      if (fate === 'done-late') this.#arrivals.stop(told, LATE_MS);
      this.#arrivals.carryOut(told, what, takesMs, async () => {
        if (fate === 'fails') {
          answer(() => reject(new WorldError('EIO', `${what} was made to fail`)));
          return;
        }
        try {
          const result = await effect();
          if (fate === 'control-dies-after' && generation === this.generation) this.kill();
          if (fate === 'done-and-fails')
            answer(() => reject(new WorldError('timeout', `${what} was not answered`)));
          else if (fate === 'answered-late') {
            this.clock.after(LATE_MS, () => answer(() => resolve(result)));
          } else answer(() => resolve(result));
        } catch (error) {
          if (fate === 'control-dies-after' && generation === this.generation) this.kill();
          answer(() => reject(error));
        }
      });
    });
  }

  // ---- partitions

  #start(id: PartitionId, { isolated = false, addresses = [ADDRESS] }: StartOptions): object {
    const guest = this.guests[id];
    if (guest.phase !== 'stopped') throw new WorldError('running', `${id} runs already`);
    Object.assign(guest, { phase: 'ready', boots: guest.boots + 1, diskExported: false });
    guest.address = bareOf(addresses[0]!);
    this.mux.ports[id] = isolated ? 'isolated' : 'attached';
    return { state: 'running', guest: this.#status(id) };
  }

  #stop(id: PartitionId): void {
    const guest = this.guests[id];
    for (const connection of guest.connections) connection.closed = true;
    for (const { connection } of guest.exported) if (this.#isNowhere(connection)) connection.closed = true;
    guest.connections.clear();
    guest.busy.clear();
    Object.assign(guest, { phase: 'stopped', boots: guest.boots + 1, diskExported: false });
    Object.assign(guest, { frozenFileSystems: false, unread: [], exported: [] });
    guest.waiting.clear();
  }

  #isNowhere(connection: Connection): boolean {
    return PARTITIONS.every((id) => !this.guests[id].connections.has(connection));
  }

  #status(id: PartitionId): object {
    const { phase, connections, address } = this.guests[id];
    return {
      ...{ phase, bootMs: 1, startUp: [], connections: connections.size, applicationStartMs: 20 },
      addresses: [`${address}/24`],
    };
  }

  #control(
    id: PartitionId,
    call: <T>(what: string, effect: () => T | Promise<T>, ms?: number) => Promise<T>,
  ) {
    const guest = this.guests[id];
    const command = <T>(name: string, effect: () => T | Promise<T>, ms = 0.5) =>
      call(
        `guest ${id} ${name}`,
        () => {
          if (guest.phase === 'stopped') throw new WorldError('not-connected', `${id} does not run`);
          return effect();
        },
        ms,
      );
    return {
      ping: () => command('ping', () => ({})),
      status: () => command('status', () => this.#status(id)),
      selfCheck: () => command('self-check', () => ({ lastRoundMs: 1 }), 30),
      patchResults: () => command('patch-results', () => ({ results: [], table: '' })),
      freezeFileSystems: () => command('freeze', () => this.#freeze(guest, true)),
      thawFileSystems: () => command('thaw', () => this.#freeze(guest, false)),
      loadApplication: () =>
        command('load-application', () => {
          if (guest.phase !== 'ready') throw new WorldError('wrong-phase', `${id} is ${guest.phase}`);
          return { state: 'waits-for-disk', durationMs: 10 };
        }),
      startApplication: () =>
        command(
          'start-application',
          () => {
            if (guest.phase !== 'ready') throw new WorldError('wrong-phase', `${id} is ${guest.phase}`);
            if (!guest.diskExported) throw new WorldError('no-disk', `${id} has no application disk`);
            guest.phase = 'serving';
            return { listening: [80], durationMs: 20 };
          },
          20,
        ),
      collectGarbage: () => command('collect', () => ({}), 10),
      quiesce: (budgetMs: number, all = false, freeze = false) =>
        command('quiesce', () => this.#quiesce(guest, budgetMs, all, freeze)),
      freezeIdle: (most: number) => command('freeze-idle', () => this.#freezeIdle(guest, most)),
      prepareAddress: (_from: string, _to: string) => command('address-prepare', () => ({})),
      alterAddress: (from: string, to: string) =>
        command('address-alter', () => {
          if (guest.address === from) guest.address = to;
          return { connections: guest.connections.size };
        }),
      changedFiles: () => command('changed-files', () => ({ files: [], more: false })),
      connections: () =>
        command('connections', () => ({
          connections: [...guest.connections].map((c) => ({ flow: flowOf(c) })),
        })),
      windDown: (flows: { remotePort: number }[]) => command('wind-down', () => this.#windDown(guest, flows)),
      resume: ({ reclaim = false } = {}) => command('resume', () => this.#resume(id, reclaim)),
      exportConnections: ({ flows }: { flows?: { remotePort: number }[] }) =>
        command('export', () => this.#exportConnections(guest, flows)),
      importConnections: (connections: readonly { readonly flow: Flow }[]) =>
        command('import', () => this.#import(id, connections)),
    };
  }

  #freeze(guest: Guest, frozen: boolean): number {
    guest.frozenFileSystems = frozen;
    if (!frozen) guest.resumed++;
    return 1;
  }

  async #quiesce(guest: Guest, budgetMs: number, all: boolean, freeze: boolean): Promise<object> {
    if (guest.phase === 'serving') guest.phase = 'frozen';
    const { resumed } = guest;
    const untilMs = this.clock.nowMs() + budgetMs;
    const due = () => [...guest.busy].filter(({ write }) => all || write !== undefined);
    while (due().length > 0 && this.clock.nowMs() < untilMs) await this.sleep(1);
    if (guest.resumed !== resumed) throw new WorldError('resumed', 'it was told to go on');
    const unfinished = due();
    if (freeze && unfinished.length === 0) guest.frozenFileSystems = true;
    const busy = new Set([...guest.busy].map(({ connection }) => connection));
    const flow = (connection: Connection) => flowOf(connection, guest.address);
    return {
      unfinished: budgetMs === 0 ? [] : unfinished.map(({ connection }) => flow(connection)),
      draining: [...busy].map(flow),
      idle: [...guest.connections].filter((connection) => !busy.has(connection)).map(flow),
      waitedMs: 1,
    };
  }

  #freezeIdle(guest: Guest, most: number): object {
    const busy = new Set([...guest.busy].map(({ connection }) => connection));
    const idle = [...guest.connections].filter((connection) => !busy.has(connection)).slice(0, most);
    for (const connection of idle) guest.waiting.add(connection);
    return { idle: idle.map((connection) => flowOf(connection, guest.address)) };
  }

  #windDown(guest: Guest, flows: { remotePort: number }[]): object {
    const busy = new Set([...guest.busy].map(({ connection }) => connection));
    const ended = [...guest.connections].filter(
      (connection) => flows.some(({ remotePort }) => remotePort === connection.id) && !busy.has(connection),
    );
    for (const connection of ended) {
      connection.closed = true;
      guest.connections.delete(connection);
    }
    return { ended: ended.map((connection) => flowOf(connection, guest.address)) };
  }

  #resume(id: PartitionId, reclaim: boolean): void {
    const guest = this.guests[id];
    const exported = guest.exported;
    guest.resumed++;
    guest.exported = [];
    if (reclaim) this.#import(id, exported);
    guest.waiting.clear();
    if (guest.phase === 'frozen') guest.phase = 'serving';
    for (const request of guest.unread.splice(0)) this.#receive(id, request);
  }

  #exportConnections(guest: Guest, only?: { remotePort: number }[]): object {
    const handed: Handed[] = [];
    for (const connection of [...guest.connections]) {
      if (only !== undefined && !only.some(({ remotePort }) => remotePort === connection.id)) continue;
      const unread = guest.unread.filter((request) => request.connection === connection);
      guest.unread = guest.unread.filter((request) => request.connection !== connection);
      guest.connections.delete(connection);
      handed.push({ flow: flowOf(connection, guest.address), connection, unread });
    }
    guest.exported = handed;
    for (const one of handed) this.#handed.set(one.flow.remotePort, one);
    return { connections: handed.map(({ flow }) => ({ flow })), neighbors: [] };
  }

  #import(id: PartitionId, states: readonly { readonly flow: Flow }[]): object {
    const guest = this.guests[id];
    let imported = 0;
    const refused: object[] = [];
    for (const { flow } of states) {
      const one = this.#handed.get(flow.remotePort);
      if (one === undefined)
        throw new WorldError('unknown', `no partition ever had the flow of ${flow.remotePort}`);
      if (guest.connections.has(one.connection)) {
        refused.push({ flow: one.flow, reason: 'it is there already' });
        continue;
      }
      guest.connections.add(one.connection);
      imported++;
      for (const request of one.unread) this.#receive(id, request);
    }
    return { imported, refused };
  }

  async #probe(address: string): Promise<object> {
    const { mux } = this;
    const startMs = this.clock.nowMs();
    const untilMs = startMs + 1_000;
    let ok = false;
    while (!ok && this.clock.nowMs() < untilMs) {
      const target = mux.privatePath ?? (mux.hold === undefined ? mux.path : undefined);
      ok =
        target !== undefined &&
        this.guests[target].phase === 'serving' &&
        this.guests[target].address === address &&
        (mux.privatePath !== null || mux.ports[target] === 'attached');
      if (!ok) await this.sleep(10);
    }
    return {
      ok,
      durationMs: this.clock.nowMs() - startMs,
      detail: ok ? 'connected' : 'no connection',
      localPort: 1,
    };
  }

  // ---- requests

  #receive(id: PartitionId, request: Request): void {
    const guest = this.guests[id];
    // Taken out of the stack: dropped without an answer, the client sends it again.
    if (guest.exported.some(({ connection }) => connection === request.connection)) return;
    if (guest.phase === 'frozen' || guest.waiting.has(request.connection)) guest.unread.push(request);
    else if (guest.phase !== 'serving' || !guest.connections.has(request.connection)) this.#reset(request);
    else void this.#serve(id, request);
  }

  async #serve(id: PartitionId, request: Request): Promise<void> {
    const guest = this.guests[id];
    const { boots } = guest;
    guest.busy.add(request);
    await this.sleep(0.5 + this.random.below(30) / 10);
    while (guest.frozenFileSystems && guest.boots === boots) await this.sleep(1);
    if (guest.boots !== boots) return;
    const { write } = request;
    const ok =
      write === undefined || (guest.diskExported && this.disks.write(diskId(id, 'application'), write));
    // The write is durable before it is acknowledged; between the two the partition may die.
    await this.sleep(0.2);
    if (guest.boots !== boots) return;
    guest.busy.delete(request);
    // A connection that went to the other partition meanwhile, or an address nobody rewrites: the answer is on no way to the client.
    if (guest.connections.has(request.connection) && this.mux.reaches(id, request.connection))
      this.#answer(request, ok);
  }

  #ask(client: Client): void {
    if (!this.#clientsRun) return;
    if (client.connection === undefined || client.connection.closed)
      client.connection = {
        id: ++this.#connections,
        client,
        isOpen: false,
        port: undefined,
        steered: false,
        closed: false,
      };
    const attempt = ++client.attempt;
    const write = this.#reading ? undefined : client.next;
    this.mux.route({ write, attempt, connection: client.connection });
    client.timeout?.cancel();
    client.timeout = this.clock.after(CLIENT_TIMEOUT_MS, () => {
      if (client.attempt !== attempt) return;
      this.#drop(client);
      this.#ask(client);
    });
  }

  #answer({ attempt, write, connection: { client } }: Request, ok: boolean): void {
    if (client.attempt !== attempt) return;
    client.attempt++;
    client.timeout?.cancel();
    if (ok) {
      if (write !== undefined) client.acknowledged.push(write);
      client.next++;
    } else client.failures++;
    if (!client.keepAlive || !ok) this.#drop(client);
    this.clock.after((this.isCalm ? 300 : 10) + this.random.below(40), () => this.#ask(client));
  }

  #reset({ attempt, connection }: Request): void {
    const { client } = connection;
    if (client.attempt !== attempt) return;
    client.timeout?.cancel();
    client.attempt++;
    client.failures++;
    this.#drop(client);
    this.clock.after(20, () => this.#ask(client));
  }

  #drop(client: Client): void {
    const { connection } = client;
    client.connection = undefined;
    if (connection === undefined) return;
    connection.closed = true;
    for (const id of PARTITIONS) this.guests[id].connections.delete(connection);
  }

  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => this.clock.after(ms, resolve));
  }
}

/** Of what the world looks at. */
interface StartOptions {
  readonly isolated?: boolean;
  readonly addresses?: readonly string[];
}

function bareOf(address: string): string {
  return address.split('/')[0]!;
}
