/** One stack, and a peer that is nothing but frames: what it sends is bytes, what it gets is kept. */
import { SeededRandom, VirtualClock } from '../../../src/common/index.ts';
import type { InterfaceOptions, MemoryLinkOptions } from '../../../src/netstack/index.ts';
import { cidr, ipv4Address, MemoryLink, macAddress, Stack } from '../../../src/netstack/index.ts';
import { arp, packet } from '../packets.ts';

export const PEER_MAC = '020000000002';
export const PEER = '10.77.0.2';
export const HOST_MAC = '020000000001';
export const HOST = '10.77.0.1';

export class RawPeer {
  readonly clock = new VirtualClock();
  readonly stack: Stack;
  /** Packets from the stack, offload header first. */
  received: Buffer[] = [];
  readonly #link: MemoryLink;

  constructor(options: MemoryLinkOptions & { host?: Partial<InterfaceOptions> } = {}) {
    const [hostLink, link] = MemoryLink.pair(this.clock, options);
    this.#link = link;
    link.attach({
      receive: (buffer, offset, length) => {
        this.received.push(Buffer.from(buffer.subarray(offset, offset + length)));
      },
      endOfBatch: () => {},
      writable: () => {},
    });
    this.stack = new Stack({
      clock: this.clock,
      random: new SeededRandom(7),
      link: hostLink,
      mac: macAddress('02:00:00:00:00:01'),
      addresses: [cidr('10.77.0.1/24')],
      gateway: ipv4Address('10.77.0.254'),
      ...options.host,
    });
  }

  /** Sends and lets the stack work; returns what came back at once. */
  exchange(...packets: Uint8Array[]): Buffer[] {
    this.received = [];
    for (const bytes of packets) this.#link.transmit(bytes, 0, bytes.length);
    this.#link.flush();
    this.clock.advance(1);
    return this.received;
  }

  take(): Buffer[] {
    const taken = this.received;
    this.received = [];
    return taken;
  }

  /** The stack learns the peer's hardware address. */
  introduce(ip = PEER): void {
    const [reply] = this.exchange(
      packet(arp(1, PEER_MAC, ip, '000000000000', HOST), { to: 'ffffffffffff', type: 0x0806 }),
    );
    if (reply === undefined) throw new Error('no ARP reply');
    this.take();
  }
}

export function isArp(bytes: Buffer): boolean {
  return bytes.readUInt16BE(22) === 0x0806;
}
