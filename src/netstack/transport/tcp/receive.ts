/**
 * SEGMENT ARRIVES for a connection that exists (RFC 9293 3.10.7.3, 3.10.7.4), with the checks of RFC 5961 and RFC 7323.
 * Order as in the RFC: sequence number, RST, SYN, ACK (acknowledge.ts), text, FIN.
 */
import type { TcpOptions } from '../../wire/index.ts';
import { acknowledge } from './acknowledge.ts';
import { challengeAck } from './challenge.ts';
import type { Engine } from './engine.ts';
import { TcpError } from './errors.ts';
import { transmitAck, transmitReset, transmitSyn, tsNow, updateMss } from './output.ts';
import type { Segment } from './segment.ts';
import { ACK, FIN, RST, SYN, URG } from './segment.ts';
import { initialWindow } from './send.ts';
import { seqAdd, seqDiff, seqGe, seqGt, seqLe, seqLt } from './seq.ts';
import type { Tcb } from './tcb.ts';
import { NEVER, STATE } from './tcb.ts';

/** RFC 7323 section 5.5: a TS.Recent older than this says nothing. */
const PAWS_EXPIRY_MS = 24 * 86_400_000;
export function segmentArrives(engine: Engine, tcb: Tcb, segment: Segment): void {
  tcb.lastReceiveMs = engine.clock.nowMs();
  tcb.keepAliveProbes = 0;
  if (tcb.state === STATE.SYN_SENT) {
    synSent(engine, tcb, segment);
    return;
  }
  if (!checkTimestamps(engine, tcb, segment)) return;
  if (!checkSequence(engine, tcb, segment)) return;
  if (segment.flags & RST) {
    reset(engine, tcb, segment);
    return;
  }
  if (segment.flags & SYN) {
    synInWindow(engine, tcb, segment);
    return;
  }
  if (!(segment.flags & ACK)) return;
  if (segment.options.hasTimestamps && tcb.timestamps) takeTimestamp(tcb, segment);
  if (tcb.state === STATE.SYN_RECEIVED && !finishHandshake(engine, tcb, segment)) return;
  if (!acknowledge(engine, tcb, segment)) return;
  if (tcb.finAcked && !ownFinAcknowledged(engine, tcb)) return;
  if (segment.flags & URG) urgent(tcb, segment);
  if (segment.dataLength > 0 && !text(engine, tcb, segment)) return;
  if (segment.flags & FIN) fin(engine, tcb, segment);
  else if (tcb.finPending && tcb.finSeq === tcb.rcvNxt) remoteClosed(engine, tcb);
  engine.touch(tcb);
}

/** RFC 7323 section 5.3 R1 and R3, false = dropped. */
function checkTimestamps(engine: Engine, tcb: Tcb, segment: Segment): boolean {
  if (!tcb.timestamps || segment.flags & RST) return true;
  const { options } = segment;
  if (!options.hasTimestamps) {
    // Section 3.2: once negotiated, a segment without is to be dropped.
    engine.counters.timestampMissing++;
    return false;
  }
  if (((options.tsVal - tcb.tsRecent) | 0) >= 0) return true;
  if (engine.clock.nowMs() - tcb.tsRecentAtMs > PAWS_EXPIRY_MS) return true;
  engine.counters.pawsDropped++;
  tcb.pawsDropped++;
  answerUnacceptable(engine, tcb, segment);
  return false;
}

/** RFC 7323 section 4.3 (2): only a segment that begins at or before the last ACK sent. */
function takeTimestamp(tcb: Tcb, segment: Segment): void {
  if (seqGt(segment.seq, tcb.lastAckSent)) return;
  const { tsVal } = segment.options;
  if (((tsVal - tcb.tsRecent) | 0) < 0) return;
  tcb.tsRecent = tsVal;
  tcb.tsRecentAtMs = tcb.lastReceiveMs;
}

