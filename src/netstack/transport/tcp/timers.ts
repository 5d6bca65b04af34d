/**
 * Timers of a connection. Each is a due time in the TCB; one real timer runs at (or before) the earliest of them. Moving a
 * due time back, as every ACK does with the retransmission timer, costs nothing: the real timer fires, sees that nothing is
 * due, and is set again.
 */
import type { Engine } from './engine.ts';
import { TcpError } from './errors.ts';
import { transmit, transmitSyn } from './output.ts';
import { ACK, SYN } from './segment.ts';
import { output, persistInterval, probeTimeout, sendWindowProbe } from './send.ts';
import { seqAdd } from './seq.ts';
import type { Tcb } from './tcb.ts';
import { NEVER, RECOVERY, STATE } from './tcb.ts';

function earliest(tcb: Tcb): number {
  let due = tcb.rtoAtMs;
  if (tcb.delayedAckAtMs < due) due = tcb.delayedAckAtMs;
  if (tcb.probeAtMs < due) due = tcb.probeAtMs;
  if (tcb.persistAtMs < due) due = tcb.persistAtMs;
  if (tcb.keepAliveAtMs < due) due = tcb.keepAliveAtMs;
  if (tcb.timeWaitAtMs < due) due = tcb.timeWaitAtMs;
  if (tcb.userTimeoutAtMs < due) due = tcb.userTimeoutAtMs;
  return due;
}

/** Makes sure the real timer fires no later than the earliest due time. */
export function armTimer(engine: Engine, tcb: Tcb): void {
  const due = earliest(tcb);
  if (due >= tcb.timerAtMs) return;
  tcb.timer?.cancel();
  tcb.timerAtMs = due;
  tcb.timer = engine.clock.after(due - engine.clock.nowMs(), () => fire(engine, tcb));
}

export function stopTimers(tcb: Tcb): void {
  tcb.timer?.cancel();
  tcb.timer = undefined;
  tcb.timerAtMs = NEVER;
  tcb.rtoAtMs = NEVER;
  tcb.probeAtMs = NEVER;
  tcb.delayedAckAtMs = NEVER;
  tcb.persistAtMs = NEVER;
  tcb.keepAliveAtMs = NEVER;
  tcb.timeWaitAtMs = NEVER;
  tcb.userTimeoutAtMs = NEVER;
}

function fire(engine: Engine, tcb: Tcb): void {
  tcb.timer = undefined;
  tcb.timerAtMs = NEVER;
  // Real timers may fire a fraction early.
  const nowMs = engine.clock.nowMs() + 0.5;
  if (tcb.timeWaitAtMs <= nowMs) {
    engine.finish(tcb, undefined);
    return;
  }
  if (tcb.userTimeoutAtMs <= nowMs) {
    // RFC 9293 3.8.3: the user timeout ends the connection whatever the retransmissions are doing.
    engine.finish(tcb, tcb.softError ?? new TcpError('ETIMEDOUT', 'the user timeout expired'));
    return;
  }
  if (tcb.rtoAtMs <= nowMs) retransmissionTimeout(engine, tcb);
  else if (tcb.probeAtMs <= nowMs) probeTimeout(engine, tcb);
  if (tcb.persistAtMs <= nowMs) persistTimeout(engine, tcb);
  if (tcb.keepAliveAtMs <= nowMs) keepAliveTimeout(engine, tcb);
  if (tcb.delayedAckAtMs <= nowMs) {
    tcb.delayedAckAtMs = NEVER;
    tcb.ackNow = true;
  }
  if (tcb.state !== STATE.CLOSED) engine.touch(tcb);
}

function retryLimit(engine: Engine, tcb: Tcb): number {
  if (tcb.state === STATE.SYN_SENT) return engine.config.synRetries;
  if (tcb.state === STATE.SYN_RECEIVED) return engine.config.synAckRetries;
  return engine.config.dataRetries;
}

