/**
 * Client side of the handshake phase, without I/O.
 *
 *   greeting → flags → (EXTENDED_HEADERS →) STRUCTURED_REPLY → SET_META_CONTEXT → GO → transmission
 *
 * Servers that know neither structured replies nor NBD_OPT_GO are served by simple replies and NBD_OPT_EXPORT_NAME. Each
 * step waits for its answer: a handful of round trips on a unix socket, once per connection.
 */
import { CodedError } from '../../common/index.ts';
import * as o from './options.ts';
import * as nbd from './protocol.ts';

export type NbdClientErrorCode =
  /** The other side does not speak NBD as this client does. */
  | 'EPROTO'
  /** The server has no such export. */
  | 'ENOENT'
  /** The server refuses: policy, TLS, block sizes. */
  | 'EACCES'
  /** Not connected within the time given. */
  | 'ETIMEDOUT'
  /** Connecting failed. */
  | 'ECONNREFUSED'
  /** The export became another one: size or read-only changed. */
  | 'ESTALE'
  | 'EINVAL';

export class NbdClientError extends CodedError {
  declare readonly code: NbdClientErrorCode;
}

/** What was agreed about an export. */
export interface ExportInfo {
  readonly size: bigint;
  readonly transmissionFlags: number;
  readonly blockSizes: o.BlockSizes;
  readonly structuredReplies: boolean;
  readonly extendedHeaders: boolean;
  /** Metadata context id → name. */
  readonly contexts: ReadonlyMap<number, string>;
}

/** Option replies carry names and messages; more than this is not an answer to anything we ask. */
const REPLY_DATA_LIMIT = 64 * 1024;
const DEFAULT_BLOCK_SIZES: o.BlockSizes = { minimum: 1, preferred: 4096, maximum: nbd.NBD_MAX_PAYLOAD };

type Step = 'greeting' | 'extended' | 'structured' | 'meta' | 'go' | 'export-name' | 'done';

export class ClientHandshake {
  readonly #exportName: string;
  readonly #contextNames: readonly string[];
  readonly #write: (bytes: Buffer) => void;
  #step: Step = 'greeting';
  #input: Buffer = Buffer.alloc(0);
  #noZeroes = false;
  readonly #wantsExtended: boolean;
  #structuredReplies = false;
  #extendedHeaders = false;
  #refused = false;
  readonly #contexts = new Map<number, string>();
  #size: bigint | undefined;
  #flags = 0;
  #blockSizes = DEFAULT_BLOCK_SIZES;

  /** `wantsExtended`: asks for extended headers first. */
  constructor(
    exportName: string,
    contextNames: readonly string[],
    write: (bytes: Buffer) => void,
    wantsExtended = false,
  ) {
    this.#wantsExtended = wantsExtended;
    this.#exportName = exportName;
    this.#contextNames = contextNames;
    this.#write = write;
  }

  /** The server has refused and waits for the next option: the client owes it NBD_OPT_ABORT. */
  get refused(): boolean {
    return this.#refused;
  }

