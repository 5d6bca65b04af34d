/** Echo requests of ours that are under way, of both families: by identifier and sequence number, bounded. */
import type { Clock, Random, Timer } from '../../common/index.ts';
import { CodedError } from '../../common/index.ts';
import type { DropReason, IpAddress } from '../wire/index.ts';
import { formatIpAddress } from '../wire/index.ts';
import type { IcmpErrorKind } from './transport-interface.ts';

/** Why an echo was not answered: PING_TIMEOUT, PING_UNREACHABLE, PING_NO_ROUTE, PING_BUSY. */
export class PingError extends CodedError {}

const MAX_PINGS = 256;

interface Ping {
  readonly destination: IpAddress;
  readonly sentMs: number;
  readonly timer: Timer;
  readonly resolve: (result: { rttMs: number }) => void;
  readonly reject: (error: PingError) => void;
}

export class EchoRequests {
  readonly #clock: Clock;
  /** By identifier << 16 | sequence. */
  readonly #pings = new Map<number, Ping>();
  readonly #identifier: number;
  #sequence = 0;

  constructor(clock: Clock, random: Random) {
    this.#clock = clock;
    this.#identifier = random.u32() & 0xffff;
  }

  /** `send` emits the request whose second header word is `key`; false when it could not. Rejects with PingError. */
  start(
    destination: IpAddress,
    timeoutMs: number,
    send: (key: number) => boolean,
  ): Promise<{ rttMs: number }> {
    const clock = this.#clock;
    const name = formatIpAddress(destination);
    return new Promise((resolve, reject) => {
      if (this.#pings.size >= MAX_PINGS) {
        reject(new PingError('PING_BUSY', `${MAX_PINGS} echo requests are under way`));
        return;
      }
      this.#sequence = (this.#sequence + 1) & 0xffff;
      const key = ((this.#identifier << 16) | this.#sequence) >>> 0;
      const timer = clock.after(timeoutMs, () => {
        this.#pings.delete(key);
        reject(new PingError('PING_TIMEOUT', `${name} did not answer within ${timeoutMs} ms`));
      });
      this.#pings.set(key, { destination, sentMs: clock.nowMs(), timer, resolve, reject });
      if (!send(key)) {
        timer.cancel();
        this.#pings.delete(key);
        reject(new PingError('PING_NO_ROUTE', `nothing can be sent to ${name}`));
      }
    });
  }

  answered(key: number, source: IpAddress): DropReason | undefined {
    const ping = this.#take(key, source);
    if (ping === undefined) return 'icmp-unexpected-reply';
    ping.resolve({ rttMs: this.#clock.nowMs() - ping.sentMs });
    return undefined;
  }

  /** An ICMP error about the request. */
  failed(key: number, destination: IpAddress, kind: IcmpErrorKind): DropReason | undefined {
    const ping = this.#take(key, destination);
    if (ping === undefined) return 'icmp-unrelated-error';
    ping.reject(
      new PingError('PING_UNREACHABLE', `${formatIpAddress(destination)} cannot be reached: ${kind}`, {
        values: { kind },
      }),
    );
    return undefined;
  }

  /** Whether such a request is under way. */
  has(key: number, destination: IpAddress): boolean {
    return this.#pings.get(key)?.destination === destination;
  }

  #take(key: number, peer: IpAddress): Ping | undefined {
    const ping = this.#pings.get(key);
    if (ping === undefined || ping.destination !== peer) return undefined;
    this.#pings.delete(key);
    ping.timer.cancel();
    return ping;
  }
}
