/** Numbers and tables for people. */
import { stripVTControlCharacters } from 'node:util';

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'] as const;

/** `1.5 MiB`; three significant digits at most. */
export function bytesText(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  const digits = unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

/** `8 ms`, `1.25 s`, `3 min 05 s`, `2 h 10 min`, `4 d 3 h`. */
export function durationText(ms: number): string {
  if (ms < 1000) return `${ms < 10 && !Number.isInteger(ms) ? ms.toFixed(1) : Math.round(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  const pair = (big: number, bigUnit: string, small: number, smallUnit: string) =>
    `${Math.floor(big)} ${bigUnit} ${String(Math.floor(small)).padStart(2, '0')} ${smallUnit}`;
  const minutes = seconds / 60;
  if (minutes < 60) return pair(minutes, 'min', seconds % 60, 's');
  const hours = minutes / 60;
  if (hours < 48) return pair(hours, 'h', minutes % 60, 'min');
  return pair(hours / 24, 'd', hours % 24, 'h');
}

/** Local time, to the second. */
export function timeText(ms: number): string {
  const d = new Date(ms);
  const two = (n: number) => String(n).padStart(2, '0');
  const date = `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())}`;
  return `${date} ${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
}

/** Width on the screen, without style codes. */
export function widthOf(text: string): number {
  return stripVTControlCharacters(text).length;
}

/** Columns separated by two blanks, headings in capitals, no trailing blanks. Empty cells show `-`. */
export function tableLines(headings: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const all = [
    headings.map((h) => h.toUpperCase()),
    ...rows.map((r) => r.map((cell) => (cell === '' ? '-' : cell))),
  ];
  const widths = headings.map((_, i) => Math.max(...all.map((row) => widthOf(row[i] ?? ''))));
  return all.map((row) =>
    row
      .map((cell, i) => cell + ' '.repeat(Math.max(0, (widths[i] ?? 0) - widthOf(cell))))
      .join('  ')
      .trimEnd(),
  );
}
