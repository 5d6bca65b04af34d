/**
 * Steps of a run as they go: one line per finished step, and on a terminal a bar for the one that runs, with bytes, rate and
 * the time that is left. Without a terminal only finished steps are written, and nothing at all with `quiet`.
 */
import { bytesText, durationText, widthOf } from './format.ts';
import type { Terminal } from './terminal.ts';

export interface StepProgress {
  readonly done: number;
  readonly total: number;
  readonly unit: 'bytes' | 'ms' | 'items';
  readonly ratePerSecond?: number;
  readonly etaMs?: number;
}

export interface StepView {
  readonly name: string;
  readonly figure?: string;
  readonly state: 'running' | 'done' | 'failed' | 'undone';
  readonly durationMs: number;
  readonly reason?: string;
  readonly progress?: StepProgress;
}

const BAR_CELLS = 24;
/** Redraws closer together than this are left out. */
const REDRAW_MS = 50;

function amount(value: number, unit: StepProgress['unit']): string {
  if (unit === 'bytes') return bytesText(value);
  return unit === 'ms' ? durationText(value) : String(Math.round(value));
}

/** `[=====>       ]  42 %  1.2 MiB of 3 MiB, 40 MiB/s, 2 s left` */
export function progressText(progress: StepProgress): string {
  const { done, total, unit, ratePerSecond, etaMs } = progress;
  const part = total > 0 ? Math.min(1, Math.max(0, done / total)) : 0;
  const full = Math.round(part * BAR_CELLS);
  const head = full > 0 && full < BAR_CELLS ? '>' : '';
  const bar = `${'='.repeat(Math.max(0, full - head.length))}${head}`.padEnd(BAR_CELLS);
  const percent = `${Math.floor(part * 100)}`.padStart(3);
  const rate = ratePerSecond === undefined || unit === 'ms' ? '' : `, ${amount(ratePerSecond, unit)}/s`;
  const left = etaMs === undefined ? '' : `, ${durationText(etaMs)} left`;
  return `[${bar}] ${percent} %  ${amount(done, unit)} of ${amount(total, unit)}${rate}${left}`;
}

const MARK = { running: '…', done: '✓', failed: '✗', undone: '↶' } as const;
const STYLE_OF = { running: 'dim', done: 'green', failed: 'red', undone: 'yellow' } as const;

export class ProgressView {
  readonly #terminal: Terminal;
  readonly #quiet: boolean;
  readonly #nowMs: () => number;
  readonly #finished = new Map<string, string>();
  #drawn = false;
  #drawnAtMs = Number.NEGATIVE_INFINITY;

  constructor(terminal: Terminal, quiet: boolean, nowMs: () => number = () => performance.now()) {
    this.#terminal = terminal;
    this.#quiet = quiet;
    this.#nowMs = nowMs;
  }

  step(step: StepView): void {
    if (this.#quiet) return;
    const { name, state } = step;
    if (state === 'running') {
      this.#finished.delete(name);
      this.#draw(step);
      return;
    }
    if (this.#finished.get(name) === state) return;
    this.#finished.set(name, state);
    const figure = step.figure === undefined || step.figure === '' ? '' : ` (${step.figure})`;
    const mark = this.#terminal.style(STYLE_OF[state], MARK[state]);
    const took = state === 'undone' ? 'undone' : durationText(step.durationMs);
    const why = step.reason === undefined ? '' : `: ${step.reason}`;
    this.note(`${mark} ${name}${figure}  ${took}${why}`);
  }

  /** A line of its own, above the bar. */
  note(line: string): void {
    if (this.#quiet) return;
    this.clear();
    this.#terminal.err(line);
  }

  /** Takes the bar off the screen. */
  clear(): void {
    if (!this.#drawn) return;
    this.#terminal.draw('\r\u001b[K');
    this.#drawn = false;
    this.#drawnAtMs = Number.NEGATIVE_INFINITY;
  }

  #draw(step: StepView): void {
    if (!this.#terminal.progress || this.#nowMs() - this.#drawnAtMs < REDRAW_MS) return;
    this.#drawnAtMs = this.#nowMs();
    const tail = step.progress === undefined ? durationText(step.durationMs) : progressText(step.progress);
    const line = `${MARK.running} ${step.name}  ${tail}`;
    const columns = Math.max(20, this.#terminal.columns - 1);
    this.#terminal.draw(`\r\u001b[K${widthOf(line) > columns ? line.slice(0, columns) : line}`);
    this.#drawn = true;
  }
}
