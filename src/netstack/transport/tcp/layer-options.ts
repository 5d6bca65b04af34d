/** What the TCP of a stack is made of, and what its calls take. */
import type { Clock, Random } from '../../../common/index.ts';
import type { IpOutput } from '../../iface/index.ts';
import type { IpAddress } from '../../wire/index.ts';
import type { TcpConfig } from './config.ts';

export interface TcpLayerOptions {
  readonly ip: IpOutput;
  readonly clock: Clock;
  readonly random: Random;
  readonly config?: Partial<TcpConfig>;
  /** Runs a callback soon, outside of the current call. Default: setImmediate on the system's clock, else a timer of 0 ms. */
  readonly defer?: (callback: () => void) => void;
}

export interface TcpListenOptions {
  /** Absent or `::`: every address of the stack, of both families; 0.0.0.0: every IPv4 address. */
  readonly address?: IpAddress | undefined;
  /** With `::`: no IPv4. */
  readonly ipv6Only?: boolean | undefined;
  /** 0: a free one is chosen. */
  readonly port: number;
  readonly backlog?: number | undefined;
}

export interface TcpListener {
  /** Undefined: every address; unspecified: every one of that family. */
  readonly address: IpAddress | undefined;
  readonly port: number;
  /** No further connections; those established stay. */
  close(): void;
}

export interface TcpConnectOptions {
  readonly remoteAddress: IpAddress;
  readonly remotePort: number;
  readonly localAddress?: IpAddress | undefined;
  /** 0 or absent: chosen. */
  readonly localPort?: number | undefined;
}
