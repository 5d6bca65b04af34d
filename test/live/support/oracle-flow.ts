/** A TCP peer played step by step against a side, with numbers counted from both initial ones, and its answers as short words. */
import { icmp, ipv4, packet, plainChecksum, pseudo4, u16, u32 } from '../../netstack/packets.ts';
import { icmp6, ipv6, packet6, pseudo6 } from '../../netstack/packets6.ts';
import { HOST, HOST6, PEER, PEER6, type Side } from './oracle-sides.ts';

const FLAGS = 'FSRPAUEC';

export interface Step {
  /** Letters of FSRPAUEC. */
  readonly flags: string;
  /** From the peer's initial number; 1 is the first byte. Default: what follows all that was sent. */
  readonly seq?: number;
  /** From the host's; default: all that was seen of it. */
  readonly ack?: number;
  readonly data?: string;
  readonly window?: number;
  readonly urgent?: number;
  readonly options?: Uint8Array;
  /** Added to the checksum. */
  readonly damage?: number;
  /** Value of the timestamp option against the last one; undefined: one more, if timestamps are in use. */
  readonly ts?: number;
  /** Acknowledgements without anything else are not compared: when they are sent is each side's choice. */
  readonly loose?: boolean;
  /** Reserved bits, or a wrong header length: byte 12 of the header. */
  readonly byte12?: number;
}

export interface FlowOptions {
  readonly port: number;
  readonly peerPort: number;
  readonly isn: number;
  readonly version: 4 | 6;
  /** Options of the SYN. */
  readonly synOptions?: Uint8Array;
  readonly timestamps?: boolean;
  readonly window?: number;
}

const signed = (value: number) => value | 0;

export function tcpBytes(
  options: FlowOptions,
  step: Step & { seqNumber: number; ackNumber: number; allOptions: Uint8Array },
): Buffer {
  const data = Buffer.from(step.data ?? '', 'latin1');
  const padded = Buffer.alloc(Math.ceil(step.allOptions.length / 4) * 4);
  padded.set(step.allOptions);
  const bits = [...step.flags].reduce((sum, letter) => sum | (1 << FLAGS.indexOf(letter)), 0);
  const segment = Buffer.concat([
    u16(options.peerPort),
    u16(options.port),
    u32(step.seqNumber >>> 0),
    u32(step.ackNumber >>> 0),
    Buffer.from([step.byte12 ?? ((20 + padded.length) / 4) << 4, bits]),
    u16(step.window ?? options.window ?? 0xffff),
    u16(0),
    u16(step.urgent ?? 0),
    padded,
    data,
  ]);
  const pseudo =
    options.version === 4 ? pseudo4(PEER, HOST, 6, segment.length) : pseudo6(PEER6, HOST6, 6, segment.length);
  segment.writeUInt16BE((plainChecksum(pseudo, segment) + (step.damage ?? 0)) & 0xffff, 16);
  return segment;
}

function wrap(options: FlowOptions, segment: Buffer): Buffer {
  return options.version === 4
    ? packet(ipv4({ source: PEER, destination: HOST, protocol: 6, payload: segment }))
    : packet6(ipv6({ source: PEER6, destination: HOST6, protocol: 6, payload: segment }));
}

/** The TCP segment of a frame, if it is one. */
function segmentOf(frame: Buffer): Buffer | undefined {
  const type = frame.readUInt16BE(22);
  if (type === 0x0800 && frame[33] === 6) {
    const header = (frame[24]! & 15) * 4;
    return frame.subarray(24 + header, 24 + frame.readUInt16BE(26));
  }
  if (type === 0x86dd && frame[30] === 6) return frame.subarray(64, 64 + frame.readUInt16BE(28));
  return undefined;
}

function optionNames(segment: Buffer): string {
  const names: string[] = [];
  const end = (segment[12]! >> 4) * 4;
  for (let at = 20; at < end; ) {
    const kind = segment[at]!;
    if (kind === 0) break;
    if (kind === 1) {
      at++;
      continue;
    }
    if (kind === 2) names.push(`mss ${segment.readUInt16BE(at + 2)}`);
    // The shift depends on buffer sizes.
    else if (kind === 3) names.push('ws');
    else if (kind === 4) names.push('sack');
    else if (kind === 8) names.push('ts');
    at += segment[at + 1]! || 1;
  }
  return names.sort().join(' ');
}

export class Flow {
  readonly options: FlowOptions;
  readonly #side: Side;
  #sent = 0;
  /** The host's initial number; undefined before its SYN. */
  #iss: number | undefined;
  #seen = 0;
  #tsVal = 1000;
  #tsEcr = 0;
  /** The window of the last segment, as in its header. */
  window = 0;

  constructor(side: Side, options: FlowOptions) {
    this.#side = side;
    this.options = options;
  }

