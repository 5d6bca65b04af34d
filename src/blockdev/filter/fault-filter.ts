import type { Clock, SeededRandom } from '../../common/index.ts';
import { systemClock } from '../../common/index.ts';
import type { Device, Extent, WriteOptions, WriteZeroesOptions } from '../device.ts';
import { DeviceError } from '../device.ts';
import type { FaultRule, Operation } from './fault-rule.ts';
import { FilterDevice } from './filter-device.ts';

interface Kept {
  readonly rule: FaultRule;
  readonly setMs: number;
  seen: number;
  struck: number;
}

/**
 * Fails, tears and delays operations by rule, before they reach the device; reproducible by its random source. The delays of all
 * rules that match add up, the first error counts.
 */
export class FaultFilter extends FilterDevice {
  readonly #random: SeededRandom;
  readonly #clock: Clock;
  #rules: Kept[] = [];
  /** Errors, and delays, so far. */
  injected = 0;
  delayed = 0;

  constructor(
    next: Device,
    random: SeededRandom,
    rules: readonly FaultRule[] = [],
    clock: Clock = systemClock,
  ) {
    super(next);
    this.#random = random;
    this.#clock = clock;
    this.setRules(rules);
  }

  /** Counts and times begin anew. */
  setRules(rules: readonly FaultRule[]): void {
    const setMs = this.#clock.nowMs();
    this.#rules = rules.map((rule) => ({ rule, setMs, seen: 0, struck: 0 }));
  }

  override async readAt(target: Uint8Array, offset: bigint): Promise<void> {
    await this.#meet('read', offset, BigInt(target.length));
    return this.next.readAt(target, offset);
  }

  override async writeAt(source: Uint8Array, offset: bigint, options?: WriteOptions): Promise<void> {
    await this.#meet('write', offset, BigInt(source.length), (half) =>
      this.next.writeAt(source.subarray(0, Number(half)), offset),
    );
    return this.next.writeAt(source, offset, options);
  }

  override async writeZeroes(offset: bigint, length: bigint, options?: WriteZeroesOptions): Promise<void> {
    await this.#meet('zeroes', offset, length, (half) => this.next.writeZeroes(offset, half));
    return this.next.writeZeroes(offset, length, options);
  }

  override async trim(offset: bigint, length: bigint, options?: WriteOptions): Promise<void> {
    await this.#meet('trim', offset, length);
    return this.next.trim(offset, length, options);
  }

  override async flush(): Promise<void> {
    await this.#meet('flush', 0n, this.size);
    return this.next.flush();
  }

  override async extents(offset: bigint, length: bigint): Promise<Extent[]> {
    await this.#meet('extents', offset, length);
    return this.next.extents(offset, length);
  }

  /** Throws what the rules say, once the delays are over. `first` carries out the first bytes of a torn one. */
  #meet(
    operation: Operation,
    offset: bigint,
    length: bigint,
    first?: (bytes: bigint) => Promise<void>,
  ): Promise<void> | undefined {
    let delayMs = 0;
    let fault: FaultRule | undefined;
    for (const entry of this.#rules) {
      if (fault !== undefined || !this.#strikes(entry, operation, offset, length)) continue;
      entry.struck++;
      if (entry.rule.delayMs !== undefined) {
        this.delayed++;
        delayMs += entry.rule.delayMs;
      }
      if (entry.rule.errno !== undefined) fault = entry.rule;
    }
    if (fault !== undefined) this.injected++;
    if (fault === undefined && delayMs === 0) return undefined;
    return this.#carryOut(operation, offset, length, delayMs, fault, first);
  }

  async #carryOut(
    operation: Operation,
    offset: bigint,
    length: bigint,
    delayMs: number,
    fault: FaultRule | undefined,
    first: ((bytes: bigint) => Promise<void>) | undefined,
  ): Promise<void> {
    if (delayMs > 0) await new Promise<void>((resolve) => this.#clock.after(delayMs, resolve));
    if (fault?.errno === undefined) return;
    if (fault.torn === true && length > 1n) await first?.(length / 2n);
    throw new DeviceError(fault.errno, `injected ${fault.errno} for ${operation} at ${offset}`);
  }

  #strikes(entry: Kept, operation: Operation, offset: bigint, length: bigint): boolean {
    const { rule } = entry;
    if (!rule.operations.includes(operation)) return false;
    if (rule.range !== undefined) {
      const end = rule.range.offset + rule.range.length;
      if (offset >= end || offset + length <= rule.range.offset) return false;
    }
    const ageMs = this.#clock.nowMs() - entry.setMs;
    const sinceMs = rule.sinceMs ?? 0;
    if (ageMs < sinceMs || (rule.forMs !== undefined && ageMs >= sinceMs + rule.forMs)) return false;
    if (entry.seen++ < (rule.after ?? 0)) return false;
    if (rule.times !== undefined && entry.struck >= rule.times) return false;
    return rule.chance === undefined || this.#random.unit() < rule.chance;
  }
}
