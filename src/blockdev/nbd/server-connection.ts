/**
 * One client of the server: handshake → transmission → draining → gone.
 *
 *   handshake     bytes go to ServerHandshake; must be over within `handshakeTimeoutMs`
 *   preparing     the export was chosen; requests of connections to the same device that ended are awaited first, so that a
 *                 client that comes back (or was started again) cannot be overtaken by its own past
 *   transmission  bytes go to RequestParser; the stream is paused while the parser holds a chunk: its bounds are reached, or the
 *                 server has had its time in this turn of the event loop
 *   draining      no request is taken; what is in flight is answered, then the stream is ended
 *   gone          the stream is closed; `idle` tells when the device is no longer touched
 */
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Clock, Timer } from '../../common/index.ts';
import type { Device } from '../device.ts';
import type { BufferPool } from './buffer-pool.ts';
import type { Receiver } from './receive.ts';
import { receiveInto } from './receive.ts';
import { ReplyWriter } from './reply-writer.ts';
import { RequestParser } from './request-parser.ts';
import type { TransmissionCounters } from './server-counters.ts';
import type { ExportTable } from './server-export.ts';
import type { HandshakeEnd, Negotiated } from './server-handshake.ts';
import { ServerHandshake } from './server-handshake.ts';
import type { ServerTurn, Waiting } from './server-turn.ts';
import type { TransmissionLimits } from './transmission-server.ts';
import { TransmissionServer } from './transmission-server.ts';

export interface ConnectionLimits extends TransmissionLimits {
  readonly handshakeTimeoutMs: number;
  /** How long a client may take to accept the last replies of a connection that is being closed. */
  readonly lingerMs: number;
}

export type ConnectionEnd =
  | HandshakeEnd
  | 'handshake-timeout'
  | 'handshake-backlog'
  | 'handshake-cut'
  | 'disconnected'
  | 'bad-request-magic'
  | 'payload-too-long'
  | 'peer-closed'
  | 'stream-error'
  | 'closed-by-server';

export interface ConnectionContext {
  readonly exports: ExportTable;
  readonly limits: ConnectionLimits;
  readonly counters: TransmissionCounters;
  readonly pool: BufferPool;
  readonly clock: Clock;
  readonly turn: ServerTurn;
  /** Resolves when connections to the device of `newcomer` that have ended by now will not touch it any more. */
  settled(newcomer: ServerConnection): Promise<void>;
  /** Called once. */
  ended(connection: ServerConnection, reason: ConnectionEnd): void;
}

/** How long a client that negotiates is told that the server shuts down, before its connection is cut. */
const SHUT_DOWN_MS = 200;
const HANDSHAKE_BACKLOG = 1024 * 1024;
/** What is read at once where no payload is awaited. */
const RECEIVE_BYTES = 256 * 1024;

export class ServerConnection implements Receiver, Waiting {
  readonly #stream: Duplex;
  readonly #context: ConnectionContext;
  readonly #timer: Timer;
  #linger: Timer | undefined;
  #handshake: ServerHandshake | undefined;
  #negotiated: Negotiated | undefined;
  #transmission: TransmissionServer | undefined;
  #parser: RequestParser | undefined;
  #writer: ReplyWriter | undefined;
  #early: Buffer[] = [];
  readonly #received = Buffer.allocUnsafeSlow(RECEIVE_BYTES);
  #inputEnded = false;
  #draining: ConnectionEnd | undefined;
  /** The stream's end is on its way. */
  #ending = false;
  #gone = false;
  readonly #idleWaiters: (() => void)[] = [];
  readonly #caughtUpWaiters: (() => void)[] = [];
  readonly #closedWaiters: (() => void)[] = [];

  /** `fresh`: `stream` is a paused half-open socket that nobody has read from. */
  constructor(stream: Duplex, context: ConnectionContext, fresh = false) {
    this.#context = context;
    const socket = fresh && stream instanceof Socket ? receiveInto(stream, this) : undefined;
    this.#stream = socket ?? stream;
    this.#handshake = new ServerHandshake(context.exports, (bytes) => this.#stream.write(bytes));
    this.#timer = context.clock.after(context.limits.handshakeTimeoutMs, () =>
      this.#end('handshake-timeout'),
    );
    if (socket === undefined) stream.on('data', (chunk: Buffer) => this.#data(chunk)).resume();
    this.#stream.on('drain', () => this.#resume());
    this.#stream.on('end', () => this.#inputEnd());
    this.#stream.on('error', () => this.#end('stream-error'));
    this.#stream.on('close', () => this.#end('peer-closed'));
    this.#handshake.greet();
  }

