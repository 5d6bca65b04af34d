/** A hand-driven NBD client: bytes out, bytes in, for tests that look at the wire. */
import { mkdtempSync, rmSync } from 'node:fs';
import type { Socket } from 'node:net';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Device } from '../../../src/blockdev/index.ts';
import { NbdServer, type NbdServerOptions } from '../../../src/blockdev/index.ts';
import * as o from '../../../src/blockdev/nbd/options.ts';
import * as nbd from '../../../src/blockdev/nbd/protocol.ts';

export function hex(text: string): Buffer {
  return Buffer.from(text.replace(/#.*$/gm, '').replace(/\s+/g, ''), 'hex');
}

export interface Chunk {
  readonly flags: number;
  readonly type: number;
  readonly cookie: bigint;
  readonly payload: Buffer;
}

export class Peer {
  readonly #socket: Socket;
  #input = Buffer.alloc(0);
  #wake: (() => void) | undefined;
  #closed = false;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#input = Buffer.concat([this.#input, chunk]);
      this.#wake?.();
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      this.#closed = true;
      this.#wake?.();
    });
  }

  static async connect(path: string): Promise<Peer> {
    const socket = connect({ path });
    const peer = new Peer(socket);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    return peer;
  }

  send(bytes: Uint8Array): void {
    if (!this.#socket.destroyed && this.#socket.writable) this.#socket.write(bytes);
  }

  /** Half-closes: nothing more is sent. */
  end(): void {
    this.#socket.end();
  }

  destroy(): void {
    this.#socket.destroy();
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  /** The next `length` bytes; fails when the server closes before. */
  async take(length: number): Promise<Buffer> {
    while (this.#input.length < length) {
      if (this.#closed) throw new Error(`closed after ${this.#input.length} of ${length} bytes`);
      await this.#more();
    }
    const taken = this.#input.subarray(0, length);
    this.#input = this.#input.subarray(length);
    return taken;
  }

  /** Waits until the server has closed; returns what it sent before. */
  async closed(): Promise<Buffer> {
    while (!this.#closed) await this.#more();
    return this.#input;
  }

  async option(option: number, data?: Uint8Array): Promise<{ option: number; type: number; data: Buffer }[]> {
    this.send(o.emitOption(option, data));
    const replies = [];
    for (;;) {
      const reply = await this.optionReply();
      replies.push(reply);
      if (reply.type === nbd.NBD_REP_ACK || (reply.type & nbd.NBD_REP_FLAG_ERROR) !== 0) return replies;
    }
  }

  async optionReply(): Promise<{ option: number; type: number; data: Buffer }> {
    const head = await this.take(nbd.OPTION_REPLY_HEADER_SIZE);
    if (head.readBigUInt64BE(0) !== nbd.NBD_REP_MAGIC) throw new Error('option reply without its magic');
    const data = await this.take(head.readUInt32BE(16));
    return { option: head.readUInt32BE(8), type: head.readUInt32BE(12), data };
  }

  /** Greeting and client flags. */
  async greet(flags = nbd.NBD_FLAG_C_FIXED_NEWSTYLE | nbd.NBD_FLAG_C_NO_ZEROES): Promise<void> {
    await this.take(nbd.GREETING_SIZE);
    this.send(o.emitClientFlags(flags));
  }

  /** Whole handshake; returns the transmission flags. */
  async go(
    exportName: string,
    structured: boolean | 'extended' = false,
    contexts: readonly string[] = [],
  ): Promise<number> {
    await this.greet();
    if (structured === 'extended') await this.option(nbd.NBD_OPT_EXTENDED_HEADERS);
    else if (structured) await this.option(nbd.NBD_OPT_STRUCTURED_REPLY);
    if (contexts.length > 0) {
      await this.option(
        nbd.NBD_OPT_SET_META_CONTEXT,
        o.emitMetaContextRequest({ exportName, queries: contexts }),
      );
    }
    const replies = await this.option(nbd.NBD_OPT_GO, o.emitInfoRequest({ exportName, wanted: [] }));
    return replies[0]!.data.readUInt16BE(10);
  }

  request(type: number, offset: bigint, length: number, flags = 0, cookie = 1n, payload?: Uint8Array): void {
    const out = Buffer.alloc(nbd.REQUEST_SIZE);
    out.writeUInt32BE(nbd.NBD_REQUEST_MAGIC, 0);
    out.writeUInt16BE(flags, 4);
    out.writeUInt16BE(type, 6);
    out.writeBigUInt64BE(cookie, 8);
    out.writeBigUInt64BE(offset, 16);
    out.writeUInt32BE(length, 24);
    this.send(payload === undefined ? out : Buffer.concat([out, payload]));
  }

  /** A request with an extended header; one with a payload has its flag and length. */
  extended(type: number, offset: bigint, length: bigint, flags = 0, cookie = 1n, payload?: Uint8Array): void {
    const out = Buffer.alloc(nbd.EXTENDED_REQUEST_SIZE);
    out.writeUInt32BE(nbd.NBD_EXTENDED_REQUEST_MAGIC, 0);
    out.writeUInt16BE(payload === undefined ? flags : flags | nbd.NBD_CMD_FLAG_PAYLOAD_LEN, 4);
    out.writeUInt16BE(type, 6);
    out.writeBigUInt64BE(cookie, 8);
    out.writeBigUInt64BE(offset, 16);
    out.writeBigUInt64BE(length, 24);
    this.send(payload === undefined ? out : Buffer.concat([out, payload]));
  }

  /** A chunk with an extended header. */
  async extendedChunk(): Promise<Chunk & { readonly offset: bigint }> {
    const head = await this.take(nbd.EXTENDED_CHUNK_HEADER_SIZE);
    if (head.readUInt32BE(0) !== nbd.NBD_EXTENDED_REPLY_MAGIC) throw new Error('no extended reply');
    return {
      flags: head.readUInt16BE(4),
      type: head.readUInt16BE(6),
      cookie: head.readBigUInt64BE(8),
      offset: head.readBigUInt64BE(16),
      payload: await this.take(Number(head.readBigUInt64BE(24))),
    };
  }

  /** A simple reply with `dataLength` bytes of data when it tells success. */
  async simple(dataLength = 0): Promise<{ error: number; cookie: bigint; data: Buffer }> {
    const head = await this.take(nbd.SIMPLE_REPLY_SIZE);
    if (head.readUInt32BE(0) !== nbd.NBD_SIMPLE_REPLY_MAGIC) throw new Error('no simple reply');
    const error = head.readUInt32BE(4);
    return {
      error,
      cookie: head.readBigUInt64BE(8),
      data: await this.take(error === 0 ? dataLength : 0),
    };
  }

  async chunk(): Promise<Chunk> {
    const head = await this.take(nbd.CHUNK_HEADER_SIZE);
    if (head.readUInt32BE(0) !== nbd.NBD_STRUCTURED_REPLY_MAGIC) throw new Error('no structured reply');
    return {
      flags: head.readUInt16BE(4),
      type: head.readUInt16BE(6),
      cookie: head.readBigUInt64BE(8),
      payload: await this.take(head.readUInt32BE(16)),
    };
  }

  /** The error number of a structured error reply. */
  async error(): Promise<number> {
    const chunk = await this.chunk();
    if (chunk.type !== nbd.NBD_REPLY_TYPE_ERROR) throw new Error(`chunk of type ${chunk.type}, no error`);
    return chunk.payload.readUInt32BE(0);
  }

  #more(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = () => {
        this.#wake = undefined;
        resolve();
      };
    });
  }
}

export interface Served {
  readonly server: NbdServer;
  readonly path: string;
  /** Opens a hand-driven client. */
  peer(): Promise<Peer>;
}

/** Runs `body` with a server of `exports` on a socket in a scratch folder; closes everything afterwards. */
export async function withServer(
  exports: Record<string, Device>,
  body: (served: Served) => Promise<void>,
  options: NbdServerOptions = {},
): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'nbd-test-'));
  const path = join(folder, 'socket');
  const server = new NbdServer(options);
  const peers: Peer[] = [];
  try {
    await server.setExports(new Map(Object.entries(exports)));
    await server.listen(path);
    await body({
      server,
      path,
      peer: async () => {
        const peer = await Peer.connect(path);
        peers.push(peer);
        return peer;
      },
    });
  } finally {
    for (const peer of peers) peer.destroy();
    await server.close();
    rmSync(folder, { recursive: true, force: true });
  }
}
