/**
 * Two link devices joined in memory. What one transmits and flushes, the other receives as one batch at the clock's next
 * moment; nothing is lost, reordered or changed (wrap it in impairments for that). Packets with offload requests arrive as
 * they are, like between two TAPs of one host.
 */
import type { Clock, Timer } from '../../common/index.ts';
import { copyBytes } from '../wire/index.ts';
import type { LinkDevice, LinkOffload, LinkReceiver } from './link-device.ts';

export interface MemoryLinkOptions {
  readonly mtu?: number;
  /** The link carries NEEDS_CSUM packets. Default false: everything must be complete. */
  readonly checksum?: boolean;
  /** The link carries TCP packets larger than the MTU; includes `checksum`. Default false. */
  readonly segmentation?: boolean;
  /** Packets that may wait in one direction. Default 1024. */
  readonly queuePackets?: number;
  readonly names?: readonly [string, string];
}

/** Offload header, Ethernet with a tag, the largest IP packet. */
const MAX_PACKET = 10 + 18 + 65_535;

export class MemoryLink implements LinkDevice {
  readonly name: string;
  readonly mtu: number;
  readonly offload: LinkOffload;
  readonly #clock: Clock;
  readonly #limit: number;
  #peer: MemoryLink | undefined;
  #receiver: LinkReceiver | undefined;
  /** Transmitted, not yet flushed; then flushed, not yet received by the peer. */
  #collected: Uint8Array[] = [];
  #underway: Uint8Array[] = [];
  #delivery: Timer | undefined;
  #refused = false;
  #closed = false;

  private constructor(clock: Clock, name: string, options: MemoryLinkOptions) {
    this.name = name;
    this.mtu = options.mtu ?? 1500;
    this.#clock = clock;
    this.#limit = options.queuePackets ?? 1024;
    const segmentation = options.segmentation ?? false;
    this.offload = {
      checksum: segmentation || (options.checksum ?? false),
      tcp4Segmentation: segmentation,
      tcp6Segmentation: segmentation,
      maxPacket: MAX_PACKET,
    };
  }

  /** The two ends. */
  static pair(clock: Clock, options: MemoryLinkOptions = {}): [MemoryLink, MemoryLink] {
    const [nameA, nameB] = options.names ?? ['memory-a', 'memory-b'];
    const a = new MemoryLink(clock, nameA, options);
    const b = new MemoryLink(clock, nameB, options);
    a.#peer = b;
    b.#peer = a;
    return [a, b];
  }

  attach(receiver: LinkReceiver): void {
    this.#receiver = receiver;
  }

  transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    if (this.#closed) return true;
    if (this.#collected.length + this.#underway.length >= this.#limit) {
      this.#refused = true;
      return false;
    }
    this.#collected.push(copyBytes(buffer, offset, length));
    return true;
  }

  flush(): void {
    if (this.#collected.length === 0) return;
    this.#underway.push(...this.#collected);
    this.#collected = [];
    this.#delivery ??= this.#clock.after(0, () => this.#deliver());
  }

  close(): void {
    this.#closed = true;
    this.#delivery?.cancel();
    this.#collected = [];
    this.#underway = [];
  }

  #deliver(): void {
    this.#delivery = undefined;
    const batch = this.#underway;
    this.#underway = [];
    const peer = this.#peer;
    const receiver = peer === undefined || peer.#closed ? undefined : peer.#receiver;
    if (receiver !== undefined) {
      for (const packet of batch) receiver.receive(packet, 0, packet.length);
      receiver.endOfBatch();
    }
    if (this.#refused && !this.#closed) {
      this.#refused = false;
      this.#receiver?.writable();
    }
  }
}
