import type { DeviceCapabilities } from '../device.ts';
import { DeviceError } from '../device.ts';
import { FilterDevice } from './filter-device.ts';

/** Refuses everything that alters the device with EROFS. */
export class ReadOnlyFilter extends FilterDevice {
  override get capabilities(): DeviceCapabilities {
    return { ...this.next.capabilities, readOnly: true, trim: false, writeZeroes: false, fastZero: false };
  }

  readAtSync(target: Uint8Array, offset: bigint): boolean {
    return this.next.readAtSync?.(target, offset) === true;
  }

  override writeAt(): Promise<void> {
    return this.#refuse();
  }

  override writeZeroes(): Promise<void> {
    return this.#refuse();
  }

  override trim(): Promise<void> {
    return this.#refuse();
  }

  override flush(): Promise<void> {
    return Promise.resolve();
  }

  #refuse(): Promise<void> {
    return Promise.reject(new DeviceError('EROFS', 'the device is served read-only'));
  }
}
