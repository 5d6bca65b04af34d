/**
 * A connection as its owner sees it: the user calls of RFC 9293 3.10 (SEND, RECEIVE, CLOSE, ABORT, STATUS), options, and the
 * hand-over. No call reports back from inside itself; everything is told through the handler at the end of the batch.
 */
import type { IpAddress } from '../../wire/index.ts';
import { formatIpAddress } from '../../wire/index.ts';
import type { Engine } from './engine.ts';
import { HandOverError, TcpError } from './errors.ts';
import type { TcpConnectionState } from './hand-over.ts';
import { exportObstacle, exportTcb } from './hand-over.ts';
import { transmitReset, windowUpdateDue } from './output.ts';
import { seqAdd, seqDiff } from './seq.ts';
import type { StateName, Tcb, TcpHandler } from './tcb.ts';
import { NEVER, NO_HANDLER, STATE, STATE_NAMES } from './tcb.ts';
import { armTimer, stopTimers } from './timers.ts';

const NO_BYTES = new Uint8Array(0);

export interface KeepAliveOptions {
  readonly idleMs?: number;
  readonly intervalMs?: number;
}

export class TcpConnection {
  readonly #engine: Engine;
  readonly #tcb: Tcb;
  readonly #entomb: (tcb: Tcb) => void;

  constructor(engine: Engine, tcb: Tcb, entomb: (tcb: Tcb) => void) {
    this.#engine = engine;
    this.#tcb = tcb;
    this.#entomb = entomb;
  }

