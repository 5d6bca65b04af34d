/**
 * One disk as the block process runs it, from the guest's side down:
 *
 *   stats → throttle (slows writers that outrun a copy) → gate (stops writes for a cut) → fence (late writes) → trap (write log) →
 *   mirror (second half) → store
 *
 * The gate stands above the fence, so that a write which waited for the cut meets the fence that was put up at the cut. A copy
 * reads and writes at the store: what it does is neither logged nor held back.
 */
import type { Device } from '../device.ts';
import { Fence, StatsFilter, WriteGate, WriteThrottle, WriteTrap } from '../filter/index.ts';
import { MirrorDevice } from '../mirror/index.ts';

export class DiskStack {
  readonly id: string;
  readonly store: Device;
  readonly mirror: MirrorDevice;
  readonly trap: WriteTrap;
  readonly fence: Fence;
  readonly gate: WriteGate;
  readonly throttle: WriteThrottle;
  /** What guests are served. */
  readonly top: StatsFilter;

  constructor(id: string, store: Device, onLateWrite?: (offset: bigint, length: bigint) => void) {
    this.id = id;
    this.store = store;
    this.mirror = new MirrorDevice(store);
    this.trap = new WriteTrap(this.mirror);
    this.fence = new Fence(this.trap, onLateWrite);
    this.gate = new WriteGate(this.fence);
    this.throttle = new WriteThrottle(this.gate);
    this.top = new StatsFilter(this.throttle);
  }
}
