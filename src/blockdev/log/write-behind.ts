/**
 * Keeps a log's share of the page cache small. A log is written once and read once, much later or never; left alone, it takes
 * memory from what the guests have cached, and pages that were never used before cost far more than the copy into them.
 * Each window that was written is given to the kernel to write back, and forgotten a few windows later: the pages are
 * taken again for the windows that follow. Nothing is durable by it; whatever fails here is of no consequence.
 */
import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { dropCached, nativeAvailable, writeBack } from 'block-io';
import { segmentName } from './format.ts';

interface Window {
  readonly segment: number;
  readonly from: number;
  readonly to: number;
}

export class WriteBehind {
  readonly #directory: string;
  readonly #windowBytes: number;
  readonly #keptWindows: number;
  #segment = 0;
  #from = 0;
  #to = 0;
  readonly #waiting: Window[] = [];
  readonly #kept: Window[] = [];
  #working = false;

  constructor(directory: string, windowBytes = 16 * 1024 * 1024, keptWindows = 4) {
    this.#directory = directory;
    this.#windowBytes = windowBytes;
    this.#keptWindows = keptWindows;
  }

  /** A segment reaches up to `tail` now. */
  wrote(segment: number, tail: number): void {
    if (segment !== this.#segment) {
      if (this.#segment !== 0) this.#end();
      this.#segment = segment;
      this.#from = 0;
    }
    this.#to = tail;
    if (tail - this.#from >= this.#windowBytes) this.#end();
  }

  #end(): void {
    if (!nativeAvailable || this.#to === this.#from) return;
    this.#waiting.push({ segment: this.#segment, from: this.#from, to: this.#to });
    this.#from = this.#to;
    if (!this.#working) void this.#work();
  }

  async #work(): Promise<void> {
    this.#working = true;
    for (let window = this.#waiting.shift(); window !== undefined; window = this.#waiting.shift()) {
      await this.#tell(window, writeBack);
      this.#kept.push(window);
      if (this.#kept.length > this.#keptWindows) await this.#tell(this.#kept.shift()!, dropCached);
    }
    this.#working = false;
  }

  /** By a descriptor of its own: the writer may close its own at any time. */
  async #tell(window: Window, call: typeof writeBack): Promise<void> {
    try {
      const fd = openSync(join(this.#directory, segmentName(window.segment)), 'r');
      try {
        await call(fd, window.from, window.to - window.from);
      } finally {
        closeSync(fd);
      }
    } catch {
      // The segment was dropped meanwhile, or no descriptor is free.
    }
  }
}
