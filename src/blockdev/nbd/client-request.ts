/** A request of the client from submission to acknowledgement. */
import type { DeviceError } from '../device.ts';
import {
  EXTENDED_REQUEST_SIZE,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_EXTENDED_REQUEST_MAGIC,
  NBD_REQUEST_MAGIC,
  REQUEST_SIZE,
} from './protocol.ts';
import type { ReadCoverage } from './read-coverage.ts';

/** One descriptor of a block status reply. */
export interface StatusDescriptor {
  readonly length: number;
  readonly flags: number;
}

export interface ClientRequest {
  readonly type: number;
  readonly flags: number;
  readonly offset: bigint;
  /** Bytes of the export concerned. */
  readonly length: number;
  /** Of a write; the caller's buffer, untouched until acknowledged. */
  readonly payload: Uint8Array | undefined;
  /** Of a read; filled as replies arrive. */
  readonly target: Uint8Array | undefined;
  /** Of a block status: descriptors by context id. */
  readonly status: Map<number, StatusDescriptor[]> | undefined;
  /** When it was sent last, on the clock of `performance.now`. */
  sentMs: number;
  /** Bytes of `target` that have been answered, over all chunks. */
  answered: number;
  /** Which those are, once a chunk came that does not begin where the one before it ended. */
  coverage: ReadCoverage | undefined;
  /** First error the server told, 0 for none. */
  error: number;
  errorText: string;
  /** Earlier overlapping modifications that are not acknowledged yet. */
  waitsFor: number;
  /** Later overlapping modifications that wait for this one. */
  readonly followers: ClientRequest[];
  readonly resolve: () => void;
  readonly reject: (error: DeviceError) => void;
}

export function isModifying(type: number): boolean {
  return type === NBD_CMD_WRITE || type === NBD_CMD_TRIM || type === NBD_CMD_WRITE_ZEROES;
}

export function overlap(a: ClientRequest, b: ClientRequest): boolean {
  return a.offset < b.offset + BigInt(b.length) && b.offset < a.offset + BigInt(a.length);
}

/** Bytes it moves over the socket, either way. */
export function transferOf(request: ClientRequest): number {
  return request.payload !== undefined || request.target !== undefined ? request.length : 0;
}

/** The header of a request; a write's payload follows it. */
export function emitRequest(request: ClientRequest, cookie: bigint): Buffer {
  const header = Buffer.allocUnsafe(REQUEST_SIZE);
  header.writeUInt32BE(NBD_REQUEST_MAGIC, 0);
  header.writeUInt16BE(request.flags, 4);
  header.writeUInt16BE(request.type, 6);
  header.writeBigUInt64BE(cookie, 8);
  header.writeBigUInt64BE(request.offset, 16);
  header.writeUInt32BE(request.length, 24);
  return header;
}

/** The same with an extended header. */
export function emitExtendedRequest(request: ClientRequest, cookie: bigint): Buffer {
  const header = Buffer.allocUnsafe(EXTENDED_REQUEST_SIZE);
  const carries = request.payload === undefined ? 0 : NBD_CMD_FLAG_PAYLOAD_LEN;
  header.writeUInt32BE(NBD_EXTENDED_REQUEST_MAGIC, 0);
  header.writeUInt16BE(request.flags | carries, 4);
  header.writeUInt16BE(request.type, 6);
  header.writeBigUInt64BE(cookie, 8);
  header.writeBigUInt64BE(request.offset, 16);
  header.writeBigUInt64BE(BigInt(request.length), 24);
  return header;
}
