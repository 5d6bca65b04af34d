/** The load process, as the demo sees it. */
import type { ChildProcess } from 'node:child_process';
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import type { LoadCommand, LoadOptions, LoadReport } from './load.ts';

type Question = Exclude<LoadCommand['command'], 'start'>;

export class Clients {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, (report: LoadReport) => void>();
  #nextId = 1;

  constructor(options: LoadOptions) {
    this.#child = fork(join(import.meta.dirname, 'load.ts'), {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    this.#child.on('message', (message: { id: number; report: LoadReport }) => {
      this.#waiting.get(message.id)?.(message.report);
      this.#waiting.delete(message.id);
    });
    this.#child.send({ command: 'start', options } satisfies LoadCommand);
  }

  ask(command: Question): Promise<LoadReport> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, resolve);
      this.#child.once('exit', () =>
        reject(new Error(`the load process ended before it answered ${command}`)),
      );
      this.#child.send({ command, id } satisfies LoadCommand);
    });
  }

  async kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await exited;
  }
}