/** 3.10.7.4 first: is it in the window; trims what was received before and what lies beyond. */
function checkSequence(engine: Engine, tcb: Tcb, segment: Segment): boolean {
  if (
    tcb.state === STATE.SYN_RECEIVED &&
    segment.seq === tcb.irs &&
    (segment.flags & (SYN | ACK)) === (SYN | ACK)
  ) {
    // Simultaneous open (3.5, figure 8): the SYN is old, the ACK is not.
    segment.trimFront(1);
  }
  const { len } = segment;
  const wnd = tcb.rcvWnd;
  const edge = seqAdd(tcb.rcvNxt, wnd);
  const end = seqAdd(segment.seq, len);
  const acceptable =
    len === 0
      ? seqGe(segment.seq, tcb.rcvNxt) && seqLe(segment.seq, edge)
      : seqLt(segment.seq, edge) && seqGt(end, tcb.rcvNxt);
  if (!acceptable) {
    engine.counters.outOfWindow++;
    tcb.outOfWindow++;
    if (segment.flags & RST) return false;
    if (tcb.state === STATE.SYN_RECEIVED && segment.flags & SYN && segment.seq === tcb.irs) {
      // Our SYN-ACK was lost, or is late: the same again.
      transmitSyn(engine, tcb, SYN | ACK);
      return false;
    }
    if (wnd === 0 && segment.seq === tcb.rcvNxt && segment.flags & ACK && !(segment.flags & SYN)) {
      // "If the RCV.WND is zero, special allowance should be made to accept valid ACKs": the text is cut off.
      segment.dataLength = 0;
      segment.flags &= ~FIN;
      tcb.ackNow = true;
      return true;
    }
    if (tcb.state === STATE.TIME_WAIT && segment.flags & FIN) {
      // A FIN again: our last ACK was lost (3.10.7.4, TIME-WAIT: restart the 2 MSL timeout).
      tcb.timeWaitAtMs = engine.clock.nowMs() + 2 * engine.config.mslMs;
    }
    answerUnacceptable(engine, tcb, segment);
    return false;
  }
  if (seqLt(segment.seq, tcb.rcvNxt)) segment.trimFront(seqDiff(tcb.rcvNxt, segment.seq));
  const beyond = seqDiff(seqAdd(segment.seq, segment.dataLength), edge);
  if (beyond > 0) segment.trimBack(segment.dataLength - beyond);
  return true;
}

/** <SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>; always for text (its sender waits for it), bounded for bare segments. */
function answerUnacceptable(engine: Engine, tcb: Tcb, segment: Segment): void {
  if (segment.dataLength > 0 || segment.flags & FIN) transmitAck(engine, tcb);
  else challengeAck(engine, tcb);
}

/** Second: RST. Only at exactly RCV.NXT it is believed (RFC 5961 section 3.2). */
function reset(engine: Engine, tcb: Tcb, segment: Segment): void {
  if (segment.seq !== tcb.rcvNxt) {
    challengeAck(engine, tcb);
    return;
  }
  engine.counters.resetsIn++;
  if (tcb.state === STATE.SYN_RECEIVED) {
    engine.finish(tcb, tcb.listener === undefined ? new TcpError('ECONNREFUSED') : undefined);
    return;
  }
  if (tcb.state === STATE.TIME_WAIT) {
    // RFC 1337: a late RST must not end TIME-WAIT early.
    return;
  }
  const inOrder = tcb.state === STATE.CLOSING || tcb.state === STATE.LAST_ACK;
  engine.finish(tcb, inOrder ? undefined : new TcpError('ECONNRESET'));
}

/** Fourth: SYN in a synchronized state is answered by a challenge, whatever its number (RFC 5961 section 4.2). */
function synInWindow(engine: Engine, tcb: Tcb, segment: Segment): void {
  if (tcb.state === STATE.SYN_RECEIVED && segment.seq === tcb.irs) transmitSyn(engine, tcb, SYN | ACK);
  else challengeAck(engine, tcb);
}

/** Options of the peer's SYN: what both sides sent is in force (RFC 7323 1.3, RFC 2018 2). */
export function takeSynOptions(
  engine: Engine,
  tcb: Tcb,
  options: Pick<TcpOptions, 'mss' | 'windowScale' | 'sackPermitted' | 'hasTimestamps' | 'tsVal'>,
): void {
  const { config } = engine;
  if (options.mss > 0) tcb.peerMss = options.mss;
  tcb.scaling = config.windowScaling && options.windowScale >= 0;
  if (tcb.scaling) tcb.sndScale = options.windowScale;
  else tcb.rcvScale = 0;
  tcb.sackPermitted = config.sack && options.sackPermitted;
  tcb.timestamps = config.timestamps && options.hasTimestamps;
  if (tcb.timestamps) {
    tcb.tsRecent = options.tsVal;
    tcb.tsRecentAtMs = engine.clock.nowMs();
  }
}

