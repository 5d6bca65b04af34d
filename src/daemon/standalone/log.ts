/** `changeover log show|verify|replay|export DIR`: reads a write log without the daemon. Exit codes: 0, 1 damage or failure. */
import { join } from 'node:path';
import type { Finding, LogRecord } from '../../blockdev/index.ts';
import {
  exportDmLogWrites,
  FileStore,
  LogReader,
  replayLog,
  segmentName,
  verifyLog,
} from '../../blockdev/index.ts';
import { CodedError, sentenceOf } from '../../common/index.ts';

export interface LogOutput {
  /** One line of the result; default: standard output. */
  readonly print?: (line: string) => void;
  /** One line for a person; default: standard error. */
  readonly complain?: (line: string) => void;
}

export interface LogShowOptions extends LogOutput {
  /** Directory of the log. */
  readonly directory: string;
  /** Records from this time on, and up to that (ns since 1970, inclusive). */
  readonly fromTimeNs?: bigint;
  readonly toTimeNs?: bigint;
  readonly fromSequence?: bigint;
  readonly toSequence?: bigint;
  /** Records that touch [fromAddress, toAddress), bytes of the disk. A flush touches nothing. */
  readonly fromAddress?: bigint;
  readonly toAddress?: bigint;
  /** One JSON object a line. */
  readonly json?: boolean;
}

export interface LogVerifyOptions extends LogOutput {
  readonly directory: string;
  readonly json?: boolean;
}

export interface LogReplayOptions extends LogOutput {
  readonly directory: string;
  /** Image file to reflect the log onto: the disk as it was when the log began. */
  readonly target: string;
  /** Last record to reflect; default: all. */
  readonly toSequence?: bigint;
  /** Reflect what was written up to this time, ns since 1970. */
  readonly toTimeNs?: bigint;
  /** Refuse the log of another disk, or of another generation (hex). */
  readonly diskId?: string;
  readonly generation?: string;
  /** The image holds the records that were removed from the log. */
  readonly partial?: boolean;
  readonly json?: boolean;
}

export class LogTimeError extends CodedError {}

/**
 * A point in time as nanoseconds since 1970: `2026-11-20T18:00:00.123456789Z` (UTC, or with an offset), or a whole number of
 * nanoseconds, or seconds as `@1795197600.5`. Throws LogTimeError.
 */
export function parseLogTime(text: string): bigint {
  if (/^\d+$/.test(text)) return BigInt(text);
  const epoch = /^@(\d+)(?:\.(\d{1,9}))?$/.exec(text);
  if (epoch !== null) return BigInt(epoch[1]!) * 1_000_000_000n + BigInt((epoch[2] ?? '').padEnd(9, '0'));
  const iso = /^(\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)$/.exec(text);
  const ms = iso === null ? Number.NaN : Date.parse(`${iso[1]}${iso[3]}`);
  if (Number.isNaN(ms)) {
    throw new LogTimeError('EINVAL', `"${text}" is no time`, {
      remedy: 'give it as 2026-11-20T18:00:00.5Z, as @SECONDS or as nanoseconds since 1970',
      values: { text },
    });
  }
  return BigInt(ms) * 1_000_000n + BigInt((iso![2] ?? '').padEnd(9, '0'));
}

/** `2026-11-20T18:00:00.123456789Z`. */
export function formatLogTime(timeNs: bigint): string {
  const seconds = new Date(Number(timeNs / 1_000_000_000n) * 1000).toISOString().slice(0, 19);
  return `${seconds}.${(timeNs % 1_000_000_000n).toString().padStart(9, '0')}Z`;
}

const plain = (_key: string, value: unknown) => (typeof value === 'bigint' ? value.toString() : value);

function outputOf(options: LogOutput) {
  return {
    print: options.print ?? ((line: string) => void process.stdout.write(`${line}\n`)),
    complain: options.complain ?? ((line: string) => void process.stderr.write(`${line}\n`)),
  };
}

/** Runs `body`; what it throws is one sentence and exit code 1. */
async function guarded(options: LogOutput, verb: string, body: () => Promise<number>): Promise<number> {
  try {
    return await body();
  } catch (error) {
    outputOf(options).complain(`changeover log ${verb}: ${sentenceOf(error)}`);
    return 1;
  }
}

function placeOf(directory: string, finding: Finding): string {
  const record = finding.sequence === undefined ? '' : `, record ${finding.sequence}`;
  const disk =
    finding.address === undefined ? '' : `, ${finding.length ?? 0} bytes at ${finding.address} of the disk`;
  const path = join(directory, segmentName(finding.segment));
  return `${path} at byte ${finding.offset}${record}${disk}: ${finding.kind}, ${finding.reason}`;
}

function lineOf(record: LogRecord): string {
  const flags = `${record.fua ? ' fua' : ''}${record.noHole ? ' no-hole' : ''}`;
  const what = record.kind === 'flush' ? '' : ` ${record.length} bytes at ${record.address}`;
  const place = `segment ${record.segment} byte ${record.offset}`;
  return `${record.sequence} ${formatLogTime(record.timeNs)} ${record.kind}${what}${flags} (${place})`;
}

