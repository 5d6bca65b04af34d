import type { DropReason } from '../../wire/index.ts';
import {
  parseTcpOptions,
  readU16,
  readU32,
  TCP,
  TCP_FLAG,
  TcpOptions,
  tcpHeaderLength,
} from '../../wire/index.ts';
import type { Seq } from './seq.ts';
import { toSeq } from './seq.ts';

export const { FIN, SYN, RST, PSH, ACK, URG } = TCP_FLAG;
/** ECE and CWR are not looked at: a peer that offers ECN is answered without, and then does not use it (RFC 3168 6.1.1). */
const FLAGS_WE_KNOW = 0x3f;

/**
 * The arriving segment, SEG.SEQ, SEG.ACK, SEG.LEN, SEG.WND of RFC 9293 3.3.1. A stack parses every segment into one and the
 * same object: nothing is allocated per segment.
 */
export class Segment {
  sourcePort = 0;
  destinationPort = 0;
  seq: Seq = toSeq(0);
  ack: Seq = toSeq(0);
  flags = 0;
  /** As it stands in the header, not scaled. */
  wnd = 0;
  /** With URG: sequence number behind the urgent data. */
  urgentEnd: Seq = toSeq(0);
  readonly options = new TcpOptions();
  /** Payload: buffer[dataAt, dataAt + dataLength). */
  buffer: Uint8Array = new Uint8Array(0);
  dataAt = 0;
  dataLength = 0;

  /** SEG.LEN: payload plus one for SYN and FIN each. */
  get len(): number {
    return this.dataLength + (this.flags & SYN ? 1 : 0) + (this.flags & FIN ? 1 : 0);
  }

  /** Parses header and options at buffer[at, at + length). */
  parse(buffer: Uint8Array, at: number, length: number): DropReason | undefined {
    if (length < TCP.MIN_HEADER) return 'tcp-too-short';
    const headerLength = tcpHeaderLength(buffer, at);
    if (headerLength < TCP.MIN_HEADER || headerLength > length) return 'tcp-bad-header-length';
    this.sourcePort = readU16(buffer, at + TCP.SOURCE_PORT);
    this.destinationPort = readU16(buffer, at + TCP.DESTINATION_PORT);
    this.seq = readU32(buffer, at + TCP.SEQUENCE) as Seq;
    this.ack = readU32(buffer, at + TCP.ACKNOWLEDGMENT) as Seq;
    this.flags = buffer[at + TCP.FLAGS]! & FLAGS_WE_KNOW;
    this.wnd = readU16(buffer, at + TCP.WINDOW);
    if (this.flags & URG) this.urgentEnd = toSeq(this.seq + readU16(buffer, at + TCP.URGENT));
    this.buffer = buffer;
    this.dataAt = at + headerLength;
    this.dataLength = length - headerLength;
    if (headerLength > TCP.MIN_HEADER) parseTcpOptions(buffer, at, headerLength, this.options);
    else this.options.clear();
    return undefined;
  }

  /** Removes `count` octets of sequence space at the front: received before. */
  trimFront(count: number): void {
    let left = count;
    if (left > 0 && this.flags & SYN) {
      this.flags &= ~SYN;
      this.seq = toSeq(this.seq + 1);
      left--;
    }
    const octets = Math.min(left, this.dataLength);
    this.seq = toSeq(this.seq + octets);
    this.dataAt += octets;
    this.dataLength -= octets;
    if (left > octets) this.flags &= ~FIN;
  }

  /** Keeps the first `count` octets of payload; what follows, FIN included, lies beyond the window. */
  trimBack(count: number): void {
    if (count >= this.dataLength) return;
    this.dataLength = Math.max(0, count);
    this.flags &= ~(FIN | PSH);
  }
}
