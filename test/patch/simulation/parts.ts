/** What the simulated world consists of: clients and their connections, guests, what is between two guests. */

import type { Timer } from '../../../src/common/index.ts';

export type PartitionId = 'A' | 'B';
export const PARTITIONS: readonly PartitionId[] = ['A', 'B'];
export const ADDRESS = '10.0.0.1';
export const SECOND = '10.0.0.2';
const CLIENT_ADDRESS = '10.0.0.200';

export interface Request {
  /** Number of the write; undefined: it only reads. */
  readonly write: number | undefined;
  /** A try that nobody waits for any more is not answered. */
  readonly attempt: number;
  readonly connection: Connection;
}

export interface Connection {
  readonly id: number;
  readonly client: Client;
  /** Its first packet has reached a partition. */
  isOpen: boolean;
  /** Where the mux's flow table leads it; undefined: it does not know. */
  port: PartitionId | undefined;
  steered: boolean;
  closed: boolean;
}

export interface Client {
  readonly keepAlive: boolean;
  connection: Connection | undefined;
  attempt: number;
  next: number;
  readonly acknowledged: number[];
  failures: number;
  timeout?: Timer;
}

export interface Guest {
  phase: 'stopped' | 'ready' | 'serving' | 'frozen';
  boots: number;
  /** Its connections are under this one; it takes the other, too, where it was told to. */
  address: string;
  diskExported: boolean;
  frozenFileSystems: boolean;
  /** Times that it was told to go on. */
  resumed: number;
  readonly connections: Set<Connection>;
  /** Frozen, a few at a time, while the others go on. */
  readonly waiting: Set<Connection>;
  /** Not read yet: the connection is frozen. */
  unread: Request[];
  /** Requests being worked on. */
  readonly busy: Set<Request>;
  exported: Handed[];
}

export interface Flow {
  readonly localAddress: string;
  readonly localPort: number;
  readonly remoteAddress: string;
  readonly remotePort: number;
}

/** A connection between two guests. */
export interface Handed {
  readonly flow: Flow;
  readonly connection: Connection;
  readonly unread: Request[];
}

export const ZERO = { rewritten: 0, steered: 0, held: 0, heldDropped: 0, rstSuppressed: 0, longestHoldMs: 0 };

export function newGuest(): Guest {
  return {
    ...{ phase: 'stopped' as const, boots: 0, address: ADDRESS, diskExported: false },
    ...{ frozenFileSystems: false, resumed: 0, connections: new Set<Connection>(), unread: [] },
    ...{ busy: new Set<Request>(), waiting: new Set<Connection>(), exported: [] },
  };
}

export function flowOf(connection: Connection, localAddress = ADDRESS): Flow {
  return { localAddress, localPort: 80, remoteAddress: CLIENT_ADDRESS, remotePort: connection.id };
}

export function detail(args: Record<string, unknown>): string {
  return String(args['scope'] ?? args['state'] ?? args['to'] ?? '');
}
