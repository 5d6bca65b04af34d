/** How a command is described, and put into the tree. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { ExitCode } from './exit-codes.ts';
import type { GlobalOptions } from './session.ts';
import { Session } from './session.ts';
import type { Terminal } from './terminal.ts';

export interface ProgramHooks {
  readonly terminal: Terminal;
  readonly version: string;
  /** Called with what the command came to. */
  readonly finished: (code: ExitCode) => void;
}

export type Act = (session: Session, args: string[], options: Record<string, unknown>) => Promise<ExitCode>;

export interface Spec {
  readonly summary: string;
  /** As commander writes them: `<required>`, `[optional]`. */
  readonly args?: readonly [string, string][];
  readonly options?: readonly Option[];
  readonly examples?: readonly string[];
  /** Options behind the first argument belong to it. */
  readonly passThrough?: boolean;
  readonly act: Act;
}

export function wholeNumber(minimum: number, maximum: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === '' || !Number.isSafeInteger(value) || value < minimum || value > maximum) {
      throw new InvalidArgumentError(`allowed: whole numbers from ${minimum} to ${maximum}`);
    }
    return value;
  };
}

export function bigWhole(text: string): bigint {
  if (!/^\d{1,20}$/.test(text)) throw new InvalidArgumentError('allowed: whole numbers from 0');
  return BigInt(text);
}

export const several = (value: string, before: string[] | undefined) => [...(before ?? []), value];

export function examplesText(examples: readonly string[] | undefined): string {
  if (examples === undefined || examples.length === 0) return '';
  return `\nExamples:\n${examples.map((e) => `  $ ${e}`).join('\n')}\n`;
}

export function add(parent: Command, name: string, spec: Spec, hooks: ProgramHooks): Command {
  const command = parent.command(name).summary(spec.summary).description(spec.summary);
  for (const [arg, description] of spec.args ?? []) command.argument(arg, description);
  for (const option of spec.options ?? []) command.addOption(option);
  command
    .option('--json', 'the result as JSON')
    .option('-q, --quiet', 'no progress')
    .option(
      '--config <file>',
      'configuration file (default: changeover.yaml, /etc/changeover/changeover.yaml)',
    )
    .option('--run-directory <dir>', 'where the daemon is')
    .option('--debug', 'a stack trace with errors');
  if (spec.passThrough === true) command.passThroughOptions();
  command.addHelpText('after', examplesText(spec.examples));
  command.action(async (...all: unknown[]) => {
    const options = command.opts<GlobalOptions & Record<string, unknown>>();
    const args = all.slice(0, -2).flat() as string[];
    hooks.finished(await spec.act(new Session(hooks.terminal, options), args, options));
  });
  return command;
}

export function group(parent: Command, name: string, summary: string): Command {
  return parent.command(name).summary(summary).description(summary);
}

export const flag = (flags: string, description: string) => new Option(flags, description);
