/**
 * `timeline.html` of a run: one page that needs nothing else. Each part shows the same curves over the same time, the whole run
 * first, then the seconds around each move: frames of both partitions, what a client waited, bytes copied and remaining, the
 * steps with their figures. The pause and the moment of the switch are marked in all of them.
 */
import type { CutReport, RunReport } from '../run/record.ts';
import type { StepReport } from '../run/step.ts';
import type { PulseCurves } from './pulse.ts';
import { longestWait } from './pulse.ts';

const WIDTH = 1000;
const LEFT = 110;
const CURVE_HEIGHT = 90;
const STEP_HEIGHT = 16;
const GAP = 26;
const BEFORE_MS = 1_000;
const AFTER_MS = 2_000;

interface Span {
  readonly fromMs: number;
  readonly toMs: number;
}

interface Line {
  readonly name: string;
  readonly style: string;
  readonly points: readonly (readonly [atMs: number, value: number])[];
}

export function renderPage(report: RunReport, curves: PulseCurves): string {
  const steps = report.steps.filter(({ startedAtMs }) => startedAtMs > 0);
  const whole = wholeSpan(report, steps, curves);
  const moves = movesOf(report, steps);
  const title = `${report.service}: ${report.from} → ${report.to}`;
  const parts = [
    section('The whole run', whole, report, steps, curves, moves),
    ...moves.map((move) => {
      const span = { fromMs: move.fromMs - BEFORE_MS, toMs: move.toMs + AFTER_MS };
      return section(`${move.name}: ${summary(move.cut)}`, span, report, steps, curves, moves);
    }),
  ];
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${text(title)}</title>
<style>
:root { color-scheme: light dark; --ink: #1c2024; --faint: #8a929a; --page: #fff; --old: #6b7785; --new: #0b7a4b; --wait: #2456b3; --bad: #c5221f; --pause: #f5c24266; --copy: #8a4fbf; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --faint: #858d95; --page: #15181b; --old: #93a0ae; --new: #4cc38a; --wait: #7aa7ff; --bad: #ff6b63; --pause: #f5c24244; --copy: #c79bf2; } }
body { font: 14px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: ${WIDTH + 40}px; margin: 2em auto; padding: 0 20px; }
h1 { font-size: 1.4em; } h2 { font-size: 1.05em; margin-top: 2em; }
svg { width: 100%; height: auto; font: 11px system-ui, sans-serif; }
svg text { fill: var(--ink); } .faint { fill: var(--faint); } .axis { stroke: var(--faint); stroke-width: .5; }
.old { stroke: var(--old); } .new { stroke: var(--new); } .wait { stroke: var(--wait); } .copy { stroke: var(--copy); } .left { stroke: var(--copy); stroke-dasharray: 4 3; }
polyline { fill: none; stroke-width: 1.4; } .bad { fill: var(--bad); } .pause { fill: var(--pause); } .switch { stroke: var(--bad); stroke-width: 1; }
.bar { fill: var(--new); opacity: .75; } .bar.failed, .bar.undone { fill: var(--bad); } table { border-collapse: collapse; } td { padding: 1px 14px 1px 0; vertical-align: top; }
</style>
<h1>${text(title)}</h1>
<table>${facts(report, curves)
    .map(([name, value]) => `<tr><td class="faint">${text(name)}<td>${text(value)}`)
    .join('\n')}</table>
${parts.join('\n')}
</html>
`;
}

function facts(report: RunReport, curves: PulseCurves): [string, string][] {
  const waited = longestWait(curves.answers);
  const failed = curves.answers.filter(({ ok }) => !ok).length;
  return [
    ['run', `${report.id}, ${report.phase}`],
    ['began', new Date(report.startedAtMs).toISOString()],
    ['strategy', `${report.strategy}: ${report.strategyReason}`],
    ['patches', report.patches.join(', ') || 'none'],
    [
      'own client',
      waited === undefined
        ? 'no health check was answered'
        : `${curves.answers.length} health checks through the uplink, ${failed} failed, longest wait ${ms(waited.waitedMs)} at ${clock(waited.atMs)}`,
    ],
    ...(report.reason === undefined ? [] : [['reason', report.reason] as [string, string]]),
    ...report.notices.map((notice): [string, string] => ['notice', notice]),
  ];
}

interface MoveMark extends Span {
  readonly name: string;
  readonly cut: CutReport;
  readonly switchMs: number | undefined;
}

/** The pause is from the hold of new requests to their release; `overlap` has none, only the moment of the switch. */
function movesOf(report: RunReport, steps: readonly StepReport[]): MoveMark[] {
  const marks: MoveMark[] = [];
  const switches = steps.filter(({ name }) => name === 'switch-network');
  for (const [index, [name, cut]] of (
    [
      ['cut', report.cut],
      ['rollback', report.rollback],
    ] as const
  ).entries()) {
    if (cut === undefined) continue;
    const switched = index === 0 ? switches[0] : switches.at(-1);
    const switchMs = switched === undefined ? undefined : switched.startedAtMs + switched.durationMs;
    const held = cut.strategy !== 'overlap' && switched !== undefined;
    const hold = held
      ? steps.findLast((s) => s.name === 'hold-new-requests' && s.startedAtMs <= switched.startedAtMs)
      : undefined;
    const release = held
      ? steps.find((s) => s.name === 'release-held' && s.startedAtMs >= switched.startedAtMs)
      : undefined;
    const fromMs = hold?.startedAtMs ?? switchMs ?? cut.atMs;
    const toMs = release === undefined ? (switchMs ?? cut.atMs) : release.startedAtMs + release.durationMs;
    marks.push({ name, cut, fromMs, toMs, switchMs });
  }
  return marks;
}

function summary(cut: CutReport): string {
  const pause = cut.strategy === 'overlap' ? 'no pause' : `pause ${ms(cut.pauseMs)}`;
  return `${cut.from} → ${cut.to} by ${cut.strategy}, ${pause}, last delta ${bytes(Number(cut.deltaBytes))}, ${cut.handedOver} connections handed over, ${cut.packets.held} packets held, ${cut.packets.steered} steered, ${cut.packets.rewritten} rewritten`;
}

function wholeSpan(report: RunReport, steps: readonly StepReport[], curves: PulseCurves): Span {
  const ends = [
    ...steps.map((step) => step.startedAtMs + step.durationMs),
    ...curves.answers.map(({ atMs }) => atMs),
    ...curves.rates.map(({ atMs }) => atMs),
  ];
  const toMs = ends.reduce((latest, atMs) => Math.max(latest, atMs), report.startedAtMs + 1_000);
  return { fromMs: report.startedAtMs, toMs };
}

function section(
  title: string,
  span: Span,
  report: RunReport,
  steps: readonly StepReport[],
  curves: PulseCurves,
  moves: readonly MoveMark[],
): string {
  const inside = (atMs: number) => atMs >= span.fromMs && atMs <= span.toMs;
  const rates = curves.rates.filter(({ atMs }) => inside(atMs));
  const answers = curves.answers.filter(({ atMs }) => inside(atMs));
  const copy = curves.copy.filter(({ atMs }) => inside(atMs));
  const shown = steps.filter(
    (s) => s.startedAtMs <= span.toMs && s.startedAtMs + s.durationMs >= span.fromMs,
  );
  const out: string[] = [];
  let top = 14;
  const curve = (name: string, unit: (value: number) => string, lines: readonly Line[], more = '') => {
    if (lines.every(({ points }) => points.length === 0)) return;
    out.push(curveOf(name, unit, lines, span, top), more);
    top += CURVE_HEIGHT + GAP;
  };
  curve('frames/s', (value) => String(Math.round(value)), [
    { name: report.from, style: 'old', points: rates.map((rate) => [rate.atMs, rate.old]) },
    { name: report.to, style: 'new', points: rates.map((rate) => [rate.atMs, rate.new]) },
  ]);
  const failures = answers
    .filter(({ ok }) => !ok)
    .map(
      ({ atMs }) =>
        `<circle class="bad" cx="${x(atMs, span)}" cy="${top + 4}" r="3"><title>not answered, ${clock(atMs)}</title></circle>`,
    );
  curve(
    'client waits',
    ms,
    [
      {
        name: 'health check',
        style: 'wait',
        points: answers.map((answer) => [answer.atMs, answer.waitedMs]),
      },
    ],
    failures.join(''),
  );
  curve('copy', bytes, [
    { name: 'copied', style: 'copy', points: copy.map((sample) => [sample.atMs, sample.copied]) },
    { name: 'remaining', style: 'left', points: copy.map((sample) => [sample.atMs, sample.remaining]) },
  ]);
  const stepsTop = top;
  for (const step of shown) {
    const from = x(Math.max(step.startedAtMs, span.fromMs), span);
    const to = x(Math.min(step.startedAtMs + step.durationMs, span.toMs), span);
    const label = `${step.name}${step.figure === '' ? '' : ` (${step.figure})`} ${ms(step.durationMs)}`;
    const late = from > WIDTH * 0.7;
    out.push(
      `<rect class="bar ${step.state}" x="${from}" y="${top}" width="${Math.max(1.5, to - from).toFixed(1)}" height="${STEP_HEIGHT - 5}"><title>${text(label)}, ${step.state}</title></rect>`,
      `<text x="${late ? from - 5 : to + 5}" y="${top + 9}" ${late ? 'text-anchor="end"' : ''}>${text(label)}</text>`,
    );
    top += STEP_HEIGHT;
  }
  if (shown.length > 0) out.push(`<text class="faint" x="0" y="${stepsTop + 9}">steps</text>`);
  const marks = moves
    .filter((move) => move.toMs >= span.fromMs && move.fromMs <= span.toMs)
    .flatMap((move) => [
      ...(move.toMs > move.fromMs
        ? [
            `<rect class="pause" x="${x(move.fromMs, span)}" y="0" width="${Math.max(1, x(move.toMs, span) - x(move.fromMs, span)).toFixed(1)}" height="${top}"><title>${move.name}: pause ${ms(move.toMs - move.fromMs)}</title></rect>`,
          ]
        : []),
      ...(move.switchMs === undefined
        ? []
        : [
            `<line class="switch" x1="${x(move.switchMs, span)}" x2="${x(move.switchMs, span)}" y1="0" y2="${top}"><title>${move.name}: the path was switched at ${clock(move.switchMs)}</title></line>`,
          ]),
    ]);
  const axis = ticks(span).map(
    (atMs) =>
      `<line class="axis" x1="${x(atMs, span)}" x2="${x(atMs, span)}" y1="0" y2="${top}"/><text class="faint" x="${x(atMs, span)}" y="${top + 12}" text-anchor="middle">${offset(atMs - span.fromMs)}</text>`,
  );
  return `<h2>${text(title)}</h2>
<svg viewBox="0 0 ${WIDTH} ${top + 18}" role="img" aria-label="${text(title)}">
${[...axis, ...marks, ...out].join('\n')}
</svg>`;
}

function curveOf(
  name: string,
  unit: (value: number) => string,
  lines: readonly Line[],
  span: Span,
  top: number,
): string {
  const most = lines
    .flatMap(({ points }) => points)
    .reduce((largest, [, value]) => Math.max(largest, value), Number.MIN_VALUE);
  const y = (value: number) => (top + CURVE_HEIGHT - (value / most) * (CURVE_HEIGHT - 4)).toFixed(1);
  const drawn = lines.map(
    ({ style, points }) =>
      `<polyline class="${style}" points="${points.map(([atMs, value]) => `${x(atMs, span)},${y(value)}`).join(' ')}"/>`,
  );
  const names = lines.map(
    (line, i) =>
      `<line class="${line.style}" x1="0" x2="16" y1="${top + 38 + i * 14}" y2="${top + 38 + i * 14}" stroke-width="2"/><text x="20" y="${top + 42 + i * 14}">${text(line.name)}</text>`,
  );
  return [
    `<line class="axis" x1="${LEFT}" x2="${WIDTH}" y1="${top + CURVE_HEIGHT}" y2="${top + CURVE_HEIGHT}"/>`,
    `<text class="faint" x="0" y="${top + 9}">${text(name)}</text><text class="faint" x="0" y="${top + 23}">most ${text(unit(most))}</text>`,
    ...names,
    ...drawn,
  ].join('');
}

function x(atMs: number, span: Span): number {
  const share = (atMs - span.fromMs) / Math.max(1, span.toMs - span.fromMs);
  return Math.round((LEFT + Math.min(1, Math.max(0, share)) * (WIDTH - LEFT - 20)) * 10) / 10;
}

/** Between four and ten round moments. */
function ticks(span: Span): number[] {
  const width = span.toMs - span.fromMs;
  const rough = width / 8;
  const power = 10 ** Math.floor(Math.log10(Math.max(1, rough)));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough)!;
  return Array.from({ length: Math.floor(width / step) + 1 }, (_, i) => span.fromMs + i * step);
}

function offset(durationMs: number): string {
  return durationMs < 10_000 ? `${Math.round(durationMs)} ms` : `${(durationMs / 1000).toFixed(0)} s`;
}

function ms(value: number): string {
  return value < 10_000 ? `${value.toFixed(value < 100 ? 1 : 0)} ms` : `${(value / 1000).toFixed(1)} s`;
}

function clock(atMs: number): string {
  return new Date(atMs).toISOString().slice(11, 23);
}

function bytes(value: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let at = 0;
  let rest = value;
  while (rest >= 1024 && at < units.length - 1) {
    rest /= 1024;
    at++;
  }
  return `${rest.toFixed(at === 0 ? 0 : 1)} ${units[at]}`;
}

function text(value: string): string {
  return value.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
