/** What may stand in each sector of a disk whose server was killed: the last acknowledged write, or one that was under way. */
import * as assert from 'uvu/assert';

export const SECTOR = 512;
const WORDS = SECTOR / 4;

/** Stamps grow from write to write over the whole disk; a write fills its sectors with its stamp. 0: never written. */
export class SectorModel {
  readonly sectors: number;
  readonly #acknowledged: Uint32Array;
  /** Sector → stamps handed in after the acknowledged one, never acknowledged. */
  readonly #open = new Map<number, Set<number>>();
  #last = 0;
  #lifeBegan = 0;
  acknowledgedWrites = 0;

  constructor(bytes: number) {
    this.sectors = bytes / SECTOR;
    this.#acknowledged = new Uint32Array(this.sectors);
  }

  /** The bytes of a new write, and its stamp. */
  begin(sector: number, count: number): { readonly stamp: number; readonly data: Buffer } {
    const stamp = ++this.#last;
    for (let s = sector; s < sector + count; s++) {
      let open = this.#open.get(s);
      if (open === undefined) {
        open = new Set();
        this.#open.set(s, open);
      }
      open.add(stamp);
    }
    const data = Buffer.alloc(count * SECTOR);
    new Uint32Array(data.buffer, data.byteOffset, count * WORDS).fill(stamp);
    return { stamp, data };
  }

  acknowledge(sector: number, count: number, stamp: number): void {
    this.acknowledgedWrites++;
    for (let s = sector; s < sector + count; s++) {
      this.#acknowledged[s] = stamp;
      this.#open.delete(s);
    }
  }

  /** Compares the disk and the disk that the log alone gives with what is allowed. */
  check(disk: Buffer, replayed: Buffer): void {
    const onDisk = new Uint32Array(disk.buffer, disk.byteOffset, disk.length / 4);
    const inLog = new Uint32Array(replayed.buffer, replayed.byteOffset, replayed.length / 4);
    for (let s = 0; s < this.sectors; s++) {
      const found = this.#sector(onDisk, s, 'disk');
      const logged = this.#sector(inLog, s, 'log');
      if (found > this.#lifeBegan)
        assert.ok(logged >= found, `sector ${s}: write ${found} went ahead of its record`);
    }
    this.#lifeBegan = this.#last;
  }

  #sector(words: Uint32Array, sector: number, where: string): number {
    const at = sector * WORDS;
    const found = words[at]!;
    for (let i = at + 1; i < at + WORDS; i++)
      if (words[i] !== found) assert.unreachable(`${where}, sector ${sector} is torn`);
    if (found !== this.#acknowledged[sector] && this.#open.get(sector)?.has(found) !== true)
      assert.unreachable(
        `${where}, sector ${sector}: holds write ${found}, acknowledged was ${this.#acknowledged[sector]}`,
      );
    return found;
  }
}
