/**
 * The partition's network devices and its stack, and the application's sockets on it. The guest OS's own sockets (agent, port,
 * NBD) are unix sockets, which the override leaves alone.
 */
import type {
  Barrier,
  ConnectionState,
  FlowName,
  GuestCommands,
  Neighbor,
  NetworkFigures,
} from '../../channel/index.ts';
import { systemClock, systemRandom } from '../../common/index.ts';
import type { BootNetwork } from '../../hypervisor/index.ts';
import type { Cidr, Interface, IpAddress, NetOverride } from '../../netstack/index.ts';
import {
  cidr,
  formatCidr,
  formatIpAddress,
  formatMac,
  installDgramOverride,
  installNetOverride,
  ipAddress,
  macAddress,
  parseIpAddress,
  parseMac,
  RequestTracker,
  Stack,
  StreamLink,
  stackFigures,
} from '../../netstack/index.ts';
import { GuestError } from '../errors.ts';
import { BARRIER_ETHERTYPE, Barriers } from './barrier.ts';

type Result<N extends keyof GuestCommands & string> = GuestCommands[N]['result'];

const LINK_LIMIT_MS = 5_000;
const BARRIER_MS = 2_000;

export class Network {
  readonly #links: readonly StreamLink[];
  readonly #stack: Stack;
  readonly #override: NetOverride;
  readonly #tracker = new RequestTracker();
  /** What the last export took out, until it is known to be somewhere else. */
  #exported: ConnectionState[] = [];
  readonly #barriers = new Barriers();
  readonly #waiting = new Set<() => void>();
  readonly #log: (line: string) => void;

