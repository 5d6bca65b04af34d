/** What a device looks like as an export: transmission flags, block sizes, metadata contexts. */
import type { Device } from '../device.ts';
import type { BlockSizes } from './options.ts';
import {
  BASE_ALLOCATION,
  NBD_FLAG_BLOCK_STATUS_PAYLOAD,
  NBD_FLAG_CAN_MULTI_CONN,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_SEND_CACHE,
  NBD_FLAG_SEND_DF,
  NBD_FLAG_SEND_FAST_ZERO,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
  NBD_MAX_PAYLOAD,
  WRITTEN_SINCE,
} from './protocol.ts';

/** Where a handshake looks up exports; it may change between two options. */
export interface ExportTable {
  names(): string[];
  /** '' is the default export: the one of that name, or the only one there is. */
  find(name: string): { readonly name: string; readonly device: Device } | undefined;
}

/** `statusPayload`: extended headers and metadata contexts of this export were agreed. */
export function transmissionFlagsOf(
  device: Device,
  structuredReplies: boolean,
  statusPayload = false,
): number {
  const can = device.capabilities;
  let flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;
  if (can.readOnly) flags |= NBD_FLAG_READ_ONLY;
  if (can.trim && !can.readOnly) flags |= NBD_FLAG_SEND_TRIM;
  if (can.writeZeroes && !can.readOnly) flags |= NBD_FLAG_SEND_WRITE_ZEROES;
  if (can.writeZeroes && can.fastZero && !can.readOnly) flags |= NBD_FLAG_SEND_FAST_ZERO;
  if (can.multiConn) flags |= NBD_FLAG_CAN_MULTI_CONN;
  if (structuredReplies) flags |= NBD_FLAG_SEND_DF;
  if (statusPayload) flags |= NBD_FLAG_BLOCK_STATUS_PAYLOAD;
  return flags;
}

/** Any alignment is served; the preferred block must be a power of two of at least 512 bytes. */
export function blockSizesOf(device: Device): BlockSizes {
  const wanted = Math.min(Math.max(device.capabilities.preferredBlock, 512), NBD_MAX_PAYLOAD);
  return { minimum: 1, preferred: 2 ** Math.floor(Math.log2(wanted)), maximum: NBD_MAX_PAYLOAD };
}

export interface MetaContext {
  /** Chosen by the server, names the context in every block status reply. */
  readonly id: number;
  readonly name: string;
}

/** The contexts that `device` can answer about. */
export function metaContextsOf(device: Device): readonly MetaContext[] {
  const contexts = [{ id: 1, name: BASE_ALLOCATION }];
  if (device.writtenSince !== undefined) contexts.push({ id: 2, name: WRITTEN_SINCE });
  return contexts;
}

/** Contexts a query names: the context itself, or `namespace:` for all of it (only when listing). */
export function matchContexts(
  contexts: readonly MetaContext[],
  query: string,
  listing: boolean,
): readonly MetaContext[] {
  if (listing && query.endsWith(':')) return contexts.filter((context) => context.name.startsWith(query));
  return contexts.filter((context) => context.name === query);
}
