/**
 * V3, the console's part: a partition that prints without end, beside one that serves. What the other one gets is compared with what it
 * gets beside a partition that is as busy and prints nothing; the control process answers, and the host's disk does not fill.
 * @alone
 */
import { copyFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { Scene } from '../../src/cli/demo/scene.ts';
import type { StatusView } from '../../src/daemon/index.ts';
import { eventually, liveSuite, run, SOAK, within } from '../support/index.ts';
import { putFile } from './support/scenes.ts';
import { Site } from './support/site.ts';

const live = liveSuite('live/console-fairness');

const SERVICE = '10.77.0.11';
const KEEPS = 0.8;
const ROUNDS = SOAK ? 500 : 2;
/** Where the machine does other work, too, more samples are taken before the median is believed. */
const MOST_ROUNDS = SOAK ? 800 : 8;
/** The partition prints in every second phase. */
const PHASE_MS = 2_000;
const SETTLE_MS = 300;
/** Its file and the one before it, which may grow for a second before they are looked at. */
const FILES_BYTES = 2 * 6 * 1024 * 1024;
const ANSWER_MS = 1_000;

const SCRIPT = `
const line = 'x'.repeat(120) + '\\n';
export async function run() {
  const turn = () => {
    const prints = Math.floor(Date.now() / ${PHASE_MS}) % 2 === 1;
    const untilMs = performance.now() + 5;
    while (performance.now() < untilMs) if (prints) process.stdout.write(line);
    setImmediate(turn);
  };
  setImmediate(turn);
}
`;

const median = (values: readonly number[]) => [...values].sort((a, b) => a - b)[values.length >> 1]!;

/** Requests per second of the serving partition while the other one prints, or does not. */
async function served(printing: boolean): Promise<number> {
  const intoMs = Date.now() % (2 * PHASE_MS);
  const beginsMs = (printing ? PHASE_MS : 0) + SETTLE_MS;
  await new Promise((resolve) => setTimeout(resolve, (beginsMs - intoMs + 4 * PHASE_MS) % (2 * PHASE_MS)));
  const { stdout } = await run('wrk', ['-t1', '-c8', '-d1s', `http://${SERVICE}/version`]);
  assert.not.match(stdout, /Socket errors|Non-2xx/);
  return Number(/Requests\/sec:\s+([\d.]+)/.exec(stdout)?.[1]);
}

live(
  `V3: beside a partition that prints without end another one keeps ${100 * KEEPS} % of its share, and the host its disk`,
  within(
    async () => {
      const site = await Site.open({
        arrange: async (scene: Scene) => {
          copyFileSync(scene.image('A', 'system'), scene.image('B', 'system'));
          await putFile(scene.image('B', 'system'), '/etc/startup.d/20-print.mjs', SCRIPT);
        },
      });
      try {
        await site.up();
        await site.api.post('/partitions/B/start');
        const [quiet, beside]: [number[], number[]] = [[], []];
        const part = () => median(beside) / median(quiet);
        let slowestMs = 0;
        for (let round = 0; round < ROUNDS || (round < MOST_ROUNDS && part() < KEEPS); round++) {
          quiet.push(await served(false));
          const [rate] = await Promise.all([
            served(true),
            (async () => {
              await new Promise((resolve) => setTimeout(resolve, PHASE_MS));
              const askedMs = performance.now();
              await site.api.get<StatusView>('/status');
              slowestMs = Math.max(slowestMs, performance.now() - askedMs);
            })(),
          ]);
          beside.push(rate);
        }
        const percent = `${(100 * part()).toFixed(0)} %`;
        console.log(
          `${median(beside).toFixed(0)}/s of ${median(quiet).toFixed(0)}/s, ${percent}, ${beside.length} rounds; status within ${slowestMs.toFixed(0)} ms`,
        );
        assert.ok(part() >= KEEPS, `it keeps ${percent}`);
        assert.ok(slowestMs < ANSWER_MS, `the control process took ${slowestMs} ms to answer`);
        await eventually('word of what was dropped', async () => {
          const { text } = await site.api.get<{ text: string }>('/partitions/B/console?bytes=1048576');
          return /changeover: \d+ bytes of output were dropped: more than 256 KiB\/s/.test(text);
        });
        const file = join(site.scene.runDirectory, 'logs', 'B.log');
        const older = statSync(`${file}.1`, { throwIfNoEntry: false })?.size ?? 0;
        const bytes = statSync(file).size + older;
        assert.ok(bytes > 1024 * 1024 && bytes < FILES_BYTES, `${bytes} bytes of console`);
      } finally {
        await site.close();
      }
    },
    SOAK ? 7_200_000 : 90_000,
  ),
);

live.run();
