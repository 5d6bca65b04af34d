/** `changeover stack` as a process of its own: node stack-process.ts '<RunStackOptions as JSON>'. */
import type { RunStackOptions } from '../../../src/daemon/standalone/stack.ts';
import { runStack } from '../../../src/daemon/standalone/stack.ts';

process.exit(await runStack(JSON.parse(process.argv[2] ?? '{}') as RunStackOptions));