  /** @param devices at least one. */
  constructor(devices: readonly BootNetwork[], log: (line: string) => void) {
    this.#log = log;
    this.#links = devices.map(({ socket, mtu = 1500 }, i) => {
      const name = `net${i}`;
      const link: StreamLink = new StreamLink({
        path: socket,
        name,
        mtu,
        vnetHeader: true,
        rings: true,
        onState: (connected, reason) =>
          log(connected ? `${name} is connected (${link.carrier})` : `${name} lost its port: ${reason}`),
      });
      return link;
    });
    const [first, ...further] = devices.map(({ mac, addresses, gateways = [] }, i) => ({
      link: this.#links[i]!,
      mac: macAddress(mac),
      addresses: addresses.map((text) => cidr(text)),
      // Addresses are assigned and taken over by the patch manager, and must serve at once.
      detectDuplicates: false,
      gateway: gateways.map(ipAddress),
    }));
    this.#stack = new Stack({ clock: systemClock, random: systemRandom, ...first!, further });
    for (const one of this.#stack.interfaces) {
      one.onEtherType(BARRIER_ETHERTYPE, (buffer, at, length) => this.#barriers.receive(buffer, at, length));
    }
    installDgramOverride(this.#stack);
    this.#override = installNetOverride(this.#stack, {
      loopback: 'stack',
      onConnection: this.#tracker.onConnection,
      onListening: () => {
        for (const wake of this.#waiting) wake();
      },
    });
  }

  /** Resolves when every port is connected. */
  async ready(): Promise<void> {
    await Promise.all(this.#links.map((link) => link.ready(LINK_LIMIT_MS)));
  }

  /** CIDR. */
  get addresses(): string[] {
    return this.own.map((own) => formatCidr(own));
  }

  get own(): readonly Cidr[] {
    return this.#stack.addresses;
  }

  get listening(): number[] {
    return this.#stack.tcp.listeningPorts();
  }

  /** Resolves with the ports as soon as somebody listens. */
  async whenListening(): Promise<number[]> {
    if (this.listening.length === 0) {
      await new Promise<void>((resolve) => {
        const wake = () => {
          this.#waiting.delete(wake);
          resolve();
        };
        this.#waiting.add(wake);
      });
    }
    return this.listening;
  }

  get connections(): number {
    return this.#override.face.accepted.size;
  }

  /** 1602. */
  take(address: string, gateway?: string): void {
    const taken = parsed(address);
    const { interfaces, ip } = this.#stack;
    const device = interfaces.find((one) => one.addresses.isOnLink(taken.address)) ?? ip;
    if (!this.own.some((own) => own.address === taken.address)) device.addAddress(taken);
    if (gateway !== undefined) device.setGateway(ipAddress(gateway));
  }

  /** First half of 2202. */
  prepare(from: string, to: string): void {
    const source = ipAddress(bare(from));
    this.#device(source).prepareAlter(source, ipAddress(bare(to)));
  }

  /** Second half of 2202; the number of connections that moved. */
  alter(from: string, to: string): number {
    const source = ipAddress(bare(from));
    const moved = [...this.#stack.tcp.connections()].filter((open) => open.localAddress === source).length;
    this.#device(source).alter(source, ipAddress(bare(to)));
    return moved;
  }

  /** 1603, 1505, 2203. */
  announce(): void {
    for (const one of this.#stack.interfaces) one.announce();
    this.#stack.host.flush();
  }

  /** The one that has `address`; the first has those that nobody has, and says so. */
  #device(address: IpAddress): Interface {
    return this.#stack.interfaceOf(address) ?? this.#stack.ip;
  }

  async #passed(barrier: Barrier | undefined, timeoutMs: number): Promise<void> {
    const tokens = barrier === undefined ? [] : [barrier].flat();
    await Promise.all(tokens.map((token) => this.#barriers.wait(token, timeoutMs)));
  }

  /** Connections of unknown protocols may be moved whenever they are silent. */
  movesSilent(): void {
    this.#tracker.stateless = true;
  }

  get requestsInFlight(): number {
    return this.#tracker.busy;
  }

  quiesce(budgetMs: number, all: boolean): Promise<Result<'changeover-quiesce'>> {
    return this.#tracker.quiesce(budgetMs, all);
  }

  freezeIdle(most: number): Result<'changeover-freeze-idle'> {
    return { idle: this.#tracker.freezeIdle(most) };
  }

  async windDown(
    flows: readonly FlowName[],
    barrier: Barrier | undefined,
    timeoutMs = BARRIER_MS,
  ): Promise<FlowName[]> {
    await this.#passed(barrier, timeoutMs);
    return this.#tracker.windDown(flows);
  }

  resume(reclaim: boolean): number {
    this.#tracker.resume();
    const exported = this.#exported;
    this.#exported = [];
    if (!reclaim || exported.length === 0) return 0;
    const { imported, refused } = this.import(exported);
    for (const { flow, reason } of refused) {
      this.#log(
        `the connection of ${flow.remoteAddress}:${flow.remotePort} could not be taken back: ${reason}`,
      );
    }
    return imported;
  }

  async export(
    barrier: Barrier | undefined,
    timeoutMs = BARRIER_MS,
    only?: readonly FlowName[],
  ): Promise<ConnectionState[]> {
    await this.#passed(barrier, timeoutMs);
    const { connections, kept } = this.#tracker.exportFrozen(only);
    for (const { flow, reason } of kept) {
      this.#log(`the connection of ${flow.remoteAddress}:${flow.remotePort} stays: ${reason}`);
    }
    this.#exported = connections as unknown as ConnectionState[];
    return this.#exported;
  }

  /** Neighbours of both families whose hardware address is known. */
  neighbors(): Neighbor[] {
    return this.#stack.interfaces.flatMap(({ arp, neighbours }, device) =>
      [
        ...arp.entries().filter(({ state }) => state !== 'incomplete'),
        ...neighbours.entries().filter(({ state }) => state !== 'INCOMPLETE'),
      ].map(({ address, mac }) => ({
        address: formatIpAddress(address),
        mac: formatMac(mac),
        ...(device === 0 ? {} : { device }),
      })),
    );
  }

  /** What another partition knew of the same segments: connections go on without asking first. */
  learn(neighbors: readonly Neighbor[]): void {
    for (const { address, mac, device = 0 } of neighbors) {
      const at = this.#stack.interfaces[device];
      const ip = parseIpAddress(address);
      const hardware = parseMac(mac);
      if (at === undefined || ip === undefined || hardware === undefined) continue;
      if (typeof ip === 'number') at.arp.learn(ip, hardware, true);
      else at.neighbours.learn(ip, hardware);
    }
  }

  import(states: readonly ConnectionState[]): {
    imported: number;
    refused: { flow: FlowName; reason: string }[];
  } {
    return this.#override.face.importConnections(states);
  }

  figures(): NetworkFigures {
    return { ...stackFigures(this.#stack) };
  }

  connectionList(): Result<'changeover-connections'>['connections'] {
    return this.#tracker.connections().map(({ flow, state, requests }) => ({ flow, state, requests }));
  }

  interfaces(): Result<'guest-network-get-interfaces'> {
    return this.#stack.interfaces.map(({ mac, addresses }, i) => ({
      name: `net${i}`,
      'hardware-address': formatMac(mac),
      'ip-addresses': addresses.own.map(({ address, prefixLength }) => ({
        'ip-address': formatIpAddress(address),
        'ip-address-type': typeof address === 'number' ? ('ipv4' as const) : ('ipv6' as const),
        prefix: prefixLength,
      })),
    }));
  }

  /** Ends without a word to anybody: flows of this address may live on elsewhere. */
  close(): void {
    this.#stack.tcp.close();
    for (const link of this.#links) link.close();
  }
}

function bare(address: string): string {
  return address.split('/')[0]!;
}

function parsed(address: string): Cidr {
  try {
    return cidr(address);
  } catch (error) {
    throw new GuestError('bad-address', `'${address}' is not an address with prefix length`, {
      cause: error,
      remedy: 'give it as 10.77.0.11/24',
    });
  }
}
