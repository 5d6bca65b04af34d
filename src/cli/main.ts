/** `changeover`: argv in, exit code out. */
import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { CommanderError } from 'commander';
import { CodedError, sentenceOf } from '../common/index.ts';
import { CliError } from './cli-error.ts';
import type { ExitCode } from './exit-codes.ts';
import { EXIT, exitCodeOf } from './exit-codes.ts';
import { buildProgram, everyCommand } from './program.ts';
import type { Terminal } from './terminal.ts';
import { processTerminal } from './terminal.ts';

/** Words that commander puts before what it has to say. */
const PREFIX = /^error: /;

function usageError(error: CommanderError, program: Command, argv: readonly string[]): CliError {
  const words = argv.filter((word) => !word.startsWith('-'));
  let command = program;
  let path = 'changeover';
  for (const word of words) {
    const next = command.commands.find((c) => c.name() === word);
    if (next === undefined) break;
    command = next as Command;
    path += ` ${word}`;
  }
  const known = command.commands.map((c) => c.name()).join(', ');
  const text = error.message.replace(PREFIX, '').replace(/\s+/g, ' ').replace(/\.$/, '').trim();
  const message = error.code === 'commander.help' ? `${path} needs a command` : text;
  const which = known === '' ? '' : `, known are: ${known}`;
  return new CliError('usage', `${message}${which}`, { remedy: `see ${path} --help` });
}

function report(terminal: Terminal, error: unknown, json: boolean, debug: boolean): ExitCode {
  const code = exitCodeOf(error);
  if (json) {
    const coded = error instanceof CodedError ? error : undefined;
    const body = {
      code: coded?.code ?? 'internal',
      message: (error instanceof Error ? error.message : String(error)).replace(/\s+/g, ' '),
      ...(coded?.remedy === undefined ? {} : { remedy: coded.remedy }),
      ...(coded === undefined || Object.keys(coded.values).length === 0 ? {} : { values: coded.values }),
    };
    terminal.out(JSON.stringify({ error: body }, null, 2));
  }
  const lines = (error as { lines?: readonly string[] }).lines;
  if (Array.isArray(lines)) for (const line of lines as string[]) terminal.err(line);
  else terminal.err(`${terminal.style('red', 'changeover')}: ${sentenceOf(error)}`);
  if (debug) {
    for (let cause = error; cause instanceof Error; cause = cause.cause) terminal.err(cause.stack ?? '');
  }
  return code;
}

async function main(argv: readonly string[]): Promise<ExitCode> {
  const terminal = processTerminal();
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  let code: ExitCode = EXIT.done;
  const program = buildProgram({
    terminal,
    version,
    finished: (result) => {
      code = result;
    },
  });
  for (const command of everyCommand(program)) {
    command.exitOverride();
    command.configureOutput({ writeErr: () => {}, outputError: () => {} });
  }
  const has = (option: string) => argv.includes(option);
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return code;
  } catch (error) {
    if (error instanceof CommanderError) {
      if (error.exitCode === 0) return EXIT.done;
      return report(terminal, usageError(error, program, argv), has('--json'), has('--debug'));
    }
    return report(terminal, error, has('--json'), has('--debug'));
  }
}

const code = await main(process.argv.slice(2));
process.exitCode = code;
