/** Write logs of runs: `<run>`, `<run>-reverse`, `<run>-return-1` … below the state directory. */
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';

const NAME = /^(.+?)(?:-reverse|-return-\d+)?$/;

/** Takes those of runs that are over away: their copies were cut or cancelled, nobody goes by them any more. */
export function removeLogs(stateDirectory: string, isOver: (runId: string) => boolean): void {
  const directory = join(stateDirectory, 'write-log');
  if (!existsSync(directory)) return;
  for (const name of readdirSync(directory)) {
    const id = NAME.exec(name)?.[1];
    if (id !== undefined && isOver(id)) rmSync(join(directory, name), { recursive: true, force: true });
  }
}
