import { execFileSync, spawn } from 'node:child_process';
import { readlinkSync } from 'node:fs';
import { eventually } from './limit.ts';

/** A network namespace that lives as long as the test wants; `path` is what opens it. */
export interface HeldNamespace {
  readonly path: string;
  /** Prefix of a command line that runs in it. */
  readonly enter: readonly string[];
  run(...argv: string[]): string;
  close(): void;
}

/** Makes one with loopback up, held by a sleeping process of ours. Needs root. */
export async function holdNamespace(): Promise<HeldNamespace> {
  const holder = spawn('unshare', ['--net', 'sleep', '300'], { stdio: 'ignore' });
  const path = `/proc/${holder.pid}/ns/net`;
  const own = readlinkSync('/proc/self/ns/net');
  await eventually('the namespace', () => {
    try {
      return readlinkSync(path) !== own;
    } catch {
      return false;
    }
  });
  const enter = ['nsenter', `--net=${path}`];
  const run = (...argv: string[]) =>
    execFileSync(enter[0]!, [...enter.slice(1), ...argv], { encoding: 'utf8' });
  run('ip', 'link', 'set', 'lo', 'up');
  return { path, enter, run, close: () => void holder.kill('SIGKILL') };
}
