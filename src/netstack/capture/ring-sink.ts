/**
 * The latest part of a capture, in memory: chunks of whole blocks, of which the oldest go when the limit is reached. The section header
 * and the descriptions of interfaces are kept for ever, so that what is left can be read; statistics blocks are dropped.
 */
import type { CaptureSink } from './capture-sink.ts';
import { BLOCK } from './pcapng-blocks.ts';

const LEAST_BYTES = 1024 * 1024;

export interface RingFilter {
  /** Names of interfaces; absent: all. */
  readonly interfaces?: ReadonlySet<string>;
  /** Packets from this time on, ns since 1970. */
  readonly sinceNs?: bigint;
}

export class RingSink implements CaptureSink {
  readonly limitBytes: number;
  readonly #heads: Uint8Array[] = [];
  /** By number in the file. */
  readonly #names: string[] = [];
  #chunks: Uint8Array[] = [];
  #bytes = 0;

  /** @param limitBytes of packets, at least 1 MiB. */
  constructor(limitBytes: number) {
    this.limitBytes = Math.max(limitBytes, LEAST_BYTES);
  }

  /** Bytes of packets that are held. */
  get bytes(): number {
    return this.#bytes;
  }

  write(chunk: Uint8Array): Promise<void> {
    const view = viewOf(chunk);
    const packets: Uint8Array[] = [];
    let length = 0;
    forEachBlock(view, (type, at, total) => {
      const block = chunk.subarray(at, at + total);
      if (type === BLOCK.EPB) {
        packets.push(block);
        length += total;
      } else if (type !== BLOCK.ISB) {
        this.#heads.push(block.slice());
        if (type === BLOCK.IDB) this.#names.push(interfaceName(view, at, total));
      }
    });
    if (length > 0) {
      const kept = new Uint8Array(length);
      let to = 0;
      for (const packet of packets) {
        kept.set(packet, to);
        to += packet.length;
      }
      this.#chunks.push(kept);
      this.#bytes += length;
    }
    while (this.#bytes > this.limitBytes && this.#chunks.length > 1)
      this.#bytes -= this.#chunks.shift()!.length;
    return Promise.resolve();
  }

  close(): Promise<void> {
    this.#chunks = [];
    this.#bytes = 0;
    return Promise.resolve();
  }

  /** What is held, as chunks of a pcapng file, and how many packets they have. */
  dump(filter: RingFilter = {}): { chunks: Uint8Array[]; packets: number } {
    const { interfaces, sinceNs } = filter;
    let packets = 0;
    const chunks = [...this.#heads];
    for (const chunk of this.#chunks) {
      const view = viewOf(chunk);
      forEachBlock(view, (_type, at, total) => {
        const name = this.#names[view.getUint32(at + 8, true)];
        if (interfaces !== undefined && (name === undefined || !interfaces.has(name))) return;
        if (sinceNs !== undefined && timeOf(view, at) < sinceNs) return;
        chunks.push(chunk.subarray(at, at + total));
        packets++;
      });
    }
    return { chunks, packets };
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function forEachBlock(view: DataView, take: (type: number, at: number, total: number) => void): void {
  for (let at = 0; at < view.byteLength; ) {
    const total = view.getUint32(at + 4, true);
    take(view.getUint32(at, true), at, total);
    at += total;
  }
}

function timeOf(view: DataView, at: number): bigint {
  return (BigInt(view.getUint32(at + 12, true)) << 32n) | BigInt(view.getUint32(at + 16, true));
}

/** Option if_name of an interface description block. */
function interfaceName(view: DataView, at: number, total: number): string {
  for (let option = at + 16; option < at + total - 4; ) {
    const code = view.getUint16(option, true);
    const length = view.getUint16(option + 2, true);
    if (code === 0) break;
    if (code === 2) return Buffer.from(view.buffer, view.byteOffset + option + 4, length).toString('utf8');
    option += 4 + ((length + 3) & ~3);
  }
  return '';
}
