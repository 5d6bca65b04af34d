/** One TCP/IP stack on one link: the parts, put together. Time, randomness and the link come from outside. */
import type { Clock, Random } from '../common/index.ts';
import type { InterfaceOptions } from './iface/index.ts';
import { Interface } from './iface/index.ts';
import type { TcpConfig } from './transport/tcp/index.ts';
import { TcpLayer } from './transport/tcp/index.ts';
import { UdpTransport } from './transport/udp/index.ts';
import { PROTOCOL } from './wire/index.ts';

export interface StackOptions extends InterfaceOptions {
  /** What differs from DEFAULT_TCP_CONFIG. */
  readonly tcp?: Partial<TcpConfig>;
}

export class Stack {
  readonly clock: Clock;
  readonly random: Random;
  readonly ip: Interface;
  readonly udp: UdpTransport;
  readonly tcp: TcpLayer;

  constructor(options: StackOptions) {
    this.clock = options.clock;
    this.random = options.random;
    this.ip = new Interface(options);
    this.udp = new UdpTransport(this.ip, options.random);
    this.ip.registerTransport(PROTOCOL.UDP, this.udp);
    this.tcp = new TcpLayer({
      ip: this.ip,
      clock: options.clock,
      random: options.random,
      ...(options.tcp === undefined ? {} : { config: options.tcp }),
    });
    this.ip.registerTransport(PROTOCOL.TCP, this.tcp);
  }
}
