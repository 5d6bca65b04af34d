/**
 * Builds segments in the scratch buffer and hands them to IP: header, options, payload from the send buffer. Decisions
 * about what to send are in send.ts.
 */
import type { OutputResult } from '../../iface/index.ts';
import { HEADROOM, OUTPUT } from '../../iface/index.ts';
import type { IpAddress } from '../../wire/index.ts';
import {
  emitMss,
  emitSack,
  emitSackPermitted,
  emitTcp,
  emitTimestamps,
  emitWindowScale,
  isIpv4,
  TCP,
  TCP_OPTION_LENGTH,
  writeU16,
} from '../../wire/index.ts';
import type { Engine } from './engine.ts';
import { PROTOCOL_TCP } from './engine.ts';
import type { SeqRange } from './reassembly.ts';
import { ACK, RST, SYN, URG } from './segment.ts';
import type { Seq } from './seq.ts';
import { seqAdd, seqDiff } from './seq.ts';
import type { Tcb } from './tcb.ts';
import { NEVER } from './tcb.ts';

/** RFC 9293 3.7.1: assumed when the peer announces none. */
export const DEFAULT_MSS = 536;
const DEFAULT_MSS_IPV6 = 1220;
const MIN_EFFECTIVE_MSS = 48;
export const MAX_WINDOW_FIELD = 0xffff;

export function ipHeaderLength(address: IpAddress): number {
  return isIpv4(address) ? 20 : 40;
}

export function defaultMss(address: IpAddress): number {
  return isIpv4(address) ? DEFAULT_MSS : DEFAULT_MSS_IPV6;
}

/** The MSS we announce, RFC 6691: the MTU less the fixed headers, whatever options come on top. */
export function receiveMss(engine: Engine, address: IpAddress, source: IpAddress): number {
  return engine.ip.pathMtu(address, source) - ipHeaderLength(address) - TCP.MIN_HEADER;
}

/** The timestamp clock: milliseconds from a per-connection origin (RFC 7323 section 5.4). */
export function tsNow(engine: Engine, tcb: Tcb): number {
  return (Math.floor(engine.clock.nowMs()) + tcb.tsOffset) >>> 0;
}

/** Eff.snd.MSS (RFC 9293 3.7.1, RFC 6691): the peer's MSS or the path's, less the options every segment carries. */
export function updateMss(engine: Engine, tcb: Tcb): void {
  const overhead = ipHeaderLength(tcb.remoteAddress) + TCP.MIN_HEADER;
  const path = engine.ip.pathMtu(tcb.remoteAddress, tcb.localAddress) - overhead;
  const options = tcb.timestamps ? TCP_OPTION_LENGTH.TIMESTAMPS : 0;
  tcb.effMss = Math.max(MIN_EFFECTIVE_MSS, Math.min(tcb.peerMss, path) - options);
  const largest = engine.ip.maxGsoLength(tcb.remoteAddress, tcb.localAddress) - TCP.MIN_HEADER - options;
  tcb.maxPayload = largest > tcb.effMss ? largest - (largest % tcb.effMss) : tcb.effMss;
}

/**
 * SEG.WND, and moves rcvAdv along. The right edge never moves left (RFC 9293 3.8.6), and moves right only by steps worth
 * an announcement (3.8.6.2.2).
 */
function advertise(tcb: Tcb): number {
  const current = tcb.rcvWnd;
  const space = tcb.rcvSpace;
  const unit = 1 << tcb.rcvScale;
  let field = Math.min(MAX_WINDOW_FIELD, Math.ceil(current / unit));
  if (space - current >= Math.min(tcb.rcvBuf >>> 1, tcb.localMss)) {
    const wider = Math.min(MAX_WINDOW_FIELD, Math.floor(space / unit));
    if (wider > field) field = wider;
  }
  const edge = seqAdd(tcb.rcvNxt, field * unit);
  if (seqDiff(edge, tcb.rcvAdv) > 0) tcb.rcvAdv = edge;
  return field;
}

/** Whether reading has opened the window enough to tell the peer, which may be waiting for it. */
export function windowUpdateDue(tcb: Tcb): boolean {
  if (tcb.bytesReceived === 0) return false;
  const offered = tcb.rcvWnd;
  const gain = Math.min(tcb.rcvSpace, MAX_WINDOW_FIELD << tcb.rcvScale) - offered;
  if (gain >= tcb.rcvBuf >>> 1) return true;
  return offered < tcb.rcvBuf >>> 2 && gain >= Math.min(tcb.rcvBuf >>> 1, 2 * tcb.localMss);
}

const sackLeft: number[] = [0, 0, 0, 0];
const sackRight: number[] = [0, 0, 0, 0];

/** RFC 2018 section 4: the block with the latest segment first, then others. */
function chooseSackBlocks(tcb: Tcb, most: number): number {
  let count = 0;
  const latest = tcb.reassembly.latest;
  const put = (range: SeqRange) => {
    sackLeft[count] = range.start;
    sackRight[count] = range.end;
    count++;
  };
  if (latest !== undefined) put(latest);
  for (const range of tcb.reassembly.ranges) {
    if (count >= most) break;
    if (range !== latest) put(range);
  }
  return count;
}

