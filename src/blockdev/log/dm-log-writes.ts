/**
 * Export of a write log in the format of the kernel's device-mapper target `log-writes`, so that its replay tools read it
 * (Documentation/admin-guide/device-mapper/log-writes.rst and drivers/md/dm-log-writes.c: `struct log_write_super`,
 * `struct log_write_entry`). All integers little-endian. Sector 0 holds the super block; then, each on sectors of its own, an
 * entry and its data. A trim is a DISCARD without data; zeroes are written out, the format has no word for them.
 */
import { closeSync, fdatasync, openSync, write, writeSync } from 'node:fs';
import type { LogReader, LogRecord } from './log-reader.ts';
import { damaged } from './replay.ts';

export const DM_LOG_SUPER = {
  /** 0x6a736677736872. */
  magic: 0,
  version: 8,
  nrEntries: 16,
  sectorSize: 24,
  size: 28,
} as const;
export const DM_LOG_MAGIC = 0x6a736677736872n;
export const DM_LOG_VERSION = 1n;

export const DM_LOG_ENTRY = {
  /** In units of the log's sector size, on the logged disk. */
  sector: 0,
  nrSectors: 8,
  flags: 16,
  /** Of data that is the log's own (the text of a mark, on the sector of its entry): 0 for writes, whose data is counted in sectors. */
  dataLength: 24,
  size: 32,
} as const;
export const DmLogFlag = { flush: 1n, fua: 2n, discard: 4n, mark: 8n, metadata: 16n } as const;

/** Sector size of an export: that of the kernel's target on most disks. */
export const DM_LOG_SECTOR = 512;
/** Longest stretch of zeroes of one entry. */
const ZERO_BYTES = 1024 * 1024;

export interface DmLogExport {
  readonly records: number;
  readonly entries: number;
  /** Length of the file. */
  readonly bytes: number;
  /** Records whose place on the disk is not a multiple of a sector: the bytes around them came from earlier records, else zero. */
  readonly unaligned: number;
}

/**
 * Writes the whole records of `reader` to the new file `output`. Throws LogError `damaged` at a place that is not what was
 * written (the file then ends with the record before it), and errno of the file, `EEXIST` among them. A torn tail ends the log.
 */
export async function exportDmLogWrites(reader: LogReader, output: string): Promise<DmLogExport> {
  const fd = openSync(output, 'wx', 0o600);
  const out = new Entries(fd);
  try {
    const around = new Surroundings(await partlyWritten(reader));
    let records = 0;
    for await (const item of reader.scan()) {
      if ('finding' in item) {
        if (item.finding.kind === 'torn-tail') break;
        throw damaged(reader.directory, item.finding);
      }
      records++;
      await emitRecord(out, around, item.record, item.data);
    }
    return { records, entries: Number(out.count), bytes: out.at, unaligned: around.unaligned };
  } finally {
    out.writeSuper();
    await new Promise<void>((resolve) => fdatasync(fd, () => resolve()));
    closeSync(fd);
  }
}

async function emitRecord(
  out: Entries,
  around: Surroundings,
  record: LogRecord,
  data: Buffer,
): Promise<void> {
  const flags = record.fua ? DmLogFlag.fua : 0n;
  if (record.kind === 'flush') return out.entry(0, 0, DmLogFlag.flush, undefined);
  if (record.length === 0) return;
  const end = record.address + record.length;
  if (record.kind === 'data') {
    const whole = around.widen(record.address, data);
    return out.entry(whole.start, whole.data.length, flags, whole.data);
  }
  // A discard names whole sectors; what the log calls trim reads as zero afterwards, so its edges are written.
  const first = Math.ceil(record.address / DM_LOG_SECTOR) * DM_LOG_SECTOR;
  const last = Math.floor(end / DM_LOG_SECTOR) * DM_LOG_SECTOR;
  if (record.kind === 'trim' && first === record.address && last === end) {
    around.forget(first, last);
    return out.entry(first, last - first, flags | DmLogFlag.discard, undefined);
  }
  for (let at = record.address; at < end; ) {
    const part = Buffer.alloc(Math.min(ZERO_BYTES, end - at));
    const whole = around.widen(at, part);
    await out.entry(whole.start, whole.data.length, flags, whole.data);
    at += part.length;
  }
}

