import type { SeededRandom } from '../../common/index.ts';
import type { Device, DeviceErrno, Extent, WriteOptions, WriteZeroesOptions } from '../device.ts';
import { DeviceError } from '../device.ts';
import { FilterDevice } from './filter-device.ts';

export type Operation = 'read' | 'write' | 'zeroes' | 'trim' | 'flush' | 'extents';

export interface FaultRule {
  readonly operations: readonly Operation[];
  readonly errno: DeviceErrno;
  /** Chance of each matching operation to fail, 0 … 1; default 1. */
  readonly chance?: number;
  /** Let so many matching operations pass first; default 0. */
  readonly after?: number;
  /** Fail at most so often; default: for ever. */
  readonly times?: number;
  /** Only operations that touch this range. */
  readonly range?: { readonly offset: bigint; readonly length: bigint };
}

/** Fails operations by rule, before they reach the device; reproducible by its random source. */
export class FaultFilter extends FilterDevice {
  readonly #random: SeededRandom;
  #rules: { readonly rule: FaultRule; seen: number; failed: number }[] = [];
  injected = 0;

  constructor(next: Device, random: SeededRandom, rules: readonly FaultRule[] = []) {
    super(next);
    this.#random = random;
    this.setRules(rules);
  }

  setRules(rules: readonly FaultRule[]): void {
    this.#rules = rules.map((rule) => ({ rule, seen: 0, failed: 0 }));
  }

  override async readAt(target: Uint8Array, offset: bigint): Promise<void> {
    this.#check('read', offset, BigInt(target.length));
    return this.next.readAt(target, offset);
  }

  override async writeAt(source: Uint8Array, offset: bigint, options?: WriteOptions): Promise<void> {
    this.#check('write', offset, BigInt(source.length));
    return this.next.writeAt(source, offset, options);
  }

  override async writeZeroes(offset: bigint, length: bigint, options?: WriteZeroesOptions): Promise<void> {
    this.#check('zeroes', offset, length);
    return this.next.writeZeroes(offset, length, options);
  }

  override async trim(offset: bigint, length: bigint, options?: WriteOptions): Promise<void> {
    this.#check('trim', offset, length);
    return this.next.trim(offset, length, options);
  }

  override async flush(): Promise<void> {
    this.#check('flush', 0n, this.size);
    return this.next.flush();
  }

  override async extents(offset: bigint, length: bigint): Promise<Extent[]> {
    this.#check('extents', offset, length);
    return this.next.extents(offset, length);
  }

  #check(operation: Operation, offset: bigint, length: bigint): void {
    for (const entry of this.#rules) {
      const { rule } = entry;
      if (!rule.operations.includes(operation)) continue;
      if (rule.range !== undefined) {
        const end = rule.range.offset + rule.range.length;
        if (offset >= end || offset + length <= rule.range.offset) continue;
      }
      if (entry.seen++ < (rule.after ?? 0)) continue;
      if (rule.times !== undefined && entry.failed >= rule.times) continue;
      if (rule.chance !== undefined && this.#random.unit() >= rule.chance) continue;
      entry.failed++;
      this.injected++;
      throw new DeviceError(rule.errno, `injected ${rule.errno} for ${operation} at ${offset}`);
    }
  }
}
