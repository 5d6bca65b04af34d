/**
 * `make bench`: every number that we promise, ours and its peer in the same run. Everything happens in a process-id and a
 * network namespace of its own: whatever way it ends, no process, interface or address is left.
 *
 *   make bench BENCH="B1 M1"            only these
 *   make bench BENCH="--quick"          shorter samples, at most 3 minutes
 *   make bench BENCH="--json FILE"      the results as one JSON object
 *   make bench BENCH="--directory DIR"  images there rather than in the system's temporary folder
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import type { InsideOptions } from './inside.ts';
import { PROMISES } from './promises.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: 'boolean', default: false },
    json: { type: 'string' },
    directory: { type: 'string', default: tmpdir() },
    list: { type: 'boolean', default: false },
  },
});

const known = PROMISES.map((promise) => promise.id);
const unknown = positionals.filter((id) => !known.includes(id));

async function main(): Promise<number> {
  if (values.list) {
    for (const { id, what, goal } of PROMISES) console.log(`${id.padEnd(3)} ${what}: ${goal}`);
    return 0;
  }
  if (unknown.length > 0) {
    console.error(`bench: there is no ${unknown.join(', ')}; there are ${known.join(' ')}`);
    return 2;
  }
  if (process.getuid?.() !== 0) {
    console.error('bench: needs root, for network namespaces and TAP interfaces; run it with sudo');
    return 1;
  }
  const scratch = mkdtempSync(join(values.directory, 'changeover-bench-'));
  const inside: InsideOptions = {
    scratch,
    quick: values.quick,
    filters: positionals,
    ...(values.json === undefined ? {} : { json: resolve(values.json) }),
  };
  const child = spawn(
    'unshare',
    [
      ...['--net', '--pid', '--fork', '--kill-child', '--mount-proc'],
      // As the product runs: without the test runner's loader.
      ...[process.execPath, '--disable-warning=ExperimentalWarning', join(import.meta.dirname, 'inside.ts')],
      JSON.stringify(inside),
    ],
    { stdio: 'inherit' },
  );
  // Its only child is process 1 of the namespace: with it everything in there ends.
  const stop = () => child.kill('SIGKILL');
  process.once('SIGINT', stop).once('SIGTERM', stop);
  try {
    return await new Promise<number>((done, failed) => {
      child.once('error', failed);
      child.once('exit', (code) => done(code ?? 130));
    });
  } finally {
    rmSync(scratch, { recursive: true, force: true, maxRetries: 5 });
  }
}

process.exitCode = await main();
