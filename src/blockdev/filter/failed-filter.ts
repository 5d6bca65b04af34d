import type { DeviceErrno } from '../device.ts';
import { DeviceError } from '../device.ts';
import { FilterDevice } from './filter-device.ts';

/** A device of which a flush failed in the life of another process: it can be read, nothing else. Flushes fail with EIO, writes with EROFS. */
export class FailedFilter extends FilterDevice {
  readonly reason: string;

  constructor(next: FilterDevice['next'], reason: string) {
    super(next);
    this.reason = reason;
  }

  readAtSync(target: Uint8Array, offset: bigint): boolean {
    return this.next.readAtSync?.(target, offset) === true;
  }

  override writeAt(): Promise<void> {
    return this.#refuse('EROFS');
  }

  override writeZeroes(): Promise<void> {
    return this.#refuse('EROFS');
  }

  override trim(): Promise<void> {
    return this.#refuse('EROFS');
  }

  override flush(): Promise<void> {
    return this.#refuse('EIO');
  }

  #refuse(errno: DeviceErrno): Promise<void> {
    return Promise.reject(new DeviceError(errno, `read-only since a flush failed: ${this.reason}`));
  }
}
