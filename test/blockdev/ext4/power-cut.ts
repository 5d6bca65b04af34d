/** A device that remembers every write and flush, and the devices that a power cut may leave behind. */
import type { Device, DeviceCapabilities, Extent, MemoryStore } from '../../../src/blockdev/index.ts';
import type { SeededRandom } from '../../../src/common/index.ts';

const SECTOR = 512;

type Event = { readonly kind: 'flush' } | { readonly kind: 'write'; offset: number; data: Buffer };

abstract class Layer implements Device {
  readonly size: bigint;
  readonly capabilities: DeviceCapabilities;
  constructor(next: Device) {
    this.size = next.size;
    this.capabilities = { ...next.capabilities, trim: false, writeZeroes: false };
  }
  abstract readAt(target: Uint8Array, offset: bigint): Promise<void>;
  abstract writeAt(source: Uint8Array, offset: bigint): Promise<void>;
  abstract flush(): Promise<void>;
  async writeZeroes(offset: bigint, length: bigint): Promise<void> {
    await this.writeAt(Buffer.alloc(Number(length)), offset);
  }
  trim(offset: bigint, length: bigint): Promise<void> {
    return this.writeZeroes(offset, length);
  }
  async extents(offset: bigint, length: bigint): Promise<Extent[]> {
    return [{ offset, length, zero: false, hole: false }];
  }
  async close(): Promise<void> {}
}

export class RecordingDevice extends Layer {
  readonly events: Event[] = [];
  readonly #next: Device;

  constructor(next: Device) {
    super(next);
    this.#next = next;
  }

  readAt(target: Uint8Array, offset: bigint): Promise<void> {
    return this.#next.readAt(target, offset);
  }

  async writeAt(source: Uint8Array, offset: bigint): Promise<void> {
    await this.#next.writeAt(source, offset);
    this.events.push({ kind: 'write', offset: Number(offset), data: Buffer.from(source) });
  }

  async flush(): Promise<void> {
    await this.#next.flush();
    this.events.push({ kind: 'flush' });
  }
}

/** Sectors over a device that stays as it is. */
export class Overlay extends Layer {
  readonly #next: Device;
  readonly #sectors = new Map<number, Buffer>();

  constructor(next: Device) {
    super(next);
    this.#next = next;
  }

  async readAt(target: Uint8Array, offset: bigint): Promise<void> {
    await this.#next.readAt(target, offset);
    const at = Number(offset);
    const first = Math.floor(at / SECTOR);
    const last = Math.floor((at + target.length - 1) / SECTOR);
    for (let sector = first; sector <= last; sector++) {
      const data = this.#sectors.get(sector);
      if (data === undefined) continue;
      const from = Math.max(at, sector * SECTOR);
      const to = Math.min(at + target.length, (sector + 1) * SECTOR);
      target.set(data.subarray(from - sector * SECTOR, to - sector * SECTOR), from - at);
    }
  }

  async writeAt(source: Uint8Array, offset: bigint): Promise<void> {
    const at = Number(offset);
    for (let done = 0; done < source.length; ) {
      const sector = Math.floor((at + done) / SECTOR);
      const within = at + done - sector * SECTOR;
      const take = Math.min(SECTOR - within, source.length - done);
      let data = this.#sectors.get(sector);
      if (data === undefined) {
        data = Buffer.alloc(SECTOR);
        if (take < SECTOR) await this.#next.readAt(data, BigInt(sector * SECTOR));
        this.#sectors.set(sector, data);
      }
      data.set(source.subarray(done, done + take), within);
      done += take;
    }
  }

  async flush(): Promise<void> {}
}

/** The cuts of one trace, from its beginning on: `advance` to a place, then any number of `cut`s there. */
export class PowerCuts {
  readonly #durable: MemoryStore;
  readonly #events: readonly Event[];
  #flushed = 0;
  #at = 0;

  /** `start`: what the device held before the trace; it becomes ours. */
  constructor(start: MemoryStore, events: readonly Event[]) {
    this.#durable = start;
    this.#events = events;
  }

  /** The cut comes before event `at`. */
  async advance(at: number): Promise<void> {
    for (; this.#at < at; this.#at++) {
      if (this.#events[this.#at]!.kind !== 'flush') continue;
      for (; this.#flushed < this.#at; this.#flushed++) {
        const event = this.#events[this.#flushed]!;
        if (event.kind === 'write') await this.#durable.writeAt(event.data, BigInt(event.offset));
      }
    }
  }

  /**
   * What the disk holds: everything flushed; of the rest nothing, everything, some writes, or some sectors, in any order.
   * With `wholeSuperblock` its two sectors are written together, as e2fsck and the kernel take for granted.
   */
  async cut(random: SeededRandom, wholeSuperblock = false): Promise<Overlay> {
    const left = new Overlay(this.#durable);
    const rest = this.#events.slice(this.#flushed, this.#at).filter((event) => event.kind === 'write');
    const mode = random.below(8);
    if (mode === 0) return left;
    const pieces: { offset: number; data: Buffer }[] = [];
    const keep = (whole: { offset: number; data: Buffer }) => {
      if (mode === 1 || random.below(2) === 0) pieces.push(whole);
    };
    for (const { offset, data } of rest) {
      if (mode <= 3) {
        keep({ offset, data });
        continue;
      }
      for (let at = 0; at < data.length; ) {
        const superblock = wholeSuperblock && offset + at === 1024 && at + 1024 <= data.length;
        const take = superblock ? 1024 : Math.min(SECTOR, data.length - at);
        keep({ offset: offset + at, data: data.subarray(at, at + take) });
        at += take;
      }
    }
    if (mode > 1) {
      for (let i = pieces.length - 1; i > 0; i--) {
        const j = random.below(i + 1);
        [pieces[i], pieces[j]] = [pieces[j]!, pieces[i]!];
      }
    }
    for (const { offset, data } of pieces) await left.writeAt(data, BigInt(offset));
    return left;
  }
}
