import type { Log, LogLevel } from '../../common/index.ts';
import { LOG_LEVELS } from '../../common/index.ts';

/** A log for a person who watches: time of day, level where it matters, sentence, `key=value`. */
export function personLog(
  write: (line: string) => void,
  least: LogLevel = 'info',
  fields: Readonly<Record<string, unknown>> = {},
  now: () => Date = () => new Date(),
): Log {
  const threshold = LOG_LEVELS.indexOf(least);
  const at = (level: LogLevel) => (message: string, more?: Readonly<Record<string, unknown>>) => {
    if (LOG_LEVELS.indexOf(level) < threshold) return;
    const rest = Object.entries({ ...fields, ...more })
      .filter(([, value]) => value !== undefined)
      .map(([key, value]) => ` ${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
      .join('');
    const mark = level === 'info' ? '' : `${level}: `;
    write(`${now().toTimeString().slice(0, 8)} ${mark}${message}${rest}\n`);
  };
  return {
    debug: at('debug'),
    info: at('info'),
    warn: at('warn'),
    error: at('error'),
    with: (more) => personLog(write, least, { ...fields, ...more }, now),
  };
}
