/** The offload header in front of every frame (virtio 1.2, 5.1.6; little-endian); see link/link-device.ts for the unit. */
export const VNET = {
  FLAGS: 0,
  GSO_TYPE: 1,
  HEADERS_LENGTH: 2,
  GSO_SIZE: 4,
  CSUM_START: 6,
  CSUM_OFFSET: 8,
  LENGTH: 10,
} as const;

export const VNET_FLAG = { NEEDS_CSUM: 1, DATA_VALID: 2 } as const;

export const VNET_GSO = { NONE: 0, TCPV4: 1, UDP: 3, TCPV6: 4, UDP_L4: 5, ECN: 0x80 } as const;

function readLe16(buffer: Uint8Array, at: number): number {
  return buffer[at]! | (buffer[at + 1]! << 8);
}

function writeLe16(buffer: Uint8Array, at: number, value: number): void {
  buffer[at] = value;
  buffer[at + 1] = value >>> 8;
}

/** The checksum field of the packet holds the pseudo-header sum only. */
export function vnetNeedsChecksum(buffer: Uint8Array, at: number): boolean {
  return (buffer[at + VNET.FLAGS]! & VNET_FLAG.NEEDS_CSUM) !== 0;
}

/** The link vouches for the transport checksum: verified already, or never left this host. */
export function vnetChecksumGood(buffer: Uint8Array, at: number): boolean {
  return (buffer[at + VNET.FLAGS]! & (VNET_FLAG.NEEDS_CSUM | VNET_FLAG.DATA_VALID)) !== 0;
}

/** Without the ECN bit. */
export function vnetGsoType(buffer: Uint8Array, at: number): number {
  return buffer[at + VNET.GSO_TYPE]! & 0x7f;
}

export function vnetGsoSize(buffer: Uint8Array, at: number): number {
  return readLe16(buffer, at + VNET.GSO_SIZE);
}

export function vnetHeadersLength(buffer: Uint8Array, at: number): number {
  return readLe16(buffer, at + VNET.HEADERS_LENGTH);
}

/** From the Ethernet header. */
export function vnetCsumStart(buffer: Uint8Array, at: number): number {
  return readLe16(buffer, at + VNET.CSUM_START);
}

/** From csum_start. */
export function vnetCsumOffset(buffer: Uint8Array, at: number): number {
  return readLe16(buffer, at + VNET.CSUM_OFFSET);
}

/** "The frame is complete." */
export function clearVnet(buffer: Uint8Array, at: number): void {
  buffer.fill(0, at, at + VNET.LENGTH);
}

/** NEEDS_CSUM, and segmentation when `gsoType` is not NONE. Offsets are from the Ethernet header. */
export function emitVnet(
  buffer: Uint8Array,
  at: number,
  gsoType: number,
  headersLength: number,
  gsoSize: number,
  csumStart: number,
  csumOffset: number,
): void {
  buffer[at + VNET.FLAGS] = VNET_FLAG.NEEDS_CSUM;
  buffer[at + VNET.GSO_TYPE] = gsoType;
  writeLe16(buffer, at + VNET.HEADERS_LENGTH, headersLength);
  writeLe16(buffer, at + VNET.GSO_SIZE, gsoSize);
  writeLe16(buffer, at + VNET.CSUM_START, csumStart);
  writeLe16(buffer, at + VNET.CSUM_OFFSET, csumOffset);
}

/**
 * Whether the header makes sense for a frame of `frameLength` bytes: the checksum field lies inside, segmentation has a size
 * and asks for checksums.
 */
export function vnetIsValid(buffer: Uint8Array, at: number, frameLength: number): boolean {
  const flags = buffer[at + VNET.FLAGS]!;
  if ((flags & VNET_FLAG.NEEDS_CSUM) !== 0) {
    if (vnetCsumStart(buffer, at) + vnetCsumOffset(buffer, at) + 2 > frameLength) return false;
  }
  const gso = vnetGsoType(buffer, at);
  if (gso === VNET_GSO.NONE) return true;
  if (gso !== VNET_GSO.TCPV4 && gso !== VNET_GSO.TCPV6 && gso !== VNET_GSO.UDP_L4 && gso !== VNET_GSO.UDP) {
    return false;
  }
  return vnetGsoSize(buffer, at) !== 0;
}