/** Both SYNs are acknowledged. */
function establish(engine: Engine, tcb: Tcb, segment: Segment): void {
  const nowMs = engine.clock.nowMs();
  tcb.state = STATE.ESTABLISHED;
  tcb.sndUna = segment.ack;
  tcb.sndBufSeq = tcb.sndUna;
  tcb.sndWnd = segment.wnd << tcb.sndScale;
  if (segment.flags & SYN) tcb.sndWnd = segment.wnd;
  tcb.maxSndWnd = tcb.sndWnd;
  tcb.sndWl1 = segment.seq;
  tcb.sndWl2 = segment.ack;
  tcb.rtoAtMs = NEVER;
  tcb.userTimeoutAtMs = NEVER;
  // RFC 6298 section 5.7: a SYN that was lost leaves RTO at 3 s until measured; ours backs off from 1 s, so it is above.
  if (tcb.retransmits === 0 && tcb.rttStartMs !== NEVER) tcb.rtt.sample(nowMs - tcb.rttStartMs);
  else if (tcb.retransmits > 0 && tcb.timestamps && segment.options.hasTimestamps)
    tcb.rtt.sample((tsNow(engine, tcb) - segment.options.tsEcr) | 0);
  tcb.rttStartMs = NEVER;
  tcb.retransmits = 0;
  tcb.softError = undefined;
  updateMss(engine, tcb);
  tcb.congestion.cwnd = initialWindow(engine, tcb);
  tcb.tuneStartMs = nowMs;
  tcb.recover = tcb.iss;
  if (tcb.keepAliveIdleMs > 0) tcb.keepAliveAtMs = nowMs + tcb.keepAliveIdleMs;
}

/** SYN-RECEIVED, fifth: the ACK of our SYN. False = stop. */
function finishHandshake(engine: Engine, tcb: Tcb, segment: Segment): boolean {
  if (seqLe(segment.ack, tcb.sndUna) || seqGt(segment.ack, tcb.sndMax)) {
    transmitReset(
      engine,
      tcb.localAddress,
      tcb.localPort,
      tcb.remoteAddress,
      tcb.remotePort,
      segment.ack,
      undefined,
    );
    return false;
  }
  const closing = tcb.finQueued;
  establish(engine, tcb, segment);
  if (closing) tcb.state = STATE.FIN_WAIT_1;
  if (tcb.listener !== undefined) engine.accept(tcb);
  else tcb.owesConnected = true;
  return true;
}

/** 3.10.7.3 */
function synSent(engine: Engine, tcb: Tcb, segment: Segment): void {
  const { flags } = segment;
  const acknowledged = (flags & ACK) !== 0;
  if (acknowledged && (seqLe(segment.ack, tcb.iss) || seqGt(segment.ack, tcb.sndMax))) {
    if (!(flags & RST)) {
      transmitReset(
        engine,
        tcb.localAddress,
        tcb.localPort,
        tcb.remoteAddress,
        tcb.remotePort,
        segment.ack,
        undefined,
      );
    }
    return;
  }
  if (flags & RST) {
    if (acknowledged) {
      engine.counters.resetsIn++;
      engine.finish(tcb, new TcpError('ECONNREFUSED'));
    }
    return;
  }
  if (!(flags & SYN)) return;
  tcb.irs = segment.seq;
  tcb.rcvNxt = seqAdd(segment.seq, 1);
  takeSynOptions(engine, tcb, segment.options);
  if (!acknowledged) {
    // Simultaneous open.
    tcb.state = STATE.SYN_RECEIVED;
    transmitSyn(engine, tcb, SYN | ACK);
    tcb.rtoAtMs = engine.clock.nowMs() + tcb.rtt.rto;
    engine.touch(tcb);
    return;
  }
  tcb.rcvAdv = seqAdd(tcb.rcvNxt, Math.min(0xffff, tcb.rcvSpace));
  const closing = tcb.finQueued;
  establish(engine, tcb, segment);
  if (closing) tcb.state = STATE.FIN_WAIT_1;
  tcb.owesConnected = true;
  tcb.ackNow = true;
  // Text with the SYN-ACK is legal and rare: the peer sends it again, in sequence.
  engine.touch(tcb);
}

/** Our FIN has been acknowledged. False = the connection is gone. */
function ownFinAcknowledged(engine: Engine, tcb: Tcb): boolean {
  if (tcb.state === STATE.FIN_WAIT_1) {
    tcb.state = STATE.FIN_WAIT_2;
    // Without an application nobody can end it but the peer: bounded.
    if (tcb.orphan) tcb.timeWaitAtMs = engine.clock.nowMs() + engine.config.orphanTimeoutMs;
  } else if (tcb.state === STATE.CLOSING) {
    engine.enterTimeWait(tcb);
  } else if (tcb.state === STATE.LAST_ACK) {
    engine.finish(tcb, undefined);
    return false;
  }
  return true;
}

