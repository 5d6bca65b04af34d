/** Two ends of rings in one process, and their memory as a hostile end has it: every byte can be written at any time. */
import { closeSync, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { Ring } from '../../tap-tun/src/index.ts';
import { inScratch } from './scratch.ts';

/** Longest packet, of either end. */
export const LONGEST = 65_563;
export const SMALL_RING = 256 * 1024;

interface Handle {
  readonly _handle: { readonly fd: number };
}
export const descriptorOf = (socket: Socket): number => (socket as unknown as Handle)._handle.fd;

export interface RingPair {
  /** Makes the memory, copies what it reads: the mux. */
  readonly maker: Ring;
  /** Looks at packets where they are: the partition. */
  readonly joiner: Ring;
  readonly memory: RingMemory;
  close(): void;
}

/** A connected pair of unix sockets, paused. */
export function socketPair(): Promise<[Socket, Socket]> {
  return inScratch(
    (directory) =>
      new Promise((resolve, reject) => {
        const path = join(directory, 'pair');
        const ends: Socket[] = [];
        const have = (socket: Socket) => {
          ends.push(socket);
          if (ends.length < 2) return;
          server.close();
          resolve([accepted!, ends.find((one) => one !== accepted)!]);
        };
        let accepted: Socket | undefined;
        const server = createServer({ pauseOnConnect: true }, (socket) => {
          accepted = socket;
          have(socket);
        });
        server.on('error', reject);
        server.listen(path, () => {
          const client = connect(path).pause();
          client.on('connect', () => have(client)).on('error', reject);
        });
      }),
  );
}

export async function ringPair(bytes = SMALL_RING): Promise<RingPair> {
  const [accepted, client] = await socketPair();
  const known = new Set(mappings().map(({ inode }) => inode));
  const joined = new Promise<Ring>((resolve, reject) => {
    Ring.ask(descriptorOf(client), LONGEST, (answer, ring) => {
      if (ring === undefined) reject(new Error(answer));
      else resolve(ring);
    });
  });
  const maker = Ring.offer(descriptorOf(accepted), { bytes, longest: LONGEST });
  accepted.destroy();
  const joiner = await joined;
  client.destroy();
  // The question was left in the socket, and is a bell like any other byte.
  await new Promise<void>((resolve) => {
    maker.onBell = resolve;
  });
  maker.onBell = undefined;
  const memory = new RingMemory(
    mappings().filter(({ inode }) => !known.has(inode)),
    bytes,
  );
  return {
    maker,
    joiner,
    memory,
    close() {
      maker.close();
      joiner.close();
      memory.close();
    },
  };
}

interface Mapping {
  readonly address: number;
  readonly fileOffset: number;
  readonly inode: string;
}

/** Of ring memory in this process. */
export function mappings(): Mapping[] {
  return [
    ...readFileSync('/proc/self/maps', 'utf8').matchAll(
      /^([0-9a-f]+)-\S+ \S+ ([0-9a-f]+) \S+ (\d+) +\/memfd:changeover-port/gm,
    ),
  ].map(([, address, fileOffset, inode]) => ({
    address: Number.parseInt(address!, 16),
    fileOffset: Number.parseInt(fileOffset!, 16),
    inode: inode!,
  }));
}

/** Lines of the control page, by ring: 0 is what the maker sends. */
export const LINE = { head: 0, tail: 64, wake: 128, room: 192 } as const;
const CONTROL_BYTES = 4096;
const RING_STRIDE = 256;

export class RingMemory {
  readonly #file = openSync('/proc/self/mem', 'r+');
  readonly #mappings: readonly Mapping[];
  readonly #ringBytes: number;
  readonly #word = Buffer.alloc(4);

  constructor(found: readonly Mapping[], ringBytes: number) {
    this.#mappings = found;
    this.#ringBytes = ringBytes;
  }

  line(ring: 0 | 1, line: keyof typeof LINE): number {
    readSync(this.#file, this.#word, 0, 4, this.#at(0) + ring * RING_STRIDE + LINE[line]);
    return this.#word.readUInt32LE();
  }

  setLine(ring: 0 | 1, line: keyof typeof LINE, value: number): void {
    this.#word.writeUInt32LE(value >>> 0);
    writeSync(this.#file, this.#word, 0, 4, this.#at(0) + ring * RING_STRIDE + LINE[line]);
  }

  /** Where an index stands. */
  write(ring: 0 | 1, index: number, bytes: Uint8Array): void {
    const place = index & (this.#ringBytes - 1);
    writeSync(this.#file, bytes, 0, bytes.length, this.#at(CONTROL_BYTES + ring * this.#ringBytes) + place);
  }

  writeLength(ring: 0 | 1, index: number, length: number): void {
    const word = Buffer.alloc(4);
    word.writeUInt32LE(length >>> 0);
    this.write(ring, index, word);
  }

  close(): void {
    closeSync(this.#file);
  }

  #at(fileOffset: number): number {
    return this.#mappings.find((mapping) => mapping.fileOffset === fileOffset)!.address;
  }
}