  /** Takes bytes from the server; returns what was agreed and what followed it, once complete. Throws NbdClientError. */
  push(chunk: Buffer): { info: ExportInfo; rest: Buffer } | undefined {
    this.#input = Buffer.concat([this.#input, chunk]);
    while (this.#step !== 'done') {
      const before = this.#input.length;
      if (this.#step === 'greeting') this.#greeting();
      else if (this.#step === 'export-name') this.#exportNameAnswer();
      else this.#optionReply();
      if (this.#input.length === before) return undefined;
    }
    const info: ExportInfo = {
      size: this.#size!,
      transmissionFlags: this.#flags,
      blockSizes: this.#blockSizes,
      structuredReplies: this.#structuredReplies,
      extendedHeaders: this.#extendedHeaders,
      contexts: this.#contexts,
    };
    return { info, rest: this.#input };
  }

  #take(length: number): Buffer {
    const taken = this.#input.subarray(0, length);
    this.#input = this.#input.subarray(length);
    return taken;
  }

  #greeting(): void {
    const input = this.#input;
    if (input.length >= 8 && input.readBigUInt64BE(0) !== nbd.NBDMAGIC) {
      throw new NbdClientError('EPROTO', 'the other side is no NBD server', {
        remedy: 'check the socket path',
      });
    }
    if (input.length < nbd.GREETING_SIZE) return;
    const greeting = this.#take(nbd.GREETING_SIZE);
    const flags = greeting.readUInt16BE(16);
    if (greeting.readBigUInt64BE(8) !== nbd.IHAVEOPT || (flags & nbd.NBD_FLAG_FIXED_NEWSTYLE) === 0) {
      throw new NbdClientError('EPROTO', 'the NBD server does not offer fixed newstyle negotiation', {
        remedy: 'use a server from this decade, or start it without its old-style option',
      });
    }
    this.#noZeroes = (flags & nbd.NBD_FLAG_NO_ZEROES) !== 0;
    this.#write(
      o.emitClientFlags(nbd.NBD_FLAG_C_FIXED_NEWSTYLE | (this.#noZeroes ? nbd.NBD_FLAG_C_NO_ZEROES : 0)),
    );
    if (this.#wantsExtended) this.#ask('extended', nbd.NBD_OPT_EXTENDED_HEADERS);
    else this.#ask('structured', nbd.NBD_OPT_STRUCTURED_REPLY);
  }

  #ask(step: Step, option: number, data?: Uint8Array): void {
    this.#step = step;
    this.#write(o.emitOption(option, data));
  }

  #askGo(): void {
    const wanted = [nbd.NBD_INFO_BLOCK_SIZE];
    this.#ask('go', nbd.NBD_OPT_GO, o.emitInfoRequest({ exportName: this.#exportName, wanted }));
  }

  #optionReply(): void {
    const input = this.#input;
    if (input.length < nbd.OPTION_REPLY_HEADER_SIZE) return;
    if (input.readBigUInt64BE(0) !== nbd.NBD_REP_MAGIC) throw broken('option reply without its magic');
    const option = input.readUInt32BE(8);
    const type = input.readUInt32BE(12);
    const length = input.readUInt32BE(16);
    if (length > REPLY_DATA_LIMIT) throw broken(`option reply of ${length} bytes`);
    if (input.length < nbd.OPTION_REPLY_HEADER_SIZE + length) return;
    this.#take(nbd.OPTION_REPLY_HEADER_SIZE);
    const data = this.#take(length);
    const failed = (type & nbd.NBD_REP_FLAG_ERROR) !== 0;
    if (option !== this.#expectedOption()) throw broken(`answer to option ${option}, which was not asked`);
    if (type === nbd.NBD_REP_ERR_SHUTDOWN) throw this.#refusedWith(type, data);
    if (this.#step === 'extended') {
      this.#extendedHeaders = type === nbd.NBD_REP_ACK;
      if (!failed && type !== nbd.NBD_REP_ACK) throw broken(`reply ${type} to extended headers`);
      if (this.#extendedHeaders) this.#askContexts();
      else this.#ask('structured', nbd.NBD_OPT_STRUCTURED_REPLY);
    } else if (this.#step === 'structured') {
      if (!failed && type !== nbd.NBD_REP_ACK) throw broken(`reply ${type} to structured replies`);
      if (failed) this.#askGo();
      else this.#askContexts();
    } else if (this.#step === 'meta') {
      // "If an error is returned, the client MUST disregard any context replies that may have been sent."
      if (failed) this.#contexts.clear();
      if (failed || type === nbd.NBD_REP_ACK) this.#askGo();
      else if (type === nbd.NBD_REP_META_CONTEXT) this.#metaContext(data);
      else throw broken(`reply ${type} to a metadata context request`);
    } else if (type === nbd.NBD_REP_INFO) this.#info(data);
    else if (type === nbd.NBD_REP_ACK) this.#goAcknowledged();
    else if (type === nbd.NBD_REP_ERR_UNSUP && !this.#extendedHeaders) {
      this.#ask('export-name', nbd.NBD_OPT_EXPORT_NAME, Buffer.from(this.#exportName));
    } else if (failed) throw this.#refusedWith(type, data);
    else throw broken(`reply ${type} to NBD_OPT_GO`);
  }

  #refusedWith(type: number, data: Buffer): NbdClientError {
    this.#refused = true;
    return refused(this.#exportName, type, data.toString());
  }

  #askContexts(): void {
    this.#structuredReplies = true;
    if (this.#contextNames.length === 0) {
      this.#askGo();
      return;
    }
    const request = { exportName: this.#exportName, queries: this.#contextNames };
    this.#ask('meta', nbd.NBD_OPT_SET_META_CONTEXT, o.emitMetaContextRequest(request));
  }

  #expectedOption(): number {
    if (this.#step === 'extended') return nbd.NBD_OPT_EXTENDED_HEADERS;
    if (this.#step === 'structured') return nbd.NBD_OPT_STRUCTURED_REPLY;
    return this.#step === 'meta' ? nbd.NBD_OPT_SET_META_CONTEXT : nbd.NBD_OPT_GO;
  }

  #metaContext(data: Buffer): void {
    const context = o.parseMetaContext(data);
    if (context === undefined) throw broken('malformed metadata context');
    // A server may offer more than was asked for; what we did not ask for is not used.
    if (this.#contextNames.includes(context.name)) this.#contexts.set(context.id, context.name);
  }

  #info(data: Buffer): void {
    if (data.length < 2) throw broken('information without its kind');
    const info = data.readUInt16BE(0);
    if (info === nbd.NBD_INFO_EXPORT) {
      if (data.length !== 12) throw broken('NBD_INFO_EXPORT of a wrong length');
      this.#size = data.readBigUInt64BE(2);
      this.#flags = data.readUInt16BE(10);
    } else if (info === nbd.NBD_INFO_BLOCK_SIZE) {
      if (data.length !== 14) throw broken('NBD_INFO_BLOCK_SIZE of a wrong length');
      const sizes = {
        minimum: data.readUInt32BE(2),
        preferred: data.readUInt32BE(6),
        maximum: data.readUInt32BE(10),
      };
      if (sizes.minimum === 0 || (sizes.minimum & (sizes.minimum - 1)) !== 0 || sizes.minimum > 65536) {
        throw broken(`smallest block of ${sizes.minimum} bytes`);
      }
      if (sizes.maximum < sizes.minimum) throw broken(`largest block of ${sizes.maximum} bytes`);
      this.#blockSizes = sizes;
    }
  }

  #goAcknowledged(): void {
    if (this.#size === undefined) throw broken('NBD_OPT_GO acknowledged without NBD_INFO_EXPORT');
    this.#step = 'done';
  }

  #exportNameAnswer(): void {
    const length = 10 + (this.#noZeroes ? 0 : nbd.EXPORT_NAME_ZEROES);
    if (this.#input.length < length) return;
    const answer = this.#take(length);
    this.#size = answer.readBigUInt64BE(0);
    this.#flags = answer.readUInt16BE(8);
    this.#step = 'done';
  }
}

function broken(what: string): NbdClientError {
  return new NbdClientError('EPROTO', `the NBD server broke the protocol: ${what}`);
}

function refused(exportName: string, type: number, message: string): NbdClientError {
  const values = { exportName, type, message };
  const said = message === '' ? '' : `: ${message.slice(0, 200).replace(/\p{Cc}/gu, ' ')}`;
  if (type === nbd.NBD_REP_ERR_UNKNOWN) {
    return new NbdClientError('ENOENT', `the NBD server has no export "${exportName}"${said}`, {
      values,
      remedy: 'list its exports with nbdinfo --list',
    });
  }
  if (type === nbd.NBD_REP_ERR_SHUTDOWN) {
    return new NbdClientError('ECONNREFUSED', `the NBD server is shutting down${said}`, {
      values,
      remedy: 'start it again, or connect to the one that takes its place',
    });
  }
  return new NbdClientError('EACCES', `the NBD server refuses export "${exportName}" (${type})${said}`, {
    values,
  });
}