/** RFC 6298 section 5.4 … 5.7. */
function retransmissionTimeout(engine: Engine, tcb: Tcb): void {
  const nowMs = engine.clock.nowMs();
  tcb.rtoAtMs = NEVER;
  tcb.probeAtMs = NEVER;
  tcb.tlpOut = false;
  tcb.rttStartMs = NEVER;
  engine.counters.timeouts++;
  tcb.timeouts++;
  if (tcb.retransmits >= retryLimit(engine, tcb)) {
    engine.finish(tcb, tcb.softError ?? new TcpError('ETIMEDOUT'));
    return;
  }
  tcb.retransmits++;
  tcb.rtt.backOff();
  if (tcb.state === STATE.SYN_SENT || tcb.state === STATE.SYN_RECEIVED) {
    engine.counters.retransmits++;
    transmitSyn(engine, tcb, tcb.state === STATE.SYN_SENT ? SYN : SYN | ACK);
    tcb.rtoAtMs = nowMs + tcb.rtt.rto;
    return;
  }
  if (tcb.retransmits === 1) tcb.congestion.onTimeout(tcb.flight, tcb.effMss, nowMs);
  else tcb.congestion.cwnd = tcb.effMss;
  // RFC 2018 section 8: the peer may have dropped what it SACKed.
  tcb.sack.clear();
  tcb.recovery = RECOVERY.TIMEOUT;
  tcb.recover = tcb.sndMax;
  tcb.dupAcks = 0;
  tcb.inflation = 0;
  tcb.sndNxt = tcb.sndUna;
  output(engine, tcb);
  // With a shut window nothing has left, but the data in flight still has to be pursued.
  if (tcb.rtoAtMs === NEVER && tcb.flight > 0) {
    sendWindowProbe(engine, tcb);
    tcb.persistAtMs = NEVER;
    tcb.rtoAtMs = nowMs + tcb.rtt.rto;
  }
}

function persistTimeout(engine: Engine, tcb: Tcb): void {
  tcb.persistAtMs = NEVER;
  // RFC 9293 3.8.6.1: a shut window may stay shut for ever as long as the peer answers; silence ends it like lost data.
  const silentMs = engine.clock.nowMs() - tcb.lastReceiveMs;
  // Without an application the answers count no more (its memory must not be held for ever).
  const unanswered = tcb.orphan || silentMs > persistInterval(engine, tcb);
  if (tcb.persistProbes >= engine.config.dataRetries && unanswered) {
    engine.finish(tcb, new TcpError('ETIMEDOUT', 'zero-window probes were not answered'));
    return;
  }
  sendWindowProbe(engine, tcb);
  tcb.persistProbes++;
  tcb.persistAtMs = engine.clock.nowMs() + persistInterval(engine, tcb);
}

/** RFC 9293 3.8.4. */
function keepAliveTimeout(engine: Engine, tcb: Tcb): void {
  const nowMs = engine.clock.nowMs();
  if (tcb.flight > 0) {
    // MUST-26: not while data is outstanding, whose own timer notices a peer that is gone.
    tcb.keepAliveAtMs = nowMs + tcb.keepAliveIdleMs;
    return;
  }
  const idleMs = nowMs - tcb.lastReceiveMs;
  if (idleMs < tcb.keepAliveIdleMs) {
    tcb.keepAliveProbes = 0;
    tcb.keepAliveAtMs = tcb.lastReceiveMs + tcb.keepAliveIdleMs;
    return;
  }
  if (tcb.keepAliveProbes >= engine.config.keepAliveProbes) {
    engine.finish(tcb, tcb.softError ?? new TcpError('ETIMEDOUT', 'keep-alive probes were not answered'));
    return;
  }
  tcb.keepAliveProbes++;
  tcb.keepAliveAtMs = nowMs + tcb.keepAliveIntervalMs;
  engine.counters.keepAliveProbes++;
  // An old sequence number makes the peer answer.
  transmit(engine, tcb, seqAdd(tcb.sndUna, -1), 0, ACK);
}
