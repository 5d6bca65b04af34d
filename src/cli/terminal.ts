/** Where a command writes: results to stdout, everything else to stderr; colour only on a terminal and without NO_COLOR. */

export const STYLES = {
  bold: [1, 22],
  dim: [2, 22],
  red: [31, 39],
  green: [32, 39],
  yellow: [33, 39],
} as const;
export type Style = keyof typeof STYLES;

export interface Terminal {
  /** stdout is a terminal: a person reads along. */
  readonly interactive: boolean;
  /** Columns of stderr. */
  readonly columns: number;
  /** stderr is a terminal: progress may be drawn. */
  readonly progress: boolean;
  out(line: string): void;
  err(line: string): void;
  /** Raw text to stderr, for progress. */
  draw(text: string): void;
  style(style: Style, text: string): string;
}

export function processTerminal(env: NodeJS.ProcessEnv = process.env): Terminal {
  const { stdout, stderr } = process;
  const colour = (env['NO_COLOR'] ?? '') === '' && env['TERM'] !== 'dumb' && stdout.isTTY === true;
  // A reader that goes away (`| head`) ends us quietly.
  stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    throw error;
  });
  return {
    interactive: stdout.isTTY === true,
    columns: stderr.columns ?? 80,
    progress: stderr.isTTY === true && env['TERM'] !== 'dumb',
    out: (line) => void stdout.write(`${line}\n`),
    err: (line) => void stderr.write(`${line}\n`),
    draw: (text) => void stderr.write(text),
    style: (style, text) => {
      if (!colour) return text;
      const [on, off] = STYLES[style];
      return `\u001b[${on}m${text}\u001b[${off}m`;
    },
  };
}
