/**
 * The ACK field (RFC 9293 3.10.7.4 fifth): what the peer has, its window, round-trip samples, loss detection
 * (RFC 5681 3.2, RFC 6675, RFC 6582) and congestion control.
 */
import { challengeAck } from './challenge.ts';
import type { Engine } from './engine.ts';
import { tsNow } from './output.ts';
import { DUP_THRESH } from './sack.ts';
import type { Segment } from './segment.ts';
import { FIN, SYN } from './segment.ts';
import { enterRecovery, retransmitFirst } from './send.ts';
import { seqAdd, seqDiff, seqGe, seqGt, seqLe, seqLt } from './seq.ts';
import { probeRepairedLoss, probeShowsLoss, scheduleProbe } from './tail-loss.ts';
import type { Tcb } from './tcb.ts';
import { NEVER, RECOVERY } from './tcb.ts';

/** Processes SEG.ACK, SEG.WND and SACK blocks. False = the segment is to be dropped. */
export function acknowledge(engine: Engine, tcb: Tcb, segment: Segment): boolean {
  const { ack } = segment;
  // RFC 5961 section 5.2: SND.UNA − MAX.SND.WND ≤ SEG.ACK ≤ SND.NXT, else a challenge and dropped.
  // Nor can it be older than everything that was ever acknowledged.
  const oldest = Math.min(tcb.maxSndWnd, tcb.bytesSent + (tcb.finSent ? 1 : 0) - tcb.flight);
  if (seqGt(ack, tcb.sndMax) || seqLt(ack, seqAdd(tcb.sndUna, -Math.max(oldest, 0)))) {
    challengeAck(engine, tcb);
    return false;
  }
  const news = tcb.sackPermitted && segment.options.sackCount > 0 && takeSackBlocks(tcb, segment);
  if (news && tcb.recovery === RECOVERY.NONE && probeShowsLoss(tcb) && seqLe(ack, tcb.sndUna)) {
    engine.counters.tailRecoveries++;
    enterRecovery(engine, tcb);
  }
  if (probeRepairedLoss(engine, tcb, segment) && tcb.recovery === RECOVERY.NONE)
    tcb.congestion.onLoss(tcb.flight, tcb.effMss, tcb.lastReceiveMs);
  const wndBefore = tcb.sndWnd;
  updateWindow(tcb, segment);
  if (seqGt(ack, tcb.sndUna)) {
    newAck(engine, tcb, segment);
  } else if (ack === tcb.sndUna && tcb.flight > 0) {
    const bare = segment.dataLength === 0 && !(segment.flags & (SYN | FIN)) && wndBefore === tcb.sndWnd;
    if (tcb.sackPermitted ? news : bare) duplicateAck(engine, tcb);
  }
  return true;
}

function takeSackBlocks(tcb: Tcb, segment: Segment): boolean {
  const { options } = segment;
  let news = false;
  for (let i = 0; i < options.sackCount; i++) {
    const start = options.sackLeft[i]! as typeof tcb.sndUna;
    const end = options.sackRight[i]! as typeof tcb.sndUna;
    if (tcb.sack.add(start, end, tcb.sndUna, tcb.sndMax)) news = true;
  }
  return news;
}

/** SND.WND, SND.WL1, SND.WL2: never from an old segment. */
function updateWindow(tcb: Tcb, segment: Segment): void {
  if (seqLt(segment.ack, tcb.sndUna)) return;
  const newer =
    seqLt(tcb.sndWl1, segment.seq) || (tcb.sndWl1 === segment.seq && seqGe(segment.ack, tcb.sndWl2));
  if (!newer) return;
  tcb.sndWnd = segment.wnd << tcb.sndScale;
  tcb.sndWl1 = segment.seq;
  tcb.sndWl2 = segment.ack;
  if (tcb.sndWnd > tcb.maxSndWnd) tcb.maxSndWnd = tcb.sndWnd;
  if (tcb.sndWnd > 0) {
    tcb.persistAtMs = NEVER;
    tcb.persistProbes = 0;
  }
}

