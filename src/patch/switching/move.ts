/** What every way of moving the service shares: who moves where, what is carried along, what was measured. */
import type { ConnectionState, FlowName, Neighbor } from '../../channel/index.ts';
import { reach } from '../../common/index.ts';
import type { MuxCommands } from '../../hypervisor/index.ts';
import { deviceOf, diskId } from '../../hypervisor/index.ts';
import { PatchError } from '../errors.ts';
import { addressPairs, bareAddress } from '../policy.ts';
import type { RunEnvironment } from '../run/environment.ts';
import type { RunRecord } from '../run/record.ts';
import type { Procedure } from '../strategy.ts';

export type SwitchCommand = MuxCommands['switch']['arguments'];
type SwitchPart = Pick<SwitchCommand, 'address' | 'moved' | 'notice'>;

/** Barrier frames: which goes with the hold of an address, and all that the partition has to wait for. */
export interface Barriers {
  readonly after: (address: string) => { barrier?: number };
  readonly all: readonly number[];
}

/** `begun`: the old partition may have let go of them; `taken`: here they are; `done`: the new one has them. */
export type HandOver =
  | { readonly state: 'begun' | 'done' }
  | {
      readonly state: 'taken';
      readonly connections: readonly ConnectionState[];
      readonly neighbors: readonly Neighbor[];
    };

/** One move of a service between two partitions; lives in memory during the cut. */
export class Move {
  readonly env: RunEnvironment;
  readonly record: RunRecord;
  readonly from: string;
  readonly to: string;
  /** Group of the block process whose last delta is due at the cut. */
  copy: string;
  /** Group in which the writes of the new active are logged for the way back; undefined: no way back is kept. */
  readonly reverse: string | undefined;

  startedMs = 0;
  endedMs = 0;
  deltaBytes = '0';
  draining: FlowName[] = [];
  idle: FlowName[] = [];
  connections: ConnectionState[] = [];
  neighbors: Neighbor[] = [];
  /** The new partition has them: one that has ended there since must not come to life again. */
  arePut = false;
  handedOver = 0;
  /** UDP flows on which nothing is on its way: they go with the path. */
  answered: FlowName[] = [];
  /** UDP flows whose answer is still due, counted at the cut. */
  unanswered = 0;
  /** Files of the system disk that were carried along. */
  carried: string[] = [];
  /** File systems of the old partition stand still since its requests were complete. */
  isFrozen = false;
  /** No fence keeps the new partition's application disk from being written. */
  isTargetOpen = false;
  /** It does not answer, and has been ended: nothing is asked of it, its disk is taken as it is. */
  fromIsDead = false;

  constructor(
    env: RunEnvironment,
    record: RunRecord,
    way: { from: string; to: string; copy: string; reverse?: string },
  ) {
    this.env = env;
    this.record = record;
    this.from = way.from;
    this.to = way.to;
    this.copy = way.copy;
    this.reverse = way.reverse;
  }

  /** Connections that have left the old stack exist nowhere else: they are journalled before anything else happens. */
  keepConnections(connections: ConnectionState[], neighbors: Neighbor[]): { connections: number } {
    this.connections = connections;
    this.neighbors = neighbors;
    reach('connections.before-persist');
    this.env.journal.append({
      runId: this.record.id,
      kind: 'state',
      name: this.#stateName,
      atMs: Number(this.env.clock.wallNs() / 1_000_000n),
      facts: { connections, neighbors },
    });
    reach('connections.persisted');
    return { connections: connections.length };
  }

  /** From here on `to` is who serves, whatever becomes of this process. */
  persistRole(): void {
    reach('switch.before-role-persist');
    this.env.roles.setActive(this.record.service, this.to);
    reach('switch.role-persisted');
  }

  /** What `keepConnections` of an earlier control process wrote, if any. */
  recallConnections(): void {
    const entries = this.env.journal.read(this.record.id);
    const at = entries.findLastIndex(({ kind, name }) => kind === 'state' && name === this.#stateName);
    const kept = entries[at];
    if (kept?.facts === undefined) return;
    this.arePut = entries
      .slice(at)
      .some(({ kind, name }) => kind === 'step-done' && /\bput-connections$/.test(name));
    this.connections = kept.facts['connections'] as ConnectionState[];
    this.neighbors = kept.facts['neighbors'] as Neighbor[];
  }

  /** Connections that follow after the switch are journalled as well. */
  noteHandOver(hand: HandOver): void {
    this.env.journal.append({
      runId: this.record.id,
      kind: 'state',
      name: this.#handOverName,
      atMs: Number(this.env.clock.wallNs() / 1_000_000n),
      facts: hand as unknown as Record<string, unknown>,
    });
  }

  lastHandOver(): HandOver | undefined {
    const entries = this.env.journal.read(this.record.id);
    const last = entries.findLast(({ kind, name }) => kind === 'state' && name === this.#handOverName);
    return last?.facts as unknown as HandOver | undefined;
  }

  get #handOverName(): string {
    return `hand-over ${this.from} → ${this.to}`;
  }

  get procedure(): Procedure {
    return this.record.procedure ?? (this.record.strategy === 'overlap' ? 'H8' : 'H6');
  }

  get #stateName(): string {
    return `connections ${this.from} → ${this.to}`;
  }

