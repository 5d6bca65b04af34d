/** The two CRCs of ext4 and its journal, both without the final inversion, as these formats store them. */

/** Reflected polynomial of CRC-32C (superblock, journal checksums of version 2 and 3). */
const CASTAGNOLI = 0x82f6_3b78;
/** Polynomial of CRC-32, most significant bit first (journal checksum of version 1). */
const IEEE = 0x04c1_1db7;

const castagnoli = new Uint32Array(256).map((_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ CASTAGNOLI : crc >>> 1;
  return crc;
});

/** `ieee[k][byte]`: the effect of a byte that k more bytes follow in the same word. */
const ieee: readonly Uint32Array[] = (() => {
  const first = new Uint32Array(256).map((_, byte) => {
    let crc = byte << 24;
    for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000_0000 ? (crc << 1) ^ IEEE : crc << 1;
    return crc;
  });
  const tables = [first];
  for (let k = 1; k < 4; k++) {
    const before = tables[k - 1]!;
    tables.push(before.map((value) => (value << 8) ^ first[value >>> 24]!));
  }
  return tables;
})();

export function crc32c(data: Uint8Array, seed = 0xffff_ffff): number {
  let crc = seed;
  for (let i = 0; i < data.length; i++) crc = castagnoli[(crc ^ data[i]!) & 0xff]! ^ (crc >>> 8);
  return crc >>> 0;
}

/** Four bytes per step: the journal's checksum runs over every block of a commit. */
export function crc32Be(data: Uint8Array, seed = 0xffff_ffff): number {
  const [t0, t1, t2, t3] = ieee as [Uint32Array, Uint32Array, Uint32Array, Uint32Array];
  let crc = seed;
  let i = 0;
  for (; i + 4 <= data.length; i += 4) {
    crc ^= (data[i]! << 24) | (data[i + 1]! << 16) | (data[i + 2]! << 8) | data[i + 3]!;
    crc = t3[crc >>> 24]! ^ t2[(crc >>> 16) & 0xff]! ^ t1[(crc >>> 8) & 0xff]! ^ t0[crc & 0xff]!;
  }
  for (; i < data.length; i++) crc = (crc << 8) ^ t0[((crc >>> 24) ^ data[i]!) & 0xff]!;
  return crc >>> 0;
}
