/** The part of the bench that runs inside its own namespaces. Started by main.ts. */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg, release, totalmem } from 'node:os';

import { bootSubject } from './boot.ts';
import { changeHookSubject } from './change-hook.ts';
import { changeoverSubject } from './changeover.ts';
import { copySubject } from './copy.ts';
import type { BenchReport, Subject } from './framework/index.ts';
import { Bench } from './framework/index.ts';
import { nbdSubject } from './nbd.ts';
import { networkSubject } from './network.ts';
import { patchedSubject } from './patched.ts';
import { stackSubject } from './stack.ts';

export interface InsideOptions {
  readonly scratch: string;
  readonly quick: boolean;
  readonly filters: readonly string[];
  /** File for the report. */
  readonly json?: string;
}

const SUBJECTS: readonly Subject[] = [
  networkSubject,
  stackSubject,
  changeHookSubject,
  nbdSubject,
  copySubject,
  bootSubject,
  changeoverSubject,
  patchedSubject,
];

/** Above this load the figures say more about the neighbours than about us. */
const QUIET_LOAD = 1;

async function main(options: InsideOptions): Promise<number> {
  execFileSync('ip', ['link', 'set', 'lo', 'up']);
  const load = loadavg();
  const startedAt = new Date();
  const startedMs = performance.now();
  console.log(
    `load average ${load.map((value) => value.toFixed(2)).join(' ')}, ${availableParallelism()} processors, ${process.version}`,
  );
  const quiet = load[0]! <= QUIET_LOAD;
  if (!quiet) console.log('warning: this machine is busy; the figures are not worth keeping');
  const bench = new Bench({ ...options, print: (line) => console.log(line) });
  for (const subject of SUBJECTS) await bench.subject(subject);
  const report: BenchReport = {
    startedAt: startedAt.toISOString(),
    seconds: Math.round((performance.now() - startedMs) / 1000),
    quick: options.quick,
    load,
    quiet,
    machine: {
      kernel: release(),
      processor: cpus()[0]?.model ?? 'unknown',
      processors: availableParallelism(),
      memoryMiB: Math.round(totalmem() / 1024 / 1024),
      node: process.version,
    },
    figures: bench.figures,
    skipped: bench.skipped,
  };
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(report, null, 2)}\n`);
  const goals = report.figures.flatMap((figure) => [
    ...(figure.reached === undefined ? [] : [figure.reached]),
    ...figure.peers.flatMap((peer) => (peer.reached === undefined ? [] : [peer.reached])),
  ]);
  const failed = report.skipped.filter((row) => row.failed).length;
  console.log(
    `${report.figures.length} figures in ${report.seconds} s: ${goals.filter(Boolean).length} of ${goals.length} goals reached,` +
      ` ${report.skipped.length - failed} rows not run, ${failed} failed`,
  );
  return failed > 0 ? 1 : 0;
}

process.exitCode = await main(JSON.parse(process.argv[2] ?? '') as InsideOptions);
process.exit();