  /** From when on the system disk of `from` has what that of `to` has not, ms since 1970. */
  get systemCutMs(): number {
    const step = this.from === this.record.from ? 'cut-system-disk' : 'switch-network';
    const entries = this.env.journal.read(this.record.id);
    return (
      entries.findLast((e) => e.kind === 'step-begun' && e.name === step)?.atMs ?? this.record.startedAtMs
    );
  }

  /** Of every address that moves, the main one first. */
  get addresses(): string[] {
    return this.pairs.map(({ address }) => address);
  }

  get pairs(): { readonly address: string; readonly second?: string }[] {
    return addressPairs(this.record).map(({ address, second }) => ({
      address: bareAddress(address),
      ...(second === undefined ? {} : { second: bareAddress(second) }),
    }));
  }

  /** Whatever is to be done for each address, in order. */
  async each<T>(work: (address: string) => Promise<T>): Promise<T[]> {
    const results: T[] = [];
    for (const address of this.addresses) results.push(await work(address));
    return results;
  }

  /** Each address with its second one. Throws `bad-combination` where one has none. */
  get exchanged(): { readonly address: string; readonly second: string }[] {
    return this.pairs.map(({ address, second }) => {
      if (second !== undefined) return { address, second };
      throw new PatchError('bad-combination', `${address} of ${this.record.service} has no second address`, {
        remedy: 'give services[].second (and second6), or use hold or drain by H6',
      });
    });
  }

  /** Those flows, however the partition names its own side, that belong to a service address. */
  flowsOf(address: string, flows: readonly FlowName[]): FlowName[] {
    const second = this.pairs.find((pair) => pair.address === address)?.second;
    return flows.filter(({ localAddress }) => localAddress === address || localAddress === second);
  }

  /** Each address once, by the new active's uplink. */
  async announce(): Promise<void> {
    await this.each((address) =>
      this.env.mux.execute('announce', { address, port: this.port(this.to, address), count: 1 }),
    );
  }

  /** Name of the port at the mux by which `partition` has `address`. */
  port(partition: string, address: string): string {
    const name = deviceOf(this.env.hypervisor.partitionConfig(partition), address)?.name;
    if (name === undefined)
      throw new PatchError('no-standby', `partition ${partition} has no network device`);
    return name;
  }

  /** Ports of `partition` that `addresses` are on, each once. */
  ports(partition: string, addresses: readonly string[] = this.addresses): string[] {
    return [...new Set(addresses.map((address) => this.port(partition, address)))];
  }

  /** Every address that moves, on whichever ports it does. */
  async attach(): Promise<void> {
    for (const name of this.ports(this.to)) {
      await this.env.mux.execute('port-state', { name, state: 'attached' });
    }
  }

  /** Second addresses lead to the old partition from now on. */
  async pathsOfSeconds(): Promise<void> {
    for (const { second } of this.exchanged) {
      await this.env.mux.execute('path-set', { address: second, port: this.port(this.from, second) });
    }
  }

  /** The switch of the mux: `parts` says for each address what goes with it, the main one first. */
  switchOf(parts: readonly SwitchPart[], addresses?: Readonly<Record<string, string[]>>): SwitchCommand {
    const placed = parts.map((part) => ({
      ...part,
      from: this.port(this.from, part.address),
      to: this.port(this.to, part.address),
    }));
    const [first, ...also] = placed;
    return { ...first!, ...(addresses === undefined ? {} : { addresses }), also };
  }

  /** What each port may use from the switch on: second addresses on the old partition's, service addresses on the new one's. */
  get exchangedAddresses(): Record<string, string[]> {
    const by: Record<string, string[]> = {};
    for (const port of this.ports(this.from)) by[port] = [];
    const put = (port: string, address: string) => {
      by[port] = [...(by[port] ?? []), address];
    };
    for (const { address, second } of this.pairs) {
      if (second !== undefined) put(this.port(this.from, second), second);
      put(this.port(this.to, address), address);
    }
    return by;
  }

  /** A barrier for each port of `partition` that `addresses` are on: it follows the last of them. */
  barriers(partition: string, addresses: readonly string[]): Barriers {
    const tokens = new Map(this.ports(partition, addresses).map((port) => [port, nextBarrier()]));
    const last = new Map(addresses.map((address) => [this.port(partition, address), address]));
    return {
      after: (address) => {
        const port = this.port(partition, address);
        return last.get(port) === address ? { barrier: tokens.get(port)! } : {};
      },
      all: [...tokens.values()],
    };
  }

  applicationDisk(partition: string): string {
    return diskId(partition, 'application');
  }

  get service() {
    const found = this.env.services.find((s) => s.name === this.record.service);
    if (found === undefined)
      throw new PatchError('no-such-service', `there is no service ${this.record.service}`);
    return found;
  }
}

let lastBarrier = Math.floor(Math.random() * 0x4000_0000);

/** Token of a barrier frame, unlikely to be one that an earlier control process used. */
function nextBarrier(): number {
  lastBarrier = (lastBarrier + 1) & 0x7fff_ffff;
  return lastBarrier;
}
