/** The control process from its first line to its last: configuration in, exit code out. */
import type { Log } from '../../common/index.ts';
import { messageOf } from '../../common/index.ts';
import type { Configuration } from '../configuration/index.ts';
import { Daemon } from './daemon.ts';

export interface ControlOptions {
  readonly configuration: Configuration;
  readonly log: Log;
  /** Everything ends when this process's stdin does. */
  readonly lifeline: boolean;
  /** Called when the API answers. */
  readonly onUp?: () => void;
}

/** A second signal while everything is taken down ends the process at once. */
const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const;

/** Runs until a signal, the end of stdin (lifeline) or POST /shutdown. Throws what kept the daemon from coming up. */
export async function runControl(options: ControlOptions): Promise<void> {
  const { configuration, log, lifeline } = options;
  let end: (keepRunning: boolean) => void = () => {};
  const ended = new Promise<boolean>((resolve) => {
    end = resolve;
  });
  let asked = false;
  const onSignal = (signal: NodeJS.Signals) => {
    if (asked) {
      log.warn(`${signal} again: ending without taking everything down`);
      process.exit(1);
    }
    asked = true;
    log.info(`${signal}: taking everything down`);
    end(false);
  };
  for (const signal of SIGNALS) process.on(signal, onSignal);
  const onEof = () => {
    log.info('stdin ended: taking everything down');
    end(false);
  };
  if (lifeline) process.stdin.once('end', onEof).once('close', onEof).resume();
  process.on('unhandledRejection', (reason) => {
    log.error('a promise was rejected and nobody looked', {
      reason: messageOf(reason),
      stack: (reason as Error)?.stack,
    });
  });
  try {
    const starting = Daemon.start(configuration, { log, lifeline, onShutdown: (keep) => end(keep) });
    const daemon = await starting;
    options.onUp?.();
    const keepRunning = await ended;
    await daemon.stop(keepRunning);
    log.info('the daemon has ended', { keepRunning });
  } finally {
    for (const signal of SIGNALS) process.off(signal, onSignal);
  }
}
