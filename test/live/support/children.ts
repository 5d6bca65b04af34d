import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';

/** Those of this test file, in order. */
export const children: ChildProcess[] = [];

/** A program of the repository by its path; it ends with `endChildren` at the latest. */
export function node(program: string, ...args: string[]): ChildProcess {
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', program, ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  children.push(child);
  return child;
}

export function endChildren(): void {
  for (const child of children) child.kill('SIGKILL');
}
