/**
 * What may be sent now, and sending it (RFC 9293 3.8): new data, retransmissions, FIN, and the ACK that is owed. Called
 * once per connection at the end of a batch, so that all that was written meanwhile leaves in segments as large as possible.
 *
 * Below sndMax everything is a retransmission. Three ways of getting there:
 *  - RECOVERY.FAST with SACK: holes of the scoreboard by RFC 6675, sndNxt stays at sndMax;
 *  - RECOVERY.FAST without: one segment per partial ACK (RFC 6582), sent by receive.ts through `retransmitFirst`;
 *  - RECOVERY.TIMEOUT: sndNxt goes back to sndUna, and this file walks forward again, skipping what is SACKed.
 */
import { OUTPUT } from '../../iface/index.ts';
import type { Engine } from './engine.ts';
import { transmit, transmitAck, updateMss, windowUpdateDue } from './output.ts';
import { ACK, FIN, PSH } from './segment.ts';
import type { Seq } from './seq.ts';
import { seqAdd, seqDiff, seqGe, seqGt, seqLt, seqMax } from './seq.ts';
import { scheduleProbe } from './tail-loss.ts';
import type { Tcb } from './tcb.ts';
import { NEVER, RECOVERY, STATE } from './tcb.ts';

function maySendData(tcb: Tcb): boolean {
  switch (tcb.state) {
    case STATE.ESTABLISHED:
    case STATE.CLOSE_WAIT:
    case STATE.FIN_WAIT_1:
    case STATE.CLOSING:
    case STATE.LAST_ACK:
      return true;
    default:
      return false;
  }
}

/** Sequence number behind the last byte written. */
function dataEnd(tcb: Tcb): Seq {
  return seqAdd(tcb.sndBufSeq, tcb.sendBuffer.length);
}

/** Whether data or a FIN is waiting to be sent for the first time or again. */
export function hasUnsent(tcb: Tcb): boolean {
  if (!maySendData(tcb)) return false;
  return (
    seqLt(tcb.sndNxt, dataEnd(tcb)) || (tcb.finQueued && !tcb.finAcked && seqGe(dataEnd(tcb), tcb.sndNxt))
  );
}

/** Payload of one output. A link that cuts segments would repeat the urgent pointer in each of them. */
function largest(tcb: Tcb): number {
  return tcb.sendsUrgent ? tcb.effMss : tcb.maxPayload;
}

/** Initial window, RFC 6928 equation 1 scaled to the configured number of segments. */
export function initialWindow(engine: Engine, tcb: Tcb): number {
  const segments = engine.config.initialWindowSegments;
  return Math.min(segments * tcb.effMss, Math.max(2 * tcb.effMss, 1460 * segments));
}

function startRto(tcb: Tcb, nowMs: number): void {
  if (tcb.rtoAtMs === NEVER) tcb.rtoAtMs = nowMs + tcb.rtt.rto;
  if (tcb.userTimeoutMs > 0 && tcb.userTimeoutAtMs === NEVER) tcb.userTimeoutAtMs = nowMs + tcb.userTimeoutMs;
  tcb.persistAtMs = NEVER;
  tcb.persistProbes = 0;
  tcb.lastSendMs = nowMs;
}

/**
 * Sends `length` octets from `seq` on, the FIN included when it is reached. False when the link is full.
 * Precondition: the octets are in the send buffer.
 */
function sendRange(engine: Engine, tcb: Tcb, seq: Seq, length: number, fin: boolean, nowMs: number): boolean {
  const end = seqAdd(seq, length);
  let flags = ACK;
  if (fin) flags |= FIN;
  if (length > 0 && end === dataEnd(tcb)) flags |= PSH;
  const result = transmit(engine, tcb, seq, length, flags);
  if (result === OUTPUT.LINK_FULL) return false;
  if (result === OUTPUT.TOO_BIG) {
    // The path MTU has shrunk since: what is lost now is sent again in the new size.
    updateMss(engine, tcb);
  }
  const past = fin ? seqAdd(end, 1) : end;
  if (fin) tcb.finSent = true;
  if (seqLt(seq, tcb.sndMax)) {
    tcb.retransmittedSegments++;
    engine.counters.retransmits++;
    // Karn: what is retransmitted is not timed.
    if (tcb.rttStartMs !== NEVER && seqGt(tcb.rttSeq, seq)) tcb.rttStartMs = NEVER;
  } else if (tcb.rttStartMs === NEVER) {
    tcb.rttStartMs = nowMs;
    tcb.rttSeq = past;
  }
  if (seqGt(past, tcb.sndMax)) {
    tcb.bytesSent += length;
    tcb.sndMax = past;
    startRto(tcb, nowMs);
    scheduleProbe(engine, tcb, nowMs);
    return true;
  }
  startRto(tcb, nowMs);
  return true;
}

