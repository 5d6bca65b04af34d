/**
 * Puts the results of `make bench BENCH="--json FILE"` into docs/SPECIFICATION.md: `node tools/specification.ts FILE`; without a file
 * every row says "not yet measured". Only whole runs on a quiet machine are taken: no figure there is written by hand.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { BenchReport, FigureResult } from '../bench/framework/index.ts';
import { limitText, ratioText, valueText } from '../bench/framework/index.ts';
import { PROMISES } from '../bench/promises.ts';

const FILE = join(import.meta.dirname, '../docs/SPECIFICATION.md');
const BEGIN = '<!-- written by tools/specification.ts from here -->';
const END = '<!-- to here -->';
const UNMEASURED = 'not yet measured';

function figureText(figure: FigureResult): string {
  const peers = figure.peers.map((peer) => {
    if (peer.value === undefined) return `${peer.name} not measured: ${peer.absent}`;
    const missed =
      peer.reached === false ? `, **missed: ${figure.better === 'more' ? '≥' : '≤'} ${peer.goal} ×**` : '';
    const ratio = peer.ratio === undefined ? '' : ` (${ratioText(peer.ratio)}${missed})`;
    return `${peer.name} ${valueText(peer.value, figure.unit)}${ratio}`;
  });
  const missed = figure.reached === false ? ` **${limitText(figure).slice(1, -1)}**` : '';
  const beside = peers.length === 0 ? '' : `; ${peers.join(', ')}`;
  return `${figure.what}: ${valueText(figure.value, figure.unit)}${missed}${beside}`;
}

function resultText(id: string, report: BenchReport | undefined): string {
  const figures = report?.figures.filter((figure) => figure.id === id) ?? [];
  return figures.length === 0 ? UNMEASURED : figures.map(figureText).join('<br>');
}

function table(report: BenchReport | undefined): string {
  const rows = PROMISES.map(
    ({ id, what, goal }) =>
      `| ${id} | ${what} | ${goal} | \`make bench BENCH=${id}\` | ${resultText(id, report)} |`,
  );
  const head = ['| id | what | goal | command | last result |', '|---|---|---|---|---|', ...rows];
  if (report === undefined) return head.join('\n');
  const { startedAt, seconds, load, machine } = report;
  const origin =
    `Measured ${startedAt} in ${seconds} s: ${machine.processors} processors (${machine.processor}), ${machine.memoryMiB} MiB,` +
    ` Linux ${machine.kernel}, Node ${machine.node}, load average ${load[0]?.toFixed(2)} before the first row.`;
  return [...head, '', origin].join('\n');
}

/** Why a report is not fit to be published, or undefined. */
function unfit(report: BenchReport): string | undefined {
  if (report.quick) return 'it is of a --quick run';
  if (!report.quiet) return `the machine was busy: load average ${report.load[0]?.toFixed(2)}`;
  return undefined;
}

const given = process.argv[2];
const report = given === undefined ? undefined : (JSON.parse(readFileSync(given, 'utf8')) as BenchReport);
const reason = report === undefined ? undefined : unfit(report);
if (reason === undefined) {
  const text = readFileSync(FILE, 'utf8');
  const [from, to] = [text.indexOf(BEGIN), text.indexOf(END)];
  if (from < 0 || to < from) throw new Error(`${FILE} has lost its marks`);
  writeFileSync(FILE, `${text.slice(0, from + BEGIN.length)}\n${table(report)}\n${text.slice(to)}`);
} else {
  console.error(`specification: ${given} is not taken: ${reason}`);
  process.exitCode = 1;
}
