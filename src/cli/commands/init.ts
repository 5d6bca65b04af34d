import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { codeOf, messageOf } from '../../common/index.ts';
import { CliError } from '../cli-error.ts';
import type { ExitCode } from '../exit-codes.ts';
import { EXIT } from '../exit-codes.ts';
import type { Session } from '../session.ts';

/** JSON: {file}. */
export async function init(
  session: Session,
  args: readonly string[],
  options: Readonly<Record<string, unknown>>,
): Promise<ExitCode> {
  const { CONFIGURATION_TEMPLATE } = await import('../../daemon/configuration/index.ts');
  const file = resolve(args[0] ?? session.options.config ?? 'changeover.yaml');
  try {
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, CONFIGURATION_TEMPLATE, {
      flag: options['force'] === true ? 'w' : 'wx',
      mode: 0o644,
    });
  } catch (error) {
    if (codeOf(error) === 'EEXIST') {
      throw new CliError('exists', `${file} exists already`, {
        remedy: 'name another file, or replace it with --force',
      });
    }
    throw new CliError('not-written', `cannot write ${file}: ${messageOf(error)}`, { cause: error });
  }
  session.result({ file }, () => [file]);
  if (!session.quiet)
    session.terminal.err('next: edit it, then changeover doctor and changeover up --detach');
  return EXIT.done;
}
