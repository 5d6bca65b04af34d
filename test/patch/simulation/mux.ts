/** The mux of the simulated world: paths, holds of new flows, of all and of some, steering, the change notice. */
import type { VirtualClock } from '../../../src/common/index.ts';
import type { Flaw } from './disks.ts';
import type { Client, Connection, Guest, PartitionId, Request } from './parts.ts';
import { ADDRESS, flowOf, SECOND, ZERO } from './parts.ts';

interface Hold {
  scope: 'new-flows' | 'all';
  /** Draining flows go on. */
  except: ReadonlySet<number>;
  readonly queue: Request[];
}

export class SimulatedMux {
  path: PartitionId = 'A';
  readonly ports: Record<PartitionId, 'attached' | 'isolated'> = { A: 'attached', B: 'isolated' };
  privatePath: PartitionId | null = null;
  hold: Hold | undefined;
  /** Some flows wait while they are handed over. */
  flowHold: { readonly ids: ReadonlySet<number>; readonly queue: Request[] } | undefined;
  /** Packets of steered flows leave with the service address, and reach the old partition under its second one. */
  notice = false;
  flaw: Flaw | undefined;
  readonly #clock: VirtualClock;
  readonly #clients: readonly Client[];
  readonly #guests: Readonly<Record<PartitionId, Guest>>;
  readonly #deliver: (to: PartitionId, request: Request, isNew: boolean) => void;

  constructor(
    clock: VirtualClock,
    clients: readonly Client[],
    guests: Readonly<Record<PartitionId, Guest>>,
    deliver: (to: PartitionId, request: Request, isNew: boolean) => void,
  ) {
    this.#clock = clock;
    this.#clients = clients;
    this.#guests = guests;
    this.#deliver = deliver;
  }

  /** It ends and is told again; of flows, what the partition that serves has. */
  restart(): void {
    if (this.hold !== undefined || this.flowHold !== undefined) return;
    const { connections } = this.#guests[this.path];
    for (const connection of this.#connections())
      if (!connection.steered) connection.port = connections.has(connection) ? this.path : undefined;
  }

  /** Whether packets of `connection` and partition `id` understand each other. */
  reaches(id: PartitionId, connection: Connection): boolean {
    if (this.ports[id] !== 'attached') return false;
    return this.#guests[id].address === ADDRESS || (connection.steered && this.notice);
  }

  execute(name: string, args: Record<string, unknown>): unknown {
    switch (name) {
      case 'hold-start':
        return this.#holdStart(args);
      case 'hold-release':
        if (this.flaw === 'keeps-holding') return { released: 0, longestHoldMs: 1 };
        return { released: this.#release(), longestHoldMs: 1 };
      case 'switch':
        return this.#switch(args);
      case 'flows':
        return this.#connections()
          .filter(({ steered }) => args['steered'] !== true || steered)
          .map((connection) => ({
            ...{ flow: { ...flowOf(connection), protocol: 'tcp' }, port: connection.port },
            ...{ steered: connection.steered, state: 'open', idleMs: 0 },
          }));
      case 'flows-known': {
        const ids = idsOf(args['flows']);
        for (const { connection } of this.#clients)
          if (connection !== undefined && ids.has(connection.id)) connection.port ??= this.path;
        return {};
      }
      case 'flows-moved': {
        const ids = idsOf(args['flows']);
        for (const connection of this.#connections())
          if (ids.has(connection.id)) Object.assign(connection, { steered: false, port: this.path });
        return { moved: 0 };
      }
      case 'path-set':
        if (args['address'] !== SECOND) this.path = args['port'] as PartitionId;
        return {};
      case 'port-state':
        this.ports[args['name'] as PartitionId] = args['state'] as 'attached' | 'isolated';
        return {};
      case 'private-path':
        this.privatePath = args['port'] as PartitionId | null;
        return {};
      case 'notice-cancel':
        if (args['force'] === true || !this.#connections().some(({ steered }) => steered))
          this.notice = false;
        return { abandoned: [], packets: 0 };
      case 'counters':
        return { total: ZERO, sinceSwitch: ZERO, drops: {}, flows: 0 };
      case 'ports':
        return [];
      default:
        return { abandoned: [], packets: 0 };
    }
  }

  route(request: Request): void {
    const { connection } = request;
    const isNew = !connection.isOpen;
    if (this.hold !== undefined && !this.hold.except.has(connection.id)) {
      if (this.hold.scope === 'all' || isNew) {
        this.hold.queue.push(request);
        return;
      }
    }
    if (this.flowHold?.ids.has(connection.id) === true) {
      this.flowHold.queue.push(request);
      return;
    }
    connection.port ??= this.path;
    if (!this.reaches(connection.port, connection)) return;
    connection.isOpen = true;
    this.#deliver(connection.port, request, isNew);
  }

  #connections(): Connection[] {
    return this.#clients.flatMap(({ connection }) =>
      connection?.port === undefined || connection.closed ? [] : [connection],
    );
  }

  #holdStart(args: Record<string, unknown>): object {
    const { timeoutMs } = args['limits'] as { timeoutMs: number };
    if (args['scope'] === 'flows') {
      const hold = { ids: idsOf(args['flows']), queue: this.flowHold?.queue ?? [] };
      this.flowHold = hold;
      this.#clock.after(timeoutMs, () => {
        if (this.flowHold === hold) this.#releaseFlows();
      });
      return {};
    }
    const scope = args['scope'] === 'new-flows' ? 'new-flows' : 'all';
    const hold: Hold = { scope, except: idsOf(args['except'] ?? []), queue: this.hold?.queue ?? [] };
    this.hold = hold;
    this.#clock.after(timeoutMs, () => {
      if (this.hold === hold) this.#release();
    });
    return {};
  }

  #switch(args: Record<string, unknown>): object {
    const moved = idsOf(args['moved']);
    this.path = args['to'] as PartitionId;
    this.notice = args['notice'] !== undefined;
    let steered = 0;
    for (const connection of this.#connections()) {
      connection.steered = !moved.has(connection.id) && connection.port !== this.path;
      if (connection.steered) steered++;
      else connection.port = this.path;
    }
    return { steered };
  }

  #release(): number {
    const queue = this.hold?.queue ?? [];
    this.hold = undefined;
    for (const request of queue) this.route(request);
    return queue.length + this.#releaseFlows();
  }

  #releaseFlows(): number {
    const queue = this.flowHold?.queue ?? [];
    this.flowHold = undefined;
    for (const request of queue) this.route(request);
    return queue.length;
  }
}

function idsOf(flows: unknown): ReadonlySet<number> {
  return new Set((flows as { remotePort: number }[]).map(({ remotePort }) => remotePort));
}