function newAck(engine: Engine, tcb: Tcb, segment: Segment): void {
  const nowMs = tcb.lastReceiveMs;
  const acked = seqDiff(segment.ack, tcb.sndUna);
  sampleRtt(engine, tcb, segment, nowMs);
  const bytes = Math.min(seqDiff(segment.ack, tcb.sndBufSeq), tcb.sendBuffer.length);
  if (bytes > 0) {
    tcb.sendBuffer.release(bytes);
    tcb.sndBufSeq = seqAdd(tcb.sndBufSeq, bytes);
  }
  tcb.sndUna = segment.ack;
  if (seqLt(tcb.sndNxt, tcb.sndUna)) tcb.sndNxt = tcb.sndUna;
  tcb.sack.advance(tcb.sndUna);
  tcb.retransmits = 0;
  tcb.softError = undefined;
  if (tcb.finSent && tcb.sendBuffer.length === 0 && seqGt(tcb.sndUna, tcb.sndBufSeq)) tcb.finAcked = true;

  if (tcb.recovery === RECOVERY.FAST) {
    ackInRecovery(engine, tcb, acked);
  } else {
    tcb.dupAcks = 0;
    if (tcb.recovery === RECOVERY.TIMEOUT && seqGe(tcb.sndUna, tcb.recover)) tcb.recovery = RECOVERY.NONE;
    // RFC 9293 3.8.2, RFC 7661: a window that was not used must not grow.
    if (tcb.cwndLimited || tcb.recovery === RECOVERY.TIMEOUT) {
      tcb.congestion.onAck(acked, tcb.effMss, tcb.rtt.srtt, nowMs);
      if (tcb.flight < tcb.congestion.cwnd >>> 1) tcb.cwndLimited = false;
    }
  }
  // RFC 6298 (5.2), (5.3).
  tcb.rtoAtMs = tcb.flight === 0 ? NEVER : nowMs + tcb.rtt.rto;
  scheduleProbe(engine, tcb, nowMs);
  tcb.userTimeoutAtMs = tcb.flight === 0 || tcb.userTimeoutMs === 0 ? NEVER : nowMs + tcb.userTimeoutMs;

  const { sendBuffer } = tcb;
  const wanted = Math.min(engine.config.sendBufferMax, 2 * tcb.congestion.cwnd);
  if (wanted > sendBuffer.limit) sendBuffer.limit = wanted;
  // Woken when there is room worth a wake-up.
  if (tcb.writeBlocked && sendBuffer.length <= sendBuffer.limit >>> 1) {
    tcb.writeBlocked = false;
    tcb.owesWritable = true;
  }
}

function sampleRtt(engine: Engine, tcb: Tcb, segment: Segment, nowMs: number): void {
  if (tcb.rttStartMs !== NEVER) {
    if (seqGe(segment.ack, tcb.rttSeq)) {
      tcb.rtt.sample(nowMs - tcb.rttStartMs);
      tcb.rttStartMs = NEVER;
    }
    return;
  }
  // RFC 7323 section 4: the echo tells which transmission is being acknowledged.
  if (!tcb.timestamps || !segment.options.hasTimestamps || segment.options.tsEcr === 0) return;
  const elapsed = (tsNow(engine, tcb) - segment.options.tsEcr) | 0;
  if (elapsed >= 0 && elapsed < engine.config.rtoMaxMs) tcb.rtt.sample(elapsed);
}

/** An ACK of new data while in fast recovery. */
function ackInRecovery(engine: Engine, tcb: Tcb, acked: number): void {
  if (seqGe(tcb.sndUna, tcb.recover)) {
    tcb.recovery = RECOVERY.NONE;
    tcb.inflation = 0;
    tcb.dupAcks = 0;
    return;
  }
  if (tcb.sackPermitted) return;
  // RFC 6582 section 3.2 step 3, partial acknowledgement: the next hole begins here.
  tcb.inflation = Math.max(0, tcb.inflation - acked + tcb.effMss);
  retransmitFirst(engine, tcb);
}

function duplicateAck(engine: Engine, tcb: Tcb): void {
  engine.counters.duplicateAcks++;
  tcb.dupAcks++;
  if (tcb.recovery === RECOVERY.FAST) {
    if (!tcb.sackPermitted) tcb.inflation += tcb.effMss;
    return;
  }
  // After a timeout only data sent later can be the subject (RFC 6582 section 4.1, RFC 6675 section 5.1).
  if (tcb.recovery === RECOVERY.TIMEOUT) return;
  if (!tcb.sackPermitted && seqLe(tcb.sndUna, tcb.recover)) return;
  const lost = tcb.sackPermitted && seqGt(tcb.sack.lostBelow(tcb.sndUna, tcb.effMss), tcb.sndUna);
  if (tcb.dupAcks >= DUP_THRESH || lost) enterRecovery(engine, tcb);
  else scheduleProbe(engine, tcb, tcb.lastReceiveMs);
}
