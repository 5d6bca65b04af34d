import type { Engine } from './engine.ts';
import { transmitAck } from './output.ts';
import type { Tcb } from './tcb.ts';

/** A bare out-of-window ACK is answered at most this often per connection: two stacks must not keep each other busy. */
const CHALLENGE_INTERVAL_MS = 500;

/** RFC 5961 sections 3.2, 4.2, 5.2, bounded by section 10. */
export function challengeAck(engine: Engine, tcb: Tcb): void {
  const nowMs = engine.clock.nowMs();
  if (nowMs - tcb.lastChallengeMs < CHALLENGE_INTERVAL_MS || !engine.mayChallenge()) {
    engine.counters.challengeAcksSuppressed++;
    return;
  }
  tcb.lastChallengeMs = nowMs;
  engine.counters.challengeAcks++;
  transmitAck(engine, tcb);
}
