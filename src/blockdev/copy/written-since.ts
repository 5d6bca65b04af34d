import type { Device } from '../device.ts';
import type { WriteSink } from '../filter/index.ts';
import { DIRTY_GRAIN, DirtyMap } from '../log/index.ts';
import { firstDifference } from './hash.ts';

/** Notes which parts of a disk are written, and nothing else. */
export class WrittenSince implements WriteSink {
  readonly #map: DirtyMap;

  constructor(size: number) {
    this.#map = new DirtyMap(size);
  }

  record(_kind: string, address: number, length: number): undefined {
    this.#map.mark(address, length);
    return undefined;
  }

  landed(): void {}

  async flush(): Promise<void> {}

  has(start: number, end: number): boolean {
    return this.#map.has(start, end);
  }
}

/** Whether `target` is what `source` was when `since` was attached: equal wherever the source was not written since. */
export async function verifyUnfenced(source: Device, target: Device, since: WrittenSince): Promise<boolean> {
  const at = await firstDifference(source, target, (start, end) => since.has(start, end), DIRTY_GRAIN);
  return at === undefined;
}
