/** What every command is given: where to write, the global options, the daemon. */
import { ApiClient } from './api-client.ts';
import type { PlaceOptions } from './run-directory.ts';
import { runDirectoryOf } from './run-directory.ts';
import type { Terminal } from './terminal.ts';

export interface GlobalOptions extends PlaceOptions {
  readonly json?: boolean;
  readonly debug?: boolean;
  readonly quiet?: boolean;
}

export class Session {
  readonly terminal: Terminal;
  readonly options: GlobalOptions;

  constructor(terminal: Terminal, options: GlobalOptions) {
    this.terminal = terminal;
    this.options = options;
  }

  get json(): boolean {
    return this.options.json === true;
  }

  /** No progress: asked for, or the result is for a program. */
  get quiet(): boolean {
    return this.options.quiet === true || this.json;
  }

  async api(): Promise<ApiClient> {
    return new ApiClient(await runDirectoryOf(this.options));
  }

  /** The result: as JSON when asked for, else as `lines` says. */
  result(value: unknown, lines: () => readonly string[]): void {
    if (this.json) this.terminal.out(JSON.stringify(value, null, 2));
    else for (const line of lines()) this.terminal.out(line);
  }
}
