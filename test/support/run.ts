import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const execute = promisify(execFile);

/** Runs a program to its end, however much it prints. Rejects with what it printed when it fails. */
export function run(
  program: string,
  args: readonly string[] = [],
  options: { readonly timeout?: number; readonly env?: NodeJS.ProcessEnv; readonly cwd?: string } = {},
): Promise<{ stdout: string; stderr: string }> {
  return execute(program, [...args], { maxBuffer: Number.POSITIVE_INFINITY, ...options, encoding: 'utf8' });
}
