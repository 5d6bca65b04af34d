/** What was agreed about an export, as the client's device shows it, and whether a new connection offers as much. */
import type { DeviceCapabilities } from '../device.ts';
import type { ExportInfo } from './client-handshake.ts';
import { NbdClientError } from './client-handshake.ts';
import * as nbd from './protocol.ts';

export function capabilitiesOf(info: ExportInfo): DeviceCapabilities {
  const can = (flag: number) => (info.transmissionFlags & flag) !== 0;
  const { minimum, preferred, maximum } = info.blockSizes;
  const most = Math.min(maximum, nbd.NBD_MAX_PAYLOAD);
  return {
    readOnly: can(nbd.NBD_FLAG_READ_ONLY),
    trim: can(nbd.NBD_FLAG_SEND_TRIM),
    writeZeroes: can(nbd.NBD_FLAG_SEND_WRITE_ZEROES),
    fastZero: can(nbd.NBD_FLAG_SEND_FAST_ZERO),
    multiConn: can(nbd.NBD_FLAG_CAN_MULTI_CONN),
    preferredBlock: Math.max(preferred, minimum),
    maxTransfer: most - (most % minimum),
  };
}

/** Why this client cannot use the export; undefined when it can. */
export function refusalOf(info: ExportInfo): NbdClientError | undefined {
  if (info.size <= BigInt(Number.MAX_SAFE_INTEGER)) return undefined;
  return new NbdClientError('EINVAL', `an export of ${info.size} bytes is larger than 2^53 - 1`);
}

/** Why the export of a new connection cannot stand for that of the old one. */
export function differenceOf(before: ExportInfo, now: ExportInfo): string | undefined {
  if (now.size !== before.size) return `${now.size} bytes instead of ${before.size}`;
  if (now.blockSizes.minimum > before.blockSizes.minimum) return 'larger smallest block';
  if (
    Math.min(now.blockSizes.maximum, nbd.NBD_MAX_PAYLOAD) <
    Math.min(before.blockSizes.maximum, nbd.NBD_MAX_PAYLOAD)
  ) {
    return 'smaller largest block';
  }
  if (before.extendedHeaders && !now.extendedHeaders) return 'no extended headers';
  // An export that was fenced meanwhile is read-only now: it refuses modifications itself. Otherwise it must offer as much.
  const relied = before.transmissionFlags & ~nbd.NBD_FLAG_READ_ONLY & ~nbd.NBD_FLAG_ROTATIONAL;
  const fenced = (now.transmissionFlags & nbd.NBD_FLAG_READ_ONLY) !== 0;
  if (!fenced && (now.transmissionFlags & relied) !== relied) return 'it can do less';
  return undefined;
}

/** A context that was agreed on before and is not now. */
export function absentContext(before: ExportInfo, now: ExportInfo): string | undefined {
  for (const [id, name] of before.contexts) if (now.contexts.get(id) !== name) return name;
  return undefined;
}
