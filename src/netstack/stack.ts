/** One TCP/IP stack on one link or several: the parts, put together. Time, randomness and links come from outside. */
import type { Clock, Random } from '../common/index.ts';
import type { InterfaceOptions, IpOutput } from './iface/index.ts';
import { Interface, Multihomed } from './iface/index.ts';
import type { TcpConfig } from './transport/tcp/index.ts';
import { TcpLayer } from './transport/tcp/index.ts';
import { UdpTransport } from './transport/udp/index.ts';
import type { Cidr, IpAddress } from './wire/index.ts';
import { PROTOCOL } from './wire/index.ts';

export interface StackOptions extends InterfaceOptions {
  /** Further network devices of the same host; the options themselves describe the first. */
  readonly further?: readonly Omit<InterfaceOptions, 'clock' | 'random'>[];
  /** What differs from DEFAULT_TCP_CONFIG. */
  readonly tcp?: Partial<TcpConfig>;
}

export class Stack {
  readonly clock: Clock;
  readonly random: Random;
  /** The first interface. */
  readonly ip: Interface;
  readonly interfaces: readonly Interface[];
  /** All interfaces as one: what transports send by. With a single interface it is that one. */
  readonly host: IpOutput;
  readonly udp: UdpTransport;
  readonly tcp: TcpLayer;

  constructor(options: StackOptions) {
    const { clock, random, further = [] } = options;
    this.clock = clock;
    this.random = random;
    this.ip = new Interface(options);
    this.interfaces = [this.ip, ...further.map((one) => new Interface({ ...one, clock, random }))];
    this.host = further.length === 0 ? this.ip : new Multihomed(this.interfaces);
    this.udp = new UdpTransport(this.host, random);
    this.tcp = new TcpLayer({
      ip: this.host,
      clock,
      random,
      ...(options.tcp === undefined ? {} : { config: options.tcp }),
    });
    for (const one of this.interfaces) {
      one.registerTransport(PROTOCOL.UDP, this.udp);
      one.registerTransport(PROTOCOL.TCP, this.tcp);
    }
  }

  /** Own addresses of every interface, those of the first before the others. */
  get addresses(): Cidr[] {
    return this.interfaces.flatMap((one) => one.addresses.own);
  }

  /** The interface that accepts packets to `address`. */
  interfaceOf(address: IpAddress): Interface | undefined {
    return this.interfaces.find((one) => one.isLocal(address));
  }
}