  /** Sends one step; returns the answers in words, `-` for none. */
  async step(step: Step): Promise<string> {
    const frame = this.frame(step);
    return this.words(await this.#side.exchange(frame), step.loose === true);
  }

  frame(step: Step): Buffer {
    const { options } = this;
    const seq = step.seq ?? this.#sent;
    const ack = step.ack ?? this.#seen;
    const isSyn = step.flags.includes('S');
    const parts: Uint8Array[] = [];
    if (isSyn && options.synOptions !== undefined) parts.push(options.synOptions);
    if (step.options !== undefined) parts.push(step.options);
    if (options.timestamps === true && !step.flags.includes('R')) {
      const value = this.#tsVal + (step.ts ?? 1);
      if (value > this.#tsVal) this.#tsVal = value;
      const ecr = step.flags.includes('A') ? this.#tsEcr : 0;
      parts.push(Buffer.concat([Buffer.from([1, 1, 8, 10]), u32(value), u32(ecr)]));
    }
    const length = (step.data?.length ?? 0) + (isSyn ? 1 : 0) + (step.flags.includes('F') ? 1 : 0);
    if (step.seq === undefined) this.#sent = seq + length;
    const bytes = tcpBytes(options, {
      ...step,
      seqNumber: options.isn + seq,
      ackNumber: step.flags.includes('A') ? (this.#iss ?? 0) + ack : ack,
      allOptions: Buffer.concat(parts),
    });
    return wrap(options, bytes);
  }

  /** Answers on this flow, in words. */
  words(frames: readonly Buffer[], loose: boolean): string {
    const words: string[] = [];
    for (const frame of frames) {
      const segment = segmentOf(frame);
      if (segment === undefined) {
        words.push(describeOther(frame));
        continue;
      }
      if (segment.readUInt16BE(2) !== this.options.peerPort) continue;
      const word = this.#word(segment, loose);
      if (word !== undefined) words.push(word);
    }
    return words.length === 0 ? '-' : words.join(', ');
  }

  #word(segment: Buffer, loose: boolean): string | undefined {
    const bits = segment[13]!;
    const flags = [...FLAGS].filter((letter, bit) => letter !== 'P' && bits & (1 << bit)).join('');
    const seqNumber = segment.readUInt32BE(4);
    const ackNumber = segment.readUInt32BE(8);
    const isSyn = (bits & 2) !== 0;
    if (isSyn) this.#iss ??= seqNumber;
    const header = (segment[12]! >> 4) * 4;
    const length = segment.length - header;
    const seq = signed(seqNumber - (this.#iss ?? 0));
    if (this.#iss !== undefined && !(bits & 4)) {
      this.#seen = Math.max(this.#seen, seq + length + (isSyn ? 1 : 0) + (bits & 1));
    }
    for (let at = 20; at < header; ) {
      const kind = segment[at]!;
      if (kind === 0) break;
      if (kind === 1) at++;
      else {
        if (kind === 8) this.#tsEcr = segment.readUInt32BE(at + 2);
        at += segment[at + 1]! || 1;
      }
    }
    if (!isSyn && !(bits & 4)) this.window = segment.readUInt16BE(14);
    if (loose && flags === 'A' && length === 0) return undefined;
    const ack = bits & 16 ? ` ack ${signed(ackNumber - this.options.isn)}` : '';
    const number = this.#iss === undefined ? seqNumber : seq;
    const names = isSyn ? ` (${optionNames(segment)})` : '';
    return `${flags} seq ${number}${ack}${length > 0 ? ` len ${length}` : ''}${names}`;
  }

  /** SYN, and the ACK of its answer. */
  async open(): Promise<string> {
    const answer = await this.step({ flags: 'S', seq: 0, ack: 0 });
    this.#sent = 1;
    await this.step({ flags: 'A', loose: true });
    return answer;
  }

  /** An ICMP error about the segment of the host's that began at `seq`. */
  icmpError(type: number, code: number, rest: number, seq: number): Buffer {
    const { port, peerPort, version } = this.options;
    const quoted = Buffer.concat([
      u16(port),
      u16(peerPort),
      u32(((this.#iss ?? 0) + seq) >>> 0),
      u32(this.options.isn + 1),
      Buffer.from([0x50, 0x10]),
      u16(500),
      u32(0),
    ]);
    if (version === 4) {
      const quote = ipv4({ source: HOST, destination: PEER, protocol: 6, payload: quoted });
      return packet(
        ipv4({ source: PEER, destination: HOST, protocol: 1, payload: icmp(type, code, rest, quote) }),
      );
    }
    const quote = ipv6({ source: HOST6, destination: PEER6, protocol: 6, payload: quoted });
    const ends = { source: PEER6, destination: HOST6 };
    return packet6(ipv6({ ...ends, protocol: 58, payload: icmp6(ends, type, code, rest, quote) }));
  }

  /** Asks how far the host is, by a byte it has: both answer at once, in every state that still knows the connection. */
  async position(): Promise<string> {
    return this.step({ flags: 'A', seq: 0, data: 'x' });
  }
}

/** What is not TCP, in words. */
export function describeOther(frame: Buffer): string {
  const type = frame.readUInt16BE(22);
  if (type === 0x0800) {
    const at = 24 + (frame[24]! & 15) * 4;
    const protocol = frame[33]!;
    if (protocol === 1) {
      const [kind, code] = [frame[at]!, frame[at + 1]!];
      if (kind === 12) return `icmp 12/${code} at ${frame[at + 4]}`;
      const length = frame.readUInt16BE(26) - (at - 24) - 8;
      return kind === 0 ? `echo reply ${length}` : `icmp ${kind}/${code}`;
    }
    if (protocol === 17) return `udp ${frame.readUInt16BE(at + 4) - 8}`;
    return `ipv4 ${protocol}`;
  }
  if (type === 0x86dd) {
    const next = frame[30]!;
    if (next === 58) {
      const [kind, code] = [frame[64]!, frame[65]!];
      if (kind === 4) return `icmp6 4/${code} at ${frame.readUInt32BE(68)}`;
      return kind === 129 ? `echo reply ${frame.readUInt16BE(28) - 8}` : `icmp6 ${kind}/${code}`;
    }
    if (next === 17) return `udp ${frame.readUInt16BE(68) - 8}`;
    return `ipv6 ${next}`;
  }
  return `type ${type.toString(16)}`;
}
