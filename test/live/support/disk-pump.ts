/**
 * A partition that uses its disk as much as it can: node disk-pump.ts SOCKET EXPORT. It reads one DiskOrder as JSON per line and prints,
 * so often, the bytes that it has written and read since the start.
 */
import { createInterface } from 'node:readline';
import { NbdClient } from '../../../src/blockdev/index.ts';

export interface DiskOrder {
  /** Length of the requests; 0: silence. */
  readonly bytes: number;
  /** Requests at a time. */
  readonly depth: number;
  readonly kind: 'write' | 'read' | 'flush';
}

const COUNT_MS = 50;
const BLOCK = 4096;

const [socket = '', exportName = ''] = process.argv.slice(2);
const client = await NbdClient.connect(socket, exportName, { maxInFlightRequests: 1024 });
const blocks = Number(client.size / BigInt(BLOCK));
let done = 0;
let order: DiskOrder = { bytes: 0, depth: 0, kind: 'write' };
let workers = 0;
let at = 1;

/** Goes on for as long as the order wants so many. */
async function worker(number: number): Promise<void> {
  workers++;
  const data = new Uint8Array(1024 * 1024).fill(number + 1);
  while (number < order.depth && order.bytes > 0) {
    const { bytes, kind } = order;
    // Every place once before any comes again, as good as random.
    at = (at + 7919) % (blocks - bytes / BLOCK);
    const offset = BigInt(at * BLOCK);
    if (kind === 'flush') await client.flush();
    else if (kind === 'write') await client.writeAt(data.subarray(0, bytes), offset);
    else await client.readAt(data.subarray(0, bytes), offset);
    done += kind === 'flush' ? 1 : bytes;
  }
  workers--;
}

createInterface({ input: process.stdin })
  .on('line', (line) => {
    order = JSON.parse(line) as DiskOrder;
    for (let number = workers; number < order.depth; number++) void worker(number);
  })
  .on('close', () => process.exit(0));
setInterval(() => console.log(done), COUNT_MS);
console.log(0);
