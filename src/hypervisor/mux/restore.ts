/** What a mux that was killed had been told, as one operation between two packets. */
import type { Log } from '../../common/index.ts';
import { messageOf } from '../../common/index.ts';
import type { MuxCommands } from './commands.ts';
import { MuxError } from './mux-error.ts';

/** They answer at once: nothing else happens between two of them. */
const ALLOWED = [
  'path-set',
  'private-path',
  'port-state',
  'port-addresses',
  'hold-start',
  'switch',
  'flows-known',
] as const;
type Allowed = (typeof ALLOWED)[number];
type Answers = { readonly [N in Allowed]: (args: never) => unknown };

/** Throws `bad-argument`, before anything is changed, for a command that is not allowed. */
export function restore(
  answers: Answers,
  commands: readonly { readonly name: string; readonly args: object }[],
  log: Log,
): MuxCommands['restore']['result'] {
  const isAllowed = (name: string): name is Allowed => (ALLOWED as readonly string[]).includes(name);
  const wrong = commands.find(({ name }) => !isAllowed(name));
  if (wrong !== undefined) {
    throw new MuxError('bad-argument', `${wrong.name} cannot be restored`, {
      remedy: `allowed are: ${ALLOWED.join(', ')}`,
      values: { command: wrong.name },
    });
  }
  const failed: { name: string; reason: string }[] = [];
  for (const { name, args } of commands) {
    if (!isAllowed(name)) continue;
    try {
      answers[name](args as never);
    } catch (error) {
      failed.push({ name, reason: messageOf(error) });
      log.error(`${name} could not be restored`, { reason: messageOf(error) });
    }
  }
  log.info('restored', { commands: commands.length, failed: failed.length });
  return { failed };
}
