/**
 * A connection's state as plain JSON, written by one stack and read by another under the same local address: the peer sees
 * the same sequence numbers, windows and timestamps go on. The old stack keeps a tombstone that swallows what still
 * comes for the connection.
 *
 * Field by field (numbers unless said otherwise; sequence numbers unsigned 32-bit; docs/netstack.md has the table):
 * what the application wrote and the peer has not acknowledged travels as `sendData`, what the peer sent and the
 * application has not read as `receiveData`, segments beyond a gap as `outOfOrder`, all base64.
 */
import type { Engine } from './engine.ts';
import { HandOverError } from './errors.ts';
import { tsNow, updateMss } from './output.ts';
import { seqDiff, toSeq } from './seq.ts';
import type { Tcb } from './tcb.ts';
import { RECOVERY, STATE, STATE_NAMES } from './tcb.ts';

export const HAND_OVER_VERSION = 1;

export interface TcpConnectionState {
  readonly version: number;
  readonly flow: {
    readonly protocol: 'tcp';
    readonly localAddress: string;
    readonly localPort: number;
    readonly remoteAddress: string;
    readonly remotePort: number;
  };
  readonly state: 'ESTABLISHED' | 'CLOSE-WAIT';
  readonly iss: number;
  readonly irs: number;
  readonly sndUna: number;
  readonly sndMax: number;
  readonly sndWnd: number;
  readonly sndWl1: number;
  readonly sndWl2: number;
  readonly maxSndWnd: number;
  readonly rcvNxt: number;
  readonly rcvAdv: number;
  readonly rcvBuf: number;
  readonly lastAckSent: number;
  readonly peerMss: number;
  readonly localMss: number;
  readonly scaling: boolean;
  readonly sndScale: number;
  readonly rcvScale: number;
  readonly sackPermitted: boolean;
  readonly timestamps: boolean;
  /** TSval as of the export; the importing stack goes on from here. */
  readonly tsVal: number;
  readonly tsRecent: number;
  readonly cwnd: number;
  readonly ssthresh: number;
  readonly srttMs: number;
  readonly rttvarMs: number;
  readonly noDelay: boolean;
  readonly keepAliveIdleMs: number;
  readonly keepAliveIntervalMs: number;
  readonly userTimeoutMs: number;
  readonly bytesReceived: number;
  readonly bytesSent: number;
  readonly sendData: string;
  readonly receiveData: string;
  readonly outOfOrder: readonly { readonly seq: number; readonly data: string }[];
}

/** Why `tcb` cannot be exported now, or undefined. */
export function exportObstacle(tcb: Tcb): string | undefined {
  if (tcb.state !== STATE.ESTABLISHED && tcb.state !== STATE.CLOSE_WAIT) {
    return `it is in ${STATE_NAMES[tcb.state]}, not ESTABLISHED or CLOSE-WAIT`;
  }
  if (tcb.finQueued) return 'the application has closed its side';
  return undefined;
}