/** RFC 9293 3.8.5, MUST-62: the pointer leads behind the urgent data, as seen from this segment. */
function markUrgent(tcb: Tcb, seq: Seq, buffer: Uint8Array, header: number): void {
  const ahead = seqDiff(tcb.sndUp, seq);
  if (ahead <= 0) {
    if (seqDiff(tcb.sndUp, tcb.sndUna) <= 0) tcb.sendsUrgent = false;
    return;
  }
  buffer[header + TCP.FLAGS]! |= URG;
  writeU16(buffer, header + TCP.URGENT, Math.min(ahead, MAX_WINDOW_FIELD));
}

/**
 * Sends one segment of a synchronized connection; `length` payload bytes from the send buffer at `seq`.
 * A length above effMss leaves as one packet for the link to cut.
 */
export function transmit(engine: Engine, tcb: Tcb, seq: Seq, length: number, flags: number): OutputResult {
  const { scratch, counters } = engine;
  const header = HEADROOM;
  let at = header + TCP.MIN_HEADER;
  if (tcb.timestamps) at = emitTimestamps(scratch, at, tsNow(engine, tcb), tcb.tsRecent);
  if (tcb.sackPermitted && !tcb.reassembly.empty && length + 36 <= tcb.effMss) {
    const count = chooseSackBlocks(tcb, tcb.timestamps ? 3 : 4);
    at = emitSack(scratch, at, count, sackLeft, sackRight);
  }
  const headerLength = at - header;
  emitTcp(
    scratch,
    header,
    tcb.localPort,
    tcb.remotePort,
    seq,
    tcb.rcvNxt,
    headerLength,
    flags,
    advertise(tcb),
  );
  if (tcb.sendsUrgent) markUrgent(tcb, seq, scratch, header);
  if (length > 0) tcb.sendBuffer.copyTo(scratch, at, seqDiff(seq, tcb.sndBufSeq), length);
  const result = engine.ip.output(
    scratch,
    header,
    headerLength + length,
    PROTOCOL_TCP,
    tcb.localAddress,
    tcb.remoteAddress,
    TCP.CHECKSUM,
    length > tcb.effMss ? tcb.effMss : 0,
    true,
    engine.config.ttl,
  );
  if (result === OUTPUT.LINK_FULL) {
    counters.linkFull++;
    engine.waitForLink(tcb);
    return result;
  }
  counters.segmentsOut++;
  counters.bytesOut += length;
  tcb.ackNow = false;
  tcb.unackedBytes = 0;
  tcb.delayedAckAtMs = NEVER;
  tcb.lastAckSent = tcb.rcvNxt;
  return result;
}

/** <SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>, at once. When the link is full it is owed. */
export function transmitAck(engine: Engine, tcb: Tcb): void {
  // After a retransmission timeout sndNxt is behind: the ACK's sequence number must be acceptable, so sndMax.
  if (transmit(engine, tcb, tcb.sndMax, 0, ACK) === OUTPUT.LINK_FULL) tcb.ackNow = true;
}

/** SYN, or SYN-ACK in SYN-RECEIVED, with all options we offer or agree to. */
export function transmitSyn(engine: Engine, tcb: Tcb, flags: number): OutputResult {
  const { scratch, counters, config } = engine;
  const header = HEADROOM;
  const answer = (flags & ACK) !== 0;
  let at = emitMss(scratch, header + TCP.MIN_HEADER, tcb.localMss);
  if (answer ? tcb.sackPermitted : config.sack) at = emitSackPermitted(scratch, at);
  if (answer ? tcb.timestamps : config.timestamps)
    at = emitTimestamps(scratch, at, tsNow(engine, tcb), tcb.tsRecent);
  if (answer ? tcb.scaling : config.windowScaling) {
    at = emitWindowScale(scratch, at, tcb.rcvScale);
  }
  // RFC 7323 section 2.2: the window of a SYN is never scaled.
  const window = Math.min(MAX_WINDOW_FIELD, tcb.rcvSpace);
  tcb.rcvAdv = seqAdd(tcb.rcvNxt, window);
  emitTcp(
    scratch,
    header,
    tcb.localPort,
    tcb.remotePort,
    tcb.iss,
    answer ? tcb.rcvNxt : (0 as Seq),
    at - header,
    flags | SYN,
    window,
  );
  const result = engine.ip.output(
    scratch,
    header,
    at - header,
    PROTOCOL_TCP,
    tcb.localAddress,
    tcb.remoteAddress,
    TCP.CHECKSUM,
    0,
    true,
    engine.config.ttl,
  );
  counters.segmentsOut++;
  tcb.lastAckSent = tcb.rcvNxt;
  return result;
}

/** A reset; `ack` undefined = without ACK bit. */
export function transmitReset(
  engine: Engine,
  localAddress: IpAddress,
  localPort: number,
  remoteAddress: IpAddress,
  remotePort: number,
  seq: Seq,
  ack: Seq | undefined,
): void {
  const { scratch, counters } = engine;
  emitTcp(
    scratch,
    HEADROOM,
    localPort,
    remotePort,
    seq,
    ack ?? 0,
    TCP.MIN_HEADER,
    ack === undefined ? RST : RST | ACK,
    0,
  );
  engine.ip.output(
    scratch,
    HEADROOM,
    TCP.MIN_HEADER,
    PROTOCOL_TCP,
    localAddress,
    remoteAddress,
    TCP.CHECKSUM,
    0,
    true,
    engine.config.ttl,
  );
  counters.segmentsOut++;
  counters.resetsOut++;
}
