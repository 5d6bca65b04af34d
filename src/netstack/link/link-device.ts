/**
 * A link carries packets: a virtio-net header of VNET_HDR_LEN bytes directly followed by one Ethernet frame, in one
 * contiguous range of one buffer. The header says what is left for the link to do (checksum, segmentation) or what the
 * link did not do (a received frame whose checksum is known good); all zero means "nothing, the frame is complete".
 * The same unit runs from the TAP through the mux to a partition's stack, so nobody on the way converts it.
 *
 *   offset  size  field         (virtio 1.2, 5.1.6; little-endian as the kernel's TUN driver on x86-64 and arm64 has it)
 *   0       1     flags         1 = NEEDS_CSUM (csum_start, csum_offset valid), 2 = DATA_VALID
 *   1       1     gso_type      0 none, 1 TCPv4, 3 UDP, 4 TCPv6, 5 UDP_L4; + 0x80 ECN
 *   2       2     hdr_len       length of all headers, Ethernet included
 *   4       2     gso_size      payload bytes per segment
 *   6       2     csum_start    where the checksummed part starts, from the Ethernet header
 *   8       2     csum_offset   where the checksum field stands, from csum_start; it holds the pseudo-header sum
 */
export const VNET_HDR_LEN = 10;

export interface LinkOffload {
  /** The link completes or carries NEEDS_CSUM packets. */
  readonly checksum: boolean;
  /** The link accepts TCPv4 packets larger than the MTU with gso_type 1. */
  readonly tcp4Segmentation: boolean;
  readonly tcp6Segmentation: boolean;
  /** Largest packet in bytes, VNET_HDR_LEN included, in either direction. */
  readonly maxPacket: number;
}

export interface LinkReceiver {
  /** One packet at buffer[offset, offset + length), valid only during the call. Must not throw. */
  receive(buffer: Uint8Array, offset: number, length: number): void;
  /** After the last packet of a batch: a good moment to acknowledge, and to flush what was transmitted. */
  endOfBatch(): void;
  /** A transmit had returned false; there is room again. */
  writable(): void;
}

/** Wrappers (capture, loss, delay, tracer) implement it around another one. */
export interface LinkDevice {
  readonly name: string;
  /** Largest IP packet in bytes (without Ethernet header). */
  readonly mtu: number;
  readonly offload: LinkOffload;
  attach(receiver: LinkReceiver): void;
  /** Copies one packet. False when the queue is full: the packet was not taken, `writable` will follow. */
  transmit(buffer: Uint8Array, offset: number, length: number): boolean;
  /** Sends what transmit has collected. */
  flush(): void;
  close(): void;
}

/** Packets that came in, or left, by shortcuts; bytes of their frames. */
export interface ShortcutCounters {
  readonly received: number;
  readonly receivedBytes: number;
  readonly transmitted: number;
  readonly transmittedBytes: number;
}

/**
 * A device that can pass packets on by itself. It repeats what was decided for a packet, and decides nothing: whoever makes
 * shortcuts forgets them before anything changes that the decision rested on.
 */
export interface ShortcutDevice extends LinkDevice {
  /**
   * Packets like this one may go to `to` from now on, unchanged, and without being received. Alike are packets with the same
   * Ethernet header and IP destination; those that `to` does not take as they are are received as ever, and so is a packet
   * behind others that are. False: there can be no shortcut.
   */
  addShortcut(to: LinkDevice, buffer: Uint8Array, offset: number, length: number): boolean;
  forgetShortcuts(): void;
  readonly shortcutCounters: ShortcutCounters;
}

export function hasShortcuts(device: LinkDevice): device is ShortcutDevice {
  return 'addShortcut' in device;
}