/** @param unread bytes that had left the stack but not reached the application's protocol: they come first again. */
export function exportTcb(
  engine: Engine,
  tcb: Tcb,
  format: (address: Tcb['localAddress']) => string,
  unread: Uint8Array,
): TcpConnectionState {
  const send = Buffer.alloc(tcb.sendBuffer.length);
  tcb.sendBuffer.copyTo(send, 0, 0, send.length);
  return {
    version: HAND_OVER_VERSION,
    flow: {
      protocol: 'tcp',
      localAddress: format(tcb.localAddress),
      localPort: tcb.localPort,
      remoteAddress: format(tcb.remoteAddress),
      remotePort: tcb.remotePort,
    },
    state: tcb.state === STATE.ESTABLISHED ? 'ESTABLISHED' : 'CLOSE-WAIT',
    iss: tcb.iss,
    irs: tcb.irs,
    sndUna: tcb.sndUna,
    sndMax: tcb.sndMax,
    sndWnd: tcb.sndWnd,
    sndWl1: tcb.sndWl1,
    sndWl2: tcb.sndWl2,
    maxSndWnd: tcb.maxSndWnd,
    rcvNxt: tcb.rcvNxt,
    rcvAdv: tcb.rcvAdv,
    rcvBuf: tcb.rcvBuf,
    lastAckSent: tcb.lastAckSent,
    peerMss: tcb.peerMss,
    localMss: tcb.localMss,
    scaling: tcb.scaling,
    sndScale: tcb.sndScale,
    rcvScale: tcb.rcvScale,
    sackPermitted: tcb.sackPermitted,
    timestamps: tcb.timestamps,
    tsVal: tsNow(engine, tcb),
    tsRecent: tcb.tsRecent,
    cwnd: Math.round(tcb.congestion.cwnd),
    ssthresh: Math.round(tcb.congestion.ssthresh),
    srttMs: tcb.rtt.srtt,
    rttvarMs: tcb.rtt.rttvar,
    noDelay: tcb.noDelay,
    keepAliveIdleMs: tcb.keepAliveIdleMs,
    keepAliveIntervalMs: tcb.keepAliveIntervalMs,
    userTimeoutMs: tcb.userTimeoutMs,
    bytesReceived: tcb.bytesReceived,
    bytesSent: tcb.bytesSent,
    sendData: send.toString('base64'),
    receiveData: Buffer.concat([unread, tcb.receiveQueue.peekAll()]).toString('base64'),
    outOfOrder: tcb.reassembly.ranges.map((range) => ({
      seq: range.start,
      data: tcb.reassembly.copy(range).toString('base64'),
    })),
  };
}

const NUMBERS = [
  'iss',
  'irs',
  'sndUna',
  'sndMax',
  'sndWnd',
  'sndWl1',
  'sndWl2',
  'maxSndWnd',
  'rcvNxt',
  'rcvAdv',
  'rcvBuf',
  'lastAckSent',
  'peerMss',
  'localMss',
  'sndScale',
  'rcvScale',
  'tsVal',
  'tsRecent',
  'cwnd',
  'ssthresh',
  'srttMs',
  'rttvarMs',
  'keepAliveIdleMs',
  'keepAliveIntervalMs',
  'userTimeoutMs',
  'bytesReceived',
  'bytesSent',
] as const satisfies readonly (keyof TcpConnectionState)[];
const BOOLEANS = ['scaling', 'sackPermitted', 'timestamps', 'noDelay'] as const;

function malformed(what: string): HandOverError {
  return new HandOverError('TCP_STATE_MALFORMED', `the connection state has no usable ${what}`, {
    remedy: 'export the connection again with the same version of the stack',
  });
}

/** Checks an object of unknown origin; throws HandOverError. */
export function checkConnectionState(value: unknown): TcpConnectionState {
  const state = value as Record<string, unknown> | null;
  if (typeof state !== 'object' || state === null) throw malformed('content');
  if (state['version'] !== HAND_OVER_VERSION) throw malformed(`version (${HAND_OVER_VERSION} is understood)`);
  if (state['state'] !== 'ESTABLISHED' && state['state'] !== 'CLOSE-WAIT') throw malformed('state');
  const flow = state['flow'] as Record<string, unknown> | undefined;
  if (typeof flow !== 'object' || flow === null) throw malformed('flow');
  for (const key of ['localAddress', 'remoteAddress'])
    if (typeof flow[key] !== 'string') throw malformed(key);
  for (const key of ['localPort', 'remotePort']) {
    const port = flow[key];
    if (typeof port !== 'number' || !Number.isInteger(port) || port < 0 || port > 0xffff)
      throw malformed(key);
  }
  for (const key of NUMBERS) {
    const number = state[key];
    if (typeof number !== 'number' || !Number.isFinite(number) || number < 0) throw malformed(key);
  }
  for (const key of BOOLEANS) if (typeof state[key] !== 'boolean') throw malformed(key);
  for (const key of ['sendData', 'receiveData']) if (typeof state[key] !== 'string') throw malformed(key);
  if (!Array.isArray(state['outOfOrder'])) throw malformed('outOfOrder');
  for (const block of state['outOfOrder'] as { seq?: unknown; data?: unknown }[]) {
    if (typeof block?.seq !== 'number' || typeof block.data !== 'string') throw malformed('outOfOrder');
  }
  return value as TcpConnectionState;
}