/** The oldest unacknowledged segment again (fast retransmit, partial ACK, timeout of FIN). */
export function retransmitFirst(engine: Engine, tcb: Tcb): void {
  const nowMs = engine.clock.nowMs();
  const limit = seqMax(tcb.sack.empty ? tcb.sndMax : tcb.sack.ranges[0]!.start, tcb.sndUna);
  retransmitRange(engine, tcb, tcb.sndUna, Math.min(tcb.effMss, seqDiff(limit, tcb.sndUna)), nowMs);
}

/** Sends up to `octets` of sequence space from `seq` again; returns how many left, 0 when the link is full. */
function retransmitRange(engine: Engine, tcb: Tcb, seq: Seq, octets: number, nowMs: number): number {
  const data = Math.max(0, Math.min(octets, seqDiff(dataEnd(tcb), seq)));
  const fin = tcb.finSent && seqAdd(seq, data) === dataEnd(tcb) && octets > data;
  if (data === 0 && !fin) return 0;
  return sendRange(engine, tcb, seq, data, fin, nowMs) ? data + (fin ? 1 : 0) : 0;
}

/** Octets below sndNxt that the peer holds already. */
function sackedBelow(tcb: Tcb, seq: Seq): number {
  if (tcb.sack.empty) return 0;
  if (seq === tcb.sndMax) return tcb.sack.bytes;
  let sum = 0;
  for (const range of tcb.sack.ranges) {
    if (seqGe(range.start, seq)) break;
    sum += seqDiff(seqLt(range.end, seq) ? range.end : seq, range.start);
  }
  return sum;
}

/** Sends from sndNxt on while `room` (of the congestion window), the peer's window and Nagle permit. */
function sendForward(engine: Engine, tcb: Tcb, congestionRoom: number, nowMs: number): void {
  let room = congestionRoom;
  for (;;) {
    let holeEnd: Seq | undefined;
    if (seqLt(tcb.sndNxt, tcb.sndMax) && !tcb.sack.empty) {
      const hole = tcb.sack.nextHole(tcb.sndNxt, tcb.sndMax);
      tcb.sndNxt = hole?.start ?? tcb.sndMax;
      holeEnd = hole?.end;
    }
    const seq = tcb.sndNxt;
    let available = seqDiff(dataEnd(tcb), seq);
    const finWaits = tcb.finQueued && !tcb.finAcked && available >= 0;
    available = Math.max(0, available);
    if (available === 0 && !finWaits) return;
    const windowLeft = Math.max(0, seqDiff(seqAdd(tcb.sndUna, tcb.sndWnd), seq));
    let length = Math.min(available, windowLeft, largest(tcb));
    if (holeEnd !== undefined) length = Math.min(length, seqDiff(holeEnd, seq));
    if (length > room) {
      tcb.cwndLimited = true;
      length = Math.max(room, 0);
      // Whole segments only, as long as something is on its way to make room again.
      length -= length % tcb.effMss;
      if (length === 0) {
        if (tcb.flight > 0) return;
        length = Math.min(available, windowLeft, tcb.effMss);
      }
    }
    const again = seqLt(seq, tcb.sndMax);
    if (length > tcb.effMss && length < available) length -= length % tcb.effMss;
    if (length > tcb.effMss && !tcb.noDelay && !finWaits && !again && length === available) {
      // Nagle holds the incomplete last segment back, the whole ones in front of it go.
      length -= length % tcb.effMss;
    }
    // FIN takes an octet of the window like data (RFC 9293 3.4).
    const fin = finWaits && length === available && length < windowLeft;
    if (length === 0 && !fin) return;
    // Sender's silly window avoidance and Nagle (RFC 9293 3.8.6.2.1).
    const worthIt =
      length >= tcb.effMss ||
      fin ||
      again ||
      (length === available && (tcb.noDelay || tcb.flight === 0)) ||
      (length > 0 && length >= tcb.maxSndWnd >>> 1);
    if (!worthIt) return;
    if (!sendRange(engine, tcb, seq, length, fin, nowMs)) return;
    tcb.sndNxt = seqAdd(seq, length + (fin ? 1 : 0));
    room -= length;
  }
}

