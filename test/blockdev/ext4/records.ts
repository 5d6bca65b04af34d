/** Records that prove by themselves that they are whole. */
import * as assert from 'uvu/assert';
import type { FileSystem } from '../../../src/blockdev/index.ts';

export const FILES = 8;

export function emitLine(n: number): string {
  return `entry ${n} ${'x'.repeat((n * 37) % 150)}\n`;
}

export function emitVersion(file: number, version: number): string {
  return `${version} `.repeat(50 + file * 200);
}

/** What was acknowledged: last entry of the log (-1: none), version per file. */
export interface Told {
  log: number;
  readonly versions: Map<number, number>;
}

/** Reads the lines of a writer; the last one may be cut off. */
export function hear(told: Told, text: string): void {
  for (const line of text.slice(0, text.lastIndexOf('\n') + 1).split('\n')) {
    const [what, first, second] = line.split(' ');
    if (what === 'log') told.log = Number(first);
    if (what === 'file') told.versions.set(Number(first), Number(second));
  }
}

/** Everything acknowledged is there; each file is one version as a whole, the log is without gaps. */
export async function assertAllThere(fs: FileSystem, told: Told, when: string): Promise<void> {
  const lines = told.log < 0 ? [] : (await fs.readFile('/log', 'utf8')).split('\n');
  assert.ok(lines.length > told.log, `${lines.length} entries ${when}, ${told.log} acknowledged`);
  for (let n = 0; n <= told.log; n++) assert.is(`${lines[n]}\n`, emitLine(n), when);
  for (const [file, version] of told.versions) {
    const text = await fs.readFile(`/d/${file}`, 'utf8');
    const found = Number(text.split(' ')[0]);
    assert.ok(found >= version, `version ${found} of file ${file} ${when}, ${version} acknowledged`);
    assert.ok(text === emitVersion(file, found), `file ${file} is one version ${when}`);
  }
}
