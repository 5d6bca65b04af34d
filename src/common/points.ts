/**
 * Named points: places where a test makes a process die, stop or fail, so that what happens afterwards can be looked at. A
 * process that nothing is armed in compares one variable with undefined at each of them.
 *
 * For testing recovery only. A point is armed by the environment, and only in a process that was started with the option
 * `--test-points`; without the option a process that finds such a variable refuses to start.
 *
 *   CHANGEOVER_POINT=NAME:ACTION[,NAME:ACTION]   at start; each fires once
 *   CHANGEOVER_POINT_DIRECTORY=DIRECTORY         at any time: a file NAME whose text is the action; when it fires the file
 *                                                becomes NAME.fired, once for all processes that share the folder
 *
 * An action is one or several of these, joined by `+`, done in order:
 *
 *   kill[@TARGET]        SIGKILL
 *   stop[=MS][@TARGET]   SIGSTOP, SIGCONT after MS; without MS it stays stopped
 *   throw | EIO | ENOSPC an exception, with that code
 *
 * TARGET is `mux`, `block` or a partition's id, and stands in the control process only; without one it is the process itself.
 */
import { spawn } from 'node:child_process';
import { readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { CodedError } from './errors.ts';

/** Codes: `not-for-testing`, `bad-action`, `injected`, `EIO`, `ENOSPC`. */
export class PointError extends CodedError {}

/** Pid of a target, undefined when it does not run. */
export type PointTargets = (target: string) => number | undefined;

interface Armed {
  readonly once: Map<string, string>;
  readonly directory: string | undefined;
}

const LIST = 'CHANGEOVER_POINT';
const DIRECTORY = 'CHANGEOVER_POINT_DIRECTORY';
const ACTION = /^(?:(kill|stop(?:=\d+)?)(?:@([A-Za-z0-9_-]+))?|(throw|EIO|ENOSPC))$/;

let armed: Armed | undefined;
let targets: PointTargets = () => undefined;
let watcher: ((name: string) => void) | undefined;

/** Whether any point may be armed: callers that build a name ask first. */
export function arePointsArmed(): boolean {
  return armed !== undefined || watcher !== undefined;
}

/** Calls `listener` at every point, for tests within one process; what it throws is thrown there. undefined: nobody. */
export function watchPoints(listener: ((name: string) => void) | undefined): void {
  watcher = listener;
}

/** At the start of a process. `allowed`: the option `--test-points` was given. Throws PointError `not-for-testing`, `bad-action`. */
export function armPoints(allowed: boolean, env: Readonly<Record<string, string | undefined>>): void {
  const list = env[LIST];
  const directory = env[DIRECTORY];
  if (list === undefined && directory === undefined) return;
  if (!allowed) {
    throw new PointError(
      'not-for-testing',
      `${list === undefined ? DIRECTORY : LIST} is set, but this is no test`,
      {
        remedy: 'take it out of the environment; tests of recovery give --test-points',
      },
    );
  }
  const once = new Map<string, string>();
  for (const one of (list ?? '').split(',').filter((text) => text !== '')) {
    const colon = one.indexOf(':');
    const action = one.slice(colon + 1);
    check(action);
    once.set(one.slice(0, colon), action);
  }
  armed = { once, directory };
}

/** Nothing is armed any more. */
export function disarmPoints(): void {
  armed = undefined;
}

/** Who `@TARGET` is. */
export function setPointTargets(resolve: PointTargets): void {
  targets = resolve;
}

/** What a process that this one starts needs, so that points can be armed in it, too. */
export function pointsForChild(): { args: string[]; env: Record<string, string>; directory?: string } {
  const directory = armed?.directory;
  if (directory === undefined) return { args: [], env: {} };
  return { args: ['--test-points'], env: { [DIRECTORY]: directory }, directory };
}

/** Does what was armed for this point. Throws PointError when that is an exception. */
export function reach(name: string): void {
  watcher?.(name);
  if (armed === undefined) return;
  const action = taken(armed, name);
  if (action === undefined) return;
  check(action);
  for (const part of action.split('+')) act(name, part);
}

function taken(points: Armed, name: string): string | undefined {
  const listed = points.once.get(name);
  if (listed !== undefined) {
    points.once.delete(name);
    return listed;
  }
  if (points.directory === undefined) return undefined;
  const file = join(points.directory, name);
  try {
    renameSync(file, `${file}.fired`);
    return readFileSync(`${file}.fired`, 'utf8').trim();
  } catch {
    // Not armed, or another process was faster.
    return undefined;
  }
}

function check(action: string): void {
  if (action.split('+').every((part) => ACTION.test(part))) return;
  throw new PointError('bad-action', `'${action}' is no action of a point`, {
    remedy: 'use kill, stop, stop=MS, each with or without @TARGET, throw, EIO or ENOSPC',
  });
}

function act(name: string, action: string): void {
  const [, signal, target, failure] = ACTION.exec(action) ?? [];
  if (failure !== undefined) {
    throw new PointError(failure === 'throw' ? 'injected' : failure, `${failure} was armed at point ${name}`);
  }
  const pid = target === undefined ? process.pid : targets(target);
  if (pid === undefined || signal === undefined) return;
  if (signal === 'kill') {
    send(pid, 'SIGKILL');
    return;
  }
  const forMs = Number(signal.split('=')[1] ?? 0);
  if (forMs > 0) continueLater(pid, forMs);
  send(pid, 'SIGSTOP');
}

/** In a guest the application has another one. */
const killForReal = process.kill.bind(process);

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    killForReal(pid, signal);
  } catch {
    // It has ended.
  }
}

/** By a process of its own: this one may be the one that is stopped. */
function continueLater(pid: number, forMs: number): void {
  const text = `sleep ${forMs / 1000}; kill -CONT ${pid} 2>/dev/null`;
  spawn('sh', ['-c', text], { stdio: 'ignore', detached: true }).unref();
}
