/**
 * Listeners and what they do with a SYN (RFC 9293 3.10.7.2). Half-open connections are bounded per listener: beyond the
 * backlog SYNs are answered with cookies (syn-cookie.ts) or, with those turned off, the oldest makes room. So under a flood a
 * peer that really answers still gets in, and memory does not grow.
 */
import type { IpAddress } from '../../wire/index.ts';
import { IPV6_ANY, isUnspecified } from '../../wire/index.ts';
import { TcpError } from './errors.ts';
import type { Tcb } from './tcb.ts';
import { STATE } from './tcb.ts';

export const DEFAULT_BACKLOG = 511;
const MAX_BACKLOG = 4096;

export class Listener {
  /** Undefined: every address of the stack; unspecified: every one of that family. */
  address: IpAddress | undefined;
  readonly port: number;
  readonly backlog: number;
  readonly #accept: (tcb: Tcb) => void;
  /** Half-open ones in the order of their SYNs. */
  readonly #halfOpen = new Set<Tcb>();
  /** When it last answered with a cookie. */
  lastCookieMs = Number.NEGATIVE_INFINITY;

  constructor(address: IpAddress | undefined, port: number, backlog: number, accept: (tcb: Tcb) => void) {
    this.address = address;
    this.port = port;
    this.backlog = Math.min(MAX_BACKLOG, Math.max(1, backlog));
    this.#accept = accept;
  }

  get halfOpen(): number {
    return this.#halfOpen.size;
  }

  get full(): boolean {
    return this.#halfOpen.size >= this.backlog;
  }

  /** Counts `tcb` in; returns the one that has to go for it. */
  add(tcb: Tcb): Tcb | undefined {
    let evicted: Tcb | undefined;
    if (this.#halfOpen.size >= this.backlog) {
      for (const oldest of this.#halfOpen) {
        evicted = oldest;
        break;
      }
      if (evicted !== undefined) this.#halfOpen.delete(evicted);
    }
    this.#halfOpen.add(tcb);
    return evicted;
  }

  /** The handshake is over, one way or the other. */
  remove(tcb: Tcb): void {
    this.#halfOpen.delete(tcb);
  }

  accept(tcb: Tcb): void {
    this.#accept(tcb);
  }

  /** Those still half-open, for closing them with the listener. */
  get pending(): Tcb[] {
    return [...this.#halfOpen].filter((tcb) => tcb.state === STATE.SYN_RECEIVED);
  }
}

export class ListenerTable {
  readonly #byPort = new Map<number, Listener[]>();

  /** EADDRINUSE when the port is taken on this address, or on all. */
  add(listener: Listener): void {
    const others = this.#byPort.get(listener.port) ?? [];
    for (const other of others) {
      if (covers(other.address, listener.address) || covers(listener.address, other.address)) {
        throw new TcpError('EADDRINUSE', `port ${listener.port}`, { values: { port: listener.port } });
      }
    }
    this.#byPort.set(listener.port, [...others, listener]);
  }

  remove(listener: Listener): void {
    const left = (this.#byPort.get(listener.port) ?? []).filter((other) => other !== listener);
    if (left.length === 0) this.#byPort.delete(listener.port);
    else this.#byPort.set(listener.port, left);
  }

  find(address: IpAddress, port: number): Listener | undefined {
    const listeners = this.#byPort.get(port);
    if (listeners === undefined) return undefined;
    for (const listener of listeners) {
      if (covers(listener.address, address)) return listener;
    }
    return undefined;
  }

  has(port: number): boolean {
    return this.#byPort.has(port);
  }

  ports(): number[] {
    return [...this.#byPort.keys()];
  }

  *[Symbol.iterator](): IterableIterator<Listener> {
    for (const listeners of this.#byPort.values()) yield* listeners;
  }

  /** An altered local address: listeners bound to it follow. */
  rehome(from: IpAddress, to: IpAddress): void {
    for (const listener of this) if (listener.address === from) listener.address = to;
  }
}

/** Whether who listens on `address` also has what is sent to `other`. */
function covers(address: IpAddress | undefined, other: IpAddress | undefined): boolean {
  if (address === undefined || address === other) return true;
  return other !== undefined && isUnspecified(address) && typeof address === typeof other;
}

/** What to listen on: as a kernel does it, `::` means both families (undefined) unless it is told otherwise, 0.0.0.0 only IPv4. */
export function bindAddress(address: IpAddress | undefined, ipv6Only: boolean): IpAddress | undefined {
  return address === IPV6_ANY && !ipv6Only ? undefined : address;
}
