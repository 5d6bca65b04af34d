import type { WriteSink } from '../filter/index.ts';
import { DirtyMap } from '../log/index.ts';

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