/** RFC 6675 section 5 step C: as long as cwnd − pipe leaves room for a segment. */
function recoverBySack(engine: Engine, tcb: Tcb, nowMs: number): void {
  const { sack, effMss } = tcb;
  if (seqLt(tcb.highRxt, tcb.sndUna)) tcb.highRxt = tcb.sndUna;
  let pipe = sack.pipe(tcb.sndUna, tcb.sndMax, tcb.highRxt, effMss);
  const lost = sack.lostBelow(tcb.sndUna, effMss);
  for (;;) {
    const room = tcb.congestion.cwnd - pipe;
    if (room < effMss) return;
    // NextSeg rule 1: the first lost hole not retransmitted yet.
    const hole = sack.nextHole(tcb.highRxt, lost);
    if (hole !== undefined) {
      const octets = Math.min(
        seqDiff(hole.end, hole.start),
        Math.max(effMss, Math.min(largest(tcb), room - (room % effMss))),
      );
      const sent = retransmitRange(engine, tcb, hole.start, octets, nowMs);
      if (sent === 0) return;
      tcb.highRxt = seqAdd(hole.start, sent);
      pipe += sent;
      continue;
    }
    // Rule 2: new data, as far as the windows permit.
    const before = tcb.sndNxt;
    sendForward(engine, tcb, room, nowMs);
    const fresh = seqDiff(tcb.sndNxt, before);
    if (fresh > 0) {
      pipe += fresh;
      continue;
    }
    // Rule 3: a hole that is not lost for certain; rule 4: once per recovery the last segment, so that a lost tail shows.
    const maybe = sack.nextHole(tcb.highRxt, sack.highest(tcb.sndUna));
    if (maybe !== undefined) {
      const sent = retransmitRange(
        engine,
        tcb,
        maybe.start,
        Math.min(effMss, seqDiff(maybe.end, maybe.start)),
        nowMs,
      );
      if (sent === 0) return;
      tcb.highRxt = seqAdd(maybe.start, sent);
      pipe += sent;
      continue;
    }
    if (!tcb.rescueRxt) {
      tcb.rescueRxt = true;
      const from = seqMax(seqAdd(tcb.recover, -effMss), sack.highest(tcb.sndUna));
      const tail = sack.nextHole(seqMax(from, tcb.sndUna), tcb.recover);
      if (tail !== undefined) retransmitRange(engine, tcb, tail.start, seqDiff(tail.end, tail.start), nowMs);
    }
    return;
  }
}

/** Entering recovery sends the first lost segment whatever the pipe says (RFC 6675 section 5 step 4.3). */
export function enterRecovery(engine: Engine, tcb: Tcb): void {
  const nowMs = engine.clock.nowMs();
  tcb.recovery = RECOVERY.FAST;
  tcb.recover = tcb.sndMax;
  tcb.rescueRxt = false;
  tcb.probeAtMs = NEVER;
  engine.counters.fastRecoveries++;
  tcb.congestion.onLoss(tcb.flight, tcb.effMss, nowMs);
  tcb.inflation = tcb.sackPermitted ? 0 : 3 * tcb.effMss;
  tcb.highRxt = tcb.sndUna;
  const end = tcb.sack.empty ? tcb.sndMax : tcb.sack.ranges[0]!.start;
  const octets = Math.min(tcb.effMss, seqDiff(end, tcb.sndUna));
  tcb.highRxt = seqAdd(tcb.sndUna, retransmitRange(engine, tcb, tcb.sndUna, octets, nowMs));
  tcb.rtoAtMs = nowMs + tcb.rtt.rto;
}

