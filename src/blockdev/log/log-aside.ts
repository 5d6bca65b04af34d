/**
 * Late writes set aside: a write log of their own and an index of what they cover, so that the one who wrote reads back what
 * it wrote. The disk itself stays as it was at its cut.
 */
import { read, renameSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf } from '../../common/index.ts';
import { DeviceError } from '../device.ts';
import type { Aside, WriteKind } from '../filter/index.ts';
import { RECORD, segmentName } from './format.ts';
import { LogReader } from './log-reader.ts';
import { recoverLog } from './replay.ts';
import type { WriteLogOptions } from './write-log.ts';
import { WriteLog } from './write-log.ts';

interface Run {
  readonly start: number;
  readonly end: number;
  /** Where the byte of `start` stands; undefined: zeroes. */
  readonly segment?: number;
  readonly offset?: number;
}

export class LogAside implements Aside {
  readonly directory: string;
  /** What a former process had set aside here. */
  readonly found = { writes: 0, bytes: 0 };
  readonly #log: WriteLog;
  /** Disjoint, ascending. */
  #runs: Run[] = [];
  readonly #files = new Map<number, FileHandle>();
  #chain: Promise<unknown> = Promise.resolve();

  private constructor(directory: string, log: WriteLog) {
    this.directory = directory;
    this.#log = log;
  }

  /** Begins a store in `directory`, or goes on with the one that is there. Throws LogError. */
  static async open(
    directory: string,
    disk: { readonly diskId: string; readonly diskSize: bigint },
  ): Promise<LogAside> {
    const options = { ...disk, purpose: 'setAside' as const };
    try {
      const { tail, damage } = await recoverLog(directory, { diskId: disk.diskId });
      if (damage !== undefined) return LogAside.#anew(directory, options);
      const reader = await LogReader.open(directory);
      const aside = new LogAside(directory, WriteLog.resume(directory, tail, options));
      for await (const record of reader.records()) {
        if (record.kind === 'flush') continue;
        aside.found.writes++;
        aside.found.bytes += record.length;
        aside.#cover(record.address, record.length, record.kind === 'data' ? record : undefined);
      }
      return aside;
    } catch (error) {
      const code = codeOf(error);
      if (code === 'damaged') return LogAside.#anew(directory, options);
      if (code !== 'no-log') throw error;
      return new LogAside(directory, WriteLog.create(directory, options));
    }
  }

  /** What stands before the damage stays readable for people, under another name; this one begins with nothing. */
  static #anew(directory: string, options: WriteLogOptions): LogAside {
    renameSync(directory, `${directory}.unusable-${Date.now()}`);
    return new LogAside(directory, WriteLog.create(directory, options));
  }

  /** Bytes of the disk that were written after its cut. */
  get coveredBytes(): number {
    return this.#runs.reduce((sum, run) => sum + run.end - run.start, 0);
  }

  write(kind: WriteKind, offset: number, length: number, data: Uint8Array | undefined): Promise<void> {
    // One at a time: the place of a record is only known while no other one is under way.
    const work = this.#chain.then(async () => {
      await this.#log.record(kind, offset, length, data, undefined);
      const after = await this.#log.position();
      if (this.#log.spilled !== undefined)
        throw new DeviceError('ENOSPC', `a late write cannot be set aside: ${this.#log.spilled}`);
      const size = RECORD.size + (data?.length ?? 0);
      this.#cover(
        offset,
        length,
        data === undefined ? undefined : { segment: after.segment, offset: after.offset - size },
      );
    });
    this.#chain = work.catch(() => {});
    return work;
  }

  async overlay(target: Uint8Array, offset: number): Promise<void> {
    const end = offset + target.length;
    for (let i = this.#firstAfter(offset); i < this.#runs.length && this.#runs[i]!.start < end; i++) {
      const run = this.#runs[i]!;
      const from = Math.max(run.start, offset);
      const to = Math.min(run.end, end);
      const part = target.subarray(from - offset, to - offset);
      if (run.segment === undefined) part.fill(0);
      else await this.#read(run.segment, part, run.offset! + from - run.start);
    }
  }

  touches(offset: number, length: number): boolean {
    const run = this.#runs[this.#firstAfter(offset)];
    return run !== undefined && run.start < offset + length;
  }

  /** Fails for ever once the log was given up: what it holds is nowhere else, and cannot be promised any more. */
  flush(): Promise<void> {
    const work = this.#chain.then(async () => {
      await this.#log.flush();
      if (this.#log.spilled !== undefined)
        throw new DeviceError('EIO', `late writes are not durable: ${this.#log.spilled}`);
    });
    this.#chain = work.catch(() => {});
    return work;
  }

  async close(): Promise<void> {
    await this.#chain;
    await this.#log.close();
    for (const file of this.#files.values()) await file.close();
    this.#files.clear();
  }

  async #read(segment: number, part: Uint8Array, position: number): Promise<void> {
    let file = this.#files.get(segment);
    if (file === undefined) {
      file = await open(join(this.directory, segmentName(segment)), 'r');
      this.#files.set(segment, file);
    }
    const { fd } = file;
    const count = await new Promise<number>((resolve, reject) =>
      read(fd, part, 0, part.length, position, (error, n) => (error ? reject(error) : resolve(n))),
    );
    if (count !== part.length)
      throw new DeviceError('EIO', `${segmentName(segment)} in ${this.directory} is too short`);
  }

  /** Index of the first run that ends behind `offset`. */
  #firstAfter(offset: number): number {
    let low = 0;
    let high = this.#runs.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#runs[middle]!.end <= offset) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #cover(
    start: number,
    length: number,
    place: { readonly segment: number; readonly offset: number } | undefined,
  ): void {
    if (length === 0) return;
    const end = start + length;
    const first = this.#firstAfter(start);
    let last = first;
    const put: Run[] = [];
    while (last < this.#runs.length && this.#runs[last]!.start < end) {
      const run = this.#runs[last++]!;
      if (run.start < start) put.push({ ...run, end: start });
      if (run.end > end) put.push(behind(run, end));
    }
    const own: Run =
      place === undefined
        ? { start, end }
        : { start, end, segment: place.segment, offset: place.offset + RECORD.size };
    put.push(own);
    put.sort((a, b) => a.start - b.start);
    this.#runs.splice(first, last - first, ...put);
  }
}

/** What is left of a run from `at` on. */
function behind(run: Run, at: number): Run {
  return run.segment === undefined
    ? { start: at, end: run.end }
    : { start: at, end: run.end, segment: run.segment, offset: run.offset! + at - run.start };
}
