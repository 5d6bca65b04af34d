/** ICMP errors about segments of ours (RFC 9293 3.9.2.2, RFC 5461, RFC 5927). */
import type { IcmpErrorKind } from '../../iface/index.ts';
import type { DropReason } from '../../wire/index.ts';
import type { Engine } from './engine.ts';
import { TcpError } from './errors.ts';
import { updateMss } from './output.ts';
import type { Seq } from './seq.ts';
import { seqGt, seqLt } from './seq.ts';
import type { Tcb } from './tcb.ts';
import { RECOVERY, STATE } from './tcb.ts';

/** The error quotes a segment of `tcb` that began at `seq`. */
export function icmpErrorArrives(
  engine: Engine,
  tcb: Tcb,
  kind: IcmpErrorKind,
  seq: Seq,
): DropReason | undefined {
  // RFC 5927 section 4.1: only about data in flight.
  if (seqLt(seq, tcb.sndUna) || seqGt(seq, tcb.sndMax)) return 'icmp-unrelated-error';
  if (kind === 'fragmentation-needed') {
    const before = tcb.effMss;
    updateMss(engine, tcb);
    if (tcb.effMss < before && tcb.state >= STATE.ESTABLISHED && tcb.flight > 0) {
      // RFC 1191 section 6.3: sent again at once in the new size, without taking it for congestion.
      tcb.recovery = RECOVERY.TIMEOUT;
      tcb.recover = tcb.sndMax;
      tcb.sndNxt = tcb.sndUna;
      engine.touch(tcb);
    }
    return undefined;
  }
  const hard = kind === 'port-unreachable' || kind === 'protocol-unreachable' || kind === 'prohibited';
  const error = new TcpError(
    hard ? 'ECONNREFUSED' : kind === 'network-unreachable' ? 'ENETUNREACH' : 'EHOSTUNREACH',
    kind,
  );
  // RFC 5461: errors end a connection only while it is being opened.
  if (tcb.state === STATE.SYN_SENT && kind !== 'time-exceeded') engine.finish(tcb, error);
  else tcb.softError = error;
  return undefined;
}