/** Sends all that may be sent now, then the ACK that is still owed. */
export function output(engine: Engine, tcb: Tcb): void {
  if (maySendData(tcb)) {
    if (hasUnsent(tcb) || tcb.recovery === RECOVERY.FAST) {
      const nowMs = engine.clock.nowMs();
      const { congestion } = tcb;
      // RFC 5681 section 4.1: after idleness the old cwnd says nothing about the path any more.
      if (tcb.flight === 0 && tcb.lastSendMs > 0 && nowMs - tcb.lastSendMs > tcb.rtt.rto) {
        congestion.onIdle(initialWindow(engine, tcb));
      }
      if (tcb.recovery === RECOVERY.FAST && tcb.sackPermitted) {
        recoverBySack(engine, tcb, nowMs);
      } else {
        const outstanding = seqDiff(tcb.sndNxt, tcb.sndUna) - sackedBelow(tcb, tcb.sndNxt);
        sendForward(engine, tcb, congestion.cwnd + tcb.inflation - outstanding, nowMs);
      }
      // Nothing on its way and still something to send: the peer's window is shut (RFC 9293 3.8.6.1).
      if (tcb.rtoAtMs === NEVER && tcb.persistAtMs === NEVER && hasUnsent(tcb)) {
        tcb.persistAtMs = nowMs + persistInterval(engine, tcb);
      }
    }
  }
  if (
    tcb.ackNow ||
    (tcb.state >= STATE.ESTABLISHED && tcb.state <= STATE.FIN_WAIT_2 && windowUpdateDue(tcb))
  ) {
    if (tcb.state >= STATE.ESTABLISHED && tcb.state <= STATE.TIME_WAIT) transmitAck(engine, tcb);
  }
}

/** The probe timeout, or the end of the reordering window (tail-loss.ts). */
export function probeTimeout(engine: Engine, tcb: Tcb): void {
  tcb.probeAtMs = NEVER;
  if (tcb.recovery !== RECOVERY.NONE || tcb.flight === 0 || !maySendData(tcb)) return;
  const nowMs = engine.clock.nowMs();
  if (!tcb.sack.empty) {
    tcb.sack.markLost();
    engine.counters.tailRecoveries++;
    enterRecovery(engine, tcb);
    return;
  }
  const before = tcb.sndMax;
  // One segment of new data, whatever cwnd says (RFC 8985 section 7.3).
  sendForward(engine, tcb, tcb.effMss, nowMs);
  tcb.tlpRetransmitted = tcb.sndMax === before;
  if (tcb.tlpRetransmitted) {
    const octets = Math.min(tcb.effMss, tcb.flight);
    if (retransmitRange(engine, tcb, seqAdd(tcb.sndMax, -octets), octets, nowMs) === 0) return;
  }
  tcb.tlpOut = true;
  tcb.tlpEndSeq = tcb.sndMax;
  tcb.probeAtMs = NEVER;
  tcb.rtoAtMs = nowMs + tcb.rtt.rto;
  engine.counters.tailLossProbes++;
}

/** RFC 9293 3.8.6.1: the first probe after an RTO, then exponentially rarer. */
export function persistInterval(engine: Engine, tcb: Tcb): number {
  const { rtoMinMs, rtoMaxMs } = engine.config;
  const interval = Math.max(tcb.rtt.rto, rtoMinMs) * 2 ** Math.min(tcb.persistProbes, 10);
  return Math.min(interval, rtoMaxMs / 2);
}

/** One octet beyond the window (or the FIN), so that the peer has to say what its window is now. */
export function sendWindowProbe(engine: Engine, tcb: Tcb): void {
  const end = dataEnd(tcb);
  const length = Math.max(0, Math.min(1, seqDiff(end, tcb.sndUna)));
  const fin = length === 0 && tcb.finQueued;
  if (length === 0 && !fin) return;
  engine.counters.persistProbes++;
  if (transmit(engine, tcb, tcb.sndUna, length, fin ? ACK | FIN : ACK) !== OUTPUT.SENT) return;
  if (fin) tcb.finSent = true;
  // sndNxt stays: the octet is not considered sent, but an acknowledgement of it is welcome.
  tcb.sndMax = seqMax(tcb.sndMax, seqAdd(tcb.sndUna, 1));
}
