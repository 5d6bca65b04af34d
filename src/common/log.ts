import type { Clock } from './clock.ts';
import { systemClock } from './clock.ts';

export const LOG_LEVELS = ['debug', 'info', 'warn', 'error'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface Log {
  debug(message: string, fields?: Readonly<Record<string, unknown>>): void;
  info(message: string, fields?: Readonly<Record<string, unknown>>): void;
  warn(message: string, fields?: Readonly<Record<string, unknown>>): void;
  error(message: string, fields?: Readonly<Record<string, unknown>>): void;
  /** A log whose every line carries `fields` too. */
  with(fields: Readonly<Record<string, unknown>>): Log;
}

function plain(_key: string, value: unknown): unknown {
  if (typeof value === 'bigint') return value.toString();
  if (value instanceof Error) return value.message;
  return value;
}

/** One JSON object per line: `time`, `level`, `message`, then the fields. */
export function jsonLog(
  write: (line: string) => void,
  least: LogLevel = 'info',
  fields: Readonly<Record<string, unknown>> = {},
  clock: Clock = systemClock,
): Log {
  const threshold = LOG_LEVELS.indexOf(least);
  const at = (level: LogLevel) => (message: string, more?: Readonly<Record<string, unknown>>) => {
    if (LOG_LEVELS.indexOf(level) < threshold) return;
    const time = new Date(Number(clock.wallNs() / 1_000_000n)).toISOString();
    write(`${JSON.stringify({ time, level, message, ...fields, ...more }, plain)}\n`);
  };
  return {
    debug: at('debug'),
    info: at('info'),
    warn: at('warn'),
    error: at('error'),
    with: (more) => jsonLog(write, least, { ...fields, ...more }, clock),
  };
}

export const silentLog: Log = {
  debug: () => {},
  info: () => {},
  warn: () => {},
  error: () => {},
  with: () => silentLog,
};
