/** Handshake messages of both sides: `emit…` value → bytes, `parse…` bytes → value or the reason why not. */
import {
  GREETING_SIZE,
  IHAVEOPT,
  NBD_INFO_BLOCK_SIZE,
  NBD_INFO_EXPORT,
  NBD_MAX_STRING,
  NBD_REP_MAGIC,
  NBDMAGIC,
  OPTION_HEADER_SIZE,
  OPTION_REPLY_HEADER_SIZE,
} from './protocol.ts';

const utf8 = new TextDecoder('utf-8', { fatal: true });

/** A string of the protocol: UTF-8, no NUL, at most NBD_MAX_STRING bytes; undefined when it is not one. */
export function parseString(bytes: Uint8Array): string | undefined {
  if (bytes.length > NBD_MAX_STRING || bytes.includes(0)) return undefined;
  try {
    return utf8.decode(bytes);
  } catch {
    return undefined;
  }
}

/** Whether `text` can travel as a string of the protocol. */
export function isProtocolString(text: string): boolean {
  return !text.includes('\0') && Buffer.byteLength(text) <= NBD_MAX_STRING && text.isWellFormed();
}

export function emitGreeting(handshakeFlags: number): Buffer {
  const out = Buffer.alloc(GREETING_SIZE);
  out.writeBigUInt64BE(NBDMAGIC, 0);
  out.writeBigUInt64BE(IHAVEOPT, 8);
  out.writeUInt16BE(handshakeFlags, 16);
  return out;
}

export function emitClientFlags(flags: number): Buffer {
  const out = Buffer.alloc(4);
  out.writeUInt32BE(flags, 0);
  return out;
}

export function emitOption(option: number, data: Uint8Array = Buffer.alloc(0)): Buffer {
  const out = Buffer.alloc(OPTION_HEADER_SIZE + data.length);
  out.writeBigUInt64BE(IHAVEOPT, 0);
  out.writeUInt32BE(option, 8);
  out.writeUInt32BE(data.length, 12);
  out.set(data, OPTION_HEADER_SIZE);
  return out;
}

export function emitOptionReply(option: number, type: number, data: Uint8Array = Buffer.alloc(0)): Buffer {
  const out = Buffer.alloc(OPTION_REPLY_HEADER_SIZE + data.length);
  out.writeBigUInt64BE(NBD_REP_MAGIC, 0);
  out.writeUInt32BE(option, 8);
  out.writeUInt32BE(type, 12);
  out.writeUInt32BE(data.length, 16);
  out.set(data, OPTION_REPLY_HEADER_SIZE);
  return out;
}

/** u32 length, then the bytes of `text`: how names travel inside option data. */
function lengthPrefixed(text: string): Buffer {
  const bytes = Buffer.from(text);
  const out = Buffer.alloc(4 + bytes.length);
  out.writeUInt32BE(bytes.length, 0);
  out.set(bytes, 4);
  return out;
}

/** Data of NBD_REP_SERVER: an export's name. */
export function emitServerEntry(name: string): Buffer {
  return lengthPrefixed(name);
}

/** Name of NBD_REP_SERVER's data, what follows it is for people and skipped; undefined when malformed. */
export function parseServerEntry(data: Buffer): string | undefined {
  if (data.length < 4) return undefined;
  const length = data.readUInt32BE(0);
  return length > data.length - 4 ? undefined : parseString(data.subarray(4, 4 + length));
}

/** Data of NBD_OPT_INFO and NBD_OPT_GO. */
export interface InfoRequest {
  readonly exportName: string;
  /** NBD_INFO_… the client would like. */
  readonly wanted: readonly number[];
}

export function emitInfoRequest(request: InfoRequest): Buffer {
  const tail = Buffer.alloc(2 + 2 * request.wanted.length);
  tail.writeUInt16BE(request.wanted.length, 0);
  request.wanted.forEach((info, i) => {
    tail.writeUInt16BE(info, 2 + 2 * i);
  });
  return Buffer.concat([lengthPrefixed(request.exportName), tail]);
}

