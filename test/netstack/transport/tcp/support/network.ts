/**
 * A network of TCP layers without IP: each host is an `IpOutput` that hands segments to the others over a virtual clock,
 * with delay, loss, reordering and duplication drawn from a seeded generator.
 */
import type { SeededRandom } from '../../../../../src/common/index.ts';
import { SeededRandom as Seeded, VirtualClock } from '../../../../../src/common/index.ts';
import type { IpOutput, OutputResult } from '../../../../../src/netstack/iface/index.ts';
import { OUTPUT } from '../../../../../src/netstack/iface/index.ts';
import type { TcpConfig } from '../../../../../src/netstack/transport/tcp/index.ts';
import { TcpLayer } from '../../../../../src/netstack/transport/tcp/index.ts';
import type { IpAddress } from '../../../../../src/netstack/wire/index.ts';
import { ipAddress } from '../../../../../src/netstack/wire/index.ts';

const IP_HEADER = 20;

export interface Impairment {
  delayMs: number;
  /** Probabilities 0 … 1, per packet. */
  loss: number;
  reorder: number;
  duplicate: number;
}

export interface SeenSegment {
  readonly atMs: number;
  readonly from: IpAddress;
  readonly to: IpAddress;
  readonly bytes: Uint8Array;
  readonly gsoSize: number;
}

export class Network {
  readonly clock = new VirtualClock();
  readonly random: SeededRandom;
  readonly impairment: Impairment = { delayMs: 5, loss: 0, reorder: 0, duplicate: 0 };
  mtu = 1500;
  gso = false;
  readonly hosts = new Map<IpAddress, { deliver(segment: SeenSegment): void }>();
  /** Sees every segment before it is impaired; false drops it. */
  filter: (segment: SeenSegment) => boolean = () => true;

  constructor(seed = 1) {
    this.random = new Seeded(seed);
  }

  host(address: string, config: Partial<TcpConfig> = {}): Host {
    return new Host(this, ipAddress(address), config);
  }

  /** Runs until `done` or the limit of virtual time; tells whether `done` holds. */
  until(done: () => boolean, limitMs = 60_000): boolean {
    return this.clock.runUntil(done, limitMs);
  }

  carry(segment: SeenSegment): void {
    if (!this.filter(segment)) return;
    const { impairment, random } = this;
    const copies = random.unit() < impairment.duplicate ? 2 : 1;
    for (let i = 0; i < copies; i++) {
      if (random.unit() < impairment.loss) continue;
      const extraMs = random.unit() < impairment.reorder ? random.unit() * 4 * impairment.delayMs : 0;
      this.clock.after(impairment.delayMs + extraMs, () => this.hosts.get(segment.to)?.deliver(segment));
    }
  }
}

export class Host implements IpOutput {
  readonly network: Network;
  readonly addresses = new Set<IpAddress>();
  readonly aliases = new Map<IpAddress, IpAddress>();
  readonly tcp: TcpLayer;
  address: IpAddress;
  /** The link takes so many packets more; then LINK_FULL until `unblock`. */
  linkRoom = Number.POSITIVE_INFINITY;

  constructor(network: Network, address: IpAddress, config: Partial<TcpConfig>) {
    this.network = network;
    this.address = address;
    this.addresses.add(address);
    network.hosts.set(address, this);
    this.tcp = new TcpLayer({ ip: this, clock: network.clock, random: network.random, config });
  }

  output(
    buffer: Uint8Array,
    offset: number,
    length: number,
    _protocol: number,
    source: IpAddress,
    destination: IpAddress,
    _checksumOffset: number,
    gsoSize: number,
  ): OutputResult {
    if (this.linkRoom <= 0) return OUTPUT.LINK_FULL;
    this.linkRoom--;
    if (gsoSize === 0 && length + IP_HEADER > this.network.mtu) return OUTPUT.TOO_BIG;
    this.network.carry({
      atMs: this.network.clock.nowMs(),
      from: source,
      to: destination,
      bytes: buffer.slice(offset, offset + length),
      gsoSize,
    });
    return OUTPUT.SENT;
  }

  deliver(segment: SeenSegment): void {
    const packet = new Uint8Array(IP_HEADER + segment.bytes.length);
    packet.set(segment.bytes, IP_HEADER);
    this.tcp.input(packet, 0, IP_HEADER, packet.length, segment.from, this.canonical(segment.to), true);
    this.tcp.endOfBatch();
  }

  unblock(): void {
    this.linkRoom = Number.POSITIVE_INFINITY;
    this.tcp.writable();
  }

  flush(): void {}

  sourceFor(): IpAddress {
    return this.address;
  }

  isLocal(address: IpAddress): boolean {
    return this.addresses.has(address);
  }

  canonical(address: IpAddress): IpAddress {
    return this.aliases.get(address) ?? address;
  }

  pathMtu(): number {
    return this.network.mtu;
  }

  maxGsoLength(): number {
    return this.network.gso ? 65_000 : 0;
  }
}
