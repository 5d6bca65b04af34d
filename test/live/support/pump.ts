/**
 * A partition that sends as fast as its port takes it, with next to no work of its own (the same bytes over and over, framed as
 * docs/mux.md says), or one that counts what arrives: node pump.ts '<Options as JSON>'.
 * It reads one Order as JSON per line; a sink prints, so often, the bytes that came from each MAC since the start.
 */
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import {
  ETHERNET,
  ETHERTYPE,
  emitEthernet,
  emitIpv4,
  emitUdp,
  ipv4Address,
  macAddress,
  PROTOCOL,
  StreamLink,
  VNET_HDR_LEN,
} from '../../../src/netstack/index.ts';

export interface PumpOptions {
  readonly socket: string;
  readonly mac: string;
  readonly address: string;
  readonly toMac: string;
  readonly to: string;
  readonly sink?: boolean;
  /** Over rings in shared memory instead of the stream. */
  readonly rings?: boolean;
}

export interface PumpOrder {
  /** Length of the frames; 0: silence. */
  readonly bytes: number;
  /** Sent with this MAC instead of its own. */
  readonly spoofed?: string;
}

const COUNT_MS = 50;
const CHUNK_BYTES = 128 * 1024;
const LENGTHS = 8;

const options = JSON.parse(process.argv[2] ?? '{}') as PumpOptions;

/** A frame with its lengths and its offload header before it. */
function unitOf({ bytes, spoofed }: PumpOrder): Uint8Array {
  const unit = new Uint8Array(LENGTHS + VNET_HDR_LEN + bytes);
  const view = new DataView(unit.buffer);
  view.setUint32(0, VNET_HDR_LEN + bytes);
  view.setUint32(4, VNET_HDR_LEN);
  const frame = LENGTHS + VNET_HDR_LEN;
  const ip = frame + ETHERNET.HEADER;
  const from = macAddress(spoofed ?? options.mac);
  emitEthernet(unit, frame, macAddress(options.toMac), from, ETHERTYPE.IPV4);
  const [source, destination] = [ipv4Address(options.address), ipv4Address(options.to)];
  emitIpv4(unit, ip, bytes - 14, 1, 0, 64, PROTOCOL.UDP, source, destination);
  emitUdp(unit, ip + 20, 9, 9, bytes - 34);
  return unit;
}

/** As many of them as fill a chunk. */
function chunk(order: PumpOrder): Buffer {
  const unit = unitOf(order);
  return Buffer.concat(Array.from({ length: Math.ceil(CHUNK_BYTES / unit.length) }, () => unit));
}

function count(): void {
  const link = new StreamLink({ path: options.socket, rings: options.rings === true });
  /** By the last byte of the MAC they came from. */
  const counts = new Float64Array(256);
  link.attach({
    receive: (buffer, offset, length) => {
      counts[buffer[offset + VNET_HDR_LEN + 11]!]! += length - VNET_HDR_LEN;
    },
    endOfBatch: () => {},
    writable: () => {},
  });
  setInterval(() => void process.stdout.write(`${JSON.stringify([...counts])}\n`), COUNT_MS);
}

function send(): void {
  const socket = connect(options.socket);
  let sending: Buffer | undefined;
  let writing = false;
  const pour = () => {
    if (sending === undefined || writing) return;
    writing = true;
    socket.write(sending, () => {
      writing = false;
      pour();
    });
  };
  createInterface({ input: process.stdin }).on('line', (line) => {
    const order = JSON.parse(line) as PumpOrder;
    sending = order.bytes === 0 ? undefined : chunk(order);
    pour();
  });
}

async function sendByRings(): Promise<void> {
  const link = new StreamLink({ path: options.socket, rings: true });
  await link.ready();
  if (link.carrier !== 'ring') throw new Error(`the port is carried by a ${link.carrier}`);
  let sending: Uint8Array | undefined;
  let full = false;
  let later = false;
  const pour = () => {
    later = false;
    if (sending === undefined || full) return;
    for (let bytes = 0; bytes < CHUNK_BYTES; bytes += sending.length - LENGTHS) {
      if (link.transmit(sending, LENGTHS, sending.length - LENGTHS)) continue;
      full = true;
      break;
    }
    link.flush();
    if (full || later) return;
    later = true;
    setImmediate(pour);
  };
  link.attach({
    receive: () => {},
    endOfBatch: () => {},
    writable: () => {
      full = false;
      pour();
    },
  });
  createInterface({ input: process.stdin }).on('line', (line) => {
    const order = JSON.parse(line) as PumpOrder;
    sending = order.bytes === 0 ? undefined : unitOf(order);
    if (!later) pour();
  });
}

if (options.sink === true) count();
else if (options.rings === true) await sendByRings();
else send();
process.stdin.on('end', () => process.exit(0));
process.stdin.resume();
process.stdout.write('ready\n');
