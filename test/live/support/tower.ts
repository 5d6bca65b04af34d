/** Things built on top of each other and taken down from the top: programs, loop devices over an NBD export, mounts. */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { eventually } from '../../support/index.ts';
import { ok, run } from '../nbd-programs.ts';

export interface Child {
  /** Ends it and waits for its end. */
  stop(signal?: NodeJS.Signals): Promise<void>;
}

export function start(program: string, args: readonly string[]): Child {
  const child = spawn(program, args, { stdio: ['pipe', 'ignore', 'inherit'] });
  const gone = new Promise<void>((resolve) => child.once('close', () => resolve()));
  return {
    stop: (signal = 'SIGTERM') => {
      child.kill(signal);
      return gone;
    },
  };
}

/** Steps of taking down, the last one built first; goes on after one that fails, and tells the first failure. */
export class Tower {
  readonly #steps: (() => Promise<unknown>)[] = [];

  add(takeDown: () => Promise<unknown>): void {
    this.#steps.push(takeDown);
  }

  async down(): Promise<void> {
    let failure: unknown;
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      try {
        await step();
      } catch (error) {
        failure ??= error;
      }
    }
    if (failure !== undefined) throw failure;
  }
}

/** nbdfuse and a loop device with direct I/O over an export of a server that answers; returns the loop device. */
export async function raiseLoop(tower: Tower, folder: string, uri: string): Promise<string> {
  const fuse = `${folder}/fuse`;
  mkdirSync(fuse, { recursive: true });
  const nbdfuse = start('nbdfuse', [`${fuse}/disk`, uri]);
  tower.add(async () => {
    // The kernel lets go of the loop device's file a moment after losetup has returned.
    await eventually('nbdfuse is unmounted', async () => (await run('umount', [fuse])).code === 0, 30_000);
    await nbdfuse.stop();
  });
  await eventually('nbdfuse', () => existsSync(`${fuse}/disk`), 30_000);
  const loop = (await ok('losetup', '--find', '--show', '--direct-io=on', `${fuse}/disk`)).trim();
  tower.add(() => ok('losetup', '-d', loop));
  return loop;
}

export async function mount(tower: Tower, loop: string, at: string): Promise<void> {
  mkdirSync(at, { recursive: true });
  await ok('mount', loop, at);
  tower.add(() => ok('umount', at));
}
