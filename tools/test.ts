/**
 * Runs test files, each in its own process: `node --import tsx tools/test.ts [--jobs N] [--soak] [FILTER …]`.
 * `--soak`: only files that have larger counts (SOAK=1) or fresh seeds (FUZZ=1), without the time limit of a file; what they print
 * is shown. Counts of trials (`S1: 200 of 200 …; SEED=7`) are always shown.
 * `*.live.test.ts` files run inside a network namespace of their own (with loopback up), two at a time after the others; those that
 * say `@alone` in their first comment, because they compare rates, one after the other at the end.
 * Last line: `N passed, N failed` (and `, N skipped`). Exit 1 when anything failed, nothing ran, or under CI a live test skipped.
 */
import { spawn } from 'node:child_process';
import { globSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';

const FILE_LIMIT_MS = 450_000;

const { values, positionals } = parseArgs({
  options: {
    jobs: { type: 'string', default: String(availableParallelism()) },
    verbose: { type: 'boolean', short: 'v' },
    soak: { type: 'boolean', default: false },
  },
  allowPositionals: true,
});

interface Outcome {
  readonly file: string;
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  readonly output: string;
  readonly ms: number;
}

const isLive = (file: string) => file.endsWith('.live.test.ts');

const files = globSync(['test/**/*.test.ts', 'block-io/test/**/*.test.ts', 'tap-tun/test/**/*.test.ts'])
  .filter((file) => positionals.length === 0 || positionals.some((filter) => file.includes(filter)))
  .filter((file) => !values.soak || /SOAK|FUZZ|new Trials/.test(readFileSync(file, 'utf8')))
  .sort();

function count(output: string, word: string): number {
  return [...output.matchAll(new RegExp(`^\\s*${word}:\\s+(\\d+)`, 'gm'))].reduce(
    (sum, m) => sum + Number(m[1]),
    0,
  );
}

function run(file: string): Promise<Outcome> {
  if (!/\.run\(\)/.test(readFileSync(file, 'utf8'))) {
    return Promise.resolve({
      file,
      passed: 0,
      failed: 1,
      skipped: 0,
      output: `${file} never calls .run()\n`,
      ms: 0,
    });
  }
  const node = [process.execPath, '--disable-warning=ExperimentalWarning', '--import', 'tsx', file];
  const argv = isLive(file)
    ? ['unshare', '--net', 'sh', '-c', 'ip link set lo up && exec "$@"', 'live', ...node]
    : node;
  const startedMs = performance.now();
  return new Promise((resolve) => {
    const child = spawn(argv[0]!, argv.slice(1), {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, FORCE_COLOR: '0', NO_COLOR: '1' },
      detached: true,
    });
    running.add(child.pid!);
    let output = '';
    const add = (chunk: Buffer) => {
      output += chunk.toString();
    };
    child.stdout.on('data', add);
    child.stderr.on('data', add);
    // A soak ends by itself: each of its tests has a limit.
    const limit = setTimeout(() => {
      if (values.soak) return;
      output += `\n${file}: killed, still running after ${FILE_LIMIT_MS / 1000} s\n`;
      try {
        process.kill(-child.pid!, 'SIGKILL');
      } catch {
        // already gone
      }
    }, FILE_LIMIT_MS);
    child.on('close', (code) => {
      clearTimeout(limit);
      running.delete(child.pid!);
      try {
        process.kill(-child.pid!, 'SIGKILL');
      } catch {
        // nothing of its group is left
      }
      const total = count(output, 'Total');
      const passed = count(output, 'Passed');
      const skipped = count(output, 'Skipped');
      let failed = Math.max(0, total - passed);
      if (code !== 0 && failed === 0) failed = 1;
      if (code === 0 && total === 0 && skipped === 0) {
        failed = 1;
        output += `${file} executed no test\n`;
      }
      resolve({ file, passed, failed, skipped, output, ms: performance.now() - startedMs });
    });
  });
}

/** Process groups of test files that run now: they end with us. */
const running = new Set<number>();
function killRunning(): void {
  for (const pid of running) {
    try {
      process.kill(-pid, 'SIGKILL');
    } catch {
      // It has just ended.
    }
  }
}
process.on('exit', killRunning);
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => process.exit(130));

const outcomes: Outcome[] = [];
async function worker(queue: string[]): Promise<void> {
  for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
    const outcome = await run(file);
    outcomes.push(outcome);
    const mark = outcome.failed > 0 ? 'FAIL' : 'ok  ';
    const skips = outcome.skipped > 0 ? `, ${outcome.skipped} skipped` : '';
    console.log(
      `${mark} ${file}  ${outcome.passed} passed, ${outcome.failed} failed${skips}  ${(outcome.ms / 1000).toFixed(1)} s`,
    );
    if (outcome.failed > 0 || values.verbose || values.soak)
      console.log(outcome.output.replace(/^/gm, '     | '));
    else for (const [line] of outcome.output.matchAll(/\b[A-Z]\d+: .*SEED=\d+/g)) console.log(`     ${line}`);
  }
}

const plain = files.filter((file) => !isLive(file));
const isAlone = (file: string) => readFileSync(file, 'utf8').split('*/')[0]!.includes('@alone');
const live = files.filter((file) => isLive(file) && !isAlone(file));
const alone = files.filter((file) => isLive(file) && isAlone(file));
const together = (queue: string[]) =>
  Promise.all(Array.from({ length: Math.max(1, Number(values.jobs)) }, () => worker(queue)));
await together(plain);
await together(live);
await worker(alone);

const sum = (pick: (o: Outcome) => number) => outcomes.reduce((total, o) => total + pick(o), 0);
const passed = sum((o) => o.passed);
const failed = sum((o) => o.failed);
const skipped = sum((o) => o.skipped);
const skippedLive = outcomes.some((o) => isLive(o.file) && o.skipped > 0);
if (passed + failed === 0) console.log('no test was executed');
if (process.env['CI'] === 'true' && skippedLive) console.log('live tests were skipped under CI');
console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`);
process.exitCode = failed > 0 || passed === 0 || (process.env['CI'] === 'true' && skippedLive) ? 1 : 0;
