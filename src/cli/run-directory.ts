/** Where the daemon is: --run-directory, $CHANGEOVER_RUN_DIRECTORY, the configuration's runDirectory, /run/changeover. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { messageOf } from '../common/index.ts';
import { CliError } from './cli-error.ts';

export const CONFIGURATION_PLACES = ['changeover.yaml', '/etc/changeover/changeover.yaml'] as const;
export const DEFAULT_RUN_DIRECTORY = '/run/changeover';

export interface PlaceOptions {
  readonly config?: string;
  readonly runDirectory?: string;
}

/** The configuration file that is meant: the named one, $CHANGEOVER_CONFIG, or the first that exists. */
export function configurationFile(options: PlaceOptions): string | undefined {
  const named = options.config ?? process.env['CHANGEOVER_CONFIG'];
  if (named !== undefined) return resolve(named);
  return CONFIGURATION_PLACES.map((place) => resolve(place)).find((place) => existsSync(place));
}

/** As configurationFile; throws CliError when there is none. */
export function requireConfigurationFile(options: PlaceOptions): string {
  const file = configurationFile(options);
  if (file === undefined) {
    throw new CliError('not-there', `there is no ${CONFIGURATION_PLACES.join(' and no ')}`, {
      remedy: 'write one with changeover init, or name it with --config',
    });
  }
  return file;
}

/** Reads no more of the configuration than its runDirectory, so that a mistake elsewhere in it hides no daemon. */
export async function runDirectoryOf(options: PlaceOptions): Promise<string> {
  if (options.runDirectory !== undefined) return resolve(options.runDirectory);
  const named = process.env['CHANGEOVER_RUN_DIRECTORY'];
  if (options.config === undefined && named !== undefined) return resolve(named);
  const file = configurationFile(options);
  if (file === undefined) return DEFAULT_RUN_DIRECTORY;
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw new CliError('not-there', `cannot read the configuration ${file}: ${messageOf(error)}`, {
      remedy: 'name another with --config',
      cause: error,
    });
  }
  const { parseDocument } = await import('yaml');
  const value: unknown = parseDocument(text).get('runDirectory');
  return typeof value === 'string' ? resolve(dirname(file), value) : DEFAULT_RUN_DIRECTORY;
}
