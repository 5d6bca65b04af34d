import type { Device } from './device.ts';
import { DeviceError } from './device.ts';

/** Throws EINVAL when [offset, offset + length) is not inside the device. */
export function checkRange(device: { readonly size: bigint }, offset: bigint, length: bigint): void {
  if (offset < 0n || length < 0n || offset + length > device.size) {
    throw new DeviceError(
      'EINVAL',
      `[${offset}, ${offset + length}) is not inside a device of ${device.size} bytes`,
    );
  }
}

const ERRNOS: Readonly<Record<string, DeviceError['code']>> = {
  EPERM: 'EPERM',
  EACCES: 'EPERM',
  ENOMEM: 'ENOMEM',
  EINVAL: 'EINVAL',
  ENOSPC: 'ENOSPC',
  EDQUOT: 'ENOSPC',
  EFBIG: 'ENOSPC',
  EOVERFLOW: 'EOVERFLOW',
  EOPNOTSUPP: 'ENOTSUP',
  ENOTSUP: 'ENOTSUP',
  EROFS: 'EROFS',
  EBADF: 'ESHUTDOWN',
};

/** The device error for an errno name; what a device may not fail with is EIO. */
export function deviceError(errno: string | undefined, message: string, cause?: unknown): DeviceError {
  return new DeviceError(ERRNOS[errno ?? 'EIO'] ?? 'EIO', message, cause);
}

/** One MiB of zero bytes; never written to. */
export const ZERO_BLOCK: Uint8Array = Buffer.alloc(1024 * 1024);

/** Whether `bytes` are all zero. */
export function isZero(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; at += ZERO_BLOCK.length) {
    const part = bytes.subarray(at, at + ZERO_BLOCK.length);
    if (Buffer.compare(part, ZERO_BLOCK.subarray(0, part.length)) !== 0) return false;
  }
  return true;
}

/** Extents of [offset, offset + length) to its end, in order, cut at the range's borders. */
export async function* walkExtents(device: Device, offset: bigint, length: bigint) {
  const end = offset + length;
  let at = offset;
  while (at < end) {
    const answer = await device.extents(at, end - at);
    const before = at;
    for (const extent of answer) {
      const stop = extent.offset + extent.length;
      if (stop <= at) continue;
      const over = stop > end ? stop - end : 0n;
      yield { offset: at, length: stop - over - at, zero: extent.zero, hole: extent.hole };
      at = stop - over;
      if (at === end) return;
    }
    if (at === before)
      throw new DeviceError('EIO', `the device names no extent at ${at}: a device must answer at least one`);
  }
}
