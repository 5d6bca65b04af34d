/** Sequences of segments whose treatment by the kernel and by our stack is compared. */
import { hex } from '../../netstack/packets.ts';
import type { FlowOptions, Step } from './oracle-flow.ts';
import { PORT, TALK_BYTES } from './oracle-sides.ts';

export interface Case {
  readonly name: string;
  readonly flow?: Partial<FlowOptions>;
  /** Without the handshake: the steps begin with a SYN of their own, or with none. */
  readonly raw?: boolean;
  readonly steps: readonly Step[];
}

const ALL_OPTIONS = hex('020405b4 0402 0303 07 01');
const SACK_ONLY = hex('020405b4 0402 0000');
const sackOption = (...edges: number[]) => {
  const out = Buffer.alloc(4 + 4 * edges.length);
  out.set([1, 1, 5, 2 + 4 * edges.length]);
  for (const [i, edge] of edges.entries()) out.writeUInt32BE(edge >>> 0, 4 + 4 * i);
  return out;
};

/** The peer's initial number in every case that does not choose one. */
export const ISN = 0x1000_0000;

export const CASES: readonly Case[] = [
  // --- opening ---------------------------------------------------------------------------------------------------------
  { name: 'SYN to a listener, no options', raw: true, steps: [{ flags: 'S', seq: 0 }] },
  {
    name: 'SYN with all options',
    raw: true,
    flow: { synOptions: ALL_OPTIONS, timestamps: true },
    steps: [{ flags: 'S', seq: 0 }],
  },
  {
    name: 'SYN with SACK permitted only',
    raw: true,
    flow: { synOptions: SACK_ONLY },
    steps: [{ flags: 'S', seq: 0 }],
  },
  {
    name: 'SYN with timestamps only',
    raw: true,
    flow: { timestamps: true },
    steps: [{ flags: 'S', seq: 0 }],
  },
  {
    name: 'SYN with a window scale of 14',
    raw: true,
    flow: { synOptions: hex('020405b4 0303 0e 00') },
    steps: [{ flags: 'S', seq: 0 }],
  },
  {
    name: 'SYN with a window scale of 15',
    raw: true,
    flow: { synOptions: hex('020405b4 0303 0f 00') },
    steps: [{ flags: 'S', seq: 0 }],
  },
  {
    name: 'SYN with an MSS of 0',
    raw: true,
    flow: { synOptions: hex('02040000') },
    steps: [{ flags: 'S', seq: 0 }],
  },
  {
    name: 'SYN with an MSS of 65535',
    raw: true,
    flow: { synOptions: hex('0204ffff') },
    steps: [{ flags: 'S', seq: 0 }],
  },
  {
    name: 'SYN with an option of an unknown kind',
    raw: true,
    flow: { synOptions: hex('fe0411220204 05b4') },
    steps: [{ flags: 'S', seq: 0 }],
  },
  {
    name: 'SYN with an option that ends beyond the header',
    raw: true,
    flow: { synOptions: hex('020405b4 03ff0101') },
    steps: [{ flags: 'S', seq: 0 }],
  },
  {
    name: 'SYN with an option of length 0',
    raw: true,
    flow: { synOptions: hex('02040400 fe000101') },
    steps: [{ flags: 'S', seq: 0 }],
  },
  {
    name: 'SYN with an option of length 1',
    raw: true,
    flow: { synOptions: hex('fe010101 02040400') },
    steps: [{ flags: 'S', seq: 0 }],
  },
  {
    name: 'SYN with an MSS option of the wrong length',
    raw: true,
    flow: { synOptions: hex('020305b4') },
    steps: [{ flags: 'S', seq: 0 }],
  },
  {
    name: 'SYN with options behind the end of the list',
    raw: true,
    flow: { synOptions: hex('00000000 020405b4') },
    steps: [{ flags: 'S', seq: 0 }],
  },
  {
    name: 'SYN again, the same',
    raw: true,
    steps: [
      { flags: 'S', seq: 0 },
      { flags: 'S', seq: 0 },
    ],
  },
  { name: 'SYN with data', raw: true, steps: [{ flags: 'S', seq: 0, data: 'abc' }] },
  { name: 'SYN with FIN', raw: true, steps: [{ flags: 'SF', seq: 0 }] },
  { name: 'SYN with RST', raw: true, steps: [{ flags: 'SR', seq: 0 }] },
  { name: 'SYN with ACK to a listener', raw: true, steps: [{ flags: 'SA', seq: 0, ack: 77 }] },
  { name: 'SYN with URG and PSH', raw: true, steps: [{ flags: 'SPU', seq: 0, urgent: 1 }] },
  { name: 'SYN with ECE and CWR', raw: true, steps: [{ flags: 'SEC', seq: 0 }] },
  { name: 'SYN to a closed port', raw: true, flow: { port: PORT.CLOSED }, steps: [{ flags: 'S', seq: 0 }] },
  {
    name: 'SYN with data to a closed port',
    raw: true,
    flow: { port: PORT.CLOSED },
    steps: [{ flags: 'S', seq: 0, data: 'abcde' }],
  },
  {
    name: 'SYN with FIN to a closed port',
    raw: true,
    flow: { port: PORT.CLOSED },
    steps: [{ flags: 'SF', seq: 0 }],
  },
  {
    name: 'ACK to a closed port',
    raw: true,
    flow: { port: PORT.CLOSED },
    steps: [{ flags: 'A', seq: 5, ack: 99 }],
  },
  {
    name: 'FIN with ACK to a closed port',
    raw: true,
    flow: { port: PORT.CLOSED },
    steps: [{ flags: 'FA', seq: 5, ack: 99 }],
  },
  { name: 'RST to a closed port', raw: true, flow: { port: PORT.CLOSED }, steps: [{ flags: 'R', seq: 5 }] },
  {
    name: 'no flags to a closed port',
    raw: true,
    flow: { port: PORT.CLOSED },
    steps: [{ flags: '', seq: 5, ack: 99 }],
  },
  {
    name: 'all flags to a closed port',
    raw: true,
    flow: { port: PORT.CLOSED },
    steps: [{ flags: 'FSRPAUEC', seq: 5, ack: 99 }],
  },
  { name: 'ACK to a listener', raw: true, steps: [{ flags: 'A', seq: 5, ack: 99 }] },
  { name: 'FIN to a listener', raw: true, steps: [{ flags: 'F', seq: 5, ack: 0 }] },
  { name: 'no flags to a listener', raw: true, steps: [{ flags: '', seq: 5, ack: 0 }] },
  { name: 'FIN, PSH, URG to a listener', raw: true, steps: [{ flags: 'FPU', seq: 5, ack: 0 }] },
  { name: 'RST to a listener', raw: true, steps: [{ flags: 'R', seq: 5, ack: 0 }] },
  { name: 'a bad checksum on a SYN', raw: true, steps: [{ flags: 'S', seq: 0, damage: 1 }] },
  { name: 'a header length below 5 words', raw: true, steps: [{ flags: 'S', seq: 0, byte12: 0x40 }] },
  { name: 'a header length beyond the segment', raw: true, steps: [{ flags: 'S', seq: 0, byte12: 0xf0 }] },
  { name: 'reserved bits on a SYN', raw: true, steps: [{ flags: 'S', seq: 0, byte12: 0x5e }] },
  // --- SYN-RECEIVED ----------------------------------------------------------------------------------------------------
  {
    name: 'SYN-RECEIVED: an ACK of too much',
    raw: true,
    steps: [
      { flags: 'S', seq: 0 },
      { flags: 'A', seq: 1, ack: 5 },
      { flags: 'A', seq: 1, ack: 1, loose: true },
    ],
  },
  {
    name: 'SYN-RECEIVED: an ACK of too little',
    raw: true,
    steps: [
      { flags: 'S', seq: 0 },
      { flags: 'A', seq: 1, ack: 0 },
    ],
  },
  {
    name: 'SYN-RECEIVED: RST at the expected number',
    raw: true,
    steps: [
      { flags: 'S', seq: 0 },
      { flags: 'R', seq: 1 },
      { flags: 'A', seq: 1, ack: 1 },
    ],
  },
  {
    name: 'SYN-RECEIVED: RST elsewhere in the window',
    raw: true,
    steps: [
      { flags: 'S', seq: 0 },
      { flags: 'R', seq: 100 },
      { flags: 'A', seq: 1, ack: 1, loose: true },
    ],
  },
  {
    name: 'SYN-RECEIVED: RST outside of the window',
    raw: true,
    steps: [
      { flags: 'S', seq: 0 },
      { flags: 'R', seq: -100 },
      { flags: 'A', seq: 1, ack: 1, loose: true },
    ],
  },
  {
    name: 'SYN-RECEIVED: a new SYN in the window',
    raw: true,
    steps: [
      { flags: 'S', seq: 0 },
      { flags: 'S', seq: 50 },
      { flags: 'A', seq: 1, ack: 1, loose: true },
    ],
  },
  {
    name: 'SYN-RECEIVED: data with the ACK',
    raw: true,
    steps: [
      { flags: 'S', seq: 0 },
      { flags: 'PA', seq: 1, ack: 1, data: 'hello', loose: true },
    ],
  },
  {
    name: 'SYN-RECEIVED: data and FIN with the ACK',
    raw: true,
    steps: [
      { flags: 'S', seq: 0 },
      { flags: 'FPA', seq: 1, ack: 1, data: 'hello', loose: true },
    ],
  },
  {
    name: 'SYN-RECEIVED: data without ACK',
    raw: true,
    steps: [
      { flags: 'S', seq: 0 },
      { flags: 'P', seq: 1, ack: 0, data: 'hello' },
    ],
  },
  {
    name: 'SYN-RECEIVED: FIN without ACK',
    raw: true,
    steps: [
      { flags: 'S', seq: 0 },
      { flags: 'F', seq: 1, ack: 0 },
    ],
  },
  {
    name: 'SYN-RECEIVED: an ACK outside of the window',
    raw: true,
    steps: [
      { flags: 'S', seq: 0 },
      { flags: 'A', seq: 0x20_0000, ack: 1 },
    ],
  },
  // --- ESTABLISHED: text ---------------------------------------------------------------------------------------------
  {
    name: 'data in order',
    steps: [
      { flags: 'PA', data: 'one', loose: true },
      { flags: 'PA', data: 'two', loose: true },
    ],
  },
  {
    name: 'data twice',
    steps: [
      { flags: 'PA', data: 'one', loose: true },
      { flags: 'PA', seq: 1, data: 'one' },
    ],
  },
  {
    name: 'data overlapping what was received',
    steps: [
      { flags: 'PA', data: 'abcd', loose: true },
      { flags: 'PA', seq: 3, data: 'XYef', loose: true },
    ],
  },
  {
    name: 'a gap, then the gap',
    steps: [
      { flags: 'PA', seq: 4, data: 'def' },
      { flags: 'PA', seq: 1, data: 'abc', loose: true },
    ],
  },
  {
    name: 'a gap filled by more than it',
    flow: { synOptions: SACK_ONLY },
    steps: [
      { flags: 'PA', seq: 4, data: 'def' },
      { flags: 'PA', seq: 1, data: 'ABCDEFGH', loose: true },
    ],
  },
  {
    name: 'out of order pieces that overlap',
    flow: { synOptions: SACK_ONLY },
    steps: [
      { flags: 'PA', seq: 4, data: 'defg' },
      { flags: 'PA', seq: 6, data: 'FGhi' },
      { flags: 'PA', seq: 1, data: 'abc', loose: true },
    ],
  },
  {
    name: 'out of order piece inside another',
    steps: [
      { flags: 'PA', seq: 4, data: 'defghi' },
      { flags: 'PA', seq: 5, data: 'EF' },
      { flags: 'PA', seq: 1, data: 'abc', loose: true },
    ],
  },
  {
    name: 'out of order piece around another',
    steps: [
      { flags: 'PA', seq: 5, data: 'EF' },
      { flags: 'PA', seq: 4, data: 'defghi' },
      { flags: 'PA', seq: 1, data: 'abc', loose: true },
    ],
  },
  { name: 'data far beyond the window', steps: [{ flags: 'PA', seq: 0x100_0000, data: 'x' }] },
  { name: 'data before the window', steps: [{ flags: 'PA', seq: -5000, data: 'xyz' }] },
  {
    name: 'data that begins before the window and reaches into it',
    steps: [{ flags: 'PA', seq: -1, data: '__abc', loose: true }],
  },
  { name: 'data without ACK', steps: [{ flags: 'P', ack: 0, data: 'abc' }] },
  { name: 'no flags at all', steps: [{ flags: '', ack: 0 }] },
  {
    name: 'data with a bad checksum',
    steps: [
      { flags: 'PA', data: 'abc', damage: 7 },
      { flags: 'PA', seq: 1, data: 'abc', loose: true },
    ],
  },
  {
    name: 'numbers that wrap',
    flow: { isn: 0xffff_fffd },
    steps: [
      { flags: 'PA', data: 'abcdefgh', loose: true },
      { flags: 'PA', seq: 2, data: 'bcd' },
    ],
  },
  // --- ESTABLISHED: ACK ----------------------------------------------------------------------------------------------
  { name: 'an ACK of what was never sent', steps: [{ flags: 'A', ack: 50_000 }] },
  { name: 'an ACK of what was never sent, with data', steps: [{ flags: 'PA', ack: 50_000, data: 'abc' }] },
  { name: 'an ACK that is too old', steps: [{ flags: 'A', ack: -100_000 }] },
  { name: 'an ACK that is too old, with data', steps: [{ flags: 'PA', ack: -100_000, data: 'abc' }] },
  {
    name: 'an old ACK within the largest window',
    flow: { port: PORT.TALK },
    steps: [
      { flags: 'A', ack: TALK_BYTES + 1 },
      { flags: 'A', ack: 1 },
    ],
  },
  {
    name: 'a keep-alive probe',
    steps: [
      { flags: 'PA', data: 'a', loose: true },
      { flags: 'A', seq: 1 },
    ],
  },
  {
    name: 'a keep-alive probe with a byte',
    steps: [
      { flags: 'PA', data: 'a', loose: true },
      { flags: 'A', seq: 1, data: 'a' },
    ],
  },
  // --- ESTABLISHED: RST, SYN -----------------------------------------------------------------------------------------
  { name: 'RST at RCV.NXT', steps: [{ flags: 'R' }] },
  { name: 'RST with ACK at RCV.NXT', steps: [{ flags: 'RA' }] },
  { name: 'RST with data at RCV.NXT', steps: [{ flags: 'RA', data: 'why' }] },
  { name: 'RST one beyond RCV.NXT', steps: [{ flags: 'R', seq: 2 }] },
  { name: 'RST in the window', steps: [{ flags: 'R', seq: 1000 }] },
  { name: 'RST with ACK in the window', steps: [{ flags: 'RA', seq: 1000 }] },
  { name: 'RST before the window', steps: [{ flags: 'R', seq: 0 }] },
  { name: 'RST beyond the window', steps: [{ flags: 'R', seq: 0x100_0000 }] },
  {
    name: 'RST at the end of a piece out of order',
    flow: { synOptions: SACK_ONLY },
    steps: [
      { flags: 'PA', seq: 4, data: 'def' },
      { flags: 'R', seq: 7 },
    ],
  },
  { name: 'SYN in the window', steps: [{ flags: 'S', seq: 1000 }] },
  { name: 'SYN at RCV.NXT', steps: [{ flags: 'S', seq: 1 }] },
  { name: 'the first SYN again', steps: [{ flags: 'S', seq: 0 }] },
  { name: 'SYN beyond the window', steps: [{ flags: 'S', seq: 0x100_0000 }] },
  { name: 'SYN with ACK', steps: [{ flags: 'SA', seq: 1 }] },
  { name: 'SYN with data', steps: [{ flags: 'S', seq: 1, data: 'abc' }] },
  { name: 'SYN with FIN in the window', steps: [{ flags: 'SF', seq: 10 }] },
  // --- FIN -----------------------------------------------------------------------------------------------------------
  { name: 'FIN', steps: [{ flags: 'FA' }] },
  {
    name: 'FIN, kept half open',
    flow: { port: PORT.HALF },
    steps: [
      { flags: 'FA', loose: true },
      { flags: 'PA', data: 'more' },
      { flags: 'FA', seq: 1 },
    ],
  },
  { name: 'FIN with data', steps: [{ flags: 'FPA', data: 'bye' }] },
  {
    name: 'FIN out of order',
    steps: [
      { flags: 'FPA', seq: 4, data: 'def' },
      { flags: 'PA', seq: 1, data: 'abc', loose: true },
    ],
  },
  {
    name: 'FIN alone out of order',
    steps: [
      { flags: 'FA', seq: 4 },
      { flags: 'PA', seq: 1, data: 'abc', loose: true },
    ],
  },
  { name: 'FIN without ACK', steps: [{ flags: 'F', ack: 0 }] },
  {
    name: 'data beyond a FIN that came early',
    flow: { port: PORT.HALF },
    steps: [
      { flags: 'FA', seq: 4 },
      { flags: 'PA', seq: 4, data: 'XYZ', loose: true },
      { flags: 'PA', seq: 1, data: 'abc', loose: true },
    ],
  },
  { name: 'RST after FIN', flow: { port: PORT.HALF }, steps: [{ flags: 'FA', loose: true }, { flags: 'R' }] },
  {
    name: 'SYN after FIN',
    flow: { port: PORT.HALF },
    steps: [
      { flags: 'FA', loose: true },
      { flags: 'S', seq: 2 },
    ],
  },
  // --- our FIN -------------------------------------------------------------------------------------------------------
  {
    name: 'FIN-WAIT-2: data still comes',
    flow: { port: PORT.HANG_UP },
    steps: [
      { flags: 'A', loose: true },
      { flags: 'PA', data: 'late', loose: true },
    ],
  },
  {
    name: 'FIN-WAIT-1: data and ACK',
    flow: { port: PORT.HANG_UP },
    steps: [{ flags: 'PA', ack: 1, data: 'late', loose: true }],
  },
  {
    name: 'FIN-WAIT-1: FIN without ACK of ours',
    flow: { port: PORT.HANG_UP },
    steps: [
      { flags: 'FA', ack: 1 },
      { flags: 'A', ack: 2 },
    ],
  },
  {
    name: 'FIN-WAIT-1: FIN with ACK of ours',
    flow: { port: PORT.HANG_UP },
    steps: [{ flags: 'FA', ack: 2 }],
  },
  {
    name: 'FIN-WAIT-2: FIN',
    flow: { port: PORT.HANG_UP },
    steps: [
      { flags: 'A', ack: 2, loose: true },
      { flags: 'FA', ack: 2 },
    ],
  },
  {
    name: 'TIME-WAIT: FIN again',
    flow: { port: PORT.HANG_UP },
    steps: [
      { flags: 'FA', ack: 2 },
      { flags: 'FA', seq: 1, ack: 2 },
    ],
  },
  {
    name: 'TIME-WAIT: RST',
    flow: { port: PORT.HANG_UP },
    steps: [
      { flags: 'FA', ack: 2 },
      { flags: 'R', seq: 2 },
    ],
  },
  {
    name: 'TIME-WAIT: data',
    flow: { port: PORT.HANG_UP },
    steps: [
      { flags: 'FA', ack: 2 },
      { flags: 'PA', seq: 2, ack: 2, data: 'abc' },
    ],
  },
  {
    name: 'TIME-WAIT: an old SYN',
    flow: { port: PORT.HANG_UP },
    steps: [
      { flags: 'FA', ack: 2 },
      { flags: 'S', seq: 1 },
    ],
  },
  {
    name: 'LAST-ACK: the last ACK, then anything',
    steps: [{ flags: 'FA' }, { flags: 'A', ack: 2 }, { flags: 'A', ack: 2 }],
  },
  { name: 'LAST-ACK: FIN again', steps: [{ flags: 'FA' }, { flags: 'FA', seq: 1 }] },
  { name: 'LAST-ACK: RST', steps: [{ flags: 'FA' }, { flags: 'R' }] },
  // --- sending ---------------------------------------------------------------------------------------------------------
  {
    name: 'a program that talks',
    flow: { port: PORT.TALK, synOptions: hex('020405b4') },
    steps: [{ flags: 'A' }],
  },
  {
    name: 'a program that talks to a small MSS',
    flow: { port: PORT.TALK, synOptions: hex('02040218') },
    steps: [{ flags: 'A' }],
  },
  {
    name: 'three duplicate ACKs',
    flow: { port: PORT.TALK, synOptions: SACK_ONLY },
    steps: [{ flags: 'A', ack: 1, options: sackOption(ISN, ISN) }],
  },
  {
    name: 'a window of zero, then opened',
    flow: { port: PORT.TALK, window: 0 },
    steps: [{ flags: 'A', ack: 1, window: 60_000, loose: true }],
  },
  // --- timestamps ------------------------------------------------------------------------------------------------------
  {
    name: 'an old timestamp on data',
    flow: { synOptions: ALL_OPTIONS, timestamps: true },
    steps: [
      { flags: 'PA', data: 'abc', loose: true },
      { flags: 'PA', seq: 4, data: 'def', ts: -500 },
    ],
  },
  {
    name: 'an old timestamp on RST',
    flow: { synOptions: ALL_OPTIONS, timestamps: true },
    steps: [{ flags: 'R' }],
  },
  {
    name: 'no timestamp where one is due',
    flow: { synOptions: Buffer.concat([ALL_OPTIONS, hex('0101080a 00000001 00000000')]) },
    steps: [{ flags: 'PA', data: 'abc', loose: true }],
  },
  {
    name: 'the same timestamp again',
    flow: { synOptions: ALL_OPTIONS, timestamps: true },
    steps: [
      { flags: 'PA', data: 'abc', loose: true },
      { flags: 'PA', data: 'def', ts: 0, loose: true },
    ],
  },
  // --- urgent data -------------------------------------------------------------------------------------------------------
  {
    name: 'urgent data in line',
    steps: [
      { flags: 'PAU', data: 'abc', urgent: 3, loose: true },
      { flags: 'PA', data: 'def', loose: true },
    ],
  },
  {
    name: 'an urgent pointer beyond the data',
    steps: [
      { flags: 'PAU', data: 'abc', urgent: 100, loose: true },
      { flags: 'PA', data: 'def', loose: true },
    ],
  },
  { name: 'an urgent pointer of zero', steps: [{ flags: 'PAU', data: 'abc', urgent: 0, loose: true }] },
  // --- reserved bits -----------------------------------------------------------------------------------------------------
  { name: 'ECE and CWR on data', steps: [{ flags: 'PAEC', data: 'abc', loose: true }] },
  { name: 'reserved bits on data', steps: [{ flags: 'PA', data: 'abc', byte12: 0x5e, loose: true }] },
  {
    name: 'options that lie on data',
    steps: [{ flags: 'PA', data: 'abc', options: hex('fe000000'), loose: true }],
  },
];
