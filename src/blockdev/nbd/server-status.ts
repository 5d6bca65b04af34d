/** What stands in a range: runs of status flags for NBD_CMD_BLOCK_STATUS, runs of zeroes for NBD_CMD_READ. */
import type { Device } from '../device.ts';
import { BASE_ALLOCATION, NBD_STATE_HOLE, NBD_STATE_ZERO, WRITTEN_SINCE_WRITTEN } from './protocol.ts';
import type { MetaContext } from './server-export.ts';

export interface StatusRun {
  length: number;
  readonly flags: number;
}

/** An answer has at most this many runs; the client asks on from where it ends. */
export const STATUS_RUN_LIMIT = 8192;

/**
 * The payload of a block status with NBD_CMD_FLAG_PAYLOAD_LEN: effect length u64, context ids u32 each. undefined when it is
 * of another form, names no context, one twice, or one that was not negotiated.
 */
export function parseStatusPayload(
  payload: Buffer,
  negotiated: readonly MetaContext[],
): { readonly effectLength: number; readonly contexts: readonly MetaContext[] } | undefined {
  const count = (payload.length - 8) / 4;
  if (count < 1 || count > negotiated.length || !Number.isInteger(count)) return undefined;
  const contexts = new Set<MetaContext>();
  for (let i = 0; i < count; i++) {
    const id = payload.readUInt32BE(8 + 4 * i);
    const context = negotiated.find((one) => one.id === id);
    if (context === undefined || contexts.has(context)) return undefined;
    contexts.add(context);
  }
  return { effectLength: Number(payload.readBigUInt64BE(0)), contexts: [...contexts] };
}

interface Piece {
  readonly offset: bigint;
  readonly length: bigint;
  readonly flags: number;
}

async function pieces(device: Device, context: string, offset: bigint, length: bigint): Promise<Piece[]> {
  if (context === BASE_ALLOCATION) {
    const extents = await device.extents(offset, length);
    return extents.map((extent) => ({
      offset: extent.offset,
      length: extent.length,
      flags: (extent.hole ? NBD_STATE_HOLE : 0) | (extent.zero ? NBD_STATE_ZERO : 0),
    }));
  }
  const extents = (await device.writtenSince?.(offset, length)) ?? [];
  return extents.map((extent) => ({
    offset: extent.offset,
    length: extent.length,
    flags: extent.written ? WRITTEN_SINCE_WRITTEN : 0,
  }));
}

/**
 * Status of [offset, offset + length) in `context`: at least one run, adjacent runs differ, none reaches beyond the range;
 * exactly one when `one` is set. May end early (the protocol allows it), never late.
 */
export async function contextRuns(
  device: Device,
  context: string,
  offset: bigint,
  length: number,
  one: boolean,
): Promise<StatusRun[]> {
  const runs: StatusRun[] = [];
  const end = offset + BigInt(length);
  for (let at = offset; at < end; ) {
    const before = at;
    for (const piece of await pieces(device, context, at, end - at)) {
      const until = piece.offset + piece.length < end ? piece.offset + piece.length : end;
      if (piece.offset > at || until <= at) continue;
      const last = runs.at(-1);
      if (last !== undefined && last.flags === piece.flags) last.length += Number(until - at);
      else if (one && runs.length === 1) return runs;
      else if (runs.length === STATUS_RUN_LIMIT) return runs;
      else runs.push({ length: Number(until - at), flags: piece.flags });
      at = until;
    }
    // Nothing told about what stands here: data, as far as is known; for any other context "written".
    if (at === before) {
      const flags = context === BASE_ALLOCATION ? 0 : WRITTEN_SINCE_WRITTEN;
      const last = runs.at(-1);
      if (last !== undefined && last.flags === flags) last.length += Number(end - at);
      else if (last === undefined || !one) runs.push({ length: Number(end - at), flags });
      return runs;
    }
  }
  return runs;
}

export interface ZeroRun {
  readonly zero: boolean;
  length: number;
}

/** [offset, offset + length) as runs that read as zero for certain, and others; adjacent runs differ. */
export async function zeroRuns(device: Device, offset: bigint, length: number): Promise<ZeroRun[]> {
  const runs: ZeroRun[] = [];
  const add = (zero: boolean, bytes: bigint) => {
    const last = runs.at(-1);
    if (last !== undefined && last.zero === zero) last.length += Number(bytes);
    else runs.push({ zero, length: Number(bytes) });
  };
  const end = offset + BigInt(length);
  for (let at = offset; at < end; ) {
    const before = at;
    for (const extent of await device.extents(at, end - at)) {
      const until = extent.offset + extent.length < end ? extent.offset + extent.length : end;
      if (extent.offset > at || until <= at) continue;
      add(extent.zero, until - at);
      at = until;
    }
    // What a device does not tell about is read.
    if (at === before) {
      add(false, end - at);
      at = end;
    }
  }
  return runs;
}
