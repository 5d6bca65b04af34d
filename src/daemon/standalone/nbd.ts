/** `changeover nbd FILE --socket PATH`: one image file as an NBD export, with a write log if asked. */
import { closeSync, existsSync, openSync, readdirSync, renameSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { Device } from '../../blockdev/index.ts';
import {
  damaged,
  FaultFilter,
  FileStore,
  failedReason,
  LogReader,
  NbdServer,
  noteFailed,
  parseFaultRule,
  recoverLog,
  reflect,
  SEGMENT,
  StoreError,
  segmentNumbers,
  WriteLog,
  WriteTrap,
} from '../../blockdev/index.ts';
import { SeededRandom, sentenceOf } from '../../common/index.ts';

export interface NbdOptions {
  /** Image file; a regular file that exists. */
  readonly file: string;
  /** Unix socket to listen on. */
  readonly socket: string;
  /** Directory of a write log to keep. */
  readonly writeLog?: string;
  readonly readOnly?: boolean;
  /** Rules of faults that clients are to meet, as `parseFaultRule` takes them; and the seed of their chances, default drawn. */
  readonly faults?: readonly string[];
  readonly faultSeed?: number;
  /** Default: the file's name. A client that asks for no name gets it too. */
  readonly exportName?: string;
  /** Ends the server; without it SIGINT and SIGTERM do. */
  readonly signal?: AbortSignal;
  /** One line per event; default: standard output and standard error. */
  readonly print?: (line: string) => void;
  readonly complain?: (line: string) => void;
}

/**
 * Serves until SIGINT, SIGTERM or `signal`; then answers what is in flight, flushes and closes. Returns the exit code: 0, or
 * 1 with one sentence that says why not.
 */
export async function runNbd(options: NbdOptions): Promise<number> {
  const print = options.print ?? ((line: string) => void process.stdout.write(`${line}\n`));
  const complain = options.complain ?? ((line: string) => void process.stderr.write(`${line}\n`));
  const closers: (() => Promise<unknown>)[] = [];
  let code = 0;
  try {
    const failed = failedReason(options.file);
    if (failed !== undefined && options.readOnly !== true)
      throw new StoreError('disk-failed', `a flush of ${options.file} failed: ${failed}`, {
        remedy: `what was written since the flush before it is not certain: check it (--read-only), then remove ${options.file}.failed`,
      });
    const store = FileStore.open(options.file, {
      readOnly: options.readOnly === true,
      onFailed: (reason) => {
        noteFailed(options.file, reason);
        complain(`changeover nbd: ${reason}; the export is read-only now`);
      },
    });
    closers.unshift(() => store.close());
    let device: Device = store;
    if (options.writeLog !== undefined) {
      const log = await openLog(store, options.writeLog, complain);
      closers.unshift(() => log.close());
      const trap = new WriteTrap(store);
      trap.attach(log);
      device = trap;
    }
    const faults = (options.faults ?? []).map(parseFaultRule);
    const seed = options.faultSeed ?? Date.now() >>> 0;
    const faulty = faults.length === 0 ? undefined : new FaultFilter(device, new SeededRandom(seed), faults);
    const name = options.exportName ?? basename(options.file);
    const server = new NbdServer();
    closers.unshift(() => server.close());
    await server.setExports(new Map([[name, faulty ?? device]]));
    await server.listen(options.socket);
    const address = `nbd+unix:///${encodeURIComponent(name)}?socket=${options.socket}`;
    const mode = options.readOnly === true ? ', read-only' : '';
    print(`serving ${options.file} (${store.size} bytes${mode}) at ${address}`);
    if (faulty !== undefined) print(`faults by ${faults.length} rules, --fault-seed ${seed}`);
    await ended(options.signal);
    await server.close();
    if (options.readOnly !== true) await device.flush();
    const { accepted, reads, writes, bytesRead, bytesWritten } = server.counters();
    if (faulty !== undefined) print(`injected ${faulty.injected} errors, ${faulty.delayed} delays`);
    print(
      `ended: ${accepted} connections, ${reads} reads of ${bytesRead} bytes, ${writes} writes of ${bytesWritten} bytes`,
    );
  } catch (error) {
    complain(`changeover nbd: ${sentenceOf(error)}`);
    code = 1;
  }
  for (const close of closers) {
    try {
      await close();
    } catch (error) {
      complain(`changeover nbd: ${sentenceOf(error)}`);
      code = 1;
    }
  }
  return code;
}

/** Stands in the directory of a log that misses writes. Empty: it needs no room. */
const INCOMPLETE = 'incomplete';

/**
 * Begins a write log, or goes on with the one that is there. Of the latter, records whose writes may not have reached the file
 * when the server was killed are reflected onto it first: log and file agree again. A log that was given up (its disk was full) is
 * put aside, and the new one counts everything as written.
 */
async function openLog(
  store: FileStore,
  directory: string,
  complain: (line: string) => void,
): Promise<WriteLog> {
  const options = {
    diskId: diskIdOf(store.path),
    diskSize: store.size,
    purpose: 'copy',
    onSpill: (reason: string) => {
      complain(`changeover nbd: the write log in ${directory} is no longer complete: ${reason}`);
      try {
        closeSync(openSync(join(directory, INCOMPLETE), 'a', 0o600));
      } catch (error) {
        complain(`changeover nbd: and that could not be noted there: ${sentenceOf(error)}`);
      }
    },
  } as const;
  if (existsSync(join(directory, INCOMPLETE))) {
    const aside = `${directory}.incomplete-${Date.now()}`;
    renameSync(directory, aside);
    complain(`changeover nbd: the write log in ${directory} misses writes; it is kept as ${aside}`);
    const log = WriteLog.create(directory, options);
    log.forgetWritten();
    return log;
  }
  if (!existsSync(directory) || segmentNumbers(readdirSync(directory)).length === 0) {
    return WriteLog.create(directory, options);
  }
  const recovery = await recoverLog(directory, { diskId: options.diskId });
  if (recovery.damage !== undefined) throw damaged(directory, recovery.damage);
  if (recovery.tail.header.diskSize !== store.size) {
    throw new StoreError(
      'size-mismatch',
      `${directory} is the log of a disk of ${recovery.tail.header.diskSize} bytes`,
      {
        remedy: 'choose another directory for the log of this file',
      },
    );
  }
  const reader = await LogReader.open(directory);
  await reflect(reader, recovery.lastRecords, store);
  const log = WriteLog.resume(directory, recovery.tail, options);
  await log.knowWritten(reader.records());
  return log;
}

/** The file's name, as far as a log's header has room for it. */
function diskIdOf(path: string): string {
  const name = basename(path);
  return Buffer.byteLength(name) <= SEGMENT.diskIdLength ? name : name.slice(0, 16);
}

function ended(signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    if (signal !== undefined) {
      if (signal.aborted) resolve();
      signal.addEventListener('abort', () => resolve(), { once: true });
      return;
    }
    const stop = () => {
      process.off('SIGINT', stop);
      process.off('SIGTERM', stop);
      resolve();
    };
    process.on('SIGINT', stop);
    process.on('SIGTERM', stop);
  });
}
