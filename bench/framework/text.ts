/** Figures for a person: `124 000/s`, `1.61 GB/s`, `0.21 ms`. */
import type { FigureResult, PeerResult, Unit } from './figures.ts';
import { UNITS } from './figures.ts';

const PREFIXES = ['', 'k', 'M', 'G', 'T'] as const;

export function valueText(value: number, unit: Unit): string {
  if (!Number.isFinite(value)) return '–';
  if (unit === 'bytesPerSecond' || unit === 'bitsPerSecond') {
    let step = 0;
    let scaled = value;
    for (; scaled >= 1000 && step < PREFIXES.length - 1; step++) scaled /= 1000;
    return `${digits(scaled)} ${PREFIXES[step]}${UNITS[unit]}`;
  }
  if (unit === 'perSecond') return `${grouped(value)}/s`;
  if (unit === 'count') return grouped(value);
  return `${digits(value)} ${UNITS[unit]}`;
}

export function ratioText(ratio: number | undefined): string {
  return ratio === undefined || !Number.isFinite(ratio) ? '–' : `${ratio.toFixed(2)} ×`;
}

export function goalText(peer: PeerResult, better: 'more' | 'less'): string {
  if (peer.goal === undefined) return '';
  return `(${better === 'more' ? '≥' : '≤'} ${peer.goal} ×${peer.reached === true ? '' : ', missed'})`;
}

export function limitText(figure: FigureResult): string {
  if (figure.limit === undefined) return '';
  const sign = figure.better === 'more' ? '≥' : '≤';
  return `(${sign} ${valueText(figure.limit, figure.unit)}${figure.reached === true ? '' : ', missed'})`;
}

/** One line per peer: id, what, ours, peer, ratio, goal. A limit of its own is a line of its own. */
export function linesOf(figure: FigureResult): string[] {
  const start = `${figure.id.padEnd(3)} ${figure.what.padEnd(52)} ${valueText(figure.value, figure.unit).padStart(12)}`;
  const lines = figure.peers.map((peer) => {
    if (peer.absent !== undefined) return `${start}  ${peer.name} not measured: ${peer.absent}`;
    const theirs = `${peer.name} ${valueText(peer.value ?? Number.NaN, figure.unit)}`;
    return `${start}  ${theirs.padEnd(34)} ${ratioText(peer.ratio).padStart(8)}  ${goalText(peer, figure.better)}`.trimEnd();
  });
  if (figure.limit !== undefined)
    lines.push(`${start}  ${''.padEnd(34)} ${''.padStart(8)}  ${limitText(figure)}`);
  return lines.length > 0 ? lines : [start];
}

function digits(value: number): string {
  const magnitude = Math.abs(value);
  if (magnitude >= 100) return value.toFixed(0);
  return magnitude >= 10 ? value.toFixed(1) : value.toFixed(2);
}

function grouped(value: number): string {
  return Math.round(value)
    .toString()
    .replace(/\B(?=(\d{3})+$)/g, ' ');
}