/** The entries of the file, in order. */
class Entries {
  at = DM_LOG_SECTOR;
  count = 0n;
  readonly #fd: number;
  readonly #head = Buffer.alloc(DM_LOG_SECTOR);

  constructor(fd: number) {
    this.#fd = fd;
  }

  async entry(start: number, length: number, flags: bigint, data: Buffer | undefined): Promise<void> {
    const head = this.#head;
    head.writeBigUInt64LE(BigInt(start / DM_LOG_SECTOR), DM_LOG_ENTRY.sector);
    head.writeBigUInt64LE(BigInt(length / DM_LOG_SECTOR), DM_LOG_ENTRY.nrSectors);
    head.writeBigUInt64LE(flags, DM_LOG_ENTRY.flags);
    await this.#write(head);
    if (data !== undefined) await this.#write(data);
    this.count++;
  }

  /** Last, when the number of entries is known. */
  writeSuper(): void {
    const block = Buffer.alloc(DM_LOG_SECTOR);
    block.writeBigUInt64LE(DM_LOG_MAGIC, DM_LOG_SUPER.magic);
    block.writeBigUInt64LE(DM_LOG_VERSION, DM_LOG_SUPER.version);
    block.writeBigUInt64LE(this.count, DM_LOG_SUPER.nrEntries);
    block.writeUInt32LE(DM_LOG_SECTOR, DM_LOG_SUPER.sectorSize);
    for (let done = 0; done < block.length; )
      done += writeSync(this.#fd, block, done, block.length - done, done);
  }

  async #write(bytes: Buffer): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      done += await new Promise<number>((resolve, reject) =>
        write(this.#fd, bytes, done, bytes.length - done, this.at + done, (error, n) =>
          error ? reject(error) : resolve(n),
        ),
      );
    }
    this.at += bytes.length;
  }
}

/**
 * The format knows whole sectors only. A write that does not begin or end on one is widened by what earlier records left there,
 * for which these sectors are remembered; zero where no record says anything.
 */
class Surroundings {
  unaligned = 0;
  readonly #wanted: ReadonlySet<number>;
  readonly #sectors = new Map<number, Buffer>();

  /** `wanted`: bytes at which sectors begin that some record writes in part. */
  constructor(wanted: ReadonlySet<number>) {
    this.#wanted = wanted;
  }

  widen(address: number, data: Buffer): { readonly start: number; readonly data: Buffer } {
    const end = address + data.length;
    const start = Math.floor(address / DM_LOG_SECTOR) * DM_LOG_SECTOR;
    const stop = Math.ceil(end / DM_LOG_SECTOR) * DM_LOG_SECTOR;
    let whole = data;
    if (start !== address || stop !== end) {
      this.unaligned++;
      whole = Buffer.alloc(stop - start);
      for (const sector of [start, stop - DM_LOG_SECTOR])
        this.#sectors.get(sector)?.copy(whole, sector - start);
      data.copy(whole, address - start);
    }
    this.#remember(start, whole);
    return { start, data: whole };
  }

  forget(start: number, end: number): void {
    for (const sector of this.#sectors.keys())
      if (sector >= start && sector < end) this.#sectors.delete(sector);
  }

  #remember(start: number, data: Buffer): void {
    if (this.#wanted.size === 0) return;
    for (let at = 0; at < data.length; at += DM_LOG_SECTOR)
      if (this.#wanted.has(start + at))
        this.#sectors.set(start + at, Buffer.from(data.subarray(at, at + DM_LOG_SECTOR)));
  }
}

/** Sectors that any record writes in part, by the byte at which they begin. None for a guest with sectors of its own. */
async function partlyWritten(reader: LogReader): Promise<Set<number>> {
  const found = new Set<number>();
  for await (const { address, length } of reader.records()) {
    const end = address + length;
    if (address % DM_LOG_SECTOR !== 0) found.add(address - (address % DM_LOG_SECTOR));
    if (end % DM_LOG_SECTOR !== 0) found.add(end - (end % DM_LOG_SECTOR));
  }
  return found;
}
