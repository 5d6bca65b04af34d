/**
 * The application shares its process with the guest OS. What would end an ordinary process — `process.exit`, an exception
 * that nobody catches — must end the application visibly and leave the guest OS able to answer why.
 */
import { GuestError } from '../errors.ts';

export interface ProcessShim {
  /** Runs what the application registered for a signal; false when it registered nothing. */
  signal(name: 'SIGTERM' | 'SIGINT'): boolean;
  /** Resolves when the application called process.exit. */
  readonly exited: Promise<number>;
}

export interface ProcessFace {
  readonly entry: string;
  readonly arguments: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  readonly hostname: string;
}

/** Ends the call that called process.exit; nobody is meant to catch it. */
class ApplicationExit extends GuestError {}

/** `ended` is told once why the application cannot go on. */
export function installProcessShim(face: ProcessFace, ended: (reason: string) => void): ProcessShim {
  const kept = ['PATH', 'TZ', 'LANG'];
  for (const name of Object.keys(process.env)) if (!kept.includes(name)) delete process.env[name];
  Object.assign(process.env, { HOSTNAME: face.hostname, HOME: '/', ...face.environment });
  process.argv = [process.argv[0]!, face.entry, ...face.arguments];
  process.title = `${face.hostname}: ${face.entry}`;

  const ours = {
    SIGTERM: new Set(process.listeners('SIGTERM')),
    SIGINT: new Set(process.listeners('SIGINT')),
  };
  let told = false;
  const tell = (reason: string) => {
    if (told) return;
    told = true;
    ended(reason);
  };
  let resolveExit: (code: number) => void = () => {};
  const exited = new Promise<number>((resolve) => {
    resolveExit = resolve;
  });
  const exit = (code?: number | string | null): never => {
    const status = Number(code ?? process.exitCode ?? 0);
    resolveExit(status);
    tell(`the application called process.exit(${status})`);
    throw new ApplicationExit('application-exit', `process.exit(${status})`);
  };
  process.exit = exit;
  process.abort = () => exit(134);
  process.kill = ((pid: number) => {
    if (pid === process.pid) exit(143);
    throw new GuestError('EPERM', `a partition's application cannot signal process ${pid}`);
  }) as typeof process.kill;
  process.on('uncaughtException', (error, origin) => {
    if (error instanceof ApplicationExit) return;
    const what = origin === 'unhandledRejection' ? 'unhandled rejection' : 'uncaught exception';
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    process.stderr.write(`${what}: ${text}\n`);
    tell(`${what} in the application: ${error instanceof Error ? error.message : String(error)}`);
  });
  return {
    exited,
    signal(name) {
      const theirs = process.listeners(name).filter((listener) => !ours[name].has(listener));
      for (const listener of theirs) {
        try {
          (listener as (signal: string) => void)(name);
        } catch (error) {
          if (!(error instanceof ApplicationExit))
            process.stderr.write(`${name} handler: ${String(error)}\n`);
        }
      }
      return theirs.length > 0;
    },
  };
}