/** undefined when the lengths inside do not add up to the data's, or the name is no string. */
export function parseInfoRequest(data: Buffer): InfoRequest | undefined {
  if (data.length < 6) return undefined;
  const nameLength = data.readUInt32BE(0);
  if (nameLength > data.length - 6) return undefined;
  const exportName = parseString(data.subarray(4, 4 + nameLength));
  const count = data.readUInt16BE(4 + nameLength);
  if (exportName === undefined || data.length !== 6 + nameLength + 2 * count) return undefined;
  const wanted = Array.from({ length: count }, (_, i) => data.readUInt16BE(6 + nameLength + 2 * i));
  return { exportName, wanted };
}

/** Data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT. */
export interface MetaContextRequest {
  readonly exportName: string;
  readonly queries: readonly string[];
}

export function emitMetaContextRequest(request: MetaContextRequest): Buffer {
  const count = Buffer.alloc(4);
  count.writeUInt32BE(request.queries.length, 0);
  return Buffer.concat([lengthPrefixed(request.exportName), count, ...request.queries.map(lengthPrefixed)]);
}

export function parseMetaContextRequest(data: Buffer): MetaContextRequest | undefined {
  let at = 0;
  const take = (): string | undefined => {
    if (data.length - at < 4) return undefined;
    const length = data.readUInt32BE(at);
    if (length > data.length - at - 4) return undefined;
    at += 4 + length;
    return parseString(data.subarray(at - length, at));
  };
  const exportName = take();
  if (exportName === undefined || data.length - at < 4) return undefined;
  const count = data.readUInt32BE(at);
  at += 4;
  // Every query needs four bytes, so that a huge count fails before it costs anything.
  if (count > (data.length - at) / 4) return undefined;
  const queries: string[] = [];
  for (let i = 0; i < count; i++) {
    const query = take();
    if (query === undefined) return undefined;
    queries.push(query);
  }
  return at === data.length ? { exportName, queries } : undefined;
}

/** Data of NBD_REP_META_CONTEXT. */
export function emitMetaContext(id: number, name: string): Buffer {
  const bytes = Buffer.from(name);
  const out = Buffer.alloc(4 + bytes.length);
  out.writeUInt32BE(id, 0);
  out.set(bytes, 4);
  return out;
}

export function parseMetaContext(data: Buffer): { readonly id: number; readonly name: string } | undefined {
  const name = data.length < 4 ? undefined : parseString(data.subarray(4));
  return name === undefined ? undefined : { id: data.readUInt32BE(0), name };
}

/** Data of NBD_REP_INFO with NBD_INFO_EXPORT. */
export function emitInfoExport(size: bigint, transmissionFlags: number): Buffer {
  const out = Buffer.alloc(12);
  out.writeUInt16BE(NBD_INFO_EXPORT, 0);
  out.writeBigUInt64BE(size, 2);
  out.writeUInt16BE(transmissionFlags, 10);
  return out;
}

export interface BlockSizes {
  readonly minimum: number;
  readonly preferred: number;
  readonly maximum: number;
}

/** Data of NBD_REP_INFO with NBD_INFO_BLOCK_SIZE. */
export function emitInfoBlockSize(sizes: BlockSizes): Buffer {
  const out = Buffer.alloc(14);
  out.writeUInt16BE(NBD_INFO_BLOCK_SIZE, 0);
  out.writeUInt32BE(sizes.minimum, 2);
  out.writeUInt32BE(sizes.preferred, 6);
  out.writeUInt32BE(sizes.maximum, 10);
  return out;
}

/** Data of NBD_REP_INFO with NBD_INFO_NAME or NBD_INFO_DESCRIPTION. */
export function emitInfoString(info: number, text: string): Buffer {
  const bytes = Buffer.from(text);
  const out = Buffer.alloc(2 + bytes.length);
  out.writeUInt16BE(info, 0);
  out.set(bytes, 2);
  return out;
}
