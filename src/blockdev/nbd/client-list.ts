/** The exports of a server: NBD_OPT_LIST, NBD_OPT_INFO of each, NBD_OPT_ABORT. */
import type { Socket } from 'node:net';
import { connect } from 'node:net';
import { messageOf } from '../../common/index.ts';
import { NbdClientError } from './client-handshake.ts';
import * as o from './options.ts';
import * as nbd from './protocol.ts';

export interface ListedExport {
  readonly name: string;
  /** For people; '' when the server says nothing. */
  readonly description: string;
  /** undefined when the server lists the export and tells nothing more, because it is gone or wants TLS. */
  readonly size: bigint | undefined;
  readonly readOnly: boolean;
}

const REPLY_DATA_LIMIT = 64 * 1024;
const EXPORT_LIMIT = 10_000;

interface OptionReply {
  readonly type: number;
  readonly data: Buffer;
}

/** What the server at `socketPath` offers. Rejects with NbdClientError, after `timeoutMs` at the latest. */
export async function listNbdExports(socketPath: string, timeoutMs = 10_000): Promise<ListedExport[]> {
  const socket = connect({ path: socketPath });
  const timer = setTimeout(() => {
    socket.destroy(
      new NbdClientError('ETIMEDOUT', `no list of exports from ${socketPath} within ${timeoutMs} ms`),
    );
  }, timeoutMs);
  try {
    return await new Listing(socket).run();
  } catch (error) {
    if (error instanceof NbdClientError) throw error;
    throw new NbdClientError('ECONNREFUSED', `no list of exports from ${socketPath}: ${messageOf(error)}`, {
      remedy: 'check that an NBD server is there',
      cause: error,
    });
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
}

class Listing {
  readonly #socket: Socket;
  readonly #chunks: AsyncIterator<Buffer>;
  #input: Buffer = Buffer.alloc(0);

  constructor(socket: Socket) {
    this.#socket = socket;
    this.#chunks = socket[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  }

  async run(): Promise<ListedExport[]> {
    const greeting = await this.#take(nbd.GREETING_SIZE);
    const flags = greeting.readUInt16BE(16);
    if (
      greeting.readBigUInt64BE(0) !== nbd.NBDMAGIC ||
      greeting.readBigUInt64BE(8) !== nbd.IHAVEOPT ||
      (flags & nbd.NBD_FLAG_FIXED_NEWSTYLE) === 0
    ) {
      throw new NbdClientError('EPROTO', 'the other side is no NBD server of fixed newstyle', {
        remedy: 'check the socket path',
      });
    }
    this.#socket.write(o.emitClientFlags(nbd.NBD_FLAG_C_FIXED_NEWSTYLE));
    const { entries, end } = await this.#ask(nbd.NBD_OPT_LIST);
    if (end.type !== nbd.NBD_REP_ACK) {
      await this.#abort();
      throw new NbdClientError('EACCES', `the NBD server does not list its exports (${end.type})`);
    }
    const listed: ListedExport[] = [];
    for (const { type, data } of entries) {
      const name = type === nbd.NBD_REP_SERVER ? o.parseServerEntry(data) : undefined;
      if (name === undefined) throw new NbdClientError('EPROTO', 'malformed entry in a list of exports');
      const described = data.subarray(4 + data.readUInt32BE(0)).toString('utf8');
      listed.push(await this.#about(name, described));
    }
    await this.#abort();
    return listed;
  }

  async #about(exportName: string, described: string): Promise<ListedExport> {
    const wanted = [nbd.NBD_INFO_DESCRIPTION];
    const { entries, end } = await this.#ask(nbd.NBD_OPT_INFO, o.emitInfoRequest({ exportName, wanted }));
    let size: bigint | undefined;
    let readOnly = false;
    let description = described;
    for (const { type, data } of entries) {
      if (type !== nbd.NBD_REP_INFO || data.length < 2) {
        throw new NbdClientError('EPROTO', 'malformed information about an export');
      }
      const info = data.readUInt16BE(0);
      if (info === nbd.NBD_INFO_EXPORT && data.length === 12) {
        size = data.readBigUInt64BE(2);
        readOnly = (data.readUInt16BE(10) & nbd.NBD_FLAG_READ_ONLY) !== 0;
      } else if (info === nbd.NBD_INFO_DESCRIPTION) description = data.toString('utf8', 2);
    }
    if (end.type !== nbd.NBD_REP_ACK) size = undefined;
    return { name: exportName, description: description.replace(/\p{Cc}/gu, ' '), size, readOnly };
  }

  /** A soft disconnect: the server acknowledges, or just closes. */
  async #abort(): Promise<void> {
    try {
      await this.#ask(nbd.NBD_OPT_ABORT);
    } catch {
      // "the client SHOULD gracefully handle the server closing the connection … without it sending a reply".
    }
  }

  async #ask(option: number, data?: Uint8Array): Promise<{ entries: OptionReply[]; end: OptionReply }> {
    this.#socket.write(o.emitOption(option, data));
    const entries: OptionReply[] = [];
    for (;;) {
      const head = await this.#take(nbd.OPTION_REPLY_HEADER_SIZE);
      const length = head.readUInt32BE(16);
      if (
        head.readBigUInt64BE(0) !== nbd.NBD_REP_MAGIC ||
        head.readUInt32BE(8) !== option ||
        length > REPLY_DATA_LIMIT ||
        entries.length > EXPORT_LIMIT
      ) {
        throw new NbdClientError(
          'EPROTO',
          'the NBD server broke the protocol: an option reply out of bounds',
        );
      }
      const reply = { type: head.readUInt32BE(12), data: await this.#take(length) };
      if (reply.type === nbd.NBD_REP_ACK || (reply.type & nbd.NBD_REP_FLAG_ERROR) !== 0) {
        return { entries, end: reply };
      }
      entries.push(reply);
    }
  }

  async #take(length: number): Promise<Buffer> {
    while (this.#input.length < length) {
      const next = await this.#chunks.next();
      if (next.done === true) {
        throw new NbdClientError('ECONNREFUSED', 'the NBD server closed the connection in the handshake');
      }
      this.#input = Buffer.concat([this.#input, next.value]);
    }
    const taken = this.#input.subarray(0, length);
    this.#input = this.#input.subarray(length);
    return taken;
  }
}