/** Sixth: URG (3.8.5, RFC 6093). The data stay in the stream; the application learns how far they reach. */
function urgent(tcb: Tcb, segment: Segment): void {
  if (tcb.state !== STATE.ESTABLISHED && tcb.state !== STATE.FIN_WAIT_1 && tcb.state !== STATE.FIN_WAIT_2)
    return;
  const mark = segment.urgentEnd;
  const reached = tcb.hasUrgent ? tcb.rcvUp : seqAdd(tcb.rcvNxt, -tcb.receiveQueue.length);
  if (!seqGt(mark, reached)) return;
  tcb.rcvUp = mark;
  tcb.hasUrgent = true;
  tcb.owesUrgent = true;
}

/** Seventh: segment text. False = the connection is gone. */
function text(engine: Engine, tcb: Tcb, segment: Segment): boolean {
  const { state } = tcb;
  // After the peer's FIN there can be no text.
  if (state !== STATE.ESTABLISHED && state !== STATE.FIN_WAIT_1 && state !== STATE.FIN_WAIT_2) {
    if (state === STATE.TIME_WAIT || state === STATE.CLOSE_WAIT) tcb.ackNow = true;
    return true;
  }
  if (tcb.orphan) {
    // RFC 9293 3.6.1, RFC 2525 2.17: nobody will read it, and the peer has to know.
    transmitReset(
      engine,
      tcb.localAddress,
      tcb.localPort,
      tcb.remoteAddress,
      tcb.remotePort,
      tcb.sndMax,
      tcb.rcvNxt,
    );
    engine.finish(tcb, new TcpError('ECONNABORTED'));
    return false;
  }
  engine.counters.bytesIn += segment.dataLength;
  if (segment.seq !== tcb.rcvNxt) {
    engine.counters.outOfOrder++;
    tcb.outOfOrder++;
    const kept = tcb.reassembly.insert(
      tcb.rcvNxt,
      segment.seq,
      segment.buffer,
      segment.dataAt,
      segment.dataLength,
    );
    if (!kept) {
      engine.counters.reassemblyDropped++;
      segment.flags &= ~FIN;
    }
    // RFC 5681 section 4.2: at once, so that the sender can count duplicates.
    transmitAck(engine, tcb);
    return true;
  }
  tcb.receiveQueue.append(segment.buffer, segment.dataAt, segment.dataLength);
  tcb.rcvNxt = seqAdd(tcb.rcvNxt, segment.dataLength);
  tcb.bytesReceived += segment.dataLength;
  tcb.unackedBytes += segment.dataLength;
  if (segment.flags & FIN) {
    // The stream ends here, whatever a contradicting segment said before.
    tcb.reassembly.clear();
  } else if (!tcb.reassembly.empty) {
    const before = tcb.rcvNxt;
    tcb.rcvNxt = tcb.reassembly.take(before, (source, offset, length) => {
      tcb.receiveQueue.append(source, offset, length);
    });
    tcb.bytesReceived += seqDiff(tcb.rcvNxt, before);
    // Section 4.2: also when a gap is filled, in part or in whole.
    tcb.ackNow = true;
  }
  tcb.owesReadable = true;
  // RFC 9293 3.8.6.3: at least every second full-sized segment, and within 500 ms.
  if (tcb.unackedBytes >= 2 * Math.min(tcb.localMss, tcb.effMss)) tcb.ackNow = true;
  else if (tcb.delayedAckAtMs === NEVER) tcb.delayedAckAtMs = tcb.lastReceiveMs + engine.config.delayedAckMs;
  return true;
}

/** Eighth: FIN. */
function fin(engine: Engine, tcb: Tcb, segment: Segment): void {
  const seq = seqAdd(segment.seq, segment.dataLength);
  if (seq !== tcb.rcvNxt) {
    if (seqGt(seq, tcb.rcvNxt) && !tcb.remoteFin) {
      tcb.finPending = true;
      tcb.finSeq = seq;
      if (segment.dataLength === 0) transmitAck(engine, tcb);
    }
    return;
  }
  remoteClosed(engine, tcb);
}

function remoteClosed(engine: Engine, tcb: Tcb): void {
  tcb.finPending = false;
  if (tcb.remoteFin) {
    tcb.ackNow = true;
    return;
  }
  tcb.remoteFin = true;
  tcb.rcvNxt = seqAdd(tcb.rcvNxt, 1);
  tcb.ackNow = true;
  tcb.owesReadable = true;
  tcb.reassembly.clear();
  if (tcb.state === STATE.ESTABLISHED) {
    tcb.state = STATE.CLOSE_WAIT;
  } else if (tcb.state === STATE.FIN_WAIT_1) {
    // finAcked would have led to FIN-WAIT-2 already.
    tcb.state = STATE.CLOSING;
  } else if (tcb.state === STATE.FIN_WAIT_2) {
    engine.enterTimeWait(tcb);
  }
}
