/**
 * `changeover stack` as a process of its own: node stack-process.ts '<RunStackOptions as JSON>'. On SIGUSR2 it prints what is in use after a
 * collection, `in use N KiB`: the resident size has V8's young generation in it, which grows with the load, and garbage of the old one.
 */
import { collectGarbage } from '../../../src/common/index.ts';
import type { RunStackOptions } from '../../../src/daemon/standalone/stack.ts';
import { runStack } from '../../../src/daemon/standalone/stack.ts';

process.on('SIGUSR2', () => {
  collectGarbage('all');
  const { heapUsed, external } = process.memoryUsage();
  console.log(`in use ${Math.round((heapUsed + external) / 1024)} KiB`);
});

process.exit(await runStack(JSON.parse(process.argv[2] ?? '{}') as RunStackOptions));
