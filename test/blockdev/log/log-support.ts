import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { LogPurposeName, WriteLogOptions } from '../../../src/blockdev/index.ts';
import { WriteLog } from '../../../src/blockdev/index.ts';
import { VirtualClock } from '../../../src/common/index.ts';

export const GENERATION = Buffer.from('00112233445566778899aabbccddeeff', 'hex');
export const DISK_SIZE = 1024 * 1024;

export function newLog(directory: string, options: Partial<WriteLogOptions> = {}): WriteLog {
  return WriteLog.create(directory, {
    diskId: 'a-application',
    diskSize: BigInt(DISK_SIZE),
    purpose: 'copy' as LogPurposeName,
    generation: GENERATION,
    clock: new VirtualClock(),
    ...options,
  });
}

/** Appends `count` records of `length` bytes each, record i filled with byte i + 1. */
export async function fill(log: WriteLog, count: number, length = 40): Promise<void> {
  for (let i = 0; i < count; i++)
    await log.record('data', i * 512, length, Buffer.alloc(length, i + 1), undefined);
}

/** Every segment of a log: name → bytes. */
export function segmentsOf(directory: string): Map<string, Buffer> {
  const names = readdirSync(directory).filter((name) => name.endsWith('.wlog'));
  return new Map(names.sort().map((name) => [name, readFileSync(join(directory, name))]));
}
