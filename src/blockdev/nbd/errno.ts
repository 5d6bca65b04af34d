/** The one place where device errors and the error numbers of the NBD protocol meet. */
import { codeOf } from '../../common/index.ts';
import type { DeviceErrno } from '../device.ts';
import {
  NBD_EINVAL,
  NBD_EIO,
  NBD_ENOMEM,
  NBD_ENOSPC,
  NBD_ENOTSUP,
  NBD_EOVERFLOW,
  NBD_EPERM,
  NBD_ESHUTDOWN,
} from './protocol.ts';

const TO_NBD: Readonly<Record<DeviceErrno, number>> = {
  EPERM: NBD_EPERM,
  // The protocol has no EROFS; it asks for EPERM when writing is forbidden.
  EROFS: NBD_EPERM,
  EIO: NBD_EIO,
  ENOMEM: NBD_ENOMEM,
  EINVAL: NBD_EINVAL,
  ENOSPC: NBD_ENOSPC,
  EOVERFLOW: NBD_EOVERFLOW,
  ENOTSUP: NBD_ENOTSUP,
  ESHUTDOWN: NBD_ESHUTDOWN,
};

/**
 * Error number for anything a device threw. NBD_ENOTSUP answers only a `fast` zeroing, and NBD_EOVERFLOW nothing that a device
 * is asked for: clients take either as advice to ask in another way.
 */
export function nbdErrorOf(thrown: unknown, fast = false): number {
  const code = codeOf(thrown);
  if (code === undefined) return NBD_EIO;
  if (code === 'EDQUOT' || code === 'EFBIG') return NBD_ENOSPC;
  if (code === 'ENOTSUP' || code === 'EOPNOTSUPP') return fast ? NBD_ENOTSUP : NBD_EINVAL;
  if (code === 'EOVERFLOW') return NBD_EINVAL;
  if (code === 'EACCES') return NBD_EPERM;
  return Object.hasOwn(TO_NBD, code) ? TO_NBD[code as DeviceErrno] : NBD_EIO;
}

/** What an error number means to the user of a device; EPERM on a modifying command is the server's word for read-only. */
export function deviceErrnoOf(error: number, modifying: boolean): DeviceErrno {
  switch (error) {
    case NBD_EPERM:
      return modifying ? 'EROFS' : 'EPERM';
    case NBD_EIO:
      return 'EIO';
    case NBD_ENOMEM:
      return 'ENOMEM';
    case NBD_ENOSPC:
      return 'ENOSPC';
    case NBD_EOVERFLOW:
      return 'EOVERFLOW';
    case NBD_ENOTSUP:
      return 'ENOTSUP';
    case NBD_ESHUTDOWN:
      return 'ESHUTDOWN';
    // "The client SHOULD treat an unexpected error value as if it had been NBD_EINVAL".
    default:
      return 'EINVAL';
  }
}
