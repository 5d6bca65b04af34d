/**
 * Loss that no three duplicate ACKs will tell of (RFC 8985): the last segments of an answer, and flights of fewer than four.
 * One due time, `probeAtMs`, serves two cases:
 *
 *  - nothing was SACKed: a probe timeout (section 7.2). Then one more segment leaves, new if there is one, else the last one
 *    again. Its SACK shows what is missing below it, since everything else left two round trips earlier;
 *  - something was SACKed, but too little for RFC 6675, and no new data is left to be sent: the reordering window (section 6.2). What is still missing when it
 *    ends is lost. It counts from the arrival of the SACK and not, as in RACK, from each segment's time of sending.
 *
 * One probe per tail. Whether it was needed is decided when it is acknowledged (section 7.4.2): if nothing tells that both
 * copies arrived, a segment was lost, and the congestion window is reduced.
 */
import type { Engine } from './engine.ts';
import type { Segment } from './segment.ts';
import { seqAdd, seqDiff, seqGe, seqGt, seqLe } from './seq.ts';
import type { Tcb } from './tcb.ts';
import { NEVER, RECOVERY } from './tcb.ts';

/** Below it the scheduling of both hosts counts for more than the path. */
const MIN_PROBE_MS = 10;
const MIN_REORDERING_MS = 1;

/** After new data has left, or an ACK has come. */
export function scheduleProbe(engine: Engine, tcb: Tcb, nowMs: number): void {
  const { config } = engine;
  const wasReordering = tcb.probeAtMs !== NEVER && tcb.probeIsReordering;
  const before = tcb.probeAtMs;
  tcb.probeAtMs = NEVER;
  if (!config.tailLossProbe || !tcb.sackPermitted || tcb.recovery !== RECOVERY.NONE) return;
  if (tcb.flight === 0 || !tcb.rtt.measured) return;
  tcb.probeIsReordering = !tcb.sack.empty;
  if (tcb.probeIsReordering) {
    // As long as new data follows, RFC 6675 will know by counting, and a path that reorders is not taken for a lossy one.
    if (seqDiff(seqAdd(tcb.sndBufSeq, tcb.sendBuffer.length), tcb.sndMax) > 0) return;
    const window = Math.max(MIN_REORDERING_MS, Math.min(tcb.rtt.srtt, tcb.rtt.minRtt) / 4);
    // Further SACKs do not put it off.
    tcb.probeAtMs = wasReordering ? before : nowMs + window;
  } else {
    if (tcb.tlpOut) return;
    // A single segment may be waiting for the peer's delayed ACK.
    const ackDelayMs = tcb.flight <= tcb.effMss ? config.probeAckDelayMs : 0;
    tcb.probeAtMs = nowMs + Math.max(MIN_PROBE_MS, 2 * tcb.rtt.srtt) + ackDelayMs;
  }
  if (tcb.probeAtMs >= tcb.rtoAtMs) tcb.probeAtMs = NEVER;
}

/** Section 7.4.2, with an ACK that acknowledges new data or repeats the last one. True: the probe repaired a loss. */
export function probeRepairedLoss(engine: Engine, tcb: Tcb, segment: Segment): boolean {
  if (!tcb.tlpOut || !seqGe(segment.ack, tcb.tlpEndSeq)) return false;
  const { options } = segment;
  // RFC 2883: a first block below the ACK tells of a duplicate.
  const dsack = options.sackCount > 0 && seqLe(options.sackRight[0]! as typeof tcb.sndUna, segment.ack);
  const bareDuplicate = segment.ack === tcb.sndUna && segment.dataLength === 0 && options.sackCount === 0;
  if (!tcb.tlpRetransmitted) {
    tcb.tlpOut = false;
  } else if (dsack || bareDuplicate) {
    tcb.tlpOut = false;
    engine.counters.needlessProbes++;
  } else if (seqGt(segment.ack, tcb.tlpEndSeq)) {
    tcb.tlpOut = false;
    return true;
  }
  return false;
}

/** The probe was SACKed while older data is missing: that is lost. Marks it; true when there is any. */
export function probeShowsLoss(tcb: Tcb): boolean {
  if (!tcb.tlpOut || tcb.sack.empty || !seqGe(tcb.sack.highest(tcb.sndUna), tcb.tlpEndSeq)) return false;
  tcb.tlpOut = false;
  tcb.sack.markLost();
  return true;
}