function jsonOf(record: LogRecord): string {
  const { sequence, timeNs, kind, address, length, fua, noHole, segment, offset } = record;
  const time = formatLogTime(timeNs);
  return JSON.stringify(
    { sequence, time, timeNs, kind, address, length, fua, noHole, segment, offset },
    plain,
  );
}

function wanted(record: LogRecord, options: LogShowOptions): boolean {
  const { fromTimeNs, toTimeNs, fromSequence, fromAddress, toAddress } = options;
  if (fromTimeNs !== undefined && record.timeNs < fromTimeNs) return false;
  if (toTimeNs !== undefined && record.timeNs > toTimeNs) return false;
  if (fromSequence !== undefined && record.sequence < fromSequence) return false;
  if (fromAddress === undefined && toAddress === undefined) return true;
  if (record.length === 0) return false;
  if (fromAddress !== undefined && BigInt(record.address + record.length) <= fromAddress) return false;
  return toAddress === undefined || BigInt(record.address) < toAddress;
}

/** One line a record, in the order of writing. 1 when a place before the end is damaged; what stands before it was shown. */
export function runLogShow(options: LogShowOptions): Promise<number> {
  return guarded(options, 'show', async () => {
    const { print, complain } = outputOf(options);
    const reader = await LogReader.open(options.directory);
    const until = options.toSequence === undefined ? {} : { until: options.toSequence + 1n };
    for await (const item of reader.scan(until)) {
      if ('record' in item) {
        if (wanted(item.record, options)) print((options.json === true ? jsonOf : lineOf)(item.record));
        continue;
      }
      const place = placeOf(options.directory, item.finding);
      complain(`changeover log show: ${place}`);
      // Nothing of a torn tail was acknowledged: the log just ends there.
      return item.finding.kind === 'torn-tail' ? 0 : 1;
    }
    return 0;
  });
}

/** Reads every byte of a log. 0 when it is whole (a torn tail is), 1 with every place that is damaged. */
export function runLogVerify(options: LogVerifyOptions): Promise<number> {
  return guarded(options, 'verify', async () => {
    const { print, complain } = outputOf(options);
    const summary = await verifyLog(options.directory);
    const { findings, tornTail, kinds } = summary;
    if (options.json === true) print(JSON.stringify(summary, plain));
    else {
      const { data, zeroes, trim, flush } = kinds;
      print(
        `${summary.records} records (${data} data, ${zeroes} zeroes, ${trim} trim, ${flush} flush) of ${summary.bytes} bytes` +
          ` in ${summary.segments} segments; disk ${summary.diskId} of ${summary.diskSize} bytes, generation ${summary.generation}`,
      );
      if (summary.firstTimeNs !== undefined && summary.lastTimeNs !== undefined) {
        print(
          `sequence ${summary.firstSequence} to ${summary.lastSequence},` +
            ` ${formatLogTime(summary.firstTimeNs)} to ${formatLogTime(summary.lastTimeNs)}`,
        );
      }
      if (tornTail !== undefined) {
        print(`the writer was ended inside a record, nothing lost: ${placeOf(options.directory, tornTail)}`);
      }
    }
    for (const finding of findings) {
      complain(`changeover log verify: damaged: ${placeOf(options.directory, finding)}`);
    }
    return findings.length > 0 ? 1 : 0;
  });
}

/** Reflects a log onto an image. 1, and nothing was written, when the log is damaged up to the goal or of another disk. */
export function runLogReplay(options: LogReplayOptions): Promise<number> {
  return guarded(options, 'replay', async () => {
    const { print, complain } = outputOf(options);
    const { toSequence, toTimeNs, diskId, generation, partial } = options;
    const target = FileStore.open(options.target);
    try {
      const result = await replayLog(options.directory, target, {
        ...(toSequence === undefined ? {} : { toSequence }),
        ...(toTimeNs === undefined ? {} : { toTimeNs }),
        ...(diskId === undefined ? {} : { diskId }),
        ...(generation === undefined ? {} : { generation: Buffer.from(generation, 'hex') }),
        ...(partial === undefined ? {} : { partial }),
      });
      if (toSequence !== undefined && result.lastSequence < toSequence)
        complain(
          `changeover log replay: the log ends with record ${result.lastSequence}, before ${toSequence}`,
        );
      if (options.json === true) print(JSON.stringify(result, plain));
      else {
        print(
          `${result.records} records up to ${result.lastSequence} reflected onto ${options.target}:` +
            ` ${result.written} bytes written for ${result.bytes} logged`,
        );
      }
    } finally {
      await target.close();
    }
    return 0;
  });
}

export interface LogExportOptions extends LogOutput {
  readonly directory: string;
  /** New file. */
  readonly output: string;
  readonly json?: boolean;
}

/** Writes a log in the kernel's dm-log-writes format. 1 when the log is damaged or the file is there already. */
export function runLogExport(options: LogExportOptions): Promise<number> {
  return guarded(options, 'export', async () => {
    const { print } = outputOf(options);
    const result = await exportDmLogWrites(await LogReader.open(options.directory), options.output);
    if (options.json === true) print(JSON.stringify(result));
    else {
      print(
        `${result.records} records exported to ${options.output}: ${result.entries} entries, ${result.bytes} bytes`,
      );
      if (result.unaligned > 0) {
        print(
          `${result.unaligned} of them were widened to whole sectors with what earlier records left there`,
        );
      }
    }
    return 0;
  });
}
