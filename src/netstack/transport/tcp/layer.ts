/**
 * The TCP of one stack: demultiplexing, listeners, and the rhythm. A received batch is processed segment by segment, each
 * changing its connection and marking it dirty; `endOfBatch` then tells the applications and lets every dirty connection send
 * once. What an application writes outside of a batch is collected the same way until `defer` runs.
 */
import type { Clock, Random } from '../../../common/index.ts';
import { systemClock } from '../../../common/index.ts';
import type { IcmpErrorKind, IpOutput, Transport } from '../../iface/index.ts';
import { HEADROOM, OUTPUT } from '../../iface/index.ts';
import type { DropReason, IpAddress } from '../../wire/index.ts';
import {
  isMulticast,
  isUnspecified,
  parseIpAddress,
  readU16,
  readU32,
  TCP,
  transportChecksumValid,
} from '../../wire/index.ts';
import type { TcpConfig } from './config.ts';
import { DEFAULT_TCP_CONFIG } from './config.ts';
import { TcpConnection } from './connection.ts';
import { answerWithCookie } from './cookie-answer.ts';
import { Demux } from './demux.ts';
import type { Engine } from './engine.ts';
import { TcpCounters } from './engine.ts';
import { HandOverError, TcpError } from './errors.ts';
import { checkConnectionState, importTcb } from './hand-over.ts';
import { icmpErrorArrives } from './icmp.ts';
import { IsnGenerator } from './isn.ts';
import type { TcpConnectOptions, TcpLayerOptions, TcpListener, TcpListenOptions } from './layer-options.ts';
import { bindAddress, DEFAULT_BACKLOG, Listener, ListenerTable } from './listen.ts';
import { defaultMss, receiveMss, transmitReset, transmitSyn } from './output.ts';
import { ephemeralPort, randomListenPort } from './ports.ts';
import { RateLimit } from './rate-limit.ts';
import { ReassemblyBudget } from './reassembly.ts';
import { segmentArrives, takeSynOptions } from './receive.ts';
import { Slab } from './receive-buffer.ts';
import { ACK, FIN, RST, Segment, SYN } from './segment.ts';
import { output } from './send.ts';
import type { Seq } from './seq.ts';
import { seqAdd, seqLe, toSeq } from './seq.ts';
import { COOKIE_LIFETIME_MS, cookieOptions, flowOf, SynCookies } from './syn-cookie.ts';
import type { TcpHandler } from './tcb.ts';
import { NEVER, STATE, STATE_NAMES, Tcb } from './tcb.ts';
import { tell } from './tell.ts';
import { armTimer, stopTimers } from './timers.ts';

const SCRATCH_BYTES = HEADROOM + 0x1_0000;

export class TcpLayer implements Transport, Engine {
  readonly clock: Clock;
  readonly random: Random;
  readonly config: TcpConfig;
  readonly ip: IpOutput;
  readonly counters = new TcpCounters();
  /** Told about a connection each time it was worked on. */
  observer: ((connection: TcpConnection) => void) | undefined;
  readonly scratch = new Uint8Array(new ArrayBuffer(SCRATCH_BYTES));
  readonly #defer: (callback: () => void) => void;
  readonly #isn: IsnGenerator;
  readonly #cookies: SynCookies;
  readonly #demux = new Demux();
  readonly #listeners = new ListenerTable();
  readonly #segment = new Segment();
  readonly #slab = new Slab();
  readonly #budget: ReassemblyBudget;
  readonly #connections = new WeakMap<Tcb, TcpConnection>();
  readonly #timeWait = new Set<Tcb>();
  readonly #suppressed = new Set<IpAddress>();
  readonly #challenges: RateLimit;
  readonly #resets: RateLimit;
  #dirty: Tcb[] = [];
  #blocked = new Set<Tcb>();
  #settling = false;
  #deferred = false;
  #closed = false;

