import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VirtualClock } from '../../../src/common/index.ts';
import type { PulseCurves } from '../../../src/patch/evidence/pulse.ts';
import { AFTERMATH_MS, longestWait, Pulse } from '../../../src/patch/evidence/pulse.ts';
import { renderPage } from '../../../src/patch/evidence/timeline-page.ts';
import type { CutReport, RunReport } from '../../../src/patch/index.ts';
import { within } from '../../support/index.ts';

const evidence = suite('patch/evidence');
const START = 1_700_000_000_000;

const step = (name: string, figure: string, atMs: number, durationMs: number, state = 'done') =>
  ({ name, figure, state, startedAtMs: START + atMs, durationMs }) as RunReport['steps'][number];

const move = (from: string, to: string, strategy: CutReport['strategy'], pauseMs: number): CutReport => ({
  ...{ from, to, strategy, atMs: START, pauseMs, forecastPauseMs: 50, handedOver: 3, draining: 1 },
  ...{ abandoned: [], deltaBytes: '4096' },
  packets: { rewritten: 1, steered: 2, held: 3, heldDropped: 0, rstSuppressed: 0 },
});

const REPORT: RunReport = {
  ...{
    id: 'run-1',
    service: 'a<b>"&\'',
    from: 'A',
    to: 'B',
    strategy: 'overlap',
    strategyReason: 'asked for',
  },
  ...{ address: '10.0.0.1/24', hasApplicationDisk: true, patches: ['fix.diff'], startedAtMs: START },
  ...{
    evidence: '/nowhere',
    phase: 'rolled-back',
    patchResults: [],
    hashes: {},
    notices: ['<script>alert(1)</script>'],
  },
  steps: [
    step('copy-disks', '703, 704', 100, 1000),
    step('switch-network', '2204', 3000, 5),
    step('hold-new-requests', '1301', 9000, 2),
    step('switch-network', '1303', 9050, 4),
    step('release-held', '1304', 9070, 10),
    step('check-new', '', 9500, 10, 'failed'),
  ],
  cut: move('A', 'B', 'overlap', 0),
  rollback: move('B', 'A', 'hold', 80),
};

const CURVES: PulseCurves = {
  answers: [
    { atMs: START + 500, durationMs: 3, waitedMs: 3, ok: true },
    { atMs: START + 9000, durationMs: 1000, waitedMs: 1000, ok: false },
    { atMs: START + 9100, durationMs: 5, waitedMs: 1100, ok: true },
  ],
  rates: [
    { atMs: START + 500, old: 100, new: 0 },
    { atMs: START + 3500, old: 0, new: 120 },
  ],
  copy: [{ atMs: START + 400, copied: 1024, remaining: 2048 }],
};

evidence('the page stands alone, marks both moves, and nothing of a name becomes markup', () => {
  const page = renderPage(REPORT, CURVES);
  assert.not.match(page, /<script|https?:|src=|@import|url\(/);
  assert.match(page, /&#60;script&#62;/);
  assert.match(page, /<h2>The whole run<\/h2>/);
  assert.match(page, /<h2>cut: A → B by overlap, no pause/);
  assert.match(page, /<h2>rollback: B → A by hold, pause 80\.0 ms/);
  assert.match(page, /rollback: pause 80\.0 ms<\/title>/);
  assert.not.match(page, /cut: pause/);
  assert.match(page, /cut: the path was switched/);
  assert.match(page, /3 health checks through the uplink, 1 failed, longest wait 1100 ms/);
  assert.match(page, /copy-disks \(703, 704\) 1000 ms/);
  assert.match(page, /class="bar failed"/);
  assert.match(page, /most 2\.0 KiB/);
  // Every element that was opened is closed, and every number is one.
  assert.is(page.split('<svg').length, page.split('</svg>').length);
  assert.not.match(page, /NaN|undefined|Infinity/);
});

evidence('a run without steps, curves or moves has a page, too', () => {
  const { cut: _cut, rollback: _rollback, ...bare } = REPORT;
  const page = renderPage({ ...bare, steps: [] }, { answers: [], rates: [], copy: [] });
  assert.match(page, /no health check was answered/);
  assert.not.match(page, /NaN|undefined|Infinity/);
});

function world() {
  const clock = new VirtualClock();
  const answers: ((answer: { ok: boolean } | undefined) => void)[] = [];
  let frames = 0;
  let ended = 0;
  const pulse = new Pulse({
    clock,
    mux: {
      execute: (async () => {
        frames += 50;
        return [
          { name: 'a0', received: frames, transmitted: frames },
          { name: 'b0', received: 0, transmitted: 0 },
        ];
      }) as never,
    },
    probe: {
      pulse: () =>
        new Promise((resolve) => {
          const startMs = clock.nowMs();
          answers.push((answer) =>
            resolve(
              answer && { ok: answer.ok, durationMs: clock.nowMs() - startMs, detail: '', localPort: 1 },
            ),
          );
        }),
    } as never,
    ...{ address: '10.0.0.1', health: {} as never, ports: { old: 'a0', new: 'b0' } },
    copy: () => ({ copied: 1, remaining: 2 }),
    ended: () => ended++,
  });
  const advance = async (ms: number) => {
    for (let done = 0; done < ms; done += 50) {
      clock.advance(50);
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  return { pulse, answers, advance, ended: () => ended };
}

evidence(
  'one question at a time; what a client waited includes the questions that nobody answered',
  within(async () => {
    const { pulse, answers, advance, ended } = world();
    pulse.begin(true);
    answers.shift()!({ ok: true });
    await advance(100);
    assert.is(answers.length, 1);
    await advance(1000);
    assert.is(answers.length, 1, 'no second question while one is open');
    answers.shift()!({ ok: false });
    await advance(100);
    answers.shift()!({ ok: true });
    await advance(50);
    const { answers: curve, rates, copy } = pulse.curves;
    assert.equal(
      curve.map(({ ok }) => ok),
      [true, false, true],
    );
    assert.ok(longestWait(curve)!.waitedMs >= 1000);
    assert.ok(rates.length > 5 && rates.every((rate) => rate.old > 0 && rate.new === 0));
    assert.equal(copy[0]!.remaining, 2);
    // Given up for private work: nobody waited for that.
    await advance(50);
    answers.shift()!(undefined);
    await advance(100);
    answers.shift()!({ ok: true });
    await advance(10);
    assert.ok(pulse.curves.answers.at(-1)!.waitedMs < 200);
    pulse.end();
    assert.is(ended(), 0);
    await advance(AFTERMATH_MS + 200);
    assert.is(ended(), 1);
    const { length } = pulse.curves.rates;
    await advance(1000);
    assert.is(pulse.curves.rates.length, length);
  }),
);

evidence(
  'a pulse that goes on for hours keeps a bounded number of samples',
  within(async () => {
    const { pulse, answers, advance } = world();
    pulse.begin(true);
    const untilMs = 700_000;
    for (let done = 0; done < untilMs; done += 1000) {
      await advance(1000);
      for (const answer of answers.splice(0)) answer({ ok: true });
    }
    assert.ok(pulse.curves.rates.length <= 6_000 && pulse.curves.rates.length > 2_000);
    assert.ok(pulse.curves.copy.length <= 6_000);
    pulse.end(true);
  }),
);

evidence.run();