/** Fills a fresh TCB. */
export function importTcb(engine: Engine, tcb: Tcb, state: TcpConnectionState): void {
  const { config } = engine;
  const nowMs = engine.clock.nowMs();
  const send = Buffer.from(state.sendData, 'base64');
  const receive = Buffer.from(state.receiveData, 'base64');
  tcb.state = state.state === 'ESTABLISHED' ? STATE.ESTABLISHED : STATE.CLOSE_WAIT;
  tcb.iss = toSeq(state.iss);
  tcb.irs = toSeq(state.irs);
  tcb.sndUna = toSeq(state.sndUna);
  tcb.sndBufSeq = tcb.sndUna;
  tcb.sndMax = toSeq(state.sndMax);
  if (seqDiff(tcb.sndMax, tcb.sndUna) < 0 || seqDiff(tcb.sndMax, tcb.sndUna) > send.length)
    throw malformed('sndMax');
  tcb.sndWnd = state.sndWnd;
  tcb.sndWl1 = toSeq(state.sndWl1);
  tcb.sndWl2 = toSeq(state.sndWl2);
  tcb.maxSndWnd = state.maxSndWnd;
  tcb.rcvNxt = toSeq(state.rcvNxt);
  tcb.rcvAdv = toSeq(state.rcvAdv);
  tcb.rcvBuf = Math.min(Math.max(state.rcvBuf, config.receiveBuffer), config.receiveBufferMax);
  tcb.lastAckSent = toSeq(state.lastAckSent);
  tcb.remoteFin = state.state === 'CLOSE-WAIT';
  tcb.peerMss = state.peerMss;
  tcb.localMss = state.localMss;
  tcb.scaling = state.scaling;
  tcb.sndScale = state.sndScale;
  tcb.rcvScale = state.rcvScale;
  tcb.sackPermitted = state.sackPermitted;
  tcb.timestamps = state.timestamps;
  // One tick ahead: the peer must never see an older timestamp than before (PAWS).
  tcb.tsOffset = (state.tsVal + 1 - Math.floor(nowMs)) >>> 0;
  tcb.tsRecent = state.tsRecent;
  tcb.tsRecentAtMs = nowMs;
  tcb.noDelay = state.noDelay;
  tcb.keepAliveIdleMs = state.keepAliveIdleMs;
  tcb.keepAliveIntervalMs = state.keepAliveIntervalMs;
  tcb.userTimeoutMs = state.userTimeoutMs;
  tcb.bytesReceived = state.bytesReceived;
  tcb.bytesSent = state.bytesSent;
  tcb.lastReceiveMs = nowMs;
  tcb.tuneStartMs = nowMs;
  if (tcb.keepAliveIdleMs > 0) tcb.keepAliveAtMs = nowMs + tcb.keepAliveIdleMs;
  updateMss(engine, tcb);
  tcb.congestion.cwnd = Math.max(state.cwnd, 2 * tcb.effMss);
  tcb.congestion.ssthresh = state.ssthresh;
  tcb.rtt.srtt = state.srttMs;
  tcb.rtt.rttvar = state.rttvarMs;
  tcb.rtt.restore();
  tcb.sendBuffer.append(send);
  tcb.receiveQueue.append(receive, 0, receive.length);
  for (const block of state.outOfOrder) {
    const data = Buffer.from(block.data, 'base64');
    const seq = toSeq(block.seq);
    if (seqDiff(seq, tcb.rcvNxt) > 0 && data.length > 0)
      tcb.reassembly.insert(tcb.rcvNxt, seq, data, 0, data.length);
  }
  tcb.owesReadable = receive.length > 0 || tcb.remoteFin;
  // What was in flight is sent again from the start: acknowledgements of it may have gone to the old stack.
  tcb.sndNxt = tcb.sndUna;
  tcb.recover = tcb.sndMax;
  if (seqDiff(tcb.sndMax, tcb.sndUna) > 0) {
    tcb.recovery = RECOVERY.TIMEOUT;
    tcb.rtoAtMs = nowMs + tcb.rtt.rto;
  }
  // Tells the peer where we are; also repairs an ACK that was lost with the old stack.
  tcb.ackNow = true;
}