  /** Where the socket reads to next: into the payload that is awaited, or a chunk. */
  space(): Buffer {
    const payload = this.#parser?.space;
    if (payload !== undefined) return payload;
    const wanted = this.#parser?.wanted ?? RECEIVE_BYTES;
    return wanted < RECEIVE_BYTES ? this.#received.subarray(0, wanted) : this.#received;
  }

  received(target: Buffer, count: number): void {
    this.#context.turn.charge(count);
    if (target.buffer !== this.#received.buffer) {
      if (this.#gone || this.#draining !== undefined) return;
      this.#parse(this.#parser!, (parser) => parser.filled(count));
      return;
    }
    const chunk = target.subarray(0, count);
    // The receive buffer is used again as soon as this returns, unless the parser holds it: then nothing is read.
    this.#data(this.#parser === undefined ? Buffer.from(chunk) : chunk);
  }

  /** The device this connection uses, once an export was chosen. */
  get device(): Device | undefined {
    return this.#negotiated?.device;
  }

  get exportName(): string | undefined {
    return this.#negotiated?.exportName;
  }

  get gone(): boolean {
    return this.#gone;
  }

  /** Requests the device works on. */
  get inFlight(): number {
    return this.#transmission?.inFlight ?? 0;
  }

  /** The peer sends no more, or nothing more is taken from it. */
  get leaving(): boolean {
    return this.#gone || this.#inputEnded || this.#draining !== undefined;
  }

  /** Resolves when the device is not touched by this connection, now and ever after. */
  idle(): Promise<void> {
    return new Promise((resolve) => {
      this.#idleWaiters.push(resolve);
      this.#tellIdle();
    });
  }

  /** Resolves when the stream is closed. */
  closed(): Promise<void> {
    if (this.#gone) return Promise.resolve();
    return new Promise((resolve) => {
      this.#closedWaiters.push(resolve);
    });
  }

  /** Closes the stream now, whatever is in flight. */
  cut(): void {
    this.#end('closed-by-server');
  }

  /**
   * Resolves when everything read from the peer was taken up, so that its end is seen if it has ended; or after `lingerMs`. One
   * that has replies to take is not waited for: were it gone, writing them would fail at once and end the connection.
   */
  caughtUp(): Promise<void> {
    if (this.#gone || this.#isCaughtUp) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = this.#context.clock.after(this.#context.limits.lingerMs, resolve);
      this.#caughtUpWaiters.push(() => {
        timer.cancel();
        resolve();
      });
    });
  }

  get #isCaughtUp(): boolean {
    return this.#parser?.holding !== true || this.#stream.writableLength > 0;
  }

  /** Takes no further request, answers what is in flight, then closes. */
  drain(reason: ConnectionEnd = 'closed-by-server'): void {
    if (this.#gone || this.#draining !== undefined) return;
    this.#draining = reason;
    this.#early = [];
    if (this.#handshake !== undefined) {
      this.#handshake.shutDown();
      this.#linger = this.#context.clock.after(SHUT_DOWN_MS, () => this.#end(reason));
      this.#tellIdle();
      return;
    }
    if (this.#transmission === undefined) {
      this.#end(reason);
      return;
    }
    this.#parser?.stop();
    this.#stream.resume();
    this.#finishDrain();
    this.#tellIdle();
  }

  #data(chunk: Buffer): void {
    if (this.#gone || this.#ending) return;
    if (this.#draining !== undefined && this.#handshake === undefined) return;
    if (this.#parser !== undefined) {
      this.#parse(this.#parser, (parser) => parser.push(chunk));
      return;
    }
    if (this.#handshake === undefined) {
      // Preparing: the client may send requests before it has seen the acknowledgement; they wait.
      this.#early.push(chunk);
      this.#stream.pause();
      return;
    }
    const outcome = this.#handshake.push(chunk);
    if (outcome.state === 'closed') {
      this.#endAfterReplies(outcome.reason);
    } else if (outcome.state === 'transmission') {
      this.#handshake = undefined;
      this.#timer.cancel();
      this.#negotiated = outcome.negotiated;
      if (outcome.rest.length > 0) this.#early.push(outcome.rest);
      this.#stream.pause();
      void this.#context.settled(this).then(() => this.#transmit(outcome.negotiated, outcome.answer));
    } else if (this.#stream.writableLength > HANDSHAKE_BACKLOG) {
      this.#end('handshake-backlog');
    }
  }

  #transmit(negotiated: Negotiated, answer: Buffer): void {
    if (this.#gone || this.#draining !== undefined) return;
    const { pool, limits, counters, exports, turn } = this.#context;
    if (exports.find(negotiated.exportName)?.device !== negotiated.device) {
      this.#end('closed-by-server');
      return;
    }
    this.#stream.write(answer);
    this.#writer = new ReplyWriter(this.#stream, pool);
    this.#transmission = new TransmissionServer(negotiated, this.#writer, pool, limits, counters, turn, {
      settled: () => this.#settled(),
      disconnect: () => this.drain('disconnected'),
      malformed: (reason) => this.drain(reason as ConnectionEnd),
    });
    const parser = new RequestParser(this.#transmission, pool, negotiated.extendedHeaders);
    this.#parser = parser;
    const early = Buffer.concat(this.#early);
    this.#early = [];
    if (early.length > 0) this.#parse(parser, () => parser.push(early));
    if (!parser.holding) this.#stream.resume();
  }

  /** Lets the parser `work`; the replies that this yields at once leave together. */
  #parse(parser: RequestParser, work: (parser: RequestParser) => void): void {
    const { turn } = this.#context;
    turn.begin();
    this.#writer!.hold();
    work(parser);
    this.#writer!.release();
    turn.end();
    if (this.#isCaughtUp) for (const resolve of this.#caughtUpWaiters.splice(0)) resolve();
    if (parser.holding) {
      this.#stream.pause();
      if (!this.#transmission!.bounded) turn.wait(this);
      return;
    }
    if (this.#inputEnded) this.drain('peer-closed');
  }

  /** There is time for it again. */
  goOn(): void {
    this.#resume();
  }

  /** Goes on where the parser stalled. */
  #resume(): void {
    const parser = this.#parser;
    if (parser === undefined || !parser.holding || this.#gone || this.#draining !== undefined) return;
    if (this.#transmission!.bounded) return;
    this.#parse(parser, () => parser.resume());
    if (!parser.holding) this.#stream.resume();
  }

  #settled(): void {
    if (this.#gone) this.#tellIdle();
    else if (this.#draining === undefined) this.#resume();
    else {
      this.#finishDrain();
      this.#tellIdle();
    }
  }

  #tellIdle(): void {
    if (this.inFlight > 0 || (!this.#gone && this.#draining === undefined)) return;
    for (const resolve of this.#idleWaiters.splice(0)) resolve();
  }

  #inputEnd(): void {
    this.#inputEnded = true;
    if (this.#parser === undefined) this.#end('handshake-cut');
    else if (!this.#parser.holding) this.drain('peer-closed');
    else
      this.#linger = this.#context.clock.after(this.#context.limits.lingerMs, () =>
        this.drain('peer-closed'),
      );
  }

  #finishDrain(): void {
    if (this.inFlight > 0 || this.#ending) return;
    this.#endAfterReplies(this.#draining!);
  }

  /** Ends the stream behind the replies that are queued; a client that does not take them is cut off. */
  #endAfterReplies(reason: ConnectionEnd): void {
    this.#draining = reason;
    this.#ending = true;
    this.#timer.cancel();
    this.#linger?.cancel();
    this.#writer?.flush();
    this.#linger = this.#context.clock.after(this.#context.limits.lingerMs, () => this.#end(reason));
    this.#stream.end(() => this.#end(reason));
  }

  #end(reason: ConnectionEnd): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#timer.cancel();
    this.#linger?.cancel();
    this.#parser?.stop();
    this.#context.turn.leave(this);
    this.#writer?.close();
    this.#early = [];
    this.#stream.destroy();
    for (const resolve of this.#caughtUpWaiters.splice(0)) resolve();
    for (const resolve of this.#closedWaiters.splice(0)) resolve();
    this.#tellIdle();
    this.#context.ended(this, this.#draining ?? reason);
  }
}
