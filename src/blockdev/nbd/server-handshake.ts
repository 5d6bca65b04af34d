/**
 * Server side of the handshake phase (specification: "Fixed newstyle negotiation"), without I/O.
 *
 * push() gathers bytes until client flags or one option are complete, answers through `write`, and ends in one of two ways:
 * `transmission` (NBD_OPT_GO or NBD_OPT_EXPORT_NAME) or `closed` with the reason to count. Everything a client may send is
 * bounded: option data over OPTION_DATA_LIMIT is skipped and answered with NBD_REP_ERR_TOO_BIG, over OPTION_SKIP_LIMIT ends
 * the connection, and so does the OPTION_COUNT_LIMIT-th option. The time limit is the connection's.
 */
import type { Device } from '../device.ts';
import * as o from './options.ts';
import * as nbd from './protocol.ts';
import type { ExportTable, MetaContext } from './server-export.ts';
import { blockSizesOf, matchContexts, metaContextsOf, transmissionFlagsOf } from './server-export.ts';

export const OPTION_DATA_LIMIT = 64 * 1024;
export const OPTION_SKIP_LIMIT = 1024 * 1024;
export const OPTION_COUNT_LIMIT = 1024;

export interface Negotiated {
  readonly exportName: string;
  readonly device: Device;
  /** Structured reply chunks, with whichever header. */
  readonly structuredReplies: boolean;
  /** Requests and reply chunks of 32-byte headers. */
  readonly extendedHeaders: boolean;
  readonly contexts: readonly MetaContext[];
}

export type HandshakeOutcome =
  | { readonly state: 'more' }
  | { readonly state: 'closed'; readonly reason: HandshakeEnd }
  | {
      readonly state: 'transmission';
      readonly negotiated: Negotiated;
      /** The last answer of the handshake, to be sent when the export is ready. */
      readonly answer: Buffer;
      /** Bytes the client sent behind its last option. */
      readonly rest: Buffer;
    };

/** Why a handshake ended without transmission; the names of counters. */
export type HandshakeEnd =
  | 'aborted'
  | 'unknown-client-flags'
  | 'bad-option-magic'
  | 'option-too-long'
  | 'too-many-options'
  | 'unknown-export'
  | 'export-name-refused'
  | 'shut-down';

const MORE = { state: 'more' } as const;
const KNOWN_CLIENT_FLAGS = nbd.NBD_FLAG_C_FIXED_NEWSTYLE | nbd.NBD_FLAG_C_NO_ZEROES;

export class ServerHandshake {
  readonly #exports: ExportTable;
  readonly #write: (bytes: Buffer) => void;
  #input: Buffer = Buffer.alloc(0);
  #flagsSeen = false;
  #noZeroes = false;
  #skip = 0;
  #options = 0;
  #structuredReplies = false;
  #extendedHeaders = false;
  #shuttingDown = false;
  /** Contexts set for `exportName`; they hold for that export only. */
  #selected: { exportName: string; contexts: readonly MetaContext[] } | undefined;

  constructor(exports: ExportTable, write: (bytes: Buffer) => void) {
    this.#exports = exports;
    this.#write = write;
  }

  greet(): void {
    this.#write(o.emitGreeting(nbd.NBD_FLAG_FIXED_NEWSTYLE | nbd.NBD_FLAG_NO_ZEROES));
  }

  /** From now on every option but NBD_OPT_ABORT is answered with NBD_REP_ERR_SHUTDOWN. */
  shutDown(): void {
    this.#shuttingDown = true;
  }