  constructor(options: TcpLayerOptions) {
    this.ip = options.ip;
    this.clock = options.clock;
    this.random = options.random;
    this.config = { ...DEFAULT_TCP_CONFIG, ...options.config };
    this.#defer =
      options.defer ??
      (options.clock === systemClock
        ? (callback) => void setImmediate(callback)
        : (callback) => void options.clock.after(0, callback));
    this.#isn = new IsnGenerator(options.clock, options.random);
    this.#cookies = new SynCookies(options.clock, options.random);
    this.#budget = new ReassemblyBudget(this.config.reassemblyBudget);
    this.#challenges = new RateLimit(options.clock, this.config.challengeAcksPerSecond);
    this.#resets = new RateLimit(options.clock, this.config.resetsPerSecond);
  }

  // --- user calls ---------------------------------------------------------------------------------------------------

  /** Passive open. `accept` gets each connection when it is ESTABLISHED, and sets its handler. Throws TcpError EADDRINUSE, EADDRNOTAVAIL. */
  listen(options: TcpListenOptions, accept: (connection: TcpConnection) => void): TcpListener {
    const address = bindAddress(options.address, options.ipv6Only ?? false);
    if (address !== undefined && !isUnspecified(address) && !this.ip.isLocal(address))
      throw new TcpError('EADDRNOTAVAIL');
    const port =
      options.port === 0
        ? randomListenPort(this.random, (taken) => this.#listeners.has(taken))
        : options.port;
    const listener = new Listener(address, port, options.backlog ?? DEFAULT_BACKLOG, (tcb) =>
      accept(this.#connectionOf(tcb)),
    );
    this.#listeners.add(listener);
    return {
      get address() {
        return listener.address;
      },
      port,
      close: () => {
        this.#listeners.remove(listener);
        for (const tcb of listener.pending) this.finish(tcb, undefined);
      },
    };
  }

  /** Active open. `connected` or `closed(error)` follow; throws TcpError when it cannot even begin. */
  connect(options: TcpConnectOptions, handler: TcpHandler): TcpConnection {
    const { remoteAddress, remotePort } = options;
    // RFC 9293 MUST-46.
    if (!isUnicast(remoteAddress) || this.ip.isBroadcast?.(remoteAddress))
      throw new TcpError('ENETUNREACH', 'the destination is not the address of one host');
    const localAddress = options.localAddress ?? this.ip.sourceFor(remoteAddress);
    if (localAddress === undefined) throw new TcpError('ENETUNREACH');
    if (!this.ip.isLocal(localAddress)) throw new TcpError('EADDRNOTAVAIL');
    if (this.#demux.size >= this.config.connectionLimit) throw new TcpError('ENOBUFS');
    const localPort =
      options.localPort ||
      ephemeralPort(
        this.random,
        (port) => this.#listeners.has(port) || this.#demux.portPairInUse(port, remoteAddress, remotePort),
      );
    const canonical = this.ip.canonical(localAddress);
    const existing = this.#demux.find(canonical, localPort, remoteAddress, remotePort);
    if (existing !== undefined && existing.state !== STATE.TIME_WAIT) throw new TcpError('EADDRINUSE');
    const tcb = this.#newTcb(canonical, localPort, remoteAddress, remotePort);
    if (existing !== undefined) {
      // RFC 6191's idea for our own side: the new connection begins above the old one's last number.
      tcb.iss = seqAdd(existing.sndMax, 0x1_0000);
      this.finish(existing, undefined);
    }
    tcb.handler = handler;
    tcb.state = STATE.SYN_SENT;
    this.#startSending(tcb);
    this.#demux.add(tcb);
    this.counters.activeOpens++;
    const result = transmitSyn(this, tcb, SYN);
    if (result === OUTPUT.NO_ROUTE) {
      tcb.state = STATE.CLOSED;
      this.#demux.remove(tcb);
      throw new TcpError('ENETUNREACH');
    }
    tcb.rtoAtMs = this.clock.nowMs() + tcb.rtt.rto;
    this.touch(tcb);
    return this.#connectionOf(tcb);
  }

  /** All connections that an application could still know, in no order. */
  *connections(): IterableIterator<TcpConnection> {
    for (const tcb of this.#demux) {
      if (tcb.state === STATE.TIME_WAIT || tcb.state === STATE.TOMBSTONE || tcb.orphan) continue;
      yield this.#connectionOf(tcb);
    }
  }

  /** Connections by state, those in the background included. */
  stateCounts(): Record<string, number> {
    const counts: Record<string, number> = {};
    for (const tcb of this.#demux) {
      const name = STATE_NAMES[tcb.state];
      counts[name] = (counts[name] ?? 0) + 1;
    }
    return counts;
  }

  /** Ports with a listener. */
  listeningPorts(): number[] {
    return this.#listeners.ports();
  }

  /**
   * Continues an exported connection under the same addresses. The handler is to be set on the result.
   * @throws HandOverError TCP_STATE_MALFORMED, TCP_ADDRESS_NOT_LOCAL, TCP_FLOW_EXISTS
   */
  importState(value: unknown): TcpConnection {
    const state = checkConnectionState(value);
    const localAddress = parseIpAddress(state.flow.localAddress);
    const remoteAddress = parseIpAddress(state.flow.remoteAddress);
    if (localAddress === undefined || remoteAddress === undefined) {
      throw new HandOverError('TCP_STATE_MALFORMED', 'the connection state has no usable addresses');
    }
    if (!this.ip.isLocal(localAddress)) {
      throw new HandOverError(
        'TCP_ADDRESS_NOT_LOCAL',
        `${state.flow.localAddress} is not an address of this stack`,
        {
          remedy: 'take the address before importing its connections',
        },
      );
    }
    const canonical = this.ip.canonical(localAddress);
    const existing = this.#demux.find(canonical, state.flow.localPort, remoteAddress, state.flow.remotePort);
    if (existing !== undefined && existing.state !== STATE.TOMBSTONE && existing.state !== STATE.TIME_WAIT) {
      throw new HandOverError('TCP_FLOW_EXISTS', 'the stack has a connection of this name already', {
        values: { ...state.flow },
      });
    }
    const tcb = this.#newTcb(canonical, state.flow.localPort, remoteAddress, state.flow.remotePort);
    importTcb(this, tcb, state);
    if (existing !== undefined) this.finish(existing, undefined);
    this.#demux.add(tcb);
    this.counters.imported++;
    this.touch(tcb);
    return this.#connectionOf(tcb);
  }

  /** While on, segments to `address` that belong to nothing are not answered with RST. */
  suppressResets(address: IpAddress, on: boolean): void {
    if (on) this.#suppressed.add(address);
    else this.#suppressed.delete(address);
  }

  /** Ends everything without a word: the stack is going away. `reset`: connections get a RST first. */
  close(reset = false): void {
    this.#closed = true;
    for (const tcb of [...this.#demux]) {
      if (reset) this.#connectionOf(tcb).abort();
      stopTimers(tcb);
    }
    if (reset) this.#settle();
    for (const listener of [...this.#listeners]) this.#listeners.remove(listener);
  }

  // --- Transport ----------------------------------------------------------------------------------------------------

  input(
    buffer: Uint8Array,
    ipOffset: number,
    ipHeader: number,
    totalLength: number,
    source: IpAddress,
    destination: IpAddress,
    checksumKnownGood: boolean,
  ): DropReason | undefined {
    const segment = this.#segment;
    const at = ipOffset + ipHeader;
    const malformed = segment.parse(buffer, at, totalLength - ipHeader);
    if (malformed !== undefined) return malformed;
    if (!checksumKnownGood && !transportChecksumValid(buffer, ipOffset, ipHeader, totalLength)) {
      return 'tcp-bad-checksum';
    }
    // RFC 9293 3.9.2.3: nothing but unicast on either end.
    if (isMulticast(destination) || destination === 0xffffffff || !isUnicast(source)) return 'tcp-broadcast';
    this.counters.segmentsIn++;
    const tcb = this.#demux.find(destination, segment.destinationPort, source, segment.sourcePort);
    if (tcb !== undefined) {
      if (tcb.state === STATE.TOMBSTONE) {
        this.counters.swallowedByTombstone++;
        return undefined;
      }
      if (tcb.state !== STATE.TIME_WAIT || !this.#reopens(tcb, segment)) {
        segmentArrives(this, tcb, segment);
        // A timer for what was put off (delayed ACK) even when nothing else is to do.
        if (tcb.state !== STATE.CLOSED) this.touch(tcb);
        return undefined;
      }
      this.counters.timeWaitRecycled++;
      this.finish(tcb, undefined);
    }
    const listener = this.#listeners.find(destination, segment.destinationPort);
    if (listener === undefined) this.#answerClosed(segment, source, destination);
    else this.#listen(listener, segment, source, destination);
    return undefined;
  }

  endOfBatch(): void {
    this.#settle();
  }

  writable(): void {
    const blocked = this.#blocked;
    this.#blocked = new Set();
    for (const tcb of blocked) this.touch(tcb);
    this.#settle();
    this.ip.flush();
  }

  icmpError(
    kind: IcmpErrorKind,
    source: IpAddress,
    destination: IpAddress,
    buffer: Uint8Array,
    offset: number,
    length: number,
  ): DropReason | undefined {
    if (length < 8) return 'icmp-unrelated-error';
    const localPort = readU16(buffer, offset + TCP.SOURCE_PORT);
    const remotePort = readU16(buffer, offset + TCP.DESTINATION_PORT);
    const seq = readU32(buffer, offset + TCP.SEQUENCE) as Seq;
    const tcb = this.#demux.find(source, localPort, destination, remotePort);
    if (tcb === undefined || tcb.state === STATE.TOMBSTONE) return 'icmp-unrelated-error';
    return icmpErrorArrives(this, tcb, kind, seq);
  }

  rehome(from: IpAddress, to: IpAddress): void {
    this.#listeners.rehome(from, to);
    for (const tcb of this.#demux) {
      if (tcb.localAddress === from) tcb.localAddress = to;
    }
    if (this.#suppressed.delete(from)) this.#suppressed.add(to);
  }

  addressRemoved(address: IpAddress): void {
    for (const tcb of [...this.#demux]) {
      if (tcb.localAddress !== address) continue;
      this.finish(
        tcb,
        tcb.state === STATE.TOMBSTONE ? undefined : new TcpError('EADDRNOTAVAIL', 'the address was removed'),
      );
    }
  }

  // --- Engine -------------------------------------------------------------------------------------------------------

  touch(tcb: Tcb): void {
    if (tcb.dirty) return;
    tcb.dirty = true;
    this.#dirty.push(tcb);
    if (this.#settling || this.#deferred || this.#closed) return;
    this.#deferred = true;
    this.#defer(() => {
      this.#deferred = false;
      if (this.#dirty.length === 0) return;
      this.#settle();
      this.ip.flush();
    });
  }

  waitForLink(tcb: Tcb): void {
    this.#blocked.add(tcb);
  }

  mayChallenge(): boolean {
    return this.#challenges.take();
  }

  finish(tcb: Tcb, error: TcpError | undefined): void {
    if (tcb.state === STATE.CLOSED) return;
    if (tcb.state === STATE.SYN_SENT || tcb.state === STATE.SYN_RECEIVED) this.counters.failedOpens++;
    tcb.listener?.remove(tcb);
    this.#timeWait.delete(tcb);
    const told = tcb.state === STATE.TIME_WAIT || tcb.state === STATE.TOMBSTONE;
    tcb.state = STATE.CLOSED;
    this.#demux.remove(tcb);
    this.#release(tcb, error !== undefined);
    if (told) return;
    tcb.error = error;
    tcb.owesClosed = true;
    this.touch(tcb);
  }

  enterTimeWait(tcb: Tcb): void {
    tcb.state = STATE.TIME_WAIT;
    tcb.rtoAtMs = NEVER;
    tcb.probeAtMs = NEVER;
    tcb.persistAtMs = NEVER;
    tcb.keepAliveAtMs = NEVER;
    tcb.userTimeoutAtMs = NEVER;
    tcb.sendBuffer.clear();
    tcb.timeWaitAtMs = this.clock.nowMs() + 2 * this.config.mslMs;
    tcb.owesClosed = true;
    this.#timeWait.add(tcb);
    if (this.#timeWait.size > this.config.timeWaitLimit) {
      for (const oldest of this.#timeWait) {
        this.finish(oldest, undefined);
        break;
      }
    }
    this.touch(tcb);
  }

  accept(tcb: Tcb): void {
    const { listener } = tcb;
    if (listener === undefined) return;
    listener.remove(tcb);
    tcb.owesAccept = true;
    this.counters.passiveOpens++;
    this.touch(tcb);
  }

  // --- inside -------------------------------------------------------------------------------------------------------

  #connectionOf(tcb: Tcb): TcpConnection {
    let connection = this.#connections.get(tcb);
    if (connection === undefined) {
      connection = new TcpConnection(this, tcb, (gone) => this.#entomb(gone));
      this.#connections.set(tcb, connection);
    }
    return connection;
  }

  #entomb(tcb: Tcb): void {
    tcb.state = STATE.TOMBSTONE;
    this.#release(tcb, true);
    tcb.timeWaitAtMs = this.clock.nowMs() + this.config.tombstoneMs;
    armTimer(this, tcb);
    this.counters.exported++;
  }

  /** Buffers go; unread bytes stay readable after an orderly end. */
  #release(tcb: Tcb, unreadToo: boolean): void {
    stopTimers(tcb);
    tcb.sendBuffer.clear();
    tcb.sack.clear();
    tcb.reassembly.clear();
    if (unreadToo) tcb.receiveQueue.clear();
  }

  #newTcb(localAddress: IpAddress, localPort: number, remoteAddress: IpAddress, remotePort: number): Tcb {
    const { config } = this;
    const tcb = new Tcb(
      { config, slab: this.#slab, budget: this.#budget },
      localAddress,
      localPort,
      remoteAddress,
      remotePort,
    );
    tcb.iss = this.#isn.isn(localAddress, localPort, remoteAddress, remotePort);
    tcb.tsOffset = this.#isn.timestampOffset(localAddress, localPort, remoteAddress, remotePort);
    tcb.peerMss = defaultMss(remoteAddress);
    tcb.localMss = receiveMss(this, remoteAddress, localAddress);
    tcb.rcvScale = this.#windowShift();
    tcb.lastReceiveMs = this.clock.nowMs();
    return tcb;
  }

  #windowShift(): number {
    const { windowScaling, receiveBufferMax } = this.config;
    let shift = 0;
    while (windowScaling && shift < 14 && receiveBufferMax >>> shift > 0xffff) shift++;
    return shift;
  }

  #startSending(tcb: Tcb): void {
    tcb.sndUna = tcb.iss;
    tcb.sndNxt = seqAdd(tcb.iss, 1);
    tcb.sndMax = tcb.sndNxt;
    tcb.sndBufSeq = tcb.sndNxt;
    tcb.rttStartMs = this.clock.nowMs();
    tcb.rttSeq = tcb.sndMax;
  }

  /** 3.10.7.1 */
  #answerClosed(segment: Segment, source: IpAddress, destination: IpAddress): void {
    if (segment.flags & RST) return;
    if (this.#suppressed.has(destination) || !this.#resets.take()) {
      this.counters.resetsSuppressed++;
      return;
    }
    const { destinationPort, sourcePort } = segment;
    if (segment.flags & ACK) {
      transmitReset(this, destination, destinationPort, source, sourcePort, segment.ack, undefined);
    } else {
      const ack = seqAdd(segment.seq, segment.len);
      transmitReset(this, destination, destinationPort, source, sourcePort, toSeq(0), ack);
    }
  }

  /** 3.10.7.2 */
  #listen(listener: Listener, segment: Segment, source: IpAddress, destination: IpAddress): void {
    if (segment.flags & RST) return;
    if (segment.flags & ACK) {
      if (!this.#takeCookie(listener, segment, source, destination))
        this.#answerClosed(segment, source, destination);
      return;
    }
    // SYN with FIN is nobody's way to open a connection.
    if (!(segment.flags & SYN) || segment.flags & FIN) return;
    if (this.#demux.size >= this.config.connectionLimit) {
      this.counters.connectionLimitReached++;
      return;
    }
    if (this.config.synCookies && listener.full) {
      const flow = flowOf(segment, source, destination);
      answerWithCookie(this, this.#cookies, this.#isn, listener, segment, flow, this.#windowShift());
      return;
    }
    const tcb = this.#newTcb(destination, segment.destinationPort, source, segment.sourcePort);
    this.#startSending(tcb);
    tcb.state = STATE.SYN_RECEIVED;
    tcb.listener = listener;
    tcb.irs = segment.seq;
    tcb.rcvNxt = seqAdd(segment.seq, 1);
    takeSynOptions(this, tcb, segment.options);
    const evicted = listener.add(tcb);
    if (evicted !== undefined) {
      this.counters.halfOpenEvicted++;
      this.finish(evicted, undefined);
    }
    this.#demux.add(tcb);
    transmitSyn(this, tcb, SYN | ACK);
    tcb.rtoAtMs = this.clock.nowMs() + tcb.rtt.rto;
    armTimer(this, tcb);
  }

  /** An ACK that brings a cookie back opens its connection as if the SYN had been kept. False: it brings none. */
  #takeCookie(listener: Listener, segment: Segment, source: IpAddress, destination: IpAddress): boolean {
    if (segment.flags & SYN) return false;
    if (this.clock.nowMs() - listener.lastCookieMs > COOKIE_LIFETIME_MS) return false;
    const { destinationPort, sourcePort, options } = segment;
    const irs = seqAdd(segment.seq, -1);
    const iss = seqAdd(segment.ack, -1);
    const mss = this.#cookies.check(flowOf(segment, source, destination), irs, iss);
    if (mss === undefined) {
      this.counters.cookiesRefused++;
      return false;
    }
    if (this.#demux.size >= this.config.connectionLimit) {
      this.counters.connectionLimitReached++;
      return true;
    }
    this.counters.cookiesTaken++;
    const tcb = this.#newTcb(destination, destinationPort, source, sourcePort);
    tcb.iss = iss;
    this.#startSending(tcb);
    // Nobody knows when the SYN-ACK left; the echo of its timestamp was altered.
    tcb.rttStartMs = NEVER;
    tcb.state = STATE.SYN_RECEIVED;
    tcb.listener = listener;
    tcb.irs = irs;
    tcb.rcvNxt = segment.seq;
    const { hasTimestamps, tsVal } = options;
    const told = hasTimestamps ? cookieOptions(options.tsEcr) : { windowScale: -1, sackPermitted: false };
    takeSynOptions(this, tcb, { mss, hasTimestamps, tsVal, ...told });
    tcb.rcvAdv = seqAdd(tcb.rcvNxt, Math.min(0xffff, tcb.rcvSpace));
    tcb.lastAckSent = tcb.rcvNxt;
    this.#demux.add(tcb);
    segmentArrives(this, tcb, segment);
    return true;
  }

  /** RFC 9293 3.6.1, RFC 6191: a SYN that is newer than the connection in TIME-WAIT may open a new one. */
  #reopens(tcb: Tcb, segment: Segment): boolean {
    if ((segment.flags & (SYN | ACK | RST)) !== SYN) return false;
    if (this.#listeners.find(tcb.localAddress, tcb.localPort) === undefined) return false;
    const { options } = segment;
    if (tcb.timestamps && options.hasTimestamps && options.tsVal !== tcb.tsRecent) {
      return ((options.tsVal - tcb.tsRecent) | 0) > 0;
    }
    return !seqLe(segment.seq, tcb.rcvNxt);
  }

  /** Tells applications and sends, until nothing is dirty. */
  #settle(): void {
    if (this.#settling) return;
    this.#settling = true;
    try {
      // First everybody is told, then everybody sends: what handlers write goes out together.
      while (this.#dirty.length > 0) {
        const batch = this.#dirty;
        this.#dirty = [];
        for (const tcb of batch) {
          if (tcb.owes) tell(tcb);
        }
        for (const tcb of batch) {
          tcb.dirty = false;
          if (tcb.state === STATE.CLOSED || tcb.state === STATE.TOMBSTONE) {
            if (tcb.owesClosed) this.touch(tcb);
            else this.observer?.(this.#connectionOf(tcb));
            continue;
          }
          output(this, tcb);
          armTimer(this, tcb);
          this.observer?.(this.#connectionOf(tcb));
          if (tcb.owes) this.touch(tcb);
        }
      }
    } finally {
      this.#settling = false;
    }
  }
}

/** Whether it can be one host's; the broadcast addresses of networks are IP's to know. */
function isUnicast(address: IpAddress): boolean {
  return !isMulticast(address) && !isUnspecified(address) && address !== 0xffffffff;
}
