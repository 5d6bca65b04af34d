import { CodedError } from '../common/index.ts';

/**
 * errno names a device may fail with; the NBD server maps them one to one, whatever else happens is EIO.
 * EROFS: the device or a fence refuses writes. ESHUTDOWN: the device was closed.
 */
export const DEVICE_ERRNOS = [
  'EPERM',
  'EIO',
  'ENOMEM',
  'EINVAL',
  'ENOSPC',
  'EOVERFLOW',
  'ENOTSUP',
  'EROFS',
  'ESHUTDOWN',
] as const;
export type DeviceErrno = (typeof DEVICE_ERRNOS)[number];

export class DeviceError extends CodedError {
  declare readonly code: DeviceErrno;
  constructor(code: DeviceErrno, message: string, cause?: unknown) {
    super(code, message, cause === undefined ? {} : { cause });
  }
}

export interface DeviceCapabilities {
  readonly readOnly: boolean;
  readonly trim: boolean;
  readonly writeZeroes: boolean;
  /** WRITE_ZEROES without FAST_ZERO's cost of a plain write. */
  readonly fastZero: boolean;
  /** A flush on one connection covers completed writes of all connections. */
  readonly multiConn: boolean;
  /** Preferred alignment and largest single transfer, bytes. */
  readonly preferredBlock: number;
  readonly maxTransfer: number;
}

export interface WriteOptions {
  /** Force unit access: durable before it returns. */
  readonly fua?: boolean;
}

export interface WriteZeroesOptions extends WriteOptions {
  /** Keep the range allocated. */
  readonly noHole?: boolean;
  /** Fail with ENOTSUP rather than write zeroes byte by byte. */
  readonly fast?: boolean;
}

/** A run of bytes of one kind; consecutive runs of an answer are adjacent and in order. */
export interface Extent {
  readonly offset: bigint;
  readonly length: bigint;
  /** Reads as zero for certain. */
  readonly zero: boolean;
  /** Not allocated. */
  readonly hole: boolean;
}

/**
 * A block device of `size` bytes. Ranges are checked by the caller against `size` (`checkRange`). A write that has returned
 * is visible to every later read; it is durable after a `flush` that began later, or at once with `fua`. Calls may overlap;
 * overlapping writes to one place may land in either order. Buffers are the caller's again as soon as the call returns.
 * Filters wrap another Device and answer the questions they do not change by asking it.
 */
export interface Device {
  readonly size: bigint;
  readonly capabilities: DeviceCapabilities;
  readAt(target: Uint8Array, offset: bigint): Promise<void>;
  writeAt(source: Uint8Array, offset: bigint, options?: WriteOptions): Promise<void>;
  writeZeroes(offset: bigint, length: bigint, options?: WriteZeroesOptions): Promise<void>;
  trim(offset: bigint, length: bigint, options?: WriteOptions): Promise<void>;
  flush(): Promise<void>;
  /** What stands in [offset, offset + length): at least one extent, may cover less than asked. */
  extents(offset: bigint, length: bigint): Promise<Extent[]>;
  close(): Promise<void>;
  /**
   * Optional fast path without a promise: the whole transfer is done when it returns true; false means that it would wait,
   * nothing was touched and readAt is to be called. Throws what readAt would reject with. A filter that does not define it
   * has no fast path, so nothing can slip past it.
   */
  readAtSync?(target: Uint8Array, offset: bigint): boolean;
  /** As readAtSync, for writes without force unit access. */
  writeAtSync?(source: Uint8Array, offset: bigint): boolean;
  /** Optional advice: a flush will follow, what was written there may be on its way already. Nothing is durable by it. */
  startWriteBack?(offset: bigint, length: bigint): void;
  /** Optional: which bytes of [offset, offset + length) were written since the device's mark; as `extents` answers. */
  writtenSince?(offset: bigint, length: bigint): Promise<WrittenExtent[]>;
}

/** A run of bytes that were (or were not) written since a device's mark. */
export interface WrittenExtent {
  readonly offset: bigint;
  readonly length: bigint;
  readonly written: boolean;
}
