/** Path MTUs learned from "fragmentation needed" (RFC 1191), per destination, bounded, forgotten after ten minutes. */
import type { Clock } from '../../common/index.ts';
import type { IpAddress } from '../wire/index.ts';

/** Smaller values are not believed: below it fragments cost more than they are worth, and forgers would ask for them. */
export const MIN_PATH_MTU = 552;
const LIFETIME_MS = 600_000;
const MAX_ENTRIES = 1024;

/** RFC 1191 section 7.1: guesses for routers that do not tell. */
const PLATEAUS = [32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006, MIN_PATH_MTU];

export interface PathMtuEntry {
  readonly mtu: number;
  readonly untilMs: number;
}

export class PathMtuCache {
  readonly #clock: Clock;
  readonly #linkMtu: number;
  readonly #entries = new Map<IpAddress, PathMtuEntry>();

  constructor(clock: Clock, linkMtu: number) {
    this.#clock = clock;
    this.#linkMtu = linkMtu;
  }

  get size(): number {
    return this.#entries.size;
  }

  of(destination: IpAddress): number {
    if (this.#entries.size === 0) return this.#linkMtu;
    const entry = this.#entries.get(destination);
    if (entry === undefined) return this.#linkMtu;
    if (this.#clock.nowMs() < entry.untilMs) return entry.mtu;
    this.#entries.delete(destination);
    return this.#linkMtu;
  }

  /** What a report is worth: `reported` 0 means that the router did not say. Never above what is known already. */
  clamp(destination: IpAddress, reported: number, quotedLength: number): number {
    const guess = PLATEAUS.find((plateau) => plateau < quotedLength) ?? MIN_PATH_MTU;
    const wanted = reported === 0 ? guess : reported;
    return Math.min(this.of(destination), Math.max(wanted, MIN_PATH_MTU));
  }

  /** Sets it, and returns what was there for `restore`. */
  set(destination: IpAddress, mtu: number): PathMtuEntry | undefined {
    const before = this.#entries.get(destination);
    this.#entries.delete(destination);
    if (this.#entries.size >= MAX_ENTRIES) {
      const oldest = this.#entries.keys().next().value;
      if (oldest !== undefined) this.#entries.delete(oldest);
    }
    this.#entries.set(destination, { mtu, untilMs: this.#clock.nowMs() + LIFETIME_MS });
    return before;
  }

  restore(destination: IpAddress, before: PathMtuEntry | undefined): void {
    if (before === undefined) this.#entries.delete(destination);
    else this.#entries.set(destination, before);
  }
}
