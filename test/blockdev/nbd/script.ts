/** A hand-written NBD server: acknowledges the handshake, hands requests to the test, remembers what the client said. */
import { mkdtempSync, rmSync } from 'node:fs';
import type { Socket } from 'node:net';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as o from '../../../src/blockdev/nbd/options.ts';
import * as nbd from '../../../src/blockdev/nbd/protocol.ts';

export interface Asked {
  readonly flags: number;
  readonly type: number;
  readonly cookie: bigint;
  readonly offset: bigint;
  readonly length: bigint;
  readonly payload: Buffer;
}

export interface Script {
  readonly size?: bigint;
  /** Transmission flags beside NBD_FLAG_HAS_FLAGS. */
  readonly flags?: number;
  readonly handshakeFlags?: number;
  /** Sees each option first; true: it was answered, or shall not be. */
  option?(socket: Socket, option: number, data: Buffer): boolean;
  /** Answers a request. */
  request?(socket: Socket, asked: Asked): void;
}

/** What the clients of a script said. */
export interface Said {
  connections: number;
  clientFlags: number;
  readonly options: number[];
  readonly requests: Asked[];
  /** Bytes behind NBD_OPT_ABORT or NBD_CMD_DISC. */
  behindGoodbye: number;
  /** Connections that ended, and with which last word. */
  readonly ends: ('abort' | 'disc' | 'none')[];
}

class ScriptedConnection {
  readonly #socket: Socket;
  readonly #script: Script;
  readonly #said: Said;
  #input: Buffer = Buffer.alloc(0);
  #phase: 'flags' | 'options' | 'requests' = 'flags';
  #extended = false;
  #goodbye: 'abort' | 'disc' | 'none' = 'none';