  get localAddress(): IpAddress {
    return this.#tcb.localAddress;
  }
  get localPort(): number {
    return this.#tcb.localPort;
  }
  get remoteAddress(): IpAddress {
    return this.#tcb.remoteAddress;
  }
  get remotePort(): number {
    return this.#tcb.remotePort;
  }
  get state(): StateName {
    return STATE_NAMES[this.#tcb.state];
  }
  get bytesReceived(): number {
    return this.#tcb.bytesReceived;
  }
  get bytesSent(): number {
    return this.#tcb.bytesSent;
  }
  /** Bytes taken by write. */
  get bytesWritten(): number {
    return this.#tcb.bytesWritten;
  }
  /** Bytes received in order and not read. */
  get readableBytes(): number {
    return this.#tcb.receiveQueue.length;
  }
  /** Bytes written and not acknowledged. */
  get unacknowledgedBytes(): number {
    return this.#tcb.sendBuffer.length;
  }
  get frozen(): boolean {
    return this.#tcb.frozen;
  }
  /** Figures for displays: all times in ms, sizes in bytes. */
  get status(): {
    state: StateName;
    cwnd: number;
    ssthresh: number;
    sndWnd: number;
    rcvWnd: number;
    srttMs: number;
    rtoMs: number;
    effMss: number;
    flight: number;
    retransmittedSegments: number;
    timeouts: number;
    /** Segments that came out of order; that were outside of the window; whose timestamp was too old. */
    outOfOrder: number;
    outOfWindow: number;
    pawsDropped: number;
    sackPermitted: boolean;
    timestamps: boolean;
    congestion: string;
    retransmits: number;
    /** What ICMP said lately; it becomes the reason if the connection fails (RFC 9293 3.9.1.8). */
    softError: string | undefined;
  } {
    const tcb = this.#tcb;
    return {
      state: STATE_NAMES[tcb.state],
      cwnd: tcb.congestion.cwnd,
      ssthresh: tcb.congestion.ssthresh,
      sndWnd: tcb.sndWnd,
      rcvWnd: tcb.rcvWnd,
      srttMs: tcb.rtt.srtt,
      rtoMs: tcb.rtt.rto,
      effMss: tcb.effMss,
      flight: tcb.flight,
      retransmittedSegments: tcb.retransmittedSegments,
      timeouts: tcb.timeouts,
      outOfOrder: tcb.outOfOrder,
      outOfWindow: tcb.outOfWindow,
      pawsDropped: tcb.pawsDropped,
      sackPermitted: tcb.sackPermitted,
      timestamps: tcb.timestamps,
      congestion: tcb.congestion.name,
      retransmits: tcb.retransmits,
      softError: tcb.softError?.message,
    };
  }

  /** Whoever is told from now on. What was owed to nobody so far is told again. */
  setHandler(handler: TcpHandler): void {
    const tcb = this.#tcb;
    tcb.handler = handler;
    if (tcb.receiveQueue.length > 0 || tcb.remoteFin) {
      tcb.owesReadable = true;
      this.#engine.touch(tcb);
    }
  }

  /**
   * Takes all of `data` (copied before the call returns). False: beyond the send buffer's limit, `writable` will follow.
   * Nothing is taken when the direction is closed: then it throws EPIPE.
   */
  write(data: Uint8Array): boolean {
    const tcb = this.#tcb;
    if (tcb.finQueued || tcb.state === STATE.CLOSED || tcb.state >= STATE.TIME_WAIT)
      throw new TcpError('EPIPE');
    tcb.sendBuffer.append(data);
    tcb.bytesWritten += data.length;
    this.#engine.touch(tcb);
    if (tcb.sendBuffer.room > 0) return true;
    tcb.writeBlocked = true;
    return false;
  }

  /** As `write`; the peer is told that all bytes up to the last of these are urgent (RFC 9293 3.8.5). New protocols should not. */
  writeUrgent(data: Uint8Array): boolean {
    const room = this.write(data);
    const tcb = this.#tcb;
    tcb.sndUp = seqAdd(tcb.sndBufSeq, tcb.sendBuffer.length);
    tcb.sendsUrgent = true;
    return room;
  }

  /** Bytes to be read before the end of what the peer marked as urgent; 0: nothing urgent is left. */
  get urgentBytes(): number {
    const tcb = this.#tcb;
    if (!tcb.hasUrgent) return 0;
    const end = seqAdd(tcb.rcvNxt, tcb.remoteFin ? -1 : 0);
    const left = seqDiff(tcb.rcvUp, seqAdd(end, -tcb.receiveQueue.length));
    if (left > 0) return left;
    tcb.hasUrgent = false;
    return 0;
  }

  /** The oldest bytes not read, as they were received; undefined when there are none now, or the connection is frozen. */
  read(): Buffer | undefined {
    const tcb = this.#tcb;
    if (tcb.frozen) return undefined;
    const chunk = tcb.receiveQueue.shift();
    if (chunk === undefined) return undefined;
    this.#tune(chunk.length);
    if (windowUpdateDue(tcb)) this.#engine.touch(tcb);
    return chunk;
  }

  /** The peer has closed its direction and everything before that has been read. */
  get remoteClosed(): boolean {
    const tcb = this.#tcb;
    return tcb.remoteFin && tcb.receiveQueue.length === 0 && !tcb.frozen;
  }

  /** Bytes that `write` takes before it says to wait. */
  get writeRoom(): number {
    return this.#tcb.sendBuffer.room;
  }

  /** Half-close: FIN behind what was written. The other direction goes on. */
  shutdown(): void {
    const tcb = this.#tcb;
    if (tcb.finQueued) return;
    tcb.finQueued = true;
    if (tcb.state === STATE.SYN_SENT) {
      // 3.10.4: nothing was established; the same as abort.
      return;
    }
    if (tcb.state === STATE.ESTABLISHED) tcb.state = STATE.FIN_WAIT_1;
    else if (tcb.state === STATE.CLOSE_WAIT) tcb.state = STATE.LAST_ACK;
    this.#engine.touch(tcb);
  }

  /**
   * The application is done with the connection: what was written is still delivered in the background. When bytes were
   * received that nobody read, or more arrive, the peer gets a RST (RFC 9293 3.6.1). The handler hears nothing any more.
   */
  close(): void {
    const tcb = this.#tcb;
    tcb.handler = NO_HANDLER;
    if (tcb.state === STATE.CLOSED || tcb.state === STATE.TOMBSTONE) return;
    if (tcb.state === STATE.SYN_SENT) {
      this.#engine.finish(tcb, undefined);
      return;
    }
    if (tcb.receiveQueue.length > 0 || !tcb.reassembly.empty) {
      this.abort();
      return;
    }
    tcb.orphan = true;
    this.shutdown();
    if (tcb.state === STATE.FIN_WAIT_2) {
      tcb.timeWaitAtMs = this.#engine.clock.nowMs() + this.#engine.config.orphanTimeoutMs;
      this.#engine.touch(tcb);
    }
  }

  /** ABORT: RST, everything queued is gone. The handler hears nothing any more. */
  abort(): void {
    const tcb = this.#tcb;
    const { state } = tcb;
    tcb.handler = NO_HANDLER;
    if (state === STATE.CLOSED || state === STATE.TOMBSTONE) return;
    if (state >= STATE.SYN_RECEIVED && state <= STATE.CLOSE_WAIT) {
      const { localAddress, localPort, remoteAddress, remotePort } = tcb;
      transmitReset(this.#engine, localAddress, localPort, remoteAddress, remotePort, tcb.sndMax, tcb.rcvNxt);
    }
    this.#engine.finish(tcb, undefined);
    // So that the reset leaves although the connection has no output to make.
    this.#engine.touch(tcb);
  }

  setNoDelay(on: boolean): void {
    this.#tcb.noDelay = on;
    if (on) this.#engine.touch(this.#tcb);
  }

  /** Null turns it off. */
  setKeepAlive(options: KeepAliveOptions | null): void {
    const tcb = this.#tcb;
    if (options === null) {
      tcb.keepAliveIdleMs = 0;
      tcb.keepAliveAtMs = NEVER;
      return;
    }
    tcb.keepAliveIdleMs = options.idleMs ?? this.#engine.config.keepAliveIdleMs;
    tcb.keepAliveIntervalMs = options.intervalMs ?? this.#engine.config.keepAliveIntervalMs;
    if (!tcb.synchronized) return;
    tcb.keepAliveAtMs = Math.max(tcb.lastReceiveMs, this.#engine.clock.nowMs()) + tcb.keepAliveIdleMs;
    armTimer(this.#engine, tcb);
  }

  /** RFC 9293 3.8.3, RFC 5482's local half: unacknowledged for so long ends the connection; 0 = no such limit. */
  setUserTimeout(timeoutMs: number): void {
    const tcb = this.#tcb;
    tcb.userTimeoutMs = timeoutMs;
    tcb.userTimeoutAtMs = NEVER;
    if (timeoutMs > 0 && tcb.flight > 0) {
      tcb.userTimeoutAtMs = this.#engine.clock.nowMs() + timeoutMs;
      armTimer(this.#engine, tcb);
    }
  }

  /** From now on received bytes are acknowledged as far as the buffer goes, and stay in it. */
  freeze(): void {
    this.#tcb.frozen = true;
  }

  /** Undo of freeze. */
  thaw(): void {
    const tcb = this.#tcb;
    if (!tcb.frozen) return;
    tcb.frozen = false;
    tcb.owesReadable = tcb.receiveQueue.length > 0 || tcb.remoteFin;
    this.#engine.touch(tcb);
  }

  /** Why exportState would refuse, or undefined. */
  get exportObstacle(): string | undefined {
    return exportObstacle(this.#tcb);
  }

  /**
   * Takes the connection out of this stack. Afterwards the object is dead (the handler hears nothing), and what arrives
   * for the connection is dropped in silence for `tombstoneMs`.
   * @param unread bytes that had been read from here but must be read again by whoever imports.
   * @throws HandOverError TCP_NOT_EXPORTABLE
   */
  exportState(unread: Uint8Array = NO_BYTES): TcpConnectionState {
    const obstacle = exportObstacle(this.#tcb);
    if (obstacle !== undefined) {
      throw new HandOverError('TCP_NOT_EXPORTABLE', `the connection cannot be exported: ${obstacle}`, {
        remedy: 'let it be finished by this stack',
        values: { state: this.state, remotePort: this.remotePort },
      });
    }
    const state = exportTcb(this.#engine, this.#tcb, formatIpAddress, unread);
    this.#tcb.handler = NO_HANDLER;
    stopTimers(this.#tcb);
    this.#entomb(this.#tcb);
    return state;
  }

  /** Receive buffer autotuning: twice what the application takes in a round trip, so that the window never holds it back. */
  #tune(bytes: number): void {
    const tcb = this.#tcb;
    const { receiveBufferMax } = this.#engine.config;
    tcb.tuneBytes += bytes;
    if (tcb.rcvBuf >= receiveBufferMax) return;
    const nowMs = this.#engine.clock.nowMs();
    if (nowMs - tcb.tuneStartMs < Math.max(tcb.rtt.srtt, 1)) return;
    if (tcb.tuneBytes * 2 > tcb.rcvBuf) tcb.rcvBuf = Math.min(receiveBufferMax, tcb.tuneBytes * 2);
    tcb.tuneBytes = 0;
    tcb.tuneStartMs = nowMs;
  }
}
