/**
 * TCP options: maximum segment size (RFC 9293 section 3.7.1), window scale and timestamps (RFC 7323), SACK-permitted and
 * SACK (RFC 2018). Parsing fills a record that the caller keeps; emitting returns where the next option goes, each padded
 * with NOPs to a multiple of four in the layout that others use.
 */
import { readU16, readU32, writeU16, writeU32 } from './big-endian.ts';
import { TCP } from './tcp.ts';

export const TCP_OPTION = {
  END: 0,
  NOP: 1,
  MSS: 2,
  WINDOW_SCALE: 3,
  SACK_PERMITTED: 4,
  SACK: 5,
  TIMESTAMPS: 8,
} as const;

/** Bytes including padding, as the emitters write them. */
export const TCP_OPTION_LENGTH = {
  MSS: 4,
  WINDOW_SCALE: 4,
  SACK_PERMITTED: 4,
  TIMESTAMPS: 12,
} as const;

/** A SACK option takes 4 + 8 n bytes: four blocks at most, three beside timestamps. */
export const MAX_SACK_BLOCKS = 4;
/** RFC 7323 section 2.3: a larger shift is taken as 14. */
export const MAX_WINDOW_SCALE = 14;

export class TcpOptions {
  /** −1: absent. */
  mss = -1;
  /** 0 … 14, or −1: absent. */
  windowScale = -1;
  sackPermitted = false;
  hasTimestamps = false;
  tsVal = 0;
  tsEcr = 0;
  sackCount = 0;
  readonly sackLeft = new Uint32Array(MAX_SACK_BLOCKS);
  readonly sackRight = new Uint32Array(MAX_SACK_BLOCKS);

  clear(): void {
    this.mss = -1;
    this.windowScale = -1;
    this.sackPermitted = false;
    this.hasTimestamps = false;
    this.tsVal = 0;
    this.tsEcr = 0;
    this.sackCount = 0;
  }
}

/** NOP NOP TIMESTAMPS 10: how nearly every segment's options start. */
const TIMESTAMPS_ALONE = 0x0101080a;

/**
 * Parses the options of a header of `headerLength` bytes into `into` (cleared first). An option with an impossible length
 * ends the walk: what came before it counts (RFC 9293, MUST-7), and the result is false.
 */
export function parseTcpOptions(
  buffer: Uint8Array,
  tcp: number,
  headerLength: number,
  into: TcpOptions,
): boolean {
  into.clear();
  let at = tcp + TCP.MIN_HEADER;
  const end = tcp + headerLength;
  if (headerLength === 32 && readU32(buffer, at) === TIMESTAMPS_ALONE) {
    into.hasTimestamps = true;
    into.tsVal = readU32(buffer, at + 4);
    into.tsEcr = readU32(buffer, at + 8);
    return true;
  }
  while (at < end) {
    const kind = buffer[at]!;
    if (kind === TCP_OPTION.END) return true;
    if (kind === TCP_OPTION.NOP) {
      at++;
      continue;
    }
    const length = at + 1 < end ? buffer[at + 1]! : 0;
    if (length < 2 || at + length > end) return false;
    switch (kind) {
      case TCP_OPTION.MSS:
        if (length === 4) into.mss = readU16(buffer, at + 2);
        break;
      case TCP_OPTION.WINDOW_SCALE:
        if (length === 3) into.windowScale = Math.min(buffer[at + 2]!, MAX_WINDOW_SCALE);
        break;
      case TCP_OPTION.SACK_PERMITTED:
        if (length === 2) into.sackPermitted = true;
        break;
      case TCP_OPTION.SACK:
        parseSack(buffer, at, length, into);
        break;
      case TCP_OPTION.TIMESTAMPS:
        if (length === 10) {
          into.hasTimestamps = true;
          into.tsVal = readU32(buffer, at + 2);
          into.tsEcr = readU32(buffer, at + 6);
        }
        break;
    }
    at += length;
  }
  return true;
}

function parseSack(buffer: Uint8Array, at: number, length: number, into: TcpOptions): void {
  if ((length - 2) % 8 !== 0) return;
  const count = Math.min((length - 2) / 8, MAX_SACK_BLOCKS);
  for (let i = 0; i < count; i++) {
    into.sackLeft[i] = readU32(buffer, at + 2 + 8 * i);
    into.sackRight[i] = readU32(buffer, at + 6 + 8 * i);
  }
  into.sackCount = count;
}

export function emitMss(buffer: Uint8Array, at: number, mss: number): number {
  buffer[at] = TCP_OPTION.MSS;
  buffer[at + 1] = 4;
  writeU16(buffer, at + 2, mss);
  return at + TCP_OPTION_LENGTH.MSS;
}

export function emitWindowScale(buffer: Uint8Array, at: number, shift: number): number {
  buffer[at] = TCP_OPTION.NOP;
  buffer[at + 1] = TCP_OPTION.WINDOW_SCALE;
  buffer[at + 2] = 3;
  buffer[at + 3] = shift;
  return at + TCP_OPTION_LENGTH.WINDOW_SCALE;
}

export function emitSackPermitted(buffer: Uint8Array, at: number): number {
  buffer[at] = TCP_OPTION.NOP;
  buffer[at + 1] = TCP_OPTION.NOP;
  buffer[at + 2] = TCP_OPTION.SACK_PERMITTED;
  buffer[at + 3] = 2;
  return at + TCP_OPTION_LENGTH.SACK_PERMITTED;
}

export function emitTimestamps(buffer: Uint8Array, at: number, tsVal: number, tsEcr: number): number {
  writeU32(buffer, at, TIMESTAMPS_ALONE);
  writeU32(buffer, at + 4, tsVal);
  writeU32(buffer, at + 8, tsEcr);
  return at + TCP_OPTION_LENGTH.TIMESTAMPS;
}

/** `count` blocks from the given edges; 4 + 8 × count bytes. */
export function emitSack(
  buffer: Uint8Array,
  at: number,
  count: number,
  left: ArrayLike<number>,
  right: ArrayLike<number>,
): number {
  buffer[at] = TCP_OPTION.NOP;
  buffer[at + 1] = TCP_OPTION.NOP;
  buffer[at + 2] = TCP_OPTION.SACK;
  buffer[at + 3] = 2 + 8 * count;
  for (let i = 0; i < count; i++) {
    writeU32(buffer, at + 4 + 8 * i, left[i]!);
    writeU32(buffer, at + 8 + 8 * i, right[i]!);
  }
  return at + 4 + 8 * count;
}