  constructor(socket: Socket, script: Script, said: Said) {
    this.#socket = socket;
    this.#script = script;
    this.#said = said;
    said.connections++;
    socket.on('error', () => {});
    socket.on('close', () => said.ends.push(this.#goodbye));
    socket.on('data', (chunk: Buffer) => this.#data(chunk));
    socket.write(o.emitGreeting(script.handshakeFlags ?? 3));
  }

  #data(chunk: Buffer): void {
    this.#input = Buffer.concat([this.#input, chunk]);
    while (this.#goodbye === 'none' && this.#step());
    if (this.#goodbye !== 'none') {
      this.#said.behindGoodbye += this.#input.length;
      this.#socket.end();
    }
  }

  #take(length: number): Buffer | undefined {
    if (this.#input.length < length) return undefined;
    const taken = this.#input.subarray(0, length);
    this.#input = this.#input.subarray(length);
    return taken;
  }

  #step(): boolean {
    if (this.#phase === 'flags') {
      const flags = this.#take(4);
      if (flags === undefined) return false;
      this.#said.clientFlags = flags.readUInt32BE(0);
      this.#phase = 'options';
      return true;
    }
    return this.#phase === 'options' ? this.#option() : this.#request();
  }

  #option(): boolean {
    if (this.#input.length < 16) return false;
    const taken = this.#take(16 + this.#input.readUInt32BE(12));
    if (taken === undefined) return false;
    const option = taken.readUInt32BE(8);
    this.#said.options.push(option);
    if (this.#script.option?.(this.#socket, option, taken.subarray(16)) === true) return true;
    const size = this.#script.size ?? 1n << 20n;
    const flags = nbd.NBD_FLAG_HAS_FLAGS | (this.#script.flags ?? 0);
    if (option === nbd.NBD_OPT_EXTENDED_HEADERS) this.#extended = true;
    if (option === nbd.NBD_OPT_SET_META_CONTEXT) {
      const context = o.emitMetaContext(9, nbd.BASE_ALLOCATION);
      this.#socket.write(o.emitOptionReply(option, nbd.NBD_REP_META_CONTEXT, context));
    } else if (option === nbd.NBD_OPT_GO) {
      this.#socket.write(o.emitOptionReply(option, nbd.NBD_REP_INFO, o.emitInfoExport(size, flags)));
      this.#phase = 'requests';
    } else if (option === nbd.NBD_OPT_EXPORT_NAME) {
      this.#socket.write(o.emitInfoExport(size, flags).subarray(2));
      this.#phase = 'requests';
      return true;
    } else if (option === nbd.NBD_OPT_ABORT) this.#goodbye = 'abort';
    this.#socket.write(o.emitOptionReply(option, nbd.NBD_REP_ACK));
    return true;
  }

  #request(): boolean {
    const header = this.#extended ? nbd.EXTENDED_REQUEST_SIZE : nbd.REQUEST_SIZE;
    const input = this.#input;
    if (input.length < header) return false;
    const magic = this.#extended ? nbd.NBD_EXTENDED_REQUEST_MAGIC : nbd.NBD_REQUEST_MAGIC;
    if (input.readUInt32BE(0) !== magic) throw new Error('request without its magic');
    const flags = input.readUInt16BE(4);
    const type = input.readUInt16BE(6);
    const length = this.#extended ? input.readBigUInt64BE(24) : BigInt(input.readUInt32BE(24));
    const carries = this.#extended
      ? (flags & nbd.NBD_CMD_FLAG_PAYLOAD_LEN) !== 0
      : type === nbd.NBD_CMD_WRITE;
    const taken = this.#take(header + (carries ? Number(length) : 0));
    if (taken === undefined) return false;
    const asked: Asked = {
      flags,
      type,
      length,
      cookie: taken.readBigUInt64BE(8),
      offset: taken.readBigUInt64BE(16),
      payload: taken.subarray(header),
    };
    this.#said.requests.push(asked);
    if (type === nbd.NBD_CMD_DISC) this.#goodbye = 'disc';
    else this.#script.request?.(this.#socket, asked);
    return true;
  }
}

/** Runs `body` with a scripted server at `path`. */
export async function scripted(
  script: Script,
  body: (path: string, said: Said) => Promise<void>,
): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'nbd-test-'));
  const path = join(folder, 'socket');
  const said: Said = {
    connections: 0,
    clientFlags: 0,
    options: [],
    requests: [],
    behindGoodbye: 0,
    ends: [],
  };
  const sockets = new Set<Socket>();
  const listener = createServer((socket) => {
    sockets.add(socket);
    new ScriptedConnection(socket, script, said);
  });
  try {
    await new Promise<void>((resolve) => listener.listen(path, resolve));
    await body(path, said);
  } finally {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => listener.close(resolve));
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A structured chunk as an answer to `asked`; with `extended`, of an extended header. */
export function chunkOf(
  asked: Asked,
  type: number,
  payload: Uint8Array,
  { done = true, extended = false, offset = asked.offset } = {},
): Buffer {
  const header = Buffer.alloc(extended ? nbd.EXTENDED_CHUNK_HEADER_SIZE : nbd.CHUNK_HEADER_SIZE);
  header.writeUInt32BE(extended ? nbd.NBD_EXTENDED_REPLY_MAGIC : nbd.NBD_STRUCTURED_REPLY_MAGIC, 0);
  header.writeUInt16BE(done ? nbd.NBD_REPLY_FLAG_DONE : 0, 4);
  header.writeUInt16BE(type, 6);
  header.writeBigUInt64BE(asked.cookie, 8);
  if (extended) header.writeBigUInt64BE(offset, 16);
  header.writeUInt32BE(payload.length, extended ? 28 : 16);
  return Buffer.concat([header, payload]);
}

/** NBD_REPLY_TYPE_OFFSET_DATA of `data` at `offset`. */
export function dataChunk(asked: Asked, offset: bigint, data: Uint8Array, done: boolean): Buffer {
  const at = Buffer.alloc(8);
  at.writeBigUInt64BE(offset, 0);
  return chunkOf(asked, nbd.NBD_REPLY_TYPE_OFFSET_DATA, Buffer.concat([at, data]), { done });
}

/** NBD_REPLY_TYPE_ERROR. */
export function errorChunk(asked: Asked, error: number, text = ''): Buffer {
  const payload = Buffer.alloc(6 + Buffer.byteLength(text));
  payload.writeUInt32BE(error, 0);
  payload.writeUInt16BE(payload.length - 6, 4);
  payload.write(text, 6);
  return chunkOf(asked, nbd.NBD_REPLY_TYPE_ERROR, payload);
}
