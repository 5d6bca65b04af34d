/** The SYN-ACK of a SYN of which nothing is kept, see syn-cookie.ts. */
import { HEADROOM } from '../../iface/index.ts';
import {
  emitMss,
  emitSackPermitted,
  emitTcp,
  emitTimestamps,
  emitWindowScale,
  TCP,
} from '../../wire/index.ts';
import type { Engine } from './engine.ts';
import { PROTOCOL_TCP } from './engine.ts';
import type { IsnGenerator } from './isn.ts';
import type { Listener } from './listen.ts';
import { defaultMss, MAX_WINDOW_FIELD, receiveMss } from './output.ts';
import type { Segment } from './segment.ts';
import { ACK, SYN } from './segment.ts';
import { seqAdd } from './seq.ts';
import type { FlowName, SynCookies } from './syn-cookie.ts';
import { cookieTimestamp } from './syn-cookie.ts';

export function answerWithCookie(
  engine: Engine,
  cookies: SynCookies,
  isn: IsnGenerator,
  listener: Listener,
  syn: Segment,
  flow: FlowName,
  rcvScale: number,
): void {
  const { scratch, config, counters, clock } = engine;
  const { localAddress, localPort, remoteAddress, remotePort } = flow;
  const { options } = syn;
  const iss = cookies.make(flow, syn.seq, options.mss > 0 ? options.mss : defaultMss(remoteAddress));
  if (iss === undefined) {
    counters.cookiesRefused++;
    return;
  }
  let at = emitMss(scratch, HEADROOM + TCP.MIN_HEADER, receiveMss(engine, remoteAddress, localAddress));
  if (config.timestamps && options.hasTimestamps) {
    const sack = config.sack && options.sackPermitted;
    const scale = config.windowScaling ? options.windowScale : -1;
    const offset = isn.timestampOffset(localAddress, localPort, remoteAddress, remotePort);
    const now = (Math.floor(clock.nowMs()) + offset) >>> 0;
    if (sack) at = emitSackPermitted(scratch, at);
    at = emitTimestamps(scratch, at, cookieTimestamp(now, scale, sack), options.tsVal);
    if (scale >= 0) at = emitWindowScale(scratch, at, rcvScale);
  }
  const length = at - HEADROOM;
  const window = Math.min(MAX_WINDOW_FIELD, config.receiveBuffer);
  const rcvNxt = seqAdd(syn.seq, 1);
  emitTcp(scratch, HEADROOM, localPort, remotePort, iss, rcvNxt, length, SYN | ACK, window);
  engine.ip.output(
    scratch,
    HEADROOM,
    length,
    PROTOCOL_TCP,
    localAddress,
    remoteAddress,
    TCP.CHECKSUM,
    0,
    true,
    config.ttl,
  );
  listener.lastCookieMs = clock.nowMs();
  counters.cookiesSent++;
  counters.segmentsOut++;
}