  push(chunk: Buffer): HandshakeOutcome {
    this.#input = this.#input.length === 0 ? chunk : Buffer.concat([this.#input, chunk]);
    for (;;) {
      if (this.#skip > 0) {
        const skipped = Math.min(this.#skip, this.#input.length);
        this.#skip -= skipped;
        this.#input = this.#input.subarray(skipped);
        if (this.#skip > 0) return MORE;
      }
      if (!this.#flagsSeen) {
        if (this.#input.length < 4) return MORE;
        const flags = this.#input.readUInt32BE(0);
        if ((flags & ~KNOWN_CLIENT_FLAGS) !== 0) return { state: 'closed', reason: 'unknown-client-flags' };
        this.#flagsSeen = true;
        this.#noZeroes = (flags & nbd.NBD_FLAG_C_NO_ZEROES) !== 0;
        this.#input = this.#input.subarray(4);
      }
      if (this.#input.length < 8) return MORE;
      if (this.#input.readBigUInt64BE(0) !== nbd.IHAVEOPT) {
        return { state: 'closed', reason: 'bad-option-magic' };
      }
      if (this.#input.length < nbd.OPTION_HEADER_SIZE) return MORE;
      const option = this.#input.readUInt32BE(8);
      const length = this.#input.readUInt32BE(12);
      if (length > OPTION_DATA_LIMIT) {
        if (length > OPTION_SKIP_LIMIT || option === nbd.NBD_OPT_EXPORT_NAME) {
          return { state: 'closed', reason: 'option-too-long' };
        }
      } else if (this.#input.length < nbd.OPTION_HEADER_SIZE + length) return MORE;
      if (++this.#options > OPTION_COUNT_LIMIT) return { state: 'closed', reason: 'too-many-options' };
      if (length > OPTION_DATA_LIMIT) {
        this.#reply(option, nbd.NBD_REP_ERR_TOO_BIG, Buffer.from(`at most ${OPTION_DATA_LIMIT} bytes`));
        this.#skip = nbd.OPTION_HEADER_SIZE + length;
        continue;
      }
      const data = this.#input.subarray(nbd.OPTION_HEADER_SIZE, nbd.OPTION_HEADER_SIZE + length);
      this.#input = this.#input.subarray(nbd.OPTION_HEADER_SIZE + length);
      const outcome = this.#option(option, data);
      if (outcome.state !== 'more') return outcome;
    }
  }

  #reply(option: number, type: number, data?: Uint8Array): void {
    this.#write(o.emitOptionReply(option, type, data));
  }

  #refuse(option: number, type: number, message: string): HandshakeOutcome {
    this.#reply(option, type, Buffer.from(message));
    return MORE;
  }

  #option(option: number, data: Buffer): HandshakeOutcome {
    if (this.#shuttingDown && option !== nbd.NBD_OPT_ABORT) {
      if (option === nbd.NBD_OPT_EXPORT_NAME) return { state: 'closed', reason: 'shut-down' };
      return this.#refuse(option, nbd.NBD_REP_ERR_SHUTDOWN, 'the server is shutting down');
    }
    switch (option) {
      case nbd.NBD_OPT_EXPORT_NAME:
        return this.#exportName(data);
      case nbd.NBD_OPT_ABORT:
        this.#reply(option, nbd.NBD_REP_ACK);
        return { state: 'closed', reason: 'aborted' };
      case nbd.NBD_OPT_LIST:
        return this.#list(option, data);
      case nbd.NBD_OPT_INFO:
      case nbd.NBD_OPT_GO:
        return this.#info(option, data);
      case nbd.NBD_OPT_STRUCTURED_REPLY:
        if (data.length > 0)
          return this.#refuse(option, nbd.NBD_REP_ERR_INVALID, 'this option carries no data');
        if (this.#extendedHeaders)
          return this.#refuse(option, nbd.NBD_REP_ERR_EXT_HEADER_REQD, 'extended headers were negotiated');
        this.#structuredReplies = true;
        this.#reply(option, nbd.NBD_REP_ACK);
        return MORE;
      case nbd.NBD_OPT_EXTENDED_HEADERS:
        if (data.length > 0)
          return this.#refuse(option, nbd.NBD_REP_ERR_INVALID, 'this option carries no data');
        this.#structuredReplies = true;
        this.#extendedHeaders = true;
        this.#reply(option, nbd.NBD_REP_ACK);
        return MORE;
      case nbd.NBD_OPT_LIST_META_CONTEXT:
      case nbd.NBD_OPT_SET_META_CONTEXT:
        return this.#metaContext(option, data);
      case nbd.NBD_OPT_STARTTLS:
        return this.#refuse(option, nbd.NBD_REP_ERR_UNSUP, 'TLS is not offered on a unix socket');
      default:
        return this.#refuse(option, nbd.NBD_REP_ERR_UNSUP, `option ${option} is not supported`);
    }
  }

  #exportName(data: Buffer): HandshakeOutcome {
    // "Once extended headers are successfully requested, a client MUST NOT use NBD_OPT_EXPORT_NAME".
    if (this.#extendedHeaders) return { state: 'closed', reason: 'export-name-refused' };
    const name = o.parseString(data);
    const found = name === undefined ? undefined : this.#exports.find(name);
    // The option has no error reply: closing is all that is left.
    if (found === undefined) return { state: 'closed', reason: 'unknown-export' };
    const answer = Buffer.alloc(10 + (this.#noZeroes ? 0 : nbd.EXPORT_NAME_ZEROES));
    answer.writeBigUInt64BE(found.device.size, 0);
    answer.writeUInt16BE(transmissionFlagsOf(found.device, this.#structuredReplies), 8);
    return this.#transmission(name!, found, answer);
  }

  #list(option: number, data: Buffer): HandshakeOutcome {
    if (data.length > 0) return this.#refuse(option, nbd.NBD_REP_ERR_INVALID, 'this option carries no data');
    for (const name of this.#exports.names()) {
      this.#reply(option, nbd.NBD_REP_SERVER, o.emitServerEntry(name));
    }
    this.#reply(option, nbd.NBD_REP_ACK);
    return MORE;
  }

  #info(option: number, data: Buffer): HandshakeOutcome {
    const request = o.parseInfoRequest(data);
    if (request === undefined) return this.#refuse(option, nbd.NBD_REP_ERR_INVALID, 'malformed request');
    const found = this.#exports.find(request.exportName);
    if (found === undefined) return this.#refuse(option, nbd.NBD_REP_ERR_UNKNOWN, 'no such export');
    const { device } = found;
    const contexts = this.#contextsOf(request.exportName);
    const statusPayload = this.#extendedHeaders && contexts.length > 0;
    const flags = transmissionFlagsOf(device, this.#structuredReplies, statusPayload);
    this.#reply(option, nbd.NBD_REP_INFO, o.emitInfoExport(device.size, flags));
    if (request.wanted.includes(nbd.NBD_INFO_BLOCK_SIZE)) {
      this.#reply(option, nbd.NBD_REP_INFO, o.emitInfoBlockSize(blockSizesOf(device)));
    }
    if (request.wanted.includes(nbd.NBD_INFO_NAME)) {
      this.#reply(option, nbd.NBD_REP_INFO, o.emitInfoString(nbd.NBD_INFO_NAME, found.name));
    }
    const ack = o.emitOptionReply(option, nbd.NBD_REP_ACK);
    if (option === nbd.NBD_OPT_GO) return this.#transmission(request.exportName, found, ack);
    this.#write(ack);
    return MORE;
  }

  #metaContext(option: number, data: Buffer): HandshakeOutcome {
    const setting = option === nbd.NBD_OPT_SET_META_CONTEXT;
    // "the server MUST drop its earlier selection", also when this request fails.
    if (setting) this.#selected = undefined;
    if (!this.#structuredReplies) {
      return this.#refuse(option, nbd.NBD_REP_ERR_INVALID, 'negotiate structured replies first');
    }
    const request = o.parseMetaContextRequest(data);
    if (request === undefined) return this.#refuse(option, nbd.NBD_REP_ERR_INVALID, 'malformed request');
    const found = this.#exports.find(request.exportName);
    if (found === undefined) return this.#refuse(option, nbd.NBD_REP_ERR_UNKNOWN, 'no such export');
    const offered = metaContextsOf(found.device);
    const matched = new Set(request.queries.flatMap((query) => matchContexts(offered, query, !setting)));
    const chosen = !setting && request.queries.length === 0 ? offered : [...matched];
    for (const context of chosen) {
      // When listing, the identifier has no meaning and is sent as 0.
      this.#reply(
        option,
        nbd.NBD_REP_META_CONTEXT,
        o.emitMetaContext(setting ? context.id : 0, context.name),
      );
    }
    if (setting) this.#selected = { exportName: request.exportName, contexts: chosen };
    this.#reply(option, nbd.NBD_REP_ACK);
    return MORE;
  }

  #transmission(asked: string, found: { name: string; device: Device }, answer: Buffer): HandshakeOutcome {
    const contexts = this.#contextsOf(asked);
    const negotiated = {
      exportName: found.name,
      device: found.device,
      structuredReplies: this.#structuredReplies,
      extendedHeaders: this.#extendedHeaders,
      contexts,
    };
    return { state: 'transmission', negotiated, answer, rest: this.#input };
  }

  #contextsOf(exportName: string): readonly MetaContext[] {
    return this.#selected?.exportName === exportName ? this.#selected.contexts : [];
  }
}
