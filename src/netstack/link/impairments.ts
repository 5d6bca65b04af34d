/**
 * Wrappers that make a link behave like a bad one, each in the transmit direction; wrap both ends for both directions.
 * Chance comes from the caller's Random, so a seed repeats a run. Packets that a wrapper keeps for later and that the inner
 * link then has no room for are lost, as in a router.
 */
import type { Clock, Random } from '../../common/index.ts';
import { copyBytes, ETHERNET, ETHERTYPE, readU16, VNET } from '../wire/index.ts';
import type { LinkDevice } from './link-device.ts';
import { LinkWrapper } from './link-wrapper.ts';

function happens(random: Random, probability: number): boolean {
  return probability > 0 && random.u32() < probability * 0x1_0000_0000;
}

/** Loses each packet with the given probability. */
export class LossLink extends LinkWrapper {
  readonly #random: Random;
  readonly #probability: number;
  lost = 0;

  constructor(inner: LinkDevice, random: Random, probability: number) {
    super(inner);
    this.#random = random;
    this.#probability = probability;
  }

  override transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    if (!happens(this.#random, this.#probability)) return super.transmit(buffer, offset, length);
    this.lost++;
    return true;
  }
}

/** Sends each packet twice with the given probability. */
export class DuplicateLink extends LinkWrapper {
  readonly #random: Random;
  readonly #probability: number;
  duplicated = 0;

  constructor(inner: LinkDevice, random: Random, probability: number) {
    super(inner);
    this.#random = random;
    this.#probability = probability;
  }

  override transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    if (!super.transmit(buffer, offset, length)) return false;
    if (happens(this.#random, this.#probability) && super.transmit(buffer, offset, length)) this.duplicated++;
    return true;
  }
}

/**
 * Flips one bit of an IP packet with the given probability. Ethernet headers and ARP are spared: on a wire their frame check
 * sequence protects them, and damage that reaches a host happens behind it.
 */
export class CorruptLink extends LinkWrapper {
  readonly #random: Random;
  readonly #probability: number;
  corrupted = 0;

  constructor(inner: LinkDevice, random: Random, probability: number) {
    super(inner);
    this.#random = random;
    this.#probability = probability;
  }

  override transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    const header = VNET.LENGTH + ETHERNET.HEADER;
    if (length <= header || !happens(this.#random, this.#probability)) {
      return super.transmit(buffer, offset, length);
    }
    if (readU16(buffer, offset + header - 2) === ETHERTYPE.ARP) return super.transmit(buffer, offset, length);
    const damaged = copyBytes(buffer, offset, length);
    const bit = this.#random.u32() % ((length - header) * 8);
    damaged[header + (bit >>> 3)]! ^= 1 << (bit & 7);
    this.corrupted++;
    return super.transmit(damaged, 0, length);
  }
}

/** Packets kept for later, bounded. */
abstract class HoldingLink extends LinkWrapper {
  readonly #clock: Clock;
  readonly #limit: number;
  #held = 0;
  #closed = false;
  /** Packets for which there was no room, here or in the inner link. */
  overflowed = 0;

  constructor(inner: LinkDevice, clock: Clock, limitPackets: number) {
    super(inner);
    this.#clock = clock;
    this.#limit = limitPackets;
  }

  protected nowMs(): number {
    return this.#clock.nowMs();
  }

  protected hold(buffer: Uint8Array, offset: number, length: number, delayMs: number): void {
    if (this.#held >= this.#limit) {
      this.overflowed++;
      return;
    }
    this.#held++;
    const packet = copyBytes(buffer, offset, length);
    this.#clock.after(delayMs, () => {
      this.#held--;
      if (this.#closed) return;
      if (!this.inner.transmit(packet, 0, packet.length)) this.overflowed++;
      this.inner.flush();
    });
  }

  override close(): void {
    this.#closed = true;
    super.close();
  }
}

/** Delivers every packet `delayMs` later, in order. */
export class DelayLink extends HoldingLink {
  readonly #delayMs: number;

  constructor(inner: LinkDevice, clock: Clock, delayMs: number, limitPackets = 100_000) {
    super(inner, clock, limitPackets);
    this.#delayMs = delayMs;
  }

  override transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    this.hold(buffer, offset, length, this.#delayMs);
    return true;
  }
}

/** Delivers a packet up to `byMs` later than those behind it, with the given probability. */
export class ReorderLink extends HoldingLink {
  readonly #random: Random;
  readonly #probability: number;
  readonly #byMs: number;
  reordered = 0;

  constructor(inner: LinkDevice, clock: Clock, random: Random, probability: number, byMs = 5) {
    super(inner, clock, 100_000);
    this.#random = random;
    this.#probability = probability;
    this.#byMs = byMs;
  }

  override transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    if (!happens(this.#random, this.#probability)) return super.transmit(buffer, offset, length);
    this.reordered++;
    this.hold(buffer, offset, length, (this.#random.u32() / 0x1_0000_0000) * this.#byMs);
    return true;
  }
}

/** A bottleneck: `bytesPerSecond`, a drop-tail queue of `queueBytes` in front of it. */
export class RateLink extends HoldingLink {
  readonly #bytesPerMs: number;
  readonly #queueMs: number;
  #freeAtMs = 0;
  dropped = 0;

  constructor(inner: LinkDevice, clock: Clock, bytesPerSecond: number, queueBytes = 64 * 1024) {
    super(inner, clock, 100_000);
    this.#bytesPerMs = bytesPerSecond / 1000;
    this.#queueMs = queueBytes / this.#bytesPerMs;
  }

  override transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    const nowMs = this.nowMs();
    const startMs = Math.max(nowMs, this.#freeAtMs);
    if (startMs - nowMs > this.#queueMs) {
      this.dropped++;
      return true;
    }
    this.#freeAtMs = startMs + (length - VNET.LENGTH) / this.#bytesPerMs;
    this.hold(buffer, offset, length, this.#freeAtMs - nowMs);
    return true;
  }
}

export interface Impairment {
  /** Probabilities 0 … 1. */
  readonly loss?: number;
  readonly reorder?: number;
  readonly duplicate?: number;
  readonly corrupt?: number;
  readonly delayMs?: number;
  readonly bytesPerSecond?: number;
}

/** A link wrapped in the impairments that are asked for: damaged, duplicated, lost, then reordered, slowed, delayed. */
export function impair(link: LinkDevice, clock: Clock, random: Random, how: Impairment): LinkDevice {
  let wrapped = link;
  if (how.delayMs !== undefined && how.delayMs > 0) wrapped = new DelayLink(wrapped, clock, how.delayMs);
  if (how.bytesPerSecond !== undefined) wrapped = new RateLink(wrapped, clock, how.bytesPerSecond);
  if (how.reorder !== undefined && how.reorder > 0)
    wrapped = new ReorderLink(wrapped, clock, random, how.reorder);
  if (how.loss !== undefined && how.loss > 0) wrapped = new LossLink(wrapped, random, how.loss);
  if (how.duplicate !== undefined && how.duplicate > 0) {
    wrapped = new DuplicateLink(wrapped, random, how.duplicate);
  }
  if (how.corrupt !== undefined && how.corrupt > 0) wrapped = new CorruptLink(wrapped, random, how.corrupt);
  return wrapped;
}
